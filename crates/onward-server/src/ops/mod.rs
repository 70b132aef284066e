//! One file a part: parse, one call on the library, spell the answer.

pub(crate) mod admin;
pub(crate) mod cache;
pub(crate) mod chains;
pub(crate) mod commit;
pub(crate) mod info;
pub(crate) mod locks;
pub(crate) mod objects;
pub(crate) mod personal;
pub(crate) mod proofs;
pub(crate) mod segments;
pub(crate) mod tokens;
pub(crate) mod transfer;
pub(crate) mod verify;
pub(crate) mod watch;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::refusal::Refusal;

/// Spells a JSON answer.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Refusal> {
    let bytes = serde_json::to_vec(value).map_err(|_| Refusal::new(onward::Code::Internal, "the answer cannot be written"))?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
