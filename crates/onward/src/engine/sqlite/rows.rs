//! Rows to values and back; what does not fit its type is an integrity failure, never a guess.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Row;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::commit::engine::StoreMeta;
use crate::model::merkle::Frontier;
use crate::model::{Hash, Head, Key, Labels, Meta, Object, Payload, Revision, Seq, Version};
use crate::time::Timestamp;
use crate::{Error, Result};

/// The columns of an object, in the order that [`object`] reads.
pub(super) const OBJECT: &str =
    "namespace, kind, name, uid, version, revision, create_revision, content_type, payload, created_at, updated_at, labels, expires_at";

/// SQLite's integers are signed; ours never reach the sign bit.
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
pub(super) fn col<T: rusqlite::types::FromSql>(row: &Row<'_>, index: usize) -> Result<T> {
    row.get(index).map_err(damaged)
}

pub(super) fn hash(row: &Row<'_>, index: usize) -> Result<Hash> {
    Ok(Hash::from_bytes(col(row, index)?))
}

pub(super) fn object(row: &Row<'_>) -> Result<Object> {
    let (namespace, kind, name): (String, String, String) = (col(row, 0)?, col(row, 1)?, col(row, 2)?);
    let content_type: String = col(row, 7)?;
    let payload: Vec<u8> = col(row, 8)?;
    Ok(Object {
        key: Key::in_namespace(&namespace, &kind, &name).map_err(damaged)?,
        value: Payload::stored(payload.into(), content_type.into()),
        meta: Meta {
            uid: Uuid::from_bytes(col(row, 3)?),
            version: Version::new(unsigned(col(row, 4)?)?).map_err(damaged)?,
            revision: Revision::new(unsigned(col(row, 5)?)?).map_err(damaged)?,
            create_revision: Revision::new(unsigned(col(row, 6)?)?).map_err(damaged)?,
            created_at: Timestamp::from_micros(col(row, 9)?),
            updated_at: Timestamp::from_micros(col(row, 10)?),
            labels: labels(row, 11)?,
            expires_at: col::<Option<i64>>(row, 12)?.map(Timestamp::from_micros),
        },
    })
}

/// Reads the labels in a column.
pub(super) fn labels(row: &Row<'_>, index: usize) -> Result<Labels> {
    let text: Option<String> = col(row, index)?;
    text.map_or_else(|| Ok(Labels::new()), |text| serde_json::from_str(&text).map_err(damaged))
}

/// Writes labels; none is no text.
pub(super) fn labels_text(labels: &Labels) -> Result<Option<String>> {
    if labels.is_empty() { Ok(None) } else { serde_json::to_string(labels).map(Some).map_err(damaged) }
}

pub(super) fn meta(row: &Row<'_>) -> Result<StoreMeta> {
    let (epoch, origin): (String, String) = (col(row, 0)?, col(row, 5)?);
    Ok(StoreMeta {
        epoch: epoch.parse().map_err(damaged)?,
        revision: Revision::new(unsigned(col(row, 1)?)?).map_err(damaged)?,
        version_floor: unsigned(col(row, 2)?)?,
        restore_floor: unsigned(col(row, 7)?)?,
        compacted: Revision::new(unsigned(col(row, 3)?)?).map_err(damaged)?,
        newest_token: unsigned(col(row, 4)?)?,
        at: Timestamp::from_micros(col(row, 6)?),
        origin: origin.into(),
    })
}

/// Reads origin, seq, hash, frontier, at.
pub(super) fn head(row: &Row<'_>) -> Result<Head> {
    let origin: String = col(row, 0)?;
    let seq = Seq::new(unsigned(col(row, 1)?)?).map_err(damaged)?;
    let frontier: Vec<u8> = col(row, 3)?;
    Ok(Head {
        origin: origin.into(),
        seq,
        hash: hash(row, 2)?,
        at: Timestamp::from_micros(col(row, 4)?),
        frontier: Frontier::from_bytes(seq.get(), &frontier)?,
    })
}

/// What the log keeps of an object beside key and payload.
#[derive(Serialize, Deserialize)]
pub(super) struct BeforeMeta {
    uid: Uuid,
    version: Version,
    revision: Revision,
    create_revision: Revision,
    content_type: String,
    created_at: i64,
    updated_at: i64,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
}

impl BeforeMeta {
    pub(super) fn of(object: &Object) -> Self {
        let meta = &object.meta;
        Self {
            uid: meta.uid,
            version: meta.version,
            revision: meta.revision,
            create_revision: meta.create_revision,
            content_type: object.value.content_type().to_owned(),
            created_at: meta.created_at.as_micros(),
            updated_at: meta.updated_at.as_micros(),
            labels: meta.labels.clone(),
            expires_at: meta.expires_at.map(Timestamp::as_micros),
        }
    }

    pub(super) fn object(self, key: Key, payload: Vec<u8>) -> Arc<Object> {
        Arc::new(Object {
            key,
            value: Payload::stored(Bytes::from(payload), self.content_type.into()),
            meta: Meta {
                uid: self.uid,
                version: self.version,
                revision: self.revision,
                create_revision: self.create_revision,
                created_at: Timestamp::from_micros(self.created_at),
                updated_at: Timestamp::from_micros(self.updated_at),
                labels: self.labels,
                expires_at: self.expires_at.map(Timestamp::from_micros),
            },
        })
    }
}
