//! A chain from elsewhere: a whole export becomes a chain of this store, with the same entries, hashes, origin and head.
//!
//! The file is verified to its end before anything is written. Then the index of the chain's segments and its holds, which the control
//! entries tell of, are written; last the rows, as one step: the chain is there with all of them, or not at all.

use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::chain::Chain;
use super::engine::{Load, Loaded};
use super::export_file::{self, Rows};
use super::segment::{Index, refused};
use super::verify::{Check, Report, SavedHead, Verdict};
use crate::model::{EntryHasher, Head, Row, Sealed, Seq, genesis};
use crate::time::Timestamp;
use crate::{Effect, Error, Result};

/// Entries, and bytes of their data, that travel at a time.
const PAGE: (usize, usize) = (512, 1 << 20);

/// An exported file that is read more than once.
pub(super) trait Whole: Read + Seek + Send {}

impl<T: Read + Seek + Send> Whole for T {}

pub(super) type File = Arc<Mutex<dyn Whole>>;

/// What the verified file says.
pub(super) struct Past {
    pub(super) head: Head,
    /// The control entries of segments and holds.
    pub(super) controls: Vec<Row>,
    saved: SavedHead,
}

impl Chain {
    /// Makes this chain of an export of a whole one: the same entries, hashes, origin and head, segments and holds included.
    ///
    /// The file is read several times. It is verified to its end, with the keys that this trail seals with, before anything is written; the
    /// chain then appears with all its entries at once, and is verified once more against the head of the file: that is the report. On
    /// SQLite and in memory other writers wait while the rows are loaded, on Postgres nobody does.
    ///
    /// From then on there are two chains of one origin: append to one of them only.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): the file is no export, was cut off, does not verify, is of another chain or not of all of it.
    /// `Unsupported`: a newer form. `Conflict`: the chain exists, or one of the same origin. Nothing was written then. `Backend`: the engine
    /// is away, or the file cannot be read; the chain is not there, and the same import again is safe.
    ///
    /// # Cancel safety
    /// Dropped, it leaves the chain as it was, or whole.
    pub async fn import(&self, file: impl Read + Seek + Send + 'static) -> Result<Report> {
        self.import_whole(Arc::new(Mutex::new(file))).await.map_err(|e| e.during("import"))
    }

    async fn import_whole(&self, file: File) -> Result<Report> {
        self.absent_yet().await?;
        let past = self.judge(file.clone()).await?;
        let index = Index::of(&past)?;
        self.write_index(&index, || pages(file.clone(), &past.head)).await?;
        let now = self.trail().queue().clock().wall();
        let load = Load { chain: self.name().clone(), head: past.head.clone(), now, rows: pages(file, &past.head) };
        match self.trail().0.engine.load(load).await {
            Ok(Loaded::Done) => {}
            Ok(Loaded::Exists) => return Err(exists()),
            // Whether the answer was lost, the chain itself tells.
            Err(error) if error.effect() == Effect::Unknown && self.head().await.is_ok_and(|head| head.as_ref() == Some(&past.head)) => {}
            Err(error) => return Err(error),
        }
        self.verify(Check { saved: Some(past.saved), ..Check::default() }).await
    }

    /// Refuses a chain that exists.
    pub(super) async fn absent_yet(&self) -> Result<()> {
        if self.head().await?.is_some() { Err(exists()) } else { Ok(()) }
    }

    /// Verifies the file to its end.
    async fn judge(&self, file: File) -> Result<Past> {
        let (name, queue) = (self.name().clone(), self.trail().queue());
        let (keys, now) = (queue.keys().clone(), queue.clock().wall());
        let judge = move || {
            let mut file = file.lock();
            let rows = open(&mut *file)?.keeping_controls();
            if rows.header().chain != name.as_str() || rows.header().from > 1 {
                return Err(Error::invalid("the file is an export of another chain, or does not begin with its first entry"));
            }
            let (report, rows) =
                export_file::judge(rows, &Check { threads: 1, ..Check::default() }, &keys, &mut |_| ControlFlow::Continue(()))?;
            let wrong = || match report.findings.first() {
                Some(first) => format!("the file does not verify: {} {}..{}", first.code, first.from_seq, first.to_seq),
                None => "the file does not verify".to_owned(),
            };
            let saved = report.saved_head(now).filter(|_| report.verdict == Verdict::Ok).ok_or_else(|| Error::invalid(wrong()))?;
            let (at, controls) = rows.ended();
            let head = Head {
                origin: saved.origin.as_str().into(),
                seq: Seq::new(saved.size)?,
                hash: saved.hash,
                at: Timestamp::from_micros(at),
                frontier: saved.frontier.clone(),
            };
            Ok(Past { head, controls, saved })
        };
        let judged = tokio::task::spawn_blocking(judge).await;
        judged.map_err(|e| Error::unavailable("the runtime ended").with_source(e)).flatten()
    }
}

fn exists() -> Error {
    refused("the chain exists, or one of the same origin")
}

fn open(file: &mut dyn Whole) -> Result<Rows<&mut dyn Whole>> {
    file.seek(SeekFrom::Start(0)).map_err(|e| Error::unavailable("the export cannot be read").with_source(e))?;
    Rows::open(file)
}

/// Reads the entries of a file that was verified, page by page; an empty page behind the last, if they still are what they were.
fn pages(file: File, head: &Head) -> mpsc::Receiver<Result<Vec<Sealed>>> {
    let (sender, pages) = mpsc::channel(2);
    let head = head.clone();
    let read = move || {
        let changed = || Error::unavailable("the file changed while it was read");
        let read = || -> Result<()> {
            let mut file = file.lock();
            let (mut rows, mut hasher) = (open(&mut *file)?, EntryHasher::new(&head.origin));
            let (mut last, mut next) = (genesis(&head.origin), 1);
            let (mut page, mut bytes) = (Vec::new(), 0);
            while let Some(row) = rows.row()? {
                let entry = Sealed::try_from(row)?;
                if entry.seq.get() != next || entry.prev != last || hasher.hash(&(&entry).into()) != entry.hash {
                    return Err(changed());
                }
                (last, next, bytes) = (entry.hash, next + 1, bytes + entry.data.len());
                page.push(entry);
                if page.len() >= PAGE.0 || bytes >= PAGE.1 {
                    bytes = 0;
                    if sender.blocking_send(Ok(std::mem::take(&mut page))).is_err() {
                        // Nobody reads on.
                        return Ok(());
                    }
                }
            }
            if last != head.hash || next != head.seq.get() + 1 {
                return Err(changed());
            }
            let _ = (page.is_empty() || sender.blocking_send(Ok(page)).is_ok()) && sender.blocking_send(Ok(Vec::new())).is_ok();
            Ok(())
        };
        if let Err(error) = read() {
            let _ = sender.blocking_send(Err(error));
        }
    };
    drop(tokio::task::spawn_blocking(read));
    pages
}
