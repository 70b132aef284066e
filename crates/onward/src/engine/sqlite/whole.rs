//! Work that reads a whole store file: it has a connection and a thread of its own, and ends when nobody waits for it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;

use super::error::before_commit;
use crate::{Error, Result};

/// How many steps of SQLite's machine lie between two looks at whether it is still wanted.
const STEPS: i32 = 4_000;

/// Whether somebody still waits for the work.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    /// Ends what the connection does when nobody waits for it, or when `is_in_the_way` says so.
    pub(super) fn watch(&self, connection: &mut Connection, is_in_the_way: impl Fn() -> bool + Send + 'static) -> Result<()> {
        let left = self.0.clone();
        let is_over = move || left.load(Ordering::Relaxed) || is_in_the_way();
        connection.progress_handler(STEPS, Some(is_over)).map_err(before_commit)
    }
}

/// The call that waits: dropped with it.
struct Caller(Wanted);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Does the work where it may block; a caller who leaves ends it.
pub(super) async fn read<T: Send + 'static>(failed: &'static str, work: impl FnOnce(&Wanted) -> Result<T> + Send + 'static) -> Result<T> {
    let caller = Caller(Wanted::default());
    let wanted = caller.0.clone();
    let done = tokio::task::spawn_blocking(move || work(&wanted)).await;
    done.map_err(|e| Error::unavailable(failed).with_source(e))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends() {
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (ended, ends) = tokio::sync::oneshot::channel();
        let call = tokio::spawn(read("it panicked", move |wanted| {
            let mut connection = Connection::open_in_memory().unwrap();
            wanted.watch(&mut connection, || false)?;
            begun.send(()).unwrap();
            let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
            let counted = connection.query_row(endless, [], |_| Ok(())).map_err(before_commit);
            ended.send(counted.unwrap_err().kind()).unwrap();
            Ok(())
        }));
        begins.await.unwrap();
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(ends.await.unwrap(), crate::Kind::Overloaded);
    }
}
