//! The work of a segment's life by hand, with an engine's driver and nothing else: rows read, hashed, written to a file, deleted.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, NoTls};

const COLUMNS: &str = "seq, prev, hash, mac, kid, at, event_id, kind, actor, resource, data, flags";
/// Rows that are asked for, and rows that are deleted, at a time.
const PAGE: u64 = 1_000;
const BATCH: u64 = 512;

/// Where a chain's rows are, past the library.
pub(crate) enum Bare {
    Sqlite(PathBuf),
    Postgres(String),
}

/// A row as it comes, without what is NULL.
struct Row<'a> {
    seq: i64,
    prev: &'a [u8],
    hash: &'a [u8],
    mac: &'a [u8],
    kid: &'a str,
    at: i64,
    event_id: &'a str,
    kind: &'a str,
    actor: &'a str,
    resource: &'a str,
    data: &'a [u8],
    flags: i64,
}

impl Row<'_> {
    fn digest(&self) {
        let mut hash = Sha256::new();
        let texts = [self.event_id, self.kind, self.actor, self.resource].map(str::as_bytes);
        for field in texts.into_iter().chain([self.data, self.kid.as_bytes(), self.prev]) {
            hash.update(u32::try_from(field.len()).unwrap().to_be_bytes());
            hash.update(field);
        }
        for number in [self.flags, self.at, self.seq] {
            hash.update(number.to_be_bytes());
        }
        std::hint::black_box(hash.finalize());
    }

    fn write(&self, line: &mut Vec<u8>) {
        let Self { seq, at, event_id, kind, kid, flags, .. } = self;
        let prev = hex::encode(self.prev);
        write!(line, "{{\"seq\":{seq},\"prev\":\"{prev}\",\"at\":{at},\"event_id\":\"{event_id}\",\"kind\":\"{kind}\",").unwrap();
        for (name, text) in [("actor", self.actor), ("resource", self.resource), ("data", std::str::from_utf8(self.data).unwrap())] {
            line.extend_from_slice(format!("\"{name}\":").as_bytes());
            serde_json::to_writer(&mut *line, text).unwrap();
            line.push(b',');
        }
        let (hash, mac) = (hex::encode(self.hash), hex::encode(self.mac));
        writeln!(line, "\"kid\":\"{kid}\",\"flags\":{flags},\"hash\":\"{hash}\",\"mac\":\"{mac}\"}}").unwrap();
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap()
}

impl Bare {
    /// Reads all rows, in their order.
    async fn each(&self, rows: u64, mut take: impl FnMut(&Row<'_>)) {
        let count = match self {
            Self::Sqlite(path) => each_of_sqlite(path, rows, &mut take),
            Self::Postgres(url) => each_of_postgres(url, rows, &mut take).await,
        };
        assert_eq!(count, rows);
    }

    /// Reads the rows and hashes them.
    pub(crate) async fn hash(&self, rows: u64) {
        self.each(rows, |row: &Row<'_>| row.digest()).await;
    }

    /// Reads the rows, hashes them, and writes the same lines compressed, and no more: nothing is read back, nothing is compared.
    pub(crate) async fn archive(&self, file: &Path, rows: u64) {
        let mut out = zstd::stream::write::Encoder::new(File::create(file).unwrap(), 3).unwrap();
        let (mut plain, mut line) = (Sha256::new(), Vec::new());
        let write = |row: &Row<'_>| {
            row.digest();
            line.clear();
            row.write(&mut line);
            plain.update(&line);
            out.write_all(&line).unwrap();
        };
        self.each(rows, write).await;
        std::hint::black_box(plain.finalize());
        out.finish().unwrap().sync_all().unwrap();
    }

    /// Copies the rows, so that they can be deleted by hand as well.
    pub(crate) async fn copy(&self) {
        match self {
            Self::Sqlite(path) => {
                let copy = copy_of(path);
                Connection::open(path).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
                let connection = Connection::open(copy).unwrap();
                let triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'onward_entries'";
                let triggers: Vec<String> =
                    connection.prepare(triggers).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
                for trigger in triggers {
                    connection.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
                }
            }
            Self::Postgres(url) => {
                let client = connect(url).await;
                let copy = "CREATE TABLE bare (LIKE onward_entries INCLUDING ALL); INSERT INTO bare SELECT * FROM onward_entries";
                client.batch_execute(copy).await.unwrap();
                // By now the rows of the other table were read, which is what makes them known to be there.
                client.batch_execute("VACUUM (ANALYZE) bare").await.unwrap();
            }
        }
    }

    /// Deletes the rows of the copy, some a transaction, each as durable as it is in the library.
    pub(crate) async fn delete(&self, rows: u64) {
        let batches = (1..=rows).step_by(usize::try_from(BATCH).unwrap()).map(|first| (signed(first), signed(rows.min(first + BATCH - 1))));
        let deleted = match self {
            Self::Sqlite(path) => {
                let connection = Connection::open(copy_of(path)).unwrap();
                connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;").unwrap();
                let mut deleted = 0;
                for (first, last) in batches {
                    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
                    let mut delete =
                        connection.prepare_cached("DELETE FROM onward_entries WHERE chain = 1 AND seq BETWEEN ?1 AND ?2").unwrap();
                    deleted += delete.execute(params![first, last]).unwrap() as u64;
                    connection.execute_batch("COMMIT").unwrap();
                }
                deleted
            }
            Self::Postgres(url) => {
                let client = connect(url).await;
                let delete = client.prepare("DELETE FROM bare WHERE chain = 1 AND seq BETWEEN $1 AND $2").await.unwrap();
                let mut deleted = 0;
                for (first, last) in batches {
                    deleted += client.execute(&delete, &[&first, &last]).await.unwrap();
                }
                deleted
            }
        };
        assert_eq!(deleted, rows);
    }
}

fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("copy.db")
}

fn each_of_sqlite(path: &Path, rows: u64, take: &mut impl FnMut(&Row<'_>)) -> u64 {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = format!("SELECT {COLUMNS} FROM onward_entries WHERE chain = 1 AND seq <= ?1 ORDER BY seq");
    let mut select = connection.prepare(&sql).unwrap();
    let mut found = select.query([signed(rows)]).unwrap();
    let mut count = 0;
    while let Some(row) = found.next().unwrap() {
        let bytes = |at: usize| row.get_ref(at).unwrap().as_bytes_or_null().unwrap().unwrap_or_default();
        let text = |at: usize| std::str::from_utf8(bytes(at)).unwrap();
        let number = |at: usize| row.get::<_, i64>(at).unwrap();
        take(&Row {
            seq: number(0),
            prev: bytes(1),
            hash: bytes(2),
            mac: bytes(3),
            kid: text(4),
            at: number(5),
            event_id: text(6),
            kind: text(7),
            actor: text(8),
            resource: text(9),
            data: bytes(10),
            flags: number(11),
        });
        count += 1;
    }
    count
}

async fn each_of_postgres(url: &str, rows: u64, take: &mut impl FnMut(&Row<'_>)) -> u64 {
    let client = connect(url).await;
    let sql = format!("SELECT {COLUMNS} FROM onward_entries WHERE chain = 1 AND seq BETWEEN $1 AND $2 ORDER BY seq");
    let select = client.prepare(&sql).await.unwrap();
    let mut count = 0;
    for first in (1..=rows).step_by(usize::try_from(PAGE).unwrap()) {
        for row in client.query(&select, &[&signed(first), &signed(rows.min(first + PAGE - 1))]).await.unwrap() {
            let bytes = |at: usize| row.get::<_, Option<&[u8]>>(at).unwrap_or_default();
            let text = |at: usize| row.get::<_, Option<&str>>(at).unwrap_or_default();
            let number = |at: usize| row.get::<_, i64>(at);
            take(&Row {
                seq: number(0),
                prev: bytes(1),
                hash: bytes(2),
                mac: bytes(3),
                kid: text(4),
                at: number(5),
                event_id: text(6),
                kind: text(7),
                actor: text(8),
                resource: text(9),
                data: bytes(10),
                flags: number(11),
            });
            count += 1;
        }
    }
    count
}
