//! Rows of segments that go or come, and chains from elsewhere.
//!
//! A batch is one short transaction beside the commits, on a connection of its own.
//!
//! The whole transaction is sent at once, so a worker that stops in the middle of it holds nothing up: the server carries it out without
//! him. It touches neither the counter's row nor a head, so no append waits for it. Only a commit that changes the segment or the holds
//! does, and the batch after it sees what changed.

use std::sync::atomic::AtomicU64;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::commit::PostgresStore;
use super::connection::{BEGIN, COMMIT, Param, Step};
use super::migrate;
use super::plan::{Entries, INSERT_ENTRIES, Keys};
use super::rows::{col, number, signed};
use crate::audit::engine::{Batch, Batched, Load, Loaded, Moved};
use crate::commit::Guard;
use crate::{Error, Result, random};

/// Bytes of a hash.
const HASH: usize = 32;
/// The longest range of a batch, in places.
const PLACES: usize = 1 << 16;

/// For the rows that the table's trigger looks at: [`PLACES`] entries with much in them still go to a file of the server's.
const MEMORY: &str = "SET LOCAL work_mem = '16MB'";
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
/// Deletes what stands in a range with these very hashes and is no control entry. A range of one chain, and no join with what should go:
/// however little the server knows of the table, it has nothing to choose but the primary key.
const DELETE: &str = "DELETE FROM onward_entries WHERE chain = (SELECT max(chain) FROM onward_purging) AND seq BETWEEN $1 AND $2
       AND hash = substr($3, ((seq - $1) * 32 + 1)::int, 32) AND flags & 1 = 0";
/// Where it stands in a batch.
const END_AT: usize = 6;
/// Says whether the batch was let move rows, and lets it no more.
const END: &str = "WITH allowed AS (DELETE FROM onward_purging RETURNING 1)
     SELECT (SELECT count(*) FROM allowed), (SELECT count(*) FROM onward_chains WHERE name = $1), schema_version FROM onward_meta";

/// Until it takes the right, a load keeps nobody waiting: its rows may come as slowly as they like.
const PATIENT: &str = "SET LOCAL idle_in_transaction_session_timeout = 60000";
const AT_ONCE: &str = "SET LOCAL idle_in_transaction_session_timeout = 5000";
/// Makes a chain under a name that is no chain's.
const UNNAMED: &str = "INSERT INTO onward_chains (name, origin, created_at) VALUES ($1, $1, $2)";
/// Takes the writer's right.
const RIGHT: &str = "SELECT schema_version FROM onward_meta FOR UPDATE";
/// Gives a chain its name and its origin, unless another one has them.
const GIVE_NAME: &str = "UPDATE onward_chains SET name = $2, origin = $3
     WHERE name = $1 AND NOT EXISTS (SELECT FROM onward_chains WHERE name = $2 OR origin = $3) AND $4 = (SELECT schema_version FROM onward_meta)
     RETURNING id";
const GIVE_HEAD: &str =
    "INSERT INTO onward_heads (chain, seq, hash, frontier, at) SELECT id, $2, $3, $4, $5 FROM onward_chains WHERE name = $1";

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

/// The rows of a batch, for the server.
enum Rows<'a> {
    /// The range in which rows may go, and the hash of each of its places, one after the other: zeros where nothing goes.
    Out { from: i64, to: i64, hashes: Vec<u8> },
    /// Columns.
    In(Box<Entries<'a>>),
}

impl<'a> Rows<'a> {
    fn of(batch: &'a Batch) -> Result<Self> {
        Ok(match &batch.rows {
            Moved::Out(rows) => {
                let (from, to) = rows.first().zip(rows.last()).map_or((1, 0), |(first, last)| (first.0, last.0));
                let mut hashes = Vec::with_capacity(rows.len() * HASH);
                for (seq, hash) in rows {
                    let place = seq.checked_sub(from).and_then(|place| usize::try_from(place).ok()).filter(|place| *place < PLACES);
                    let at = place.map(|place| place * HASH).filter(|at| *at >= hashes.len());
                    hashes.resize(at.ok_or_else(|| Error::integrity("the rows of a batch are not beside each other"))?, 0);
                    hashes.extend_from_slice(hash.as_bytes());
                }
                Self::Out { from: signed(from)?, to: signed(to)?, hashes }
            }
            Moved::In(entries) => {
                let mut columns = Box::<Entries<'_>>::default();
                entries.iter().try_for_each(|entry| columns.push(batch.chain.as_str(), entry))?;
                Self::In(columns)
            }
        })
    }

    /// The range in which rows may go: none where rows come.
    fn range(&self) -> (i64, i64) {
        match self {
            Self::Out { from, to, .. } => (*from, *to),
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
        let insert = format!("{INSERT_ENTRIES} WHERE EXISTS (SELECT FROM onward_purging) ON CONFLICT DO NOTHING");
        let moved = AtomicU64::new(0);
        let go = match &rows {
            Rows::Out { from, to, hashes } => {
                Step::Counted(DELETE, vec![(from, Type::INT8), (to, Type::INT8), (hashes, Type::BYTEA)], &moved)
            }
            Rows::In(entries) => Step::Counted(&insert, entries.params(), &moved),
        };
        let steps = [
            Step::Plain(BEGIN),
            Step::Plain(MEMORY),
            Step::Often(LOCK, guards.params()),
            Step::Often(KEEP, guards.params()),
            Step::Often(ALLOW, allow),
            go,
            Step::Often(END, vec![(&chain, Type::TEXT)]),
            Step::Often(FREE, guards.params()),
            Step::Plain(COMMIT),
        ];
        let lent = self.lend().await?;
        let answers = lent.transact(&steps).await?;
        lent.done();
        let end = answers.get(END_AT).and_then(|rows| rows.first()).ok_or_else(|| Error::integrity("the facts of the store are gone"))?;
        match (number(end, 0)?, number(end, 1)?, col::<i32>(end, 2)?) {
            (_, _, schema) if schema != migrate::VERSION => Err(migrate::other(schema)),
            (_, 0, _) => Err(Error::not_found("no such chain")),
            (0, _, _) => Ok(Batched::Refused),
            _ => Ok(Batched::Done(moved.into_inner())),
        }
    }

    /// Loads a chain in one transaction, which meets nobody before its end: until then the chain has a name that nobody asks for.
    pub(super) async fn load_now(&self, mut load: Load) -> Result<Loaded> {
        let own = format!("import/{}", random::uuid_v4());
        let lent = self.lend().await?;
        let now = load.now.as_micros();
        lent.ask(&[Step::Plain(BEGIN), Step::Plain(PATIENT), Step::With(UNNAMED, vec![(&own, Type::TEXT), (&now, Type::INT8)])]).await?;
        while let Some(page) = load.page().await? {
            let mut entries = Entries::default();
            page.iter().try_for_each(|entry| entries.push(&own, entry))?;
            lent.ask(&[Step::With(INSERT_ENTRIES, entries.params())]).await?;
        }
        let (chain, head) = (load.chain.as_str(), &load.head);
        let (origin, seq, hash) = (&*head.origin, signed(head.seq.get())?, head.hash.as_bytes().as_slice());
        let (frontier, at) = (head.frontier.to_bytes(), head.at.as_micros());
        let params: [Param<'_>; 4] = [(&own, Type::TEXT), (&chain, Type::TEXT), (&origin, Type::TEXT), (&migrate::VERSION, Type::INT4)];
        let facts: [Param<'_>; 5] =
            [(&chain, Type::TEXT), (&seq, Type::INT8), (&hash, Type::BYTEA), (&frontier, Type::BYTEA), (&at, Type::INT8)];
        // The right first, as for every chain that is made.
        let named = lent.ask(&[Step::Plain(AT_ONCE), Step::With(RIGHT, Vec::new()), Step::With(GIVE_NAME, params.into())]).await?;
        let schema: i32 = named.get(1).and_then(|rows| rows.first()).map_or(Ok(0), |row| col(row, 0))?;
        if schema != migrate::VERSION {
            return Err(migrate::other(schema));
        }
        if named.get(2).is_none_or(Vec::is_empty) {
            return Ok(Loaded::Exists);
        }
        lent.transact(&[Step::With(GIVE_HEAD, facts.into()), Step::Plain(COMMIT)]).await?;
        lent.done();
        Ok(Loaded::Done)
    }
}
