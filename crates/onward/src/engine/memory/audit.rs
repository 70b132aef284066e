//! The audit trail in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use futures_core::future::BoxFuture;

use super::MemoryStore;
use super::commit::State;
use crate::Result;
use crate::audit::Order;
use crate::audit::engine::{AuditEngine, Batch, Batched, Load, Loaded, Moved, PersonalWanted, Scrubbed, Select, Selected};
use crate::audit::verify::{Controls, EachPersonal, HeadRow, Source, View};
use crate::model::limits::PAGE_ITEMS;
use crate::model::{ChainName, Hash, Head, KeptPersonal, Key, RowRef, Sealed, Seq};

/// How many entries one read of a source hands out: the store is not held while they are looked at.
const WINDOW: usize = PAGE_ITEMS + 1;

/// Tells whether a verifier wants the control entries of a kind together with every page.
fn is_told(kind: &str) -> bool {
    kind.starts_with("segment.") || kind.starts_with("redact.")
}

fn entries<'a>(state: &'a State, chain: &ChainName) -> &'a [Arc<Sealed>] {
    state.entries.get(chain).map_or(&[], Vec::as_slice)
}

impl AuditEngine for MemoryStore {
    fn chains<'a>(&'a self, after: Option<&'a ChainName>, limit: usize) -> BoxFuture<'a, Result<Vec<(ChainName, Head)>>> {
        let found = self.read(|state| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let chains = state.heads.range::<ChainName, _>((from, Bound::Unbounded));
            chains.take(limit).map(|(name, head)| (name.clone(), head.clone())).collect()
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn head<'a>(&'a self, chain: &'a ChainName) -> BoxFuture<'a, Result<Option<Head>>> {
        Box::pin(std::future::ready(Ok(self.read(|state| state.heads.get(chain).cloned()))))
    }

    fn entry<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<Sealed>>> {
        let found = self.read(|state| {
            let entries = entries(state, chain);
            entries
                .binary_search_by_key(&seq, |entry| entry.seq)
                .ok()
                .and_then(|index| entries.get(index))
                .map(|entry| Sealed::clone(entry))
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn select<'a>(&'a self, chain: &'a ChainName, select: &'a Select) -> BoxFuture<'a, Result<Option<Selected>>> {
        let found = self.read(|state| {
            state.heads.get(chain)?;
            // Neither seq nor time ever falls, so both bounds are found by halving.
            let entries = entries(state, chain);
            let begin =
                entries.partition_point(|entry| entry.seq.get() < select.from || select.since.is_some_and(|since| entry.at < since));
            let end = entries.partition_point(|entry| entry.seq.get() <= select.to && select.until.is_none_or(|until| entry.at <= until));
            let range = entries.get(begin..end).unwrap_or_default();
            let fits = |entry: &&Arc<Sealed>| {
                select.kind.as_ref().is_none_or(|kind| *kind == entry.kind)
                    && (select.actor.is_none() || select.actor == entry.actor)
                    && (select.resource.is_none() || select.resource == entry.resource)
            };
            Some(match select.order {
                Order::Ascending => page(range.iter(), fits, select),
                Order::Descending => page(range.iter().rev(), fits, select),
            })
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn hashes<'a>(&'a self, chain: &'a ChainName, from: u64, to: u64) -> BoxFuture<'a, Result<Vec<(u64, Hash)>>> {
        let found = self.read(|state| {
            let entries = entries(state, chain);
            let begin = entries.partition_point(|entry| entry.seq.get() < from);
            let end = entries.partition_point(|entry| entry.seq.get() <= to);
            let range = entries.get(begin..end).unwrap_or_default();
            range.iter().map(|entry| (entry.seq.get(), entry.hash)).collect()
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn personal<'a>(&'a self, chain: &'a ChainName, seq: Seq) -> BoxFuture<'a, Result<Option<KeptPersonal>>> {
        let found = self.read(|state| state.personal.get(chain).and_then(|kept| kept.get(&seq)).cloned());
        Box::pin(std::future::ready(Ok(found)))
    }

    fn find_personal<'a>(&'a self, chain: &'a ChainName, wanted: &'a PersonalWanted) -> BoxFuture<'a, Result<(Vec<Seq>, Option<Seq>)>> {
        let found = self.read(|state| {
            let all = state.personal.get(chain).into_iter().flatten();
            let range = all.filter(|(seq, _)| seq.get() > wanted.after && seq.get() <= wanted.to).take(wanted.scan);
            let (mut found, mut looked, mut last) = (Vec::new(), 0, None);
            for (seq, kept) in range {
                (looked, last) = (looked + 1, Some(*seq));
                if wanted.subject.as_ref().is_none_or(|subject| *subject == kept.personal.subject) {
                    found.push(*seq);
                }
            }
            (found, last.filter(|_| looked == wanted.scan))
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed>> {
        Box::pin(std::future::ready(Ok(Scrubbed { erased: true, log_until: None })))
    }

    fn move_rows(&self, batch: Batch) -> BoxFuture<'_, Result<Batched>> {
        let moved = self.write(|state| {
            if !batch.guards.iter().all(|guard| state.holds(guard)) {
                return Batched::Refused;
            }
            let rows = state.entries.entry(batch.chain).or_default();
            let before = rows.len();
            match batch.rows {
                Moved::Out(out) => {
                    let out: HashMap<u64, Hash> = out.into_iter().collect();
                    rows.retain(|entry| entry.is_pinned() || out.get(&entry.seq.get()) != Some(&entry.hash));
                    Batched::Done((before - rows.len()) as u64)
                }
                Moved::In(entries) => {
                    for entry in entries {
                        if let Err(place) = rows.binary_search_by_key(&entry.seq, |entry| entry.seq) {
                            rows.insert(place, Arc::new(entry));
                        }
                    }
                    Batched::Done((rows.len() - before) as u64)
                }
            }
        });
        Box::pin(std::future::ready(Ok(moved)))
    }

    fn load(&self, mut load: Load) -> BoxFuture<'_, Result<Loaded>> {
        Box::pin(async move {
            let mut rows = Vec::new();
            while let Some(page) = load.page().await? {
                rows.extend(page.into_iter().map(Arc::new));
            }
            Ok(self.write(|state| {
                if state.heads.iter().any(|(chain, head)| *chain == load.chain || head.origin == load.head.origin) {
                    return Loaded::Exists;
                }
                state.entries.insert(load.chain.clone(), rows);
                state.heads.insert(load.chain, load.head);
                Loaded::Done
            }))
        })
    }

    fn source(&self, chain: &ChainName) -> Result<Box<dyn Source>> {
        Ok(Box::new(MemorySource::new(self, chain)))
    }
}

fn page<'a>(range: impl Iterator<Item = &'a Arc<Sealed>>, fits: impl Fn(&&Arc<Sealed>) -> bool, select: &Select) -> Selected {
    let (mut items, mut bytes, mut last) = (Vec::new(), 0, None);
    for (looked, entry) in range.enumerate() {
        if select.is_narrow() && looked >= select.scan {
            return Selected { items, next: last };
        }
        if fits(&entry) {
            if items.len() >= select.limit || bytes >= select.bytes {
                return Selected { items, next: last };
            }
            bytes += entry.data.len();
            items.push(Sealed::clone(entry));
        }
        last = Some(entry.seq);
    }
    Selected { items, next: None }
}

struct MemorySource {
    store: MemoryStore,
    chain: ChainName,
    told: RefCell<Told>,
}

/// The control entries that were met so far, so that no page looks through all that follow it. They are pinned: none of them goes.
#[derive(Default)]
struct Told {
    through: i64,
    rows: Vec<Arc<Sealed>>,
}

impl MemorySource {
    fn new(store: &MemoryStore, chain: &ChainName) -> Self {
        Self { store: store.clone(), chain: chain.clone(), told: RefCell::default() }
    }
}

impl Source for MemorySource {
    fn read(&self, from: i64, controls: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        let view = self.store.read(|state| {
            let head = state.heads.get(&self.chain)?.clone();
            let all = entries(state, &self.chain);
            let behind = |seq: i64| all.get(all.partition_point(|entry| entry.seq.get().cast_signed() <= seq)..).unwrap_or_default();
            let mut told = self.told.borrow_mut();
            let fresh = behind(told.through).iter().filter(|entry| entry.is_pinned() && is_told(&entry.kind)).cloned();
            told.rows.extend(fresh);
            told.through = all.last().map_or(0, |entry| entry.seq.get().cast_signed());
            let wanted = told.rows.iter().filter(|entry| entry.seq.get().cast_signed() > controls.after);
            controls.rows.extend(wanted.map(|entry| RowRef::from(&**entry).to_row()));
            if let Some(index) = &mut controls.index {
                index.extend(state.of_kind("onward.segment", self.chain.as_str()).map(|object| object.value.bytes().to_vec()));
            }
            // As many as a window holds, and one that shows that there are more.
            let some: Vec<Arc<Sealed>> = behind(from.saturating_sub(1)).iter().take(WINDOW).cloned().collect();
            Some((head, some))
        });
        let Some((head, rows)) = view else { return Ok(None) };
        let _ = rows.iter().try_for_each(|entry| each(RowRef::from(&**entry)));
        let row = HeadRow {
            seq: head.seq.get().cast_signed(),
            hash: head.hash.as_bytes().to_vec(),
            frontier: head.frontier.to_bytes(),
            at: head.at.as_micros(),
        };
        Ok(Some(View { origin: head.origin.to_string(), head: Some(row) }))
    }

    fn skeleton(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let key = Key::new("onward.skeleton", name)?;
        Ok(self.store.read(|state| state.object(&key).map(|object| object.value.bytes().to_vec())))
    }

    fn personal(&self, from: i64, to: i64, each: &mut EachPersonal<'_>) -> Result<bool> {
        self.store.read(|state| {
            let beside = state.personal.get(&self.chain).into_iter().flatten().map(|(seq, kept)| (seq.get().cast_signed(), kept));
            for (seq, kept) in beside.filter(|(seq, _)| (from..=to).contains(seq)) {
                each(seq, &kept.salt, &kept.personal.value);
            }
        });
        Ok(true)
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Self::new(&self.store, &self.chain)))
    }
}
