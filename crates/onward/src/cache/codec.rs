//! What an entry's bytes mean. A codec never decides freshness.
//!
//! Byte 0 tells the kind: 1 = a remembered absence, 2 = JSON, 3 = raw bytes with a media type (one byte of length, then its text).
//! Anything else is unreadable, and unreadable is a miss.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::limits::CONTENT_TYPE_BYTES;
use crate::{Error, Result};

const ABSENCE: u8 = 1;
const JSON: u8 = 2;
const RAW: u8 = 3;

/// The media type under which a JSON entry travels.
pub(super) const JSON_TYPE: &str = "application/json";

/// Returns the bytes of a remembered absence.
pub(super) fn absence() -> Bytes {
    Bytes::from_static(&[ABSENCE])
}

/// Encodes a value as JSON, an absence as such; `None` if JSON can't hold it.
pub(super) fn encode<T: Serialize>(value: Option<&T>) -> Option<Bytes> {
    let Some(value) = value else { return Some(absence()) };
    let mut out = vec![JSON];
    serde_json::to_writer(&mut out, value).ok()?;
    Some(out.into())
}

/// Returns how much of an encoded value counts against `value_limit`.
pub(super) fn value_len(payload: &Bytes) -> usize {
    payload.len().saturating_sub(1)
}

/// Decodes an entry: `None` if it is unreadable as `T`, `Some(None)` if it is an absence.
pub(super) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Option<Option<T>> {
    match payload.split_first()? {
        (&ABSENCE, []) => Some(None),
        (&JSON, json) => serde_json::from_slice(json).ok().map(Some),
        _ => None,
    }
}

/// Encodes bytes with their media type. JSON sent from outside is kept as JSON, so that Rust callers read it.
pub(super) fn encode_raw(bytes: &[u8], content_type: &str) -> Result<Bytes> {
    if content_type == JSON_TYPE {
        let mut out = BytesMut::with_capacity(1 + bytes.len());
        out.put_u8(JSON);
        out.put_slice(bytes);
        return Ok(out.freeze());
    }
    let printable = content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let len = u8::try_from(content_type.len()).ok().filter(|len| *len > 0 && usize::from(*len) <= CONTENT_TYPE_BYTES && printable);
    let Some(len) = len else {
        return Err(Error::invalid("a content type is 1..=127 printable characters of ASCII"));
    };
    let mut out = BytesMut::with_capacity(2 + content_type.len() + bytes.len());
    out.put_u8(RAW);
    out.put_u8(len);
    out.put_slice(content_type.as_bytes());
    out.put_slice(bytes);
    Ok(out.freeze())
}

/// A decoded entry of any kind.
pub(super) enum Raw {
    Absence,
    Value { bytes: Bytes, content_type: String },
}

/// Takes an entry apart without reading the value; `None` if it is unreadable.
pub(super) fn decode_raw(payload: &Bytes) -> Option<Raw> {
    match payload.split_first()? {
        (&ABSENCE, []) => Some(Raw::Absence),
        (&JSON, _) => Some(Raw::Value { bytes: payload.slice(1..), content_type: JSON_TYPE.to_owned() }),
        (&RAW, rest) => {
            let (&len, rest) = rest.split_first()?;
            let content_type = std::str::from_utf8(rest.get(..usize::from(len))?).ok()?.to_owned();
            Some(Raw::Value { bytes: payload.slice(2 + usize::from(len)..), content_type })
        }
        _ => None,
    }
}
