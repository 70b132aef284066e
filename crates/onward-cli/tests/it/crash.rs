//! A real server killed with SIGKILL while clients that share no code with it race: what was acknowledged stands, nothing happens twice.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Home, Running};

const PATIENCE: Duration = Duration::from_secs(20);

/// So that a server that does not come back fails the test.
const MOST_TRIES: usize = 1_000_000;

/// Where the server listens now, and its token, which stays.
struct Site {
    home: Mutex<Home>,
    place: Mutex<(String, String)>,
}

impl Site {
    fn start(home: Home) -> (Self, Running) {
        let site = Self { home: Mutex::new(home), place: Mutex::default() };
        let server = site.open();
        (site, server)
    }

    fn open(&self) -> Running {
        let home = self.home.lock();
        let data = home.path("data").display().to_string();
        let args = ["dev", "--data", &data, "--port", "0", "-o", "json"];
        let mut server = home.start(home.command(&args).stderr(Stdio::null()));
        let ready: Value = serde_json::from_str(&server.line()).unwrap();
        let member = |name: &str| ready[name].as_str().unwrap().to_owned();
        *self.place.lock() = (member("url").trim_start_matches("http://").to_owned(), member("token"));
        server
    }

    /// Kills the server and starts another one on the same files.
    fn kill(&self, server: &mut Running) {
        server.signal(Signal::KILL);
        assert_eq!(server.code(), None);
        *server = self.open();
    }

    fn send(&self, line: &str, headers: &str, body: &str) -> std::io::Result<TcpStream> {
        let (address, token) = self.place.lock().clone();
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n{headers}\r\n");
        stream.write_all(format!("{head}{body}").as_bytes())?;
        Ok(stream)
    }

    /// Sends a request until it is answered: a server that dies in between answers nothing, or a part.
    fn ask(&self, line: &str, headers: &str, body: &Value) -> (u16, Value) {
        let once = || {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let headers = format!("Content-Type: application/json\r\nConnection: close\r\n{headers}");
            let mut answer = String::new();
            self.send(line, &headers, &text).ok()?.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.get(9..12)?.parse().ok()?, serde_json::from_str(body).ok()?))
        };
        // Between two servers nobody listens; that takes some ten thousand tries.
        let answer = (0..MOST_TRIES).find_map(|_| {
            let answer = once();
            if answer.is_none() {
                std::thread::yield_now();
            }
            answer
        });
        answer.unwrap_or_else(|| panic!("{line} is not answered"))
    }

    /// Raises the counter with an audit entry until it is acknowledged; returns version, revision and seq.
    fn raise(&self, id: &str) -> (u64, u64, u64) {
        for round in 0.. {
            let (status, now) = self.ask("GET /v1/objects/race/counter", "Accept: application/vnd.onward.object+json\r\n", &Value::Null);
            assert_eq!(status, 200, "{now}");
            let count = now["payload"]["n"].as_u64().unwrap() + 1;
            let asked = json!({
                "writes": [{"op": "replace", "kind": "race", "name": "counter", "version": now["version"], "payload": {"n": count}}],
                "audit": [{"chain": "race", "kind": "counter.raised"}],
            });
            let (status, done) = self.ask("POST /v1/commit", &format!("Idempotency-Key: {id}-{round}\r\n"), &asked);
            match status {
                200 => {
                    let number = |value: &Value| value.as_u64().unwrap();
                    return (number(&done["writes"][0]["version"]), number(&done["revision"]), number(&done["audit"][0]["seq"]));
                }
                409 => assert_eq!(done["code"], "version_conflict"),
                _ => panic!("{status}: {done}"),
            }
        }
        unreachable!()
    }

    /// Reads the change feed over all servers until a revision, going on after the last event that came whole.
    fn watch(&self, until: u64, seen: &Sender<u64>) {
        let mut last = 0;
        for _ in 0..MOST_TRIES {
            let resume = format!("Last-Event-ID: {last}\r\n");
            let headers = if last == 0 { "" } else { resume.as_str() };
            let Ok(stream) = self.send("GET /v1/watch?from=0", headers, "") else { continue };
            let (mut id, mut event) = (0, String::new());
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(text) = line.strip_prefix("id: ") {
                    id = text.parse().unwrap();
                } else if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut event);
                } else if line.is_empty() && event == "change" {
                    last = id;
                    seen.send(id).unwrap();
                    event.clear();
                    if last >= until {
                        return;
                    }
                }
            }
        }
    }
}

#[test]
fn a_server_killed_under_racing_clients_loses_and_repeats_nothing() {
    const CLIENTS: usize = 6;
    const EACH: usize = 12;
    let (site, mut server) = Site::start(Home::bare());
    let created = site.ask("PUT /v1/objects/race/counter", "If-None-Match: *\r\nIdempotency-Key: begin\r\n", &json!({"n": 0}));
    assert_eq!(created.0, 201, "{created:?}");
    let total = CLIENTS * EACH;
    let end = 1 + total as u64;
    let (acked, acks) = channel();
    let (seen, changes) = channel();
    let mut tokens = Vec::new();
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (site, acked) = (&site, acked.clone());
            scope.spawn(move || (0..EACH).for_each(|turn| acked.send(site.raise(&format!("{client}-{turn}"))).unwrap()));
        }
        scope.spawn(|| site.watch(end, &seen));
        for turn in 1..=total {
            done.push(acks.recv_timeout(PATIENCE).expect("clients go on"));
            if turn % (total / 4) == 0 && turn < total {
                let owner = format!("{turn:032x}");
                let (status, grant) = site.ask("POST /v1/locks/race", "", &json!({"owner": owner, "ttl_ms": 60_000}));
                assert!(matches!(status, 200 | 201), "{grant}");
                tokens.push(grant["token"].as_u64().unwrap());
                let (status, _) = site.ask("DELETE /v1/locks/race", &format!("Onward-Owner: {owner}\r\n"), &Value::Null);
                assert_eq!(status, 200);
                site.kill(&mut server);
            }
        }
    });

    let (_, counter) = site.ask("GET /v1/objects/race/counter", "", &Value::Null);
    assert_eq!(counter["n"], total, "an acknowledged increment is missing, or one happened twice");
    let unique = |numbers: BTreeSet<u64>, what: &str| assert_eq!(numbers.len(), total, "a {what} was given twice");
    unique(done.iter().map(|one| one.0).collect(), "version");
    unique(done.iter().map(|one| one.1).collect(), "revision");
    unique(done.iter().map(|one| one.2).collect(), "seq");
    assert!(tokens.is_sorted_by(|a, b| a < b), "a token was given again: {tokens:?}");
    drop(seen);
    assert_eq!(changes.iter().collect::<Vec<_>>(), (1..=end).collect::<Vec<_>>(), "the feed has every commit once, in order");
    let (_, verdict) = site.ask("POST /v1/chains/race/verify", "", &json!({}));
    assert_eq!((&verdict["verdict"], &verdict["to_seq"]), (&json!("ok"), &json!(end)), "{verdict}");
}
