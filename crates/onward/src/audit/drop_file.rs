//! The drop file of a process: a record a window in a slot of its own, each replaced by one write, so that no death tears it.
//!
//! Its owner holds the file's lock for life: a file that can be locked is a dead process's.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::ChainName;
use crate::time::Timestamp;
use crate::{Error, Result};

/// A record, padded with spaces: no sector of a disk is smaller, so a power loss tears none either.
const SLOT_BYTES: usize = 512;
/// Longest file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// What was dropped of one chain in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) chain: ChainName,
    /// Its id, which the chain takes once.
    pub(super) window: String,
    pub(super) count: u64,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// Why the first was dropped.
    pub(super) reason: String,
    /// Which process dropped.
    pub(super) instance: String,
}

#[derive(Debug)]
pub(super) struct DropFile {
    file: File,
    path: PathBuf,
    /// Something in it cannot be read: it is kept as evidence.
    damaged: bool,
}

/// What the names of a store's drop files begin with: those of `app.db` are `app.drops.` and the process.
fn prefix(store: &Path) -> OsString {
    let mut name: OsString = match store.extension() {
        Some(extension) if extension == "db" => store.file_stem().unwrap_or_default().to_owned(),
        _ => store.file_name().unwrap_or_default().to_owned(),
    };
    name.push(".drops.");
    name
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(message: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |e| Error::unavailable(message).with_source(e)
}

impl DropFile {
    /// Makes the file of this process; it appears locked.
    pub(super) fn create(store: &Path, instance: &str) -> Result<Self> {
        let failed = || failed("the drop file cannot be made");
        let mut name = prefix(store);
        name.push(instance);
        let path = folder(store).join(&name);
        let mut hidden = OsString::from(".");
        hidden.push(&name);
        let hidden = folder(store).join(hidden);
        let file = OpenOptions::new().write(true).read(true).create(true).truncate(true).mode(0o600).open(&hidden).map_err(failed())?;
        file.lock().map_err(failed())?;
        std::fs::rename(&hidden, &path).map_err(failed())?;
        Ok(Self { file, path, damaged: false })
    }

    /// Writes a record into its slot, or empties the slot.
    pub(super) fn write(&self, slot: usize, record: Option<&Record>) -> Result<()> {
        let failed = |message: &'static str| Error::unavailable(message);
        let mut bytes = match record {
            Some(record) => serde_json::to_vec(record).map_err(|_| failed("a drop cannot be counted"))?,
            None => Vec::new(),
        };
        if bytes.len() >= SLOT_BYTES {
            return Err(failed("a drop cannot be counted"));
        }
        bytes.resize(SLOT_BYTES - 1, b' ');
        bytes.push(b'\n');
        let at = (slot * SLOT_BYTES) as u64;
        self.file.write_all_at(&bytes, at).map_err(|e| failed("a drop cannot be counted").with_source(e))
    }

    /// Has it on the disk, with its name.
    pub(super) fn sync(&self) -> Result<()> {
        let synced = self.file.sync_data().and_then(|()| File::open(folder(&self.path))?.sync_all());
        synced.map_err(failed("the drop file cannot be made durable"))
    }

    /// Takes a file away whose windows are all told.
    pub(super) fn remove(&self) -> Result<()> {
        let gone = if self.damaged {
            let mut name = OsString::from("damaged.");
            name.push(self.path.file_name().unwrap_or_default());
            std::fs::rename(&self.path, self.path.with_file_name(name))
        } else {
            std::fs::remove_file(&self.path)
        };
        match gone {
            // Somebody tidied up; the windows are told.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            gone => gone.map_err(failed("the drop file cannot be removed")),
        }
    }
}

/// A file with its records, each in its slot.
type Adopted = (Arc<DropFile>, Vec<(usize, Record)>);

/// Takes over the drop files that dead processes left beside a store.
pub(super) fn adopt(store: &Path) -> Result<Vec<Adopted>> {
    let failed = || failed("drop files cannot be read");
    let prefix = prefix(store);
    let mut adopted = Vec::new();
    for entry in std::fs::read_dir(folder(store)).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if !entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
            || !entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            continue;
        }
        let Ok(file) = OpenOptions::new().read(true).write(true).open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => {}
            // Its owner lives, and tells of its drops itself.
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(failed()(e)),
        }
        let mut bytes = Vec::new();
        (&file).take(FILE_BYTES).read_to_end(&mut bytes).map_err(failed())?;
        let (records, damaged) = read(&bytes);
        let file = DropFile { file, path: entry.path(), damaged };
        if records.is_empty() {
            file.remove()?;
        } else {
            adopted.push((Arc::new(file), records));
        }
    }
    Ok(adopted)
}

/// Reads the records of a file, and tells whether there was anything else.
fn read(bytes: &[u8]) -> (Vec<(usize, Record)>, bool) {
    let (mut records, mut damaged) = (Vec::new(), false);
    for (slot, bytes) in bytes.chunks(SLOT_BYTES).enumerate() {
        // A slot in front of one that was written is zero until it is written itself.
        if bytes.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0) {
            continue;
        }
        match serde_json::from_slice(bytes) {
            Ok(record) => records.push((slot, record)),
            Err(_) => damaged = true,
        }
    }
    (records, damaged)
}
