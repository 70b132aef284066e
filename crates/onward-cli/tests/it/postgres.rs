//! The command line on a real Postgres: TLS that trusts nobody by mistake, and what the doctor says of the way to the server.

use onward::testing::servers::{Pooler, Postgres};
use serde_json::Value;

use crate::doctor::grade;
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
