//! The cache.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use onward::Code;
use onward::cache::{BusyReason, Cache, Filled, Flushed, Invalidation, WireHit, WireLookup};
use onward::model::limits;
use onward_api::cache::Stats;
use onward_api::locks::Outcome;

use super::json;
use crate::auth::Role;
use crate::call::{Call, WAIT_MS, ours};
use crate::refusal::{Answer, Refusal, millis};

/// `GET /v1/cache/{namespace}/{key}`
pub(crate) async fn begin(mut call: Call) -> Answer {
    let query = call.query(&["field", "wait_ms", "lease"])?;
    let (cache, key) = place(&call)?;
    let field = query.get("field").map(str::as_bytes);
    let wait_ms = query.parse("wait_ms", "0 to 60000")?.unwrap_or(0);
    if wait_ms > WAIT_MS {
        return Err(Refusal::new(Code::InvalidRequest, "query parameter `wait_ms`: expected 0 to 60000"));
    }
    // Who only looks, or may only look, takes no lease: nobody would fill it.
    if call.is_head() || !query.flag("lease", true)? || !call.caller.has(Role::Writer) {
        return match call.reading(cache.peek(&key, field)).await? {
            Some(found) => hit(found),
            None => Err(Refusal::new(Code::CacheMiss, "nothing is cached")),
        };
    }
    if wait_ms > 0 {
        call.begin_wait()?;
    }
    let wait = Duration::from_millis(wait_ms);
    let late = || Refusal::new(Code::DeadlineExceeded, "the deadline passed");
    match call.waiting(wait, late, cache.begin_wire(&key, field, wait)).await? {
        WireLookup::Hit(found) => hit(found),
        WireLookup::Lease { fill, ttl, .. } => {
            let refusal = Refusal::new(Code::CacheMiss, "nothing is cached; the lease is yours: load and PUT");
            Err(refusal.with_header(onward_api::header::FILL, &fill).with_header(onward_api::header::FILL_TTL_MS, &millis(ttl).to_string()))
        }
        WireLookup::Busy { reason, retry_after, .. } => busy(reason, retry_after),
    }
}

fn hit(found: WireHit) -> Answer {
    match found {
        WireHit::Value { bytes, content_type } => {
            let mut response = Response::new(Body::from(bytes));
            if let Ok(kind) = HeaderValue::from_str(&content_type) {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            Ok(response)
        }
        WireHit::Absent => Err(Refusal::new(Code::Absent, "the source has no such row")),
    }
}

fn busy(reason: BusyReason, retry_after: Duration) -> Answer {
    match reason {
        BusyReason::Loading => {
            let mut response = json(StatusCode::ACCEPTED, &Outcome { outcome: "busy".to_owned() })?;
            let seconds = millis(retry_after).div_ceil(1_000).clamp(1, 60);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            Ok(response)
        }
        BusyReason::Guarded => Err(Refusal::new(Code::Guarded, "a writer is at work: read the source, fill nothing")),
        BusyReason::Away => Err(Refusal::new(Code::Unavailable, "the cache is away: read the source, fill nothing")),
    }
}

/// `PUT /v1/cache/{namespace}/{key}`
pub(crate) async fn fill(mut call: Call) -> Answer {
    let query = call.query(&["field"])?;
    let (cache, key) = place(&call)?;
    let field = query.get("field").map(str::as_bytes);
    let name = onward_api::header::FILL;
    let fill = call.header(name)?.map(str::to_owned);
    let fill = fill.ok_or_else(|| Refusal::new(Code::PreconditionRequired, "a fill needs the lease of a miss: Onward-Fill"))?;
    let ttl = call.millis(onward_api::header::TTL_MS)?;
    let negative = match call.header(onward_api::header::NEGATIVE)? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Refusal::header(onward_api::header::NEGATIVE, "true or false")),
    };
    let content_type = call.header("content-type")?.unwrap_or("application/octet-stream").to_owned();
    let bytes = call.bytes(limits::PAYLOAD_BYTES).await?;
    let filled = if negative {
        if !bytes.is_empty() {
            return Err(Refusal::new(Code::InvalidRequest, "a remembered absence has no body"));
        }
        call.writing(cache.commit_absent_wire(&key, field, &fill, ttl)).await?
    } else {
        call.writing(cache.commit_wire(&key, field, &fill, &bytes, &content_type, ttl)).await?
    };
    outcome(match filled {
        Filled::Stored => "stored",
        Filled::Superseded { .. } => "superseded",
    })
}

/// `DELETE /v1/cache/{namespace}/{key}`
pub(crate) async fn invalidate(call: Call) -> Answer {
    let query = call.query(&["field"])?;
    let (cache, key) = place(&call)?;
    let done = match query.get("field") {
        Some(field) => call.writing(cache.field(&key, field).invalidate()).await?,
        None => call.writing(cache.invalidate(&key)).await?,
    };
    match done {
        Invalidation::Removed => outcome("removed"),
        Invalidation::Absent => outcome("absent"),
        Invalidation::Queued => queued(),
    }
}

/// `DELETE /v1/cache/{namespace}`
pub(crate) async fn flush(call: Call) -> Answer {
    call.query(&[])?;
    let cache = namespace(&call)?;
    match call.writing(cache.flush_namespace()).await? {
        Flushed::Flushed => outcome("flushed"),
        Flushed::Queued => queued(),
    }
}

/// `GET /v1/cache/{namespace}`
pub(crate) async fn stats(call: Call) -> Answer {
    call.query(&[])?;
    let cache = namespace(&call)?;
    let stats = call.reading(cache.stats()).await?;
    let stats = Stats { entries: stats.entries, bytes: stats.bytes, reservations: stats.reservations, guarded: stats.guarded };
    json(StatusCode::OK, &stats)
}

fn queued() -> Answer {
    json(StatusCode::ACCEPTED, &Outcome { outcome: "queued".to_owned() })
}

fn outcome(word: &str) -> Answer {
    json(StatusCode::OK, &Outcome { outcome: word.to_owned() })
}

fn namespace(call: &Call) -> Result<Cache, Refusal> {
    let word = call.segment(0)?;
    ours(&word)?;
    Ok(call.onward().cache_in(&word)?)
}

fn place(call: &Call) -> Result<(Cache, Vec<u8>), Refusal> {
    let (word, key) = call.word_and_key()?;
    Ok((call.onward().cache_in(&word)?, key))
}

impl Refusal {
    fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }
}
