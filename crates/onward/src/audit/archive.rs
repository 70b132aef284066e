//! The archive: where the files of segments are kept, outside of the store.

use std::fmt;
use std::future::poll_fn;
use std::io::Read;
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use tokio::runtime::Handle;

use super::verify::Filed;
use crate::{Error, Result};

/// A place for files. Cheap to clone.
///
/// A file has a name that nobody else has or ever had, so nothing that is deleted can be what another attempt wrote. What is acknowledged
/// is on the disk (C3).
#[derive(Clone)]
pub struct Archive(Arc<dyn ObjectStore>);

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive({})", self.0)
    }
}

fn failed(what: &'static str) -> impl FnOnce(object_store::Error) -> Error {
    move |error| Error::unavailable(what).with_source(error)
}

type Pieces = Pin<Box<dyn Stream<Item = object_store::Result<Bytes>> + Send>>;

impl Archive {
    /// Opens an archive: `file:PATH`, a folder that is made if it is not there, or `memory:`, for tests.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): another URL. `Backend`: the folder cannot be made or used.
    pub fn open(url: &str) -> Result<Self> {
        match url.split_once(':') {
            Some(("memory", "")) => Ok(Self(Arc::new(InMemory::new()))),
            Some(("file", path)) if !path.is_empty() => {
                let path = FilePath::new(path.strip_prefix("//").unwrap_or(path));
                std::fs::create_dir_all(path).map_err(|e| Error::unavailable("the folder of the archive cannot be made").with_source(e))?;
                let folder = LocalFileSystem::new_with_prefix(path).map_err(failed("the folder of the archive cannot be used"))?;
                Ok(Self(Arc::new(folder.with_fsync(true))))
            }
            _ => Err(Error::invalid("the URL of an archive is file:PATH")),
        }
    }

    /// Puts an archive into any store of objects.
    #[cfg(feature = "testing")]
    pub(crate) fn over(store: impl ObjectStore) -> Self {
        Self(Arc::new(store))
    }

    /// Begins a file; it is there, whole, once [`Upload::end`] returns.
    pub(super) async fn begin(&self, name: &str) -> Result<Upload> {
        let upload = self.0.put_multipart(&Path::from(name)).await.map_err(failed("a file of the archive cannot be begun"))?;
        Ok(Upload(WriteMultipart::new(upload)))
    }

    /// Writes a small file whose name must be new.
    pub(super) async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.0.put_opts(&Path::from(name), bytes.into(), options).await.map_err(failed("a file of the archive cannot be written"))?;
        Ok(())
    }

    /// Lists the files in a folder.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let folder = Path::from(folder);
        let mut files = self.0.list(Some(&folder));
        let mut names = Vec::new();
        while let Some(file) = poll_fn(|cx| files.as_mut().poll_next(cx)).await {
            names.push(file.map_err(failed("the archive cannot be listed"))?.location.to_string());
        }
        Ok(names)
    }

    /// Deletes a file; one that is gone already is as good.
    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        match self.0.delete(&Path::from(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("a file of the archive cannot be deleted")(error)),
        }
    }

    /// Looks for a file. Blocks, and so does what it returns: not for a thread of the runtime.
    pub(super) fn find(&self, name: &str, runtime: &Handle) -> Result<Filed> {
        let found = match runtime.block_on(self.0.get(&Path::from(name))) {
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

/// A file on its way.
pub(super) struct Upload(WriteMultipart);

impl Upload {
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.0.wait_for_capacity(4).await.map_err(failed("a file of the archive cannot be written"))?;
        self.0.put(bytes.into());
        Ok(())
    }

    pub(super) async fn end(self) -> Result<()> {
        self.0.finish().await.map_err(failed("a file of the archive cannot be written"))?;
        Ok(())
    }
}

/// A file as a thread reads it that may wait.
struct Blocking {
    pieces: Pieces,
    piece: Bytes,
    runtime: Handle,
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            let pieces = &mut self.pieces;
            match self.runtime.block_on(poll_fn(|cx| pieces.as_mut().poll_next(cx))) {
                Some(piece) => self.piece = piece.map_err(std::io::Error::other)?,
                None => return Ok(0),
            }
        }
        let some = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer.get_mut(..some.len()).unwrap_or_default().copy_from_slice(&some);
        Ok(some.len())
    }
}
