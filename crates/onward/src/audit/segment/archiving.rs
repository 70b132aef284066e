//! Archiving: every entry of a segment in a file, read back and compared before anything counts on it.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::worker::{Worker, check_free, check_state};
use super::{Act, Segment};
use crate::audit::anchor::origin_folder;
use crate::audit::archive::Archive;
use crate::audit::archive_file::{ArchiveReader, ArchiveWriter};
use crate::audit::chain::Chain;
use crate::audit::verify::segment::MANIFEST;
use crate::audit::verify::{ArchiveFile, Filed, SegmentState};
use crate::model::limits::PAGE_ITEMS;
use crate::model::{EntryHasher, Hash, Manifest, Row, Seq};
use crate::{Error, Result};

/// The stand-alone verifier, which lies beside every file.
const VERIFIER: &str = include_str!("../verify/verify.py");

impl Chain {
    /// Writes a sealed segment to the archive, and reads it back.
    ///
    /// The head is taken once, for one entry, when everything is there.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::Kind::Conflict): the segment is not sealed, or another worker is at it. `Unsupported`: there is no archive.
    /// `NotFound`: no such segment. `Backend`: the engine or the archive is away, or `integrity_failure`: an entry or the file is not what
    /// it should be.
    ///
    /// # Cancel safety
    /// Dropped before its last commit, it leaves a file that nobody names; it is collected later.
    pub async fn archive(&self, from: Seq, act: &Act) -> Result<Segment> {
        self.archive_segment(from.get(), act).await.map_err(|e| e.during("archive"))
    }

    async fn archive_segment(&self, from: u64, act: &Act) -> Result<Segment> {
        act.check()?;
        let archive = self.trail().archive()?.clone();
        let states = [SegmentState::Sealed];
        let (segment, _) = self.load(from).await?;
        check_state(&segment, &states)?;
        check_free(&segment, self.trail().queue().clock().wall())?;
        if act.dry {
            return Ok(segment);
        }
        let mut worker = Worker::take(self, from, &states, act).await?;
        let folder = format!("{}/{}", folder(self, &worker.segment).await?, worker.attempt());
        let name = format!("{folder}/entries.ndjson.zst");
        let written = async {
            let file = write(&mut worker, &archive, &name).await?;
            archive.keep(&file.beside("verify.py"), VERIFIER.as_bytes()).await?;
            let file = with_manifest(self, &archive, &worker.segment, file).await?;
            // However long it takes to read it: the worker shows that it lives.
            let segment = worker.segment.clone();
            let mut pages = Pages::open(self, &archive, &segment, &file).await?;
            while pages.next().await?.is_some() {
                worker.at(segment.rows()).await?;
            }
            let data = Map::from_iter([("archive".to_owned(), serde_json::to_value(&file).unwrap_or(Value::Null))]);
            let next = |segment: &mut Segment| {
                (segment.state, segment.archive, segment.attempt_until) = (SegmentState::Archived, Some(file.clone()), None);
            };
            worker.step("segment.archived", Vec::new(), next, data).await
        };
        if let Err(error) = written.await {
            // What nobody names harms nobody; what may be named stays.
            if error.effect() == crate::Effect::NotApplied {
                for name in archive.list(&folder).await.unwrap_or_default() {
                    let _ = archive.delete(&name).await;
                }
            }
            let _ = worker.leave().await;
            return Err(error);
        }
        Ok(worker.segment)
    }
}

/// Where the files of a segment lie.
pub(super) async fn folder(chain: &Chain, segment: &Segment) -> Result<String> {
    let head = chain.head().await?.ok_or_else(|| Error::not_found("no such chain"))?;
    Ok(format!("{}/{}-{}", origin_folder(&head), segment.from, segment.to))
}

async fn write(worker: &mut Worker<'_>, archive: &Archive, name: &str) -> Result<ArchiveFile> {
    let (chain, border) = (worker.chain, worker.segment.border());
    let head = chain.head().await?.ok_or_else(|| Error::not_found("no such chain"))?;
    let mut writer = ArchiveWriter::new(chain.name(), &head.origin, &border)?;
    let mut upload = archive.begin(name.to_owned());
    let filled = async {
        let mut next = border.from;
        while next <= border.to {
            let entries = chain.rows(next, border.to).await?;
            for entry in &entries {
                writer.push(entry)?;
            }
            next += entries.len() as u64;
            upload.write(writer.take()).await?;
            worker.at(next - border.from).await?;
        }
        let (rest, file) = writer.end(name.to_owned(), border.last)?;
        upload.write(rest).await?;
        Ok(file)
    };
    match filled.await {
        Ok(file) => upload.end().await.map(|()| file),
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// Says beside a file what it is, signed, if there is a key to sign with; for people who have the folder and no database.
async fn with_manifest(chain: &Chain, archive: &Archive, segment: &Segment, mut file: ArchiveFile) -> Result<ArchiveFile> {
    let Some(key) = chain.trail().signing() else { return Ok(file) };
    let head = chain.head().await?.ok_or_else(|| Error::not_found("no such chain"))?;
    let &Segment { from, to, prev, last, root, .. } = segment;
    let note = key.sign_manifest(&Manifest {
        origin: head.origin.to_string(),
        from,
        to,
        prev,
        last,
        root,
        sha256: file.sha256,
        plain_sha256: file.plain_sha256,
        bytes: file.bytes,
        plain_bytes: file.plain_bytes,
        verifier: Hash::from_bytes(Sha256::digest(VERIFIER).into()),
    });
    file.manifest = Some(Hash::from_bytes(Sha256::digest(&note).into()));
    archive.keep(&file.beside(MANIFEST), note).await?;
    Ok(file)
}

/// Reads a file to its end and compares each entry with the skeleton.
pub(super) async fn compare(chain: &Chain, archive: &Archive, segment: &Segment, file: &ArchiveFile) -> Result<()> {
    let mut pages = Pages::open(chain, archive, segment, file).await?;
    while pages.next().await?.is_some() {}
    Ok(())
}

/// The entries of a file, page by page, each compared with the skeleton.
pub(super) struct Pages<'a> {
    chain: &'a Chain,
    segment: &'a Segment,
    hasher: EntryHasher,
    pages: mpsc::Receiver<Result<Vec<Row>>>,
    next: u64,
}

impl<'a> Pages<'a> {
    pub(super) async fn open(chain: &'a Chain, archive: &Archive, segment: &'a Segment, file: &ArchiveFile) -> Result<Self> {
        let head = chain.head().await?.ok_or_else(|| Error::not_found("no such chain"))?;
        let (sender, pages) = mpsc::channel(2);
        let (archive, file, border, name, origin) =
            (archive.clone(), file.clone(), segment.border(), chain.name().clone(), head.origin.to_string());
        let runtime = tokio::runtime::Handle::current();
        let hasher = EntryHasher::new(&origin);
        let read = move || {
            let read = || -> Result<()> {
                let Filed::There(_, input) = archive.find(&file.name, &runtime)? else {
                    return Err(Error::integrity("the file of the segment is missing from the archive"));
                };
                let mut reader = ArchiveReader::open(input, &file, &border, &name, &origin)?;
                let mut page = Vec::with_capacity(PAGE_ITEMS);
                while let Some(row) = reader.next()? {
                    page.push(row);
                    if page.len() == PAGE_ITEMS && sender.blocking_send(Ok(std::mem::take(&mut page))).is_err() {
                        // Nobody reads on.
                        return Ok(());
                    }
                }
                // An empty page is the end.
                let _ = sender.blocking_send(Ok(page)).is_ok() && sender.blocking_send(Ok(Vec::new())).is_ok();
                Ok(())
            };
            if let Err(error) = read() {
                let _ = sender.blocking_send(Err(error));
            }
        };
        drop(tokio::task::spawn_blocking(read));
        Ok(Self { chain, segment, hasher, pages, next: segment.from })
    }

    pub(super) async fn next(&mut self) -> Result<Option<Vec<Row>>> {
        let ended = || Error::unavailable("the file of the segment was not read to its end");
        let page = self.pages.recv().await.ok_or_else(ended)??;
        let wrong = || Error::integrity("the file of the segment does not hold what was sealed");
        if page.is_empty() {
            return if self.next == self.segment.to + 1 { Ok(None) } else { Err(wrong()) };
        }
        let end = self.next + page.len() as u64;
        if end > self.segment.to + 1 {
            return Err(wrong());
        }
        let known = self.chain.known_hashes(self.segment, self.next, end - 1).await?;
        let same = page.iter().zip(&known).all(|(row, known)| self.hasher.hash(&row.view()) == *known);
        if !same {
            return Err(wrong());
        }
        self.next = end;
        Ok(Some(page))
    }
}

/// What a control entry says of a file.
pub(super) fn named(file: Option<&ArchiveFile>) -> Map<String, Value> {
    Map::from_iter([("file".to_owned(), json!(file.map(|file| &file.name)))])
}
