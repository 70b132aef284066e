//! Several `onward serve` on one Postgres, behind a balancer that knows nothing but TCP: they answer as one, and what befalls one of them
//! loses nothing (C3, C6, INV-1, INV-3, INV-4).

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use onward::testing::history::{Answer, Call, FencedWrite, Op, check_feed, check_fences, check_object};
use onward::testing::lock_history::{Hold, check_holds};
use onward::testing::servers::{Postgres, Proxy};
use onward::time::Clock;
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::clients::{Clients, PATIENCE};
use crate::serve::{TOKEN, configured_on};
use crate::support::{Home, Running};

struct Replicas {
    /// The processes, each with its address.
    running: Vec<(Running, String)>,
    balancer: Proxy,
    _home: Home,
    // Last: it drives the balancer.
    _runtime: Runtime,
}

impl Replicas {
    /// Starts all of them at once on an empty database.
    fn start(count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let home = Home::bare();
        let url = runtime.block_on(Postgres::shared().database());
        let config = configured_on(&home, "onward.toml", &url, "");
        let args = ["serve", "--config", &config, "-o", "json"];
        let started: Vec<Running> = (0..count).map(|_| home.start(home.command(&args).stderr(Stdio::null()))).collect();
        let ready = |mut replica: Running| {
            let ready: Value = serde_json::from_str(&replica.line()).unwrap();
            let address = ready["urls"][0].as_str().unwrap().trim_start_matches("http://").to_owned();
            (replica, address)
        };
        let running: Vec<_> = started.into_iter().map(ready).collect();
        let ports: Vec<u16> = running.iter().map(|(_, address)| address.rsplit(':').next().unwrap().parse().unwrap()).collect();
        let balancer = runtime.block_on(Proxy::among(&ports));
        Self { running, balancer, _home: home, _runtime: runtime }
    }

    /// Clients of one replica alone.
    fn of(&self, replica: usize) -> Clients {
        Clients::of(&self.running[replica].1, TOKEN)
    }

    /// Clients of whichever replica the balancer gives them.
    fn of_all(&self) -> Clients {
        Clients::of(&format!("127.0.0.1:{}", self.balancer.port()), TOKEN)
    }

    fn signal(&self, replica: usize, signal: Signal) {
        self.running[replica].0.signal(signal);
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn with_id(id: &str) -> String {
    format!("Idempotency-Key: {id}\r\n")
}

#[test]
fn two_replicas_answer_as_one() {
    let replicas = Replicas::start(2);
    let (a, b, any) = (replicas.of(0), replicas.of(1), replicas.of_all());
    let create = format!("If-None-Match: *\r\n{}", with_id("make"));
    let (status, made) = a.ask("PUT /v1/objects/doc/x", &create, &json!({"n": 0}));
    assert_eq!((status, number(&made["version"])), (201, 1), "{made}");

    // The retry of a request reaches the other replica: the same answer, done once.
    let (status, again) = b.ask("PUT /v1/objects/doc/x", &create, &json!({"n": 0}));
    assert_eq!((status, &again["revision"], &again["replayed"]), (201, &made["revision"], &json!(true)), "{again}");
    let (status, reused) = b.ask("PUT /v1/objects/doc/x", &create, &json!({"n": 1}));
    assert_eq!((status, &reused["code"]), (422, &json!("request_id_reused")), "{reused}");

    // What one has written the other refuses to overwrite on stale knowledge, and shows it.
    let (status, written) = b.ask("PUT /v1/objects/doc/x", "If-Match: \"1\"\r\n", &json!({"n": 0, "by": "b"}));
    assert_eq!((status, number(&written["version"])), (200, 2), "{written}");
    let (status, late) = a.ask("PUT /v1/objects/doc/x", "If-Match: \"1\"\r\n", &json!({"n": 9}));
    assert_eq!((status, &late["current"]["payload"]["by"]), (412, &json!("b")), "{late}");

    // One request, sent sixteen times at once through the balancer: applied once, one answer.
    let raise = json!({"writes": [{"op": "apply", "kind": "doc", "name": "x", "patch": [{"add": "/n", "value": 1}]}]});
    let ask = |id: &str| any.ask("POST /v1/commit", &with_id(id), &raise);
    let revisions: BTreeSet<u64> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..16).map(|_| scope.spawn(|| ask("once"))).collect();
        asked.into_iter().map(|asked| number(&asked.join().unwrap().1["revision"])).collect()
    });
    assert_eq!(revisions.len(), 1, "{revisions:?}");
    // And a hot object, through both: nothing is lost.
    std::thread::scope(|scope| {
        for client in 0..8 {
            let ask = &ask;
            scope.spawn(move || (0..4).for_each(|turn| assert_eq!(ask(&format!("{client}-{turn}")).0, 200)));
        }
    });
    let (_, object) = a.ask("GET /v1/objects/doc/x", "", &Value::Null);
    assert_eq!(object["n"], 33);

    // What one replica grants is held against the other, and given back through it.
    let owner = "ab".repeat(16);
    let (_, grant) = a.ask("POST /v1/locks/job", "", &json!({"owner": owner, "ttl_ms": 60_000}));
    assert_eq!(b.ask("POST /v1/locks/job", "", &json!({})).1["code"], "resource_locked");
    assert_eq!(b.ask("DELETE /v1/locks/job", &format!("Onward-Owner: {owner}\r\n"), &Value::Null).0, 200);
    let (_, next) = b.ask("POST /v1/locks/job", "", &json!({}));
    assert!(number(&next["token"]) > number(&grant["token"]), "{next}");
}

#[test]
fn a_watcher_goes_on_at_another_replica() {
    let replicas = Replicas::start(2);
    let any = replicas.of_all();
    any.ask("PUT /v1/objects/race/counter", "If-None-Match: *\r\n", &json!({"n": 0}));
    let (seen, changes) = channel();
    (1..=3).for_each(|turn| _ = any.raise(&format!("before-{turn}")));
    replicas.of(0).watch(0, &AtomicU64::new(3), &seen);
    replicas.signal(0, Signal::KILL);
    (1..=3).for_each(|turn| _ = any.raise(&format!("after-{turn}")));
    replicas.of(1).watch(3, &AtomicU64::new(7), &seen);
    drop(seen);
    assert_eq!(changes.iter().collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
}

/// What clients did to one object, its lock and its chain.
#[derive(Default)]
struct History {
    ops: Mutex<Vec<Op>>,
    fenced: Mutex<Vec<FencedWrite>>,
    holds: Mutex<Vec<Hold>>,
    acknowledged: Mutex<BTreeSet<u64>>,
    calls: AtomicUsize,
}

struct Client<'a> {
    to: &'a Clients,
    history: &'a History,
    clock: Clock,
    name: usize,
    told: Sender<()>,
}

impl Client<'_> {
    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    /// A number that no other call has: the content, and the name of the request.
    fn unique(&self) -> i64 {
        1 + i64::try_from(self.history.calls.fetch_add(1, Ordering::SeqCst)).unwrap()
    }

    fn record(&self, start: u64, call: Call, answer: Answer) {
        let end = self.now();
        self.history.ops.lock().push(Op { start, end, call, answer });
        // The end of a test hears no more.
        let _ = self.told.send(());
    }

    fn read(&self) -> Option<(u64, i64)> {
        let start = self.now();
        let (status, found) = self.to.ask("GET /v1/objects/thing/x", "Accept: application/vnd.onward.object+json\r\n", &Value::Null);
        let found = (status == 200).then(|| shown(&found)).flatten();
        self.record(start, Call::Read, Answer::Shown(found));
        found
    }

    /// Sends a commit of one write until it is answered; `None`: it was fenced out.
    fn write(&self, call: Call, fence: Option<u64>) -> Option<()> {
        let write = match call {
            Call::Read => panic!("a read is no write"),
            Call::Create { value } => json!({"op": "create", "payload": value}),
            Call::Overwrite { value } => json!({"op": "overwrite", "payload": value}),
            Call::Replace { at, value } => json!({"op": "replace", "version": at, "payload": value}),
            Call::Delete { at } => json!({"op": "delete", "version": at}),
        };
        let mut write = write;
        (write["kind"], write["name"]) = (json!("thing"), json!("x"));
        let fences: Vec<Value> = fence.iter().map(|token| json!({"lock": "x", "token": token})).collect();
        let start = self.now();
        let asked = json!({"writes": [write], "fences": fences, "audit": [{"chain": "things", "kind": "thing.changed"}]});
        let (status, said) = self.to.ask("POST /v1/commit", &with_id(&format!("w{}", self.unique())), &asked);
        let accepted = (status == 200).then(|| number(&said["revision"]));
        self.history.acknowledged.lock().extend(accepted);
        if let Some(token) = fence {
            self.history.fenced.lock().push(FencedWrite { start, end: self.now(), token, accepted });
        }
        let answer = match said["code"].as_str() {
            None => Answer::Won { version: number(&said["writes"][0]["version"]) },
            Some("fenced") => return None,
            Some("version_conflict" | "already_exists") => Answer::Shown(shown(&said["current"])),
            Some(_) => panic!("{status}: {said}"),
        };
        self.record(start, call, answer);
        Some(())
    }

    /// Reads, then creates, replaces or deletes at what it read.
    fn conditional(&self, rounds: usize) {
        for round in 0..rounds {
            let value = self.unique();
            let call = match self.read() {
                None => Call::Create { value },
                Some((at, _)) if round % 6 == 5 => Call::Delete { at },
                Some((at, _)) => Call::Replace { at, value },
            };
            self.write(call, None).unwrap();
        }
    }

    fn plain(&self, rounds: usize) {
        (0..rounds).for_each(|_| self.write(Call::Overwrite { value: self.unique() }, None).unwrap());
    }

    /// Takes the lock for a moment and writes under its token; every other time when the lease is over.
    fn fenced(&self, rounds: usize) {
        for round in 0..rounds {
            let owner = format!("{:016x}{:016x}", self.name, self.unique());
            let asked = self.now();
            let body = json!({"owner": owner, "ttl_ms": 40, "wait_ms": 10_000});
            let (status, grant) = self.to.ask("POST /v1/locks/x", "", &body);
            if status == 409 {
                continue;
            }
            let (granted, remaining) = (self.now(), number(&grant["remaining_ms"]) * 1_000_000);
            let token = number(&grant["token"]);
            // The holder's own count: from before it asked, less one per cent and 2 ms.
            let until = (asked + remaining - remaining / 100).saturating_sub(2_000_000).max(asked);
            let mut hold = Hold { owner: owner.clone(), asked, granted, token, until, released: None, lost: None };
            if round % 2 == 0 {
                self.write(Call::Overwrite { value: self.unique() }, Some(token));
                hold.released = Some(self.now());
                self.to.ask("DELETE /v1/locks/x", &format!("Onward-Owner: {owner}\r\n"), &Value::Null);
            } else {
                // Until somebody else may have it, and perhaps has.
                while self.to.ask("GET /v1/locks/x", "", &Value::Null).1["token"] == grant["token"] && self.now() < until {}
                self.write(Call::Overwrite { value: self.unique() }, Some(token));
            }
            self.history.holds.lock().push(hold);
        }
    }
}

fn shown(object: &Value) -> Option<(u64, i64)> {
    Some((object["version"].as_u64()?, object["payload"].as_i64()?))
}

/// Its holder's replica stands still until the lease is over and another has the lock: what it then does is too late.
fn stand_still(replicas: &Replicas, stopped: usize, other: usize) {
    let (slow, fast) = (replicas.of(stopped), replicas.of(other));
    let (_, grant) = slow.ask("POST /v1/locks/still", "", &json!({"ttl_ms": 100}));
    let write = |clients: &Clients, token: &Value, id: &str| {
        let asked = json!({
            "writes": [{"op": "overwrite", "kind": "still", "name": "x", "payload": id}],
            "fences": [{"lock": "still", "token": token}],
        });
        clients.ask("POST /v1/commit", &with_id(id), &asked)
    };
    replicas.signal(stopped, Signal::STOP);
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| write(&slow, &grant["token"], "late"));
        let (status, next) = fast.ask("POST /v1/locks/still", "", &json!({"ttl_ms": 60_000, "wait_ms": 15_000}));
        assert_eq!(status, 201, "{next}");
        let (status, done) = write(&fast, &next["token"], "newer");
        assert_eq!(status, 200, "{done}");
        replicas.signal(stopped, Signal::CONT);
        late.join().unwrap()
    });
    assert_eq!((late.0, &late.1["code"]), (409, &json!("fenced")), "{late:?}");
    assert_eq!(fast.ask("GET /v1/objects/still/x", "", &Value::Null).1, "newer");
}

#[test]
fn of_five_replicas_one_dies_and_one_stands_still_and_the_history_is_linearizable() {
    const ROUNDS: usize = 20;
    const CLIENTS: usize = 8;
    let replicas = Replicas::start(5);
    let (any, history) = (replicas.of_all(), History::default());
    let ((told, tells), (seen, changes)) = (channel(), channel());
    let (until, newest) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Through every fault: it is told of each commit once, in order.
        let feed = scope.spawn(|| any.watch(0, &until, &seen));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|name| {
                let client = Client { to: &any, history: &history, clock: Clock::system(), name, told: told.clone() };
                scope.spawn(move || match name {
                    0 | 1 => client.plain(ROUNDS),
                    2 | 3 => client.fenced(ROUNDS / 2),
                    _ => client.conditional(ROUNDS),
                })
            })
            .collect();
        let hear = |count: usize| (0..count).for_each(|_| tells.recv_timeout(PATIENCE).expect("clients go on"));
        hear(2 * ROUNDS);
        replicas.signal(0, Signal::KILL);
        hear(2 * ROUNDS);
        stand_still(&replicas, 1, 2);
        clients.into_iter().for_each(|client| client.join().unwrap());
        // Nobody writes any more, but for the word that ends the feed.
        let (_, word) = any.ask(
            "POST /v1/commit",
            &with_id("end"),
            &json!({"writes": [{"op": "overwrite", "kind": "end", "name": "x", "payload": 1}]}),
        );
        newest.store(number(&word["revision"]), Ordering::SeqCst);
        until.store(number(&word["revision"]), Ordering::SeqCst);
        any.ask("POST /v1/commit", &with_id("more"), &json!({"writes": [{"op": "overwrite", "kind": "end", "name": "x", "payload": 2}]}));
        feed.join().unwrap();
    });
    drop(seen);
    let told: Vec<u64> = changes.iter().collect();
    let newest = newest.into_inner();
    // The feed may have been a step ahead of the word.
    check_feed(0, told.len() as u64, &told, &history.acknowledged.into_inner()).unwrap();
    assert!((newest..=newest + 1).contains(&(told.len() as u64)), "{newest}, but the feed ends at {}", told.len());
    let (ops, fenced) = (history.ops.into_inner(), history.fenced.into_inner());
    check_object(&ops).unwrap();
    check_fences(&fenced).unwrap();
    check_holds(&history.holds.into_inner()).unwrap();
    let won = ops.iter().filter(|op| matches!(op.answer, Answer::Won { .. })).count() as u64;
    let (_, verdict) = any.ask("POST /v1/chains/things/verify", "", &json!({}));
    // One for each write, behind the one that begins the chain.
    assert_eq!((&verdict["verdict"], number(&verdict["to_seq"])), (&json!("ok"), 1 + won), "{verdict}");
    assert!(won > 40 && fenced.iter().any(|write| write.accepted.is_some()), "{won} writes");
}
