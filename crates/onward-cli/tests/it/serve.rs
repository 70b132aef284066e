//! `onward serve` as a process: TLS from end to end, signals, the service manager, and what was acknowledged when it ends.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sha2::Digest as _;

use crate::support::{Home, Running};

const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const TOKEN: &str = "onw_000000000000_0000000000000000000000000000000000000000000_00000000";

/// Writes a configuration with one admin token; returns its name.
pub(crate) fn configured(home: &Home, name: &str, more: &str) -> String {
    configured_on(home, name, "sqlite:./onward.db", more)
}

/// The same, with this store.
pub(crate) fn configured_on(home: &Home, name: &str, store: &str, more: &str) -> String {
    let hash = hex::encode(sha2::Sha256::digest(TOKEN));
    let text = format!(
        "auth.tokens = [{{ name = \"test\", role = \"admin\", sha256 = \"{hash}\" }}]\nserver.listen = [\"127.0.0.1:0\"]\n\
         store.url = \"{store}\"\n{more}"
    );
    home.file(name, text);
    name.to_owned()
}

/// Starts a server; returns it with its address when it is ready.
pub(crate) fn start(home: &Home, config: &str) -> (Running, String) {
    start_telling(home, config, Stdio::null())
}

/// The same, with a place for the log.
fn start_telling(home: &Home, config: &str, log: Stdio) -> (Running, String) {
    let mut server = home.start(home.command(&["serve", "--config", config, "-o", "json"]).stderr(log));
    let ready: Value = serde_json::from_str(&server.line()).unwrap();
    let url = ready["urls"][0].as_str().unwrap();
    let address = url.split_once("://").unwrap().1.to_owned();
    (server, address)
}

/// Sends one request and reads the status and what else came, if the server answered.
fn ask(address: &str, line: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
}

#[test]
fn a_server_in_the_open_does_not_start() {
    let home = Home::bare();
    configured(&home, "onward.toml", "");
    let said = home.run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("flag --listen") && said.err.contains("--insecure-plaintext"), "{said:?}");
    home.file("empty.toml", "store.url = \"sqlite:./onward.db\"\n");
    let said = home.run(&["serve", "--config", "empty.toml"]);
    assert!(said.code == Some(2) && said.err.contains("no token"), "{said:?}");
}

#[test]
fn the_command_line_speaks_tls_to_those_it_trusts_only() {
    let home = Home::bare();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    home.file("a.crt", cert.pem());
    home.file("a.key", key.serialize_pem());
    home.file("token", TOKEN);
    let config = configured(&home, "onward.toml", "server.tls = { cert_file = \"a.crt\", key_file = \"a.key\" }\n");
    let (mut server, address) = start(&home, &config);
    let url = format!("https://localhost:{}", address.rsplit_once(':').unwrap().1);
    home.file("p.json", "{\"open\":true}");
    let put = ["object", "put", "project/42", "p.json", "--create", "--url", &url, "--token-file", "token"];
    let said = home.run(&put);
    assert_eq!(said.code, Some(8), "a certificate of nobody that this machine knows: {said:?}");
    home.expect(0, &[&put[..], &["--ca-file", "a.crt"]].concat());
    let said = home
        .command(&["object", "get", "project/42", "--url", &url, "--token-file", "token"])
        .env("ONWARD_CA_FILE", "a.crt")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "{\"open\":true}");
    server.signal(Signal::TERM);
    server.signal(Signal::TERM);
    assert!(server.code().is_some());
}

#[test]
fn the_service_manager_hears_when_it_is_ready_lives_and_ends() {
    let home = Home::bare();
    let socket = UnixDatagram::bind(home.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut said = [0; 64];
        let length = socket.recv(&mut said).unwrap();
        String::from_utf8_lossy(&said[..length]).into_owned()
    };
    let config = configured(&home, "onward.toml", "server.shutdown.delay = \"0s\"\n");
    let mut command = home.command(&["serve", "--config", &config]);
    command.env("NOTIFY_SOCKET", home.path("notify")).env("WATCHDOG_USEC", "200000").stderr(Stdio::null());
    let mut server = home.start(&mut command);
    assert_eq!(hear(), "READY=1");
    assert_eq!((hear(), hear()), ("WATCHDOG=1".to_owned(), "WATCHDOG=1".to_owned()));
    server.signal(Signal::TERM);
    while hear() != "STOPPING=1" {}
    assert_eq!(server.code(), Some(0));
}

/// Creates objects one after the other until the server says no or is gone; sends the name of each that was acknowledged.
fn create(address: &str, client: usize, acked: &Sender<String>, refused: &Sender<(u16, String)>) {
    for turn in 0.. {
        let name = format!("{client}-{turn}");
        match ask(address, &format!("PUT /v1/objects/load/{name}"), "If-None-Match: *\r\n", "1") {
            Some((201, _)) => acked.send(name).unwrap(),
            Some(refusal) => return refused.send(refusal).unwrap(),
            None => return,
        }
    }
}

/// Clients that write at once.
const CLIENTS: usize = 200;

/// Two servers on one file, the first under load; ends it, and looks with the second for everything that the first acknowledged.
fn end_under_load(signal: Signal) -> (Option<i32>, Vec<(u16, String)>, Vec<String>) {
    let home = Home::bare();
    let config = configured(&home, "onward.toml", "server.shutdown.delay = \"100ms\"\n");
    let (mut first, address) = start(&home, &config);
    let (_second, other) = start(&home, &config);
    let ((acked, acks), (refused, refusals)) = (channel(), channel());
    let mut names = BTreeSet::new();
    let mut farewells = Vec::new();
    let mut code = None;
    std::thread::scope(|scope| {
        let watches: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&address, "GET /v1/watch?from=0", "", ""))).collect();
        for client in 0..CLIENTS {
            let (address, acked, refused) = (&address, acked.clone(), refused.clone());
            scope.spawn(move || create(address, client, &acked, &refused));
        }
        drop((acked, refused));
        for _ in 0..2 * CLIENTS {
            names.insert(acks.recv_timeout(PATIENCE).expect("the load goes on"));
        }
        first.signal(signal);
        code = first.code();
        names.extend(acks.iter());
        farewells.extend(watches.into_iter().filter_map(|watch| watch.join().unwrap()).map(|(_, said)| said));
    });
    for name in &names {
        let found = ask(&other, &format!("GET /v1/objects/load/{name}"), "", "");
        assert_eq!(found.unwrap().0, 200, "{name} was acknowledged and is missing");
    }
    (code, refusals.iter().collect(), farewells)
}

#[test]
fn ended_under_load_it_loses_nothing_that_it_acknowledged_and_says_goodbye() {
    let (code, refusals, farewells) = end_under_load(Signal::TERM);
    assert_eq!(code, Some(0));
    for (status, said) in refusals {
        assert!(status == 503 && said.contains("draining"), "{status}: {said}");
    }
    // Whoever came too late to watch was not let in.
    assert!(farewells.iter().all(|said| said.contains("event: bye") && said.contains("draining")), "{farewells:?}");
}

#[test]
fn killed_under_load_it_loses_nothing_that_it_acknowledged() {
    let (code, ..) = end_under_load(Signal::KILL);
    assert_eq!(code, None);
}

#[test]
fn a_waiter_is_told_that_the_server_ends_and_the_grant_of_another_stays() {
    let home = Home::bare();
    let config = configured(&home, "onward.toml", "server.shutdown.delay = \"0s\"\n");
    let (mut first, address) = start(&home, &config);
    let (_second, other) = start(&home, &config);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(ask(&address, "POST /v1/locks/k", json, "{\"ttl_ms\":600000}").unwrap().0, 201);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| ask(&address, "POST /v1/locks/k", json, "{\"wait_ms\":60000}"));
        while !ask(&address, "GET /v1/locks/k", "", "").unwrap().1.contains("\"waiters\":1") {
            std::thread::yield_now();
        }
        first.signal(Signal::TERM);
        let (status, said) = waiter.join().unwrap().unwrap();
        assert!(status == 503 && said.contains("\"draining\""), "{said}");
    });
    assert_eq!(first.code(), Some(0));
    assert!(ask(&other, "GET /v1/locks/k", "", "").unwrap().1.contains("\"held\""), "a client's grant outlives the server that gave it");
}

#[test]
fn secrets_never_stand_in_the_log() {
    let home = Home::bare();
    let key = "5eed".repeat(16);
    let config = configured(
        &home,
        "onward.toml",
        &format!("ops.log.level = \"debug\"\naudit.key = \"k:{key}\"\ncache = {{ url = \"memory:\", scope = \"process\" }}\n"),
    );
    let said = home.path("stderr");
    let (mut server, address) = start_telling(&home, &config, Stdio::from(std::fs::File::create(&said).unwrap()));
    let (owner, payload, name) = ("0badc0de".repeat(4), "canary-payload", "canary-name");
    let json = "Content-Type: application/json\r\n";
    let made = ask(&address, "POST /v1/admin/tokens", json, "{\"role\":\"viewer\",\"scopes\":[\"*\"],\"ttl_ms\":60000}").unwrap().1;
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let drawn = made["token"].as_str().unwrap();
    let mut miss = TcpStream::connect(&address).unwrap();
    let head =
        format!("GET /v1/cache/web/{name} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n");
    miss.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    miss.read_to_string(&mut answer).unwrap();
    let nonce = answer.lines().find_map(|line| line.strip_prefix("onward-fill: ")).unwrap().to_owned();
    let path = |rest: &str| format!("{rest}/{name}");
    for (line, headers, body) in [
        (path("PUT /v1/objects/doc"), "If-None-Match: *\r\n".to_owned(), format!("\"{payload}\"")),
        (path("PUT /v1/objects/doc"), "If-None-Match: *\r\n".to_owned(), format!("\"{payload}\"")),
        (path("PUT /v1/objects/doc"), "If-Match: \"1\"\r\nOnward-Label: secret=canary-label\r\n".to_owned(), payload.to_owned()),
        (path("POST /v1/locks"), json.to_owned(), format!("{{\"owner\":\"{owner}\",\"holder\":\"canary-holder\"}}")),
        (path("PUT /v1/locks"), format!("{json}Onward-Owner: {owner}\r\n"), "{}".to_owned()),
        (path("DELETE /v1/locks"), format!("Onward-Owner: {owner}x\r\n"), String::new()),
        (path("PUT /v1/cache/web"), format!("Onward-Fill: {nonce}\r\n"), payload.to_owned()),
        (path("PUT /v1/cache/web"), format!("Onward-Fill: {nonce}0\r\n"), payload.to_owned()),
        (
            "POST /v1/chains/main/entries".to_owned(),
            json.to_owned(),
            format!("{{\"entries\":[{{\"kind\":\"a\",\"data\":\"{payload}\"}}]}}"),
        ),
        ("POST /v1/commit".to_owned(), json.to_owned(), format!("{{\"writes\":[{{\"op\":\"{payload}\"}}]}}")),
        (path("GET /v1/objects/doc"), "Onward-Timeout-Ms: 1\r\n".to_owned(), String::new()),
        (path("DELETE /v1/locks?break=true&x="), "Onward-Reason: why\r\n".to_owned(), String::new()),
    ] {
        assert!(ask(&address, &line, &headers, &body).is_some(), "{line}");
    }
    server.signal(Signal::TERM);
    assert_eq!(server.code(), Some(0));
    let log = std::fs::read_to_string(said).unwrap();
    assert!(log.contains("/v1/objects/{kind}/{*name}") && log.contains("/v1/cache/{namespace}/{*key}"), "each request has a line: {log}");
    for secret in [TOKEN, &key, &owner, &nonce, payload, name, "canary-label", "canary-holder", drawn, &drawn[17..60]] {
        assert!(!log.contains(secret), "{secret} stands in the log: {log}");
    }
}
