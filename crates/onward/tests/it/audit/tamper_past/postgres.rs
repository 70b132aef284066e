//! The same in a Postgres database, whose superuser is the attacker.

use std::path::PathBuf;

use onward::Onward;
use onward::audit::verify::{Archives, Check, Report};
use onward::testing::servers::Postgres;
use tokio_postgres::{Client, NoTls};

use super::super::tamper::postgres::translated;
use super::{Place, a_forged_excuse, attacks_on_files, attacks_on_manifests, attacks_on_rows, config, live};

/// Keeps the good rows, takes every constraint and trigger away, and knows what SQLite calls by other names.
const LOOSE: &str = "
    CREATE FUNCTION zeroblob(bytes integer) RETURNS bytea LANGUAGE sql AS $$ SELECT decode(repeat('00', bytes), 'hex') $$;
    CREATE FUNCTION replace(bytea, text, text) RETURNS bytea LANGUAGE sql
      AS $$ SELECT convert_to(replace(convert_from($1, 'UTF8'), $2, $3), 'UTF8') $$;
    CREATE TABLE good_entries AS TABLE onward_entries; CREATE TABLE good_heads AS TABLE onward_heads;
    CREATE TABLE good_objects AS TABLE onward_objects;
    CREATE TABLE loose AS TABLE onward_entries; DROP TABLE onward_entries; ALTER TABLE loose RENAME TO onward_entries";
const AGAIN: &str = "
    DELETE FROM onward_entries; INSERT INTO onward_entries TABLE good_entries;
    DELETE FROM onward_heads; INSERT INTO onward_heads TABLE good_heads;
    DELETE FROM onward_objects; INSERT INTO onward_objects TABLE good_objects";

struct Base {
    folder: tempfile::TempDir,
    onward: Onward,
    superuser: Client,
}

impl Base {
    async fn new() -> Self {
        let (folder, url) = (tempfile::tempdir().unwrap(), Postgres::shared().schema().await);
        let onward = Onward::connect(config(&url, &folder.path().join("archive"))).await.unwrap();
        let (superuser, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        live(&onward, async || superuser.batch_execute("CREATE TABLE before_entries AS TABLE onward_entries").await.unwrap()).await;
        superuser.batch_execute(LOOSE).await.unwrap();
        Self { folder, onward, superuser }
    }
}

impl Place for Base {
    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    async fn after(&mut self, damage: &str) -> Report {
        let damage = damage.replace("$orders", "(SELECT id FROM onward_chains WHERE name = 'orders')").replace("AS BLOB", "AS bytea");
        for sql in [AGAIN, &translated(&damage)] {
            self.superuser.batch_execute(sql).await.unwrap();
        }
        let check = Check { archives: Archives::Read, ..Check::default() };
        self.onward.audit().chain("orders").unwrap().verify(check).await.unwrap()
    }

    async fn end(&mut self) -> (String, i64, Vec<u8>, i64) {
        let sql = "SELECT origin, seq, hash, at FROM good_heads JOIN onward_chains ON id = chain WHERE name = 'orders'";
        let row = self.superuser.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2), row.get(3))
    }

    fn put_back(&self) -> String {
        "INSERT INTO onward_entries SELECT * FROM before_entries WHERE chain = $orders AND seq IN (5, 6)".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_attack_on_the_past_is_named_on_postgres() {
    let mut base = Base::new().await;
    attacks_on_rows(&mut base).await;
    a_forged_excuse(&mut base).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_done_to_files_and_manifests_is_named_on_postgres() {
    attacks_on_manifests(&mut Base::new().await).await;
    attacks_on_files(&mut Base::new().await).await;
}
