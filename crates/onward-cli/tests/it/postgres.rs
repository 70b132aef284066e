//! The command line on a real Postgres: TLS that trusts nobody by mistake, what the doctor says of the way to the server, migrations.

use onward::testing::servers::{Pooler, Postgres};
use serde_json::{Value, json};

use crate::clients::Clients;
use crate::doctor::grade;
use crate::serve::{TOKEN, configured_on, start};
use crate::support::{Home, Said};

/// A certificate for a name, signed by nobody else, and its key.
fn certificate(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_server_that_does_not_prove_its_name_is_told_nothing_and_the_fix_is_said() {
    let home = Home::bare();
    let (own, key) = certificate("localhost");
    let server = Postgres::start_with_tls(&own, &key);
    let own = home.file("own.pem", own);
    let other = home.file("other.pem", certificate("localhost").0);
    let look = |host: &str, options: &str| -> Said {
        let url = format!("postgres://onward@{host}:{}/postgres?{options}", server.port());
        home.run(&["object", "list", "thing", "--url", &url])
    };
    let refused = |said: Said, fix: &str| assert!(said.code == Some(2) && said.err.contains(fix), "{fix}: {said:?}");
    refused(look("localhost", &format!("sslmode=verify-full&sslrootcert={other}")), "sslrootcert");
    refused(look("localhost", &format!("sslmode=require&sslrootcert={other}")), "sslrootcert");
    refused(look("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={own}")), "another name");
    let said = look("localhost", &format!("sslmode=verify-full&sslrootcert={own}"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let plain = format!("postgres://onward@localhost:{}/postgres?sslmode=verify-full&sslrootcert={own}", Postgres::shared().port());
    refused(home.run(&["object", "list", "thing", "--url", &plain]), "sslmode=disable");
}

#[test]
fn the_doctor_knows_a_pooler_a_weak_default_and_those_who_wait() {
    let home = Home::bare();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Postgres::shared();
    let url = runtime.block_on(server.database());
    let name = url.rsplit('/').next().unwrap();
    let doctor = |url: &str| -> Value { home.run(&["doctor", "--url", url, "--only", "engine", "-o", "json"]).json() };
    let sound = doctor(&url);
    for check in ["postgres.pooler", "postgres.synchronous_commit", "postgres.locks", "postgres.fsync"] {
        assert_eq!(grade(&sound, check), "ok", "{check}: {sound}");
    }
    runtime.block_on(Postgres::run_at(&url, &format!("ALTER DATABASE {name} SET synchronous_commit = off")));
    let pooler = Pooler::before(server);
    let report = doctor(&pooler.url(name));
    for check in ["postgres.pooler", "postgres.synchronous_commit"] {
        assert_eq!(grade(&report, check), "warn", "{check}: {report}");
    }
    // One stands in the way of another, for longer than a moment.
    let (one, two) = (url.clone(), url.clone());
    let take = "BEGIN; SELECT pg_advisory_xact_lock(7); SELECT pg_sleep(60)";
    let holder = runtime.spawn(async move { Postgres::run_at(&one, take).await });
    let waiter = runtime.spawn(async move { Postgres::run_at(&two, take).await });
    // Each look takes a while; some are needed.
    assert!((0..500).any(|_| grade(&doctor(&url), "postgres.locks") == "warn"), "nobody is seen to wait");
    let release = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    runtime.block_on(Postgres::run_at(&url, release));
    holder.abort();
    waiter.abort();
}

/// A dump of version 1 in a new database is planned, migrated, read and written; and a server that runs while a newer version changes the
/// schema writes no more.
#[test]
fn an_old_dump_is_migrated_by_the_command_line_and_an_older_server_is_kept_from_writing() {
    let home = Home::bare();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = runtime.block_on(Postgres::shared().database());
    let sql = |sql: &str| runtime.block_on(Postgres::run_at(&url, sql));
    sql(include_str!("../../../onward/tests/it/postgres_schema_1.sql"));
    sql(include_str!("postgres_1.sql"));
    let run = |rest: &[&str]| home.run(&[&["--url", url.as_str(), "-o", "json"], rest].concat());
    // Looking changes nothing, however often.
    for _ in 0..2 {
        let planned = run(&["migrate", "plan"]);
        assert_eq!((planned.code, &planned.json()["found"], &planned.json()["due"]), (Some(1), &json!(1), &json!(true)), "{planned:?}");
    }
    let done = run(&["migrate", "apply"]);
    assert_eq!((done.code, &done.json()["due"]), (Some(0), &json!(false)), "{done:?}");
    assert_eq!(done.json()["found"], done.json()["wanted"]);
    for again in ["plan", "apply"] {
        assert_eq!(run(&["migrate", again]).code, Some(0), "{again}");
    }
    assert_eq!(run(&["object", "get", "thing/x1"]).json(), json!({"n": 7}));
    assert_eq!(run(&["object", "list", "thing", "--label", "team=blue"]).text().matches("\"version\"").count(), 3);
    let report = run(&["audit", "verify", "orders"]).json();
    assert_eq!((&report["verdict"], &report["to_seq"]), (&json!("ok"), &json!(4)), "{report}");
    // What is new works on what is old.
    let buyer = home.file("buyer", "ada@example.org");
    let append = ["audit", "append", "orders", "--kind", "order.placed", "--personal", &buyer, "--subject", "user:7"];
    assert_eq!(run(&append).code, Some(0));
    assert_eq!(run(&["audit", "personal", "orders", "5"]).json()["data"], "ada@example.org");
    let redacted = run(&["audit", "redact", "orders", "--subject", "user:7", "--reason", "request 4711", "--yes"]).json();
    assert_eq!(
        (&redacted["values"], &redacted["erased"], redacted["log_until"].is_string()),
        (&json!(1), &json!(true), true),
        "{redacted}"
    );
    assert_eq!(run(&["audit", "verify", "orders"]).code, Some(0));

    // A replica of this version serves, and the next version migrates beside it.
    let config = configured_on(&home, "onward.toml", &url, "");
    let (_server, address) = start(&home, &config);
    let clients = Clients::of(&address, TOKEN);
    assert_eq!(clients.ask("PUT /v1/objects/thing/x4", "If-None-Match: *\r\n", &json!({"n": 4})).0, 201);
    sql("UPDATE onward_meta SET schema_version = schema_version + 1");
    for (line, headers) in [("PUT /v1/objects/thing/x5", "If-None-Match: *\r\n"), ("POST /v1/chains/orders/entries", "")] {
        let body = if headers.is_empty() { json!({"entries": [{"kind": "a"}]}) } else { json!({"n": 5}) };
        let (status, said) = clients.ask(line, headers, &body);
        assert_eq!((status, &said["code"]), (501, &json!("unsupported")), "{said}");
    }
    for refused in [&["migrate", "apply"][..], &["object", "list", "thing"]] {
        let said = run(refused);
        assert!(said.code == Some(2) && said.err.contains("start a newer version"), "{said:?}");
    }
    sql("UPDATE onward_meta SET schema_version = schema_version - 1");
    assert_eq!(run(&["object", "list", "thing"]).text().matches("\"version\"").count(), 4);
}
