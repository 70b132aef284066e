use onward_api::client::{Client, Request};
use serde_json::{Value, json};

use crate::support::Home;

#[test]
fn a_write_says_what_it_believes_and_a_stale_belief_is_refused() {
    let home = Home::with_server();
    let file = home.file("p.json", r#"{"open":true}"#);
    home.expect(2, &["object", "put", "project/42", &file]);
    let value = home.run(&["object", "put", "project/42", r#"{"open":true}"#, "--create"]);
    assert!(value.code == Some(2) && value.err.contains("name a file, or -"), "{}", value.err);
    home.expect(0, &["object", "put", "project/42", &file, "--create"]);
    let again = home.run(&["object", "put", "project/42", &file, "--create"]);
    assert_eq!(again.code, Some(3));

    let meta = home.run(&["object", "get", "project/42", "--meta", "-o", "json"]).json();
    let version = meta["version"].to_string();
    assert!(again.err.contains(&format!("it is at version {version} now")), "{}", again.err);

    let changed = home.file("q.json", r#"{"open":false}"#);
    home.expect(0, &["object", "put", "project/42", &changed, "--if-version", &version]);
    let stale = home.run(&["object", "put", "project/42", &file, "--if-version", &version, "-o", "json"]);
    assert_eq!(stale.code, Some(3));
    let problem: Value = serde_json::from_str(&stale.err).unwrap();
    assert_eq!((problem["code"].as_str(), problem["effect"].as_str()), (Some("version_conflict"), Some("not_applied")));
    assert_ne!(problem["current"]["version"], meta["version"]);
    assert_eq!(home.expect(0, &["object", "get", "project/42"]), r#"{"open":false}"#);

    home.expect(2, &["object", "delete", "project/42"]);
    home.expect(3, &["object", "delete", "project/42", "--if-version", &version]);
    home.expect(0, &["object", "delete", "project/42", "--overwrite"]);
    home.expect(4, &["object", "get", "project/42"]);
}

#[test]
fn bytes_and_odd_names_survive_the_way() {
    let home = Home::with_server();
    let bytes: Vec<u8> = (0..=255).collect();
    let file = home.file("bytes", &bytes);
    for name in ["blob/a", "blob/a/b/c", "blob/with space", "blob/ä", "blob/a//b", "blob/a%2Fb", "blob/a?b#c"] {
        home.expect(0, &["object", "put", name, &file, "--create"]);
        let read = home.run(&["object", "get", name]);
        assert_eq!((read.code, read.out), (Some(0), bytes.clone()), "{name}");
    }
    let listed = home.expect(0, &["object", "list", "blob", "-o", "jsonl"]);
    assert_eq!(listed.lines().count(), 7, "{listed}");
    let text = home.pipe(&["object", "put", "note/1", "-", "--create", "--content-type", "text/plain"], b"hello");
    assert_eq!(text.code, Some(0), "{text:?}");
    assert_eq!(home.run(&["object", "get", "note/1", "--meta", "-o", "json"]).json()["content_type"], "text/plain");
}

#[test]
fn lists_come_in_every_format_and_end_at_the_limit() {
    let home = Home::with_server();
    let file = home.file("p.json", "{}");
    for name in ["project/a1", "project/a2", "project/b1"] {
        home.expect(0, &["object", "put", name, &file, "--create"]);
    }
    let names = |args: &[&str]| -> Vec<String> {
        let said = home.run(&[&["object", "list", "project", "-o", "json"], args].concat()).json();
        said["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&[]), ["a1", "a2", "b1"]);
    assert_eq!(names(&["--prefix", "a"]), ["a1", "a2"]);
    assert_eq!(names(&["--limit", "1"]), ["a1"]);
    assert_eq!(home.run(&["object", "list", "nothing", "-o", "json"]).json()["items"].as_array().map(Vec::len), Some(0));
    let table = home.expect(0, &["object", "list", "project"]);
    assert_eq!(table.lines().map(|line| line.split("  ").next().unwrap()).collect::<Vec<_>>(), ["NAME", "a1", "a2", "b1"]);
}

#[test]
fn a_list_of_many_pages_is_whole_in_every_format() {
    let home = Home::with_server();
    let client = Client::connect(&home.ready("url"), Some(&home.ready("token"))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // As many as a commit takes, until there is more than a page.
    for batch in 0..9 {
        let create = |n| json!({"op": "create", "kind": "project", "name": format!("{batch}-{n:03}"), "payload": n});
        let commit = json!({"writes": (0..128).map(create).collect::<Vec<_>>()});
        runtime.block_on(client.call(Request::post("commit").json(&commit))).unwrap();
    }
    let all = home.expect(0, &["object", "list", "project", "-o", "jsonl"]);
    let mut names: Vec<_> = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].to_string()).collect();
    names.dedup();
    assert_eq!((names.len(), names.is_sorted()), (1_152, true));
    let whole = home.run(&["object", "list", "project", "-o", "json", "--limit", "1100"]).json();
    assert_eq!(whole["items"].as_array().map(Vec::len), Some(1_100));
    assert_eq!(home.expect(0, &["object", "list", "project"]).lines().count(), 1_153);
}

#[test]
fn an_older_fencing_token_is_refused() {
    let home = Home::with_server();
    let file = home.file("p.json", "{}");
    home.expect(0, &["object", "put", "project/1", &file, "--overwrite", "--fence", "nightly=8"]);
    home.expect(6, &["object", "put", "project/1", &file, "--overwrite", "--fence", "nightly=7"]);
    home.expect(0, &["object", "put", "project/1", &file, "--overwrite", "--fence", "nightly=8"]);
    home.expect(2, &["object", "put", "project/1", &file, "--overwrite", "--fence", "nightly"]);
}

#[test]
fn a_repeated_request_id_happens_once() {
    let home = Home::with_server();
    let file = home.file("p.json", "{}");
    let put = ["object", "put", "project/1", &file, "--create", "--request-id", "r1", "-o", "json"];
    let first = home.run(&put).json();
    let second = home.run(&put).json();
    assert_eq!((first["version"].clone(), false, true), (second["version"].clone(), first["replayed"] == true, second["replayed"] == true));
    let other = home.file("q.json", "[]");
    home.expect(3, &["object", "put", "project/1", &other, "--create", "--request-id", "r1"]);
}

#[test]
fn an_engine_file_takes_the_same_commands_without_a_server() {
    let home = Home::bare();
    let file = home.file("p.json", "{}");
    let url = format!("sqlite:{}", home.path("app.db").display());
    home.expect(2, &["object", "get", "project/1"]);
    home.expect(0, &["--url", &url, "object", "put", "project/1", &file, "--create"]);
    home.expect(3, &["--url", &url, "object", "put", "project/1", &file, "--create"]);
    assert_eq!(home.expect(0, &["--url", &url, "object", "get", "project/1"]), "{}");
    home.expect(4, &["--url", &url, "object", "get", "project/2"]);
    home.expect(2, &["--url", "nonsense:x", "object", "get", "project/2"]);
}

#[test]
fn who_is_not_known_or_not_there_has_an_exit_code() {
    let mut home = Home::with_server();
    let url = home.ready("url");
    let refused = home.command(&["object", "get", "project/1"]).env("ONWARD_TOKEN", "onw_wrong").output().unwrap();
    assert_eq!(refused.status.code(), Some(9));
    let token = home.file("token", home.ready("token"));
    let other = Home::bare();
    other.expect(9, &["--url", &url, "object", "get", "project/1"]);
    other.expect(4, &["--url", &url, "--token-file", &token, "object", "get", "project/1"]);
    other.expect(2, &["--url", &url, "--token-file", "missing", "object", "get", "project/1"]);
    home.server().signal(rustix::process::Signal::KILL);
    home.server().code();
    other.expect(8, &["--url", &url, "--token-file", &token, "object", "get", "project/1"]);
    home.expect(2, &["object", "get", "project/1"]);
    home.expect(2, &["object", "gat"]);
}

#[test]
fn a_folder_that_others_can_enter_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::with_server();
    home.expect(4, &["object", "get", "project/1"]);
    let folder = home.path("run/onward");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    home.expect(2, &["object", "get", "project/1"]);
}

#[test]
fn nothing_means_unlimited_or_never_by_being_zero() {
    let home = Home::bare();
    home.expect(2, &["object", "list", "project", "--limit", "0", "--url", "memory:"]);
    home.expect(2, &["audit", "query", "billing", "--limit", "0", "--url", "memory:"]);
    home.expect(2, &["object", "list", "project", "--timeout", "0s", "--url", "memory:"]);
}

#[test]
fn a_patch_changes_the_newest_state_in_one_go() {
    let home = Home::with_server();
    let file = home.file("p.json", r#"{"n":1,"state":"open"}"#);
    home.expect(0, &["object", "put", "project/1", &file, "--create"]);
    home.expect(
        0,
        &["object", "patch", "project/1", "--compare", "/state=open", "--add", "/n=-3", "--set", "/who=me", "--append", "/log=7"],
    );
    assert_eq!(home.expect(0, &["object", "get", "project/1"]), r#"{"log":[7],"n":-2,"state":"open","who":"me"}"#);
    home.expect(3, &["object", "patch", "project/1", "--compare", "/state=closed", "--remove", "/n"]);
    let merged = home.pipe(&["object", "patch", "project/1", "--merge", "-"], br#"{"log":null,"who":null}"#);
    assert_eq!(merged.code, Some(0), "{merged:?}");
    assert_eq!(home.expect(0, &["object", "get", "project/1"]), r#"{"n":-2,"state":"open"}"#);
    home.expect(2, &["object", "patch", "project/1"]);
    home.expect(2, &["object", "patch", "project/1", "--set", "/a"]);
    home.expect(4, &["object", "patch", "project/none", "--set", "/a=1"]);
}

#[test]
fn history_and_earlier_states_are_shown() {
    let home = Home::with_server();
    for (text, belief) in [("1", "--create"), ("2", "--overwrite")] {
        let file = home.file("p.json", text);
        home.expect(0, &["object", "put", "project/1", &file, belief]);
    }
    let all = home.run(&["object", "history", "project/1", "-o", "json"]).json();
    assert_eq!((&all["items"][0]["payload"], &all["items"][1]["payload"]), (&json!(2), &json!(1)));
    let first = all["items"][1]["revision"].to_string();
    assert_eq!(home.expect(0, &["object", "get", "project/1", "--at", &first]), "1");
    assert_eq!(home.expect(0, &["object", "history", "project/1", "--limit", "1", "-o", "jsonl"]).lines().count(), 1);
    home.expect(4, &["object", "get", "project/1", "--at", "99"]);
}

#[test]
fn labels_and_a_time_to_live_are_set_kept_and_asked_for() {
    let home = Home::with_server();
    let file = home.file("p.json", "{}");
    let labels = ["--label", "team=blue", "--label", "größe=50 %", "--ttl", "30m"];
    home.expect(0, &[&["object", "put", "project/1", &file, "--create"][..], &labels].concat());
    home.expect(0, &["object", "put", "project/2", &file, "--create", "--label", "team=red"]);
    let meta = |name: &str| home.run(&["object", "get", name, "--meta", "-o", "json"]).json();
    let first = meta("project/1");
    assert_eq!((&first["labels"], first["expires_at"].is_string()), (&json!({"team": "blue", "größe": "50 %"}), true));
    home.expect(0, &["object", "patch", "project/1", "--set", "/n=1", "--label", "team=green", "--labels", "merge", "--ttl", "never"]);
    let second = meta("project/1");
    assert_eq!((&second["labels"], second.get("expires_at")), (&json!({"team": "green", "größe": "50 %"}), None));
    let list = |labels: &[&str]| home.expect(0, &[&["object", "list", "project", "-o", "jsonl"], labels].concat()).lines().count();
    assert_eq!((list(&[]), list(&["--label", "team"]), list(&["--label", "team=red"])), (2, 2, 1));
    assert_eq!((list(&["--label", "größe=50 %", "--label", "team=green"]), list(&["--label", "team=blue"])), (1, 0));
    assert!(home.expect(0, &["object", "list", "project", "--label", "team=red", "-o", "table"]).contains(r#"{"team":"red"}"#));
    assert!(home.expect(0, &["object", "history", "project/1", "-o", "table"]).contains("green"));
    home.expect(0, &["object", "put", "project/1", &file, "--overwrite", "--labels", "set"]);
    assert_eq!(meta("project/1")["labels"], json!({}));
    for bad in [&["--label", "team"][..], &["--labels", "both"], &["--ttl", "0s"], &["--ttl", "5"], &["--ttl", "1ms"], &["--label", "=x"]] {
        home.expect(2, &[&["object", "put", "project/3", &file, "--create"], bad].concat());
    }
    home.expect(2, &["object", "list", "project", "--label", "=x"]);
    home.expect(4, &["object", "get", "project/3"]);
}

#[test]
fn a_touch_keeps_an_object_alive_and_lists_take_several_values() {
    let home = Home::with_server();
    let file = home.file("s.bin", [0_u8, 255, 1]);
    home.expect(4, &["object", "touch", "session/1", "--ttl", "30m"]);
    home.expect(0, &["object", "put", "session/1", &file, "--create", "--label", "team=blue", "--ttl", "1m"]);
    let meta = |name: &str| home.run(&["object", "get", name, "--meta", "-o", "json"]).json();
    let before = meta("session/1");
    home.expect(0, &["object", "touch", "session/1", "--ttl", "30m"]);
    let after = meta("session/1");
    assert_eq!((&after["labels"], &after["payload_base64"]), (&before["labels"], &before["payload_base64"]));
    assert_ne!((&after["expires_at"], &after["version"]), (&before["expires_at"], &before["version"]));
    home.expect(3, &["object", "touch", "session/1", "--if-version", &before["version"].to_string()]);
    home.expect(0, &["object", "put", "session/2", &file, "--create", "--label", "team=red"]);
    home.expect(0, &["object", "put", "session/3", &file, "--create", "--label", "team=green"]);
    let listed = home.expect(0, &["object", "list", "session", "--label", "team in (blue, red)", "-o", "jsonl"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    home.expect(2, &["object", "list", "session", "--label", "team in ()"]);
}
