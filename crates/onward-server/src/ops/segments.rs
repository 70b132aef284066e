//! Segments of chains, and holds: what operators do to a chain's past.

use std::future::Future;
use std::time::Duration;

use http::StatusCode;
use onward::audit::{Act, Chain};
use onward::model::Seq;
use onward::time::Timestamp;
use onward_api::chains::SegmentAct;
use serde::Serialize;

use super::chains::chain;
use super::json;
use crate::call::{Call, bad_path};
use crate::refusal::{Answer, Refusal};

/// How long work on a segment may take beyond the deadline of other calls. What takes longer stops between two batches, and `heal` goes on.
const LONG: Duration = Duration::from_secs(3_600);
/// Longest question.
const BYTES: usize = 4 << 10;

/// `GET /v1/chains/{chain}/segments`
pub(crate) async fn list(call: Call) -> Answer {
    let query = call.query(&["after"])?;
    let chain = chain(&call)?;
    let items = call.reading(chain.segments(query.parse("after", "a seq, from 1")?)).await?;
    let next_after = items.last().filter(|_| items.len() == 1_000).map(|last| last.from);
    json(StatusCode::OK, &serde_json::json!({"items": items, "next_after": next_after}))
}

/// `GET /v1/chains/{chain}/segments/{from}`
pub(crate) async fn get(call: Call) -> Answer {
    call.query(&[])?;
    let (chain, from) = (chain(&call)?, from(&call)?);
    json(StatusCode::OK, &call.reading(chain.segment(from)).await?)
}

/// `POST /v1/chains/{chain}/segments`
pub(crate) async fn seal(call: Call) -> Answer {
    work(call, |chain, _, asked, act| async move {
        let to = asked.to_seq.map(Seq::new).transpose()?;
        chain.seal(to, &act).await
    })
    .await
}

/// `POST /v1/chains/{chain}/segments/{from}/archive`
pub(crate) async fn archive(call: Call) -> Answer {
    work(call, |chain, from, _, act| async move { chain.archive(needed(from)?, &act).await }).await
}

/// `POST /v1/chains/{chain}/segments/{from}/purge`
pub(crate) async fn purge(call: Call) -> Answer {
    work(call, |chain, from, asked, act| async move {
        if asked.file { chain.purge_file(needed(from)?, &act).await } else { chain.purge(needed(from)?, &act).await }
    })
    .await
}

/// `POST /v1/chains/{chain}/segments/{from}/restore`
pub(crate) async fn restore(call: Call) -> Answer {
    work(call, |chain, from, asked, act| async move {
        let until = asked.until.as_deref().map(str::parse::<Timestamp>).transpose()?;
        chain.restore(needed(from)?, until, &act).await
    })
    .await
}

/// `POST /v1/chains/{chain}/heal`
pub(crate) async fn heal(call: Call) -> Answer {
    work(call, |chain, _, _, act| async move { chain.heal(&act).await }).await
}

/// `GET /v1/chains/{chain}/holds`
pub(crate) async fn holds(call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    json(StatusCode::OK, &serde_json::json!({"items": call.reading(chain.holds()).await?}))
}

/// `POST /v1/chains/{chain}/holds`
pub(crate) async fn hold(call: Call) -> Answer {
    work(call, |chain, _, asked, act| async move {
        let seq = |seq: Option<u64>| seq.map(Seq::new).transpose();
        let (hold, late) = chain.hold(seq(asked.from_seq)?, seq(asked.to_seq)?, &act).await?;
        Ok(serde_json::json!({"hold": hold, "late": late}))
    })
    .await
}

/// `DELETE /v1/chains/{chain}/holds/{id}`
pub(crate) async fn release(call: Call) -> Answer {
    call.query(&[])?;
    let (chain, id) = (chain(&call)?, call.segment(2)?);
    let act = Act::because(call.reason()?).by(call.caller.actor(None));
    call.writing(chain.release_hold(&id, &act)).await?;
    json(StatusCode::OK, &serde_json::json!({"outcome": "released"}))
}

fn from(call: &Call) -> Result<Seq, Refusal> {
    call.segment(2)?.parse().map_err(|_| bad_path())
}

fn needed(from: Option<Seq>) -> onward::Result<Seq> {
    from.ok_or_else(|| onward::Error::invalid("a segment is named by its first entry"))
}

/// Does long work for a reason, to its end. Where the path names a segment, `do_it` gets its first entry.
async fn work<T: Serialize, F: Future<Output = onward::Result<T>>>(
    mut call: Call,
    do_it: impl FnOnce(Chain, Option<Seq>, SegmentAct, Act) -> F,
) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let named = call.parts.uri.path().split('/').nth(4) == Some("segments") && call.segment(2).is_ok();
    let from = if named { Some(from(&call)?) } else { None };
    let asked: SegmentAct = call.json(BYTES).await?;
    let act = Act::because(call.reason()?).by(call.caller.actor(None));
    let act = if asked.dry_run { act.dry() } else { act };
    call.begin_wait()?;
    json(StatusCode::OK, &call.waiting(LONG, Refusal::unknown, do_it(chain, from, asked, act)).await?)
}
