//! What operators do to the store: compact its change log, take a copy away, look whether it is sound.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use onward::Code;
use onward::audit::Act;
use onward::model::Revision;
use onward::store::Store;
use onward_api::BACKUP_TYPE;
use onward_api::admin::{Compact, Compacted, Maintain};

use super::info::findings;
use super::json;
use crate::call::Call;
use crate::chores;
use crate::download::{PIECE_BYTES, Pieces, download};
use crate::refusal::{Answer, Refusal};

/// How long work on a whole store may take beyond the deadline of other calls.
const LONG: Duration = Duration::from_secs(600);
/// Longest question.
const BYTES: usize = 4 << 10;

/// `POST /v1/admin/compact`
pub(crate) async fn compact(mut call: Call) -> Answer {
    call.query(&[])?;
    let asked: Compact = call.json(BYTES).await?;
    let up_to = Revision::new(asked.up_to).map_err(|e| Refusal::from(e).under("/up_to"))?;
    call.begin_wait()?;
    let compacted = call.waiting(LONG, Refusal::unknown, call.onward().store().compact(up_to)).await?;
    json(StatusCode::OK, &Compacted { compacted: compacted.get() })
}

/// `POST /v1/admin/maintain`
pub(crate) async fn maintain(mut call: Call) -> Answer {
    call.query(&[])?;
    let asked: Maintain = call.json(BYTES).await?;
    let act = Act::because(call.reason()?).by(call.caller.actor(None));
    let act = if asked.dry_run { act.dry() } else { act };
    if asked.afresh {
        call.state.maintenance().lock().forget();
    }
    call.begin_wait()?;
    let tick = call.waiting(LONG, Refusal::unknown, chores::tick(&call.state, &act)).await?;
    json(StatusCode::OK, &tick.ok_or_else(|| Refusal::new(Code::ResourceLocked, "another process maintains the chains"))?)
}

/// `GET /v1/admin/backup`
pub(crate) async fn backup(mut call: Call) -> Answer {
    call.query(&[])?;
    if call.is_head() {
        let mut response = Response::default();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(BACKUP_TYPE));
        return Ok(response);
    }
    let copy = long(&mut call, |store| async move { store.backup_file().await }).await?;
    let length = copy.metadata().map_err(|_| Refusal::new(Code::Unavailable, "the backup cannot be read"))?.len();
    let mut response = download(&call, BACKUP_TYPE, Copy(Some(copy)))?;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// `GET /v1/admin/check`
pub(crate) async fn check(mut call: Call) -> Answer {
    call.query(&[])?;
    findings(long(&mut call, |store| async move { store.inspect().await }).await?)
}

/// Reads for as long as a whole store takes.
async fn long<T, F: Future<Output = onward::Result<T>>>(call: &mut Call, read: impl FnOnce(Store) -> F) -> Result<T, Refusal> {
    call.begin_wait()?;
    let late = || Refusal::new(Code::DeadlineExceeded, "the deadline passed");
    call.waiting(LONG, late, read(call.onward().store())).await
}

/// A copy on its way out.
struct Copy(Option<File>);

impl Pieces for Copy {
    async fn next(&mut self) -> onward::Result<Option<Bytes>> {
        let Some(mut file) = self.0.take() else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = Read::by_ref(&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
            read.map(|_| (file, piece))
        });
        let failed = || onward::Error::unavailable("the backup cannot be read");
        let (file, piece) = read.await.map_err(|e| failed().with_source(e))?.map_err(|e| failed().with_source(e))?;
        if piece.is_empty() {
            return Ok(None);
        }
        self.0 = Some(file);
        Ok(Some(piece.into()))
    }
}
