//! Finding a running `onward dev` by the file that it leaves: `dev.json` with its URL, token and process.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{Failure, Result};

/// Where a running `onward dev` listens.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DevServer {
    /// Its address.
    pub(crate) url: String,
    /// Its administrator's token.
    pub(crate) token: String,
    /// Its process.
    pid: i32,
}

/// Returns the folder of `dev.json`: private to this user.
pub(crate) fn folder() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("onward"),
        None => PathBuf::from(format!("/tmp/onward-{}", rustix::process::getuid().as_raw())),
    }
}

/// Finds the running server; `None` if there is no file or its process is gone.
///
/// # Errors
/// Exit 2: the file or its folder could have been planted by somebody else, or cannot be read.
pub(crate) fn find() -> Result<Option<DevServer>> {
    let folder = folder();
    let path = folder.join("dev.json");
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let ours = |path: &Path| {
        let meta = fs::symlink_metadata(path).ok()?;
        let private = meta.uid() == rustix::process::getuid().as_raw() && meta.mode() & 0o077 == 0 && !meta.is_symlink();
        private.then_some(())
    };
    if ours(&folder).and_then(|()| ours(&path)).is_none() {
        let path = path.display();
        return Err(Failure::usage(format_args!("{path} is not private to this user, so it is not trusted: remove it, or give --url")));
    }
    let text = fs::read(&path).map_err(|e| Failure::usage(format_args!("cannot read {}: {e}", path.display())))?;
    let server: DevServer =
        serde_json::from_slice(&text).map_err(|_| Failure::usage(format_args!("{} is damaged: remove it, or give --url", path.display())))?;
    let alive = rustix::process::Pid::from_raw(server.pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
    Ok(alive.then_some(server))
}
