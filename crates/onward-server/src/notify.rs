//! Telling the service manager that the server is ready, lives, and ends: the datagrams of `sd_notify`.

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::log;

/// Sends a line to the service manager, if one listens.
pub(crate) fn tell(line: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let sent = address(&name).and_then(|to| UnixDatagram::unbound()?.send_to_addr(line.as_bytes(), &to));
    if let Err(error) = sent {
        log::warn(&format!("the service manager cannot be told: {error}"));
    }
}

/// Returns how often the service manager wants a sign of life: twice in the time after which it would end us.
pub(crate) fn rhythm() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
    Some(Duration::from_micros(micros) / 2).filter(|rhythm| ours && !rhythm.is_zero())
}

/// A path, or behind `@` a name without a file.
fn address(name: &std::ffi::OsStr) -> std::io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}
