//! Sealing: the border is drawn, and the skeleton kept.

use serde_json::{Map, Value, json};

use super::worker::{surely, version};
use super::{Act, Segment, refused};
use crate::audit::chain::Chain;
use crate::audit::engine::Select;
use crate::audit::verify::segment::{CHUNK, Chunk, SkeletonHash};
use crate::audit::verify::{SEGMENT_ROWS, SegmentState};
use crate::commit::{Commit, Guard, Window, WriteCondition};
use crate::model::limits::{PAGE_BYTES, PAGE_ITEMS};
use crate::model::merkle::Frontier;
use crate::model::{Data, Entry, Hash, Payload, RequestId, RowRef, Sealed, Seq, genesis};
use crate::{Error, Result, random};

fn taken() -> Error {
    refused("another worker sealed there")
}

impl Chain {
    /// Seals the entries behind the last segment, up to one of them or the head: at most 1,048,576.
    ///
    /// Every entry is read and hashed again; appends go on meanwhile. The head is taken once, for one entry.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict): another worker sealed there, or there is nothing to seal. `Invalid`: the range, or the
    /// reason. `NotFound`: no such chain. `Backend`: the engine is away, or `integrity_failure`: an entry is not what was appended.
    ///
    /// # Cancel safety
    /// Dropped before its last commit, it leaves parts of a skeleton that nobody names; they are collected later.
    pub async fn seal(&self, to: Option<Seq>, act: &Act) -> Result<Segment> {
        self.seal_up_to(to, u64::MAX, act).await.map_err(|e| e.during("seal"))
    }

    /// Does so, and ends sooner: before the entry by which there would be more bytes than that.
    pub(super) async fn seal_up_to(&self, to: Option<Seq>, most: u64, act: &Act) -> Result<Segment> {
        act.check()?;
        let head = self.head().await?.ok_or_else(|| Error::not_found("no such chain"))?;
        let last = self.all_segments().await?.pop();
        let from = last.as_ref().map_or(1, |last| last.to + 1);
        if from > head.seq.get() {
            return Err(refused("every entry is sealed"));
        }
        let mut to = to.map_or(head.seq.get().min(from + SEGMENT_ROWS - 1), Seq::get);
        if to < from {
            return Err(refused("the entries up to there are sealed"));
        }
        if to > head.seq.get() || to - from >= SEGMENT_ROWS {
            return Err(Error::invalid("a segment ends at most at the head, and has at most 1,048,576 entries"));
        }
        let prev = last.map_or_else(|| genesis(&head.origin), |last| last.last);
        let place = hex::encode(random::bytes::<8>());
        let mut skeleton =
            Skeleton { chain: self, from, place: place.clone(), act, rows: Vec::new(), hash: SkeletonHash::default(), guards: Vec::new() };
        let (mut tree, mut hash, mut next, mut bytes) = (Frontier::default(), prev, from, 0);
        'pages: while next <= to {
            let entries = self.rows(next, to).await?;
            for entry in &entries {
                bytes += RowRef::from(entry).bytes() as u64;
                let before = entry.seq.get() - 1;
                if bytes > most && before >= from {
                    to = before;
                    break 'pages;
                }
                if entry.prev != hash || entry.compute_hash(&head.origin) != entry.hash {
                    return Err(Error::integrity("an entry is not what was appended; verify the chain"));
                }
                hash = entry.hash;
                tree.push(&hash);
                skeleton.push(hash, entry.is_pinned()).await?;
            }
            next += entries.len() as u64;
            act.tell(next - from, to + 1 - from);
        }
        let (skeleton, guards) = skeleton.end().await?;
        let segment = Segment {
            from,
            to,
            state: SegmentState::Sealed,
            generation: 1,
            prev,
            last: hash,
            root: tree.root(),
            skeleton,
            place,
            archive: None,
            until: None,
            attempt: 0,
            attempt_until: None,
            done: 0,
            changed_at: self.trail().queue().clock().wall(),
        };
        if !act.dry {
            self.commit_seal(&segment, &guards, act).await?;
        }
        Ok(segment)
    }

    async fn commit_seal(&self, segment: &Segment, guards: &[Guard], act: &Act) -> Result<()> {
        let mut data = match serde_json::to_value(segment.border()) {
            Ok(Value::Object(data)) => data,
            _ => Map::new(),
        };
        data.insert("gen".to_owned(), json!(1));
        data.insert("rows".to_owned(), json!(segment.rows()));
        data.insert("reason".to_owned(), json!(act.reason));
        let id = format!("segment-{}-1-{}", segment.from, segment.place);
        let mut entry = Entry::new("segment.sealed").with_data(Data::json(&Value::Object(data))?).with_event_id(&id);
        entry.actor.clone_from(&act.actor);
        let commit = || {
            let commit = Commit::new().put(self.segment_key(segment.from)?, segment, WriteCondition::MustCreate);
            let commit = guards.iter().cloned().fold(commit, Commit::guard).control(self.name().clone(), entry.clone());
            Ok(commit.request(RequestId::of_event(self.name().as_str(), &id)).window(Window::Event).intent(id.as_bytes()))
        };
        surely(self, commit).await?.map(|_| ()).ok_or_else(taken)
    }

    /// Reads a page of entries that must be there.
    pub(super) async fn rows(&self, from: u64, to: u64) -> Result<Vec<Sealed>> {
        let select = Select::range(from, to, PAGE_ITEMS, PAGE_BYTES);
        let found = self.trail().0.engine.select(self.name(), &select).await?.map(|found| found.items).unwrap_or_default();
        let dense = found.iter().zip(from..).all(|(entry, seq)| entry.seq.get() == seq);
        if found.is_empty() || !dense { Err(Error::integrity("an entry is missing from the chain")) } else { Ok(found) }
    }
}

/// A skeleton in the making: each part of it is an object, which the seal guards, so that no part can be collected under it.
struct Skeleton<'a> {
    chain: &'a Chain,
    from: u64,
    place: String,
    act: &'a Act,
    rows: Vec<(Hash, bool)>,
    hash: SkeletonHash,
    guards: Vec<Guard>,
}

impl Skeleton<'_> {
    async fn push(&mut self, hash: Hash, pinned: bool) -> Result<()> {
        self.rows.push((hash, pinned));
        if self.rows.len() as u64 == CHUNK { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        let bytes = Chunk::lay(&self.rows);
        self.rows.clear();
        self.hash.push(&bytes);
        if self.act.dry {
            return Ok(());
        }
        let key = self.chain.chunk_key(self.from, &self.place, self.guards.len() as u64)?;
        let payload = Payload::new(bytes, "application/octet-stream")?;
        let id = format!("skeleton-{}-{}", self.place, self.guards.len());
        let commit = || {
            let commit = Commit::new().put_payload(key.clone(), payload.clone(), WriteCondition::MustCreate);
            Ok(commit.request(RequestId::of_event(self.chain.name().as_str(), &id)).window(Window::Own).intent(id.as_bytes()))
        };
        let version = version(&surely(self.chain, commit).await?.ok_or_else(taken)?)?;
        self.guards.push(Guard::At(key, version));
        Ok(())
    }

    async fn end(mut self) -> Result<(Hash, Vec<Guard>)> {
        if !self.rows.is_empty() {
            self.flush().await?;
        }
        Ok((self.hash.end(), self.guards))
    }
}
