//! Audit chains on the wire.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::number;

/// Entries to append, all or none: 1 to 128.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// The entries, in order.
    pub entries: Vec<Entry>,
}

/// An entry to append.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What happened.
    pub kind: String,
    /// Who did it; the server puts the name of the token in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Any JSON; stored in canonical form.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub data: Option<Box<RawValue>>,
    /// Text, stored verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_text: Option<String>,
    /// Bytes, stored verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// What can be forgotten later: kept apart from the entry, which only commits to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<Personal>,
    /// Makes a repeated append happen once; only for an entry that is appended alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
}

/// Personal data to append beside an entry.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Personal {
    /// Whom they are about: what a redaction names.
    pub subject: String,
    /// Any JSON; stored in canonical form.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::present")]
    pub data: Option<Box<RawValue>>,
    /// Text, stored verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_text: Option<String>,
    /// Bytes, stored verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

/// Shows nothing of them.
impl std::fmt::Debug for Personal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Personal")
    }
}

/// Personal data as they stand beside an entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPersonal {
    /// The entry.
    #[serde(with = "number")]
    pub seq: u64,
    /// Whom they are about.
    pub subject: String,
    /// The value, if it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The value, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// What opens the commitment, in hex.
    pub salt: String,
    /// What the entry holds of them.
    pub commitment: String,
}

/// Shows nothing of them.
impl std::fmt::Debug for KeptPersonal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeptPersonal(seq {})", self.seq)
    }
}

/// Whose personal data to forget: of a subject, or everybody's up to an entry.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redaction {
    /// The subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The last entry.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub through_seq: Option<u64>,
    /// Only count what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Does not show of whom.
impl std::fmt::Debug for Redaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redaction {{ dry_run: {} }}", self.dry_run)
    }
}

/// Where the entries went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipts {
    /// One for each entry, in order.
    pub receipts: Vec<Receipt>,
}

/// Where one entry went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The position.
    #[serde(with = "number")]
    pub seq: u64,
    /// The hash, which binds everything before it too.
    pub hash: String,
    /// The time of the entry.
    pub at: String,
    /// The id of the event.
    pub event_id: String,
    /// Whether this answer was given before, to the same event id.
    pub replayed: bool,
}

/// An entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The position.
    #[serde(with = "number")]
    pub seq: u64,
    /// When it was appended.
    pub at: String,
    /// The id of the event.
    pub event_id: String,
    /// What happened.
    pub kind: String,
    /// Who did it.
    pub actor: Option<String>,
    /// To what.
    pub resource: Option<String>,
    /// The stored bytes, if they are text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The stored bytes, if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
    /// The commitment to its personal data, if it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<String>,
    /// The hash of the entry before it.
    pub prev: String,
    /// Its own hash.
    pub hash: String,
    /// The MAC of the hash, in hex; null without a key.
    pub mac: Option<String>,
    /// The name of the key; empty without one.
    pub kid: String,
    /// The flags of the layout.
    pub flags: u64,
}

/// A page of entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// The entries in the asked order.
    pub items: Vec<Sealed>,
    /// What to send as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
    /// The ranges that the page could not look into, since their entries are purged, wholly or in part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<(u64, u64)>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The name.
    pub chain: String,
    /// The chain's identity in the world.
    pub origin: String,
    /// Its end.
    pub head: Head,
    /// The worse of the newest whole and the newest incremental verification; absent in lists, and if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verdict: Option<LastVerdict>,
}

/// What a verification of a whole chain said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerdict {
    /// `ok`, `broken` or `undetermined`.
    pub verdict: String,
    /// `full` or `incremental`.
    pub extent: String,
    /// `public` or `keyed`.
    pub depth: String,
    /// Whether a head saved outside was compared.
    pub attested: bool,
    /// The last entry.
    #[serde(with = "number")]
    pub to_seq: u64,
    /// When it was said.
    pub at: String,
    /// The code of the first finding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<String>,
}

/// How far a streamed verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// How many entries were hashed.
    pub rows_hashed: u64,
    /// The position that was reached.
    #[serde(with = "number")]
    pub seq: u64,
    /// The last position; 0 as long as it is not known.
    #[serde(with = "number")]
    pub head: u64,
}

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The last position.
    #[serde(with = "number")]
    pub seq: u64,
    /// The hash of the last entry.
    pub hash: String,
    /// The time of the last entry.
    pub at: String,
}

/// A page of chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chains {
    /// The chains, by name.
    pub items: Vec<Chain>,
    /// What to send as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// What to verify.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The first position; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub from_seq: Option<u64>,
    /// The last position; the end if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub to_seq: Option<u64>,
    /// `public` or `keyed`; as deep as the server's keys allow if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<String>,
    /// The text of a head that was saved outside, or of a signed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// The verifier key of a signed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vkey: Option<String>,
    /// Hash only what is newer than the checkpoint.
    #[serde(default)]
    pub incremental: bool,
    /// `listed`, the default: the files of archived segments are there. `read`: every entry in them is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archives: Option<String>,
}

/// What to do to a segment, or to a range; each act reads its own members.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentAct {
    /// Only look whether it could be done.
    #[serde(default)]
    pub dry_run: bool,
    /// The first entry to hold; the first of the chain if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub from_seq: Option<u64>,
    /// The last entry to seal or to hold; the head if absent, and what comes, too.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "number::optional")]
    pub to_seq: Option<u64>,
    /// Until when restored entries stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Purge the file of a purged segment instead of its rows.
    #[serde(default)]
    pub file: bool,
}
