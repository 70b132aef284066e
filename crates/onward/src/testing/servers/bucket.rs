//! A bucket in this process: as much of S3 as archives use, and a way to spoil it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Who may use the bucket, and two secrets that must never be shown.
const KEY: (&str, &str, &str) = ("AKIDONWARD", "hush-secret-key", "hush-session-token");
/// A list tells of so many files at a time.
const PAGE: usize = 2;

/// What a bucket does wrong.
#[derive(Clone, Debug, Default)]
pub struct Spoilt {
    /// It writes over what is there, whatever the condition says.
    pub ignores_conditions: bool,
    /// It keeps what so many next writes bring, and says that it failed.
    pub fails_after_keeping: usize,
    /// It refuses everything, and quotes the request.
    pub refuses: bool,
    /// It answers 503 to everything.
    pub is_away: bool,
    /// It takes a request and never answers.
    pub is_silent: bool,
}

#[derive(Debug, Default)]
struct Shared {
    files: Mutex<BTreeMap<String, Bytes>>,
    uploads: Mutex<BTreeMap<String, BTreeMap<usize, Bytes>>>,
    spoilt: Mutex<Spoilt>,
    requests: Mutex<Vec<String>>,
}

/// A bucket on a loopback port; dropping it ends it.
#[derive(Debug)]
pub struct Bucket {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Bucket {
    /// Starts an empty bucket.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = Arc::clone(&shared);
                    let service = service_fn(move |request| serve(Arc::clone(&shared), request));
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            }
        });
        Self { address, shared, task }
    }

    /// Returns the URL of an archive in it.
    pub fn url(&self) -> String {
        format!("s3://onward/audit/eu?endpoint=http://{}&insecure=true", self.address)
    }

    /// Returns the variables of who may use it.
    pub fn environment() -> [(String, String); 4] {
        let (id, secret, token) = KEY;
        [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_SESSION_TOKEN", token), ("AWS_REGION", "eu-test-1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    /// Tells whether a text shows one of the secrets.
    pub fn shows_secrets(text: &str) -> bool {
        text.contains("hush")
    }

    /// Spoils it from now on.
    pub fn spoil(&self, spoilt: Spoilt) {
        *self.shared.spoilt.lock() = spoilt;
    }

    /// Returns the files by their names, without the prefix of the archive.
    pub fn files(&self) -> BTreeMap<String, Bytes> {
        let files = self.shared.files.lock();
        files.iter().map(|(name, bytes)| (name.strip_prefix("audit/eu/").unwrap_or(name).to_owned(), bytes.clone())).collect()
    }

    /// Puts a file there past every rule, or takes it away.
    pub fn set(&self, name: &str, bytes: Option<Bytes>) {
        let (name, mut files) = (format!("audit/eu/{name}"), self.shared.files.lock());
        match bytes {
            Some(bytes) => drop(files.insert(name, bytes)),
            None => drop(files.remove(&name)),
        }
    }

    /// Returns how many uploads in parts were begun and neither ended nor given up.
    pub fn open_uploads(&self) -> usize {
        self.shared.uploads.lock().len()
    }

    /// Returns the requests since the last call, each as `METHOD name` with a mark where it was conditional.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock())
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if shared.spoilt.lock().is_silent {
        std::future::pending::<()>().await;
    }
    Ok(shared.answer(&head, body))
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

fn refusal(status: StatusCode, code: &str, quoted: &str) -> Response<Full<Bytes>> {
    plain(status, format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message><Quoted>{quoted}</Quoted></Error>"))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Tells whether a request has the signature of who may use the bucket (AWS Signature Version 4), over what has come here.
fn is_signed(head: &Parts) -> Option<bool> {
    let header = |name: &str| head.headers.get(name)?.to_str().ok();
    let (_, rest) = header("authorization")?.split_once(&format!("Credential={}/", KEY.0))?;
    let (scope, rest) = rest.split_once(", SignedHeaders=")?;
    let (names, signature) = rest.split_once(", Signature=")?;
    let headers: String = names.split(';').map(|name| Some(format!("{name}:{}\n", header(name)?))).collect::<Option<_>>()?;
    let mut pairs: Vec<String> = head.uri.query().map(|query| query.split('&').map(str::to_owned).collect()).unwrap_or_default();
    pairs.iter_mut().filter(|pair| !pair.contains('=')).for_each(|pair| pair.push('='));
    pairs.sort();
    let hash = header("x-amz-content-sha256")?;
    let request = format!("{}\n{}\n{}\n{headers}\n{names}\n{hash}", head.method, head.uri.path(), pairs.join("&"));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", header("x-amz-date")?, digest(request.as_bytes()));
    let key = scope.split('/').fold(format!("AWS4{}", KEY.1).into_bytes(), |key, part| mac(&key, part));
    Some(hex::encode(mac(&key, &text)) == signature && names.split(';').any(|name| name == "host"))
}

impl Shared {
    fn answer(&self, head: &Parts, body: Bytes) -> Response<Full<Bytes>> {
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let name = head.uri.path().trim_start_matches("/onward").trim_start_matches('/').to_owned();
        let query: BTreeMap<&str, &str> =
            head.uri.query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
        let new = header("if-none-match") == "*";
        self.requests.lock().push(format!("{} {name}{}", head.method, if new { " if new" } else { "" }));

        let spoilt = self.spoilt.lock().clone();
        if spoilt.refuses || header("x-amz-security-token") != KEY.2 || !is_signed(head).unwrap_or(false) {
            return refusal(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", &format!("{:?}", head.headers));
        }
        if spoilt.is_away {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "");
        }
        if header("x-amz-content-sha256") != digest(&body) {
            return refusal(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", "");
        }
        match (&head.method, query.get("uploadId"), query.get("partNumber")) {
            (&Method::POST, None, _) if query.contains_key("uploads") => {
                let mut uploads = self.uploads.lock();
                let id = format!("u{}", uploads.keys().next_back().map_or(0, |last| last[1..].parse::<usize>().unwrap_or(0) + 1));
                uploads.insert(id.clone(), BTreeMap::new());
                plain(StatusCode::OK, format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
            }
            (&Method::PUT, Some(id), Some(part)) => match self.uploads.lock().get_mut(*id) {
                Some(parts) => {
                    parts.insert(part.parse().unwrap_or(0), body.clone());
                    tagged(plain(StatusCode::OK, ""), &body)
                }
                None => refusal(StatusCode::NOT_FOUND, "NoSuchUpload", ""),
            },
            (&Method::POST, Some(id), _) => match self.uploads.lock().remove(*id) {
                Some(parts) => {
                    let whole: Vec<u8> = parts.into_values().flatten().collect();
                    let result = "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>";
                    self.keep(name, whole.into(), result)
                }
                None => refusal(StatusCode::NOT_FOUND, "NoSuchUpload", ""),
            },
            (&Method::DELETE, Some(id), _) => {
                self.uploads.lock().remove(*id);
                plain(StatusCode::NO_CONTENT, "")
            }
            (&Method::PUT, ..) => {
                let there = self.files.lock().contains_key(&name);
                if new && there && !spoilt.ignores_conditions && spoilt.fails_after_keeping == 0 {
                    return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "");
                }
                let response = self.keep(name, body.clone(), "");
                tagged(response, &body)
            }
            (&Method::DELETE, ..) => {
                self.files.lock().remove(&name);
                plain(StatusCode::NO_CONTENT, "")
            }
            _ if name.is_empty() => self.list(&query),
            _ => match self.files.lock().get(&name) {
                Some(bytes) => tagged(plain(StatusCode::OK, bytes.clone()), bytes),
                None => refusal(StatusCode::NOT_FOUND, "NoSuchKey", ""),
            },
        }
    }

    fn keep(&self, name: String, bytes: Bytes, result: &'static str) -> Response<Full<Bytes>> {
        self.files.lock().insert(name, bytes);
        let mut spoilt = self.spoilt.lock();
        if spoilt.fails_after_keeping == 0 {
            return plain(StatusCode::OK, result);
        }
        spoilt.fails_after_keeping -= 1;
        refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "")
    }

    fn list(&self, query: &BTreeMap<&str, &str>) -> Response<Full<Bytes>> {
        let decoded = |name: &str| query.get(name).map(|text| text.replace("%2F", "/")).unwrap_or_default();
        let (prefix, after, files) = (decoded("prefix"), decoded("continuation-token"), self.files.lock());
        let mut found = files.iter().filter(|(name, _)| name.starts_with(&prefix) && **name > after).peekable();
        let mut list = String::from("<ListBucketResult>");
        let mut last = "";
        for (name, bytes) in found.by_ref().take(PAGE) {
            last = name;
            let _ = write!(
                list,
                "<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>{}</Size></Contents>",
                bytes.len()
            );
        }
        if found.peek().is_some() {
            let _ = write!(list, "<NextContinuationToken>{last}</NextContinuationToken>");
        }
        plain(StatusCode::OK, list + "</ListBucketResult>")
    }
}

fn tagged(mut response: Response<Full<Bytes>>, bytes: &[u8]) -> Response<Full<Bytes>> {
    let tag = format!("\"{}\"", &digest(bytes)[..32]);
    let headers = response.headers_mut();
    headers.insert("etag", tag.parse().expect("a tag"));
    headers.insert("last-modified", http::HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT"));
    response
}
