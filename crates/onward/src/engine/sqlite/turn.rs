//! Whose turn it is: a lock file that makes the writers of several processes queue.
//!
//! SQLite gives its write lock to whoever tries at the right moment, and that is the process that has just given it back. So a writer takes
//! the turn first, keeps it until the write lock is its own, and lets the next one come to the door: whoever wrote last stands behind all
//! that wait. This is fairness and nothing else. The write lock alone keeps writes correct, so who waits too long for a turn goes without.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::retry::nap;
use crate::time::Clock;
use crate::{Error, Result};

/// How long a turn is waited for; a process that is stopped in its turn holds up nobody for longer.
const WAIT: Duration = Duration::from_secs(1);
/// How often it is asked for.
const ASK_EVERY: Duration = Duration::from_micros(300);

/// Where the lock file of a store stands.
pub(super) fn beside(database: &Path) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(".turn");
    path.into()
}

/// The door of one writer; each writer opens the file anew, so that writers of one process queue as well.
#[derive(Debug)]
pub(super) struct Turn {
    file: File,
    clock: Clock,
}

impl Turn {
    /// Opens (and makes, mode 0600) the lock file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(|e| Error::unavailable("the lock file of the writers cannot be opened").with_source(e))?;
        Ok(Self { file, clock: Clock::system() })
    }

    /// Waits for the turn, not for ever; it ends when what is returned is dropped.
    pub(super) fn take(&self) -> Option<Held<'_>> {
        let until = self.clock.now() + WAIT;
        // Closing the file, also by the death of the process, gives the lock back.
        while flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if self.clock.now() >= until {
                return None;
            }
            nap(ASK_EVERY);
        }
        Some(Held(&self.file))
    }
}

/// A turn.
#[must_use]
pub(super) struct Held<'a>(&'a File);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // What cannot be given back ends with the file, and is not waited for that long.
        let _ = flock(self.0, FlockOperation::Unlock);
    }
}
