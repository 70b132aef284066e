use crate::support::Home;

#[test]
fn a_token_is_made_listed_and_revoked_without_a_server() {
    let home = Home::bare();
    let url = format!("sqlite:{}", home.path("o.db").display());
    let token = |rest: &[&str]| [&["--url", &url, "token"], rest].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let run = |code: i32, rest: &[&str]| home.expect(code, &token(rest).iter().map(String::as_str).collect::<Vec<_>>());
    run(2, &["create", "--role", "admin", "--scope", "*", "--ttl", "never"]);
    run(2, &["create", "--role", "root", "--scope", "*", "--ttl", "1d"]);
    run(2, &["create", "--role", "admin", "--scope", "web", "--ttl", "1d"]);
    let secret = run(0, &["create", "--role", "writer", "--scope", "objects:doc", "--ttl", "90d", "--name", "ci"]);
    let secret = secret.trim();
    assert!(secret.starts_with("onw_") && secret.parse::<onward_server::Token>().is_ok());
    let id = &secret[4..16];
    let listed = run(0, &["ls", "-o", "jsonl"]);
    assert!(listed.contains(id) && listed.contains("\"ci\"") && !listed.contains(&secret[17..60]), "{listed}");
    run(2, &["revoke", id, "--reason", "left"]);
    run(0, &["revoke", id, "--dry-run"]);
    run(0, &["revoke", id, "--reason", "left", "--yes"]);
    run(4, &["revoke", id, "--reason", "left", "--yes"]);
    assert!(!run(0, &["ls"]).contains(id));
    let told = home.expect(0, &["--url", &url, "audit", "query", "onward.admin", "-o", "jsonl"]);
    assert!(told.contains("token.create") && told.contains("token.revoke") && !told.contains(&secret[17..60]), "{told}");
}
