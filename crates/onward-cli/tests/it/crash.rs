//! A real server killed with SIGKILL while clients that share no code with it race: what was acknowledged stands, nothing happens twice.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::channel;

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::clients::{Clients, PATIENCE};
use crate::support::{Home, Running};

/// A server's files, and its clients.
struct Site {
    home: Mutex<Home>,
    clients: Clients,
}

impl Site {
    fn start(home: Home) -> (Self, Running) {
        let site = Self { home: Mutex::new(home), clients: Clients::default() };
        let server = site.open();
        (site, server)
    }

    fn open(&self) -> Running {
        let home = self.home.lock();
        let data = home.path("data").display().to_string();
        let args = ["dev", "--data", &data, "--port", "0", "-o", "json"];
        let mut server = home.start(home.command(&args).stderr(Stdio::null()));
        let ready: Value = serde_json::from_str(&server.line()).unwrap();
        let member = |name: &str| ready[name].as_str().unwrap();
        self.clients.go_to(member("url").trim_start_matches("http://"), member("token"));
        server
    }

    /// Kills the server and starts another one on the same files.
    fn kill(&self, server: &mut Running) {
        server.signal(Signal::KILL);
        assert_eq!(server.code(), None);
        *server = self.open();
    }
}

#[test]
fn a_server_killed_under_racing_clients_loses_and_repeats_nothing() {
    const CLIENTS: usize = 6;
    const EACH: usize = 12;
    let (site, mut server) = Site::start(Home::bare());
    let clients = &site.clients;
    let created = clients.ask("PUT /v1/objects/race/counter", "If-None-Match: *\r\nIdempotency-Key: begin\r\n", &json!({"n": 0}));
    assert_eq!(created.0, 201, "{created:?}");
    let total = CLIENTS * EACH;
    let end = 1 + total as u64;
    let (acked, acks) = channel();
    let (seen, changes) = channel();
    let mut tokens = Vec::new();
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let acked = acked.clone();
            scope.spawn(move || (0..EACH).for_each(|turn| acked.send(clients.raise(&format!("{client}-{turn}"))).unwrap()));
        }
        scope.spawn(|| clients.watch(0, &AtomicU64::new(end), &seen));
        for turn in 1..=total {
            done.push(acks.recv_timeout(PATIENCE).expect("clients go on"));
            if turn % (total / 4) == 0 && turn < total {
                let owner = format!("{turn:032x}");
                let (status, grant) = clients.ask("POST /v1/locks/race", "", &json!({"owner": owner, "ttl_ms": 60_000}));
                assert!(matches!(status, 200 | 201), "{grant}");
                tokens.push(grant["token"].as_u64().unwrap());
                let (status, _) = clients.ask("DELETE /v1/locks/race", &format!("Onward-Owner: {owner}\r\n"), &Value::Null);
                assert_eq!(status, 200);
                site.kill(&mut server);
            }
        }
    });

    let (_, counter) = clients.ask("GET /v1/objects/race/counter", "", &Value::Null);
    assert_eq!(counter["n"], total, "an acknowledged increment is missing, or one happened twice");
    let unique = |numbers: BTreeSet<u64>, what: &str| assert_eq!(numbers.len(), total, "a {what} was given twice");
    unique(done.iter().map(|one| one.0).collect(), "version");
    unique(done.iter().map(|one| one.1).collect(), "revision");
    unique(done.iter().map(|one| one.2).collect(), "seq");
    assert!(tokens.is_sorted_by(|a, b| a < b), "a token was given again: {tokens:?}");
    drop(seen);
    assert_eq!(changes.iter().collect::<Vec<_>>(), (1..=end).collect::<Vec<_>>(), "the feed has every commit once, in order");
    let (_, verdict) = clients.ask("POST /v1/chains/race/verify", "", &json!({}));
    assert_eq!((&verdict["verdict"], &verdict["to_seq"]), (&json!("ok"), &json!(end)), "{verdict}");
}
