//! Personal data of entries: read while they are there, and forgotten for good.
//!
//! The values stand in a table of their own, never in an entry, a file of the archive, an export or the change log. A redaction is one
//! commit, of the control entry that names the entries and of their values that go; then no older page that held one is left in the
//! engine's files. The chain itself is untouched, and verifies as before.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chain::{Chain, SCAN};
use super::engine::{PersonalWanted, Scrubbed};
use super::segment::{Act, surely};
use super::verify::personal::REDACTED_KIND;
use crate::commit::{Commit, Guard, Window};
use crate::model::{Data, Entry, KeptPersonal, RequestId, Seq, check_subject};
use crate::{Error, Result, random};

/// Most entries of a redaction's commit.
const AT_A_TIME: usize = 4_096;
/// How often a redaction begins anew because holds changed under it.
const TRIES: usize = 8;

/// Whose personal data a redaction forgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redact {
    /// Those of one subject, whatever the entry.
    Subject(String),
    /// Everybody's, up to this entry.
    Through(Seq),
}

impl Redact {
    fn check(&self) -> Result<()> {
        match self {
            Self::Subject(subject) => check_subject(subject),
            Self::Through(_) => Ok(()),
        }
    }

    fn wanted(&self, after: u64, last: u64) -> PersonalWanted {
        match self {
            Self::Subject(subject) => PersonalWanted { after, to: last, subject: Some(subject.clone()), scan: SCAN },
            Self::Through(seq) => PersonalWanted { after, to: last.min(seq.get()), subject: None, scan: AT_A_TIME },
        }
    }
}

/// What a redaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redacted {
    /// How many values went, or would.
    pub values: u64,
    /// The control entries that tell of it, one for each 4,096 values.
    pub entries: Vec<u64>,
    /// No byte of what went is left in the engine's files. `false`: a reader of an older state stands in the way; call again.
    pub erased: bool,
    /// On Postgres: the server's own log may hold what went before this place, until the server recycles those files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_until: Option<String>,
}

impl Chain {
    /// Reads the personal data that an entry was appended with.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound): the entry has none, or they are redacted. `Backend`: the engine is away, or
    /// `integrity_failure`: they are not what the entry commits to.
    pub async fn personal(&self, seq: Seq) -> Result<KeptPersonal> {
        self.read_personal(seq).await.map_err(|e| e.during("personal"))
    }

    async fn read_personal(&self, seq: Seq) -> Result<KeptPersonal> {
        let engine = &self.trail().0.engine;
        let kept =
            engine.personal(self.name(), seq).await?.ok_or_else(|| Error::not_found("the entry has no personal data, or no more"))?;
        // Of a purged entry only the hash is known, and the value is what it is.
        let stored = engine.entry(self.name(), seq).await?;
        if stored.is_some_and(|entry| entry.personal != Some(kept.commitment())) {
            return Err(Error::integrity("personal data are not what their entry commits to; verify the chain"));
        }
        Ok(kept)
    }

    /// Forgets personal data for good: the values go, the entries stay and the chain verifies as before.
    ///
    /// Values that come meanwhile stay. Called again it finds nothing more, and makes sure that no byte is left in the engine's files. What
    /// a backup from before holds is out of its reach.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the subject, or the reason. `NotFound`: no such chain. `Conflict`, `state_conflict`: a hold
    /// covers one of the entries, and nothing more goes. `Unsupported`: the database gives no right to. `Backend`: the engine is away.
    ///
    /// # Cancel safety
    /// Dropped between two commits, what is told to be gone is gone; call again for the rest.
    pub async fn redact(&self, what: &Redact, act: &Act) -> Result<Redacted> {
        self.redact_all(what, act).await.map_err(|e| e.during("redact"))
    }

    async fn redact_all(&self, what: &Redact, act: &Act) -> Result<Redacted> {
        what.check()?;
        act.check()?;
        let engine = &self.trail().0.engine;
        let head = self.head().await?.ok_or_else(|| Error::not_found("no such chain"))?.seq.get();
        // All of it is looked at first: nothing goes if something of it must stay.
        let (mut done, mut after) = (Redacted::default(), Some(0));
        while let Some(from) = after {
            let (seqs, next) = engine.find_personal(self.name(), &what.wanted(from, head)).await?;
            self.refuse_held(&seqs).await?;
            done.values += seqs.len() as u64;
            after = next.map(Seq::get);
        }
        if act.is_dry() {
            return Ok(done);
        }
        let (total, mut after) = (std::mem::take(&mut done.values), Some(0));
        while let Some(from) = after {
            let (seqs, next) = engine.find_personal(self.name(), &what.wanted(from, head)).await?;
            for some in seqs.chunks(AT_A_TIME) {
                done.entries.push(self.forget(some, act).await?);
                done.values += some.len() as u64;
                act.tell(done.values, total.max(done.values));
            }
            after = next.map(Seq::get);
        }
        let Scrubbed { erased, log_until } = engine.scrub().await?;
        (done.erased, done.log_until) = (erased, log_until);
        Ok(done)
    }

    /// Forgets some values in one commit; returns the entry that tells of it.
    async fn forget(&self, seqs: &[Seq], act: &Act) -> Result<u64> {
        let data = json!({"seqs": ranges(seqs), "reason": act.reason()});
        for _ in 0..TRIES {
            let holds = self.refuse_held(seqs).await?;
            let id = format!("redact-{}", hex::encode(random::bytes::<16>()));
            let mut entry = Entry::new(REDACTED_KIND).with_data(Data::json(&data)?).with_event_id(&id);
            entry.actor = act.actor();
            let commit = || {
                let commit = Commit::new().guard(holds.clone()).control(self.name().clone(), entry.clone());
                let commit = commit.forget(self.name().clone(), seqs.to_vec());
                Ok(commit.request(RequestId::of_event(self.name().as_str(), &id)).window(Window::Event).intent(id.as_bytes()))
            };
            if let Some(receipt) = surely(self, commit).await? {
                let told = receipt.audit.first().ok_or_else(|| Error::integrity("a redaction without its entry"))?;
                return Ok(told.seq.get());
            }
        }
        Err(Error::overloaded("others change the holds of the chain", Duration::from_millis(100)))
    }

    /// The guard that nothing holds these entries, if nothing does.
    async fn refuse_held(&self, seqs: &[Seq]) -> Result<Guard> {
        let (holds, guard) = self.read_holds().await?;
        match holds.holds.iter().find(|hold| seqs.iter().any(|seq| hold.covers(seq.get(), seq.get()))) {
            Some(hold) => Err(super::segment::refused(format!("the hold {} covers personal data that would go", hold.id))),
            None => Ok(guard),
        }
    }
}

/// Seqs in order as ranges.
fn ranges(seqs: &[Seq]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for seq in seqs.iter().map(|seq| seq.get()) {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == seq => *to = seq,
            _ => ranges.push((seq, seq)),
        }
    }
    ranges
}
