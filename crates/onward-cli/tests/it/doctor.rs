//! `onward doctor` on a sound server, on a file with something wrong, and where it may not look.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Home;

pub(crate) fn grade<'a>(report: &'a serde_json::Value, check: &str) -> &'a str {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no {check}: {report}"))["grade"].as_str().unwrap()
}

#[test]
fn a_sound_server_keeps_every_promise_and_nothing_is_left_behind() {
    let home = Home::with_server();
    let report: serde_json::Value = serde_json::from_str(&home.expect(0, &["doctor", "-o", "json"])).unwrap();
    for check in
        ["sqlite.journal", "sqlite.mode", "store.create", "store.replace", "locks.exclusion", "locks.token", "cache.fill", "audit.chains"]
    {
        assert_eq!(grade(&report, check), "ok", "{check}: {report}");
    }
    assert_eq!(home.expect(0, &["object", "list", "doctor", "-o", "jsonl"]), "");
    let table = home.expect(0, &["doctor", "--only", "store"]);
    assert!(table.contains("OK") && table.contains("store.replace") && !table.contains("sqlite"), "{table}");
}

#[test]
fn a_file_that_others_may_read_is_a_warning_and_under_strict_a_failure() {
    let home = Home::bare();
    let (file, url) = (home.path("a.db"), format!("sqlite:{}", home.path("a.db").display()));
    home.expect(0, &["doctor", "--url", &url, "--only", "engine"]);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = home.run(&["doctor", "--url", &url, "--only", "engine", "-o", "json"]);
    assert_eq!((said.code, grade(&said.json(), "sqlite.mode")), (Some(0), "warn"), "{said:?}");
    home.expect(1, &["doctor", "--url", &url, "--only", "engine", "--strict"]);
}

#[test]
fn locking_that_is_switched_off_is_a_warning() {
    let home = Home::bare();
    let mut doctor = home.command(&["doctor", "--url", "memory:", "--only", "locks", "-o", "json"]);
    let said = doctor.env("ONWARD__LOCKS__ENABLED", "false").output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((said.status.code(), grade(&report, "locks.switch")), (Some(0), "warn"), "{report}");
}

#[test]
fn a_broken_chain_is_a_failure() {
    let home = Home::bare();
    let url = format!("sqlite:{}", home.path("a.db").display());
    for _ in 0..3 {
        home.expect(0, &["audit", "append", "billing", "--kind", "invoice.paid", "--url", &url]);
    }
    let file = rusqlite::Connection::open(home.path("a.db")).unwrap();
    file.execute_batch("DROP TRIGGER onward_entries_stay; UPDATE onward_entries SET kind = 'invoice.void' WHERE seq = 2").unwrap();
    drop(file);
    let said = home.run(&["doctor", "--url", &url, "--only", "audit", "-o", "json"]);
    assert_eq!((said.code, grade(&said.json(), "audit.chain")), (Some(1), "fail"), "{said:?}");
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    Home::bare().expect(8, &["doctor", "--url", "http://127.0.0.1:1"]);
    Home::bare().expect(2, &["doctor"]);
}

#[test]
fn no_chain_is_beyond_the_doctor() {
    let home = Home::bare();
    let url = format!("sqlite:{}", home.path("a.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = onward::Onward::open(&url).await.unwrap().store();
        for first in (0..1_100).step_by(100) {
            let mut commit = onward::commit::Commit::new();
            for chain in first..first + 100 {
                commit =
                    commit.audit(onward::model::ChainName::new(&format!("chain.{chain:04}")).unwrap(), onward::model::Entry::new("made"));
            }
            assert!(matches!(store.commit(commit).await.unwrap(), onward::commit::CommitOutcome::Committed(_)));
        }
    });
    home.expect(0, &["doctor", "--url", &url, "--only", "audit"]);
    let file = rusqlite::Connection::open(home.path("a.db")).unwrap();
    file.execute_batch(
        "DROP TRIGGER onward_entries_stay; UPDATE onward_entries SET kind = 'void' WHERE chain = (SELECT max(chain) FROM onward_entries)",
    )
    .unwrap();
    drop(file);
    let said = home.run(&["doctor", "--url", &url, "--only", "audit", "-o", "json"]);
    assert_eq!((said.code, grade(&said.json(), "audit.chain")), (Some(1), "fail"), "{said:?}");
}
