//! The cache.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use onward::Code;
use onward::cache::{BusyReason, Cache, Expiry, Filled, Flushed, Invalidation, Saved, WireAct, WireDone, WireHit, WireLookup, WireOp};
use onward::model::limits;
use onward_api::base64;
use onward_api::cache::{Done, Lease, Name, Op, Ops, Results, Stats};
use onward_api::locks::Outcome;

use super::json;
use crate::auth::Role;
use crate::call::{Call, WAIT_MS, ours};
use crate::log;
use crate::refusal::{Answer, Refusal, millis};

/// Longest list of acts: 1,024 keys and fields in base64 with their members.
const OPS_BYTES: usize = 2 << 20;

/// `GET /v1/cache/{namespace}/{key}`
pub(crate) async fn begin(mut call: Call) -> Answer {
    let query = call.query(&["field", "wait_ms", "lease", "stale_ms"])?;
    let (mut cache, key) = place(&call)?;
    let field = query.get("field").map(str::as_bytes);
    let wait_ms = query.parse("wait_ms", "0 to 60000")?.unwrap_or(0);
    if wait_ms > WAIT_MS {
        return Err(Refusal::new(Code::InvalidRequest, "query parameter `wait_ms`: expected 0 to 60000"));
    }
    // Who only looks, or may only look, takes no lease: nobody would fill it.
    let lease = query.flag("lease", true)? && call.caller.has(Role::Writer);
    if let Some(stale_ms) = query.parse("stale_ms", "whole milliseconds")? {
        if !lease {
            return Err(Refusal::new(Code::InvalidRequest, "`stale_ms` is for those who may refresh: not with lease=false"));
        }
        cache = keeping(&cache, Duration::from_millis(stale_ms))?;
    }
    if call.is_head() || !lease {
        return match call.reading(cache.peek(&key, field)).await? {
            Some(found) => hit(found, Lent::default()),
            None => Err(Refusal::new(Code::CacheMiss, "nothing is cached")),
        };
    }
    if wait_ms > 0 {
        call.begin_wait()?;
    }
    let wait = Duration::from_millis(wait_ms);
    let late = || Refusal::new(Code::DeadlineExceeded, "the deadline passed");
    match call.waiting(wait, late, cache.begin_wire(&key, field, wait)).await? {
        WireLookup::Hit(found) => hit(found, Lent::default()),
        WireLookup::Lease { fill, ttl, stale } => {
            let lent = Lent { stale: stale.is_some(), fill: Some((fill, ttl)) };
            match stale {
                Some(stale) => hit(stale, lent),
                None => {
                    let refusal = Refusal::new(Code::CacheMiss, "nothing is cached; the lease is yours: load and PUT");
                    Err(lent.headers().into_iter().fold(refusal, |refusal, (name, value)| refusal.with_header(name, &value)))
                }
            }
        }
        WireLookup::Busy { stale: Some(stale), .. } => hit(stale, Lent { stale: true, fill: None }),
        WireLookup::Busy { reason, retry_after, stale: None } => busy(reason, retry_after),
    }
}

/// Returns a handle that serves and keeps values for so long after their life.
fn keeping(cache: &Cache, stale: Duration) -> Result<Cache, Refusal> {
    Ok(cache.with(cache.options().clone().with_stale_while_revalidate(stale))?)
}

/// What comes with a value beside its bytes.
#[derive(Default)]
struct Lent {
    stale: bool,
    fill: Option<(String, Duration)>,
}

impl Lent {
    fn headers(self) -> Vec<(&'static str, String)> {
        let stale = self.stale.then(|| (onward_api::header::STALE, "true".to_owned()));
        let fill =
            self.fill.map(|(fill, ttl)| [(onward_api::header::FILL, fill), (onward_api::header::FILL_TTL_MS, millis(ttl).to_string())]);
        stale.into_iter().chain(fill.into_iter().flatten()).collect()
    }
}

fn hit(found: WireHit, lent: Lent) -> Answer {
    match found {
        WireHit::Value { bytes, content_type } => {
            let mut response = Response::new(Body::from(bytes));
            if let Ok(kind) = HeaderValue::from_str(&content_type) {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            for (name, value) in lent.headers() {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    response.headers_mut().insert(HeaderName::from_static(name), value);
                }
            }
            Ok(response)
        }
        WireHit::Absent => {
            let refusal = Refusal::new(Code::Absent, "the source has no such row");
            Err(lent.headers().into_iter().fold(refusal, |refusal, (name, value)| refusal.with_header(name, &value)))
        }
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
    let query = call.query(&["field", "unleased"])?;
    let (mut cache, key) = place(&call)?;
    let field = query.get("field").map(str::as_bytes);
    let unleased = query.flag("unleased", false)?;
    if let Some(stale) = call.millis(onward_api::header::STALE_MS)? {
        cache = keeping(&cache, stale)?;
    }
    let name = onward_api::header::FILL;
    let fill = call.header(name)?.map(str::to_owned);
    match (&fill, unleased) {
        (None, false) => return Err(Refusal::new(Code::PreconditionRequired, "a fill needs the lease of a miss: Onward-Fill")),
        (Some(_), true) => return Err(Refusal::new(Code::InvalidRequest, "`unleased` is for those who have no lease: no Onward-Fill")),
        (None, true) if !call.state.takes_unleased() => {
            return Err(Refusal::new(Code::Forbidden, "this server takes no value without a lease: cache.unleased is false"));
        }
        _ => {}
    }
    let ttl = call.millis(onward_api::header::TTL_MS)?;
    let negative = match call.header(onward_api::header::NEGATIVE)? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Refusal::header(onward_api::header::NEGATIVE, "true or false")),
    };
    let content_type = call.header("content-type")?.unwrap_or("application/octet-stream").to_owned();
    let bytes = call.bytes(limits::PAYLOAD_BYTES).await?;
    let Some(fill) = fill else {
        if negative {
            return Err(Refusal::new(Code::InvalidRequest, "an absence is remembered under a lease only"));
        }
        let saved = call.writing(cache.best_effort().save_wire(&key, field, &bytes, &content_type, ttl)).await?;
        return outcome(match saved {
            Saved::Stored => "stored",
            Saved::Superseded => "superseded",
            Saved::Guarded => "guarded",
        });
    };
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
    let query = call.query(&["field", "mode"])?;
    let (cache, key) = place(&call)?;
    let field = query.get("field");
    let expires = match query.get("mode") {
        None | Some("invalidate") => false,
        Some("expire") => true,
        Some(_) => return Err(Refusal::new(Code::InvalidRequest, "query parameter `mode`: expected invalidate or expire")),
    };
    let done = match (expires, field) {
        (false, Some(field)) => WireDone::Invalidated(call.writing(cache.field(&key, field).invalidate()).await?),
        (false, None) => WireDone::Invalidated(call.writing(cache.invalidate(&key)).await?),
        (true, Some(field)) => WireDone::Expired(call.writing(cache.field(&key, field).expire()).await?),
        (true, None) => WireDone::Expired(call.writing(cache.expire(&key)).await?),
    };
    match word(done) {
        "queued" => queued(),
        done => outcome(done),
    }
}

/// `POST /v1/cache/{namespace}`
pub(crate) async fn operate(mut call: Call) -> Answer {
    call.query(&[])?;
    let cache = namespace(&call)?;
    let asked: Ops = call.json(OPS_BYTES).await?;
    if asked.ops.is_empty() {
        return Err(Refusal::member("/ops", "1 to 1024 acts"));
    }
    let read = |(place, op)| act(op).map_err(|refusal: Refusal| refusal.under(&format!("/ops/{place}")));
    let ops = asked.ops.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let results = call.writing(cache.operate_wire(&ops)).await?.into_iter().map(|answer| match answer {
        Ok(done) => Done { outcome: word(done).to_owned(), code: None, effect: None },
        Err(error) => {
            let problem = Refusal::from(error).problem;
            Done { outcome: "failed".to_owned(), code: Some(problem.code), effect: Some(problem.effect) }
        }
    });
    json(StatusCode::OK, &Results { results: results.collect() })
}

fn act(op: Op) -> Result<WireOp, Refusal> {
    let (act, name, member) = match op {
        Op::Invalidate(name) => (WireAct::Invalidate, name, "/invalidate"),
        Op::Expire(name) => (WireAct::Expire, name, "/expire"),
        Op::Abandon(Lease { key, key_base64, field, field_base64, fill }) => {
            (WireAct::Abandon(fill), Name { key, key_base64, field, field_base64 }, "/abandon")
        }
    };
    let key = bytes(name.key, name.key_base64).map_err(|message| Refusal::member(format!("{member}/key"), message))?;
    let key = key.ok_or_else(|| Refusal::member(member, "missing member `key`"))?;
    let field = bytes(name.field, name.field_base64).map_err(|message| Refusal::member(format!("{member}/field"), message))?;
    Ok(WireOp { key, field, act })
}

/// Reads a name that is text or base64.
fn bytes(text: Option<String>, coded: Option<String>) -> Result<Option<Vec<u8>>, &'static str> {
    match (text, coded) {
        (Some(_), Some(_)) => Err("as text or as base64, not both"),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(coded)) => base64::decode(&coded).map(Some).ok_or("expected base64"),
        (None, None) => Ok(None),
    }
}

fn word(done: WireDone) -> &'static str {
    match done {
        WireDone::Invalidated(Invalidation::Removed) => "removed",
        WireDone::Invalidated(Invalidation::Absent) | WireDone::Expired(Expiry::Absent) => "absent",
        WireDone::Invalidated(Invalidation::Queued) | WireDone::Expired(Expiry::Queued) => "queued",
        WireDone::Expired(Expiry::Expired) => "expired",
        WireDone::Abandoned => "abandoned",
    }
}

/// `DELETE /v1/cache/{namespace}`
pub(crate) async fn flush(call: Call) -> Answer {
    call.query(&[])?;
    let cache = namespace(&call)?;
    let reason = call.reason()?;
    let flushed = call.writing(cache.flush_namespace()).await?;
    log::acted(&call, "cache.flush", &reason);
    match flushed {
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
    cache(call, &word)
}

fn place(call: &Call) -> Result<(Cache, Vec<u8>), Refusal> {
    let (word, key) = call.word_and_key()?;
    Ok((cache(call, &word)?, key))
}

fn cache(call: &Call, word: &str) -> Result<Cache, Refusal> {
    if !call.state.has_cache() {
        return Err(Refusal::new(Code::Unsupported, "this server has no cache: cache.url is empty"));
    }
    Ok(call.onward().cache_in(word)?)
}

impl Refusal {
    fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }
}
