//! Looks whether the rows of a store contradict each other: whether each can be read, and the numbers that must fit together.

use tokio_postgres::Client;

use super::error::before_commit;
use super::rows::col;
use crate::observe::{Finding, Grade};
use crate::{Error, Result};

/// What to do about any of them.
const FIX: &str = "stop writing, keep a copy of the database, and restore the newest backup that is sound";

/// The tables whose rows are read whole, the long values beside them as well.
const TABLES: &[&str] =
    &["meta", "objects", "labels", "changes", "fences", "requests", "chains", "heads", "entries", "leases", "tokens", "writers"];

/// What must hold between the tables, and a count of the breaches.
const RULES: &[(&str, &str, &str)] = &[
    (
        "store.objects",
        "objects of a revision that no commit has reached",
        "SELECT count(*) FROM onward_objects WHERE revision > (SELECT revision FROM onward_meta)",
    ),
    (
        "store.labels",
        "labels that an object and the index of labels do not agree on",
        "SELECT count(*) FROM (SELECT namespace, kind, name, l.key, l.value FROM onward_objects AS o, json_each_text(o.labels::json) AS l) AS o
         FULL JOIN onward_labels AS l USING (namespace, kind, name, key, value) WHERE o IS NULL OR l IS NULL",
    ),
    (
        "store.log",
        "commits missing in the change log, or beyond its bounds",
        "SELECT abs(m.revision - m.compacted - (SELECT count(DISTINCT id / 256) FROM onward_changes WHERE id / 256 > m.compacted))
             + (SELECT count(*) FROM onward_changes WHERE id / 256 > m.revision OR id / 256 <= m.compacted) FROM onward_meta AS m",
    ),
    (
        "store.heads",
        "chains whose head is not their last entry",
        "SELECT count(*) FROM onward_heads AS h LEFT JOIN onward_entries AS e ON e.chain = h.chain AND e.seq = h.seq
         WHERE e.hash IS DISTINCT FROM h.hash OR h.seq < (SELECT max(seq) FROM onward_entries WHERE chain = h.chain)",
    ),
];

/// Reads a whole store on a connection of its own: it takes as long as the store is large.
pub(super) async fn inspect(client: &Client) -> Result<Vec<Finding>> {
    // One moment for all rules; whoever drops the future drops the connection.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0";
    client.batch_execute(begin).await.map_err(before_commit)?;
    for table in TABLES {
        // The text of a row has every value of it, from wherever it is kept.
        let read = client.query_typed(&format!("SELECT sum(octet_length(t::text)) FROM onward_{table} AS t"), &[]).await;
        match read.map_err(before_commit) {
            Ok(_) => {}
            Err(error) if error.code() == crate::Code::IntegrityFailure => {
                // Nothing that is counted in damaged tables says anything.
                return Ok(vec![Finding::bad("store.rows", Grade::Failure, format!("rows of onward_{table} cannot be read"), FIX)]);
            }
            Err(error) => return Err(error),
        }
    }
    let mut found = vec![Finding::fine("store.rows", "every row can be read")];
    for (check, what, sql) in RULES {
        let rows = client.query_typed(sql, &[]).await.map_err(before_commit)?;
        let breaches: i64 = col(rows.first().ok_or_else(|| Error::integrity("the facts of the store are gone"))?, 0)?;
        found.push(Finding::of(check, breaches == 0, Grade::Failure, format!("{breaches} {what}"), FIX));
    }
    Ok(found)
}
