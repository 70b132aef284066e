//! The change log: the state before each change, and on a commit's first row what it did beside objects.

use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::connection::Param;
use super::rows::{self, STATE, col, damaged, number, signed};
use crate::commit::engine::At;
use crate::commit::{Change, ChangeOp, Note, Past, Prune, Pruned, ROW_BYTES, Record};
use crate::model::limits::PAGE_BYTES;
use crate::model::{Key, Object, Revision};
use crate::{Error, Result};

/// Rows of one revision stand together: id = revision * 256 + ord, and a commit has at most 128 changes.
pub(super) const ROWS: u64 = 256;

/// The columns of the state before a change, as the log names them.
const BEFORE: [&str; 10] =
    ["uid", "before_version", "revision", "create_revision", "content_type", "payload", "created_at", "updated_at", "labels", "expires_at"];

fn columns(of: &str, names: &[&str]) -> String {
    names.iter().map(|name| format!("{of}.{name}")).collect::<Vec<_>>().join(", ")
}

/// The columns of an object of the table `of`.
pub(super) fn state(of: &str) -> String {
    columns(of, &STATE)
}

/// The columns of the state before a change of the table `of`.
pub(super) fn before(of: &str) -> String {
    columns(of, &BEFORE)
}

/// Rows of the log in columns, as one statement takes them.
#[derive(Default)]
pub(super) struct Rows<'a> {
    id: Vec<i64>,
    at: Vec<i64>,
    op: Vec<&'static str>,
    namespace: Vec<Option<&'a str>>,
    kind: Vec<Option<&'a str>>,
    name: Vec<Option<&'a str>>,
    version: Vec<Option<i64>>,
    note: Vec<Option<String>>,
    uid: Vec<Option<Uuid>>,
    before_version: Vec<Option<i64>>,
    revision: Vec<Option<i64>>,
    create_revision: Vec<Option<i64>>,
    content_type: Vec<Option<&'a str>>,
    payload: Vec<Option<&'a [u8]>>,
    created_at: Vec<Option<i64>>,
    updated_at: Vec<Option<i64>>,
    labels: Vec<Option<String>>,
    expires_at: Vec<Option<i64>>,
    bytes: Vec<i64>,
    after_bytes: Vec<i64>,
}

pub(super) const APPEND: &str =
    "INSERT INTO onward_changes (id, at, op, namespace, kind, name, version, note, uid, before_version, revision,
    create_revision, content_type, payload, created_at, updated_at, labels, expires_at, bytes, after_bytes)
  SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::uuid[],
    $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::bytea[], $15::bigint[], $16::bigint[], $17::text[], $18::bigint[],
    $19::bigint[], $20::bigint[])";

impl<'a> Rows<'a> {
    /// Lays commits out; one that changes no object has a row of its own.
    pub(super) fn of(records: &'a [Arc<Record>]) -> Result<Self> {
        let mut rows = Self::default();
        for record in records {
            let first = signed(record.revision.get() * ROWS)?;
            let note = Note::of(record);
            let mut note = note.text()?;
            if record.changes.is_empty() {
                rows.add(first, record, None, note.take())?;
            }
            for (id, change) in (first..).zip(&record.changes) {
                rows.add(id, record, Some(change), note.take())?;
            }
        }
        Ok(rows)
    }

    fn add(&mut self, id: i64, record: &Record, change: Option<&'a Change>, note: Option<String>) -> Result<()> {
        let before = change.and_then(|change| change.before.as_deref());
        let meta = before.map(|object| &object.meta);
        let payload = before.map(|object| &object.value.bytes()[..]);
        let labels = meta.map(|meta| rows::labels_text(&meta.labels)).transpose()?.flatten();
        let lengths = [payload.map(<[u8]>::len), labels.as_ref().map(String::len), note.as_ref().map(String::len)];
        let after = change.and_then(|change| change.after.as_ref()).map_or(0, |object| object.value.bytes().len());
        self.bytes.push(signed(lengths.into_iter().flatten().sum::<usize>() as u64 + ROW_BYTES)?);
        self.after_bytes.push(signed(after as u64)?);
        self.id.push(id);
        self.at.push(record.at.as_micros());
        self.op.push(match change.map(|change| change.op) {
            None => "commit",
            Some(ChangeOp::Put) => "put",
            Some(ChangeOp::Delete) => "delete",
            Some(ChangeOp::Expire) => "expire",
        });
        self.namespace.push(change.map(|change| change.key.namespace()));
        self.kind.push(change.map(|change| change.key.kind()));
        self.name.push(change.map(|change| change.key.name()));
        self.version.push(change.map(|change| signed(change.version.get())).transpose()?);
        self.note.push(note);
        self.uid.push(meta.map(|meta| meta.uid));
        self.before_version.push(meta.map(|meta| signed(meta.version.get())).transpose()?);
        self.revision.push(meta.map(|meta| signed(meta.revision.get())).transpose()?);
        self.create_revision.push(meta.map(|meta| signed(meta.create_revision.get())).transpose()?);
        self.content_type.push(before.map(|object| object.value.content_type()));
        self.payload.push(payload);
        self.created_at.push(meta.map(|meta| meta.created_at.as_micros()));
        self.updated_at.push(meta.map(|meta| meta.updated_at.as_micros()));
        self.labels.push(labels);
        self.expires_at.push(meta.and_then(|meta| meta.expires_at).map(|at| at.as_micros()));
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.id.is_empty()
    }

    /// Returns what the rows count in the log.
    pub(super) fn bytes(&self) -> i64 {
        self.bytes.iter().sum()
    }

    /// The parameters of [`APPEND`].
    pub(super) fn params(&self) -> Vec<Param<'_>> {
        vec![
            (&self.id, Type::INT8_ARRAY),
            (&self.at, Type::INT8_ARRAY),
            (&self.op, Type::TEXT_ARRAY),
            (&self.namespace, Type::TEXT_ARRAY),
            (&self.kind, Type::TEXT_ARRAY),
            (&self.name, Type::TEXT_ARRAY),
            (&self.version, Type::INT8_ARRAY),
            (&self.note, Type::TEXT_ARRAY),
            (&self.uid, Type::UUID_ARRAY),
            (&self.before_version, Type::INT8_ARRAY),
            (&self.revision, Type::INT8_ARRAY),
            (&self.create_revision, Type::INT8_ARRAY),
            (&self.content_type, Type::TEXT_ARRAY),
            (&self.payload, Type::BYTEA_ARRAY),
            (&self.created_at, Type::INT8_ARRAY),
            (&self.updated_at, Type::INT8_ARRAY),
            (&self.labels, Type::TEXT_ARRAY),
            (&self.expires_at, Type::INT8_ARRAY),
            (&self.bytes, Type::INT8_ARRAY),
            (&self.after_bytes, Type::INT8_ARRAY),
        ]
    }
}

/// Reads changes with the states before and after them: the state after is what stood before the next change of the same object, or the
/// row itself. `which` names rows `c` of the log.
fn changes(which: &str) -> String {
    let after: Vec<_> = STATE.iter().zip(BEFORE).map(|(now, then)| format!("coalesce(n.{then}, o.{now})")).collect();
    format!(
        "SELECT c.id, c.at, c.op, c.namespace, c.kind, c.name, c.version, c.note, {}, {}
         FROM ({which}) AS c
         LEFT JOIN LATERAL (SELECT * FROM onward_changes AS n WHERE c.op = 'put' AND n.namespace = c.namespace AND n.kind = c.kind
           AND n.name = c.name AND n.name IS NOT NULL AND n.id > c.id ORDER BY n.id LIMIT 1) AS n ON true
         LEFT JOIN onward_objects AS o ON c.op = 'put' AND n.id IS NULL AND o.namespace = c.namespace AND o.kind = c.kind AND o.name = c.name",
        before("c"),
        after.join(", "),
    )
}

/// Reads whole commits, [`from`] the first row of the one up to below the other; no more once those before hold a page's bytes (C7).
pub(super) fn read_sql() -> String {
    let page = format!(
        "SELECT * FROM (SELECT *, sum(bytes + after_bytes) OVER (ORDER BY id / {ROWS}) - sum(bytes + after_bytes) OVER (PARTITION BY id / {ROWS})
           AS passed FROM onward_changes WHERE id >= $1 AND id < $2) AS page WHERE passed < {PAGE_BYTES}"
    );
    format!("{} ORDER BY c.id", changes(&page))
}

pub(super) const NOTES: &str =
    "SELECT id, at, 'commit', NULL, NULL, NULL, NULL, note FROM onward_changes WHERE id >= $1 AND id < $2 ORDER BY id";

/// From which row, and up to below which, commits after a revision stand, at most `limit`.
pub(super) fn range(after: Revision, limit: usize) -> Result<(i64, i64)> {
    let last = after.get().saturating_add(limit as u64);
    Ok((first_row(after.get().saturating_add(1))?, first_row(last.saturating_add(1))?))
}

/// The first row of a revision.
pub(super) fn first_row(revision: u64) -> Result<i64> {
    signed(revision.saturating_mul(ROWS).min(i64::MAX.unsigned_abs()))
}

/// Joins rows to commits.
pub(super) fn records(rows: &[Row]) -> Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    for row in rows {
        let revision = Revision::new(number(row, 0)? / ROWS).map_err(damaged)?;
        if records.last().is_none_or(|record| record.revision != revision) {
            let note: Option<&str> = col(row, 7)?;
            let Note { invalidations, entries, request } = Note::read(note)?;
            records.push(Record { revision, at: rows::at(row, 1)?, changes: Vec::new(), invalidations, entries, request });
        }
        if let (Some(change), Some(record)) = (change(row)?, records.last_mut()) {
            record.changes.push(change);
        }
    }
    Ok(records)
}

fn change(row: &Row) -> Result<Option<Change>> {
    let op = match col(row, 2)? {
        "put" => ChangeOp::Put,
        "delete" => ChangeOp::Delete,
        "expire" => ChangeOp::Expire,
        _ => return Ok(None),
    };
    if row.len() == 8 {
        return Ok(None);
    }
    let key = rows::key(row, 3)?;
    let (before, after) = (rows::state(row, key.clone(), 8)?, rows::state(row, key.clone(), 18)?);
    Ok(Some(Change { op, version: rows::version(row, 6)?, before, after, key }))
}

/// Reads the changes of an object below a row, the newest first: at most $5, and none after those that hold a page's bytes.
pub(super) fn history_sql() -> String {
    let page = format!(
        "SELECT * FROM (SELECT *, sum(bytes + after_bytes) OVER (ORDER BY id DESC) - bytes - after_bytes AS passed FROM
           (SELECT * FROM onward_changes WHERE namespace = $1 AND kind = $2 AND name = $3 AND name IS NOT NULL AND id < $4
            ORDER BY id DESC LIMIT $5) AS newest) AS page WHERE passed < {PAGE_BYTES}"
    );
    format!("{} ORDER BY c.id DESC", changes(&page))
}

/// Reads history from the rows of [`history_sql`].
pub(super) fn history(rows: &[Row]) -> Result<Vec<Past>> {
    let mut past = Vec::with_capacity(rows.len());
    for row in rows {
        let (revision, at) = (Revision::new(number(row, 0)? / ROWS).map_err(damaged)?, rows::at(row, 1)?);
        past.extend(change(row)?.map(|change| Past { revision, at, change }));
    }
    Ok(past)
}

/// What stood before the first later change of the object, and the row itself: later than the row $4, or than the version $4.
pub(super) fn state_at_sql(at: At) -> String {
    let later = match at {
        At::Revision(_) => "id > $4",
        At::Version(_) => "version > $4",
    };
    format!(
        "SELECT true, {} FROM (SELECT * FROM onward_changes WHERE namespace = $1 AND kind = $2 AND name = $3 AND name IS NOT NULL AND {later}
           ORDER BY id LIMIT 1) AS c
         UNION ALL SELECT false, {} FROM onward_objects AS o WHERE namespace = $1 AND kind = $2 AND name = $3",
        before("c"),
        state("o"),
    )
}

/// Reads the state at a moment from the rows of [`state_at_sql`].
pub(super) fn state_at(rows: &[Row], key: &Key, at: At) -> Result<Option<Arc<Object>>> {
    let (mut earlier, mut current) = (None, None);
    for row in rows {
        *(if col(row, 0)? { &mut earlier } else { &mut current }) = Some(row);
    }
    let found = earlier.or(current).map(|row| rows::state(row, key.clone(), 1)).transpose()?.flatten();
    Ok(found.filter(|object| match at {
        At::Revision(_) => true,
        At::Version(version) => object.meta.version == version,
    }))
}

/// Sums up the oldest commits of the log, $1 at most.
pub(super) const OLDEST: &str = "SELECT onward_changes.id / 256, max(at), sum(bytes)::bigint, count(*) FROM onward_changes, onward_meta
     WHERE onward_changes.id >= (compacted + 1) * 256 AND onward_changes.id < (compacted + 1 + $1) * 256 GROUP BY 1 ORDER BY 1";

/// What pruning takes off: the new mark, its bytes, and whether there is more to do.
pub(super) fn prune(facts: &Row, oldest: &[Row], prune: &Prune) -> Result<(Pruned, i64)> {
    let (mut compacted, newest, mut bytes) = (number(facts, 0)?, number(facts, 1)?, number(facts, 2)?);
    let (mut rows, mut size) = (0, 0);
    for row in oldest {
        if rows >= prune.rows {
            break;
        }
        let next = compacted + 1;
        if number(row, 0)? != next {
            return Err(Error::integrity("the change log has a gap"));
        }
        if !prune.takes(Revision::new(next).map_err(damaged)?, rows::at(row, 1)?, bytes) {
            return Ok((Pruned { compacted: Revision::new(compacted).map_err(damaged)?, more: false }, size));
        }
        rows += usize::try_from(number(row, 3)?).unwrap_or(0);
        size += col::<i64>(row, 2)?;
        bytes = bytes.saturating_sub(number(row, 2)?);
        compacted = next;
    }
    if oldest.is_empty() && compacted < newest {
        return Err(Error::integrity("the change log has a gap"));
    }
    Ok((Pruned { compacted: Revision::new(compacted).map_err(damaged)?, more: compacted < newest }, size))
}
