//! How a request reaches a server: over HTTP/1.1, or by a call in this process.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use super::Problem;
use super::problem::after_send;
use crate::{Code, Effect};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// An error of a transport.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer as it arrives.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A service in this process.
#[derive(Clone)]
pub struct Local(BoxCloneSyncService<http::Request<Full<Bytes>>, http::Response<Body>, BoxError>);

impl Local {
    /// Takes a service, such as a server's router.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<http::Request<Full<Bytes>>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service.map_response(|response: http::Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync()));
        Self(BoxCloneSyncService::new(service.map_err(Into::into)))
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

#[derive(Clone, Debug)]
pub(super) enum Transport {
    Http { base: String, pool: Pool<HttpConnector, Full<Bytes>> },
    Local(Local),
}

impl Transport {
    pub(super) fn http(url: &str) -> Result<Self, Problem> {
        let refuse = |code, detail: &str| Err(Problem::of(code, Effect::NotApplied, detail));
        let Ok(uri) = url.parse::<Uri>() else {
            return refuse(Code::InvalidRequest, "the URL of a server is http://HOST[:PORT]");
        };
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return refuse(Code::Unsupported, "https:// is not built yet: this client speaks http:// to its own machine"),
            _ => return refuse(Code::InvalidRequest, "the URL of a server is http://HOST[:PORT]"),
        }
        let Some(authority) = uri.authority().filter(|_| matches!(uri.path(), "" | "/") && uri.query().is_none()) else {
            return refuse(Code::InvalidRequest, "the URL of a server is http://HOST[:PORT], without a path");
        };
        if authority.as_str().contains('@') {
            return refuse(Code::InvalidRequest, "the URL carries a password: a token comes by ONWARD_TOKEN or --token-file");
        }
        if !is_loopback(authority.host()) {
            return refuse(Code::InvalidRequest, "http:// would show the token to the network: it goes to loopback only");
        }
        Ok(Self::Http { base: format!("http://{authority}"), pool: pool() })
    }

    pub(super) fn apart(&self) -> Self {
        match self {
            Self::Http { base, .. } => Self::Http { base: base.clone(), pool: pool() },
            Self::Local(service) => Self::Local(service.clone()),
        }
    }

    pub(super) fn base(&self) -> &str {
        match self {
            Self::Http { base, .. } => base,
            Self::Local(_) => "",
        }
    }

    pub(super) async fn send(&self, mut request: http::Request<Full<Bytes>>, write: bool) -> Result<http::Response<Body>, Problem> {
        match self {
            Self::Http { pool, .. } => match pool.request(request).await {
                Ok(response) => Ok(response.map(|body| body.map_err(Into::into).boxed_unsync())),
                Err(e) if e.is_connect() => {
                    let detail = format!("the server cannot be reached: {}", root(&e));
                    Err(Problem::of(Code::Unavailable, Effect::NotApplied, detail))
                }
                Err(e) => Err(broken(write, &e)),
            },
            Self::Local(Local(service)) => {
                request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
                service.clone().oneshot(request).await.map_err(|e| broken(write, &*e))
            }
        }
    }
}

/// The connection broke after the first byte: of a write nobody knows whether it happened.
pub(super) fn broken(write: bool, error: &(dyn std::error::Error + 'static)) -> Problem {
    let code = if write { Code::OutcomeUnknown } else { Code::Unavailable };
    Problem::of(code, after_send(write), format!("the connection broke before the answer: {}", root(error)))
}

/// Returns the innermost cause: the outer ones only say that something failed.
fn root<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut error = error;
    while let Some(inner) = error.source() {
        error = inner;
    }
    error
}

fn pool() -> Pool<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_MAX));
    Pool::builder(TokioExecutor::new()).build(connector)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
