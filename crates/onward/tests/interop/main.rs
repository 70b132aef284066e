//! Locks on Redis beside clients that others wrote: they exclude us, and we exclude them, on one key. The cache beside PHP. And archives in
//! an S3 that others wrote.
//!
//! Needs redis-py, moto, node-redlock and php-redis, so `./test.sh` installs them and runs this by name. `ONWARD_PYTHON` names a Python that
//! has the packages redis and moto, `ONWARD_NODE_MODULES` a folder with the packages redlock and ioredis, `ONWARD_PHP` another PHP than `php`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod s3;
mod utopia;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onward::lock::{LockOptions, Locks, Outcome};
use onward::model::LockKey;
use onward::testing::servers::Redis;
use onward::time::Clock;
use onward::{Config, Kind, Onward, retry};

/// What each contestant counts.
const ROUNDS: usize = 150;

/// A client that we did not write.
#[derive(Clone, Copy, Debug)]
enum Peer {
    RedisPy,
    Redlock,
}

const PEERS: [Peer; 2] = [Peer::RedisPy, Peer::Redlock];

impl Peer {
    fn start(self, arguments: &[&str]) -> Child {
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");
        let mut command = match self {
            Self::RedisPy => {
                let python = std::env::var("ONWARD_PYTHON").expect("ONWARD_PYTHON names a Python with redis-py");
                let mut command = Command::new(python);
                command.arg(format!("{scripts}/redis_py.py"));
                command
            }
            Self::Redlock => {
                let modules = std::env::var("ONWARD_NODE_MODULES").expect("ONWARD_NODE_MODULES names a folder with redlock");
                let mut command = Command::new("node");
                command.arg(format!("{scripts}/redlock.mjs")).env("ONWARD_NODE_MODULES", modules);
                command
            }
        };
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peer starts")
    }

    /// Returns what the peer says about one attempt: `held` or `free`.
    fn attempt(self, url: &str, key: &str) -> String {
        let output = self.start(&["try", url, key]).wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

async fn locks(url: &str) -> Locks {
    Onward::connect(Config::new("memory:").with_locks_at(url)).await.unwrap().locks()
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_holds_is_taken_for_us() {
    let server = Redis::start();
    let locks = locks(&server.url()).await;
    for peer in PEERS {
        let name = format!("held-by-{peer:?}");
        let key = LockKey::raw(&name).unwrap();
        let mut child = peer.start(&["hold", &server.url(), &name]);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(line(&mut said), "holding");

        let skipped = locks.with_key(&key, LockOptions::skip(), |_| async { "in" }).await.unwrap();
        let Outcome::Skipped { held_for } = skipped else { panic!("{peer:?} holds it") };
        assert!(held_for.is_some_and(|rest| rest > Duration::from_secs(30)), "{peer:?}: {held_for:?}");
        let waited = locks.acquire(&key, LockOptions::fail().with_wait(Duration::from_millis(50))).await;
        assert_eq!(waited.unwrap_err().kind(), Kind::Contended, "contention, never a failure of the engine");
        let status = locks.status(&key).await.unwrap().unwrap();
        assert!(status.token.is_none(), "a foreign holder has no fencing token");

        // Whoever waits gets it when the peer gives it back, though that sends no word.
        let next = locks.clone();
        let waiter = tokio::spawn(async move { next.acquire(&key, LockOptions::fail().with_wait(Duration::from_secs(20))).await });
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(line(&mut said), "released");
        let grant = waiter.await.unwrap().unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(peer.attempt(&server.url(), &name), "held");
        let _ = grant.release().await.unwrap();
        assert_eq!(peer.attempt(&server.url(), &name), "free");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peers_late_release_spares_our_hold() {
    let server = Redis::start();
    let locks = locks(&server.url()).await;
    for peer in PEERS {
        let name = format!("late-{peer:?}");
        let key = LockKey::raw(&name).unwrap();
        let mut child = peer.start(&["hold", &server.url(), &name]);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        assert_eq!(line(&mut said), "holding");
        // Its lease ends, as after a long pause, and the key goes to us.
        server.ask(&format!("DEL {name}"));
        let grant = locks.acquire(&key, LockOptions::fail()).await.unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(line(&mut said), "lost");
        assert!(child.wait().unwrap().success());
        grant.renew().await.unwrap();
        assert_eq!(peer.attempt(&server.url(), &name), "held");
        let _ = grant.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_all_add_to_under_the_lock_loses_nothing() {
    let server = Redis::start();
    let locks = locks(&server.url()).await;
    let url = server.url();
    let peers: Vec<_> = PEERS.iter().map(|peer| (peer, peer.start(&["count", &url, "shared", &ROUNDS.to_string()]))).collect();

    let client = redis::Client::open(url.as_str()).unwrap();
    let ours: Vec<_> = (0..2)
        .map(|_| {
            let (locks, client) = (locks.clone(), client.clone());
            tokio::spawn(async move {
                let mut redis = client.get_multiplexed_async_connection().await.unwrap();
                let key = LockKey::raw("shared").unwrap();
                let mut newest = 0;
                for _ in 0..ROUNDS {
                    let grant = locks.acquire(&key, LockOptions::fail().with_wait(Duration::from_secs(60))).await.unwrap();
                    assert!(grant.token().get() > newest, "tokens grow, whoever held the key in between");
                    newest = grant.token().get();
                    let alone: bool = redis::cmd("SET").arg("shared:inside").arg("onward").arg("NX").query_async(&mut redis).await.unwrap();
                    assert!(alone, "we were let in beside another holder");
                    let before: Option<u64> = redis::cmd("GET").arg("shared:count").query_async(&mut redis).await.unwrap();
                    retry::sleep(&Clock::system(), Duration::from_millis(1)).await;
                    let () = redis::cmd("SET").arg("shared:count").arg(before.unwrap_or(0) + 1).query_async(&mut redis).await.unwrap();
                    let () = redis::cmd("DEL").arg("shared:inside").query_async(&mut redis).await.unwrap();
                    let _ = grant.release().await.unwrap();
                }
            })
        })
        .collect();
    for one in ours {
        one.await.unwrap();
    }
    for (peer, child) in peers {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{peer:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), format!("counted {ROUNDS}"));
    }
    assert_eq!(server.ask("GET shared:count"), (4 * ROUNDS).to_string());
}
