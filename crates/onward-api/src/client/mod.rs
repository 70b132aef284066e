//! A thin HTTP/JSON client without rules: requests out, answers and problems in.
//!
//! It owns transport, deadlines and what a failure says about the effect (C6): a connection that was refused means that nothing
//! was applied, one that broke after the first byte means that nobody knows. It never repeats a request by itself.
//!
//! Two transports, one code path: HTTP/1.1 to a URL, with TLS or to loopback, or a service in this process (a server's router over an engine).

mod download;
mod events;
mod problem;
mod request;
mod transport;

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;

use crate::{Code, Effect};

pub use download::Download;
pub use events::{Event, Events, IDLE_MAX};
pub use problem::Problem;
pub use request::{Request, header_text, segment};
pub use transport::{Body, BoxError, Local};

use transport::Transport;

/// The longest answer that is read whole, in bytes.
pub const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How much longer than the server the client waits at most, so that the server's own word on the effect comes first.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the client waits for an answer that the server owes within `timeout`.
fn patience(timeout: Duration) -> Duration {
    timeout.saturating_add(timeout.min(PATIENCE))
}

/// Sends requests to one server. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Transport,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

/// A successful answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Answer {
    /// Returns a header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads the body as JSON.
    ///
    /// # Errors
    /// [`Code::Internal`] with an unknown effect: the body is not what the API promises.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Problem::of(Code::Internal, Effect::Unknown, format!("the answer cannot be read: {e}")))
    }
}

impl Client {
    /// Makes a client of the server at `url`, over `https://` with the roots that this machine trusts; connects with the first request.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]: not `https://HOST[:PORT]` or `http://HOST[:PORT]`; `http://` to a host that is not loopback, without
    /// `?insecure=true`; a password in the URL; no roots; or a token that is not visible ASCII.
    pub fn connect(url: &str, token: Option<&str>) -> Result<Self, Problem> {
        Self::over(Transport::http(url, None)?, token)
    }

    /// Makes a client that trusts the certificates in a PEM file, and no others.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Code::InvalidRequest`]: the file cannot be read or holds no certificate.
    pub fn connect_trusting(url: &str, token: Option<&str>, ca_file: &Path) -> Result<Self, Problem> {
        Self::over(Transport::http(url, Some(ca_file))?, token)
    }

    fn over(transport: Transport, token: Option<&str>) -> Result<Self, Problem> {
        Ok(Self { transport, authorization: bearer(token)?, timeout: Duration::from_secs(10) })
    }

    /// Makes a client of a service in this process.
    ///
    /// # Errors
    /// [`Code::InvalidRequest`]: the token is not visible ASCII.
    pub fn local(service: Local, token: Option<&str>) -> Result<Self, Problem> {
        Self::over(Transport::Local(service), token)
    }

    /// Sets how long a request may take that says nothing else.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns how long a request may take that says nothing else.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns a client of the same server with connections of its own, such as for renewals.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { transport: self.transport.apart(), ..self.clone() }
    }

    /// Tells whether requests stay in this process.
    pub fn is_local(&self) -> bool {
        matches!(self.transport, Transport::Local(_))
    }

    /// Sends a request and reads the answer, if it is a success.
    ///
    /// # Errors
    /// What the server answered, or what kept it from answering.
    ///
    /// # Cancel safety
    /// Dropping the future of a write after its first poll leaves an unknown effect.
    pub async fn call(&self, request: Request) -> Result<Answer, Problem> {
        let (write, timeout) = (request.is_write(), request.timeout.unwrap_or(self.timeout));
        let late = || {
            let code = if write { Code::OutcomeUnknown } else { Code::DeadlineExceeded };
            Problem::of(code, problem::after_send(write), "the server did not answer in time")
        };
        within(patience(timeout), async {
            let (head, body) = self.exchange(request, timeout).await?.into_parts();
            let body = read(body, write).await?;
            let answer = Answer { status: head.status, headers: head.headers, body };
            if answer.status.is_success() { Ok(answer) } else { Err(Problem::read(answer, write)) }
        })
        .await
        .unwrap_or_else(|| Err(late()))
    }

    /// Sends a request and reads the answer as server-sent events.
    ///
    /// The request's time covers the head only; a stream then lasts until one side ends it.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn stream(&self, request: Request) -> Result<Events, Problem> {
        let timeout = request.timeout.unwrap_or(self.timeout);
        let request = request.header("accept", "text/event-stream").untimed();
        let late = || Problem::of(Code::DeadlineExceeded, Effect::NotApplied, "the server did not answer in time");
        within(patience(timeout), async {
            let (head, body) = self.exchange(request, timeout).await?.into_parts();
            if head.status.is_success() {
                return Ok(Events::new(body));
            }
            let body = read(body, false).await?;
            Err(Problem::read(Answer { status: head.status, headers: head.headers, body }, false))
        })
        .await
        .unwrap_or_else(|| Err(late()))
    }

    /// Sends a request and reads the answer piece by piece.
    ///
    /// The request's time covers the head only, unless `begin` gives it more; then each piece has [`IDLE_MAX`].
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn download(&self, request: Request, begin: Duration) -> Result<Download, Problem> {
        let timeout = request.timeout.unwrap_or(self.timeout);
        let late = || Problem::of(Code::DeadlineExceeded, Effect::NotApplied, "the server did not answer in time");
        within(patience(timeout.max(begin)), async {
            let (head, body) = self.exchange(request.untimed(), timeout).await?.into_parts();
            if head.status.is_success() {
                return Ok(Download::new(head.headers, body));
            }
            let body = read(body, false).await?;
            Err(Problem::read(Answer { status: head.status, headers: head.headers, body }, false))
        })
        .await
        .unwrap_or_else(|| Err(late()))
    }

    async fn exchange(&self, request: Request, timeout: Duration) -> Result<http::Response<Body>, Problem> {
        let write = request.is_write();
        let request = request.build(self.transport.base(), self.authorization.as_ref(), timeout)?;
        self.transport.send(request, write).await
    }
}

async fn read(mut body: Body, write: bool) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| transport::broken(write, &*e))?;
        if let Ok(data) = frame.into_data() {
            if whole.len().saturating_add(data.len()) > ANSWER_BYTES_MAX {
                return Err(Problem::of(Code::Internal, problem::after_send(write), "the answer is too long to read"));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

fn bearer(token: Option<&str>) -> Result<Option<HeaderValue>, Problem> {
    let Some(token) = token else { return Ok(None) };
    let malformed = |_| Problem::of(Code::InvalidRequest, Effect::NotApplied, "the token is not visible ASCII text");
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(malformed)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Waits for `future` at most for `time`.
#[allow(clippy::disallowed_methods, reason = "the client's one timer; the library's retry module lies above this crate")]
async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}

#[cfg(test)]
mod tests;
