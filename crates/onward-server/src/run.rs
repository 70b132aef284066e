//! What happens around every operation: admission, panics, the request id, metrics, the log.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use onward::commit::Window;
use onward::model::RequestId;
use onward::time::Clock;
use onward::{Code, Effect, Error, random};

use crate::auth::admit::admit;
use crate::auth::caller::Caller;
use crate::auth::{Begun, Least};
use crate::body;
use crate::call::Call;
use crate::log::{self, About};
use crate::refusal::{Answer, Refusal};
use crate::state::{Hosts, State};

/// Longest path with its query.
const URI_BYTES: usize = 8 << 10;

/// Longest body that is read past, and how long that may take: a refusal is told within 50 ms.
const SPARED_BYTES: u64 = 256 << 10;
const SPARED_TIME: Duration = Duration::from_millis(20);

/// Largest state of an operation: each request moves it into a box.
const STATE_BYTES: usize = 4 << 10;

/// Where a request arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// The path of the route.
    pub(crate) route: &'static str,
    /// Who may use it at least.
    pub(crate) least: Least,
    /// The operation, as the table names it.
    pub(crate) operation: &'static str,
}

/// Runs one operation.
pub(crate) async fn run<F, Fut>(state: State, request: Request, at: At, op: F) -> Response
where
    F: FnOnce(Call) -> Fut,
    Fut: Future<Output = Answer>,
{
    const { assert!(size_of::<Fut>() <= STATE_BYTES, "box what this operation awaits") };
    let At { route, least, operation } = at;
    let clock = Clock::system();
    let began = clock.now();
    let method = request.method().clone();
    let trace = trace_id(request.headers()).map(str::to_owned);
    let mut who = Caller::Anyone;
    let writes = !matches!(method, Method::GET | Method::HEAD);
    let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let (mut id, mut window): (Option<Arc<str>>, _) = (None, Window::Own);
    let answer = async {
        if writes {
            let given = given_id(request.headers())?;
            window = if given.is_some() { Window::Caller } else { Window::Own };
            id = Some(given.unwrap_or_else(new_id).into());
        }
        check_head(&state, &request)?;
        let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let caller = match least {
            Least::Open => Caller::Anyone,
            Least::Role(role) => {
                who = match state.caller(authorization).await {
                    Err(late) if late.problem.code == Code::RateLimited => return Err(spared(late, request, &read).await),
                    caller => caller?,
                };
                who.needs(role)?;
                who.clone()
            }
        };
        let slot = match state.request_slot() {
            Ok(slot) => slot,
            Err(full) if matches!(caller, Caller::Anyone) => return Err(full),
            Err(full) => return Err(spared(full, request, &read).await),
        };
        let call = Call::new(state.clone(), caller, id.clone().unwrap_or_default(), window, slot, read.clone(), request)?;
        admit(&call, route)?;
        let begun = Begun::write(&call, least, route, operation).await?;
        let answer = caught(Box::pin(op(call))).await.unwrap_or_else(|panic| {
            state.metrics().panicked();
            Err(after_panic(&*panic, writes))
        });
        if let Some(begun) = begun {
            begun.ended(&answer).await;
        }
        answer
    }
    .await;
    let took = clock.now().since(began);
    let about = About {
        trace_id: trace.as_deref(),
        token_id: who.name(),
        method: Some(method.as_str()),
        route: Some(route),
        ms: Some((took.as_secs_f64() * 1e6).round() / 1e3),
        ..About::default()
    };
    let mut effect = None;
    let mut response = match answer {
        Ok(response) => response,
        Err(refusal) => {
            state.acts().refused(state.onward(), &who, &method, route, &refusal).await;
            let id = id.get_or_insert_with(|| new_id().into()).clone();
            effect = Some(refusal.problem.effect);
            // Bounds that are kept are no failures. Who calls from this very process is told, and has no log.
            let bound = matches!(refusal.problem.code, Code::Unsupported | Code::Overloaded | Code::Draining | Code::LockingOff);
            if refusal.problem.status >= 500 && !bound && !state.is_embedded() {
                log::failed(About { request_id: Some(&id), status: Some(refusal.problem.status), ..about }, &refusal);
            }
            refusal.into_response(&id)
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(id) = id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert(HeaderName::from_static(onward_api::header::REQUEST_ID), id);
    }
    if !read.load(Ordering::Relaxed) {
        closes(&mut response);
    }
    if !state.is_embedded() {
        log::answered(About { request_id: id.as_deref(), status: Some(response.status().as_u16()), effect, ..about });
    }
    state.metrics().request(&method, route, response.status(), took);
    response
}

/// Reads past the body of a known caller who may come back soon, if it is short and all but there: to connect anew would cost both sides more.
async fn spared(refusal: Refusal, request: Request, read: &AtomicBool) -> Refusal {
    // Who asks before he sends is spared his body, too.
    if !read.load(Ordering::Relaxed) && !request.headers().contains_key(header::EXPECT) {
        read.store(body::pass(request.into_body(), SPARED_BYTES, SPARED_TIME).await, Ordering::Relaxed);
    }
    refusal
}

/// Says that the connection ends here: a body that nobody read still stands on it, and a client that sent more would be cut off unwarned.
pub(crate) fn closes(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Draws a request id.
pub(crate) fn new_id() -> String {
    random::uuid_v7(&Clock::system()).to_string()
}

fn given_id(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let name = onward_api::header::IDEMPOTENCY_KEY;
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::header(name, "stands twice"));
    }
    let text = first.to_str().map_err(|_| Refusal::header(name, "1..=128 visible ASCII characters"))?;
    Ok(Some(RequestId::new(text)?.to_string()))
}

/// Returns the trace that the caller's `traceparent` names, as W3C Trace Context spells it.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut fields = text.split('-');
    let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let shaped = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (shaped && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

fn check_head(state: &State, request: &Request) -> Result<(), Refusal> {
    let uri = request.uri();
    if uri.path_and_query().map_or(0, |text| text.as_str().len()) > URI_BYTES {
        let mut refusal = Refusal::new(Code::UriTooLong, "path and query are at most 8192 bytes").closing();
        refusal.problem.limit_bytes = Some(URI_BYTES as u64);
        return Err(refusal);
    }
    if request.headers().values().any(|value| value.to_str().is_err()) {
        return Err(Refusal::new(Code::InvalidRequest, "headers are printable ASCII; percent-encode the rest"));
    }
    if let Some(known) = state.hosts() {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(Refusal::header("host", "stands exactly once").closing());
        };
        let name = host_name(host.to_str().unwrap_or_default());
        let ours = match known {
            Hosts::Any => true,
            Hosts::Loopback => is_loopback(name),
            Hosts::Named(names) => names.iter().any(|known| known.eq_ignore_ascii_case(name)),
        };
        if !ours {
            return Err(Refusal::new(Code::Misdirected, "this server does not answer for that host").closing());
        }
    }
    Ok(())
}

/// Returns a `Host` without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Tells whether a name is this machine's loopback. A web page that rebinds its own name to 127.0.0.1 does not have it.
fn is_loopback(name: &str) -> bool {
    matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost")
}

fn after_panic(panic: &(dyn Any + Send), writes: bool) -> Refusal {
    // The text of a panic may hold anything: it is not shown.
    let _ = panic;
    let mut error = Error::new(onward::Kind::Backend, Code::Internal, "something of ours is broken");
    if writes {
        error = error.with_unknown_effect();
    }
    debug_assert_eq!(error.effect() == Effect::Unknown, writes);
    error.into()
}

/// Catches a panic in a future.
async fn caught<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_hosts_are_ours() {
        for host in ["localhost", "LOCALHOST:7337", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:7337"] {
            assert!(is_loopback(host_name(host)), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:7337", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1:", "localhost:a"]
        {
            assert!(!is_loopback(host_name(host)), "{host}");
        }
    }

    #[test]
    fn a_trace_is_taken_from_a_well_formed_parent_only() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("traceparent"), HeaderValue::from_str(text).unwrap())]);
            trace_id(&headers).map(str::to_owned)
        };
        assert_eq!(of(&format!("00-{trace}-00f067aa0ba902b7-01")).as_deref(), Some(trace));
        for bad in ["", "00", "00-x-y-z", &format!("ff-{trace}-00f067aa0ba902b7-01"), &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32))]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_caught() {
        assert!(caught(async { panic!("x") }).await.is_err());
        assert_eq!(caught(async { 7 }).await.unwrap(), 7);
    }
}
