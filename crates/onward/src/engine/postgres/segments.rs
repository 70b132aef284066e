//! Rows of segments that go or come: one short transaction beside the commits, on a connection of its own.
//!
//! The whole transaction is sent at once, so a worker that stops in the middle of it holds nothing up: the server carries it out without
//! him. It touches neither the counter's row nor a head, so no append waits for it. Only a commit that changes the segment or the holds
//! does, and the batch after it sees what changed.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::commit::PostgresStore;
use super::connection::{BEGIN, COMMIT, Param, Step};
use super::migrate;
use super::plan::{Entries, INSERT_ENTRIES, Keys};
use super::rows::{col, number, signed};
use crate::audit::engine::{Batch, Batched, Moved};
use crate::commit::Guard;
use crate::{Error, Result, random};

/// Locks what is there, in the order of the keys, as a commit does.
const LOCK: &str = "SELECT 1 FROM onward_objects AS o JOIN unnest($1::text[], $2::text[], $3::text[]) AS w(namespace, kind, name)
       ON o.namespace = w.namespace AND o.kind = w.kind AND o.name = w.name ORDER BY o.namespace, o.kind, o.name FOR SHARE OF o";
/// Keeps the places of what must be absent by objects of the batch's own, which nobody else ever sees: whoever makes one waits.
const KEEP: &str =
    "INSERT INTO onward_objects (namespace, kind, name, uid, version, revision, create_revision, content_type, payload, created_at, updated_at)
     SELECT namespace, kind, name, $6, 1, 0, 0, '', '', 0, 0
     FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS w(namespace, kind, name, absent) WHERE absent
     ORDER BY namespace, kind, name ON CONFLICT DO NOTHING";
/// Takes them back.
const FREE: &str =
    "DELETE FROM onward_objects AS o USING unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS w(namespace, kind, name, absent)
     WHERE absent AND o.namespace = w.namespace AND o.kind = w.kind AND o.name = w.name AND o.uid = $6";
/// Lets the batch move rows, if every guard holds and the schema is this library's.
const ALLOW: &str = "INSERT INTO onward_purging (chain, from_seq, to_seq)
     SELECT id, $8, $9 FROM onward_chains WHERE name = $7 AND (SELECT schema_version = $10 FROM onward_meta) AND cardinality($1::text[]) =
       (SELECT count(*) FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[], $5::bigint[]) AS w(namespace, kind, name, absent, version)
        JOIN onward_objects AS o ON o.namespace = w.namespace AND o.kind = w.kind AND o.name = w.name
        WHERE absent = (o.uid = $6) AND o.version = coalesce(w.version, o.version))";
/// Deletes what stands there with these very hashes and is no control entry.
const DELETE: &str = "WITH moved AS (DELETE FROM onward_entries AS e USING onward_purging AS p, unnest($1::bigint[], $2::bytea[]) AS w(seq, hash)
       WHERE e.chain = p.chain AND e.seq = w.seq AND e.seq BETWEEN p.from_seq AND p.to_seq AND e.hash = w.hash AND e.flags & 1 = 0 RETURNING 1)
     SELECT count(*) FROM moved";
/// Says whether the batch was let move rows, and lets it no more.
const END: &str = "WITH allowed AS (DELETE FROM onward_purging RETURNING 1)
     SELECT (SELECT count(*) FROM allowed), (SELECT count(*) FROM onward_chains WHERE name = $1), schema_version FROM onward_meta";

/// Guards in columns.
struct Guards<'a> {
    of: Keys<'a>,
    absent: Vec<bool>,
    version: Vec<Option<i64>>,
    /// The identity of the batch's own objects.
    own: Uuid,
}

impl<'a> Guards<'a> {
    fn of(guards: &'a [Guard]) -> Result<Self> {
        let mut columns = Self { of: Keys::default(), absent: Vec::new(), version: Vec::new(), own: random::uuid_v4() };
        for guard in guards {
            columns.of.push(guard.key());
            columns.absent.push(matches!(guard, Guard::Absent(_)));
            columns.version.push(match guard {
                Guard::At(_, version) => Some(signed(version.get())?),
                Guard::Absent(_) | Guard::Exists(_) => None,
            });
        }
        Ok(columns)
    }

    /// Parameters 1 to 6 of every statement.
    fn params(&self) -> Vec<Param<'_>> {
        let mut params = self.of.params();
        params.extend([(&self.absent as _, Type::BOOL_ARRAY), (&self.version as _, Type::INT8_ARRAY), (&self.own as _, Type::UUID)]);
        params
    }
}

/// The rows of a batch in columns.
enum Rows<'a> {
    Out { seq: Vec<i64>, hash: Vec<&'a [u8]> },
    In(Box<Entries<'a>>),
}

impl<'a> Rows<'a> {
    fn of(batch: &'a Batch) -> Result<Self> {
        Ok(match &batch.rows {
            Moved::Out(rows) => Self::Out {
                seq: rows.iter().map(|(seq, _)| signed(*seq)).collect::<Result<_>>()?,
                hash: rows.iter().map(|(_, hash)| hash.as_bytes().as_slice()).collect(),
            },
            Moved::In(entries) => {
                let mut columns = Box::<Entries<'_>>::default();
                entries.iter().try_for_each(|entry| columns.push(&batch.chain, entry))?;
                Self::In(columns)
            }
        })
    }

    /// The range in which rows may go: none where rows come.
    fn range(&self) -> (i64, i64) {
        match self {
            Self::Out { seq, .. } => seq.first().copied().zip(seq.last().copied()).unwrap_or((1, 0)),
            Self::In(_) => (1, 0),
        }
    }
}

impl PostgresStore {
    /// Carries a batch out.
    pub(super) async fn move_now(&self, batch: &Batch) -> Result<Batched> {
        let (guards, rows) = (Guards::of(&batch.guards)?, Rows::of(batch)?);
        let (chain, (from, to)) = (batch.chain.as_str(), rows.range());
        let mut allow = guards.params();
        allow.extend([(&chain as _, Type::TEXT), (&from as _, Type::INT8), (&to as _, Type::INT8), (&migrate::VERSION as _, Type::INT4)]);
        let insert = format!(
            "WITH moved AS ({INSERT_ENTRIES} WHERE EXISTS (SELECT FROM onward_purging) ON CONFLICT DO NOTHING RETURNING 1)
             SELECT count(*) FROM moved"
        );
        let moved = match &rows {
            Rows::Out { seq, hash } => Step::With(DELETE, vec![(seq, Type::INT8_ARRAY), (hash, Type::BYTEA_ARRAY)]),
            Rows::In(entries) => Step::With(&insert, entries.params()),
        };
        let steps = [
            Step::Plain(BEGIN),
            Step::With(LOCK, guards.params()),
            Step::With(KEEP, guards.params()),
            Step::With(ALLOW, allow),
            moved,
            Step::With(END, vec![(&chain, Type::TEXT)]),
            Step::With(FREE, guards.params()),
            Step::Plain(COMMIT),
        ];
        let lent = self.lend().await?;
        let answers = lent.transact(&steps).await?;
        lent.done();
        let row = |index: usize| answers.get(index).and_then(|rows| rows.first());
        let (Some(moved), Some(end)) = (row(4), row(5)) else { return Err(Error::integrity("the facts of the store are gone")) };
        match (number(end, 0)?, number(end, 1)?, col::<i32>(end, 2)?) {
            (_, _, schema) if schema != migrate::VERSION => Err(migrate::other(schema)),
            (_, 0, _) => Err(Error::not_found("no such chain")),
            (0, _, _) => Ok(Batched::Refused),
            _ => Ok(Batched::Done(number(moved, 0)?)),
        }
    }
}
