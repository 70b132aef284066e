//! Streams that outlive their connection: resumed after the last id, never skipping, within a bound.

use std::time::Duration;

use onward::time::Clock;
use onward_api::client::{Client, Event, Events, Problem, Request};
use onward_api::{Code, Effect};
use serde_json::Value;

use crate::failure::Result;
use crate::output::Out;
use crate::wait;

/// How long a lost server is looked for.
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// The pause between two looks.
const SEARCH_PAUSE: Duration = Duration::from_millis(250);

/// A stream that reconnects.
#[derive(Debug)]
pub(crate) struct Follow {
    client: Client,
    /// What to ask without a position of our own.
    request: Request,
    /// What names the position's epoch, if the stream has one.
    epoch: Option<String>,
    last_id: Option<String>,
    events: Events,
    clock: Clock,
}

impl Follow {
    /// Connects; a server that cannot be reached at first is a failure.
    pub(crate) async fn connect(client: &Client, request: Request) -> Result<Self> {
        let client = client.apart();
        let events = client.stream(request.clone()).await?;
        Ok(Self { client, request, epoch: None, last_id: None, events, clock: Clock::system() })
    }

    /// Waits for the next event that carries something.
    ///
    /// # Errors
    /// The position is gone (`cursor_compacted`: list again), the credential is, or the server stayed away.
    pub(crate) async fn next(&mut self, out: &Out) -> Result<Event> {
        loop {
            match self.events.next().await {
                Ok(Some(event)) if event.name == "bye" => self.bye(&event, out).await?,
                Ok(Some(event)) if event.name == "open" => {
                    let open: Value = serde_json::from_str(&event.data).unwrap_or_default();
                    self.epoch = open.get("epoch").and_then(Value::as_str).map(str::to_owned).or(self.epoch.take());
                    match open.get("revision") {
                        Some(revision) => out.say(format_args!("following from revision {revision}")),
                        None => out.say(format_args!("following")),
                    }
                }
                Ok(Some(event)) => {
                    if event.id.is_some() {
                        self.last_id.clone_from(&event.id);
                    }
                    return Ok(event);
                }
                Ok(None) => self.again(SEARCH_PAUSE, out).await?,
                Err(problem) => {
                    out.detail(format_args!("{problem}"));
                    self.again(SEARCH_PAUSE, out).await?;
                }
            }
        }
    }

    async fn bye(&mut self, event: &Event, out: &Out) -> Result<()> {
        let bye: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let end = |code, detail: &str| Err(Problem::of(code, Effect::NotApplied, detail).into());
        match bye.get("reason").and_then(Value::as_str).unwrap_or_default() {
            "compacted" => end(Code::CursorCompacted, "the position is not kept any more: list again, then follow from there"),
            "revoked" => end(Code::Unauthenticated, "the token is not valid any more"),
            _ => self.again(event.retry.unwrap_or(SEARCH_PAUSE), out).await,
        }
    }

    /// Connects again after the last id.
    async fn again(&mut self, pause: Duration, out: &Out) -> Result<()> {
        let give_up = self.clock.now() + SEARCH_MAX;
        let mut pause = pause.min(SEARCH_MAX);
        loop {
            wait::pause(&self.clock, pause).await;
            let mut request = self.request.clone();
            if let Some(id) = &self.last_id {
                request = request.header("last-event-id", id).maybe_query("epoch", self.epoch.as_deref());
            }
            match self.client.stream(request).await {
                Ok(events) => {
                    out.detail(format_args!("connected again"));
                    self.events = events;
                    return Ok(());
                }
                Err(problem) if problem.code().retryable() && self.clock.now() < give_up => out.detail(format_args!("{problem}")),
                Err(problem) => return Err(problem.into()),
            }
            pause = SEARCH_PAUSE;
        }
    }
}
