//! Reading bodies: never above the limit, never longer than the deadline, never before the caller is known.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use onward::Code;

use crate::refusal::Refusal;
use crate::wait::within;

/// Reads a whole body of at most `limit` bytes within `time`.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: usize, time: Duration) -> Result<Bytes, Refusal> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(Code::UnsupportedMediaType, "a compressed body is not taken").closing());
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(Refusal::too_large(limit));
    }
    within(time, collect(body, limit))
        .await
        .unwrap_or_else(|| Err(Refusal::new(Code::RequestTimeout, "the body came too slowly").closing()))
}

/// Reads past a body of at most `limit` bytes and keeps none of it; tells whether it ended within `time`.
pub(crate) async fn pass(mut body: Body, mut limit: u64, time: Duration) -> bool {
    if body.size_hint().lower() > limit {
        return false;
    }
    let rest = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = limit.checked_sub(length) else { return false };
            limit = left;
        }
        true
    };
    within(time, rest).await.unwrap_or(false)
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::new(Code::InvalidRequest, "the body is malformed or was cut off").closing())?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(Refusal::too_large(limit));
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies are one piece, which needs no copy.
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}
