//! How a request reaches a server: over HTTP/1.1, or by a call in this process.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use super::Problem;
use super::problem::after_send;
use crate::{Code, Effect};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(5);

const SHAPE: &str = "the URL of a server is https://HOST[:PORT] or http://HOST[:PORT]";

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
    Http { base: String, tls: Arc<ClientConfig>, pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>> },
    Local(Local),
}

impl Transport {
    pub(super) fn http(url: &str, ca_file: Option<&Path>) -> Result<Self, Problem> {
        let Ok(uri) = url.parse::<Uri>() else {
            return refuse(SHAPE);
        };
        let Some(scheme @ ("http" | "https")) = uri.scheme_str() else { return refuse(SHAPE) };
        let insecure = scheme == "http" && uri.query() == Some("insecure=true");
        let Some(authority) = uri.authority().filter(|_| matches!(uri.path(), "" | "/") && (uri.query().is_none() || insecure)) else {
            return refuse("the URL of a server is https://HOST[:PORT] or http://HOST[:PORT], without a path");
        };
        if authority.as_str().contains('@') {
            return refuse("the URL carries a password: a token comes by ONWARD_TOKEN or --token-file");
        }
        if scheme == "http" && !insecure && !is_loopback(authority.host()) {
            return refuse(
                "http:// would show the token to the network: use https://, or add ?insecure=true where something else encrypts",
            );
        }
        let roots = match (scheme, ca_file) {
            ("https", Some(path)) => roots_of_file(path)?,
            ("https", None) => roots_of_system()?,
            _ => RootCertStore::empty(),
        };
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| Problem::of(Code::Internal, Effect::NotApplied, e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = Arc::new(tls);
        Ok(Self::Http { base: format!("{scheme}://{authority}"), pool: pool(&tls), tls })
    }

    pub(super) fn apart(&self) -> Self {
        match self {
            Self::Http { base, tls, .. } => Self::Http { base: base.clone(), tls: tls.clone(), pool: pool(tls) },
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

fn pool(tls: &Arc<ClientConfig>) -> Pool<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_MAX));
    // The scheme was judged when the URL was read.
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new().with_tls_config((**tls).clone()).https_or_http().enable_http1().wrap_connector(connector);
    Pool::builder(TokioExecutor::new()).build(connector)
}

/// Trusts whom this machine trusts.
fn roots_of_system() -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return refuse("this machine has no root certificates, so https:// trusts nobody: name a file with --ca-file or ONWARD_CA_FILE");
    }
    Ok(roots)
}

/// Trusts the certificates in a PEM file, and nobody else.
fn roots_of_file(path: &Path) -> Result<RootCertStore, Problem> {
    let bad = |why: &dyn fmt::Display| {
        Problem::of(Code::InvalidRequest, Effect::NotApplied, format!("the CA file {} does not go: {why}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(path).map_err(|e| bad(&e))? {
        roots.add(cert.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    if roots.is_empty() { Err(bad(&"it holds no certificate")) } else { Ok(roots) }
}

fn refuse<T>(detail: &str) -> Result<T, Problem> {
    Err(Problem::of(Code::InvalidRequest, Effect::NotApplied, detail))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
