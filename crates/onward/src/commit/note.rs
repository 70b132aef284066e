//! What a log keeps of a commit beside its changes, in the form in which every engine stores it.

use serde::{Deserialize, Serialize};

use super::{EntryReceipt, Record};
use crate::model::RequestId;
use crate::{Error, Result};

/// What the log keeps of a commit beside its changes.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Note {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) invalidations: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) entries: Vec<EntryReceipt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<RequestId>,
}

impl Note {
    pub(crate) fn of(record: &Record) -> Self {
        Self { invalidations: record.invalidations.clone(), entries: record.entries.clone(), request: record.request.clone() }
    }

    /// As text; nothing to note is no text.
    pub(crate) fn text(&self) -> Result<Option<String>> {
        if self.invalidations.is_empty() && self.entries.is_empty() && self.request.is_none() {
            return Ok(None);
        }
        serde_json::to_string(self).map(Some).map_err(damaged)
    }

    /// Reads what [`Note::text`] gave.
    pub(crate) fn read(text: Option<&str>) -> Result<Self> {
        Ok(text.map(serde_json::from_str).transpose().map_err(damaged)?.unwrap_or_default())
    }
}

fn damaged(error: serde_json::Error) -> Error {
    Error::integrity("a stored row is not what was written").with_source(error)
}
