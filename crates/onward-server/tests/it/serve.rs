//! A server as its configuration says: what it refuses to be, what it answers for, how it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use onward_server::{Configuration, Drained, Orders, Reach, Serve, Sources, StartError, Token, check};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{answer, rest, soon};

/// A server that runs, with a folder and an admin token of its own.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) orders: Orders,
    pub(crate) folder: TempDir,
    task: JoinHandle<Drained>,
}

/// The line that lists a token.
fn listed(token: &Token) -> String {
    use sha2::Digest as _;
    let hash = hex::encode(sha2::Sha256::digest(token.secret()));
    format!("auth.tokens = [{{ name = \"test\", role = \"admin\", sha256 = \"{hash}\" }}]\n")
}

fn load(folder: &TempDir, text: &str) -> Configuration {
    let path = folder.path().join("onward.toml");
    std::fs::write(&path, text).unwrap();
    Configuration::load(&Sources::none().with_file(path)).unwrap()
}

impl Served {
    /// Starts on a free port of loopback, on memory, with what else is said.
    pub(crate) async fn start(more: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), more).await
    }

    pub(crate) async fn start_in(folder: TempDir, more: &str) -> Self {
        // So rarely that only an order makes it look.
        Self::start_looking(folder, more, Duration::from_secs(3_600)).await
    }

    pub(crate) async fn start_looking(folder: TempDir, more: &str, look: Duration) -> Self {
        let token = Token::draw();
        let text = format!(
            "{}server.listen = [\"127.0.0.1:0\"]\nserver.allow.memory = true\nstore.url = \"memory:\"\nops.log.level = \"error\"\n\
             {more}",
            listed(&token)
        );
        let at_once = if more.contains("shutdown") { "" } else { "server.shutdown = { delay = \"0s\" }\n" };
        let text = format!("{at_once}{text}");
        let server = Serve::start(&load(&folder, &text)).await.unwrap().with_look(look);
        let url = &server.serving().urls[0];
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        let orders = Orders::default();
        let task = tokio::spawn({
            let orders = orders.clone();
            async move { server.run(&orders).await }
        });
        Self { address, token: token.secret().to_owned(), orders, folder, task }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The head of a request with a token, up to its last header.
    pub(crate) fn head(&self, line: &str, host: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n", self.token)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(format!("{}\r\n", self.head(&format!("GET {path}"), "localhost")).as_bytes()).await.unwrap();
        answer(&mut stream).await
    }

    pub(crate) async fn ended(self) -> Drained {
        soon(self.task).await.unwrap()
    }
}

#[tokio::test]
async fn what_would_be_unsafe_does_not_start_and_the_reason_names_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let pair = crate::tls::pair(&folder, "a", 2040);
    let memory = "store.url = \"memory:\"\nserver.allow.memory = true\n";
    let cases = [
        ("server.listen = [\"0.0.0.0:0\"]\n".to_owned(), "--insecure-plaintext"),
        ("server.listen = [\"[::]:0\"]\n".to_owned(), "server.tls.cert_file"),
        (format!("server.tls.cert_file = {:?}\n", pair.0), "go together"),
        (format!("server.tls = {{ cert_file = {:?}, key_file = \"/nowhere\" }}\n", pair.0), "cannot be read"),
        (format!("server.tls = {{ cert_file = {0:?}, key_file = {0:?} }}\n", pair.0), "no private key"),
        ("store.url = \"memory:\"\n".to_owned(), "server.allow.memory"),
        (format!("{memory}cache.url = \"memory:\"\n"), "cache.scope"),
    ];
    for (text, fix) in cases {
        let configuration = load(&folder, &format!("{}{text}", listed(&Token::draw())));
        for error in [Serve::start(&configuration).await.err(), check(&configuration, Reach::Offline).await.err()] {
            let Some(StartError::Usage(message)) = error else { panic!("{text}: {error:?}") };
            assert!(message.contains(fix), "{text}: {message}");
        }
    }
    let nobody = load(&folder, memory);
    assert!(matches!(Serve::start(&nobody).await, Err(StartError::Usage(message)) if message.contains("there is no token")));
}

#[tokio::test]
async fn a_store_with_a_newer_schema_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store: PathBuf = folder.path().join("onward.db");
    drop(onward::Onward::open(&format!("sqlite:{}", store.display())).await.unwrap());
    let raw = rusqlite::Connection::open(&store).unwrap();
    raw.execute_batch("PRAGMA user_version = 1000").unwrap();
    let text = format!("{}store.url = \"sqlite:{}\"\nserver.listen = [\"127.0.0.1:0\"]\n", listed(&Token::draw()), store.display());
    let configuration = load(&folder, &text);
    for error in [Serve::start(&configuration).await.err(), check(&configuration, Reach::Online).await.err()] {
        assert!(matches!(error, Some(StartError::Usage(_))), "{error:?}");
    }
}

#[tokio::test]
async fn only_the_hosts_that_are_named_are_answered_for() {
    let served = Served::start("server.public.hosts = [\"onward.example\"]\n").await;
    for (host, status) in [("onward.example", 200), ("ONWARD.example:443", 200), ("localhost", 421), ("onward.example.evil", 421)] {
        let mut stream = served.connect().await;
        stream.write_all(format!("{}\r\n", served.head("GET /v1/info", host)).as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.0, status, "{host}");
    }
}

#[tokio::test]
async fn a_server_without_a_cache_says_so() {
    let served = Served::start("").await;
    let (status, said) = served.get("/v1/cache/web/a").await;
    assert_eq!(status, 501, "{said}");
    assert!(!served.get("/v1/info").await.1.contains("\"cache\""));
    let served = Served::start("cache = { url = \"memory:\", scope = \"process\" }\n").await;
    assert_eq!(served.get("/v1/cache/web/a").await.0, 404);
}

#[tokio::test]
async fn readiness_names_the_engines_to_those_who_may_look() {
    let served = Served::start("").await;
    assert_eq!(served.get("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(served.get("/readyz?verbose").await, (200, "ready\nstore memory up\nlocks memory up\n".to_owned()));
    let mut stream = served.connect().await;
    stream.write_all(b"GET /readyz?verbose HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut stream).await.0, 401);
}

#[tokio::test]
async fn during_the_delay_it_is_not_ready_and_still_serves() {
    let served = Served::start("server.shutdown = { delay = \"5m\", total = \"1h\" }\n").await;
    served.orders.end();
    let unready = async {
        while served.get("/readyz").await.0 != 503 {
            tokio::task::yield_now().await;
        }
    };
    soon(unready).await;
    let mut stream = served.connect().await;
    stream
        .write_all(
            format!("{}If-None-Match: *\r\nContent-Length: 1\r\n\r\n1", served.head("PUT /v1/objects/doc/a", "localhost")).as_bytes(),
        )
        .await
        .unwrap();
    assert_eq!(answer(&mut stream).await.0, 201);
    // The second order does not wait for the delay, and cuts what is open.
    served.orders.end();
    assert_eq!(rest(&mut stream).await, "");
    let address = served.address;
    let _ = served.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
}
