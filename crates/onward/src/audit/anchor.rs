//! Checkpoints that are kept in the archive: against them a database shows that was cut, rewritten or put back.
//!
//! Each is the continuation of the one before it, or it is not signed. That the archive lies where those who can write the database
//! cannot is up to whoever runs it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::chain::Chain;
use super::prove::Consistency;
use super::verify::SavedHead;
use crate::commit::{Commit, CommitOutcome};
use crate::model::{CHECKPOINT_BYTES, Checkpoint, Head, Key, Payload, Seq};
use crate::observe::Event;
use crate::time::Timestamp;
use crate::{Code, Error, Result};

/// The kind of the object that tells how far the newest checkpoint goes: it saves looks into the archive, and proves nothing.
const KIND: &str = "onward.checkpoint";
/// Most checkpoints, the newest first, that are tried until one is signed by our key: older ones may be another key's.
const TRIES: usize = 16;

/// How far the newest checkpoint goes, and when it was made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Anchored {
    pub(super) size: u64,
    pub(super) at: Timestamp,
}

/// The folder of a chain in the archive.
pub(super) fn origin_folder(head: &Head) -> String {
    hex::encode(Sha256::digest(head.origin.as_bytes())).get(..16).unwrap_or_default().to_owned()
}

impl Chain {
    /// Signs what the chain is now and puts that into the archive, unless the archive has it already.
    ///
    /// Refuses a chain that is not the continuation of its newest checkpoint there: signed, it would be an excuse.
    pub(super) async fn anchor(&self) -> Result<Checkpoint> {
        let archive = self.trail().archive()?;
        let key = self.trail().signing().ok_or_else(|| Error::unsupported("no key to sign checkpoints with was given"))?;
        let head = self.grown().await?;
        let newest = self.anchored().await?;
        let checkpoint = match &newest {
            None => Checkpoint { origin: head.origin.to_string(), size: head.seq.get(), root: head.frontier.root() },
            Some(newest) => {
                let Consistency { origin, second, second_root, .. } = self.continues(newest).await?;
                Checkpoint { origin, size: second, root: second_root }
            }
        };
        if newest.is_none_or(|newest| newest.size < checkpoint.size) {
            let attempt = hex::encode(crate::random::bytes::<4>());
            let name = format!("{}/checkpoints/{:016}-{attempt}", origin_folder(&head), checkpoint.size);
            archive.keep(&name, key.sign(&checkpoint)).await?;
        }
        let queue = self.trail().queue();
        let anchored = Payload::json(&Anchored { size: checkpoint.size, at: queue.clock().wall() })?;
        match queue.submit(Commit::new().overwrite(self.anchored_key()?, anchored)).await? {
            CommitOutcome::Committed(_) => {}
            _ => return Err(Error::integrity("a write without a condition lost a race")),
        }
        queue.tell(&Event::Checkpoint);
        Ok(checkpoint)
    }

    /// Reads the newest checkpoint in the archive that our key signed; `None` if there is none, no archive or no such key.
    pub(super) async fn anchored(&self) -> Result<Option<Checkpoint>> {
        let (Ok(archive), Some(vkey)) = (self.trail().archive(), self.vkey().await?) else { return Ok(None) };
        let folder = format!("{}/checkpoints", origin_folder(&self.grown().await?));
        // Their names begin with their sizes, in digits of one width.
        let mut names = archive.list(&folder).await?;
        // What was begun and never ended is none.
        names.retain(|name| !name.contains('#'));
        names.sort_unstable_by(|one, other| other.cmp(one));
        for name in names.iter().take(TRIES) {
            let note = archive.read_small(name, CHECKPOINT_BYTES).await?;
            let note = note.as_deref().and_then(|note| std::str::from_utf8(note).ok());
            if let Some(checkpoint) = note.and_then(|note| vkey.open(note).ok()) {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    /// Proves that the chain is the continuation of a checkpoint.
    async fn continues(&self, checkpoint: &Checkpoint) -> Result<Consistency> {
        let head = self.grown().await?;
        if checkpoint.size > head.seq.get() {
            return Err(Error::integrity("the chain is shorter than its newest checkpoint in the archive; verify the chain"));
        }
        let proved = self.prove_consistency(Seq::new(checkpoint.size)?, None).await?;
        if proved.first_root == checkpoint.root {
            Ok(proved)
        } else {
            Err(Error::integrity("the chain is not the continuation of its newest checkpoint in the archive; verify the chain"))
        }
    }

    /// Makes the head at a size, or at the checkpoint's if that is smaller, for which a checkpoint vouches; `None` if it does not.
    pub(super) async fn vouched(&self, size: u64, checkpoint: &Checkpoint) -> Result<Option<SavedHead>> {
        let size = size.min(checkpoint.size);
        if size == 0 {
            return Ok(None);
        }
        match self.continues(checkpoint).await {
            Ok(_) => {}
            Err(error) if error.code() == Code::IntegrityFailure => return Ok(None),
            Err(error) => return Err(error),
        }
        let frontier = self.tree(0..size).await?;
        let Some(&hash) = self.hashes(size - 1..size).await?.first() else { return Ok(None) };
        let (chain, origin, root) = (self.name().clone(), checkpoint.origin.clone(), frontier.root());
        Ok(Some(SavedHead { chain, origin, size, hash, root, frontier, saved_at: self.trail().queue().clock().wall() }))
    }

    /// Tells how far the newest checkpoint goes, as far as the store knows.
    pub(super) async fn anchored_size(&self) -> Result<Option<Anchored>> {
        let Some(object) = self.trail().queue().engine().get(&self.anchored_key()?).await? else { return Ok(None) };
        // One that is damaged is one that is not there: the next checkpoint writes it anew.
        Ok(object.value.read().ok())
    }

    fn anchored_key(&self) -> Result<Key> {
        Key::new(KIND, self.name().as_str())
    }
}
