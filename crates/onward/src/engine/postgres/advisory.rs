//! A lock inside the caller's own transaction: no lease, no fencing token, and gone with the transaction.
//!
//! For work that is nothing but statements of one transaction there is no late write to fence off: when the transaction has lost its
//! connection, nothing of it lands. Session locks are never used, since a pool or a pooler hands the session, and the lock in it, on.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::error;
use crate::model::LockKey;
use crate::{Code, Error, Kind, Result};

/// Takes a lock that ends with the transaction; waits at most `wait`.
///
/// Excludes every transaction of the same database that asks for the same key this way, and nobody else: a lease of
/// [`Locks`](crate::lock::Locks) on that key is another thing. Keys become 64-bit numbers, the first eight bytes of their SHA-256, so two
/// keys may rarely exclude each other. Taking it twice in one transaction is harmless. `wait` is at most 24 h, and zero does not wait.
///
/// # Errors
/// [`Kind::Contended`]: another transaction holds it; the transaction goes on. [`Kind::Invalid`]: the wait is too long.
/// [`Kind::Backend`]: the database failed.
///
/// # Cancel safety
/// A dropped call may have taken the lock; the transaction's end gives it back.
pub async fn advisory_xact(tx: &mut Transaction<'_>, key: &LockKey, wait: Duration) -> Result<()> {
    let number = number(key);
    let Ok(wait_ms) = i32::try_from(wait.as_millis()) else {
        return Err(Error::invalid("a wait is at most 24 h"));
    };
    if wait_ms > MOST_WAIT_MS {
        return Err(Error::invalid("a wait is at most 24 h"));
    }
    if wait_ms == 0 {
        let got = tx.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&number]).await.map_err(error::before_commit)?;
        return if got.get::<_, bool>(0) { Ok(()) } else { Err(contended()) };
    }
    // A time-out aborts what it stands in: the savepoint keeps the caller's work, and the time-out that was set before comes back.
    let inner = tx.savepoint("onward_lock").await.map_err(error::before_commit)?;
    let set = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', $1, true)";
    let before = inner.query_one(set, &[&wait_ms.to_string()]).await.map_err(error::before_commit)?;
    match inner.execute("SELECT pg_advisory_xact_lock($1)", &[&number]).await {
        Ok(_) => {
            let before: String = before.get(0);
            inner.execute("SELECT set_config('lock_timeout', $1, true)", &[&before]).await.map_err(error::before_commit)?;
            inner.commit().await.map_err(error::before_commit)
        }
        Err(failed) if failed.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            inner.rollback().await.map_err(error::before_commit)?;
            Err(contended())
        }
        Err(failed) => Err(error::before_commit(failed)),
    }
}

/// Longest wait, 24 h.
const MOST_WAIT_MS: i32 = 24 * 60 * 60 * 1000;

fn contended() -> Error {
    Error::new(Kind::Contended, Code::ResourceLocked, "another transaction holds the lock")
}

/// The first eight bytes of the key's SHA-256.
fn number(key: &LockKey) -> i64 {
    let hash = Sha256::digest(key.as_str().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    i64::from_be_bytes(first)
}
