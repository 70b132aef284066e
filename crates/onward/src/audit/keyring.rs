//! The file of a keyring: read only if nobody else may write it, and replaced as a whole.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::saved::replace;
use crate::model::MacKeys;
use crate::{Error, Result};

/// Who beside the owner may change a file.
const OTHERS_WRITE: u32 = 0o022;

/// Reads the MAC keys in a file. Blocks.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid): it is no keyring, it cannot be read, or others than its owner may write it: whoever may could
/// plant a key.
pub fn read_keyring(path: &Path) -> Result<MacKeys> {
    let unreadable = |e| Error::invalid("the keyring cannot be read").with_source(e);
    if std::fs::metadata(path).map_err(unreadable)?.mode() & OTHERS_WRITE != 0 {
        return Err(Error::invalid("others may write the file of the keyring: chmod go-w"));
    }
    MacKeys::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
}

/// Saves MAC keys in a file of mode 0600, durably: a reader sees the old or the new one, whole. Blocks.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid): there is no key, or all of it is longer than 1 MiB. [`Kind::Backend`](crate::Kind::Backend): it
/// cannot be written; the old one stays.
pub fn save_keyring(path: &Path, keys: &MacKeys) -> Result<()> {
    let text = keys.to_text();
    // Never one that could not be read again.
    MacKeys::parse(&text)?;
    replace(path, text.as_bytes()).map_err(|e| Error::unavailable("the keyring cannot be written").with_source(e))
}
