use crate::support::Home;

#[test]
fn a_fill_that_an_invalidation_overtook_is_refused() {
    let home = Home::with_server();
    let value = home.file("v", "value");
    let lease = |code| home.expect(code, &["cache", "get", "web", "project:42", "--lease", "--wait", "0s"]).trim().to_owned();
    home.expect(4, &["cache", "get", "web", "project:42"]);
    let nonce = lease(4);
    assert!(!nonce.is_empty());
    assert_eq!(lease(5), "");
    home.expect(0, &["cache", "put", "web", "project:42", &value, "--fill", &nonce, "--ttl", "1m"]);
    assert_eq!(home.expect(0, &["cache", "get", "web", "project:42"]), "value");

    home.expect(0, &["cache", "invalidate", "web", "project:42"]);
    let late = lease(4);
    home.expect(0, &["cache", "invalidate", "web", "project:42"]);
    home.expect(3, &["cache", "put", "web", "project:42", &value, "--fill", &late, "--ttl", "1m"]);
    home.expect(4, &["cache", "get", "web", "project:42"]);
}

#[test]
fn a_save_without_a_lease_kills_the_fill_in_flight() {
    let home = Home::with_server();
    let value = home.file("v", "value");
    let nonce = home.expect(4, &["cache", "get", "web", "k", "--lease", "--wait", "0s"]);
    home.expect(0, &["cache", "put", "web", "k", &value, "--unleased", "--ttl", "1m"]);
    home.expect(3, &["cache", "put", "web", "k", &value, "--fill", nonce.trim(), "--ttl", "1m"]);
    assert_eq!(home.expect(0, &["cache", "get", "web", "k"]), "value");
    home.expect(2, &["cache", "put", "web", "k", &value, "--unleased", "--fill", nonce.trim(), "--ttl", "1m"]);
    home.expect(2, &["cache", "put", "web", "k", &value, "--ttl", "1m"]);
}

#[test]
fn a_flush_needs_a_reason_and_a_yes() {
    let home = Home::with_server();
    let nonce = home.expect(4, &["cache", "get", "web", "k", "--lease", "--wait", "0s"]);
    let value = home.file("v", "value");
    home.expect(0, &["cache", "put", "web", "k", &value, "--fill", nonce.trim(), "--ttl", "1m"]);
    home.expect(2, &["cache", "flush", "web", "--yes"]);
    home.expect(2, &["cache", "flush", "web", "--reason", "bad deploy"]);
    let entries = || home.run(&["cache", "stats", "web", "-o", "json"]).json()["entries"].clone();
    assert_eq!(home.run(&["cache", "flush", "web", "--dry-run", "-o", "json"]).json()["entries"], 1);
    assert_eq!(entries(), 1);
    home.expect(0, &["cache", "flush", "web", "--reason", "bad deploy", "--yes"]);
    assert_eq!(entries(), 0);
}

#[test]
fn an_expired_value_is_shown_as_stale_with_the_lease_to_refresh_it() {
    let home = Home::with_server();
    let value = home.file("v", "value");
    let nonce = home.expect(4, &["cache", "get", "web", "k", "--lease", "--wait", "0s"]);
    home.expect(0, &["cache", "put", "web", "k", &value, "--fill", nonce.trim(), "--ttl", "1m", "--stale", "1h"]);
    assert_eq!(home.run(&["cache", "invalidate", "web", "k", "--expire", "-o", "json"]).json()["outcome"], "expired");
    home.expect(4, &["cache", "get", "web", "k"]);
    let stale = home.run(&["cache", "get", "web", "k", "--lease", "--stale", "1h", "-o", "json"]).json();
    assert_eq!((&stale["outcome"], &stale["value_base64"]), (&"stale".into(), &"dmFsdWU=".into()));
    assert_eq!(home.expect(0, &["cache", "get", "web", "k", "--lease", "--stale", "1h"]), "value");
    home.expect(0, &["cache", "put", "web", "k", &value, "--fill", stale["fill"].as_str().unwrap(), "--ttl", "1m"]);
    assert_eq!(home.expect(0, &["cache", "get", "web", "k"]), "value");
}

#[test]
fn an_event_is_appended_once_and_found_again() {
    let home = Home::with_server();
    let data = home.file("data", "exactly  this\n");
    let append =
        ["audit", "append", "orders", "--kind", "order.refund", "--actor", "user:7", "--data", &data, "--event-id", "e1", "-o", "json"];
    let first = home.run(&append).json();
    let again = home.run(&append).json();
    assert_eq!((&first["seq"], &first["hash"], again["replayed"].as_bool()), (&again["seq"], &again["hash"], Some(true)));
    home.expect(3, &["audit", "append", "orders", "--kind", "other", "--event-id", "e1"]);
    home.expect(0, &["audit", "append", "orders", "--kind", "order.paid"]);

    let found = home.expect(0, &["audit", "query", "orders", "--kind", "order.refund", "-o", "jsonl"]);
    let found: serde_json::Value = serde_json::from_str(found.trim()).unwrap();
    assert_eq!(found["data"], "exactly  this\n");
    let tail = home.expect(0, &["audit", "tail", "orders", "-o", "jsonl"]);
    // The chain begins with an entry of its own.
    assert_eq!(tail.lines().count(), 3);
    assert!(tail.lines().last().unwrap().contains("order.paid"), "{tail}");
}

#[test]
fn a_head_saved_outside_shows_a_database_that_was_put_back() {
    let home = Home::bare();
    let url = format!("sqlite:{}", home.path("app.db").display());
    let append = |kind: &str| home.expect(0, &["--url", &url, "audit", "append", "orders", "--kind", kind]);
    append("first");
    let backup = home.path("backup");
    std::fs::create_dir(&backup).unwrap();
    let files = || std::fs::read_dir(home.path("")).unwrap().flatten().filter(|f| f.file_name().to_string_lossy().starts_with("app."));
    files().for_each(|f| std::fs::copy(f.path(), backup.join(f.file_name())).map(|_| ()).unwrap());
    append("second");
    let head = home.path("head").display().to_string();
    home.expect(0, &["--url", &url, "audit", "verify", "orders", "--save", &head]);
    append("third");
    home.expect(0, &["--url", &url, "audit", "verify", "orders", "--checkpoint", &head, "--save", &head]);

    files().for_each(|f| std::fs::remove_file(f.path()).unwrap());
    std::fs::read_dir(&backup)
        .unwrap()
        .flatten()
        .for_each(|f| std::fs::copy(f.path(), home.path("").join(f.file_name())).map(|_| ()).unwrap());
    home.expect(0, &["--url", &url, "audit", "verify", "orders"]);
    let bad = home.run(&["--url", &url, "audit", "verify", "orders", "--checkpoint", &head]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    home.expect(2, &["--url", &url, "audit", "verify", "orders", "--checkpoint", "missing"]);
    home.expect(2, &["audit", "verify", "orders"]);
}

#[test]
fn a_key_never_goes_to_a_server() {
    let home = Home::with_server();
    let key = home.file("key", "00".repeat(32));
    home.expect(0, &["audit", "append", "orders", "--kind", "a"]);
    home.expect(0, &["audit", "verify", "orders"]);
    let refused = home.run(&["audit", "verify", "orders", "--key", &key]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("not sent to a server"), "{}", refused.err);
}

#[test]
fn entries_under_a_key_verify_with_the_key() {
    let home = Home::bare();
    let url = format!("sqlite:{}", home.path("app.db").display());
    let key = "ab".repeat(32);
    let appended =
        home.command(&["--url", &url, "audit", "append", "orders", "--kind", "a"]).env("ONWARD__AUDIT__KEY", &key).output().unwrap();
    assert_eq!(appended.status.code(), Some(0), "{appended:?}");
    let file = home.file("key", &key);
    let report = home.run(&["--url", &url, "audit", "verify", "orders", "--key", &file, "-o", "json"]).json();
    assert_eq!((report["verdict"].as_str(), report["authenticated"].as_bool()), (Some("ok"), Some(true)));
    let wrong = home.file("wrong", "cd".repeat(32));
    home.expect(1, &["--url", &url, "audit", "verify", "orders", "--key", &wrong]);
}

#[test]
fn verify_judges_what_is_there_and_makes_nothing() {
    let home = Home::bare();
    home.file("empty.db", "");
    for name in ["typo.db", "empty.db"] {
        let said = home.run(&["audit", "verify", "billing", "--url", &format!("sqlite:{}", home.path(name).display())]);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains("no such database file"), "{said:?}");
    }
    assert!(!home.path("typo.db").exists() && !home.path("typo.locks.db").exists());
    assert_eq!(std::fs::metadata(home.path("empty.db")).unwrap().len(), 0);
}

#[test]
fn an_exported_file_is_verified_without_a_server() {
    let home = Home::with_server();
    for kind in ["first", "second", "third"] {
        home.expect(0, &["audit", "append", "orders", "--kind", kind]);
    }
    let whole = home.expect(0, &["audit", "export", "orders"]);
    assert_eq!(whole.lines().count(), 6, "{whole}");
    let part = home.expect(0, &["audit", "export", "orders", "--from", "2", "--to", "3"]);
    let alone = Home::bare();
    let verify = |code: i32, name: &str, text: &str, more: &[&str]| {
        let file = alone.file(name, text);
        alone.expect(code, &[&["audit", "verify", "--file", &file], more].concat())
    };
    let head = alone.path("head").display().to_string();
    assert!(verify(0, "whole", &whole, &["--save", &head]).contains("ok, entries 1..4"));
    assert!(verify(0, "again", &whole, &["--checkpoint", &head]).contains("attested to 4"));
    assert!(verify(0, "part", &part, &[]).contains("ok, entries 2..3"));
    assert!(verify(1, "edited", &whole.replace("second", "changed"), &[]).contains("BROKEN(edited) 3..3"));
    // No verdict: a file that was cut off, one that is none, and none at all.
    verify(2, "cut", &whole[..whole.len() - 1], &[]);
    verify(2, "none", "no export\n", &[]);
    verify(2, "outside", &part, &["--checkpoint", &head]);
    alone.expect(2, &["audit", "verify", "--file", "gone"]);
    alone.expect(2, &["audit", "verify"]);
    alone.expect(2, &["audit", "verify", "orders", "--file", &head]);
    home.expect(2, &["audit", "export", "orders", "--from", "9"]);
    home.expect(4, &["audit", "export", "none"]);
}

#[test]
fn a_file_of_an_archive_is_verified_by_its_folder_and_the_verifier_key_alone() {
    let home = Home::bare();
    let archive = home.path("archive");
    let run = |args: &[&str]| {
        let mut command = home.command(&[&["--url", "sqlite:./app.db", "audit"], args].concat());
        command.env("ONWARD__AUDIT__SIGNING_KEY", "05".repeat(32)).env("ONWARD__AUDIT__ARCHIVE", format!("file:{}", archive.display()));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for _ in 0..3 {
        run(&["append", "orders", "--kind", "order.paid"]);
    }
    run(&["seal", "orders", "--reason", "retention"]);
    let segment: serde_json::Value =
        serde_json::from_str(&run(&["archive", "orders", "1", "--reason", "retention", "-o", "json"])).unwrap();
    let origin = run(&["checkpoint", "orders"]).lines().next().unwrap().to_owned();
    let file = archive.join(segment["archive"]["name"].as_str().unwrap());
    let manifest = file.with_file_name("manifest").display().to_string();
    assert_eq!(segment["archive"]["manifest"].as_str().unwrap().len(), 64);
    // Another machine: the folder and the key.
    let alone = Home::bare();
    let signing = alone.file("signing.key", "05".repeat(32));
    let vkey = alone.expect(0, &["audit", "key", "show", &signing, "--origin", &origin]);
    let file = file.display().to_string();
    let verify = |code: i32, more: &[&str]| alone.expect(code, &[&["audit", "verify", "--file", &file], more].concat());
    let good = verify(0, &["--manifest", &manifest, "--vkey", vkey.trim()]);
    assert!(good.contains("ok, entries 1..4, 4 hashed"), "{good}");
    // No key, no file, and a key of another chain.
    verify(2, &["--manifest", &manifest]);
    alone.expect(2, &["audit", "verify", "orders", "--manifest", &manifest, "--vkey", vkey.trim()]);
    let others = alone.expect(0, &["audit", "key", "show", &signing, "--origin", "onward.example/orders"]);
    verify(2, &["--manifest", &manifest, "--vkey", others.trim()]);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let report = verify(1, &["--manifest", &manifest, "--vkey", vkey.trim(), "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&report).unwrap()["findings"][0]["code"], "DEGRADED", "{report}");
}

#[test]
fn a_verification_tells_how_far_it_is_and_ends_with_its_report() {
    let home = Home::with_server();
    for _ in 0..3 {
        home.expect(0, &["audit", "append", "billing", "--kind", "invoice.paid"]);
    }
    let said = home.run(&["audit", "verify", "billing", "--progress", "always", "-o", "json"]);
    assert_eq!((said.code, &said.json()["verdict"]), (Some(0), &"ok".into()), "{said:?}");
    assert!(said.err.lines().all(|line| line.ends_with("rows")), "{said:?}");
    let said = home.run(&["audit", "verify", "nothing-here", "-o", "json"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("not_found"), "{said:?}");
}

#[test]
fn personal_data_are_shown_and_redacted_after_a_yes() {
    let home = Home::with_server();
    let buyer = home.file("buyer", "ada@example.org");
    home.expect(2, &["audit", "append", "orders", "--kind", "a", "--personal", &buyer]);
    home.expect(0, &["audit", "append", "orders", "--kind", "a", "--personal", &buyer, "--subject", "user:7"]);
    assert_eq!(home.run(&["audit", "personal", "orders", "2", "-o", "json"]).json()["data"], "ada@example.org");
    let redact = |rest: &[&'static str]| [&["audit", "redact", "orders", "--subject", "user:7", "-o", "json"], rest].concat();
    home.expect(2, &redact(&["--reason", "request 4711"]));
    assert_eq!(home.run(&redact(&["--dry-run"])).json()["values"], 1);
    assert_eq!(home.run(&redact(&["--reason", "request 4711", "--yes"])).json()["erased"], true);
    home.expect(4, &["audit", "personal", "orders", "2"]);
    home.expect(0, &["audit", "verify", "orders"]);
}

#[test]
fn a_key_is_rotated_and_retired_once_it_seals_no_more() {
    let home = Home::with_server();
    let ring = home.file("ring", format!("old:{}\n", "07".repeat(32)));
    home.expect(0, &["audit", "append", "orders", "--kind", "a"]);
    // The server of this test seals with a key of its own, so none of the ring sealed anything.
    let rotated = home.run(&["audit", "key", "rotate", &ring, "-o", "json"]);
    assert!(rotated.err.contains("none of the keys sealed the newest entry of orders"), "{rotated:?}");
    assert_eq!((&rotated.json()["kid"], &rotated.json()["begins"]), (&"k1".into(), &serde_json::json!([])));
    // The server of this test seals with a key of its own, by the name k1.
    home.expect(2, &["audit", "key", "retire", &ring, "k1"]);
    let retired = home.run(&["audit", "key", "retire", &ring, "old", "orders", "-o", "json"]).json();
    assert_eq!((&retired["active"], &retired["retired"][0]["through_seq"]), (&false.into(), &2.into()));
    let next = home.run(&["audit", "key", "rotate", &ring, "--kid", "next", "-o", "json"]).json();
    let orders = next["begins"].as_array().unwrap().iter().find(|begins| begins["origin"].as_str().unwrap().ends_with("/orders")).unwrap();
    assert_eq!(orders["after_seq"], 2, "k1 sealed the second entry: {next}");
    home.expect(2, &["audit", "key", "retire", &ring, "k1", "orders"]);
    assert_eq!(home.expect(0, &["audit", "key", "ls", &ring, "-o", "jsonl"]).lines().count(), 3);
    assert!(!home.expect(0, &["audit", "key", "ls", &ring]).contains("0707"));
}

#[test]
fn a_key_is_not_rotated_without_a_look_at_the_chains_unless_that_is_said() {
    let home = Home::bare();
    let ring = home.path("ring").display().to_string();
    // Before the first key there was none.
    home.expect(0, &["audit", "key", "rotate", &ring]);
    let before = std::fs::read(&ring).unwrap();
    for (url, code) in [("http://127.0.0.1:1", 8), ("nonsense:", 2)] {
        let said = home.run(&["--url", url, "audit", "key", "rotate", &ring]);
        assert!(said.code == Some(code) && said.err.contains("--unpinned"), "{said:?}");
        assert_eq!(std::fs::read(&ring).unwrap(), before);
    }
    let rotated = home.run(&["--url", "http://127.0.0.1:1", "audit", "key", "rotate", &ring, "--unpinned", "-o", "json"]).json();
    assert_eq!((&rotated["kid"], &rotated["begins"]), (&"k2".into(), &serde_json::json!([])));
}
