//! Policies: for how long the past of a chain stays in each state before maintenance takes the next step, and how often it is attested.
//! Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Segment;
use crate::audit::verify::{SEGMENT_ROWS, SegmentState};
use crate::model::ChainName;
use crate::time::Timestamp;
use crate::{Error, Result};

/// Entries of a segment unless the policy says otherwise.
const ROWS: u64 = 65_536;
/// Bytes of a segment unless the policy says otherwise: 256 MiB.
const BYTES: u64 = 256 * 1024 * 1024;
/// Most files of a chain that maintenance deletes in an hour: a clock that jumps ahead destroys little before somebody looks.
const FILES_AN_HOUR: usize = 4;
const HOUR: Duration = Duration::from_secs(3_600);

/// After how long each step of a segment's life is due, and how often a chain is attested; what is absent is never done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How old the oldest entry behind the last segment gets before it is sealed, with all that follow it.
    pub seal_after: Option<Duration>,
    /// Most entries of a segment: 1..=1,048,576.
    pub segment_rows: u64,
    /// Most bytes of text and data of a segment that maintenance seals, unless its first entry alone has more; at least one.
    pub segment_bytes: u64,
    /// How long a sealed segment waits for its archive.
    pub archive_after: Option<Duration>,
    /// How long the entries of an archived segment stay in the database; those that were restored until a time stay until then.
    pub purge_after: Option<Duration>,
    /// How long the file of a purged segment stays; with it goes the last copy of its entries.
    pub delete_files_after: Option<Duration>,
    /// How old the newest checkpoint in the archive gets, if the chain grew since; only where there are an archive and a key that signs.
    pub checkpoint_every: Option<Duration>,
    /// How old the newest verdict on the chain gets before it is verified again: what came since, if a checkpoint in the archive vouches for
    /// the rest, else all of it.
    pub verify_every: Option<Duration>,
    /// How old the newest verdict on every entry gets before all of them are verified again.
    pub verify_full_every: Option<Duration>,
}

impl Default for Policy {
    /// Nothing is ever due.
    fn default() -> Self {
        Self {
            seal_after: None,
            segment_rows: ROWS,
            segment_bytes: BYTES,
            archive_after: None,
            purge_after: None,
            delete_files_after: None,
            checkpoint_every: None,
            verify_every: None,
            verify_full_every: None,
        }
    }
}

/// The policies of all chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    rest: Policy,
    /// Of chains of ours: their past is left alone.
    ours: Policy,
    chains: Vec<(String, Policy)>,
}

impl Policies {
    /// One policy for every chain; of chains of ours such as `onward.admin` the past is left alone, unless they are named.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the rows or bytes of a segment.
    pub fn new(rest: Policy) -> Result<Self> {
        check(&rest)?;
        let Policy { checkpoint_every, verify_every, verify_full_every, .. } = rest;
        let ours = Policy { checkpoint_every, verify_every, verify_full_every, ..Policy::default() };
        Ok(Self { rest, ours, chains: Vec::new() })
    }

    /// Adds a policy for a chain, or for those that begin with what stands before a `*`; of several the first counts.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the name, or the rows or bytes of a segment.
    pub fn with_chain(mut self, pattern: &str, policy: Policy) -> Result<Self> {
        check(&policy)?;
        let name = pattern.strip_suffix('*').unwrap_or(pattern);
        if !name.is_empty() {
            ChainName::new(name)?;
        } else if pattern.is_empty() {
            return Err(Error::invalid("a policy is for a chain, or for those that begin with what stands before a *"));
        }
        self.chains.push((pattern.to_owned(), policy));
        Ok(self)
    }

    /// Returns the policy of a chain.
    pub fn of(&self, chain: &ChainName) -> &Policy {
        let ours = chain.as_str().starts_with("onward.");
        let named = self.chains.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => chain.as_str().starts_with(prefix) && (!ours || prefix.starts_with("onward.")),
            None => pattern == chain.as_str(),
        });
        named.map_or(if ours { &self.ours } else { &self.rest }, |(_, policy)| policy)
    }

    /// Tells whether checkpoints are wanted of any chain.
    pub(super) fn want_checkpoints(&self) -> bool {
        let mut all = std::iter::once(&self.rest).chain(self.chains.iter().map(|(_, policy)| policy));
        all.any(|policy| policy.checkpoint_every.is_some())
    }

    /// Refuses what could never be done with what there is (C9).
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): what is missing.
    pub fn check(&self, means: Means) -> Result<()> {
        let all = || std::iter::once(&self.rest).chain(self.chains.iter().map(|(_, policy)| policy));
        let Means { archive, keys, signing } = means;
        let missing = [
            (all().any(|policy| policy.archive_after.is_some()) && !archive, "the retention archives, and there is no archive"),
            (all().any(|policy| policy.purge_after.is_some()) && !archive, "the retention purges, and there is no archive"),
            (all().any(|policy| policy.purge_after.is_some()) && !keys, "the retention purges, and no key seals entries"),
            (all().any(|policy| policy.purge_after.is_some()) && !signing, "the retention purges, and no key signs checkpoints"),
            (all().any(|policy| policy.delete_files_after.is_some()) && !archive, "the retention deletes files, and there is no archive"),
        ];
        missing.into_iter().find(|(missing, _)| *missing).map_or(Ok(()), |(_, why)| Err(Error::invalid(why)))
    }
}

/// What a trail has to carry a policy out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// Whether there is an archive.
    pub archive: bool,
    /// Whether a key seals entries.
    pub keys: bool,
    /// Whether a key signs checkpoints.
    pub signing: bool,
}

fn check(policy: &Policy) -> Result<()> {
    if policy.segment_bytes == 0 {
        return Err(Error::invalid("a segment has at least one byte"));
    }
    if (1..=SEGMENT_ROWS).contains(&policy.segment_rows) { Ok(()) } else { Err(Error::invalid("a segment has 1..=1,048,576 entries")) }
}

/// One kind of work of maintenance, in the order in which it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A purge or a restore that somebody began is finished.
    Finish,
    /// The entries behind the last segment are sealed.
    Seal,
    /// A sealed segment is written to the archive.
    Archive,
    /// The entries of an archived segment go from the database.
    Purge,
    /// The file of a purged segment goes.
    DeleteFile,
    /// Files and parts of skeletons that nobody names go.
    Collect,
    /// A signed checkpoint is put into the archive.
    Checkpoint,
    /// The chain is verified, and the verdict kept.
    Verify,
}

impl Stage {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Finish => "finish",
            Stage::Seal => "seal",
            Stage::Archive => "archive",
            Stage::Purge => "purge",
            Stage::DeleteFile => "delete_file",
            Stage::Collect => "collect",
            Stage::Checkpoint => "checkpoint",
            Stage::Verify => "verify",
        }
    }
}

/// A step that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) stage: Stage,
    /// The first entry of the segment.
    pub(super) from: u64,
    /// The last.
    pub(super) to: u64,
    pub(super) since: Timestamp,
}

/// The steps of sealed segments that are due, in the order in which they are done.
pub(super) fn due(policy: &Policy, segments: &[Segment], now: Timestamp) -> Vec<Due> {
    let recent = |segment: &&Segment| segment.state == SegmentState::FilePurged && since(segment.changed_at, HOUR) > now;
    let mut files = FILES_AN_HOUR.saturating_sub(segments.iter().filter(recent).count());
    let step = |segment: &Segment| {
        let after = |time: Option<Duration>| time.map(|time| since(segment.changed_at, time));
        let (stage, since) = match segment.state {
            SegmentState::Purging | SegmentState::Restoring => (Stage::Finish, Some(segment.changed_at)),
            SegmentState::Sealed => (Stage::Archive, after(policy.archive_after)),
            SegmentState::Archived => (Stage::Purge, policy.purge_after.and_then(|time| segment.until.or(after(Some(time))))),
            SegmentState::Purged => (Stage::DeleteFile, after(policy.delete_files_after)),
            SegmentState::FilePurged => return None,
        };
        let since = since.filter(|since| *since <= now)?;
        Some(Due { stage, from: segment.from, to: segment.to, since })
    };
    let mut due: Vec<Due> = segments.iter().filter_map(step).collect();
    due.sort_by_key(|due| (due.stage, due.from));
    due.retain(|due| {
        if due.stage != Stage::DeleteFile {
            return true;
        }
        let allowed = files > 0;
        files = files.saturating_sub(1);
        allowed
    });
    due
}

/// A time and what passed since.
pub(super) fn since(at: Timestamp, time: Duration) -> Timestamp {
    Timestamp::from_micros(at.as_micros().saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
}
