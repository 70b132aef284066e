//! Archives in a store that others wrote: moto's S3, as its own server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use onward::audit::verify::{Archives, Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Archive};
use onward::engine::memory::MemoryStore;
use onward::model::{Data, Entry, Seq};
use onward::retry;
use onward::testing::audit::Harness;
use onward::testing::servers::free_port;
use onward::time::Clock;

struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// Starts a server with an empty bucket.
    async fn start() -> Self {
        let python = std::env::var("ONWARD_PYTHON").expect("ONWARD_PYTHON names a Python with moto");
        let port = free_port();
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        let moto = Self { child: command.spawn().expect("moto starts"), port };
        let clock = Clock::system();
        let patience = clock.now() + Duration::from_secs(60);
        while !moto.ask("PUT /onward").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(clock.now() < patience, "moto does not come up");
            retry::sleep(&clock, Duration::from_millis(50)).await;
        }
        moto
    }

    fn ask(&self, what: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(stream, "{what} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", self.port).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn archive(&self, prefix: &str) -> Archive {
        let url = format!("s3://onward/{prefix}?endpoint=http://127.0.0.1:{}&insecure=true", self.port);
        let key = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        Archive::open_with(&url, key.map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn verified(chain: &onward::audit::Chain) {
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{report}");
}

/// Archived in one request and in parts, purged, restored, purged again, and without its file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_lives_its_life_in_a_store_of_others() {
    let moto = Moto::start().await;
    let act = Act::because("retention");
    for (prefix, entries, bytes) in [("small/eu", 500, 100), ("large", 24, 900 << 10)] {
        let store = MemoryStore::new();
        let desk = Harness::archiving(store.clone(), store, Clock::manual(), moto.archive(prefix), ()).await;
        let chain = desk.first.chain("orders").unwrap();
        let mut dice: u64 = 1;
        for _ in 0..entries {
            let mut text = String::with_capacity(bytes);
            while text.len() < bytes {
                // Little to compress.
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push(char::from(b'!' + u8::try_from((dice >> 33) % 90).unwrap()));
            }
            chain.append(Entry::new("order.paid").with_data(Data::text(text)), AppendOptions::new()).await.unwrap();
        }
        let one = Seq::new(1).unwrap();
        chain.seal(None, &act).await.unwrap();
        let file = chain.archive(one, &act).await.unwrap().archive.unwrap();
        assert_eq!(file.bytes > 8 << 20, prefix == "large", "{} bytes: in parts or not", file.bytes);
        verified(&chain).await;
        chain.purge(one, &act).await.unwrap();
        verified(&chain).await;
        chain.restore(one, None, &act).await.unwrap();
        chain.purge(one, &act).await.unwrap();
        verified(&chain).await;
        assert_eq!(chain.heal(&act).await.unwrap(), onward::audit::Healed::default());
        assert_eq!(chain.purge_file(one, &act).await.unwrap().state, SegmentState::FilePurged);
        verified(&chain).await;
        assert!(desk.first.check().await.unwrap().iter().all(|finding| finding.fix.is_none()));
    }
}
