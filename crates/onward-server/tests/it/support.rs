//! Two ways to call: the router in process, and raw bytes over TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use onward::time::Clock;
use onward::{Config, Onward, retry};
use onward_server::{Drained, Limits, Metrics, Orders, Server, State, Timeouts, Token, router};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// Waits for what must come soon.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    within(Duration::from_secs(20), future).await.expect("it came in time")
}

pub(crate) async fn within<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    let clock = Clock::system();
    retry::deadline(&clock, clock.now() + time, future).await
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem of a code, with everything that a problem has.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.json();
        assert_eq!((self.status.as_u16(), problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:onward:problem:{code}"));
        assert_eq!(problem["request_id"], self.header("onward-request-id"));
        assert!(problem["request_id"].as_str().is_some_and(|id| !id.is_empty()));
        assert!(problem["retryable"].is_boolean() && problem["title"].is_string() && problem["detail"].is_string());
        assert!(matches!(problem["effect"].as_str(), Some("not_applied" | "unknown")));
        if problem["retryable"] == true {
            assert!(self.header("retry-after").parse::<u64>().is_ok_and(|seconds| (1..=60).contains(&seconds)));
        }
        problem
    }
}

/// The router in process, with a token.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) router: Router,
    pub(crate) onward: Onward,
    token: String,
}

impl Client {
    pub(crate) async fn memory() -> Self {
        Self::on("memory:").await
    }

    pub(crate) async fn on(url: &str) -> Self {
        Self::with(url, Limits::default()).await
    }

    pub(crate) async fn limited(limits: Limits) -> Self {
        Self::with("memory:", limits).await
    }

    /// A server that leaves a reader who stands still for so long.
    pub(crate) async fn impatient(stalled: Duration) -> Self {
        let metrics = Arc::new(Metrics::default());
        let onward = Onward::connect(Config::new("memory:").with_observer(metrics.clone())).await.unwrap();
        let token = Token::draw();
        let state = State::new(onward.clone(), "dev", &token, metrics).with_timeouts(Timeouts { stalled, ..Timeouts::default() });
        Self { router: router(state), onward, token: token.secret().to_owned() }
    }

    /// A store in memory that lives by this clock.
    pub(crate) async fn by_clock(clock: Clock) -> Self {
        Self::over(Config::new("memory:").with_clock(clock), Limits::default()).await
    }

    /// Calls a state of one's own.
    pub(crate) fn of(state: State, token: &Token) -> Self {
        Self { onward: state.onward().clone(), router: router(state), token: token.secret().to_owned() }
    }

    /// Another server on the same engines, called with the same token.
    pub(crate) fn replica(&self) -> Self {
        let state = State::new(self.onward.clone(), "other", &Token::draw(), Arc::default());
        Self { router: router(state), ..self.clone() }
    }

    /// The same server, called with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Makes a token and returns its id and a client that shows it.
    pub(crate) async fn token(&self, role: &str, scopes: &[&str]) -> (String, Self) {
        let asked = serde_json::json!({"name": format!("t-{role}"), "role": role, "scopes": scopes, "ttl_ms": 3_600_000});
        let made = self.post("/v1/admin/tokens", asked).await;
        assert_eq!(made.status, 201, "{:?}", made.body);
        let made = made.json();
        (made["id"].as_str().unwrap().to_owned(), self.with_token(made["token"].as_str().unwrap()))
    }

    async fn with(url: &str, limits: Limits) -> Self {
        Self::over(Config::new(url), limits).await
    }

    async fn over(config: Config, limits: Limits) -> Self {
        let metrics = Arc::new(Metrics::default());
        let onward = Onward::connect(config.with_observer(metrics.clone())).await.unwrap();
        let token = Token::draw();
        let state = State::new(onward.clone(), "dev", &token, metrics).with_limits(limits);
        Self { router: router(state), onward, token: token.secret().to_owned() }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.raw(request.body(body.into()).unwrap()).await
    }

    /// What `Authorization` has to say.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> Reply {
        let response = soon(self.router.clone().oneshot(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Puts JSON under one condition header.
    pub(crate) async fn put(&self, path: &str, condition: (&str, &str), body: &str) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json"), condition], body.to_owned()).await
    }

    /// Opens an event stream.
    pub(crate) async fn events(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let mut request = Request::builder().uri(path).header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = soon(self.router.clone().oneshot(request.body(Body::empty()).unwrap())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), text: String::new() }
    }

    /// Opens an event stream if there is a place.
    pub(crate) async fn try_events(&self, path: &str) -> Option<Events> {
        let request = Request::builder().uri(path).header("authorization", format!("Bearer {}", self.token));
        let response = soon(self.router.clone().oneshot(request.body(Body::empty()).unwrap())).await.unwrap();
        (response.status() == StatusCode::OK).then(|| Events { body: response.into_body(), text: String::new() })
    }
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

/// An open event stream.
pub(crate) struct Events {
    body: Body,
    text: String,
}

impl Events {
    /// Waits for the next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = parse(event);
                self.text = rest.to_owned();
                match event {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            let frame = soon(self.body.frame()).await?.unwrap();
            self.text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }

    /// Waits for the next event of a name.
    pub(crate) async fn next_of(&mut self, name: &str) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.name == name {
                return event;
            }
        }
    }
}

fn parse(text: &str) -> Option<Event> {
    let mut event = Event { name: String::new(), id: None, data: Value::Null };
    let mut data = Vec::new();
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("event", name)) => event.name = name.to_owned(),
            Some(("id", id)) => event.id = Some(id.parse().unwrap()),
            Some(("data", line)) => data.push(line),
            _ => {}
        }
    }
    if event.name.is_empty() {
        return None;
    }
    event.data = serde_json::from_str(&data.join("\n")).unwrap();
    Some(event)
}

/// The listener.
pub(crate) struct Live {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) onward: Onward,
    pub(crate) metrics: Arc<Metrics>,
    orders: Orders,
    task: JoinHandle<Drained>,
}

impl Live {
    pub(crate) async fn start() -> Self {
        Self::start_with(Timeouts::default()).await
    }

    pub(crate) async fn start_with(timeouts: Timeouts) -> Self {
        Self::start_as(|state| state.with_timeouts(timeouts)).await
    }

    pub(crate) async fn start_limited(limits: Limits) -> Self {
        Self::start_as(|state| state.with_limits(limits)).await
    }

    pub(crate) async fn start_as(change: impl FnOnce(State) -> State) -> Self {
        let onward = Onward::open("memory:").await.unwrap();
        let token = Token::draw();
        let metrics = Arc::new(Metrics::default());
        let state = change(State::new(onward.clone(), "dev", &token, metrics.clone()));
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), state).await.unwrap();
        let address = server.local_addr().unwrap();
        let orders = Orders::default();
        let task = tokio::spawn({
            let orders = orders.clone();
            async move { server.serve(&orders).await }
        });
        Self { address, token: token.secret().to_owned(), onward, metrics, orders, task }
    }

    /// Begins to drain.
    pub(crate) fn stop(&self) {
        self.orders.end();
    }

    pub(crate) async fn ended(self) -> Drained {
        soon(self.task).await.unwrap()
    }

    /// Waits until a metric shows a line.
    pub(crate) async fn shows(&self, line: &str) {
        let shown = async {
            while !self.metrics.text().lines().any(|shown| shown == line) {
                tokio::task::yield_now().await;
            }
        };
        soon(shown).await;
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The head of a request with a token, up to its last header.
    pub(crate) fn head(&self, line: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n", self.address, self.token)
    }

    /// Sends bytes and reads until the server closes.
    pub(crate) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        rest(&mut stream).await
    }
}

/// Reads until the server closes.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A server that refuses a body may reset what was still on its way.
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one answer with a length.
pub(crate) async fn answer(stream: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head[9..12].parse().unwrap(), body.to_owned());
            }
        }
        let mut piece = [0; 4_096];
        let read = soon(stream.read(&mut piece)).await.unwrap();
        assert!(read > 0, "closed after {text:?}");
        bytes.extend_from_slice(&piece[..read]);
    }
}
