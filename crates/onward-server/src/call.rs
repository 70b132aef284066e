//! One request that was admitted: its parts, read strictly.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, header};
use onward::commit::Window;
use onward::model::{FencingToken, LabelChange, Labels, LockKey, RequestId, TtlChange, limits};
use onward::{Code, Onward};
use onward_api::Ttl;
use onward_api::path::{decode, percent};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::caller::Caller;
use crate::auth::scope::Part;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::state::State;
use crate::wait::within;
use crate::{body, json};

/// Longest wait of one call.
pub(crate) const WAIT_MS: u64 = 60_000;
/// Longest reason of an operator.
const REASON_BYTES: usize = 1_024;
/// How much sooner the library gives up than we do: it knows that nothing was applied, we do not.
const MARGIN: Duration = Duration::from_millis(500);

/// A request that was admitted.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) state: State,
    pub(crate) caller: Caller,
    pub(crate) parts: Parts,
    /// The id as it travels, and how long its answer is remembered.
    pub(crate) id: Arc<str>,
    pub(crate) window: Window,
    /// Tells the one who answers that the body was read.
    read: Arc<AtomicBool>,
    /// Never locked: the mutex makes a shared call sendable, which a body is not.
    body: Mutex<Body>,
    slot: Option<OwnedSemaphorePermit>,
    timeout: Duration,
}

impl Call {
    pub(crate) fn new(
        state: State,
        caller: Caller,
        id: Arc<str>,
        window: Window,
        slot: OwnedSemaphorePermit,
        read: Arc<AtomicBool>,
        request: http::Request<Body>,
    ) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let timeout = state.timeouts().request;
        let mut call = Self { state, caller, parts, id, window, read, body: Mutex::new(body), slot: Some(slot), timeout };
        if let Some(asked) = call.millis(onward_api::header::TIMEOUT_MS)? {
            if asked.is_zero() {
                return Err(Refusal::header(onward_api::header::TIMEOUT_MS, "at least 1"));
            }
            call.timeout = asked.min(timeout);
        }
        Ok(call)
    }

    /// Returns the library.
    pub(crate) fn onward(&self) -> &Onward {
        self.state.onward()
    }

    /// Tells whether only the head of the answer is wanted.
    pub(crate) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// Returns a header that may stand once.
    pub(crate) fn header(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.parts.headers.get_all(name).iter();
        let first = values.next().map(text).transpose()?;
        if values.next().is_some() { Err(Refusal::header(name, "stands twice")) } else { Ok(first) }
    }

    /// Returns a header of whole milliseconds.
    pub(crate) fn millis(&self, name: &str) -> Result<Option<Duration>, Refusal> {
        let Some(value) = self.header(name)? else { return Ok(None) };
        let millis = onward_api::number::parse(value).ok_or_else(|| Refusal::header(name, "whole milliseconds"))?;
        Ok(Some(Duration::from_millis(millis)))
    }

    /// Returns why an operator does this: it must be said.
    pub(crate) fn reason(&self) -> Result<String, Refusal> {
        let name = onward_api::header::REASON;
        let reason = self.header(name)?.ok_or_else(|| Refusal::header(name, "say why"))?;
        let reason = percent(reason).and_then(|reason| String::from_utf8(reason).ok()).filter(|reason| !reason.trim().is_empty());
        let reason = reason.filter(|reason| reason.len() <= REASON_BYTES && !reason.chars().any(char::is_control));
        reason.ok_or_else(|| Refusal::header(name, "1..=1024 bytes of percent-encoded UTF-8 without control characters"))
    }

    /// Reads the query, which may have these parameters only.
    pub(crate) fn query(&self, allowed: &[&str]) -> Result<Query, Refusal> {
        Query::read(self.parts.uri.query(), allowed)
    }

    /// Returns a parameter of the query, which is not read yet.
    pub(crate) fn raw_parameter(&self, name: &str) -> Option<String> {
        Query::first(self.parts.uri.query(), name)
    }

    /// Returns the path behind `/v1/` and the first word, such as `objects/`.
    fn tail(&self) -> &str {
        let path = self.parts.uri.path().strip_prefix("/v1/").unwrap_or_default();
        path.split_once('/').map_or("", |(_, tail)| tail)
    }

    /// Returns the segments of the path behind the first word, decoded; for routes whose parts are one segment each.
    pub(crate) fn segment(&self, index: usize) -> Result<String, Refusal> {
        self.tail().split('/').nth(index).and_then(|raw| String::from_utf8(percent(raw)?).ok()).ok_or_else(bad_path)
    }

    /// Returns the rest of the path behind the first word as one key of any bytes.
    pub(crate) fn key(&self) -> Result<Vec<u8>, Refusal> {
        decode(self.tail()).ok_or_else(bad_path)
    }

    /// Returns the rest of the path behind the first word as a word and one key of any bytes.
    pub(crate) fn word_and_key(&self) -> Result<(String, Vec<u8>), Refusal> {
        let (_, rest) = self.tail().split_once('/').ok_or_else(bad_path)?;
        let word = self.segment(0)?;
        ours(&word)?;
        Ok((word, decode(rest).ok_or_else(bad_path)?))
    }

    /// Returns the fences that the headers ask for.
    pub(crate) fn fences(&self) -> Result<Vec<(LockKey, FencingToken)>, Refusal> {
        let name = onward_api::header::FENCE;
        let read = |value: &HeaderValue| {
            let (token, key) = text(value)?.split_once(' ').ok_or_else(|| Refusal::header(name, "TOKEN LOCK-KEY"))?;
            let key = percent(key.trim_start()).and_then(|key| String::from_utf8(key).ok());
            let key = key.ok_or_else(|| Refusal::header(name, "the key is percent-encoded UTF-8"))?;
            self.caller.needs_in_scope(Part::Locks, &[key.as_bytes()])?;
            Ok((LockKey::raw(&key)?, token.parse()?))
        };
        self.parts.headers.get_all(name).iter().map(read).collect()
    }

    /// Returns what the headers say about the labels of an object.
    pub(crate) fn labels(&self) -> Result<LabelChange, Refusal> {
        let name = onward_api::header::LABEL;
        let read = |value: &HeaderValue| {
            let label = percent(text(value)?).and_then(|label| String::from_utf8(label).ok());
            let label = label.ok_or_else(|| Refusal::header(name, "percent-encoded UTF-8"))?;
            let pair = label.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Refusal::header(name, "KEY=VALUE"))
        };
        let pairs: Vec<_> = self.parts.headers.get_all(name).iter().map(read).collect::<Result<_, _>>()?;
        let said = !pairs.is_empty();
        let labels = Labels::read(pairs)?;
        match self.header(onward_api::header::LABELS)? {
            None if !said => Ok(LabelChange::Keep),
            None | Some("set") => Ok(LabelChange::Set(labels)),
            Some("merge") => Ok(LabelChange::Merge(labels)),
            Some(_) => Err(Refusal::header(onward_api::header::LABELS, "set or merge")),
        }
    }

    /// Returns what the header says about the time to live of an object.
    pub(crate) fn ttl(&self) -> Result<TtlChange, Refusal> {
        let name = onward_api::header::TTL_MS;
        let ttl: Option<Ttl> = self.header(name)?.map(str::parse).transpose().map_err(|expected| Refusal::header(name, expected))?;
        Ok(ttl.map_or(TtlChange::Keep, ttl_change))
    }

    /// Returns the request id of a commit, private to the caller's name.
    pub(crate) fn request(&self) -> Result<RequestId, Refusal> {
        Ok(RequestId::scoped(self.caller.scope(), &self.id)?)
    }

    /// Returns the id of the event that this request appends, private to the caller's name as the request id is.
    ///
    /// The same whether the caller or we made the id: who was not told the outcome sends our id back as his own.
    pub(crate) fn event_id(&self) -> String {
        match self.caller.name() {
            Some(name) => {
                let own = format!("{name}/{}", self.id);
                if own.len() <= limits::REQUEST_ID_BYTES { own } else { hex::encode(Sha256::digest(own)) }
            }
            None => self.id.to_string(),
        }
    }

    /// Reads the body.
    pub(crate) async fn bytes(&mut self, limit: usize) -> Result<Bytes, Refusal> {
        let body = self.body.get_mut().map(std::mem::take).unwrap_or_default();
        // Who sends slowly takes no place from those who could run.
        drop(self.slot.take());
        let bytes = body::read(&self.parts.headers, body, limit, self.state.timeouts().body).await?;
        self.read.store(true, Ordering::Relaxed);
        self.slot = Some(self.state.request_slot()?);
        Ok(bytes)
    }

    /// Reads the body as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, Refusal> {
        let essence = self.header(header::CONTENT_TYPE.as_str())?.map(|value| value.split(';').next().unwrap_or_default().trim());
        if essence.is_some_and(|essence| !essence.eq_ignore_ascii_case("application/json")) {
            return Err(Refusal::new(Code::UnsupportedMediaType, "send the body as application/json").closing());
        }
        let bytes = self.bytes(limit).await?;
        json::read(&bytes)
    }

    /// How long the library may keep a write in its queue.
    pub(crate) fn queue_time(&self) -> Duration {
        self.timeout.saturating_sub(MARGIN).max(self.timeout / 2).max(limits::WAIT_MIN)
    }

    /// Ends a read at the deadline.
    ///
    /// Boxed at once, here and below: each `async fn` that a future is handed through keeps room for it twice, and a request would be tens of
    /// kilobytes to move.
    pub(crate) fn reading<T>(&self, read: impl Future<Output = onward::Result<T>>) -> impl Future<Output = Result<T, Refusal>> {
        let read = within(self.timeout, Box::pin(read));
        async move { Ok(read.await.ok_or_else(|| Refusal::new(Code::DeadlineExceeded, "the deadline passed"))??) }
    }

    /// Ends a write at the deadline: whether it was applied is not known then.
    pub(crate) fn writing<T>(&self, write: impl Future<Output = onward::Result<T>>) -> impl Future<Output = Result<T, Refusal>> {
        let write = within(self.timeout, Box::pin(write));
        async move { Ok(write.await.ok_or_else(Refusal::unknown)??) }
    }

    /// Gives up the place among the running requests for one among those that wait.
    pub(crate) fn begin_wait(&mut self) -> Result<(), Refusal> {
        self.slot = Some(self.state.wait_slot()?);
        Ok(())
    }

    /// Ends a waiting call at its wait and the deadline, or when the server drains.
    pub(crate) fn waiting<T>(
        &self,
        wait: Duration,
        late: impl FnOnce() -> Refusal,
        call: impl Future<Output = onward::Result<T>>,
    ) -> impl Future<Output = Result<T, Refusal>> {
        let call = within(wait + self.timeout, Box::pin(call));
        async move {
            tokio::select! {
                biased;
                done = call => Ok(done.ok_or_else(late)??),
                () = self.state.draining().cancelled() => Err(Refusal::new(Code::Draining, "the server shuts down")),
            }
        }
    }
}

/// What a time to live on the wire asks for.
pub(crate) fn ttl_change(ttl: Ttl) -> TtlChange {
    match ttl {
        Ttl::Millis(millis) => TtlChange::Set(Duration::from_millis(millis)),
        Ttl::Never => TtlChange::Never,
    }
}

/// Reads a header value: printable ASCII.
fn text(value: &HeaderValue) -> Result<&str, Refusal> {
    value.to_str().map_err(|_| Refusal::new(Code::InvalidRequest, "headers are printable ASCII; percent-encode the rest"))
}

/// Refuses a name that is ours.
pub(crate) fn ours(word: &str) -> Result<(), Refusal> {
    if word.starts_with("onward.") { Err(Refusal::new(Code::Forbidden, "names that start with onward. are reserved")) } else { Ok(()) }
}

pub(crate) fn bad_path() -> Refusal {
    Refusal::new(
        Code::InvalidKey,
        "the path is percent-encoded UTF-8 without empty, . or .. segments; any key travels as ~ and its base64url",
    )
}
