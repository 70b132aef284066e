//! What is done to a segment while something fails: the same deeds where files fail, where disks fail, and where processes die.

use crate::Result;
use crate::audit::verify::SegmentState;
use crate::audit::{Act, Chain};
use crate::model::Seq;

/// One deed to a chain's first segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Its file is written.
    Archive,
    /// Its rows go.
    Purge,
    /// Its rows come back.
    Restore,
    /// Its file goes.
    PurgeFile,
    /// What dead attempts left goes.
    Collect,
}

impl Deed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Archive, Self::Purge, Self::Restore, Self::PurgeFile, Self::Collect];

    /// Returns the state that it begins in, and the one that it ends in.
    pub fn states(self) -> (SegmentState, SegmentState) {
        match self {
            Self::Archive => (SegmentState::Sealed, SegmentState::Archived),
            Self::Purge => (SegmentState::Archived, SegmentState::Purged),
            Self::Restore => (SegmentState::Purged, SegmentState::Archived),
            Self::PurgeFile => (SegmentState::Purged, SegmentState::FilePurged),
            Self::Collect => (SegmentState::Archived, SegmentState::Archived),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// As the call of [`Chain`] that does it.
    pub async fn run(self, chain: &Chain, act: &Act) -> Result<()> {
        let first = Seq::new(1)?;
        match self {
            Self::Archive => chain.archive(first, act).await.map(drop),
            Self::Purge => chain.purge(first, act).await.map(drop),
            Self::Restore => chain.restore(first, None, act).await.map(drop),
            Self::PurgeFile => chain.purge_file(first, act).await.map(drop),
            Self::Collect => chain.heal(act).await.map(drop),
        }
    }

    /// Brings a sealed segment to where the deed begins.
    ///
    /// # Errors
    /// As [`Deed::run`].
    pub async fn prepare(self, chain: &Chain, act: &Act) -> Result<()> {
        for step in [Self::Archive, Self::Purge] {
            if chain.segment(Seq::new(1)?).await?.state != self.states().0 {
                step.run(chain, act).await?;
            }
        }
        Ok(())
    }
}
