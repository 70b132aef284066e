//! Rows to values and back; what does not fit its type is an integrity failure, never a guess.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use crate::commit::engine::StoreMeta;
use crate::model::merkle::Frontier;
use crate::model::{FencingToken, Hash, Head, Key, Labels, Meta, Object, Payload, Revision, Seq, Version};
use crate::time::Timestamp;
use crate::{Error, Result};

/// The columns of an object beside its key, in the order that [`state`] reads.
pub(super) const STATE: [&str; 10] =
    ["uid", "version", "revision", "create_revision", "content_type", "payload", "created_at", "updated_at", "labels", "expires_at"];

/// The columns of the facts, in the order that [`meta`] reads.
pub(super) const META: &str = "epoch, revision, version_floor, compacted, newest_token, origin, newest_at, restore_floor";

/// Postgres' integers are signed; ours never reach the sign bit.
pub(super) fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::integrity("a number is beyond its range"))
}

pub(super) fn unsigned(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::integrity("a stored number is negative"))
}

pub(super) fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::integrity("a stored row is not what was written").with_source(error)
}

/// Reads a column.
pub(super) fn col<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(damaged)
}

/// Reads a column that holds one of our numbers.
pub(super) fn number(row: &Row, index: usize) -> Result<u64> {
    unsigned(col(row, index)?)
}

pub(super) fn revision(row: &Row, index: usize) -> Result<Revision> {
    Revision::new(number(row, index)?).map_err(damaged)
}

pub(super) fn version(row: &Row, index: usize) -> Result<Version> {
    Version::new(number(row, index)?).map_err(damaged)
}

pub(super) fn token(row: &Row, index: usize) -> Result<FencingToken> {
    FencingToken::new(number(row, index)?).map_err(damaged)
}

pub(super) fn at(row: &Row, index: usize) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(col(row, index)?))
}

/// Reads a key from three columns.
pub(super) fn key(row: &Row, from: usize) -> Result<Key> {
    Key::in_namespace(col(row, from)?, col(row, from + 1)?, col(row, from + 2)?).map_err(damaged)
}

/// Reads the object `key` from the columns [`STATE`] that begin at `from`; `None` if they are NULL.
pub(super) fn state(row: &Row, key: Key, from: usize) -> Result<Option<Arc<Object>>> {
    let Some(uid) = col::<Option<Uuid>>(row, from)? else { return Ok(None) };
    let content_type: &str = col(row, from + 4)?;
    let payload: &[u8] = col(row, from + 5)?;
    Ok(Some(Arc::new(Object {
        key,
        value: Payload::stored(Bytes::copy_from_slice(payload), content_type.into()),
        meta: Meta {
            uid,
            version: version(row, from + 1)?,
            revision: revision(row, from + 2)?,
            create_revision: revision(row, from + 3)?,
            created_at: at(row, from + 6)?,
            updated_at: at(row, from + 7)?,
            labels: labels(row, from + 8)?,
            expires_at: col::<Option<i64>>(row, from + 9)?.map(Timestamp::from_micros),
        },
    })))
}

/// Reads the labels in a column.
pub(super) fn labels(row: &Row, index: usize) -> Result<Labels> {
    let text: Option<&str> = col(row, index)?;
    text.map_or_else(|| Ok(Labels::new()), |text| serde_json::from_str(text).map_err(damaged))
}

/// Writes labels; none is no text.
pub(super) fn labels_text(labels: &Labels) -> Result<Option<String>> {
    if labels.is_empty() { Ok(None) } else { serde_json::to_string(labels).map(Some).map_err(damaged) }
}

/// Reads the facts from the columns [`META`].
pub(super) fn meta(row: &Row) -> Result<StoreMeta> {
    let epoch: &str = col(row, 0)?;
    let origin: &str = col(row, 5)?;
    Ok(StoreMeta {
        epoch: epoch.parse().map_err(damaged)?,
        revision: revision(row, 1)?,
        version_floor: number(row, 2)?,
        restore_floor: number(row, 7)?,
        compacted: revision(row, 3)?,
        newest_token: number(row, 4)?,
        at: at(row, 6)?,
        origin: origin.into(),
    })
}

pub(super) fn hash(row: &Row, index: usize) -> Result<Hash> {
    let bytes: &[u8] = col(row, index)?;
    bytes.try_into().map(Hash::from_bytes).map_err(damaged)
}

/// Reads origin, seq, hash, frontier, at.
pub(super) fn head(row: &Row) -> Result<Head> {
    let origin: &str = col(row, 0)?;
    let seq = Seq::new(number(row, 1)?).map_err(damaged)?;
    Ok(Head { origin: origin.into(), seq, hash: hash(row, 2)?, at: at(row, 4)?, frontier: Frontier::from_bytes(seq.get(), col(row, 3)?)? })
}
