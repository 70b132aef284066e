//! Redis behind TLS, with a throw-away authority: locks, the cache and its pushes; and what is refused, with the way out.

use std::path::PathBuf;
use std::time::Duration;

use onward::lock::{LockOptions, Release};
use onward::model::LockKey;
use onward::testing::servers::{Proxy, Redis, free_port};
use onward::time::Clock;
use onward::{Config, Effect, Kind, Onward};
use tempfile::TempDir;

/// A server that speaks TLS on one port and plain on another, and the folder with its certificate.
struct Secure {
    server: Redis,
    port: u16,
    folder: TempDir,
}

/// Writes a self-signed certificate for these names and its key, and returns where they are.
fn certificate(folder: &TempDir, name: &str, names: &[&str]) -> (PathBuf, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (folder.path().join(format!("{name}.crt")), folder.path().join(format!("{name}.key")));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (cert_file, key_file)
}

impl Secure {
    fn start(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = certificate(&folder, "server", names);
        let port = free_port();
        let (tls_port, cert, key) = (port.to_string(), cert.display().to_string(), key.display().to_string());
        let options = [
            "--tls-port",
            &tls_port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &cert,
            "--tls-auth-clients",
            "no",
        ];
        Self { server: Redis::start_with(&options), port, folder }
    }

    fn url_at(&self, port: u16) -> String {
        format!("rediss://localhost:{port}?ca={}", self.folder.path().join("server.crt").display())
    }

    fn url(&self) -> String {
        self.url_at(self.port)
    }
}

async fn open(url: &str) -> onward::Result<Onward> {
    Onward::connect(Config::new("memory:").with_locks_at(url).with_cache_at(url)).await
}

async fn refused(url: &str, told: &str) {
    for config in [Config::new("memory:").with_locks_at(url), Config::new("memory:").with_cache_at(url)] {
        let error = Onward::connect(config).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::NotApplied), "{error:?}");
        assert!(error.message().contains(told), "{error}");
    }
}

#[tokio::test]
async fn locks_and_the_cache_work_over_tls_alone_and_over_a_cut() {
    let secure = Secure::start(&["localhost"]);
    let proxy = Proxy::to(secure.port).await;
    let url = secure.url_at(proxy.port());
    let bound = Duration::from_secs(30);
    let near = Config::new("memory:").with_locks_at(&url).with_cache_at(&url).with_cache_near(bound);
    let (near, there) = (Onward::connect(near).await.unwrap(), open(&secure.url()).await.unwrap());
    // From now on nobody comes in but by TLS.
    assert_eq!(secure.server.ask("CONFIG SET port 0"), "OK");
    let job = LockKey::raw("job").unwrap();
    let wait = LockOptions::fail().with_wait(Duration::from_secs(20));
    for round in 0..3u64 {
        let grant = near.locks().acquire(&job, wait.clone()).await.unwrap();
        // Handed on over the wire, so wakes come in by TLS too.
        let (locks, key, wait) = (there.locks(), job.clone(), wait.clone());
        let next = tokio::spawn(async move { locks.acquire(&key, wait).await });
        assert_eq!(grant.release().await.unwrap(), Release::Released);
        assert_eq!(next.await.unwrap().unwrap().release().await.unwrap(), Release::Released);
        let load = |_| async move { Ok::<_, onward::Error>(round) };
        assert_eq!(near.cache().get_or_load("k", load).await.unwrap(), round);
        let _ = there.cache().invalidate("k").await.unwrap();
        // The push drops the near copy; so does the connection that comes back.
        let patience = Clock::system().now() + Duration::from_secs(20);
        while near.cache().get::<u64>("k").await.ok() != Some(None) {
            assert!(Clock::system().now() < patience, "the near copy is not dropped");
            tokio::task::yield_now().await;
        }
        proxy.cut();
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_or_for_another_name_is_refused() {
    let secure = Secure::start(&["localhost"]);
    let (other, _) = certificate(&secure.folder, "other", &["localhost"]);
    // Another authority, and those of the machine.
    refused(&format!("rediss://localhost:{}?ca={}", secure.port, other.display()), "?ca=FILE").await;
    refused(&format!("rediss://localhost:{}", secure.port), "?ca=FILE").await;
    let by_number = secure.url().replace("localhost", "127.0.0.1");
    refused(&by_number, "another name").await;
    for (file, text) in [("none", None), ("empty", Some("")), ("text", Some("no certificate"))] {
        let path = secure.folder.path().join(file);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = open(&format!("rediss://localhost:{}?ca={}", secure.port, path.display())).await.unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.message().contains("ca"), "{error:?}");
    }
}

#[tokio::test]
async fn a_plain_server_and_one_with_tls_are_not_taken_for_each_other() {
    let secure = Secure::start(&["localhost"]);
    let plain = secure.server.url().replace("redis://127.0.0.1", "rediss://localhost");
    let ca = secure.folder.path().join("server.crt");
    refused(&format!("{plain}?ca={}", ca.display()), "begins with redis://").await;
    refused(&format!("redis://localhost:{}", secure.port), "begins with rediss://").await;
    // Nobody there: that is no matter of TLS.
    refused(&format!("rediss://localhost:1?ca={}", ca.display()), "cannot be reached").await;
}
