//! One request.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Problem;
use crate::{Code, Effect, header};

/// What may stand in one segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What may stand in a query value as it is: what may stand in a segment, and the marks of times and lists.
const QUERY: &AsciiSet = &SEGMENT.remove(b':').remove(b'/').remove(b',');
/// Text in our headers is percent-encoded UTF-8.
const HEADER: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// Writes one segment of a path, such as a kind, a namespace or a chain.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
}

/// Writes a person's text as it stands in our headers.
pub fn header_text(text: &str) -> String {
    utf8_percent_encode(text, HEADER).to_string()
}

/// A request under `/v1/`.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    malformed: Option<&'static str>,
    timed: bool,
    pub(super) timeout: Option<Duration>,
}

impl Request {
    /// Makes a request for a path below `/v1/` that is encoded already; see [`path::encode`](crate::path::encode).
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            malformed: None,
            timed: true,
            timeout: None,
        }
    }

    /// Makes a reading request.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Makes a PUT.
    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// Makes a POST.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// Makes a PATCH.
    pub fn patch(path: impl Into<String>) -> Self {
        Self::new(Method::PATCH, path)
    }

    /// Makes a DELETE.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.query.push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(&segment(name));
        self.query.push('=');
        self.query.extend(utf8_percent_encode(&value.to_string(), QUERY));
        self
    }

    /// Adds a query parameter, if there is a value.
    #[must_use]
    pub fn maybe_query<T: std::fmt::Display>(self, name: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds a query parameter once for each value.
    #[must_use]
    pub fn queries<T: std::fmt::Display>(self, name: &str, values: &[T]) -> Self {
        values.iter().fold(self, |request, value| request.query(name, value))
    }

    /// Adds a header. A value that no header can carry makes the request fail before anything is sent.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => {
                self.headers.append(HeaderName::from_static(name), value);
            }
            Err(_) => self.malformed = Some(name),
        }
        self
    }

    /// Adds a header whose value is a person's text: percent-encoded UTF-8.
    #[must_use]
    pub fn text_header(self, name: &'static str, value: &str) -> Self {
        self.header(name, &header_text(value))
    }

    /// Sets the body and its type.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, value: &serde_json::Value) -> Self {
        self.body("application/json", value.to_string())
    }

    /// Sets how long this request may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Leaves out the deadline that the server keeps: a stream has none.
    pub(super) fn untimed(mut self) -> Self {
        self.timed = false;
        self
    }

    /// Tells whether the request may change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    pub(super) fn build(
        self,
        base: &str,
        authorization: Option<&HeaderValue>,
        timeout: Duration,
    ) -> Result<http::Request<Full<Bytes>>, Problem> {
        let invalid = |detail: String| Problem::of(Code::InvalidRequest, Effect::NotApplied, detail);
        if let Some(name) = self.malformed {
            return Err(invalid(format!("the value of the header {name} has characters that no header can carry")));
        }
        let uri: http::Uri =
            format!("{base}/v1/{}{}", self.path, self.query).parse().map_err(|_| invalid("the path is malformed".to_owned()))?;
        let mut request = http::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        if let Some(authorization) = authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, authorization.clone());
        }
        if self.timed {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
            request.headers_mut().insert(header::TIMEOUT_MS, HeaderValue::from(millis));
        }
        Ok(request)
    }
}
