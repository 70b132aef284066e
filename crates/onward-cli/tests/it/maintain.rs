//! `onward audit maintain`: from cron, in two processes at once, and beside a chain whose file is damaged.

use std::path::Path;

use onward::audit::verify::{Archives, Check, SegmentState, Verdict};
use onward::audit::{AppendOptions, Chain, Filter, Page};
use onward::model::{Entry, MacKeys};
use onward::time::Clock;
use onward::{Config, Onward};
use serde_json::Value;

use crate::support::Home;

const URL: &str = "sqlite:./onward.db";

/// A file that says when steps are due: at once.
fn configured(home: &Home, purge_after: &str) {
    let (key, signing) = ("07".repeat(32), "05".repeat(32));
    home.file(
        "onward.toml",
        format!(
            "[audit]\nkey = \"{key}\"\nsigning_key = \"{signing}\"\narchive = \"file:./archive\"\nseal_after = \"0s\"\nsegment_rows = 100\n\
             archive_after = \"0s\"\npurge_after = \"{purge_after}\"\n"
        ),
    );
}

async fn opened(home: &Home) -> Onward {
    let config = Config::new(format!("sqlite:{}", home.path("onward.db").display()))
        .with_keys(MacKeys::parse(&"07".repeat(32)).unwrap())
        .with_archive_at(format!("file:{}", home.path("archive").display()));
    Onward::connect(config).await.unwrap()
}

async fn append(chain: &Chain, entries: usize) {
    for _ in 0..entries / 100 {
        chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
    }
}

/// The only file of an archive that has this many bytes at least.
fn some_file(folder: &Path) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "zst") {
                return path;
            }
        }
    }
    panic!("no file in the archive");
}

#[tokio::test]
async fn two_processes_that_maintain_at_once_beside_a_writer_take_each_step_once() {
    let home = Home::bare();
    configured(&home, "0s");
    let onward = opened(&home).await;
    let chain = onward.audit().chain("orders").unwrap();
    append(&chain, 1_000).await;
    // Without the lock that would let only one of them work.
    let start = || {
        let mut command = home.command(&["--url", URL, "audit", "maintain", "-o", "jsonl"]);
        command.env("ONWARD__LOCKS__ENABLED", "false").spawn().unwrap()
    };
    let both = [start(), start()];
    for _ in 0..20 {
        chain.append(Entry::new("order.refund"), AppendOptions::new()).await.unwrap();
    }
    for process in both {
        let ended = tokio::task::spawn_blocking(|| process.wait_with_output().unwrap()).await.unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    // What one of them had in its hands when the other looked is done by the next.
    home.expect(0, &["--url", URL, "audit", "maintain"]);
    let segments = chain.segments(None).await.unwrap();
    assert!(segments.len() >= 10 && segments.iter().all(|segment| segment.state == SegmentState::Purged), "{segments:?}");
    for kind in ["segment.sealed", "segment.archived", "segment.purge_begun", "segment.purged"] {
        let filter = Filter { kind: Some(kind.to_owned()), ..Filter::default() };
        let steps = chain.query(&filter, Page::first(1_000)).await.unwrap().items;
        assert_eq!(steps.len(), segments.len(), "{kind}");
    }
    let check = Check { archives: Archives::Read, ..Check::default() };
    let report = chain.verify(check).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{report}");
    assert!(report.to_seq > 1_020, "every entry that was acknowledged is counted");
}

#[tokio::test]
async fn a_damaged_file_stops_its_own_chain_and_the_command_says_so() {
    let home = Home::bare();
    configured(&home, "never");
    let onward = opened(&home).await;
    append(&onward.audit().chain("billing").unwrap(), 100).await;
    home.expect(0, &["--url", URL, "audit", "maintain"]);
    let file = some_file(&home.path("archive"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    append(&onward.audit().chain("orders").unwrap(), 100).await;
    configured(&home, "0s");
    let looked = home.run(&["--url", URL, "audit", "maintain", "--dry-run", "-o", "jsonl"]);
    assert_eq!(looked.code, Some(1), "{looked:?}");
    assert!(looked.text().contains("\"planned\"") && onward.audit().chain("orders").unwrap().segments(None).await.unwrap().is_empty());
    let said = home.run(&["--url", URL, "audit", "maintain", "--reason", "nightly", "-o", "jsonl"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let steps: Vec<Value> = said.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed: Vec<&Value> = steps.iter().filter(|step| step["result"] == "failed").collect();
    assert!(failed.len() == 1 && failed[0]["chain"] == "billing" && failed[0]["stage"] == "purge", "{steps:?}");
    assert_eq!(failed[0]["code"], "integrity_failure", "{steps:?}");
    let orders = onward.audit().chain("orders").unwrap();
    assert!(orders.segments(None).await.unwrap().iter().all(|segment| segment.state == SegmentState::Purged));
    let filter = Filter { kind: Some("segment.purged".to_owned()), ..Filter::default() };
    let purged = orders.query(&filter, Page::default()).await.unwrap().items;
    assert!(!purged.is_empty() && purged.iter().all(|entry| String::from_utf8_lossy(&entry.data).contains("nightly")));
    let doctor = home.run(&["--url", URL, "doctor", "--only", "engine", "-o", "json"]).json();
    assert!(doctor["findings"].as_array().unwrap().iter().any(|finding| finding["check"] == "audit.maintain"), "{doctor}");
}

/// A chain from long ago, by a clock that stands: what is due in a day is due now.
async fn old(home: &Home, names: &[&str]) {
    let config = Config::new(format!("sqlite:{}", home.path("onward.db").display())).with_keys(MacKeys::parse(&"07".repeat(32)).unwrap());
    let onward = Onward::connect(config.with_clock(Clock::manual())).await.unwrap();
    for name in names {
        append(&onward.audit().chain(name).unwrap(), 100).await;
    }
}

#[tokio::test]
async fn chains_are_checkpointed_and_verified_without_being_asked_and_a_red_one_is_told_once() {
    let home = Home::bare();
    let (key, signing) = ("07".repeat(32), "05".repeat(32));
    home.file("onward.toml", format!("[audit]\nkey = \"{key}\"\nsigning_key = \"{signing}\"\narchive = \"file:./archive\"\n"));
    old(&home, &["billing", "orders"]).await;
    let damage = "DROP TRIGGER onward_entries_stay; UPDATE onward_entries SET actor = 'mallory' WHERE seq = 5 AND chain = (SELECT id FROM
                  onward_chains WHERE name = 'billing')";
    rusqlite::Connection::open(home.path("onward.db")).unwrap().execute_batch(damage).unwrap();
    let maintain = |more: &[&'static str]| home.run(&[&["--url", URL, "audit", "maintain", "-o", "jsonl"], more].concat());
    let told = |text: &str| {
        let steps = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut told: Vec<_> =
            steps.map(|step| ["chain", "stage", "result"].map(|name| step[name].as_str().unwrap().to_owned()).join(" ")).collect();
        told.sort();
        told
    };
    let planned = maintain(&["--dry-run"]);
    assert_eq!((planned.code, told(&planned.text()).len()), (Some(0), 4), "{planned:?}");
    let said = maintain(&[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let expected = ["billing checkpoint done", "billing verify failed", "orders checkpoint done", "orders verify done"];
    assert_eq!(told(&said.text()), expected, "{said:?}");
    assert!(said.text().contains("BROKEN(edited) 5..5"), "{said:?}");
    let again = maintain(&[]);
    assert_eq!((again.code, again.text().as_str()), (Some(0), ""), "the verdict is kept: {again:?}");
}

#[test]
fn a_retention_that_cannot_be_carried_out_is_usage() {
    let home = Home::bare();
    home.file("onward.toml", "[audit]\npurge_after = \"1d\"\narchive = \"file:./archive\"\n");
    let said = home.run(&["--url", URL, "audit", "maintain"]);
    assert!(said.code == Some(2) && said.err.contains("no key seals entries"), "{said:?}");
    home.file("onward.toml", "[audit]\nchains = [{ match = \"Orders\" }]\n");
    let said = home.run(&["--url", URL, "audit", "maintain"]);
    assert!(said.code == Some(2) && said.err.contains("audit.chains"), "{said:?}");
}
