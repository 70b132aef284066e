//! The store in a SQLite file: reads rows, carries out plans, nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::connection::{self, Durability};
use super::error::{at_commit, before_commit};
use super::fold::Folder;
use super::migrate::{Found, Schema};
use super::reader::Readers;
use super::rows::{self, col, damaged, signed, unsigned};
use super::turn::{self, Turn};
use super::wal::{self, Wal};
use super::{backup, check, inspect, list, log, personal, whole};
use crate::commit::engine::{At, Changes, CommitEngine, Listed, Plan, Remembered, Rows, Scan, StoreMeta, Wanted, Writer};
use crate::commit::{Change, Past, Prune, Pruned};
use crate::model::{ChainName, Epoch, FencingToken, Fingerprint, Hash, Head, Key, Labels, Object, RequestId, Revision, Sealed, Version};
use crate::observe::Finding;
use crate::time::{Clock, Timestamp};
use crate::{Error, Result, random};

/// "onwd": marks a file as ours.
pub(super) const APPLICATION_ID: i32 = 0x6f6e_7764;

/// The schema of a store file.
const SCHEMA: Schema = Schema {
    what: "store",
    first: "onward_meta",
    steps: &[
        include_str!("schema.sql"),
        include_str!("schema_2.sql"),
        include_str!("schema_3.sql"),
        include_str!("schema_4.sql"),
        include_str!("schema_5.sql"),
        include_str!("schema_6.sql"),
        include_str!("schema_7.sql"),
    ],
};

/// After about this many written pages the log is copied back into the database, behind the answers.
const CHECKPOINT_PAGES: usize = 1_000;
/// Bytes of a page.
const PAGE: u64 = 4_096;
/// Pages of the counter, and of the ends of the log and of indexes.
const SHARED_PAGES: usize = 3;

/// What a store file may cost (C7); the defaults fit every store, smaller ones are for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Above so many bytes of write-ahead log, 1 GiB, and half of the file's, writes are refused until it is folded.
    pub wal_bytes: u64,
    /// A read that takes longer, 5 s, is ended: it keeps the log from being folded.
    pub read: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { wal_bytes: wal::BYTES, read: Duration::from_secs(5) }
    }
}

/// A store in a SQLite file; clones share its reading threads.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    path: Arc<PathBuf>,
    /// The writer of segments' rows: opened when it is needed first, one batch at a time.
    pub(super) mover: Arc<Mutex<Option<SqliteWriter>>>,
    readers: Readers,
    wal: Wal,
}

impl SqliteStore {
    /// Opens a store file, and makes it if it is not there.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): SQLite is too old, the schema is newer than this library, or the file system
    /// cannot keep a write-ahead log. `Backend`, `integrity_failure`: the file belongs to another program.
    pub async fn open(path: impl AsRef<Path>, clock: &Clock) -> Result<Self> {
        Self::open_bounded(path, clock, Bounds::default()).await
    }

    /// Opens a store file with bounds of its own.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open_bounded(path: impl AsRef<Path>, clock: &Clock, bounds: Bounds) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let now = clock.wall();
        let open = move || {
            let mut connection = connection::open(&path, APPLICATION_ID, Durability::Full)?;
            SCHEMA.migrate(&mut connection, |tx, found| match found {
                Found::Nothing => first_facts(tx, now),
                Found::Something => backup::restore(tx, now),
            })?;
            backup::tidy(&path);
            let readers = Readers::open(&path, bounds.read)?;
            Ok(Self { readers, mover: Arc::default(), wal: Wal::of(&path, bounds.wal_bytes), path: Arc::new(path) })
        };
        tokio::task::spawn_blocking(open).await.map_err(|e| Error::unavailable("the store could not be opened").with_source(e))?
    }

    /// Returns the path of the store file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn open_writer(&self) -> Result<SqliteWriter> {
        let mut connection = connection::open(&self.path, APPLICATION_ID, Durability::Full)?;
        connection::queue(&mut connection)?;
        self.wal.prepare(&connection)?;
        Ok(SqliteWriter {
            connection,
            turn: Turn::open(&turn::beside(&self.path))?,
            wal: self.wal.clone(),
            folder: Folder::of(&self.path),
            written: 0,
            tidied: 0,
            full: true,
        })
    }

    pub(super) fn readers(&self) -> &Readers {
        &self.readers
    }
}

#[derive(Debug)]
pub(super) struct SqliteWriter {
    connection: Connection,
    turn: Turn,
    wal: Wal,
    folder: Folder,
    written: usize,
    /// What was written when it tidied up last.
    tidied: usize,
    /// The log may be at its bound: looked at behind each batch, so that no batch pays for the look.
    full: bool,
}

impl SqliteWriter {
    fn read(&self, wanted: &Wanted) -> Result<Rows> {
        let connection = &self.connection;
        let mut rows = Rows {
            meta: read_meta(connection)?,
            objects: HashMap::new(),
            fences: HashMap::new(),
            requests: HashMap::new(),
            heads: HashMap::new(),
            held: true,
        };
        let mut find = select_object(connection)?;
        for key in &wanted.objects {
            if let Some(object) = one(&mut find, params![key.namespace(), key.kind(), key.name()], rows::object)? {
                rows.objects.insert(key.clone(), Arc::new(object));
            }
        }
        let mut find = prepare(connection, "SELECT token FROM onward_fences WHERE lock_key = ?1")?;
        for lock in &wanted.fences {
            if let Some(token) = one(&mut find, params![lock.as_str()], |row| unsigned(col(row, 0)?))? {
                rows.fences.insert(lock.clone(), FencingToken::new(token).map_err(damaged)?);
            }
        }
        for id in &wanted.requests {
            if let Some(known) = read_request(connection, id)? {
                rows.requests.insert(id.clone(), known);
            }
        }
        for chain in &wanted.chains {
            if let Some(head) = read_head(connection, chain)? {
                rows.heads.insert(chain.clone(), head);
            }
        }
        Ok(rows)
    }

    /// Returns about how many pages it wrote: one a row, what a large value takes beyond that, and those that each transaction writes.
    fn carry_out(&self, plan: &Plan) -> Result<usize> {
        let connection = &self.connection;
        let now = plan.now.as_micros();
        let logged = log::append(connection, &plan.records)?;
        let mut put = prepare(
            connection,
            "INSERT INTO onward_objects (namespace, kind, name, uid, version, revision, create_revision, content_type, payload, created_at, updated_at,
               labels, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
             ON CONFLICT DO UPDATE SET uid = ?4, version = ?5, revision = ?6, create_revision = ?7, content_type = ?8, payload = ?9,
               created_at = ?10, updated_at = ?11, labels = ?12, expires_at = ?13",
        )?;
        let mut delete = prepare(connection, "DELETE FROM onward_objects WHERE namespace = ?1 AND kind = ?2 AND name = ?3")?;
        for (key, object) in &plan.objects {
            match object {
                Some(object) => run(
                    &mut put,
                    params![
                        key.namespace(),
                        key.kind(),
                        key.name(),
                        object.meta.uid.as_bytes(),
                        signed(object.meta.version.get())?,
                        signed(object.meta.revision.get())?,
                        signed(object.meta.create_revision.get())?,
                        object.value.content_type(),
                        &object.value.bytes()[..],
                        object.meta.created_at.as_micros(),
                        object.meta.updated_at.as_micros(),
                        rows::labels_text(&object.meta.labels)?,
                        object.meta.expires_at.map(Timestamp::as_micros),
                    ],
                )?,
                None => run(&mut delete, params![key.namespace(), key.kind(), key.name()])?,
            }
        }
        for change in plan.records.iter().flat_map(|record| &record.changes) {
            relabel(connection, change)?;
        }
        let mut fence = prepare(
            connection,
            "INSERT INTO onward_fences (lock_key, token, used_at) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET token = ?2, used_at = ?3",
        )?;
        for (lock, token) in &plan.fences {
            run(&mut fence, params![lock.as_str(), signed(token.get())?, now])?;
        }
        self.remember(plan)?;
        self.append_entries(plan)?;
        personal::carry_out(connection, plan)?;
        let mut meta = prepare(
            connection,
            "UPDATE onward_meta SET revision = ?1, version_floor = ?2, newest_token = ?3, newest_at = ?4, log_bytes = log_bytes + ?5",
        )?;
        run(
            &mut meta,
            params![
                signed(plan.meta.revision.get())?,
                signed(plan.meta.version_floor)?,
                signed(plan.meta.newest_token)?,
                plan.meta.at.as_micros(),
                signed(logged)?,
            ],
        )?;
        let payloads: u64 = plan.objects.values().flatten().map(|object| object.value.bytes().len() as u64).sum();
        let data: u64 = plan.entries.iter().map(|(_, entry)| entry.data.len() as u64).sum();
        let changes: usize = plan.records.iter().map(|record| record.changes.len().max(1)).sum();
        let rows = plan.objects.len() + changes + plan.entries.len();
        Ok(SHARED_PAGES + rows + usize::try_from((payloads + data + logged) / PAGE).unwrap_or(0))
    }

    fn remember(&self, plan: &Plan) -> Result<()> {
        if plan.requests.is_empty() {
            return Ok(());
        }
        let connection = &self.connection;
        // Each batch takes away twice what it adds, so the table is bounded by its window without a sweeper.
        let mut forget = prepare(
            connection,
            "DELETE FROM onward_requests WHERE id IN (SELECT id FROM onward_requests WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?;
        run(&mut forget, params![plan.now.as_micros(), signed(plan.requests.len() as u64 * 2)?])?;
        let mut keep = prepare(
            connection,
            "INSERT INTO onward_requests (id, fingerprint, receipt, expires_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET fingerprint = ?2, receipt = ?3, expires_at = ?4",
        )?;
        for (id, known) in &plan.requests {
            let receipt = serde_json::to_string(&*known.receipt).map_err(damaged)?;
            run(&mut keep, params![id.as_str(), known.fingerprint.0, receipt, known.expires_at.as_micros()])?;
        }
        Ok(())
    }

    fn append_entries(&self, plan: &Plan) -> Result<()> {
        let connection = &self.connection;
        let mut ids: HashMap<&ChainName, i64> = HashMap::new();
        for (chain, head) in &plan.heads {
            let mut find = prepare(connection, "SELECT id FROM onward_chains WHERE name = ?1")?;
            let id = match one(&mut find, params![chain.as_str()], |row| col(row, 0))? {
                Some(id) => id,
                None => {
                    let mut create = prepare(connection, "INSERT INTO onward_chains (name, origin, created_at) VALUES (?1, ?2, ?3)")?;
                    run(&mut create, params![chain.as_str(), &*head.origin, plan.now.as_micros()])?;
                    connection.last_insert_rowid()
                }
            };
            ids.insert(chain, id);
            let mut advance = prepare(
                connection,
                "INSERT INTO onward_heads (chain, seq, hash, frontier, at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET seq = ?2, hash = ?3, frontier = ?4, at = ?5",
            )?;
            run(&mut advance, params![id, signed(head.seq.get())?, head.hash.as_bytes(), head.frontier.to_bytes(), head.at.as_micros()])?;
        }
        let mut insert = prepare(connection, INSERT_ENTRY)?;
        for (chain, entry) in &plan.entries {
            let id = ids.get(chain).ok_or_else(|| Error::integrity("an entry without the head of its chain"))?;
            insert_entry(&mut insert, *id, entry)?;
        }
        Ok(())
    }

    /// Switches the trip wires off for this connection: for the one that deletes rows of segments and whose statements say themselves which.
    pub(super) fn without_trip_wires(self) -> Result<Self> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(before_commit)?;
        Ok(self)
    }

    /// Gives the write lock back. A rollback that fails has nothing left to roll back.
    fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = connection::again(&self.connection, "ROLLBACK");
        }
    }

    /// Takes the write lock, unless another version of this library has changed the schema meanwhile.
    fn take_right(&mut self) -> Result<()> {
        if self.full {
            self.wal.make_room(&mut self.folder, &self.connection)?;
            self.full = false;
        }
        let turn = self.turn.take();
        // A deferred transaction would die with "busy" at its first write, past any waiting time.
        let taken = connection::again(&self.connection, "BEGIN IMMEDIATE").map_err(before_commit);
        drop(turn);
        taken?;
        SCHEMA.check(&self.connection).inspect_err(|_| self.roll_back())
    }

    fn begin_now(&mut self, wanted: &Wanted) -> Result<Rows> {
        self.take_right()?;
        self.read(wanted).inspect_err(|_| self.roll_back())
    }

    fn prune_now(&mut self, prune: &Prune) -> Result<Pruned> {
        let was = read_meta(&self.connection)?.compacted;
        // Looked at first without the lock: an idle store keeps nobody waiting.
        if !log::is_over(&self.connection, prune)? {
            return Ok(Pruned { compacted: was, more: false });
        }
        self.take_right()?;
        let (pruned, rows) = log::prune(&self.connection, prune)?;
        let end = if pruned.compacted == was { "ROLLBACK" } else { "COMMIT" };
        connection::again(&self.connection, end).map_err(at_commit)?;
        self.written += rows;
        Ok(pruned)
    }

    /// Does something in a transaction of its own; says in how many rows.
    pub(super) fn transact<T>(&mut self, work: impl FnOnce(&Connection) -> Result<(T, usize)>) -> Result<T> {
        self.take_right()?;
        let (done, rows) = work(&self.connection).inspect_err(|_| self.roll_back())?;
        connection::again(&self.connection, if rows == 0 { "ROLLBACK" } else { "COMMIT" }).map_err(|e| {
            self.roll_back();
            at_commit(e)
        })?;
        self.written += rows;
        self.make_room();
        Ok(done)
    }

    /// Folds the whole log into the file and cuts it off; `false` if a reader stands in the way for more than a moment.
    pub(super) fn scrub(&mut self) -> Result<bool> {
        Wal::scrub(&mut self.connection)
    }

    fn make_room(&mut self) {
        // Nothing came since it was here last: folded now, a later open or reader finds a short log.
        let idle = self.written > 0 && self.written == self.tidied;
        if self.written >= CHECKPOINT_PAGES || idle {
            self.written = 0;
            self.folder.fold(&self.connection);
        }
        self.tidied = self.written;
        // So that a store that nobody writes to any more, since it is not ready, comes back by itself.
        self.full = self.wal.make_room(&mut self.folder, &self.connection).is_err();
    }

    fn finish_now(&mut self, plan: &Plan) -> Result<()> {
        let pages = self.carry_out(plan).inspect_err(|_| self.roll_back())?;
        connection::again(&self.connection, "COMMIT").map_err(|e| {
            self.roll_back();
            at_commit(e)
        })?;
        self.written += pages;
        Ok(())
    }
}

impl Writer for SqliteWriter {
    fn begin<'a>(&'a mut self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Rows>> {
        Box::pin(std::future::ready(self.begin_now(wanted)))
    }

    fn finish<'a>(&'a mut self, plan: &'a Arc<Plan>) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(self.finish_now(plan)))
    }

    fn prune<'a>(&'a mut self, prune: &'a Prune) -> BoxFuture<'a, Result<Pruned>> {
        let pruned = self.prune_now(prune).inspect_err(|_| self.roll_back());
        Box::pin(std::future::ready(pruned))
    }

    fn due(&mut self, now: Timestamp, limit: usize) -> BoxFuture<'_, Result<Vec<(Key, Version)>>> {
        Box::pin(std::future::ready(list::due(&self.connection, now, limit)))
    }

    fn give_back(&mut self) -> BoxFuture<'_, ()> {
        self.roll_back();
        Box::pin(std::future::ready(()))
    }

    fn tidy(&mut self) -> BoxFuture<'_, ()> {
        self.make_room();
        Box::pin(std::future::ready(()))
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.folder.end();
        Wal::cut(&self.connection);
        Box::pin(std::future::ready(()))
    }
}

impl CommitEngine for SqliteStore {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(self.open_writer()?))
    }

    fn ready(&self) -> Result<()> {
        self.wal.check()
    }

    fn meta(&self) -> BoxFuture<'_, Result<StoreMeta>> {
        Box::pin(self.readers.run(|connection| read_meta(connection)))
    }

    fn check(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        let path = self.path.clone();
        Box::pin(self.readers.run(move |connection| check::check(connection, &path)))
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Object>>>> {
        let key = key.clone();
        Box::pin(self.readers.run(move |connection| {
            let found = one(&mut select_object(connection)?, params![key.namespace(), key.kind(), key.name()], rows::object)?;
            Ok(found.map(Arc::new))
        }))
    }

    fn list(&self, scan: Scan) -> BoxFuture<'_, Result<Listed>> {
        Box::pin(self.readers.run(move |connection| {
            let tx = connection.transaction().map_err(before_commit)?;
            let meta = read_meta(&tx)?;
            let (items, next) = list::list(&tx, &scan, scan.at.unwrap_or(meta.revision))?;
            Ok(Listed { items, meta, next })
        }))
    }

    fn next_kind<'a>(&'a self, after: Option<(&'a str, &'a str)>) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        let (namespace, kind) = after.unwrap_or_default();
        let (namespace, kind) = (namespace.to_owned(), kind.to_owned());
        Box::pin(self.readers.run(move |connection| list::next_kind(connection, &namespace, &kind)))
    }

    fn get_at<'a>(&'a self, key: &'a Key, at: At) -> BoxFuture<'a, Result<(Option<Arc<Object>>, StoreMeta)>> {
        let key = key.clone();
        Box::pin(self.readers.run(move |connection| {
            let tx = connection.transaction().map_err(before_commit)?;
            Ok((log::state_at(&tx, &key, at)?, read_meta(&tx)?))
        }))
    }

    fn history<'a>(&'a self, key: &'a Key, before: Option<Revision>, limit: usize) -> BoxFuture<'a, Result<(Vec<Past>, StoreMeta)>> {
        let key = key.clone();
        Box::pin(self.readers.run(move |connection| {
            let tx = connection.transaction().map_err(before_commit)?;
            Ok((log::history(&tx, &key, before, limit)?, read_meta(&tx)?))
        }))
    }

    fn backup(&self, path: PathBuf) -> BoxFuture<'_, Result<()>> {
        let from = self.path.clone();
        Box::pin(whole::read("the backup could not be written", move |wanted| backup::backup(&from, &path, wanted)))
    }

    fn backup_file(&self) -> BoxFuture<'_, Result<File>> {
        let from = self.path.clone();
        Box::pin(whole::read("the backup could not be written", move |wanted| backup::unnamed(&from, wanted)))
    }

    fn inspect(&self) -> BoxFuture<'_, Result<Vec<Finding>>> {
        let (path, wal) = (self.path.clone(), self.wal.clone());
        Box::pin(whole::read("the store could not be checked", move |wanted| inspect::inspect(&path, wal, wanted)))
    }

    fn remembered<'a>(&'a self, id: &'a RequestId) -> BoxFuture<'a, Result<Option<Remembered>>> {
        let id = id.clone();
        Box::pin(self.readers.run(move |connection| read_request(connection, &id)))
    }

    fn notes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        Box::pin(self.readers.run(move |connection| {
            let tx = connection.transaction().map_err(before_commit)?;
            let meta = read_meta(&tx)?;
            Ok(Changes { records: log::notes(&tx, after, meta.revision, limit)?, meta })
        }))
    }

    fn changes(&self, after: Revision, limit: usize) -> BoxFuture<'_, Result<Changes>> {
        Box::pin(self.readers.run(move |connection| {
            let tx = connection.transaction().map_err(before_commit)?;
            let meta = read_meta(&tx)?;
            Ok(Changes { records: log::read(&tx, after, meta.revision, limit)?, meta })
        }))
    }
}

/// Writes the one row of facts of a new store.
fn first_facts(connection: &Connection, now: Timestamp) -> Result<()> {
    let epoch = Epoch::from_bits(u64::from_le_bytes(random::bytes()));
    let mut insert = prepare(
        connection,
        "INSERT INTO onward_meta (id, schema_version, epoch, revision, version_floor, restore_floor, compacted, log_bytes, newest_token,
           newest_at, origin, created_at, is_copy)
         VALUES (1, 2, ?1, 0, 0, 0, 0, 0, 0, 0, ?2, ?3, 0)",
    )?;
    run(&mut insert, params![epoch.to_string(), format!("onward.local/{}", random::uuid_v4()), now.as_micros()])
}

/// Keeps the index of labels the same as the labels.
fn relabel(connection: &Connection, change: &Change) -> Result<()> {
    let labels = |object: &Option<Arc<Object>>| object.as_ref().map(|object| object.meta.labels.clone()).unwrap_or_default();
    let (before, after) = (labels(&change.before), labels(&change.after));
    let each = |sql: &str, labels: &Labels, other: &Labels| {
        let mut statement = prepare(connection, sql)?;
        for (key, value) in labels.iter().filter(|(key, value)| other.get(key) != Some(value)) {
            run(&mut statement, params![change.key.namespace(), change.key.kind(), key, value, change.key.name()])?;
        }
        Ok::<(), Error>(())
    };
    if before != after {
        each("DELETE FROM onward_labels WHERE namespace = ?1 AND kind = ?2 AND key = ?3 AND value = ?4 AND name = ?5", &before, &after)?;
        each("INSERT INTO onward_labels (namespace, kind, key, value, name) VALUES (?1, ?2, ?3, ?4, ?5)", &after, &before)?;
    }
    Ok(())
}

pub(super) fn prepare<'a>(connection: &'a Connection, sql: &str) -> Result<CachedStatement<'a>> {
    connection.prepare_cached(sql).map_err(before_commit)
}

/// What [`insert_entry`] is given, prepared.
pub(super) const INSERT_ENTRY: &str =
    "INSERT INTO onward_entries (chain, seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, flags, pii)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

/// Writes an entry as it was sealed; returns how many rows that made.
pub(super) fn insert_entry(insert: &mut CachedStatement<'_>, chain: i64, entry: &Sealed) -> Result<usize> {
    let row = params![
        chain,
        signed(entry.seq.get())?,
        entry.prev.as_bytes(),
        entry.hash.as_bytes(),
        entry.mac,
        entry.kid,
        entry.at.as_micros(),
        entry.event_id,
        entry.kind,
        entry.actor,
        entry.resource,
        &entry.data[..],
        signed(entry.flags)?,
        entry.personal.as_ref().map(Hash::as_bytes),
    ];
    insert.execute(row).map_err(before_commit)
}

pub(super) fn run(statement: &mut CachedStatement<'_>, params: impl rusqlite::Params) -> Result<()> {
    statement.execute(params).map(|_| ()).map_err(before_commit)
}

/// Reads at most one row.
pub(super) fn one<T>(
    statement: &mut CachedStatement<'_>,
    params: impl rusqlite::Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    statement.query_row(params, |row| Ok(read(row))).optional().map_err(before_commit)?.transpose()
}

pub(super) fn select_object(connection: &Connection) -> Result<CachedStatement<'_>> {
    prepare(connection, &format!("SELECT {} FROM onward_objects WHERE namespace = ?1 AND kind = ?2 AND name = ?3", rows::OBJECT))
}

pub(super) fn read_meta(connection: &Connection) -> Result<StoreMeta> {
    let mut find = prepare(
        connection,
        "SELECT epoch, revision, version_floor, compacted, newest_token, origin, newest_at, restore_floor FROM onward_meta",
    )?;
    one(&mut find, [], rows::meta)?.ok_or_else(|| Error::integrity("the facts of the store are gone"))
}

fn read_request(connection: &Connection, id: &RequestId) -> Result<Option<Remembered>> {
    let mut find = prepare(connection, "SELECT fingerprint, receipt, expires_at FROM onward_requests WHERE id = ?1")?;
    one(&mut find, params![id.as_str()], |row| {
        let receipt: String = col(row, 1)?;
        Ok(Remembered {
            fingerprint: Fingerprint(col(row, 0)?),
            receipt: Arc::new(serde_json::from_str(&receipt).map_err(damaged)?),
            expires_at: Timestamp::from_micros(col(row, 2)?),
        })
    })
}

pub(super) fn read_head(connection: &Connection, chain: &ChainName) -> Result<Option<Head>> {
    let mut find = prepare(
        connection,
        "SELECT c.origin, h.seq, h.hash, h.frontier, h.at FROM onward_chains c JOIN onward_heads h ON h.chain = c.id WHERE c.name = ?1",
    )?;
    one(&mut find, params![chain.as_str()], rows::head)
}
