use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn load(text: &str) -> Result<Configuration, ConfigError> {
    with(text, |sources| sources)
}

/// Loads a file with this text, named `onward.toml` in messages, and whatever else.
fn with(text: &str, more: impl FnOnce(Sources) -> Sources) -> Result<Configuration, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("onward.toml");
    std::fs::write(&path, text).unwrap();
    let place = folder.path().display().to_string();
    Configuration::load(&more(Sources::none().with_file(path)))
        .map_err(|error| ConfigError(error.0.into_iter().map(|problem| problem.replace(&format!("{place}/"), "")).collect()))
}

#[track_caller]
fn refused(text: &str, wanted: &str) {
    assert_eq!(load(text).unwrap_err().to_string(), wanted);
}

#[test]
fn without_a_word_everything_has_its_default() {
    let configuration = Configuration::load(&Sources::none()).unwrap();
    assert_eq!(configuration.settings().listen, ["127.0.0.1:7337".parse().unwrap()]);
    assert_eq!(configuration.settings().store_url.secret(), "sqlite:./onward.db");
    assert!(configuration.rows().iter().all(|row| row.origin == "default"));
    assert_eq!(configuration.file(), None);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let text = "[server.limits]\nrequests = 1\nconnections = 2\nwaits = 3\n[server]\nlisten = [\"127.0.0.1:1\"]\n";
    let configuration = with(text, |sources| {
        sources
            .with_var("ONWARD__SERVER__LIMITS__CONNECTIONS", "20")
            .with_var("ONWARD__SERVER__LISTEN", "127.0.0.1:2")
            .with_texts("--listen", "server.listen", &["127.0.0.1:3".to_owned()])
            .with_switch("--insecure-plaintext", "server.allow.insecure_plaintext")
    })
    .unwrap();
    let settings = configuration.settings();
    assert_eq!((settings.limits.requests, settings.limits.connections, settings.limits.waits), (1, 20, 3));
    assert_eq!(settings.listen, ["127.0.0.1:3".parse().unwrap()]);
    assert!(settings.insecure_plaintext);
    let origin = |key: &str| configuration.origin(key).unwrap().to_string();
    assert!(origin("server.limits.requests").ends_with("onward.toml:2"), "{}", origin("server.limits.requests"));
    assert_eq!(origin("server.limits.connections"), "env ONWARD__SERVER__LIMITS__CONNECTIONS");
    assert_eq!(origin("server.listen"), "flag --listen");
    assert_eq!(origin("server.limits.streams"), "default");
}

#[test]
fn inline_tables_dotted_keys_and_sections_say_the_same() {
    let texts = [
        "[server.timeouts]\nheader = \"3s\"\nbody = \"4s\"",
        "server.timeouts = { header = \"3s\", body = \"4s\" }",
        "server.timeouts.header = \"3s\"\nserver.timeouts.body = \"4s\"",
        "[server]\ntimeouts = { header = \"3s\" }\ntimeouts.body = \"4s\"",
    ];
    for text in &texts[..3] {
        let timeouts = load(text).unwrap().settings().timeouts;
        assert_eq!((timeouts.head, timeouts.body), (Duration::from_secs(3), Duration::from_secs(4)), "{text}");
    }
    assert!(load(texts[3]).is_err(), "TOML closes an inline table");
}

#[test]
fn a_variable_is_toml_or_plain_text_and_a_table_merges_key_by_key() {
    let configuration = with("ops.log.level = \"debug\"", |sources| {
        sources
            .with_var("ONWARD__OPS__LOG", "{ format = \"text\" }")
            .with_var("ONWARD__STORE__URL", "sqlite:/data/a.db")
            .with_var("ONWARD__SERVER__PUBLIC__HOSTS", "[\"a.example\", \"b.example\"]")
            .with_var("ONWARD__LOCKS__ENABLED", "")
    })
    .unwrap();
    let settings = configuration.settings();
    assert_eq!((settings.log.levels, settings.log.format), ("debug".parse().unwrap(), crate::log::Format::Text));
    assert_eq!(settings.store_url.secret(), "sqlite:/data/a.db");
    assert_eq!(settings.hosts, ["a.example", "b.example"]);
    assert!(settings.locks_enabled, "an empty variable is unset");
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_the_nearest_name() {
    refused("[store]\n\nulr = \"memory:\"\n", "unknown key `store.ulr` (onward.toml:3), did you mean `store.url`?");
    refused("[zzz]\nqqqqqqqq = 1\n", "unknown key `zzz` (onward.toml:1)");
    let error = with("", |sources| sources.with_var("ONWARD__STORE__ULR", "memory:")).unwrap_err();
    assert_eq!(error.to_string(), "unknown key `store.ulr` (ONWARD__STORE__ULR), did you mean `store.url`?");
    refused("server = 3", "`server` (onward.toml:1) is a section: its keys stand below it");
}

#[test]
fn a_key_that_is_not_built_says_so() {
    refused("[store]\npool = 16\n", "`store.pool` (onward.toml:2) is not built in this version: take it out");
    refused("audit.anchors = \"s3:a\"", "`audit.anchors` (onward.toml:1) is not built in this version: take it out");
}

#[test]
fn a_value_out_of_bounds_says_what_it_should_be_and_never_what_it_was() {
    refused("server.limits.requests = 0", "`server.limits.requests` (onward.toml:1) is a whole number from 1 to 1000000");
    refused(
        "server.timeouts.header = \"secret\"",
        "`server.timeouts.header` (onward.toml:1) is a time with its unit (ms, s, m, h, d), from 100ms to 10m",
    );
    refused("locks.enabled = 2026-11-21", "`locks.enabled` (onward.toml:1) is a date or a fraction, which no key is");
    for text in ["store.url = \"mysql://u:secret@h/d\"", "audit.key = \"secret\"", "auth.tokens = [{name=\"secret\"}]", "a = \"secret"] {
        let error = load(text).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let error = load("[store]\nulr = 1\n[locks]\nenabled = 3\n").unwrap_err();
    assert_eq!(error.problems().len(), 2, "{error}");
}

#[test]
fn a_secret_comes_from_a_file_too_and_never_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, format!("{}\n", "ab".repeat(32))).unwrap();
    let path = path.display().to_string();
    let configuration = load(&format!("audit.key_file = {path:?}")).unwrap();
    assert!(!configuration.settings().audit_key.is_empty());
    let row = configuration.rows().into_iter().find(|row| row.key == "audit.key").unwrap();
    assert_eq!(row.value, "\"***\"");
    assert!(!format!("{configuration:?}{}", configuration.to_toml(Origins::Shown)).contains("abab"));
    let both = with("", |sources| sources.with_var("ONWARD__AUDIT__KEY", &"cd".repeat(32)).with_var("ONWARD__AUDIT__KEY_FILE", &path));
    assert!(both.unwrap_err().to_string().contains("are both set"));
    let higher = with(&format!("audit.key_file = {path:?}"), |sources| sources.with_var("ONWARD__AUDIT__KEY", &"cd".repeat(32)));
    assert_eq!(higher.unwrap().origin("audit.key").unwrap().to_string(), "env ONWARD__AUDIT__KEY", "the environment wins over the file");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    assert!(load(&format!("audit.key_file = {path:?}")).unwrap_err().to_string().contains("may be written by others"));
    assert!(load("audit.key_file = \"/nowhere\"").unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn a_listed_token_needs_a_name_a_role_and_a_hash() {
    let good = format!("auth.tokens = [{{ name = \"ci\", role = \"admin\", sha256 = \"{}\" }}]", "0f".repeat(32));
    let tokens = load(&good).unwrap().settings().tokens.clone();
    assert_eq!((tokens.len(), tokens[0].name.as_str(), tokens[0].scopes.as_slice()), (1, "ci", &["*".parse().unwrap()][..]));
    for bad in ["[{}]", "[1]", "3", "[{ name = \"a\", role = \"admin\", sha256 = \"zz\" }]", "[{ nam = \"a\" }]"] {
        assert!(load(&format!("auth.tokens = {bad}")).is_err(), "{bad}");
    }
}

#[test]
fn a_file_that_was_named_must_be_there_and_be_toml() {
    let missing = Configuration::load(&Sources::none().with_file(PathBuf::from("/nowhere/onward.toml")));
    assert!(missing.unwrap_err().to_string().starts_with("/nowhere/onward.toml: cannot be read"));
    assert!(load("[server\n").unwrap_err().to_string().starts_with("onward.toml:1: "));
}

#[test]
fn what_is_shown_reads_back_as_itself() {
    let configuration = load("server.public.hosts = [\"a \\\"b\\\"\"]\nstore.history = \"2h\"\n").unwrap();
    let again = load(&configuration.to_toml(Origins::Shown)).unwrap();
    let values = |configuration: &Configuration| configuration.rows().into_iter().map(|row| (row.key, row.value)).collect::<Vec<_>>();
    assert_eq!(values(&configuration), values(&again));
}

/// The documentation is checked, not trusted: its example is the defaults, and its table the table.
#[test]
fn the_documented_example_and_table_are_those_of_the_code() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md")).unwrap();
    let defaults = Configuration::load(&Sources::none()).unwrap();
    let example = defaults.to_toml(Origins::Hidden);
    assert!(page.contains(&example), "docs/configuration.md: put this in as the example:\n{example}");
    let table = Configuration::table();
    assert!(page.contains(&table), "docs/configuration.md: put this in as the table:\n{table}");
}
