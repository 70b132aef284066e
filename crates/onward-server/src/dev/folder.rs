//! The folder of a development server: one process at a time, secrets for the user only, a temporary one gone with its process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use onward::random;

use crate::start::{StartError, failed};

/// How temporary folders begin.
const PREFIX: &str = "onward-dev-";
/// The file whose lock says that a process uses the folder. The system frees it when the process dies, however it dies.
const LOCK: &str = "dev.lock";

/// A folder that this process has to itself.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    temporary: bool,
    _lock: File,
}

impl Folder {
    /// Takes a folder, or makes a temporary one and removes those that dead processes left.
    pub(super) fn open(data: Option<&Path>) -> Result<Self, StartError> {
        match data {
            Some(path) => Self::keep(path),
            None => {
                let base = std::env::temp_dir();
                sweep(&base);
                Self::temporary(&base).map_err(failed("a temporary folder"))
            }
        }
    }

    fn keep(path: &Path) -> Result<Self, StartError> {
        // The caller named it, so it is the caller's to mend.
        let unfit = |error: io::Error| StartError::Usage(format!("the data folder {} cannot be used: {error}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unfit)?;
        let path = path.canonicalize().map_err(unfit)?;
        match lock(&path).map_err(unfit)? {
            Some(lock) => Ok(Self { path, temporary: false, _lock: lock }),
            None => Err(StartError::Usage("another onward dev uses this data folder".to_owned())),
        }
    }

    fn temporary(base: &Path) -> io::Result<Self> {
        let mark = hex(&random::bytes::<8>());
        // Under another name until it is locked: a sweep of another process must not see it unlocked.
        let (young, path) = (base.join(format!(".{PREFIX}{mark}")), base.join(format!("{PREFIX}{mark}")));
        DirBuilder::new().mode(0o700).create(&young)?;
        let lock = lock(&young)?.ok_or(io::ErrorKind::WouldBlock)?;
        fs::rename(&young, &path)?;
        Ok(Self { path, temporary: true, _lock: lock })
    }

    /// Returns the folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the folder goes with this process.
    pub(super) fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Reads a secret from a file of mode 0600, which is made with `fresh` if there is none.
    pub(super) fn secret<T>(&self, name: &str, fresh: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, StartError> {
        let path = self.path.join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => {
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed(name))?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_private(&path, fresh).map_err(failed(name))?;
                fresh.to_owned()
            }
            Err(error) => return Err(failed(name)(error)),
        };
        read(text.trim()).ok_or_else(|| StartError::Usage(format!("{name} in the data folder is damaged; put it back or remove it")))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // What stays is swept at the next start.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Takes a folder's lock; `None` if another process has it.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes temporary folders of this user whose process is dead.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // Not through a link, and nobody else's.
        let ours = || fs::symlink_metadata(entry.path()).is_ok_and(|meta| meta.is_dir() && meta.uid() == user());
        if named
            && ours()
            && entry.path().join(LOCK).exists()
            && let Ok(Some(_lock)) = lock(&entry.path())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns the user of this process.
pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Writes a file of mode 0600 as a whole: a reader sees the old one, the new one, or none.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.tmp", hex(&random::bytes::<8>())));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_for_one_process_at_a_time_and_keeps_its_secret() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("data");
        let folder = Folder::open(Some(&data)).unwrap();
        assert!(matches!(Folder::open(Some(&data)), Err(StartError::Usage(_))));
        assert_eq!(folder.secret("dev.token", "one", |text| Some(text.to_owned())).unwrap(), "one");
        assert_eq!(fs::metadata(data.join("dev.token")).unwrap().permissions().mode() & 0o777, 0o600);
        drop(folder);
        let again = Folder::open(Some(&data)).unwrap();
        assert_eq!(again.secret("dev.token", "two", |text| Some(text.to_owned())).unwrap(), "one");
        assert!(matches!(again.secret("dev.token", "two", |_| None::<()>), Err(StartError::Usage(_))));
    }

    #[test]
    fn a_dead_process_leaves_nothing_and_a_living_one_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let living = Folder::temporary(base.path()).unwrap();
        let dead = base.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        fs::create_dir(base.path().join(format!("{PREFIX}foreign"))).unwrap();
        sweep(base.path());
        assert!(!dead.exists());
        assert!(living.path().exists());
        assert!(base.path().join(format!("{PREFIX}foreign")).exists(), "a folder without a lock file is not ours");
        assert_eq!(fs::metadata(living.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
