//! The files of archived segments: that they are there, and, read to the end, that they hold what was sealed.

use std::io::Read;

use super::segment::Life;
use super::{ArchiveFile, Archives, Filed, Source};
use crate::Result;
use crate::audit::archive_file::ArchiveReader;
use crate::model::{ChainName, EntryHasher};

/// Why a file is not what it should be.
pub(super) enum Lack {
    /// Nobody looked.
    Unseen,
    Absent,
    Damaged,
}

impl Lack {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Lack::Unseen => "nobody looked for the file of the segment",
            Lack::Absent => "the file of the segment is missing",
            Lack::Damaged => "the file of the segment is damaged",
        }
    }
}

/// Looks for a file; `None`: it is as it should be, as far as was asked.
pub(super) fn look_for(
    source: &dyn Source,
    chain: &ChainName,
    file: &ArchiveFile,
    life: &Life,
    archives: Archives,
    origin: &str,
) -> Result<Option<Lack>> {
    let (bytes, input) = match source.file(&file.name)? {
        Filed::Unseen => return Ok(Some(Lack::Unseen)),
        Filed::Absent => return Ok(Some(Lack::Absent)),
        Filed::There(bytes, input) => (bytes, input),
    };
    // A file that cannot be read to its end is none, whatever the reason: another look may find it whole.
    let holds = bytes == file.bytes && (archives == Archives::Listed || holds(chain, file, life, origin, input).unwrap_or(false));
    Ok(if holds { None } else { Some(Lack::Damaged) })
}

/// Reads a file to its end: every entry has the hash that it says and links to the one before it, and the root of all is the sealed one.
fn holds(chain: &ChainName, file: &ArchiveFile, life: &Life, origin: &str, input: Box<dyn Read + Send>) -> Result<bool> {
    let border = &life.border;
    let mut reader = ArchiveReader::open(input, file, border, chain, origin)?;
    let (mut hasher, mut prev, mut seq) = (EntryHasher::new(origin), border.prev, border.from);
    while let Some(row) = reader.next()? {
        let hash = hasher.hash(&row.view());
        if row.seq.cast_unsigned() != seq || row.prev != prev.as_bytes() || row.hash != hash.as_bytes() {
            return Ok(false);
        }
        (prev, seq) = (hash, seq + 1);
    }
    Ok(seq == border.to + 1)
}
