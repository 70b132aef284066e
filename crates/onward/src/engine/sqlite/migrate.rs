//! Making the schema of a new store file, under the write lock, so that several processes may open it at once.

use rusqlite::{Connection, TransactionBehavior};

use super::backup;
use super::error::before_commit;
use crate::time::Timestamp;
use crate::{Error, Result, random};

/// The schema that this library writes.
const VERSION: i64 = 1;

/// Makes the schema if the file is empty; refuses a newer one than this library knows.
pub(super) fn migrate(connection: &mut Connection, now: Timestamp) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(before_commit)?;
    let there: i64 =
        tx.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'onward_meta'", [], |row| row.get(0)).map_err(before_commit)?;
    if there == 0 {
        tx.execute_batch(include_str!("schema.sql")).map_err(before_commit)?;
        let epoch = crate::model::Epoch::from_bits(u64::from_le_bytes(random::bytes()));
        tx.execute(
            "INSERT INTO onward_meta (id, schema_version, epoch, revision, version_floor, restore_floor, compacted, log_bytes, newest_token, at, origin, created_at,
               is_copy)
             VALUES (1, ?1, ?2, 0, 0, 0, 0, 0, 0, 0, ?3, ?4, 0)",
            (VERSION, epoch.to_string(), format!("onward.local/{}", random::uuid_v4()), now.as_micros()),
        )
        .map_err(before_commit)?;
    } else {
        let found: i64 = tx.query_row("SELECT schema_version FROM onward_meta", [], |row| row.get(0)).map_err(before_commit)?;
        if found != VERSION {
            return Err(Error::unsupported("the store was written by a newer version of onward"));
        }
        backup::restore(&tx, now)?;
    }
    tx.commit().map_err(super::error::at_commit)
}
