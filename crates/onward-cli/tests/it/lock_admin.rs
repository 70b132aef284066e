use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Home, Running};

/// Holds a lock until it is told to end; tells its token first.
fn holder(home: &Home, key: &str) -> Running {
    let script = "trap 'exit 0' USR1; echo $ONWARD_FENCE; while :; do sleep 0.05; done";
    let mut running = home.start(&mut home.command(&["lock", "run", key, "--", "sh", "-c", script]));
    assert!(running.line().parse::<u64>().is_ok(), "{}", running.complaints());
    running
}

#[test]
fn held_locks_are_listed_and_shown() {
    let home = Home::with_server();
    assert_eq!(home.run(&["lock", "ls", "job/", "-o", "json"]).json()["items"], serde_json::json!([]));
    let (mut first, mut second) = (holder(&home, "job/1"), holder(&home, "other"));
    let table = home.expect(0, &["lock", "ls", "job/", "-o", "table"]);
    assert!(table.starts_with("KEY") && table.contains("job/1") && !table.contains("other"), "{table}");
    let all = home.expect(0, &["lock", "ls", "-o", "jsonl"]);
    // The server's own worker holds one of its own now and then.
    assert_eq!(all.lines().filter(|line| !line.contains("\"onward/maintain\"")).count(), 2);
    let mut watch = home.start(&mut home.command(&["lock", "ls", "--watch", "-o", "jsonl"]));
    let mut next = || std::iter::repeat_with(|| watch.line()).find(|line| !line.contains("\"onward/maintain\"")).unwrap();
    assert!(next().contains("job/1") && next().contains("other"));
    // The next look has them again.
    assert!(next().contains("job/1"));
    watch.signal(Signal::INT);
    assert_eq!(watch.code(), Some(130));
    for running in [&mut first, &mut second] {
        running.signal(Signal::USR1);
        assert_eq!(running.code(), Some(0));
    }
}

#[test]
fn a_broken_holder_ends_and_its_late_write_is_refused() {
    let home = Home::with_server();
    let file = home.file("p.json", "{}");
    let script = "echo $ONWARD_FENCE; exec sleep 600";
    let mut running = home.start(&mut home.command(&["lock", "run", "nightly", "--ttl", "900ms", "--", "sh", "-c", script]));
    let old = running.line();
    home.expect(2, &["lock", "break", "nightly"]);
    // No terminal to ask at, and no yes.
    home.expect(2, &["lock", "break", "nightly", "--reason", "host 7 is gone"]);
    home.expect(2, &["lock", "break", "nightly", "--reason", " ", "--yes"]);
    assert!(home.expect(0, &["lock", "break", "nightly", "--dry-run", "-o", "json"]).contains("held"));
    let broken = home.run(&["lock", "break", "nightly", "--reason", "host 7 is gone", "--yes", "-o", "json"]).json();
    assert_eq!((broken["outcome"].as_str(), broken["old_token"].to_string()), (Some("broken"), old.clone()));
    assert_eq!(running.code(), Some(120), "{}", running.complaints());
    let fence = format!("nightly={old}");
    home.expect(6, &["object", "put", "report/1", &file, "--overwrite", "--fence", &fence]);
    home.expect(4, &["lock", "break", "nightly", "--reason", "again", "--yes"]);
    home.expect(0, &["lock", "run", "nightly", "--", "true"]);
}

#[test]
fn the_switch_is_flipped_shown_and_heeded() {
    let home = Home::with_server();
    let shown = home.expect(0, &["lock", "status", "-o", "table"]);
    assert!(shown.contains("decided by: default") && shown.contains("never set") && shown.contains("answered in"), "{shown}");
    home.expect(2, &["lock", "switch", "off", "--yes"]);
    home.expect(2, &["lock", "switch", "off", "--reason", "the engine stalls"]);
    home.expect(2, &["lock", "switch", "away", "--reason", "x", "--yes"]);
    home.expect(0, &["lock", "switch", "off", "--dry-run"]);
    let set = home.expect(0, &["lock", "switch", "off", "--reason", "the engine stalls", "--yes", "-o", "table"]);
    assert!(set.contains("on  never set") && set.contains("the engine stalls"), "{set}");
    let ran = home.run(&["lock", "run", "nightly", "--", "sh", "-c", "echo ${ONWARD_FENCE-none}"]);
    assert_eq!((ran.code, ran.text().trim()), (Some(0), "none"));
    assert!(ran.err.contains("switched off"), "{}", ran.err);
    assert_eq!(home.run(&["lock", "status", "-o", "json"]).json()["source"], "switch");
    home.expect(0, &["lock", "switch", "on", "--reason", "it is well again"]);
    let ran = home.run(&["lock", "run", "nightly", "--", "sh", "-c", "echo ${ONWARD_UNLOCKED-locked}"]);
    assert_eq!(ran.text().trim(), "locked");
    home.expect(8, &["--url", "http://127.0.0.1:1", "lock", "switch", "on", "--reason", "x"]);
    home.expect(8, &["--url", "http://127.0.0.1:1", "lock", "status"]);
}

#[test]
fn a_switch_that_the_configuration_pins_cannot_be_switched_on() {
    let home = Home::bare();
    let run = |args: &[&str]| home.command(args).env("ONWARD__LOCKS__ENABLED", "false").stderr(Stdio::null()).output().unwrap();
    assert_eq!(run(&["lock", "switch", "on", "--reason", "x"]).status.code(), Some(3));
    let shown: serde_json::Value = serde_json::from_slice(&run(&["lock", "status", "-o", "json"]).stdout).unwrap();
    assert_eq!((&shown["enabled"], &shown["source"], &shown["state"]), (&false.into(), &"configuration".into(), &"off".into()));
}

#[test]
fn other_processes_on_the_file_follow_the_switch() {
    let home = Home::bare();
    home.expect(0, &["lock", "switch", "off", "--reason", "x", "--yes"]);
    let ran = home.run(&["lock", "run", "nightly", "--", "sh", "-c", "echo $ONWARD_UNLOCKED"]);
    assert_eq!((ran.code, ran.text().trim()), (Some(0), "1"));
}
