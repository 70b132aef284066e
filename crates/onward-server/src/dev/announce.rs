//! Where a development server tells the tools of the same user that it runs: `onward/dev.json` in the user's runtime folder.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{user, write_private};
use crate::log;

/// A development server that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The base of all routes, without `/v1`.
    pub url: String,
    /// The token; secret.
    pub token: String,
    /// The process.
    pub pid: u32,
}

/// A file that goes when the server ends.
#[derive(Debug)]
pub(super) struct Announced {
    path: PathBuf,
    running: Running,
}

impl Drop for Announced {
    fn drop(&mut self) {
        // A server that started later has written its own.
        if read(&self.path).as_ref() == Some(&self.running) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the development server of this user that runs on this machine, if there is one.
pub fn running() -> Option<Running> {
    let place = place();
    checked(&place).ok()?;
    let running = read(&place.join("dev.json"))?;
    alive(running.pid).then_some(running)
}

/// Announces a server; without a safe place nothing is written, since the file holds a token.
pub(super) fn announce(running: &Running) -> Option<Announced> {
    match write(&place(), running) {
        Ok(path) => Some(Announced { path, running: running.clone() }),
        Err(error) => {
            log::warn(&format!("tools will not find this server by themselves: {error}"));
            None
        }
    }
}

fn write(place: &Path, running: &Running) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    checked(place)?;
    let path = place.join("dev.json");
    write_private(&path, &serde_json::to_string(running)?)?;
    Ok(path)
}

fn read(path: &Path) -> Option<Running> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn place() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute() && path.is_dir()) {
        Some(runtime) => runtime.join("onward"),
        None => PathBuf::from(format!("/tmp/onward-{}", user())),
    }
}

/// Refuses a folder that somebody else could have put there or can write to.
fn checked(place: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(place)?;
    if meta.is_dir() && meta.uid() == user() && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    let message = format!("{} is not a folder of this user only", place.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

fn alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_can_enter_gets_no_token() {
        let base = tempfile::tempdir().unwrap();
        let running = Running { url: "http://127.0.0.1:1".to_owned(), token: "t".to_owned(), pid: 1 };
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(write(&open, &running).is_err());
        let linked = base.path().join("linked");
        std::os::unix::fs::symlink(base.path(), &linked).unwrap();
        assert!(write(&linked, &running).is_err());
        let path = write(&base.path().join("own"), &running).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path), Some(running));
    }

    #[test]
    fn only_its_own_announcement_is_taken_back() {
        let base = tempfile::tempdir().unwrap();
        let first = Running { url: "http://127.0.0.1:1".to_owned(), token: "a".to_owned(), pid: 1 };
        let second = Running { token: "b".to_owned(), ..first.clone() };
        let path = write(&base.path().join("own"), &first).unwrap();
        write(&base.path().join("own"), &second).unwrap();
        drop(Announced { path: path.clone(), running: first });
        assert_eq!(read(&path).as_ref(), Some(&second));
        drop(Announced { path: path.clone(), running: second });
        assert!(!path.exists());
    }
}
