//! What `doctor` says of a database: the server, its settings, what stands between, how fast it answers.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::commit::PostgresStore;
use super::rows::{self, col};
use crate::commit::engine::CommitEngine;
use crate::observe::{Finding, Grade};
use crate::time::Clock;
use crate::{Error, Result, retry};

/// How long it waits for a word to come through, at least, which includes that its listener connects.
const WAKE: Duration = Duration::from_secs(2);

/// An exchange that takes longer than this makes every write slow.
const SLOW_MS: u128 = 5;

pub(super) async fn check(store: &PostgresStore) -> Result<Vec<Finding>> {
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('synchronous_commit'),
         current_setting('fsync'), current_setting('full_page_writes'), log_bytes, revision - compacted,
         (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::bigint FROM pg_stat_activity
          WHERE datname = current_database() AND state LIKE 'idle in transaction%'),
         (SELECT count(*) FROM pg_stat_activity
          WHERE datname = current_database() AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '1 second')
       FROM onward_meta";
    let rows = store.select(sql, &[]).await?;
    let row = rows.first().ok_or_else(|| Error::integrity("the facts of the store are gone"))?;
    let begun = store.clock().now();
    store.select("SELECT 1", &[]).await?;
    let took = store.clock().now().since(begun);
    let mut found = settings(row)?;
    found.push(Finding::of(
        "postgres.latency",
        took.as_millis() <= SLOW_MS,
        Grade::Warning,
        format!("an exchange with the server takes {} us", took.as_micros()),
        "bring the replicas closer to the server: each write takes two exchanges",
    ));
    found.push(Finding::of(
        "postgres.pooler",
        is_woken(store).await?,
        Grade::Warning,
        "whether a NOTIFY of one session reaches the LISTEN of another".to_owned(),
        "a pooler in transaction mode stands between: all holds, but readers of the change feed look by themselves, and each statement is planned anew; connect directly",
    ));
    Ok(found)
}

/// Tells whether words of other sessions come through: sends a harmless one, and listens for it as the change feed does.
async fn is_woken(store: &PostgresStore) -> Result<bool> {
    let meta = store.meta().await?;
    let Some(mut words) = store.heard() else { return Ok(false) };
    let word = super::word(meta.epoch, meta.revision);
    let until = Clock::system().now() + WAKE;
    while Clock::system().now() < until {
        words.mark_unchanged();
        store.select("SELECT pg_notify($1, $2)", &[(&super::CHANNEL, Type::TEXT), (&word, Type::TEXT)]).await?;
        let one = Clock::system().now() + WAKE / 10;
        if retry::deadline(&Clock::system(), one, words.changed()).await.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn settings(row: &Row) -> Result<Vec<Finding>> {
    let (number, version): (i32, &str) = (col(row, 0)?, col(row, 1)?);
    let on = |index| Ok::<_, Error>(col::<&str>(row, index)? == "on");
    let (idle, waiting): (i64, i64) = (col(row, 7)?, col(row, 8)?);
    Ok(vec![
        Finding::of("postgres.version", number >= 130_000, Grade::Failure, format!("server {version}"), "use Postgres 13 or newer"),
        Finding::of(
            "postgres.fsync",
            on(3)? && on(4)?,
            Grade::Failure,
            format!("fsync {}, full_page_writes {}", col::<&str>(row, 3)?, col::<&str>(row, 4)?),
            "switch both on: without them a power loss damages the store",
        ),
        Finding::of(
            "postgres.synchronous_commit",
            on(2)? || col::<&str>(row, 2)? == "remote_apply",
            Grade::Warning,
            format!("the role's default is {}", col::<&str>(row, 2)?),
            "every write sets it on for itself; other programs with this role do not",
        ),
        Finding::of(
            "postgres.idle",
            idle < 60,
            Grade::Warning,
            format!("the oldest idle transaction is {idle} s old"),
            "find the program that keeps a transaction open: it keeps the server from cleaning up",
        ),
        Finding::of(
            "postgres.locks",
            waiting == 0,
            Grade::Warning,
            format!("{waiting} sessions have waited for another's lock for longer than a second"),
            "find who holds it with pg_blocking_pids(): writes that wait for five seconds are refused",
        ),
        Finding::fine("postgres.log", format!("{} commits, {} bytes", rows::number(row, 6)?, rows::number(row, 5)?)),
    ])
}
