//! What the server says about itself.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use onward::Code;
use onward::model::limits;
use onward::observe::Grade;
use onward_api::info::{self, Engine, Findings, Info, Limits};

use super::json;
use crate::call::{Call, WAIT_MS};
use crate::docs;
use crate::metrics::Look;
use crate::reach::Reached;
use crate::refusal::{Answer, Refusal};
use crate::serve::is_alive;
use crate::state::State;

/// `GET /v1/info`
pub(crate) async fn info(call: Call) -> Answer {
    call.query(&[])?;
    let store = call.onward().store();
    let engine = store.queue().engine();
    let meta = call.reading(engine.meta()).await?;
    let part = |part: &str, kind: &str| Engine { part: part.to_owned(), kind: kind.to_owned(), state: "ok".to_owned() };
    let limits = Limits {
        key_bytes: limits::KEY_BYTES,
        name_bytes: limits::NAME_BYTES,
        payload_bytes: limits::PAYLOAD_BYTES,
        commit_bytes: limits::COMMIT_BYTES,
        commit_writes: limits::COMMIT_WRITES,
        commit_fences: limits::COMMIT_FENCES,
        commit_invalidations: limits::COMMIT_INVALIDATIONS,
        page_items: limits::PAGE_ITEMS,
        wait_ms: WAIT_MS,
    };
    let locks = call.onward().locks();
    let cache = call.onward().cache();
    let mut engines = vec![part("store", engine.name()), part("audit", engine.name()), part("locks", locks.engine_name())];
    engines.extend(call.state.has_cache().then(|| part("cache", cache.engine_name())));
    json(StatusCode::OK, &Info { version: env!("CARGO_PKG_VERSION").to_owned(), epoch: meta.epoch.to_string(), limits, engines })
}

/// `GET /v1/admin/doctor`
pub(crate) async fn doctor(call: Call) -> Answer {
    call.query(&[])?;
    findings(call.reading(call.onward().check()).await?)
}

/// Spells what was found.
pub(super) fn findings(found: Vec<onward::observe::Finding>) -> Answer {
    let findings = found.into_iter().map(|finding| info::Finding {
        check: finding.check.to_owned(),
        grade: match finding.grade {
            Grade::Fine => info::Grade::Ok,
            Grade::Warning => info::Grade::Warn,
            Grade::Failure => info::Grade::Fail,
        },
        found: finding.found,
        fix: finding.fix.map(str::to_owned),
    });
    json(StatusCode::OK, &Findings { findings: findings.collect() })
}

/// `GET /livez`
pub(crate) async fn livez(call: Call) -> Answer {
    if is_alive(&call.state) {
        return Ok(text("live\n"));
    }
    Err(Refusal::new(Code::Unavailable, "the writer has not moved for 10 s"))
}

/// `GET /readyz`
pub(crate) async fn readyz(call: Call) -> Answer {
    let query = call.query(&["verbose"])?;
    let verbose = query.get("verbose") == Some("") || query.flag("verbose", false)?;
    if verbose {
        // What stands behind is for those who may look.
        call.state.caller(call.header(header::AUTHORIZATION.as_str())?).await?;
    }
    if call.state.is_leaving() {
        return Err(Refusal::new(Code::Draining, "the server shuts down"));
    }
    // Not so one that would refuse every write: others may still take them.
    call.onward().store().queue().engine().ready()?;
    // An engine that is away does not make a server unready, unless that was asked for: its typed errors are better than none.
    let engines = call.state.reach().look(call.onward()).await?;
    if let Some(away) = engines.iter().find(|engine| !engine.up && call.state.requires(engine.part)) {
        return Err(Refusal::new(Code::Unavailable, format!("the engine of {} is away, and ops.ready_requires has it", away.part)));
    }
    let mut said = if engines.iter().all(|engine| engine.up) { "ready\n" } else { "degraded\n" }.to_owned();
    for Reached { part, engine, up, since, last_error } in engines.iter().filter(|_| verbose) {
        let state = if *up { "up" } else { "away" };
        let last_error = last_error.map_or("none", Code::as_str);
        said.push_str(&format!("{part} {engine} {state} since={since} last_error={last_error}\n"));
    }
    Ok(text(said))
}

/// `GET /metrics`
pub(crate) async fn metrics(call: Call) -> Answer {
    exposition(&call.state).await
}

/// Writes the metrics as they are now; they name no key, no value and no token.
pub(crate) async fn exposition(state: &State) -> Answer {
    let engines = state.reach().look(state.onward()).await?.map(|engine| (engine.part, engine.engine, engine.up));
    state.metrics().look(Look { queue: state.onward().store().queue().waiting(), engines });
    let mut response = text(state.metrics().text());
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// `GET /openapi.json`
pub(crate) async fn openapi(_: Call) -> Answer {
    let mut response = text(onward_api::OPENAPI);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `GET /docs`
pub(crate) async fn docs(_: Call) -> Answer {
    let mut response = text(docs::page());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, docs::policy());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

fn text(text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
