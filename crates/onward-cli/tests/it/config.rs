//! `onward config`: what a server would be told, from where, and what is wrong with it.

use crate::support::Home;

#[test]
fn each_value_is_shown_with_where_it_came_from() {
    let home = Home::bare();
    let plain = home.expect(0, &["config", "show"]);
    assert!(plain.contains("[server.limits]\nthreads = 0\n") && !plain.contains('#'), "{plain}");
    home.file("onward.toml", format!("[server.limits]\nrequests = 7\n[audit]\nkey = \"k1:{}\"\n", "ab".repeat(32)));
    let shown =
        String::from_utf8(home.command(&["config", "show", "--origin"]).env("ONWARD__OPS__LOG__LEVEL", "debug").output().unwrap().stdout)
            .unwrap();
    let line = |key: &str| shown.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("{key}: {shown}"));
    assert!(line("requests").starts_with("requests = 7 ") && line("requests").ends_with("# file onward.toml:2"), "{shown}");
    assert!(line("level").starts_with("level = \"debug\" ") && line("level").ends_with("# env ONWARD__OPS__LOG__LEVEL"), "{shown}");
    assert!(line("key").starts_with("key = \"***\" ") && !shown.contains("abab"), "{shown}");
    assert!(line("connections").ends_with("# default"), "{shown}");
    // What is shown is a file that reads back.
    home.file("again.toml", &plain);
    assert_eq!(home.expect(0, &["config", "show", "--config", "again.toml"]), plain);
    let rows = home.run(&["config", "show", "-o", "json"]).json();
    assert_eq!(rows["file"], "onward.toml");
    assert!(rows["items"].as_array().unwrap().iter().any(|row| row["key"] == "server.limits.requests" && row["value"] == "7"), "{rows}");
}

#[test]
fn the_file_is_the_first_that_there_is() {
    let home = Home::bare();
    std::fs::create_dir_all(home.path(".config/onward")).unwrap();
    std::fs::write(home.path(".config/onward/onward.toml"), "server.limits.waits = 1\n").unwrap();
    assert!(home.expect(0, &["config", "show"]).contains("waits = 1\n"));
    home.file("onward.toml", "server.limits.waits = 2\n");
    assert!(home.expect(0, &["config", "show"]).contains("waits = 2\n"), "the one here comes first, and alone");
    home.file("named.toml", "server.limits.waits = 3\n");
    assert!(home.expect(0, &["config", "show", "--config", "named.toml"]).contains("waits = 3\n"));
}

#[test]
fn a_check_finds_what_a_start_would_refuse() {
    let home = Home::bare();
    let check = |text: &str, more: &[&str]| {
        home.file("onward.toml", text);
        home.run(&[&["config", "check"], more].concat())
    };
    assert_eq!(check("store.url = \"sqlite:./a.db\"\nserver.listen = [\"127.0.0.1:0\"]\n", &[]).code, Some(0));
    assert!(!home.path("a.db").exists(), "a check makes nothing");
    for (text, says) in [
        ("[store]\nulr = \"memory:\"\n", "unknown key `store.ulr` (onward.toml:2), did you mean `store.url`?"),
        ("store.pool = 3\n", "not built"),
        ("server.listen = [\"0.0.0.0:0\"]\n", "--insecure-plaintext"),
        ("server.tls = { cert_file = \"no.crt\", key_file = \"no.key\" }\n", "no.crt cannot be read"),
    ] {
        let said = check(text, &["--offline"]);
        assert_eq!(said.code, Some(2), "{text}: {said:?}");
        assert!(said.err.contains(says), "{text}: {said:?}");
    }
    // Not ours to serve from here.
    let there = "server.listen = [\"192.0.2.1:7337\"]\nserver.allow.insecure_plaintext = true\nstore.url = \"sqlite:./a.db\"\n";
    assert_eq!(check(there, &["--offline"]).code, Some(0));
    let said = check(there, &[]);
    assert!(said.code == Some(2) && said.err.contains("192.0.2.1"), "{said:?}");
    home.file("a.db", "this is no database, and longer than the hundred bytes that a database begins with. ".repeat(3));
    assert_eq!(check("store.url = \"sqlite:./a.db\"\nserver.listen = [\"127.0.0.1:0\"]\n", &[]).code, Some(2));
}
