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
    metrics: Option<SocketAddr>,
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
        let memory = if more.contains("store.url") { "" } else { "server.allow.memory = true\nstore.url = \"memory:\"\n" };
        let text = format!("{}server.listen = [\"127.0.0.1:0\"]\n{memory}ops.log.level = \"error\"\n{more}", listed(&token));
        let at_once = if more.contains("shutdown") { "" } else { "server.shutdown = { delay = \"0s\" }\n" };
        let text = format!("{at_once}{text}");
        let server = Serve::start(&load(&folder, &text)).await.unwrap().with_look(look).with_chores(look);
        let url = &server.serving().urls[0];
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        let metrics = server.serving().metrics_url.as_ref();
        let metrics = metrics.map(|url| url.strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap().parse().unwrap());
        let orders = Orders::default();
        let task = tokio::spawn({
            let orders = orders.clone();
            async move { server.run(&orders).await }
        });
        Self { address, token: token.secret().to_owned(), orders, folder, metrics, task }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The head of a request with a token, up to its last header.
    pub(crate) fn head(&self, line: &str, host: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n", self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
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
        (format!("{memory}audit.archive_after = \"1h\"\n"), "audit.archive"),
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
    let (status, said) = served.get("/readyz?verbose").await;
    let words: Vec<Vec<&str>> = said.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(
        (status, &words[0][..], &words[1][..3], &words[2][..3]),
        (200, &["ready"][..], &["store", "memory", "up"][..], &["locks", "memory", "up"][..])
    );
    for words in &words[1..] {
        assert!(words[3].starts_with("since=20") && words[3].ends_with('Z') && words[4] == "last_error=none", "{said}");
    }
    assert_eq!(served.get("/readyz?verbose").await.1, said, "since when it is so does not move");
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

/// A server on a file, and a way to take the table of leases away from it.
async fn on_file(more: &str) -> (Served, impl Fn(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("o.db");
    let leases = folder.path().join("o.locks.db");
    let served = Served::start_in(folder, &format!("store.url = \"sqlite:{}\"\n{more}", store.display())).await;
    (served, move |sql: &str| rusqlite::Connection::open(&leases).unwrap().execute_batch(sql).unwrap())
}

#[tokio::test]
async fn an_engine_that_is_away_degrades_and_ends_readiness_only_where_that_was_asked_for() {
    let (served, on_leases) = on_file("").await;
    let (strict, on_strict) = on_file("ops.ready_requires = [\"locks\"]\n").await;
    for server in [&served, &strict] {
        assert_eq!(server.get("/readyz").await, (200, "ready\n".to_owned()));
    }
    for leases in [&on_leases as &dyn Fn(&str), &on_strict] {
        leases("ALTER TABLE onward_leases RENAME TO away");
    }
    let (status, said) = served.get("/readyz?verbose").await;
    assert!(status == 200 && said.starts_with("degraded\nstore sqlite up ") && said.contains("\nlocks sqlite away since="), "{said}");
    assert!(!said.lines().nth(2).unwrap().ends_with("last_error=none"), "{said}");
    let (status, said) = strict.get("/readyz").await;
    assert!(status == 503 && said.contains("ops.ready_requires"), "{said}");
    on_strict("ALTER TABLE away RENAME TO onward_leases");
    assert_eq!(strict.get("/readyz").await, (200, "ready\n".to_owned()));
    let said = strict.get("/readyz?verbose").await.1;
    assert!(said.contains("locks sqlite up since=") && !said.lines().nth(2).unwrap().ends_with("last_error=none"), "{said}");
}

#[tokio::test]
async fn metrics_are_open_at_an_address_of_their_own_and_nothing_else_is() {
    let served = Served::start("ops.metrics.listen = \"127.0.0.1:0\"\nserver.public.hosts = [\"onward.example\"]\n").await;
    let open = served.metrics.expect("the metrics have an address");
    let ask = async |path: &str, method: &str| {
        let mut stream = TcpStream::connect(open).await.unwrap();
        stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: {open}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        rest(&mut stream).await
    };
    let shown = ask("/metrics", "GET").await;
    assert!(
        shown.starts_with("HTTP/1.1 200") && shown.contains("application/openmetrics-text") && shown.contains("onward_engine_up{"),
        "{shown}"
    );
    for (path, method) in [("/v1/info", "GET"), ("/readyz", "GET"), ("/metrics", "DELETE"), ("/", "GET")] {
        let said = ask(path, method).await;
        assert!(said.starts_with("HTTP/1.1 404") || said.starts_with("HTTP/1.1 405"), "{path}: {said}");
    }
    served.orders.end();
    let address = served.metrics.unwrap();
    let _ = served.ended().await;
    assert!(TcpStream::connect(address).await.is_err(), "the address is closed with the others");
}

#[tokio::test]
async fn a_stream_ends_at_its_age_and_says_so() {
    let served = Served::start("server.timeouts.stream_max_age = \"1s\"\n").await;
    let mut stream = served.connect().await;
    stream.write_all(format!("{}\r\n", served.head("GET /v1/watch", "localhost")).as_bytes()).await.unwrap();
    let mut said = String::new();
    while !said.contains("event: bye") {
        let mut piece = [0; 1_024];
        let read = soon(tokio::io::AsyncReadExt::read(&mut stream, &mut piece)).await.unwrap();
        assert!(read > 0, "{said}");
        said += &String::from_utf8_lossy(&piece[..read]);
    }
    assert!(said.contains("\"max_age\""), "{said}");
}
