//! Leases in a SQLite file beside the store: several processes of one machine exclude each other.
//!
//! Its own file, so that a lease never waits for a commit's fsync. One thread puts all calls that wait into one transaction; a call that
//! is alone does not wait for it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::leases::File;
use crate::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Release, Renewal, Renewed, Tried};
use crate::model::{FencingToken, LockKey};
use crate::time::Clock;
use crate::{Error, Result};

/// How many calls wait (C7).
const QUEUE: usize = 4_096;
/// Most calls of one transaction.
const BATCH: usize = 256;
/// How often the first waiter of a process looks again: a release in another process sends no word.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Leases in a SQLite file; clones share its thread.
///
/// A call that finds itself alone is carried out at once, on its caller's thread: two wake-ups of threads cost more than its statements.
/// Whatever has to wait, for other calls, for another process's transaction or for an fsync, waits on the thread.
#[derive(Debug, Clone)]
pub struct SqliteLocks {
    /// Before `calls`: the thread lets go of the file last, so that closing it holds up no caller.
    file: Shared,
    calls: mpsc::Sender<Call>,
    /// How many calls of this process have no answer yet.
    asking: Arc<AtomicUsize>,
}

/// The file, to be worked on by one at a time.
#[derive(Clone)]
struct Shared(Arc<Mutex<File>>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("File(..)")
    }
}

/// A call without an answer, counted until it is dropped.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }

    fn is_alone(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 1
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug)]
pub(super) enum Call {
    Acquire(Ask, oneshot::Sender<Result<Tried>>),
    Renew(Vec<Renewal>, oneshot::Sender<Result<Vec<Option<Renewed>>>>),
    Release(Vec<Claim>, oneshot::Sender<Result<Vec<Release>>>),
    Inspect(LockKey, oneshot::Sender<Result<Option<LeaseRow>>>),
    List(Range, oneshot::Sender<Result<Vec<(LockKey, LeaseRow)>>>),
    TakeOver(Ask, oneshot::Sender<Result<Option<FencingToken>>>),
    Raise(FencingToken, oneshot::Sender<Result<()>>),
}

/// Which leases to list.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) prefix: String,
    pub(super) after: Option<LockKey>,
    pub(super) limit: usize,
}

impl SqliteLocks {
    /// Returns where the leases of a store file live: `app.db` has `app.locks.db` beside it.
    pub fn beside(store: &Path) -> PathBuf {
        let mut name: OsString = match store.extension() {
            Some(extension) if extension == "db" => store.file_stem().unwrap_or_default().to_owned(),
            _ => store.file_name().unwrap_or_default().to_owned(),
        };
        name.push(".locks.db");
        store.with_file_name(name)
    }

    /// Opens a lock file, and makes it if it is not there.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): SQLite is too old, or this system does not say which boot it is. `Backend`,
    /// `integrity_failure`: the file belongs to another program.
    pub async fn open(path: impl AsRef<Path>, clock: Clock) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let open = move || {
            let file = Arc::new(Mutex::new(File::open(&path, clock)?));
            let (calls, receiver) = mpsc::channel(QUEUE);
            let served = Arc::clone(&file);
            std::thread::Builder::new()
                .name("onward-locks".to_owned())
                .spawn(move || serve(&served, receiver))
                .map_err(|e| Error::unavailable("no thread for the locks").with_source(e))?;
            Ok(Self { file: Shared(file), calls, asking: Arc::default() })
        };
        tokio::task::spawn_blocking(open).await.map_err(|e| Error::unavailable("the locks could not be opened").with_source(e))?
    }

    async fn ask<T>(&self, call: impl FnOnce(oneshot::Sender<Result<T>>) -> Call) -> Result<T> {
        let asking = Asking::begin(&self.asking);
        let (answer, answered) = oneshot::channel();
        let mut call = Some(call(answer));
        if asking.is_alone() {
            // Others who are about to ask come first: many share one transaction on the thread.
            tokio::task::yield_now().await;
            if asking.is_alone()
                && let Some(file) = self.file.0.try_lock()
            {
                call = call.and_then(|call| file.at_once(call));
            }
        }
        if let Some(call) = call {
            self.calls.try_send(call).map_err(|e| match e {
                mpsc::error::TrySendError::Full(_) => Error::overloaded("too many lock calls wait", Duration::from_millis(20)),
                mpsc::error::TrySendError::Closed(_) => Error::unavailable("the locks' thread has ended"),
            })?;
        }
        answered.await.map_err(|_| Error::unknown("the locks' thread ended before it answered"))?
    }
}

/// Carries out the calls that had to wait, as many as there are in one transaction.
fn serve(file: &Mutex<File>, mut calls: mpsc::Receiver<Call>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = calls.blocking_recv() {
        let file = file.lock();
        file.be_patient();
        batch.push(first);
        while batch.len() < BATCH {
            let Ok(next) = calls.try_recv() else { break };
            batch.push(next);
        }
        // Whoever left is not given a lease.
        batch.retain(|call| !call.is_abandoned());
        if batch.iter().all(Call::may_only_look) {
            batch = batch.into_iter().filter_map(|call| file.look(call)).collect();
        }
        if !batch.is_empty() {
            file.carry_out(std::mem::take(&mut batch));
        }
        file.checkpoint();
    }
}

impl LockEngine for SqliteLocks {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { excludes_processes: true, look_again: LOOK_AGAIN }
    }

    fn try_acquire(&self, ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        Box::pin(self.ask(|answer| Call::Acquire(ask, answer)))
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        Box::pin(self.ask(|answer| Call::Renew(batch, answer)))
    }

    fn release(&self, batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        Box::pin(self.ask(|answer| Call::Release(batch, answer)))
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        Box::pin(self.ask(|answer| Call::Inspect(key, answer)))
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        Box::pin(self.ask(move |answer| Call::List(Range { prefix, after, limit }, answer)))
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        Box::pin(self.ask(|answer| Call::TakeOver(ask, answer)))
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.ask(move |answer| Call::Raise(newest, answer)))
    }
}

/// The answer to a [`Call`].
pub(super) enum Answer {
    Tried(Tried),
    Renewed(Vec<Option<Renewed>>),
    Released(Vec<Release>),
    Row(Option<LeaseRow>),
    Page(Vec<(LockKey, LeaseRow)>),
    Taken(Option<FencingToken>),
    Raised,
}

impl Call {
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Call::Acquire(_, answer) => answer.is_closed(),
            Call::Inspect(_, answer) => answer.is_closed(),
            Call::List(_, answer) => answer.is_closed(),
            Call::TakeOver(_, answer) => answer.is_closed(),
            // These are wanted whoever waits for their answer.
            Call::Renew(..) | Call::Release(..) | Call::Raise(..) => false,
        }
    }

    /// Whether a look may settle it. It must not overtake a release before it in the batch.
    fn may_only_look(&self) -> bool {
        matches!(self, Call::Acquire(..) | Call::Inspect(..) | Call::List(..))
    }

    pub(super) fn raised(&self) -> Option<u64> {
        match self {
            Call::Raise(newest, _) => Some(newest.get()),
            _ => None,
        }
    }

    /// Answers; whoever left needs no answer.
    pub(super) fn answer(self, answer: Answer) {
        match (self, answer) {
            (Call::Acquire(_, to), Answer::Tried(tried)) => drop(to.send(Ok(tried))),
            (Call::Renew(_, to), Answer::Renewed(renewed)) => drop(to.send(Ok(renewed))),
            (Call::Release(_, to), Answer::Released(released)) => drop(to.send(Ok(released))),
            (Call::Inspect(_, to), Answer::Row(row)) => drop(to.send(Ok(row))),
            (Call::List(_, to), Answer::Page(page)) => drop(to.send(Ok(page))),
            (Call::TakeOver(_, to), Answer::Taken(taken)) => drop(to.send(Ok(taken))),
            (Call::Raise(_, to), Answer::Raised) => drop(to.send(Ok(()))),
            (call, _) => call.refuse(&Error::integrity("a lock call with another call's answer")),
        }
    }

    pub(super) fn refuse(self, error: &Error) {
        match self {
            Call::Acquire(_, to) => drop(to.send(Err(error.again()))),
            Call::Renew(_, to) => drop(to.send(Err(error.again()))),
            Call::Release(_, to) => drop(to.send(Err(error.again()))),
            Call::Inspect(_, to) => drop(to.send(Err(error.again()))),
            Call::List(_, to) => drop(to.send(Err(error.again()))),
            Call::TakeOver(_, to) => drop(to.send(Err(error.again()))),
            Call::Raise(_, to) => drop(to.send(Err(error.again()))),
        }
    }
}
