//! The files of archived segments: that they are there, and, read to the end, that they hold what was sealed; and the manifests beside them.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::segment::{Life, MANIFEST};
use super::{ArchiveFile, Archives, Filed, Source};
use crate::Result;
use crate::audit::archive_file::ArchiveReader;
use crate::model::{ChainName, EntryHasher, Hash, MANIFEST_BYTES};

/// Why a file is not what it should be.
pub(super) enum Lack {
    /// Nobody looked.
    Unseen,
    Absent,
    Damaged,
    /// The file is as it should be; what lies beside it is not.
    Manifest(&'static str),
}

impl Lack {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Lack::Unseen => "nobody looked for the file of the segment",
            Lack::Absent => "the file of the segment is missing",
            Lack::Damaged => "the file of the segment is damaged",
            Lack::Manifest(why) => why,
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
    match (holds, archives) {
        (false, _) => Ok(Some(Lack::Damaged)),
        (true, Archives::Listed) => Ok(None),
        (true, Archives::Read) => look_beside(source, file),
    }
}

/// Looks at the manifest, if the chain names one. The chain binds its bytes, so nobody needs the key that signed it.
fn look_beside(source: &dyn Source, file: &ArchiveFile) -> Result<Option<Lack>> {
    let Some(named) = file.manifest else { return Ok(None) };
    let mut note = Vec::new();
    Ok(match source.file(&file.beside(MANIFEST))? {
        Filed::Unseen => None,
        Filed::Absent => Some(Lack::Manifest("the manifest of the file is missing")),
        Filed::There(_, input) => {
            let read = input.take(MANIFEST_BYTES as u64 + 1).read_to_end(&mut note).is_ok();
            let same = read && Hash::from_bytes(Sha256::digest(&note).into()) == named;
            if same { None } else { Some(Lack::Manifest("the manifest of the file is not the one that was written")) }
        }
    })
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
