//! The index of a chain's past, made anew from its control entries: segments, skeletons, holds.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokio::sync::mpsc;

use super::hold::{Hold, Holds};
use super::worker::surely;
use super::{Segment, refused};
use crate::audit::chain::Chain;
use crate::audit::engine::received;
use crate::audit::import::Past;
use crate::audit::verify::segment::{CHUNK, Chunk, Fold, Life, SkeletonHash};
use crate::commit::{Commit, Window, WriteCondition};
use crate::model::{Hash, Key, Payload, RequestId, Sealed};
use crate::time::Timestamp;
use crate::{Error, Result, random};

/// What control entries say of the past.
pub(in crate::audit) struct Index {
    lives: BTreeMap<u64, Life>,
    holds: Vec<Hold>,
}

/// What `hold.placed` and `hold.released` say.
#[derive(Deserialize)]
struct Said {
    id: String,
    #[serde(default)]
    from: u64,
    #[serde(default)]
    to: Option<u64>,
    reason: String,
}

impl Index {
    /// Reads the control entries of a file.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): they contradict each other, or tell of entries that the chain no longer has.
    pub(in crate::audit) fn of(past: &Past) -> Result<Self> {
        let (mut fold, mut holds) = (Fold::default(), Vec::<Hold>::new());
        for row in &past.controls {
            if row.kind.starts_with(b"segment.") {
                fold.take(&row.view()).map_err(Error::invalid)?;
                continue;
            }
            let said = serde_json::from_slice::<Said>(&row.data);
            let Said { id, from, to, reason } =
                said.map_err(|e| Error::invalid("a control entry of a hold is malformed").with_source(e))?;
            holds.retain(|hold| hold.id != id);
            if row.kind == b"hold.placed" {
                let by = row.actor.clone().and_then(|actor| String::from_utf8(actor).ok());
                holds.push(Hold { id, from, to, reason, by, at: Timestamp::from_micros(row.at) });
            }
        }
        Ok(Self { lives: fold.lives, holds })
    }
}

impl Chain {
    /// Writes the index of a chain that is not there yet; what an import left that came to nothing is taken over.
    pub(in crate::audit) async fn write_index(
        &self,
        index: &Index,
        pages: impl FnOnce() -> mpsc::Receiver<Result<Vec<Sealed>>>,
    ) -> Result<()> {
        if self.all_segments().await?.iter().any(|left| index.lives.get(&left.from).is_none_or(|life| life.border != left.border())) {
            return Err(refused("segments of another chain of this name are left"));
        }
        if !index.holds.is_empty() {
            let holds = Holds { holds: index.holds.clone() };
            self.put_ours(self.holds_key()?, Payload::json(&holds)?).await?;
        }
        let mut lives = index.lives.values();
        let Some(mut life) = lives.next() else { return Ok(()) };
        let (mut pages, mut parts) = (pages(), Parts::default());
        'segments: while let Some(page) = received(pages.recv().await)? {
            for entry in page {
                if let Some(chunk) = parts.push(&entry, life.border.to) {
                    let key = self.chunk_key(life.border.from, &life.border.place, parts.count - 1)?;
                    self.put_ours(key, Payload::new(chunk, "application/octet-stream")?).await?;
                }
                if entry.seq.get() < life.border.to {
                    continue;
                }
                if std::mem::take(&mut parts).hash.end() != life.border.skeleton || entry.hash != life.border.last {
                    return Err(Error::invalid("a segment is not the one that was sealed"));
                }
                let segment = Segment::told(life, self.trail().queue().clock().wall());
                self.put_ours(self.segment_key(segment.from)?, Payload::json(&segment)?).await?;
                match lives.next() {
                    Some(next) => life = next,
                    None => break 'segments,
                }
            }
        }
        Ok(())
    }

    /// Writes an object of ours for a chain that is not there: whoever writes it beside us, or makes the chain, wins.
    async fn put_ours(&self, key: Key, payload: Payload) -> Result<()> {
        let there = self.trail().queue().engine().get(&key).await?;
        self.absent_yet().await?;
        let condition = there.map_or(WriteCondition::MustCreate, |object| WriteCondition::MatchVersion(object.meta.version));
        let id = format!("import-{}", hex::encode(random::bytes::<16>()));
        let commit = || {
            let commit = Commit::new().put_payload(key.clone(), payload.clone(), condition);
            Ok(commit.request(RequestId::of_event(self.name().as_str(), &id)).window(Window::Own).intent(id.as_bytes()))
        };
        surely(self, commit).await?.map(|_| ()).ok_or_else(|| refused("another import of the chain is at work"))
    }
}

impl Segment {
    /// The segment as its control entries tell of it.
    fn told(life: &Life, now: Timestamp) -> Self {
        let border = life.border.clone();
        Self {
            from: border.from,
            to: border.to,
            state: life.state(),
            generation: life.generation,
            prev: border.prev,
            last: border.last,
            root: border.root,
            skeleton: border.skeleton,
            place: border.place,
            archive: life.archive.clone(),
            until: None,
            attempt: 0,
            attempt_until: None,
            done: 0,
            changed_at: now,
        }
    }
}

/// The skeleton of a segment in the making.
#[derive(Default)]
struct Parts {
    rows: Vec<(Hash, bool)>,
    hash: SkeletonHash,
    count: u64,
}

impl Parts {
    /// Takes the next entry; returns a part when it is full, or the segment ends.
    fn push(&mut self, entry: &Sealed, to: u64) -> Option<Vec<u8>> {
        self.rows.push((entry.hash, entry.is_pinned()));
        if (self.rows.len() as u64) < CHUNK && entry.seq.get() < to {
            return None;
        }
        let chunk = Chunk::lay(&self.rows);
        self.hash.push(&chunk);
        self.rows.clear();
        self.count += 1;
        Some(chunk)
    }
}
