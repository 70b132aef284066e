use crate::support::Home;

fn url(home: &Home, name: &str) -> String {
    format!("sqlite:{}", home.path(name).display())
}

fn rows(count: usize) -> String {
    (0..count).map(|n| format!("{{\"kind\":\"doc\",\"name\":\"n{n:04}\",\"payload\":{{\"n\": {n}}}}}\n")).collect()
}

#[test]
fn objects_move_from_store_to_store_and_a_second_run_changes_nothing() {
    let home = Home::with_server();
    let file = home.file("rows.jsonl", rows(1_200));
    let said = home.expect(0, &["object", "import", &file, "-o", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap(), serde_json::json!({"created": 1200, "existing": 0}));
    let out = home.path("out.jsonl").display().to_string();
    home.expect(0, &["object", "export", &out]);
    let exported = std::fs::read(&out).unwrap();
    assert_eq!(home.expect(0, &["object", "export", "-"]).as_bytes(), exported, "a file holds what a pipe gets");
    let other = url(&home, "other.db");
    for done in ["created   1200\nexisting  0\n", "created   0\nexisting  1200\n"] {
        let said = home.pipe(&["--url", &other, "object", "import", "-"], &exported);
        assert_eq!((said.code, said.text().as_str()), (Some(0), done), "{said:?}");
    }
    assert_eq!(home.expect(0, &["--url", &other, "object", "get", "doc/n0007"]), "{\"n\": 7}");
    assert_eq!(home.expect(0, &["object", "export", "-", "--kind", "doc", "--prefix", "n000"]).lines().count(), 10);
    // A name that is taken stays whose it is.
    let said = home.run(&["object", "export", &out]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert_eq!(std::fs::read(&out).unwrap(), exported);
}

#[test]
fn a_bad_line_is_named_as_the_file_counts_it() {
    let home = Home::with_server();
    let file = home.file("rows.jsonl", format!("{}{{\"kind\":\"doc\",\"name\":\"x\",\"paylod\":1}}\n", rows(700)));
    let said = home.run(&["object", "import", &file]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("line 701: ") && said.err.contains("did you mean `payload`?"), "{said:?}");
    assert!(said.err.contains("512 created and 0 existing before that"), "{said:?}");
    assert_eq!(said.text(), "");
    let missing = home.run(&["object", "import", "nowhere.jsonl"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
}

#[test]
fn a_backup_is_a_new_file_that_opens_as_a_store() {
    let home = Home::with_server();
    let payload = home.file("p.json", "1");
    home.expect(0, &["object", "put", "doc/a", &payload, "--create"]);
    let copy = home.path("copy.db").display().to_string();
    home.expect(0, &["store", "backup", &copy]);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!home.path("copy.db.part").exists());
    assert_eq!(home.run(&["store", "backup", &copy]).code, Some(2), "a backup replaces nothing");
    assert_eq!(home.expect(0, &["--url", &url(&home, "copy.db"), "object", "get", "doc/a"]), "1");
    assert_eq!(home.run(&["--url", "memory:", "store", "backup", &home.path("m.db").display().to_string()]).code, Some(2));
    assert!(!home.path("m.db").exists() && !home.path("m.db.part").exists());
}

#[test]
fn a_store_is_compacted_and_checked() {
    let home = Home::with_server();
    let payload = home.file("p.json", "1");
    for name in ["doc/a", "doc/b", "doc/c"] {
        home.expect(0, &["object", "put", name, &payload, "--create"]);
    }
    assert_eq!(home.expect(0, &["store", "compact", "2"]), "compacted  2\n");
    assert_eq!(home.run(&["object", "watch", "--from", "1"]).code, Some(4));
    assert_eq!(home.run(&["store", "compact"]).code, Some(2));
    assert!(home.expect(0, &["store", "check"]).starts_with("OK"));
    let copy = home.path("copy.db").display().to_string();
    home.expect(0, &["store", "backup", &copy]);
    rusqlite::Connection::open(&copy).unwrap().execute("UPDATE onward_objects SET revision = 9007199254740993", []).unwrap();
    let said = home.run(&["--url", &url(&home, "copy.db"), "store", "check", "-o", "jsonl"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.json()["findings"][1]["check"], "store.objects", "{said:?}");
    assert_eq!(said.json()["findings"][1]["grade"], "fail", "{said:?}");
}

#[test]
fn a_chain_moves_to_another_store_and_is_verified_there() {
    let home = Home::bare();
    let (old, new) = (url(&home, "old.db"), url(&home, "new.db"));
    for kind in ["first", "second"] {
        home.expect(0, &["--url", &old, "audit", "append", "orders", "--kind", kind]);
    }
    let whole = home.expect(0, &["--url", &old, "audit", "export", "orders"]);
    let file = home.file("orders.ndjson", &whole);
    let edited = home.file("edited.ndjson", whole.replace("second", "changed"));
    home.expect(2, &["--url", &new, "audit", "import", "orders", &edited]);
    home.expect(2, &["--url", &new, "audit", "import", "others", &file]);
    home.expect(2, &["--url", &new, "audit", "import", "orders", "nowhere"]);
    assert!(home.expect(0, &["--url", &new, "audit", "import", "orders", &file]).contains("ok, entries 1..3"));
    assert_eq!(home.expect(0, &["--url", &new, "audit", "export", "orders"]), whole);
    home.expect(3, &["--url", &new, "audit", "import", "orders", &file]);
}
