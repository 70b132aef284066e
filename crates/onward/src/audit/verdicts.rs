//! Kept verdicts: what the newest whole and the newest incremental verification said, as objects of the kind `onward.verdict`.

use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::verify::{Depth, Extent, Finding, Report, Verdict};
use crate::commit::{Commit, CommitOutcome, WriteCondition};
use crate::model::Key;
use crate::time::Timestamp;
use crate::{Error, Result};

const KIND: &str = "onward.verdict";
/// How often keeping is tried against others who verify the same chain.
const TRIES: usize = 8;

/// What a verification of a whole chain said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVerdict {
    /// The verdict.
    pub verdict: Verdict,
    /// Which entries were hashed.
    pub extent: Extent,
    /// How much was believed.
    pub depth: Depth,
    /// Whether a head saved outside was compared.
    pub attested: bool,
    /// The last entry.
    pub to_seq: u64,
    /// When it was said.
    pub at: Timestamp,
    /// The first finding, if there was one.
    pub finding: Option<Finding>,
}

impl KeptVerdict {
    fn of(report: &Report, attested: bool, at: Timestamp) -> Self {
        let Report { verdict, extent, depth, to_seq, .. } = *report;
        Self { verdict, extent, depth, attested, to_seq, at, finding: report.findings.first().cloned() }
    }

    fn badness(&self) -> u8 {
        match self.verdict {
            Verdict::Ok => 0,
            Verdict::Undetermined => 1,
            Verdict::Broken => 2,
        }
    }

    /// Tells whether this verdict may stand in the place of an older one: a better one only if it looked at everything that the older
    /// one looked at. So a finding stays until a walk that would have found it finds nothing.
    fn replaces(&self, old: &Self) -> bool {
        let deep = self.depth == Depth::Keyed || old.depth == Depth::Public;
        let compared = self.attested || !old.attested;
        self.badness() >= old.badness() || deep && compared
    }
}

impl Chain {
    /// Tells what the newest whole and the newest incremental verification said: the worse of both, the newer one of equals.
    ///
    /// An incremental verification never clears what a whole one found, nor does one with less to compare with: without the key, or
    /// without the saved head. `None`: the chain was never verified whole.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend): the engine is away, or a verdict is damaged.
    pub async fn last_verdict(&self) -> Result<Option<KeptVerdict>> {
        let mut worst: Option<KeptVerdict> = None;
        for extent in [Extent::Full, Extent::Incremental] {
            if let Some((kept, _)) = self.kept(extent).await.map_err(|e| e.during("last_verdict"))? {
                let rank = |verdict: &KeptVerdict| (verdict.badness(), verdict.at);
                worst = worst.filter(|worst| rank(worst) >= rank(&kept)).or(Some(kept));
            }
        }
        Ok(worst)
    }

    /// Keeps a verdict in the place of the one before it.
    pub(super) async fn keep(&self, report: &Report, attested: bool) -> Result<()> {
        let queue = self.trail().queue();
        let new = KeptVerdict::of(report, attested, queue.clock().wall());
        for _ in 0..TRIES {
            let condition = match self.kept(new.extent).await? {
                Some((old, _)) if !new.replaces(&old) => return Ok(()),
                Some((_, condition)) => condition,
                None => WriteCondition::MustCreate,
            };
            if let CommitOutcome::Committed(_) = queue.submit(Commit::new().put(self.place(new.extent)?, &new, condition)).await? {
                return Ok(());
            }
        }
        Err(Error::overloaded("others keep verdicts on the same chain", std::time::Duration::from_millis(100)))
    }

    /// Returns the kept verdict of an extent, and the condition under which another one takes its place.
    pub(super) async fn kept(&self, extent: Extent) -> Result<Option<(KeptVerdict, WriteCondition)>> {
        let Some(object) = self.trail().queue().engine().get(&self.place(extent)?).await? else { return Ok(None) };
        let kept = object.value.read().map_err(|e| Error::integrity("a kept verdict is damaged").with_source(e))?;
        Ok(Some((kept, WriteCondition::MatchVersion(object.meta.version))))
    }

    fn place(&self, extent: Extent) -> Result<Key> {
        let extent = match extent {
            Extent::Full => "full",
            Extent::Incremental => "incremental",
        };
        Key::new(KIND, &format!("{}/{extent}", self.name()))
    }
}
