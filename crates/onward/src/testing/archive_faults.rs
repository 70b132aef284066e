//! Faults around the files of an archive: any call can fail, before it does anything, or after it did it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

use crate::audit::Archive;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFault {
    /// It does nothing, and says so.
    Refused,
    /// It is done, and the answer is lost. A read that is lost is refused.
    Lost,
    /// A file that is put is kept with another first byte, and said to be there. Any other call is refused.
    Spoilt,
}

/// A switchboard for the faults of one archive; clones share it.
#[derive(Clone, Debug, Default)]
pub struct ArchiveFaults(Arc<Mutex<Option<(u64, ArchiveFault)>>>);

impl ArchiveFaults {
    /// Lets a fault happen to the `nth` call from now on, once; a piece of a file that is read is a call.
    pub fn at(&self, nth: u64, fault: ArchiveFault) {
        *self.0.lock() = Some((nth, fault));
    }

    /// Ends what may still happen; tells whether it has happened.
    pub fn calm(&self) -> bool {
        self.0.lock().take().is_none()
    }

    fn call(&self) -> Option<ArchiveFault> {
        let mut next = self.0.lock();
        let (left, fault) = (*next)?;
        *next = left.checked_sub(1).filter(|left| *left > 0).map(|left| (left, fault));
        next.is_none().then_some(fault)
    }

    /// Does something, unless its turn has come to fail.
    async fn around<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        meet(self.call(), call).await
    }
}

async fn meet<T>(fault: Option<ArchiveFault>, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
    match fault {
        None => call.await,
        Some(ArchiveFault::Refused | ArchiveFault::Spoilt) => Err(failed()),
        Some(ArchiveFault::Lost) => call.await.and_then(|_| Err(failed())),
    }
}

fn spoilt(payload: PutPayload) -> PutPayload {
    let mut bytes = Bytes::from(payload).to_vec();
    bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    bytes.into()
}

fn failed() -> Error {
    Error::Generic { store: "faulty", source: "the call was made to fail".into() }
}

/// Makes an archive in memory whose calls can fail; and its files, without faults.
pub fn faulty(faults: &ArchiveFaults) -> (Archive, Arc<InMemory>) {
    let files = Arc::new(InMemory::new());
    (Archive::over(FaultyArchive { inner: files.clone(), faults: faults.clone() }), files)
}

/// A store of objects whose calls can fail.
#[derive(Debug)]
struct FaultyArchive {
    inner: Arc<dyn ObjectStore>,
    faults: ArchiveFaults,
}

impl fmt::Display for FaultyArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T>> + Send>>;

/// Written without the macro that the trait was written with, so its methods name their lifetimes.
impl ObjectStore for FaultyArchive {
    fn put_opts<'a, 'b, 'c>(&'a self, location: &'b Path, payload: PutPayload, opts: PutOptions) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async move {
            match self.faults.call() {
                Some(ArchiveFault::Spoilt) => self.inner.put_opts(location, spoilt(payload), opts).await,
                fault => meet(fault, self.inner.put_opts(location, payload, opts)).await,
            }
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        opts: PutMultipartOptions,
    ) -> BoxFuture<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async move {
            let inner = self.faults.around(self.inner.put_multipart_opts(location, opts)).await?;
            Ok(Box::new(FaultyUpload { inner, faults: self.faults.clone() }) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'a, 'b, 'c>(&'a self, location: &'b Path, options: GetOptions) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async move {
            let mut found = self.faults.around(self.inner.get_opts(location, options)).await?;
            let pieces = match found.payload {
                GetResultPayload::Stream(pieces) => pieces,
                GetResultPayload::File(..) => return Err(failed()),
            };
            let faults = self.faults.clone();
            found.payload = GetResultPayload::Stream(Box::pin(FaultyPieces::<Bytes> { inner: pieces, faults }));
            Ok(found)
        })
    }

    fn delete_stream(&self, locations: Pieces<Path>) -> Pieces<Path> {
        Box::pin(Deletes { inner: self.inner.clone(), faults: self.faults.clone(), locations, now: None })
    }

    fn list(&self, prefix: Option<&Path>) -> Pieces<ObjectMeta> {
        Box::pin(FaultyPieces { inner: self.inner.list(prefix), faults: self.faults.clone() })
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> BoxFuture<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(self.faults.around(self.inner.list_with_delimiter(prefix)))
    }

    fn copy_opts<'a, 'b, 'd, 'c>(&'a self, from: &'b Path, to: &'d Path, options: CopyOptions) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
    {
        Box::pin(self.faults.around(self.inner.copy_opts(from, to, options)))
    }
}

/// A file on its way.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    faults: ArchiveFaults,
}

impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, faults) = (self.inner.put_part(data), self.faults.clone());
        Box::pin(async move { faults.around(part).await })
    }

    fn complete<'a, 'c>(&'a mut self) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
    {
        Box::pin(self.faults.around(self.inner.complete()))
    }

    fn abort<'a, 'c>(&'a mut self) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
    {
        Box::pin(self.faults.around(self.inner.abort()))
    }
}

/// What is read piece by piece, or name by name.
struct FaultyPieces<T> {
    inner: Pieces<T>,
    faults: ArchiveFaults,
}

impl<T> Stream for FaultyPieces<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        let next = self.inner.as_mut().poll_next(cx);
        if next.is_ready() && self.faults.call().is_some() { Poll::Ready(Some(Err(failed()))) } else { next }
    }
}

/// Files that are deleted one after the other.
struct Deletes {
    inner: Arc<dyn ObjectStore>,
    faults: ArchiveFaults,
    locations: Pieces<Path>,
    now: Option<BoxFuture<'static, Result<Path>>>,
}

impl Stream for Deletes {
    type Item = Result<Path>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Path>>> {
        loop {
            if let Some(now) = &mut self.now {
                let Poll::Ready(deleted) = now.as_mut().poll(cx) else { return Poll::Pending };
                self.now = None;
                return Poll::Ready(Some(deleted));
            }
            match self.locations.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(location))) => {
                    let (inner, faults) = (self.inner.clone(), self.faults.clone());
                    self.now = Some(Box::pin(async move { faults.around(inner.delete(&location)).await.map(|()| location.clone()) }));
                }
                Poll::Ready(end) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
