//! Reading threads, each with its own connection that cannot write.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::connection;
use crate::{Error, Result};

/// How many reads run at a time.
const READERS: usize = 2;
/// How many reads wait (C7).
const QUEUE: usize = 1_024;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A pool of reading threads; they end when it is dropped.
#[derive(Debug, Clone)]
pub(super) struct Readers(mpsc::Sender<Job>);

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (sender, receiver) = mpsc::channel::<Job>(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..READERS {
            let mut connection = connection::open_reader(path)?;
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name("onward-reader".to_owned())
                .spawn(move || {
                    loop {
                        // Held while waiting: one idle thread waits for a job, the others for their turn to wait.
                        let job = receiver.lock().blocking_recv();
                        let Some(job) = job else { return };
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
