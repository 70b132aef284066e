//! TLS: both versions, a pair that changes while the server runs, and those who never finish a handshake.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::serve::Served;
use crate::support::{rest, soon};

/// Writes a certificate that ends in a year, and its key.
pub(crate) fn pair(folder: &TempDir, name: &str, year: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    let path = |kind: &str| folder.path().join(format!("{name}.{kind}")).display().to_string();
    std::fs::write(path("crt"), cert.pem()).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    (path("crt"), path("key"))
}

/// Starts a server on a copy of a pair, which a test may exchange.
async fn served(folder: TempDir, more: &str) -> Served {
    let more = format!("{}{more}", live(&folder));
    Served::start_in(folder, &more).await
}

fn live(folder: &TempDir) -> String {
    let (cert, key) = (folder.path().join("live.crt"), folder.path().join("live.key"));
    format!("server.tls = {{ cert_file = {cert:?}, key_file = {key:?} }}\n")
}

fn put(folder: &TempDir, pair: &(String, String)) {
    std::fs::copy(&pair.0, folder.path().join("live.crt")).unwrap();
    std::fs::copy(&pair.1, folder.path().join("live.key")).unwrap();
}

/// Connects, trusting this certificate only.
async fn connect(served: &Served, trusted: &str, version: &'static SupportedProtocolVersion) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = served.connect().await;
    soon(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream)).await
}

/// Asks and reads to the end.
async fn ask(served: &Served, mut stream: TlsStream<TcpStream>, line: &str) -> String {
    let request = format!("{}Connection: close\r\n\r\n", served.head(line, "localhost"));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let _ = soon(stream.read_to_end(&mut said)).await;
    String::from_utf8(said).unwrap()
}

/// Waits until the metrics show a line.
async fn shows(served: &Served, trusted: &str, line: &str) {
    let shown = async {
        loop {
            let stream = connect(served, trusted, &TLS13).await.unwrap();
            if ask(served, stream, "GET /metrics").await.lines().any(|shown| shown == line) {
                return;
            }
        }
    };
    soon(shown).await;
}

/// Waits until a certificate is the one that serves.
async fn taken(served: &Served, cert: &str) {
    let taken = async {
        while connect(served, cert, &TLS13).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    soon(taken).await;
}

#[tokio::test]
async fn both_versions_of_tls_are_served_and_plain_http_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let a = pair(&folder, "a", 2040);
    put(&folder, &a);
    let served = served(folder, "").await;
    for version in [&TLS12, &TLS13] {
        let stream = connect(&served, &a.0, version).await.unwrap();
        let said = ask(&served, stream, "GET /v1/info").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    let mut plain = served.connect().await;
    plain.write_all(format!("{}\r\n", served.head("GET /v1/info", "localhost")).as_bytes()).await.unwrap();
    assert!(!rest(&mut plain).await.contains("HTTP"), "nothing is said in the clear");
    shows(&served, &a.0, "onward_connections_refused_total{reason=\"handshake\"} 1").await;
    shows(&served, &a.0, "onward_tls_expiry_timestamp_seconds 2208988800").await;
}

#[tokio::test]
async fn a_new_pair_serves_without_a_restart_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (pair(&folder, "a", 2040), pair(&folder, "b", 2041));
    put(&folder, &a);
    let served = served(folder, "").await;
    let open = connect(&served, &a.0, &TLS13).await.unwrap();

    // The key of another certificate.
    put(&served.folder, &(b.0.clone(), a.1.clone()));
    served.orders.look_again();
    shows(&served, &a.0, "onward_config_reload_total{result=\"error\"} 1").await;
    shows(&served, &a.0, "onward_config_reload_total{result=\"ok\"} 0").await;

    put(&served.folder, &b);
    served.orders.look_again();
    taken(&served, &b.0).await;
    assert!(connect(&served, &a.0, &TLS13).await.is_err(), "the old pair is gone");
    shows(&served, &b.0, "onward_config_reload_total{result=\"ok\"} 1").await;
    shows(&served, &b.0, "onward_tls_expiry_timestamp_seconds 2240611200").await;
    assert!(ask(&served, open, "GET /v1/info").await.starts_with("HTTP/1.1 200"), "what was open goes on");
}

#[tokio::test]
async fn changed_files_are_seen_without_an_order() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (pair(&folder, "a", 2040), pair(&folder, "b", 2041));
    put(&folder, &a);
    let more = live(&folder);
    let served = Served::start_looking(folder, &more, Duration::from_millis(5)).await;
    put(&served.folder, &b);
    taken(&served, &b.0).await;
}

#[tokio::test]
async fn whoever_does_not_finish_the_handshake_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let a = pair(&folder, "a", 2040);
    put(&folder, &a);
    let served = served(folder, "server.timeouts.header = \"200ms\"\n").await;
    let mut silent = served.connect().await;
    // The first bytes of a ClientHello that never ends.
    let mut half = served.connect().await;
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    // A handshake, and no head behind it.
    let mut late = connect(&served, &a.0, &TLS13).await.unwrap();
    for stream in [&mut silent, &mut half] {
        let mut said = Vec::new();
        let _ = soon(stream.read_to_end(&mut said)).await;
    }
    let mut said = Vec::new();
    let _ = soon(late.read_to_end(&mut said)).await;
    shows(&served, &a.0, "onward_connections_refused_total{reason=\"handshake\"} 2").await;
}
