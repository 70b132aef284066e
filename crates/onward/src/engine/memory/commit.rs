//! The store in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::commit::engine::{At, Changes, CommitEngine, Listed, Plan, Remembered, Rows, Scan, StoreMeta, Wanted, Writer};
use crate::commit::{Guard, Past, Prune, Pruned, ROW_BYTES, Record};
use crate::model::{ChainName, Epoch, FencingToken, Head, KeptPersonal, Key, LockKey, Object, RequestId, Revision, Sealed, Seq, Version};
use crate::time::Timestamp;
use crate::{Error, Result, random};

/// A store in this process's memory; clones share it.
#[derive(Debug, Clone)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    right: Right,
    /// Why nothing may be written; `None`: everything may.
    refuses: Option<&'static str>,
}

/// Everything that is stored.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) meta: StoreMeta,
    objects: BTreeMap<Key, Arc<Object>>,
    /// The objects whose time to live ends, by that time.
    ends: BTreeSet<(Timestamp, Key)>,
    records: BTreeMap<Revision, Record>,
    log_bytes: u64,
    fences: HashMap<LockKey, FencingToken>,
    requests: HashMap<RequestId, Remembered>,
    /// The same ids by the end of their time, so that forgetting costs what was remembered.
    expiries: BTreeSet<(Timestamp, RequestId)>,
    pub(crate) heads: BTreeMap<ChainName, Head>,
    pub(crate) entries: HashMap<ChainName, Vec<Arc<Sealed>>>,
    pub(crate) personal: HashMap<ChainName, BTreeMap<Seq, KeptPersonal>>,
}

impl State {
    /// Returns an object.
    pub(super) fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// Tells whether a guard holds.
    pub(super) fn holds(&self, guard: &Guard) -> bool {
        let version = self.objects.get(guard.key()).map(|object| object.meta.version);
        match guard {
            Guard::Absent(_) => version.is_none(),
            Guard::Exists(_) => version.is_some(),
            Guard::At(_, at) => version == Some(*at),
        }
    }

    /// Returns the objects of a kind that belong to a chain.
    pub(super) fn of_kind<'a>(&'a self, kind: &'a str, chain: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        let mine = move |key: &Key| key.kind() == kind && key.name().split('/').next() == Some(chain);
        self.objects.iter().filter(move |(key, _)| mine(key)).map(|(_, object)| object)
    }

    fn remember(&mut self, plan: &Plan) {
        while self.expiries.first().is_some_and(|(ends, _)| *ends <= plan.now) {
            let Some((ends, id)) = self.expiries.pop_first() else { return };
            if self.requests.get(&id).is_some_and(|known| known.expires_at == ends) {
                self.requests.remove(&id);
            }
        }
        for (id, known) in &plan.requests {
            self.expiries.insert((known.expires_at, id.clone()));
            self.requests.insert(id.clone(), known.clone());
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::make(None)
    }

    /// Makes an empty store that refuses every write as `Unsupported`, for places that have locks and a cache and no store (C9).
    pub fn closed(why: &'static str) -> Self {
        Self::make(Some(why))
    }

    fn make(refuses: Option<&'static str>) -> Self {
        let meta = StoreMeta {
            epoch: Epoch::from_bits(u64::from_le_bytes(random::bytes())),
            revision: Revision::default(),
            version_floor: 0,
            restore_floor: 0,
            compacted: Revision::default(),
            newest_token: 0,
            at: Timestamp::default(),
            origin: format!("onward.local/{}", random::uuid_v4()).into(),
        };
        let state = State {
            meta,
            objects: BTreeMap::new(),
            ends: BTreeSet::new(),
            records: BTreeMap::new(),
            log_bytes: 0,
            fences: HashMap::new(),
            requests: HashMap::new(),
            expiries: BTreeSet::new(),
            heads: BTreeMap::new(),
            entries: HashMap::new(),
            personal: HashMap::new(),
        };
        Self(Arc::new(Shared { state: RwLock::new(state), right: Right::default(), refuses }))
    }

    /// Changes something beside the batches of the queue, which it waits for.
    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.0.right.take();
        let changed = change(&mut self.0.state.write());
        self.0.right.give_back();
        changed
    }

    /// Looks at everything at one moment.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.state.read())
    }
}

/// The writer's right: one batch at a time, over all queues on this store.
#[derive(Debug, Default)]
struct Right {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Right {
    fn take(&self) {
        let mut taken = self.taken.lock();
        while *taken {
            self.free.wait(&mut taken);
        }
        *taken = true;
    }

    fn give_back(&self) {
        *self.taken.lock() = false;
        self.free.notify_one();
    }
}

struct MemoryWriter {
    store: MemoryStore,
    held: bool,
}

impl MemoryWriter {
    fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            self.store.0.right.give_back();
        }
    }
}

/// A writer that ends in the middle of a batch, by a panic, must not leave the others waiting for ever.
impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.release();
    }
}

impl Writer for MemoryWriter {
    fn begin<'a>(&'a mut self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Rows>> {
        if let Some(why) = self.store.0.refuses {
            return Box::pin(std::future::ready(Err(Error::unsupported(why))));
        }
        self.store.0.right.take();
        self.held = true;
        let rows = self.store.read(|state| Rows {
            meta: state.meta.clone(),
            objects: pick(&wanted.objects, |key| state.objects.get(key)),
            fences: pick(&wanted.fences, |lock| state.fences.get(lock)),
            requests: pick(&wanted.requests, |id| state.requests.get(id)),
            heads: pick(&wanted.chains, |chain| state.heads.get(chain)),
            held: true,
        });
        Box::pin(std::future::ready(Ok(rows)))
    }

    fn finish<'a>(&'a mut self, plan: &'a Arc<Plan>) -> BoxFuture<'a, Result<()>> {
        {
            let mut state = self.store.0.state.write();
            state.meta = plan.meta.clone();
            for (key, object) in &plan.objects {
                let before = match object {
                    Some(object) => state.objects.insert(key.clone(), object.clone()),
                    None => state.objects.remove(key),
                };
                if let Some(ends) = before.and_then(|object| object.meta.expires_at) {
                    state.ends.remove(&(ends, key.clone()));
                }
                if let Some(ends) = object.as_ref().and_then(|object| object.meta.expires_at) {
                    state.ends.insert((ends, key.clone()));
                }
            }
            state.log_bytes += plan.records.iter().map(|record| size(record)).sum::<u64>();
            state.records.extend(plan.records.iter().map(|record| (record.revision, Record::clone(record))));
            state.fences.extend(plan.fences.iter().map(|(lock, token)| (lock.clone(), *token)));
            state.remember(plan);
            state.heads.extend(plan.heads.iter().map(|(chain, head)| (chain.clone(), head.clone())));
            for (chain, entry) in &plan.entries {
                state.entries.entry(chain.clone()).or_default().push(entry.clone());
            }
            for (chain, kept) in &plan.personal {
                state.personal.entry(chain.clone()).or_default().insert(kept.seq, kept.clone());
            }
            for (chain, seqs) in &plan.forgotten {
                let kept = state.personal.entry(chain.clone()).or_default();
                seqs.iter().for_each(|seq| drop(kept.remove(seq)));
            }
        }
        self.release();
        Box::pin(std::future::ready(Ok(())))
    }

    fn prune<'a>(&'a mut self, prune: &'a Prune) -> BoxFuture<'a, Result<Pruned>> {
        self.store.0.right.take();
        let mut rows = 0;
        let state = &mut *self.store.0.state.write();
        while let Some(oldest) = state.records.first_entry() {
            let record = oldest.get();
            if rows >= prune.rows || !prune.takes(record.revision, record.at, state.log_bytes) {
                break;
            }
            rows += record.changes.len().max(1);
            state.log_bytes = state.log_bytes.saturating_sub(size(record));
            state.meta.compacted = record.revision;
            oldest.remove();
        }
        self.store.0.right.give_back();
        let pruned = Pruned { compacted: state.meta.compacted, more: rows >= prune.rows };
        Box::pin(std::future::ready(Ok(pruned)))
    }

    fn due(&mut self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<(Key, Version)>>> {
        let due = self.store.read(|state| {
            let over = state.ends.iter().take_while(|(ends, _)| *ends <= now).take(limit);
            over.filter_map(|(_, key)| Some((key.clone(), state.objects.get(key)?.meta.version))).collect()
        });
        Box::pin(std::future::ready(Ok(due)))
    }

    fn give_back(&mut self) -> BoxFuture<'_, ()> {
        self.release();
        Box::pin(std::future::ready(()))
    }
}

/// What a commit counts in the log.
fn size(record: &Record) -> u64 {
    let changes: u64 = record.changes.iter().map(|change| change.before.as_ref().map_or(0, |object| weight(object)) + ROW_BYTES).sum();
    let notes: usize = record.invalidations.iter().map(|(namespace, key)| namespace.len() + key.len()).sum();
    changes.max(ROW_BYTES) + notes as u64
}

fn weight(object: &Object) -> u64 {
    (object.value.bytes().len() + object.meta.labels.bytes()) as u64
}

/// What an object was at a moment: the state before the first later change of it, or what is there now.
fn at(state: &State, key: &Key, at: At) -> Option<Arc<Object>> {
    let from = match at {
        At::Revision(revision) => Bound::Excluded(revision),
        At::Version(_) => Bound::Unbounded,
    };
    let changes = state.records.range((from, Bound::Unbounded)).flat_map(|(_, record)| &record.changes);
    let mut later = changes.filter(|change| change.key == *key && !matches!(at, At::Version(version) if change.version <= version));
    let found = later.next().map_or_else(|| state.objects.get(key).cloned(), |change| change.before.clone());
    found.filter(|object| !matches!(at, At::Version(version) if object.meta.version != version))
}

fn pick<'a, K: Clone + Eq + std::hash::Hash + 'a, V: Clone + 'a>(
    wanted: impl IntoIterator<Item = &'a K>,
    find: impl Fn(&K) -> Option<&'a V>,
) -> HashMap<K, V> {
    wanted.into_iter().filter_map(|key| Some((key.clone(), find(key)?.clone()))).collect()
}

impl CommitEngine for MemoryStore {
    fn name(&self) -> &'static str {
        if self.0.refuses.is_some() { "none" } else { "memory" }
    }

    fn is_shared(&self) -> bool {
        // Two queues may share one store in this process; each has its own wake-up.
        true
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(MemoryWriter { store: self.clone(), held: false }))
    }

    fn meta(&self) -> BoxFuture<'_, Result<StoreMeta>> {
        Box::pin(std::future::ready(Ok(self.read(|state| state.meta.clone()))))
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Object>>>> {
        Box::pin(std::future::ready(Ok(self.read(|state| state.objects.get(key).cloned()))))
    }

    fn list(&self, scan: Scan) -> BoxFuture<'_, Result<Listed>> {
        let Scan { namespace, kind, prefix, selector, after, limit, at } = scan;
        let listed = self.read(|state| {
            let wanted = |key: &Key| {
                let same = key.namespace() == namespace && key.kind() == kind;
                same && key.name().starts_with(&prefix) && key.name() > after.as_str()
            };
            let at = at.unwrap_or(state.meta.revision);
            // What changed since then is what it was before its first change.
            let mut changed: BTreeMap<&Key, Option<&Arc<Object>>> = BTreeMap::new();
            for change in state.records.range((Bound::Excluded(at), Bound::Unbounded)).flat_map(|(_, record)| &record.changes) {
                if wanted(&change.key) {
                    changed.entry(&change.key).or_insert(change.before.as_ref());
                }
            }
            let selected = |object: &&Arc<Object>| selector.selects(&object.meta.labels);
            // A kind's objects are neighbours; the few steps to its first one are the price of a plain map.
            let same = state.objects.iter().filter(|(key, object)| wanted(key) && object.meta.revision <= at && selected(object));
            let mut found: BTreeMap<&Key, &Arc<Object>> = same.take(limit + 1).collect();
            found.extend(changed.into_iter().filter_map(|(key, before)| Some((key, before.filter(selected)?))));
            let more = found.len() > limit;
            let items: Vec<Arc<Object>> = found.into_values().take(limit).cloned().collect();
            let next = items.last().filter(|_| more).map(|object| object.key.name().to_owned());
            Listed { items, meta: state.meta.clone(), next }
        });
        Box::pin(std::future::ready(Ok(listed)))
    }

    fn next_kind<'a>(&'a self, after: Option<(&'a str, &'a str)>) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        let found = self.read(|state| {
            let logged = state.records.values().flat_map(|record| &record.changes).map(|change| &change.key);
            let places = state.objects.keys().chain(logged).map(|key| (key.namespace(), key.kind()));
            let next = places.filter(|place| after.is_none_or(|after| *place > after)).min();
            next.map(|(namespace, kind)| (namespace.to_owned(), kind.to_owned()))
        });
        Box::pin(std::future::ready(Ok(found)))
    }

    fn get_at<'a>(&'a self, key: &'a Key, moment: At) -> BoxFuture<'a, Result<(Option<Arc<Object>>, StoreMeta)>> {
        Box::pin(std::future::ready(Ok(self.read(|state| (at(state, key, moment), state.meta.clone())))))
    }

    fn history<'a>(&'a self, key: &'a Key, before: Option<Revision>, limit: usize) -> BoxFuture<'a, Result<(Vec<Past>, StoreMeta)>> {
        let past = self.read(|state| {
            let end = before.map_or(Bound::Unbounded, Bound::Excluded);
            let changes = state.records.range((Bound::Unbounded, end)).rev().flat_map(|(_, record)| {
                record.changes.iter().map(|change| Past { revision: record.revision, at: record.at, change: change.clone() })
            });
            (changes.filter(|past| past.change.key == *key).take(limit).collect(), state.meta.clone())
        });
        Box::pin(std::future::ready(Ok(past)))
    }

    fn backup(&self, _: PathBuf) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Err(Error::unsupported("a store in memory has no backup"))))
    }

    fn remembered<'a>(&'a self, id: &'a RequestId) -> BoxFuture<'a, Result<Option<Remembered>>> {
        Box::pin(std::future::ready(Ok(self.read(|state| state.requests.get(id).cloned()))))
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        let changes = self.read(|state| {
            let newer = state.records.range((Bound::Excluded(after), Bound::Unbounded));
            Changes { records: newer.take(limit).map(|(_, record)| record.clone()).collect(), meta: state.meta.clone() }
        });
        Box::pin(std::future::ready(Ok(changes)))
    }
}
