//! The command line and `serve` on a real Redis: behind TLS, as a cluster, and what a proof says of it.

use onward::testing::servers::{Redis, RedisCluster, free_port};

use crate::serve::{TOKEN, configured, start};
use crate::support::Home;

/// Writes a certificate for localhost with its key and starts a server that shows it; returns it with the URL of its TLS port.
fn secure(home: &Home) -> (Redis, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    home.file("a.crt", cert.pem());
    home.file("a.key", key.serialize_pem());
    let port = free_port().to_string();
    let (cert, key) = (home.path("a.crt").display().to_string(), home.path("a.key").display().to_string());
    let options =
        ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"];
    (Redis::start_with(&options), format!("rediss://localhost:{port}"))
}

#[test]
fn a_redis_behind_tls_is_reached_with_the_certificate_that_is_named_only() {
    let home = Home::bare();
    let (_server, url) = secure(&home);
    let get = ["cache", "get", "web", "k", "--url", &url];
    let said = home.run(&get);
    assert!(said.code == Some(8) && said.err.contains("ca=FILE"), "{said:?}");
    home.expect(4, &[&get[..], &["--ca-file", "a.crt"]].concat());
    let said = home.command(&get).env("ONWARD_CA_FILE", "a.crt").output().unwrap();
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    home.expect(0, &["lock", "run", "job", "--url", &url, "--ca-file", "a.crt", "--", "true"]);
    let other = home.file("other.crt", "no certificate");
    let said = home.run(&[&get[..], &["--ca-file", &other]].concat());
    assert!(said.code == Some(2) && said.err.contains("no certificate"), "{said:?}");

    // A server names it in the URL, and says at its start what is wrong with it.
    let parts = |url: &str| format!("locks.url = \"{url}\"\ncache.url = \"{url}\"\n");
    let config = configured(&home, "onward.toml", &parts(&format!("{url}?ca=a.crt")));
    let _running = start(&home, &config);
    home.expect(0, &["config", "check", "--config", &config]);
    let config = configured(&home, "other.toml", &parts(&url));
    for command in ["check", "serve"] {
        let args = if command == "check" { vec!["config", "check", "--config", &config] } else { vec!["serve", "--config", &config] };
        let said = home.run(&args);
        assert!(said.code != Some(0) && said.err.contains("ca=FILE"), "{said:?}");
    }
}

#[test]
fn a_cluster_is_a_cache_for_the_command_line_and_for_a_server_and_has_no_locks() {
    let (home, cluster) = (Home::bare(), RedisCluster::start());
    let url = cluster.url();
    let value = home.file("v", "value");
    let nonce = home.expect(4, &["cache", "get", "web", "k", "--lease", "--wait", "0s", "--url", &url]);
    home.expect(0, &["cache", "put", "web", "k", &value, "--fill", nonce.trim(), "--ttl", "1m", "--url", &url]);
    assert_eq!(home.expect(0, &["cache", "get", "web", "k", "--url", &url]), "value");
    home.expect(0, &["cache", "invalidate", "web", "k", "--url", &url]);
    // Not even where a failure means to go on.
    let said = home.run(&["lock", "run", "job", "--on-error", "open", "--url", &url, "--", "true"]);
    assert!(said.code != Some(0) && said.err.contains("not a cluster"), "{said:?}");

    let config = configured(&home, "onward.toml", &format!("cache.url = \"{url}\"\n"));
    let _running = start(&home, &config);
    let config = configured(&home, "locks.toml", &format!("locks.url = \"{url}\"\n"));
    let said = home.run(&["serve", "--config", &config]);
    assert!(said.code == Some(2) && said.err.contains("locks.url"), "{said:?}");
}

#[test]
fn the_layout_shared_with_php_is_chosen_by_the_configuration_or_the_environment() {
    let (home, server) = (Home::bare(), Redis::start());
    let url = server.url();
    let generation = || server.ask("HGET project:42 __utopia_gen__");
    let invalidate = |layout: &str| {
        let mut command = home.command(&["cache", "invalidate", "default", "Project:42", "--url", &url]);
        command.env("ONWARD__CACHE__LAYOUT", layout).output().unwrap().status.code()
    };
    assert_eq!((invalidate("onward"), generation().as_str()), (Some(0), ""));
    assert_eq!(invalidate("other"), Some(2));
    assert_eq!(invalidate("utopia"), Some(0));
    let first = generation();
    assert_eq!(first.len(), 16, "{first}");
    // It may be meant for another process: a cache in memory takes no notice.
    let mut elsewhere = home.command(&["object", "list", "project", "--url", "memory:"]);
    assert_eq!(elsewhere.env("ONWARD__CACHE__LAYOUT", "utopia").output().unwrap().status.code(), Some(0));

    let config = configured(&home, "onward.toml", &format!("cache.url = \"{url}\"\ncache.layout = \"utopia\"\n"));
    let (_running, address) = start(&home, &config);
    home.file("token", TOKEN);
    let server_url = format!("http://{address}");
    home.expect(0, &["cache", "invalidate", "default", "Project:42", "--url", &server_url, "--token-file", "token"]);
    assert_ne!(generation(), first, "the server moves it, too");
    let config = configured(&home, "memory.toml", "cache = { url = \"memory:\", scope = \"process\", layout = \"utopia\" }\n");
    let said = home.run(&["serve", "--config", &config]);
    assert!(said.code != Some(0) && said.err.contains("utopia"), "{said:?}");
}

#[test]
fn a_proof_says_what_it_ran_on() {
    let (home, server) = (Home::bare(), Redis::start());
    let on = |scenario: &str, url: &str| {
        let said = home.run(&["prove", scenario, "--rounds", "1", "--url", url, "-o", "json"]);
        assert_ne!(said.code, Some(2), "{said:?}");
        let proof = said.json();
        (proof["url"].clone(), proof["scenarios"][0]["on"].as_str().unwrap().to_owned(), said.err)
    };
    let (url, stood, _) = on("lost-update", &server.url());
    assert_eq!((url, stood.as_str()), (server.url().into(), "store: sqlite"), "no word of Redis, which keeps no store");
    let (_, stood, _) = on("herd", &server.url());
    assert!(stood.starts_with("cache: redis 127.0.0.1:"), "{stood}");
    // What is no Redis is not used, and that is said.
    let (url, stood, told) = on("lost-update", "sqlite:./a.db");
    assert_eq!((url, stood.as_str()), (serde_json::Value::Null, "store: sqlite"));
    assert!(told.contains("is not used") && !home.path("a.db").exists(), "{told}");
    assert_eq!(home.run(&["prove", "herd", "--url", "redis://h?what=1"]).code, Some(2));
}
