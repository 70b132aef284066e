//! The file of a head saved outside: read strictly, replaced atomically, never by a head that is not its continuation.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::verify::{Report, SAVED_HEAD_BYTES, SavedHead, Verdict};
use crate::time::Timestamp;
use crate::{Code, Error, Kind, Result, random};

/// Reads a saved head; `None` if there is no such file. Blocks.
///
/// # Errors
/// [`Kind::Invalid`]: the file is something else. [`Kind::Backend`]: it cannot be read.
pub fn read_saved_head(path: &Path) -> Result<Option<SavedHead>> {
    let unreadable = |e| Error::unavailable("the saved head cannot be read").with_source(e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let mut bytes = Vec::new();
    file.take(SAVED_HEAD_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|e| Error::invalid("the file is not a saved head").with_source(e))?;
    SavedHead::parse(&text).map(Some)
}

/// Saves the head that a report proved, in a file of mode 0600 that is replaced as a whole. Blocks.
///
/// A head that was saved there before must be the one that the report was checked against: so the file never goes back, and never over to
/// another history. Keep the file where those who can write the database cannot.
///
/// # Errors
/// [`Kind::Conflict`], `state_conflict`: the report is not good, or does not vouch for the head that is saved there; the file stays.
/// [`Kind::Backend`]: the file cannot be written; the old one stays.
pub fn save_head(path: &Path, report: &Report, saved_at: Timestamp) -> Result<SavedHead> {
    let refuse = |message: &str| Error::new(Kind::Conflict, Code::StateConflict, message);
    let head = report.saved_head(saved_at).filter(|_| report.verdict == Verdict::Ok);
    let head = head.ok_or_else(|| refuse("only the head of a whole and good chain is saved"))?;
    if let Some(old) = read_saved_head(path)? {
        let same = old.chain == head.chain && old.origin == head.origin && old.size <= head.size;
        let proved = report.attested_to == Some(old.size) && report.attested_hash == Some(old.hash);
        if !(same && proved) {
            return Err(refuse("the file holds a head that the chain was not checked against"));
        }
    }
    replace(path, head.to_text().as_bytes()).map_err(|e| Error::unavailable("the saved head cannot be written").with_source(e))?;
    Ok(head)
}

/// Writes beside the file, makes it durable, and renames: a reader sees the old or the new one, whole.
pub(super) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let beside = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), hex::encode(random::bytes::<8>())));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&beside, path));
    if let Err(e) = written {
        // What is left over harms nobody.
        let _ = std::fs::remove_file(&beside);
        return Err(e);
    }
    File::open(folder)?.sync_all()
}
