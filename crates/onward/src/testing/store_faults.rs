//! Faults around any store engine: an answer that gets lost, a refusal, a slow or held write, a panic; and it counts reads.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::commit::engine::{At, Changes, CommitEngine, Heard, Listed, Plan, Remembered, Rows, Scan, StoreMeta, Wanted, Writer};
use crate::commit::{Past, Prune, Pruned};
use crate::model::{Key, Object, RequestId, Revision, Version};
use crate::observe::Finding;
use crate::time::{Clock, Timestamp};
use crate::{Error, Result};

/// What goes wrong with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is applied, and the answer is lost.
    Lost,
    /// It is not applied, and the engine says so.
    Refused,
    /// It takes a millisecond.
    Slow,
    /// The engine finds that the plan contradicts what it holds; nothing is applied.
    Contradicted,
    /// It is applied, and then the engine says that data contradict themselves: it cannot tell what it did.
    Confused,
    /// The engine panics before it applies anything.
    Panics,
}

/// A switchboard for the faults of one engine; clones share it.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Board>);

#[derive(Debug)]
struct Board {
    /// What happens to every second write.
    often: Mutex<Option<Fault>>,
    /// What happens to the very next writes; `None`: nothing.
    script: Mutex<VecDeque<Option<Fault>>>,
    /// Commits that the change log has lost.
    hidden: Mutex<Vec<Revision>>,
    /// Whether reads of single objects fail.
    away: AtomicBool,
    held: Mutex<bool>,
    let_go: Condvar,
    waiting: watch::Sender<bool>,
    writes: AtomicU64,
    reads: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Faults {
    /// Makes a board that lets `often` happen to every second write, beginning with the first.
    pub fn new(often: Option<Fault>) -> Self {
        Self(Arc::new(Board {
            often: Mutex::new(often),
            script: Mutex::default(),
            hidden: Mutex::default(),
            away: AtomicBool::new(false),
            held: Mutex::new(false),
            let_go: Condvar::new(),
            waiting: watch::Sender::new(false),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        }))
    }

    /// Ends the faults that happen by themselves.
    pub fn calm(&self) {
        *self.0.often.lock() = None;
    }

    /// Lets a fault happen to the next write.
    pub fn next(&self, fault: Fault) {
        self.script([Some(fault)]);
    }

    /// Says what happens to the next writes, one after the other; `None`: nothing.
    pub fn script(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.0.script.lock().extend(faults);
    }

    /// Lets the change log lose a commit.
    pub fn hide(&self, revision: Revision) {
        self.0.hidden.lock().push(revision);
    }

    /// Lets reads of single objects fail from now on, or no more.
    pub fn away(&self, away: bool) {
        self.0.away.store(away, Ordering::SeqCst);
    }

    /// Stops each write right before it is carried out, until [`Faults::release`].
    pub fn hold(&self) {
        *self.0.held.lock() = true;
    }

    /// Waits until a write is stopped by [`Faults::hold`].
    pub async fn stopped(&self) {
        // The sender lives in this board, so the channel cannot close.
        let _ = self.0.waiting.subscribe().wait_for(|waiting| *waiting).await;
    }

    /// Lets stopped writes go on.
    pub fn release(&self) {
        *self.0.held.lock() = false;
        self.0.let_go.notify_all();
    }

    /// Returns how many transactions were carried out or failed so far.
    pub fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::SeqCst)
    }

    /// Returns how many single objects were read so far outside the writer.
    pub fn reads(&self) -> u64 {
        self.0.reads.load(Ordering::SeqCst)
    }

    fn wait_if_held(&self) {
        let mut held = self.0.held.lock();
        if *held {
            self.0.waiting.send_replace(true);
            while *held {
                self.0.let_go.wait(&mut held);
            }
            self.0.waiting.send_replace(false);
        }
    }

    fn draw(&self) -> Option<Fault> {
        let count = self.0.writes.fetch_add(1, Ordering::SeqCst);
        let often = *self.0.often.lock();
        match self.0.script.lock().pop_front() {
            Some(scripted) => scripted,
            None => often.filter(|fault| *fault == Fault::Slow || count.is_multiple_of(2)),
        }
    }

    /// Keeps a fault for the next write.
    fn keep(&self, fault: Fault) {
        self.0.writes.fetch_sub(1, Ordering::SeqCst);
        self.0.script.lock().push_front(Some(fault));
    }
}

/// An engine that fails as its [`Faults`] say.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn CommitEngine>,
    faults: Faults,
}

impl Faulty {
    /// Wraps an engine.
    pub fn new(inner: Arc<dyn CommitEngine>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

struct FaultyWriter {
    inner: Box<dyn Writer>,
    faults: Faults,
    /// Whether the newest rows were read under the right.
    held: bool,
}

impl Writer for FaultyWriter {
    fn begin<'a>(&'a mut self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(async move {
            let rows = self.inner.begin(wanted).await?;
            self.held = rows.held;
            Ok(rows)
        })
    }

    fn finish<'a>(&'a mut self, plan: &'a Arc<Plan>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.faults.wait_if_held();
            match self.faults.draw() {
                None => self.inner.finish(plan).await,
                // A refusal that everyone takes for rows that had changed: the writer reads, and is refused then.
                Some(fault @ (Fault::Refused | Fault::Contradicted)) if !self.held => {
                    self.faults.keep(fault);
                    self.inner.give_back().await;
                    Err(Error::unavailable("the engine is away"))
                }
                Some(Fault::Lost) => {
                    self.inner.finish(plan).await?;
                    Err(Error::unknown("the answer got lost"))
                }
                Some(Fault::Refused) => {
                    self.inner.give_back().await;
                    Err(Error::unavailable("the engine is away"))
                }
                Some(Fault::Slow) => {
                    let clock = Clock::system();
                    let until = clock.now() + Duration::from_millis(1);
                    while clock.now() < until {
                        std::thread::yield_now();
                    }
                    self.inner.finish(plan).await
                }
                Some(Fault::Contradicted) => {
                    self.inner.give_back().await;
                    Err(Error::integrity("the plan contradicts what is stored"))
                }
                Some(Fault::Confused) => {
                    self.inner.finish(plan).await?;
                    Err(Error::integrity("what is stored contradicts itself").with_unknown_effect())
                }
                #[allow(clippy::panic, reason = "the fault itself")]
                Some(Fault::Panics) => panic!("the engine panics"),
            }
        })
    }

    fn give_back(&mut self) -> BoxFuture<'_, ()> {
        self.inner.give_back()
    }

    fn prune<'a>(&'a mut self, prune: &'a Prune) -> BoxFuture<'a, Result<Pruned>> {
        self.inner.prune(prune)
    }

    fn due(&mut self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<(Key, Version)>>> {
        self.inner.due(now, limit)
    }

    fn tidy(&mut self) -> BoxFuture<'_, ()> {
        self.inner.tidy()
    }
}

impl CommitEngine for Faulty {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(FaultyWriter { inner: self.inner.writer()?, faults: self.faults.clone(), held: true }))
    }

    fn ready(&self) -> Result<()> {
        self.inner.ready()
    }

    fn heard(&self) -> Option<watch::Receiver<Heard>> {
        self.inner.heard()
    }

    fn meta(&self) -> BoxFuture<'_, Result<StoreMeta>> {
        self.inner.meta()
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Object>>>> {
        self.faults.0.reads.fetch_add(1, Ordering::SeqCst);
        if self.faults.0.away.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(Error::unavailable("the store is away"))));
        }
        self.inner.get(key)
    }

    fn list(&self, scan: Scan) -> BoxFuture<'_, Result<Listed>> {
        self.inner.list(scan)
    }

    fn next_kind<'a>(&'a self, after: Option<(&'a str, &'a str)>) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        self.inner.next_kind(after)
    }

    fn get_at<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<(Option<Arc<Object>>, StoreMeta)>> {
        self.inner.get_at(key, at)
    }

    fn history<'a>(&'a self, key: &'a Key, before: Option<Revision>, limit: usize) -> BoxFuture<'a, Result<(Vec<Past>, StoreMeta)>> {
        self.inner.history(key, before, limit)
    }

    fn backup(&self, path: PathBuf) -> BoxFuture<'_, Result<()>> {
        self.inner.backup(path)
    }

    fn backup_file(&self) -> BoxFuture<'_, Result<File>> {
        self.inner.backup_file()
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.inner.check()
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        self.inner.inspect()
    }

    fn remembered<'a>(&'a self, id: &'a RequestId) -> BoxFuture<'a, Result<Option<Remembered>>> {
        self.inner.remembered(id)
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        Box::pin(async move {
            let mut page = self.inner.changes(after, limit).await?;
            let hidden = self.faults.0.hidden.lock().clone();
            page.records.retain(|record| !hidden.contains(&record.revision));
            Ok(page)
        })
    }
}
