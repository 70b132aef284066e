//! Reading threads, each with its own connection that cannot write.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection;
use super::error::before_commit;
use crate::time::Clock;
use crate::{Error, Result};

/// How many reads run at a time.
const READERS: usize = 2;
/// How many reads wait (C7).
const QUEUE: usize = 1_024;

/// How many steps of SQLite's machine lie between two looks at the clock.
const STEPS: i32 = 4_000;

/// Ends what a connection does when its time is over. A read transaction keeps the log from being folded.
struct Limit {
    until: Arc<AtomicU64>,
    clock: Clock,
}

impl Limit {
    fn on(connection: &mut Connection) -> Result<Self> {
        // The machine's clock, also in tests that move another: what it guards is the machine.
        let limit = Self { until: Arc::new(AtomicU64::new(u64::MAX)), clock: Clock::system() };
        let (until, clock) = (limit.until.clone(), limit.clock.clone());
        let is_over = move || clock.now().as_nanos() > until.load(Ordering::Relaxed);
        connection.progress_handler(STEPS, Some(is_over)).map_err(before_commit)?;
        Ok(limit)
    }

    fn begin(&self, longest: Duration) {
        self.until.store((self.clock.now() + longest).as_nanos(), Ordering::Relaxed);
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A pool of reading threads; they end when it is dropped.
#[derive(Debug, Clone)]
pub(super) struct Readers(mpsc::Sender<Job>);

impl Readers {
    /// Starts the threads; a read that takes longer than `longest` is ended.
    pub(super) fn open(path: &Path, longest: Duration) -> Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..READERS {
            let mut connection = connection::open_reader(path)?;
            let receiver = receiver.clone();
            let limit = Limit::on(&mut connection)?;
            std::thread::Builder::new()
                .name("onward-reader".to_owned())
                .spawn(move || {
                    loop {
                        // Held while waiting: one idle thread waits for a job, the others for their turn to wait.
                        let job = receiver.lock().blocking_recv();
                        let Some(job) = job else { return };
                        limit.begin(longest);
                        job(&mut connection);
                    }
                })
                .map_err(|e| Error::unavailable("no thread for a reader").with_source(e))?;
        }
        Ok(Self(sender))
    }

    /// Runs one read on a reading thread.
    pub(super) async fn run<T: Send + 'static>(&self, read: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Whoever left needs no answer.
            let _ = answer.send(read(connection));
        });
        self.0.try_send(job).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => Error::overloaded("too many reads wait", Duration::from_millis(20)),
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("the readers have ended"),
        })?;
        answered.await.map_err(|_| Error::unavailable("the reader ended before it answered"))?
    }
}
