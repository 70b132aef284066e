//! Real servers for tests: private, on a free loopback port, ended with the value that started them; and a proxy that spoils connections.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "test code that ships behind a feature")]

#[cfg(feature = "s3")]
mod bucket;
#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "postgres")]
mod postgres;
mod proxy;
#[cfg(feature = "redis")]
mod redis;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(feature = "s3")]
pub use bucket::{Bucket, Spoilt};
#[cfg(feature = "redis")]
pub use cluster::RedisCluster;
#[cfg(feature = "postgres")]
pub use postgres::{Pooler, Postgres};
pub use proxy::Proxy;
#[cfg(feature = "redis")]
pub use redis::{Keep, Redis};

/// Returns a port of 127.0.0.1 that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a loopback port").local_addr().expect("its address").port()
}

/// A folder in the system's place for such, removed at the end.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes an empty folder.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let folder = std::env::temp_dir().join(format!("onward-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for a server");
        Self(folder)
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the system's place for it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
