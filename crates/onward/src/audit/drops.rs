//! Entries that were dropped on purpose: counted durably, and told by the chain itself at its next entry.
//!
//! All drops of a chain since its last entry are one window. It has an id and a count, in memory and in the process's drop file; the next
//! append closes it and puts one `audit.gap` entry with its id and count in front. A window is in its file until its entry is, and an id
//! is chained once: so a process that dies in between neither loses a count nor tells it twice. Files of dead processes are adopted at
//! the next open.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;

use super::chain::{Chain, Receipt, intent};
use super::drop_file::{DropFile, Record, adopt};
use super::options::AppendOptions;
use crate::commit::{Commit, CommitOutcome, CommitQueue, Window as Memory};
use crate::model::{ChainName, Data, Entry, RequestId};
use crate::observe::Event;
use crate::time::Timestamp;
use crate::{Code, Effect, Error, Kind, Result, random, retry};

/// Most windows that are not told yet: one more drop of another chain is an error (C7).
const WINDOWS: usize = 1_024;
/// How long counts may be in the memory of the machine only.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What became of an entry that may be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Appended<T> {
    /// It is in the chain, durably.
    Written(T),
    /// It is lost, and counted: the chain will tell of it.
    Dropped {
        /// How many entries of the chain this process has dropped since it could append.
        total: u64,
    },
}

impl Chain {
    /// Appends one entry as [`Chain::append`] does, or drops and counts it if the write path is busy or away.
    ///
    /// For entries that must not hold up the work that they tell of. A drop survives the death of the process (a power loss may cost the
    /// counts of the last second), and becomes one `audit.gap` entry with the exact count in front of the next entry. An entry that may
    /// have been appended is never called dropped.
    ///
    /// # Errors
    /// As [`Chain::append`], but for what was surely not applied because the write path was `Overloaded` or away; and `Overloaded` or
    /// `Backend`, with effect `NotApplied`, if the drop cannot be counted: it is never silent.
    ///
    /// # Cancel safety
    /// As [`Chain::append`]; a future that is dropped while it waits counts nothing.
    pub async fn append_or_drop(&self, entry: Entry, options: AppendOptions) -> Result<Appended<Receipt>> {
        let appended = self.append(entry, options).await;
        self.or_drop(appended, 1).await
    }

    /// Appends entries as [`Chain::append_many`] does, or drops and counts them all, as [`Chain::append_or_drop`] does with one.
    ///
    /// # Errors
    /// As [`Chain::append_many`] and [`Chain::append_or_drop`].
    ///
    /// # Cancel safety
    /// As [`Chain::append_or_drop`].
    pub async fn append_many_or_drop(&self, entries: Vec<Entry>, options: AppendOptions) -> Result<Appended<Vec<Receipt>>> {
        let count = entries.len() as u64;
        let appended = self.append_many(entries, options).await;
        self.or_drop(appended, count).await
    }

    async fn or_drop<T>(&self, appended: Result<T>, count: u64) -> Result<Appended<T>> {
        let busy = match appended {
            Ok(written) => return Ok(Appended::Written(written)),
            Err(error) => error,
        };
        let reason = match (busy.effect(), busy.kind(), busy.code()) {
            (Effect::NotApplied, Kind::Overloaded, _) => "overloaded",
            (Effect::NotApplied, _, Code::Unavailable) => "unavailable",
            _ => return Err(busy),
        };
        let inner = &self.trail().0;
        let (drops, chain, now) = (inner.drops.clone(), self.name().clone(), inner.queue.clock().wall());
        let total = blocking(move || drops.count(&chain, count, now, reason)).await.map_err(|e| e.during("append"))?;
        inner.drops.sync_soon(&inner.queue);
        for _ in 0..count {
            inner.queue.tell(&Event::AuditDrop { reason });
        }
        Ok(Appended::Dropped { total })
    }

    /// Tells of what was dropped, before the next entry stands in the chain.
    pub(super) async fn tell_gaps(&self, deadline: Duration) -> Result<()> {
        let inner = &self.trail().0;
        if inner.drops.waiting.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        while let Some(gap) = inner.drops.close(self.name()) {
            let data = json!({
                "count": gap.count, "first": gap.first, "last": gap.last, "reason": gap.reason, "instance": gap.instance,
            });
            let entry = Entry::new("audit.gap").with_event_id(gap.window.clone()).with_data(Data::json(&data)?);
            let intent = intent(self.name(), std::slice::from_ref(&entry));
            let commit = Commit::new()
                .deadline(deadline)
                .request(RequestId::of_event(self.name().as_str(), &gap.window))
                .window(Memory::Event)
                .intent(&intent)
                .control(self.name().clone(), entry);
            match inner.queue.submit(commit).await {
                Ok(CommitOutcome::Committed(_)) => {
                    let drops = inner.drops.clone();
                    blocking(move || drops.told(&gap.window)).await?;
                }
                Ok(_) => return Err(Error::integrity("an entry without a condition lost a race")),
                // Whatever became of the gap, the entry behind it was not sent.
                Err(error) if error.effect() == Effect::Unknown => {
                    return Err(Error::unavailable("what was dropped before could not be told").with_source(error));
                }
                Err(error) => {
                    inner.drops.open_again(&gap.window);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Runs file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::unavailable("the runtime ended").with_source(e)).flatten()
}

/// What this process dropped and what it adopted, by window.
#[derive(Debug)]
pub(super) struct Drops {
    /// How many windows there are: a look at it is all that an append costs if there are none.
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    instance: String,
    windows: Vec<Window>,
    /// What the files are named after; `None`: counts live as long as the process, as the chains of a memory store do.
    beside: Option<Box<Path>>,
    /// The file of new windows, made with the first.
    own: Option<Arc<DropFile>>,
    syncing: bool,
}

#[derive(Debug)]
struct Window {
    record: Record,
    /// No more is counted into it: its count may be on its way into the chain.
    closed: bool,
    /// How many appends tell of it now, and may have.
    telling: usize,
    /// A dead process counted it.
    adopted: bool,
    place: Option<(Arc<DropFile>, usize)>,
}

impl Drops {
    pub(super) fn new() -> Arc<Self> {
        let instance = hex::encode(random::bytes::<8>());
        let state = State { instance, windows: Vec::new(), beside: None, own: None, syncing: false };
        Arc::new(Self { waiting: AtomicUsize::new(0), state: Mutex::new(state) })
    }

    /// Keeps counts in files beside a store from now on, and adopts those that dead processes left there.
    pub(super) fn keep_beside(&self, store: &Path) -> Result<()> {
        let mut state = self.state.lock();
        state.beside = Some(store.into());
        for (file, records) in adopt(store)? {
            let adopted = records.into_iter().map(|(slot, record)| Window {
                record,
                closed: true,
                telling: 0,
                adopted: true,
                place: Some((file.clone(), slot)),
            });
            state.windows.extend(adopted);
        }
        self.waiting.store(state.windows.len(), Ordering::Release);
        Ok(())
    }

    fn count(&self, chain: &ChainName, count: u64, now: Timestamp, reason: &'static str) -> Result<u64> {
        let mut state = self.state.lock();
        let open = state.windows.iter().position(|window| !window.closed && window.record.chain == *chain);
        match open.and_then(|index| state.windows.get_mut(index)) {
            Some(window) => {
                let record = Record { count: window.record.count + count, last: now.max(window.record.last), ..window.record.clone() };
                if let Some((file, slot)) = &window.place {
                    file.write(*slot, Some(&record))?;
                }
                window.record = record;
            }
            None => state.begin(chain, count, now, reason)?,
        }
        self.waiting.store(state.windows.len(), Ordering::Release);
        Ok(state.windows.iter().filter(|window| window.record.chain == *chain).map(|window| window.record.count).sum())
    }

    /// Closes the oldest window of a chain: what is dropped from now on is another gap.
    fn close(&self, chain: &ChainName) -> Option<Record> {
        let mut state = self.state.lock();
        let of_chain = state.windows.iter_mut().filter(|window| window.record.chain == *chain);
        let window = of_chain.min_by_key(|window| window.record.first)?;
        window.closed = true;
        window.telling += 1;
        Some(window.record.clone())
    }

    /// Counts on in a window whose entry surely is not in the chain, so that a long outage is one gap.
    ///
    /// A call whose answer is unknown, or that was dropped, never comes here: then its window stays closed until it is told.
    fn open_again(&self, window: &str) {
        let mut state = self.state.lock();
        if let Some(window) = state.windows.iter_mut().find(|other| other.record.window == window) {
            window.telling = window.telling.saturating_sub(1);
            // What was adopted is another process's word.
            window.closed = window.telling > 0 || window.adopted;
        }
    }

    /// Forgets a window whose entry is in the chain.
    fn told(&self, window: &str) -> Result<()> {
        let mut state = self.state.lock();
        // Another append may have told of it, too: it is one entry all the same.
        let Some(index) = state.windows.iter().position(|other| other.record.window == window) else { return Ok(()) };
        let gone = state.windows.swap_remove(index);
        self.waiting.store(state.windows.len(), Ordering::Release);
        let Some((file, slot)) = gone.place else { return Ok(()) };
        let in_use = state.windows.iter().any(|window| window.place.as_ref().is_some_and(|(other, _)| Arc::ptr_eq(other, &file)));
        // A record that stays is chained once all the same, by its id: for as long as that is remembered.
        if in_use {
            return file.write(slot, None);
        }
        if state.own.as_ref().is_some_and(|own| Arc::ptr_eq(own, &file)) {
            state.own = None;
        }
        file.remove()
    }

    /// Has the counts on the disk soon.
    fn sync_soon(self: &Arc<Self>, queue: &CommitQueue) {
        let mut state = self.state.lock();
        if state.syncing || state.own.is_none() {
            return;
        }
        state.syncing = true;
        let (drops, clock) = (Arc::downgrade(self), queue.clock().clone());
        tokio::spawn(async move {
            retry::sleep(&clock, SYNC_EVERY).await;
            let Some(drops) = drops.upgrade() else { return };
            let own = {
                let mut state = drops.state.lock();
                state.syncing = false;
                state.own.clone()
            };
            if let Some(own) = own {
                // Until the next try the counts are as safe as the machine.
                let _ = blocking(move || own.sync()).await;
            }
        });
    }
}

impl State {
    /// Begins a window with its first drops.
    fn begin(&mut self, chain: &ChainName, count: u64, now: Timestamp, reason: &'static str) -> Result<()> {
        if self.windows.len() >= WINDOWS {
            return Err(Error::overloaded("too many chains have gaps to tell of", Duration::from_secs(1)));
        }
        let window = format!("gap-{}", hex::encode(random::bytes::<16>()));
        let instance = self.instance.clone();
        let record = Record { chain: chain.clone(), window, count, first: now, last: now, reason: reason.to_owned(), instance };
        let place = match (&self.own, &self.beside) {
            (None, None) => None,
            (Some(own), _) => Some(own.clone()),
            (None, Some(store)) => Some(Arc::new(DropFile::create(store, &self.instance)?)),
        };
        let place = match place {
            None => None,
            Some(file) => {
                let used = |slot: usize| {
                    let mine =
                        |window: &Window| window.place.as_ref().is_some_and(|(other, used)| Arc::ptr_eq(other, &file) && *used == slot);
                    self.windows.iter().any(mine)
                };
                let slot = (0..WINDOWS).find(|slot| !used(*slot)).unwrap_or_default();
                file.write(slot, Some(&record))?;
                self.own = Some(file.clone());
                Some((file, slot))
            }
        };
        self.windows.push(Window { record, closed: false, telling: 0, adopted: false, place });
        Ok(())
    }
}
