//! Clients that share no code with the server: bytes over TCP, sent under one request id until they are answered.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// So that a server that does not come back fails the test.
const MOST_TRIES: usize = 1_000_000;

/// Where they send to now, and their token.
#[derive(Default)]
pub(crate) struct Clients {
    place: Mutex<(String, String)>,
}

impl Clients {
    /// Clients of the server at an address.
    pub(crate) fn of(address: &str, token: &str) -> Self {
        Self { place: Mutex::new((address.to_owned(), token.to_owned())) }
    }

    /// Lets them send elsewhere from now on.
    pub(crate) fn go_to(&self, address: &str, token: &str) {
        *self.place.lock() = (address.to_owned(), token.to_owned());
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
    pub(crate) fn ask(&self, line: &str, headers: &str, body: &Value) -> (u16, Value) {
        let once = || {
            let text = if body.is_null() { String::new() } else { body.to_string() };
            let headers = format!("Content-Type: application/json\r\nConnection: close\r\n{headers}");
            let mut answer = String::new();
            self.send(line, &headers, &text).ok()?.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            let status = head.get(9..12)?.parse().ok()?;
            // Overloaded, or nobody knows: the same request again finds out.
            (!matches!(status, 503 | 504)).then_some((status, serde_json::from_str(body).ok()?))
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
    pub(crate) fn raise(&self, id: &str) -> (u64, u64, u64) {
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

    /// Reads the change feed over all servers from one revision until another, which may become known on the way; goes on after the last
    /// event that came whole.
    pub(crate) fn watch(&self, from: u64, until: &AtomicU64, seen: &Sender<u64>) {
        let mut last = from;
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
                    if last >= until.load(Ordering::SeqCst) {
                        return;
                    }
                }
            }
        }
    }
}
