//! How requests reach an S3-like store: HTTP/1.1 over rustls with ring, as everywhere in this library; every wait has a bound.
//!
//! What a store answers to a refused request may quote the request, its session token too. So of the body of a refusal only the error's
//! code goes on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::TokioExecutor;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use crate::retry;
use crate::time::Clock;
use crate::{Error, Result};

/// How long a connection may take to come up, unless less is said.
const CONNECT: Duration = Duration::from_secs(5);
/// From a request to the head of its answer; a part of a file has this long to get there.
const ANSWER: Duration = Duration::from_secs(60);
/// How long an answer may stand still.
const SILENCE: Duration = Duration::from_secs(30);
/// Most of a refusal that is read.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Makes connections for the store's client.
pub(super) struct Connector {
    tls: Arc<ClientConfig>,
    /// Whether the system has certificates to trust.
    trusts: bool,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    pub(super) fn new() -> Result<Self> {
        let mut roots = RootCertStore::empty();
        // What the system cannot read of its own store is not trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let trusts = !roots.is_empty();
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| Error::unsupported("this build cannot encrypt").with_source(e))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), trusts })
    }

    /// Tells whether `https://` can lead anywhere.
    pub(super) fn trusts(&self) -> bool {
        self.trusts
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|allowed| allowed == "true");
        let mut tcp = Tcp::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config((*self.tls).clone());
        let connector = if plain { connector.https_or_http() } else { connector.https_only() };
        let pool = Pool::builder(TokioExecutor::new()).build(connector.enable_http1().wrap_connector(tcp));
        Ok(HttpClient::new(Transport(pool)))
    }
}

struct Transport(Pool<HttpsConnector<Tcp>, HttpRequestBody>);

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl HttpService for Transport {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> BoxFuture<'b, std::result::Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let clock = Clock::system();
            let answered = retry::deadline(&clock, clock.now() + ANSWER, self.0.request(request)).await;
            let response = answered.ok_or_else(late)?.map_err(|error| {
                // Both are sent again. That may be done: a name is written once, by its only writer, and what it holds is read.
                let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
                HttpError::new(kind, error)
            })?;
            let (head, body) = response.into_parts();
            let body = HttpResponseBody::new(Patient { body, over: silence() });
            if head.status.is_success() || head.status.is_redirection() {
                return Ok(HttpResponse::from_parts(head, body));
            }
            let refusal = Limited::new(body, REFUSAL_BYTES).collect().await;
            let code = refusal.map(|body| code(&body.to_bytes())).unwrap_or_default();
            Ok(HttpResponse::from_parts(head, code.into()))
        })
    }
}

fn late() -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, std::io::Error::new(std::io::ErrorKind::TimedOut, "the store does not answer"))
}

/// Returns the code in an error document of S3, such as `AccessDenied`.
fn code(document: &[u8]) -> String {
    let text = String::from_utf8_lossy(document);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map_or("", |(code, _)| code);
    let fits = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if fits { code.to_owned() } else { String::new() }
}

type Over = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

fn silence() -> Over {
    Box::pin(async {
        let clock = Clock::system();
        retry::sleep(&clock, SILENCE).await;
    })
}

/// A body that may not stand still.
struct Patient {
    body: Incoming,
    over: Over,
}

impl Body for Patient {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::result::Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.over = silence();
                Poll::Ready(frame.map(|frame| frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))))
            }
            Poll::Pending => self.over.as_mut().poll(cx).map(|()| Some(Err(late()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn of_a_refusal_only_its_code_goes_on() {
        let quoted = b"<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>x-amz-security-token:hush</CanonicalRequest></Error>";
        assert_eq!(code(quoted), "SignatureDoesNotMatch");
        for other in [&b"<Code>not a code</Code>"[..], b"<Code>", b"\xff", b""] {
            assert_eq!(code(other), "");
        }
    }
}
