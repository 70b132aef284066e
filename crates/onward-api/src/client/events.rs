//! Server-sent events, read as they arrive.

use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt as _;

use super::{Body, Problem, within};
use crate::{Code, Effect};

/// How long a stream may be silent: the server sends a comment each 15 s.
pub const IDLE_MAX: Duration = Duration::from_secs(45);

/// The longest event, in bytes.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What it is called; `message` if the server gave no name.
    pub name: String,
    /// The position to resume after, if this event has one.
    pub id: Option<String>,
    /// The data, lines joined.
    pub data: String,
    /// How long to wait before connecting again.
    pub retry: Option<Duration>,
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    body: Body,
    buffer: BytesMut,
}

impl Events {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// Waits for the next event; `None` when the server ended the stream.
    ///
    /// # Errors
    /// [`Code::Unavailable`]: the connection broke or fell silent; connect again after the last id.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, Problem> {
        let cut = |why: &str| Problem::of(Code::Unavailable, Effect::NotApplied, format!("the stream was cut: {why}"));
        loop {
            while let Some(block) = self.block() {
                if let Some(event) = parse(&block) {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                return Err(cut("an event is too long"));
            }
            match within(IDLE_MAX, self.body.frame()).await {
                None => return Err(cut("the server fell silent")),
                Some(None) => return Ok(None),
                Some(Some(Err(e))) => return Err(cut(&e.to_string())),
                Some(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend(data.iter().filter(|b| **b != b'\r'));
                    }
                }
            }
        }
    }

    /// Takes the text up to the next empty line.
    fn block(&mut self) -> Option<String> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block = self.buffer.split_to(end + 2);
        Some(String::from_utf8_lossy(&block).into_owned())
    }
}

/// Reads one block of lines; `None` for comments only.
fn parse(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    let mut any = false;
    for line in block.lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        any = true;
        match name {
            "event" => value.clone_into(&mut event.name),
            "id" => event.id = Some(value.to_owned()),
            "data" => data.push(value),
            "retry" => event.retry = value.parse().ok().map(Duration::from_millis),
            _ => {}
        }
    }
    if event.name.is_empty() {
        "message".clone_into(&mut event.name);
    }
    event.data = data.join("\n");
    any.then_some(event)
}
