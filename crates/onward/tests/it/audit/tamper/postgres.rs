//! The same catalogue in a Postgres database, whose superuser is the attacker.

use onward::audit::verify::{Check, SavedHead, Verdict};
use onward::model::merkle::Frontier;
use onward::model::{Hash, MacKeys, Row};
use onward::testing::servers::Postgres;
use onward::time::Clock;
use onward::{Config, Kind, Onward};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::catalogue::{Attacker, CATALOGUE};
use super::{fill, keys, seen};

/// What the server itself refuses, whoever asks.
const IMPOSSIBLE: &[&str] = &["text that is not UTF-8"];

/// A superuser, in tables without a constraint or a trigger.
struct Superuser<'a> {
    runtime: &'a Runtime,
    client: &'a Client,
    origin: &'a str,
}

impl Attacker for Superuser<'_> {
    fn run(&mut self, sql: &str) {
        self.runtime.block_on(self.client.batch_execute(&translated(sql))).unwrap();
    }

    fn rows(&mut self) -> Vec<Row> {
        let sql = "SELECT seq, kid, at, event_id, kind, actor, resource, data, flags, mac, hash FROM onward_entries
                   WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders') ORDER BY seq";
        let rows = self.runtime.block_on(self.client.query(sql, &[])).unwrap();
        let text = |row: &tokio_postgres::Row, index: usize| row.get::<_, Option<String>>(index).map(String::into_bytes);
        let read = |row: &tokio_postgres::Row| Row {
            seq: row.get(0),
            kid: text(row, 1).unwrap(),
            at: row.get(2),
            event_id: text(row, 3).unwrap(),
            kind: text(row, 4).unwrap(),
            actor: text(row, 5),
            resource: text(row, 6),
            data: row.get::<_, Vec<u8>>(7).into(),
            flags: row.get(8),
            mac: row.get(9),
            hash: row.get(10),
            ..Row::default()
        };
        rows.iter().map(read).collect()
    }

    fn put(&mut self, row: &Row) {
        let sql = "UPDATE onward_entries SET prev = $1, hash = $2, mac = $3
                   WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders') AND seq = $4";
        self.runtime.block_on(self.client.execute(sql, &[&row.prev, &row.hash, &row.mac, &row.seq])).unwrap();
    }

    fn put_head(&mut self, seq: i64, hash: &Hash, frontier: &Frontier, at: i64) {
        let sql = "UPDATE onward_heads SET seq = $1, hash = $2, frontier = $3, at = $4
                   WHERE chain = (SELECT id FROM onward_chains WHERE name = 'orders')";
        let (hash, frontier) = (hash.as_bytes().to_vec(), frontier.to_bytes());
        self.runtime.block_on(self.client.execute(sql, &[&seq, &hash, &frontier, &at])).unwrap();
    }

    fn origin(&self) -> String {
        self.origin.to_owned()
    }
}

/// Bytes are spelt in another way here.
pub(in crate::audit) fn translated(sql: &str) -> String {
    let mut spelt = String::new();
    let mut rest = sql;
    while let Some((before, behind)) = rest.split_once("x'") {
        let (hex, after) = behind.split_once('\'').unwrap();
        spelt += &format!("{before}'\\x{hex}'::bytea");
        rest = after;
    }
    spelt + rest
}

/// Takes every constraint and trigger away, and keeps the good rows beside.
const LOOSE: &str = "
    CREATE FUNCTION zeroblob(bytes integer) RETURNS bytea LANGUAGE sql AS $$ SELECT decode(repeat('00', bytes), 'hex') $$;
    CREATE TABLE good_entries AS TABLE onward_entries; CREATE TABLE good_heads AS TABLE onward_heads; CREATE TABLE good_chains AS TABLE onward_chains;
    CREATE TABLE loose AS TABLE onward_entries; DROP TABLE onward_entries; ALTER TABLE loose RENAME TO onward_entries;
    ALTER TABLE onward_heads DROP CONSTRAINT onward_heads_hash_check";
/// Puts the good rows back.
const AGAIN: &str = "
    DROP TABLE IF EXISTS kept, head, row5;
    DELETE FROM onward_entries; INSERT INTO onward_entries TABLE good_entries;
    DELETE FROM onward_heads; INSERT INTO onward_heads TABLE good_heads;
    DELETE FROM onward_chains; INSERT INTO onward_chains OVERRIDING SYSTEM VALUE TABLE good_chains";

struct Base {
    runtime: Runtime,
    client: Client,
    saved: SavedHead,
    /// With nothing, and with the key.
    readers: [Onward; 2],
}

impl Base {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
        let (client, saved, readers) = runtime.block_on(async {
            let (url, clock) = (Postgres::shared().schema().await, Clock::manual());
            let open = async |keys: MacKeys| Onward::connect(Config::new(&url).with_keys(keys).with_clock(clock.clone())).await.unwrap();
            let readers = [open(MacKeys::none()).await, open(keys()).await];
            let chain = fill(&readers[1], &clock).await;
            let saved = chain.verify(Check::default()).await.unwrap().saved_head(clock.wall()).unwrap();
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            client.batch_execute(LOOSE).await.unwrap();
            (client, saved, readers)
        });
        Self { runtime, client, saved, readers }
    }

    /// Lets the superuser loose on the good rows, and verifies with nothing, and with the key and the saved head.
    fn after(&self, damage: impl FnOnce(&mut dyn Attacker)) -> [onward::Result<onward::audit::verify::Report>; 2] {
        self.runtime.block_on(self.client.batch_execute(AGAIN)).unwrap();
        damage(&mut Superuser { runtime: &self.runtime, client: &self.client, origin: &self.saved.origin });
        [None, Some(self.saved.clone())].map(|saved| {
            let reader = &self.readers[usize::from(saved.is_some())];
            let chain = reader.audit().chain("orders").unwrap();
            self.runtime.block_on(chain.verify(Check { saved, ..Check::default() }))
        })
    }
}

#[test]
fn every_attack_of_the_catalogue_is_named_at_its_seq_on_postgres() {
    let base = Base::new();
    for (attack, damage, with_nothing, with_all) in CATALOGUE.iter().filter(|(attack, ..)| !IMPOSSIBLE.contains(attack)) {
        for (report, expected) in base.after(damage).into_iter().zip([with_nothing, with_all]) {
            let report = report.unwrap();
            assert_eq!(seen(&report), *expected, "{attack}: {report}");
            assert_eq!(report.exit(), u8::from(!expected.is_empty()), "{attack}");
            assert!(report.verdict == Verdict::Ok || !report.authenticated, "{attack}");
        }
    }
    for report in base.after(|_| {}) {
        assert_eq!(report.unwrap().verdict, Verdict::Ok, "a good chain raises no alarm");
    }
    let [nothing, all] = base.after(|a| a.run("UPDATE onward_chains SET name = 'nobody' WHERE name = 'orders'"));
    assert_eq!((nothing.unwrap_err().kind(), seen(&all.unwrap())), (Kind::NotFound, vec!["TRUNCATED 1..40".to_owned()]));
}
