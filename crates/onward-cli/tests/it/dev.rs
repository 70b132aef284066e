use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::Home;

#[test]
fn the_ready_line_says_all_and_ctrl_c_leaves_nothing() {
    let mut home = Home::with_server();
    let ready: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(home.path("ready.json")).unwrap()).unwrap();
    assert!(ready["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{ready}");
    assert!(ready["token"].as_str().unwrap().starts_with("onw_"), "{ready}");
    assert_eq!((ready["temporary"].as_bool(), ready["ui_url"].is_null()), (Some(true), true));
    assert!(ready["docs_url"].as_str().is_some_and(|url| url.ends_with("/docs")));
    assert_eq!(ready["pid"], home.server().pid());
    let data = std::path::PathBuf::from(ready["data_dir"].as_str().unwrap());
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    let file = home.path("run/onward/dev.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    home.server().signal(Signal::INT);
    assert_eq!(home.server().code(), Some(0));
    assert!(!data.exists() && !file.exists());
}

#[test]
fn a_folder_of_its_own_keeps_data_and_token_and_takes_one_server() {
    let home = Home::bare();
    let data = home.path("data").display().to_string();
    let dev = || home.start(home.command(&["dev", "--port", "0", "-o", "json", "--data", &data]).stderr(Stdio::null()));
    let token = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["token"].clone();
    let mut first = dev();
    let first_token = token(&first.line());
    let file = home.file("p.json", "{}");
    home.expect(0, &["object", "put", "project/1", &file, "--create"]);
    home.expect(2, &["dev", "--port", "0", "--data", &data]);
    first.signal(Signal::INT);
    assert_eq!(first.code(), Some(0));
    let mut second = dev();
    assert_eq!(token(&second.line()), first_token);
    assert_eq!(home.expect(0, &["object", "get", "project/1"]), "{}");
}

#[test]
fn a_port_that_was_asked_for_and_is_busy_is_refused() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port().to_string();
    Home::bare().expect(2, &["dev", "--port", &port]);
}

#[test]
fn people_get_a_banner_that_can_be_pasted() {
    let home = Home::bare();
    let mut server = home.start(home.command(&["dev", "--port", "0"]).stderr(Stdio::null()));
    let mut seen = String::new();
    while !seen.contains("next") {
        seen.push_str(&server.line());
        seen.push('\n');
    }
    for part in ["NOT FOR PRODUCTION", "API   http://127.0.0.1:", "token  onw_", "try   curl -X PUT", "onward lock run demo"] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
}

#[test]
fn a_data_folder_that_is_a_file_is_a_usage_error() {
    let home = Home::bare();
    let file = home.file("data", "not a folder");
    let said = home.run(&["dev", "--data", &file, "--port", "0"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert_eq!(std::fs::read(file).unwrap(), b"not a folder");
}
