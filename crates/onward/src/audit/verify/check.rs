//! The verification of a chain: what to check, in how many threads, and the order in which rows come to the walk.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use super::look::{Eye, Seen};
use super::personal::look_beside;
use super::walk::Walk;
use super::{Controls, Depth, Report, SavedHead, Source};
use crate::model::limits::{PAGE_BYTES, PAGE_ITEMS};
use crate::model::{ChainName, Checkpoint, MacKeys, Row, RowRef, Seq};
use crate::{Code, Error, Kind, Result};

/// Most threads of one verification.
const THREADS_MAX: usize = 16;

/// What to check; by default the whole chain, as deep as the keys allow.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Check {
    /// The first entry to check; the one before it is believed. Absent: the first.
    pub from: Option<Seq>,
    /// The last entry to check. Absent: the end, which must be the head.
    pub to: Option<Seq>,
    /// How much to believe. Absent: [`Depth::Keyed`] if there are keys.
    pub depth: Option<Depth>,
    /// A head that was saved outside.
    pub saved: Option<SavedHead>,
    /// A checkpoint from outside whose signature was [checked](crate::model::Vkey::open); instead of a saved head.
    pub checkpoint: Option<Checkpoint>,
    /// Which entries to hash.
    pub extent: Extent,
    /// How far to look at the files of archived segments.
    pub archives: Archives,
    /// How many threads read and hash, at most 16; 0 and 1 are the caller's own.
    pub threads: usize,
}

/// Which entries a verification hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of the range.
    #[default]
    Full,
    /// Only those behind the saved head, which must be given: it vouches for the entries up to its size, and those are not looked at again.
    Incremental,
}

/// How far a verification looks at the files of archived segments, where it has an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Archives {
    /// That they are there, and as long as they should be.
    #[default]
    Listed,
    /// Every byte and every entry in them, and the manifests beside them.
    Read,
}

/// How far a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many rows were hashed.
    pub rows_hashed: u64,
    /// How many bytes of text and data these rows hold.
    pub bytes_hashed: u64,
    /// The seq that was reached.
    pub seq: u64,
    /// The seq of the head.
    pub head: u64,
}

/// Walks a chain and reports everything that it finds.
///
/// Appends may go on meanwhile: rows never change, and the head is compared in one view with the rows at the end. Memory stays flat at any
/// length: rows are hashed where they stand, and some 250 bytes of each are kept for one window a thread. `watch` is told after each
/// window and may wait, which slows the walk down, or end it.
///
/// # Errors
/// [`Kind::NotFound`]: no such chain, and no saved head that says there was one.
/// [`Kind::Invalid`]: a range beyond the end, a saved head of another chain, or an incremental walk without one or with a range.
/// [`Kind::Backend`]: the storage could not be read, or `watch` ended the walk: no verdict.
pub fn verify(
    source: &dyn Source,
    chain: &ChainName,
    check: &Check,
    keys: &MacKeys,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Report> {
    refuse(chain, check)?;
    let mut walk = Walk::new(source, chain, check, keys);
    let mut controls = Controls::default();
    let Some(view) = source.read(i64::MAX, &mut controls, &mut |_| ControlFlow::Break(()))? else { return walk.no_chain() };
    walk.begin(&view);
    walk.learn(&controls.rows);
    let mut watch = |walk: &Walk<'_>| match watch(walk.progress()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(Kind::Backend, Code::DeadlineExceeded, "the verification was stopped before its end")),
    };
    // The row before the range is believed, and links the range to what an earlier walk may have proved.
    let mut from = walk.before_first();
    loop {
        let mut window = Window::new(i64::MAX);
        let (mut controls, mut rows) = (walk.past.wanted(), Vec::new());
        let view = source.read(from, &mut controls, &mut |row| {
            window.take(&row)?;
            rows.push(walk.look(&row));
            ControlFlow::Continue(())
        })?;
        let Some(view) = view else { return walk.no_chain() };
        // What excuses an absence was read in the same view. What stands beside the rows is read later: a redaction in between has told
        // of itself by the end.
        look_beside(source, &mut rows)?;
        walk.learn(&controls.rows);
        walk.judge_all(rows)?;
        walk.explain(source)?;
        if window.rows == 0 && walk.is_beyond(&view) {
            return Err(Error::invalid("the range begins beyond the end of the chain"));
        }
        walk.saw(&view);
        watch(&walk)?;
        match window.next {
            Some(next) if !walk.cut => from = next,
            _ => {
                let mut controls = Controls { index: Some(Vec::new()), ..walk.past.wanted() };
                source.read(i64::MAX, &mut controls, &mut |_| ControlFlow::Break(()))?;
                walk.learn(&controls.rows);
                walk.check_index(controls.index.as_deref().unwrap_or_default());
                walk.check_files(source)?;
                walk.check_personal();
                return walk.end(&view);
            }
        }
        // The first entry, which tells the origin, lies behind.
        if check.threads > 1 && from > 1 {
            from = in_threads(source, from, &mut walk, &mut watch)?;
        }
    }
}

fn refuse(chain: &ChainName, check: &Check) -> Result<()> {
    if check.saved.as_ref().is_some_and(|saved| saved.chain != *chain) {
        return Err(Error::invalid("the saved head is of another chain"));
    }
    if let Some(checkpoint) = &check.checkpoint {
        if check.saved.is_some() {
            return Err(Error::invalid("a verification has a saved head or a signed checkpoint, not both"));
        }
        if !checkpoint.origin.ends_with(&format!("/{chain}")) {
            return Err(Error::invalid("the checkpoint is of another chain"));
        }
    }
    if let (Some(from), Some(to)) = (check.from, check.to)
        && from > to
    {
        return Err(Error::invalid("the range ends before it begins"));
    }
    if check.extent == Extent::Incremental && (check.saved.is_none() || check.from.is_some() || check.to.is_some()) {
        return Err(Error::invalid("an incremental verification begins at a saved head and has no range"));
    }
    Ok(())
}

/// The rows of one read: so many that a view of the storage is held for a short time only.
struct Window {
    /// The position that the window ends before.
    until: i64,
    last: i64,
    rows: usize,
    bytes: usize,
    /// Where the next window begins; `None` if the rows ended first.
    next: Option<i64>,
}

impl Window {
    fn new(until: i64) -> Self {
        Self { until, last: i64::MIN, rows: 0, bytes: 0, next: None }
    }

    /// Takes a row, or ends before it. Rows of one position stay together, so that none hides behind a border.
    fn take(&mut self, row: &RowRef<'_>) -> ControlFlow<()> {
        if row.seq >= self.until || (self.rows >= PAGE_ITEMS || self.bytes >= PAGE_BYTES) && row.seq > self.last {
            self.next = Some(row.seq);
            return ControlFlow::Break(());
        }
        self.last = row.seq;
        self.rows += 1;
        self.bytes += row.bytes();
        ControlFlow::Continue(())
    }
}

/// The reads of one window, and whether the chain ended in it.
type Ahead = Result<(Vec<Part>, bool)>;

/// What one read brought: control entries, and rows from the same view.
struct Part {
    controls: Vec<Row>,
    rows: Vec<Seen>,
}

/// Walks on up to the head that is known, with threads that read and hash windows ahead; returns the first position behind them.
///
/// Window `k` is read by thread `k mod threads`, and the walk takes the windows in their order: so what it finds does not depend on the
/// number of threads, and no thread is ever more than two windows ahead of it.
fn in_threads(source: &dyn Source, from: i64, walk: &mut Walk<'_>, watch: &mut dyn FnMut(&Walk<'_>) -> Result<()>) -> Result<i64> {
    let step = i64::try_from(PAGE_ITEMS).unwrap_or(i64::MAX);
    let end = walk.known_end();
    let windows = usize::try_from(end.saturating_sub(from) / step).unwrap_or(0);
    if windows < 2 {
        return Ok(from);
    }
    let threads = walk.check.threads.min(THREADS_MAX).min(windows);
    let sources = (0..threads).map(|_| source.another()).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let known = walk.past.fold.last;
        let mut ahead: Vec<Receiver<Ahead>> = Vec::with_capacity(threads);
        for (thread, source) in sources.into_iter().enumerate() {
            let (sender, receiver) = sync_channel(1);
            let eye = walk.eye();
            let begins = (from..end).step_by(PAGE_ITEMS).take(windows).skip(thread).step_by(threads);
            std::thread::Builder::new()
                .name("onward-verify".to_owned())
                .spawn_scoped(scope, move || look_ahead(&*source, eye, known, begins.map(|begin| (begin, begin + step)), &sender))
                .map_err(|e| Error::unavailable("no thread for the verification").with_source(e))?;
            ahead.push(receiver);
        }
        // Leaving early drops the receivers, and that ends the threads.
        for window in 0..windows {
            let gone = || Error::unavailable("a thread of the verification ended early");
            let (parts, ended) = ahead.get(window % threads).and_then(|receiver| receiver.recv().ok()).ok_or_else(gone)??;
            for Part { controls, rows } in parts {
                walk.learn(&controls);
                // The view of this window may be older than that of one before it.
                walk.past.seen_to = controls.last().map_or(known, |row| row.seq);
                walk.judge_all(rows)?;
            }
            walk.explain(source)?;
            let over = walk.cut;
            watch(walk)?;
            // A head may claim far more entries than there are.
            if over || ended {
                break;
            }
        }
        // The last windows may be holes.
        Ok(walk.reached.saturating_add(1))
    })
}

/// Reads and hashes the windows of one thread.
fn look_ahead(source: &dyn Source, mut eye: Eye<'_>, known: i64, windows: impl Iterator<Item = (i64, i64)>, sender: &SyncSender<Ahead>) {
    for (begin, until) in windows {
        let ahead = look_at(source, &mut eye, known, begin, until);
        let over = !matches!(ahead, Ok((_, false)));
        if sender.send(ahead).is_err() || over {
            return;
        }
    }
}

fn look_at(source: &dyn Source, eye: &mut Eye<'_>, known: i64, begin: i64, until: i64) -> Ahead {
    let (mut parts, mut from) = (Vec::new(), begin);
    loop {
        let (mut window, mut controls, mut rows) = (Window::new(until), Controls::after(known), Vec::new());
        let view = source.read(from, &mut controls, &mut |row| {
            window.take(&row)?;
            rows.push(eye.look(&row));
            ControlFlow::Continue(())
        })?;
        view.ok_or_else(|| Error::unavailable("the chain went away while it was verified"))?;
        look_beside(source, &mut rows)?;
        parts.push(Part { controls: controls.rows, rows });
        match window.next {
            Some(next) if next < until => from = next,
            next => return Ok((parts, next.is_none())),
        }
    }
}
