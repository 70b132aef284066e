//! The archive: where the files of segments are kept, outside of the store.

#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
mod transport;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, Read};
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use tokio::runtime::Handle;

use super::verify::Filed;
use crate::observe::{Finding, Grade};
use crate::time::Clock;
use crate::{Error, Kind, Result, retry};

/// A file up to here is written by one request, a longer one in parts of this size: 8 MiB.
const PART: usize = 8 * 1024 * 1024;
/// How many parts are on their way at once.
const PARTS: usize = 4;
/// How long a look at a bucket may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The file by which a store shows that it keeps to conditions.
const MARK: &str = "onward.mark";

/// A place for files. Cheap to clone.
///
/// A file has a name that nobody else has or ever had, so nothing that is deleted can be what another attempt wrote. What is acknowledged
/// is on the disk (C3).
#[derive(Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    /// Whether it is this machine's.
    here: bool,
    /// The folder, if it is one.
    folder: Option<Arc<FilePath>>,
    /// Whether the store is known to refuse a write over what is there.
    proven: Arc<AtomicBool>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({})", self.store)
    }
}

/// Says what failed, and the store's reason: of a refusal its status and code, of a broken connection or a disk what the system says.
fn failed(what: &'static str) -> impl FnOnce(object_store::Error) -> Error {
    move |error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let why = cause.to_string();
        let why = why.rsplit_once("status code: ").map_or(why.as_str(), |(_, status)| status).trim_end_matches([':', ' ']);
        Error::unavailable(format!("{what}: {why}")).with_source(error)
    }
}

type Pieces = Pin<Box<dyn Stream<Item = object_store::Result<Bytes>> + Send>>;

impl Archive {
    /// Opens an archive: `file:PATH`, a folder that is made if it is not there, `s3://BUCKET/PREFIX`, or `memory:`, for tests.
    ///
    /// A bucket takes `?endpoint=URL&region=NAME`, and `insecure=true` for an endpoint of `http://`; who we are comes from the `AWS_*`
    /// environment of the process. Nothing is asked of it here; before the first file it must show that it keeps to conditions.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: another URL, or a variable that does not go. `Unsupported`: a bucket, and this build has no feature `s3`.
    /// `Backend`: the folder cannot be made or used.
    pub fn open(url: &str) -> Result<Self> {
        Self::open_with(url, std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))))
    }

    /// Opens an archive as [`Archive::open`] does, with other variables than the environment's.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn open_with(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        if url == "memory:" {
            return Ok(Self::of(Arc::new(InMemory::new()), true, None));
        }
        Self::read(url)?;
        match url.strip_prefix("file:") {
            Some(path) => {
                let path = FilePath::new(path.strip_prefix("//").unwrap_or(path));
                std::fs::create_dir_all(path).map_err(|e| Error::unavailable("the folder of the archive cannot be made").with_source(e))?;
                let path =
                    path.canonicalize().map_err(|e| Error::unavailable("the folder of the archive cannot be used").with_source(e))?;
                let folder = LocalFileSystem::new_with_prefix(&path).map_err(failed("the folder of the archive cannot be used"))?;
                Ok(Self::of(Arc::new(folder.with_fsync(true)), true, Some(path.into())))
            }
            None => Ok(Self::of(bucket(url, environment)?, false, None)),
        }
    }

    /// Puts an archive into any store of objects.
    #[cfg(feature = "testing")]
    pub(crate) fn over(store: impl ObjectStore) -> Self {
        Self::of(Arc::new(store), true, None)
    }

    fn of(store: Arc<dyn ObjectStore>, here: bool, folder: Option<Arc<FilePath>>) -> Self {
        Self { store, here, folder, proven: Arc::new(AtomicBool::new(here)) }
    }

    /// Looks whether a URL names an archive that lasts; opens nothing.
    ///
    /// # Errors
    /// As [`Archive::open`], but for what only opening shows.
    pub fn read(url: &str) -> Result<()> {
        match url.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(()),
            Some(("s3", _)) => read_bucket(url),
            _ => Err(Error::invalid("the URL of an archive is file:PATH or s3://BUCKET/PREFIX")),
        }
    }

    /// Makes sure that the store refuses to write over what is there; asks it, unless it has shown that before.
    ///
    /// A folder has no need of it. A bucket is asked by a file `onward.mark` that stays: one request, the first time two. Before that nothing
    /// else is written, so a store that ignores conditions never gets anything.
    async fn prove(&self) -> Result<()> {
        if self.proven.load(Ordering::Acquire) { Ok(()) } else { self.ask().await }
    }

    async fn ask(&self) -> Result<()> {
        for _ in 0..2 {
            match self.create(MARK, Bytes::from_static(b"files here are written once\n")).await {
                Ok(()) => {}
                Err(object_store::Error::AlreadyExists { .. }) => {
                    self.proven.store(true, Ordering::Release);
                    return Ok(());
                }
                Err(error) => return Err(failed("the archive cannot be written")(error)),
            }
        }
        Err(Error::unsupported("the store of the archive writes over what is there: it ignores If-None-Match"))
    }

    /// Asks a bucket now, and waits for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// [`Kind::Unsupported`]: it ignores conditions, so what one attempt archived another could write over. `Backend`: it is away, or does
    /// not let us in.
    pub(crate) async fn look(&self) -> Result<()> {
        if self.here { Ok(()) } else { self.ask_within(PATIENCE).await }
    }

    async fn ask_within(&self, patience: Duration) -> Result<()> {
        let clock = Clock::system();
        let asked = retry::deadline(&clock, clock.now() + patience, self.ask()).await;
        asked.unwrap_or_else(|| Err(Error::unavailable("the archive does not answer")))
    }

    /// Tells how a bucket is; of a folder there is nothing to tell.
    pub(super) async fn check(&self) -> Option<Finding> {
        const CHECK: &str = "audit.archive";
        Some(match self.look().await {
            Ok(()) if self.here => return None,
            Ok(()) => Finding::fine(CHECK, "it can be written, and writes nothing over what is there"),
            Err(error) => {
                let refused = error.kind() == Kind::Unsupported;
                let grade = if refused { Grade::Failure } else { Grade::Warning };
                let fix = "nothing is archived until a store answers that keeps to If-None-Match; everything else goes on";
                Finding::bad(CHECK, grade, error.message(), fix)
            }
        })
    }

    async fn create(&self, name: &str, bytes: Bytes) -> object_store::Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(&Path::from(name), bytes.into(), options).await.map(drop)
    }

    /// Begins a file; it is there, whole, once [`Upload::end`] returns.
    pub(super) fn begin(&self, name: String) -> Upload {
        Upload { archive: self.clone(), name, start: Vec::new(), bytes: 0, parts: None }
    }

    /// Writes a small file whose name must be new.
    ///
    /// A store may keep a file and say that it failed, or refuse a second try because the first one did it: what is there tells.
    async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.prove().await?;
        let bytes = bytes.into();
        let Err(error) = self.create(name, bytes.clone()).await else { return Ok(()) };
        if self.holds(name, &bytes).await.unwrap_or(false) { Ok(()) } else { Err(failed(CUT)(error)) }
    }

    /// Writes a small file whose name must be new, and reads it back.
    pub(super) async fn keep(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        self.put(name, bytes.clone()).await?;
        let holds = self.holds(name, &bytes).await.map_err(failed("a file of the archive cannot be read"))?;
        if holds { Ok(()) } else { Err(Error::integrity("a file of the archive is not what was written")) }
    }

    async fn holds(&self, name: &str, bytes: &Bytes) -> object_store::Result<bool> {
        let found = self.store.get(&Path::from(name)).await?;
        Ok(found.meta.size == bytes.len() as u64 && found.bytes().await? == bytes)
    }

    /// Reads a small file; `None` if it is not there, or longer than that.
    pub(super) async fn read_small(&self, name: &str, most: usize) -> Result<Option<Bytes>> {
        let unreadable = failed("a file of the archive cannot be read");
        let found = match self.store.get(&Path::from(name)).await {
            Ok(found) if found.meta.size > most as u64 => return Ok(None),
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Lists the files in a folder, also those that were begun there and never ended.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = match self.folder.clone() {
            Some(root) => {
                let below = folder.to_owned();
                on_disk("the archive cannot be listed", move || begun(&root, &below)).await?
            }
            None => Vec::new(),
        };
        let folder = Path::from(folder);
        let mut files = self.store.list(Some(&folder));
        while let Some(file) = poll_fn(|cx| files.as_mut().poll_next(cx)).await {
            names.push(file.map_err(failed("the archive cannot be listed"))?.location.to_string());
        }
        Ok(names)
    }

    /// Deletes a file; one that is gone already is as good.
    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        if let Some(root) = self.folder.as_ref().filter(|_| is_begun(name)) {
            let path = root.join(name);
            return on_disk("a file of the archive cannot be deleted", move || there(std::fs::remove_file(path)).map(|_| ())).await;
        }
        match self.store.delete(&Path::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("a file of the archive cannot be deleted")(error)),
        }
    }

    /// Looks for a file. Blocks, and so does what it returns: not for a thread of the runtime.
    pub(super) fn find(&self, name: &str, runtime: &Handle) -> Result<Filed> {
        let found = match runtime.block_on(self.store.get(&Path::from(name))) {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Filed::Absent),
            Err(error) => return Err(failed("a file of the archive cannot be read")(error)),
        };
        Ok(Filed::There(
            found.meta.size,
            match found.payload {
                // Read by this very thread: through the runtime, each 8 KiB would change threads twice.
                GetResultPayload::File(file, _) => Box::new(file),
                GetResultPayload::Stream(pieces) => Box::new(Blocking { pieces, piece: Bytes::new(), runtime: runtime.clone() }),
            },
        ))
    }
}

/// Tells whether a file was begun and never ended: in a folder it has a number behind its name until it is whole.
fn is_begun(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lists the files below a folder that were begun and never ended.
fn begun(root: &FilePath, folder: &str) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let Some(entries) = there(std::fs::read_dir(root.join(folder)))? else { return Ok(found) };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{folder}/{name}");
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(begun(root, &name)?),
            _ if is_begun(&name) => found.push(name),
            _ => {}
        }
    }
    Ok(found)
}

/// Somebody else may have deleted it meanwhile.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

async fn on_disk<T: Send + 'static>(what: &'static str, ask: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let asked = tokio::task::spawn_blocking(ask).await.map_err(io::Error::other);
    asked.flatten().map_err(|e| Error::unavailable(what).with_source(e))
}

#[cfg(feature = "s3")]
fn bucket(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Arc<dyn ObjectStore>> {
    s3::open(url, environment)
}

#[cfg(feature = "s3")]
fn read_bucket(url: &str) -> Result<()> {
    s3::read(url).map(drop)
}

#[cfg(not(feature = "s3"))]
fn bucket(url: &str, _: impl IntoIterator<Item = (String, String)>) -> Result<Arc<dyn ObjectStore>> {
    read_bucket(url).and_then(|()| Err(Error::integrity("a bucket in a build without buckets")))
}

#[cfg(not(feature = "s3"))]
fn read_bucket(_: &str) -> Result<()> {
    Err(Error::unsupported("this build has no S3: build onward with the feature s3, or take file:PATH"))
}

/// A file on its way.
pub(super) struct Upload {
    archive: Archive,
    name: String,
    /// What was written so far, while it is less than a part.
    start: Vec<u8>,
    bytes: u64,
    parts: Option<WriteMultipart>,
}

const CUT: &str = "a file of the archive cannot be written";

impl Upload {
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if let Some(parts) = &mut self.parts {
            parts.wait_for_capacity(PARTS).await.map_err(failed(CUT))?;
            parts.put(bytes.into());
            return Ok(());
        }
        self.start.extend_from_slice(&bytes);
        if self.start.len() > PART {
            self.archive.prove().await?;
            let upload = self.archive.store.put_multipart(&Path::from(self.name.as_str())).await.map_err(failed(CUT))?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART);
            parts.put(std::mem::take(&mut self.start).into());
            self.parts = Some(parts);
        }
        Ok(())
    }

    /// Ends the file. One in parts has no condition but its name; who wrote it reads it back.
    pub(super) async fn end(self) -> Result<()> {
        let Some(parts) = self.parts else { return self.archive.put(&self.name, self.start).await };
        let Err(error) = parts.finish().await else { return Ok(()) };
        // It comes to be whole or not at all, whatever the store said.
        match self.archive.store.head(&Path::from(self.name)).await {
            Ok(found) if found.size == self.bytes => Ok(()),
            _ => Err(failed(CUT)(error)),
        }
    }

    /// Gives the file up; parts that cannot be taken back now are the store's to clean up.
    pub(super) async fn abort(self) {
        if let Some(parts) = self.parts {
            let _ = parts.abort().await;
        }
    }
}

/// A file as a thread reads it that may wait.
struct Blocking {
    pieces: Pieces,
    piece: Bytes,
    runtime: Handle,
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let pieces = &mut self.pieces;
            match self.runtime.block_on(poll_fn(|cx| pieces.as_mut().poll_next(cx))) {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let some = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer.get_mut(..some.len()).unwrap_or_default().copy_from_slice(&some);
        Ok(some.len())
    }
}

#[cfg(test)]
#[cfg(feature = "s3")]
mod tests;
