//! Tokens: making, listing and revoking them. Each act's entry in `onward.admin` is in its own commit.

use std::time::Duration;

use http::StatusCode;
use onward::Code;
use onward::commit::{Commit, CommitOutcome, WriteCondition};
use onward::time::Timestamp;
use onward_api::locks::Outcome;
use onward_api::tokens::{Create, Created, Tokens};
use serde_json::json;

use super::json;
use crate::auth::kept::{self, Kept, TOKENS};
use crate::auth::tokens::check_name;
use crate::auth::{Role, Scope, Token, entry};
use crate::call::Call;
use crate::refusal::{Answer, Refusal};

/// Longest question: 64 scopes of 512 bytes, escaped.
const BYTES: usize = 256 << 10;
/// Scopes of one token.
const SCOPES: usize = 64;
/// Longest life that is asked for in time: ten years.
const TTL_MS: u64 = 315_360_000_000;

/// `POST /v1/admin/tokens`
pub(crate) async fn create(mut call: Call) -> Answer {
    call.query(&[])?;
    let asked: Create = call.json(BYTES).await?;
    let token = Token::draw();
    let now = call.onward().store().queue().clock().wall();
    let kept = read(asked, &token, now)?;
    if call.reading(kept::all(call.onward())).await?.len() >= TOKENS {
        return Err(Refusal::new(Code::StateConflict, format!("there are {TOKENS} tokens: revoke some")));
    }
    let told = json!({"name": kept.name, "role": kept.role, "scopes": kept.scopes, "expires_at": kept.expires_at});
    let (chain, entry) = entry(&call, "token.create", &resource(token.id()), &told)?;
    let commit = Commit::new().put(kept::key(token.id())?, &kept, WriteCondition::MustCreate).audit(chain, entry);
    done(&call, commit).await?;
    let about = spell(token.id(), &kept);
    json(StatusCode::CREATED, &Created { token: token.secret().to_owned(), about })
}

fn read(asked: Create, token: &Token, now: Timestamp) -> Result<Kept, Refusal> {
    let name = asked.name.unwrap_or_else(|| token.id().to_owned());
    check_name(&name).map_err(|e| Refusal::member("/name", e))?;
    let role: Role = asked.role.parse().map_err(|e: crate::auth::NotARole| Refusal::member("/role", e.to_string()))?;
    if !(1..=SCOPES).contains(&asked.scopes.len()) {
        return Err(Refusal::member("/scopes", "1 to 64 scopes"));
    }
    for (index, scope) in asked.scopes.iter().enumerate() {
        scope.parse::<Scope>().map_err(|e| Refusal::member(format!("/scopes/{index}"), e.to_string()))?;
    }
    let expires_at = match (asked.ttl_ms, asked.never_expires) {
        (None, true) => None,
        (Some(ttl @ 1..=TTL_MS), false) => {
            let micros = i64::try_from(Duration::from_millis(ttl).as_micros()).unwrap_or(i64::MAX);
            Some(Timestamp::from_micros(now.as_micros().saturating_add(micros)))
        }
        (Some(_), false) => return Err(Refusal::member("/ttl_ms", "1 to 315360000000")),
        _ => return Err(Refusal::member("/ttl_ms", "exactly one of ttl_ms and never_expires: true")),
    };
    Ok(Kept { name, role: role.word().to_owned(), scopes: asked.scopes, sha256: token.sha256(), created_at: now, expires_at })
}

/// `GET /v1/admin/tokens`
pub(crate) async fn list(call: Call) -> Answer {
    let query = call.query(&["limit", "cursor"])?;
    let limit = query.parse("limit", "1 to 1000")?.unwrap_or(100);
    let (tokens, next_cursor) = call.reading(kept::page(call.onward(), query.get("cursor"), limit)).await?;
    let items = tokens.iter().map(|(id, kept)| spell(id, kept)).collect();
    json(StatusCode::OK, &Tokens { items, next_cursor })
}

/// `GET /v1/admin/tokens/{id}`
pub(crate) async fn get(call: Call) -> Answer {
    call.query(&[])?;
    let id = call.segment(1)?;
    let found = call.reading(call.onward().store().get::<Kept>(kept::key(&id)?)).await?;
    json(StatusCode::OK, &spell(&id, &found.ok_or_else(missing)?.value))
}

/// `DELETE /v1/admin/tokens/{id}`
pub(crate) async fn revoke(call: Call) -> Answer {
    call.query(&[])?;
    let (id, reason) = (call.segment(1)?, call.reason()?);
    let key = kept::key(&id)?;
    let found = call.reading(call.onward().store().get::<Kept>(key.clone())).await?.ok_or_else(missing)?;
    let told = json!({"name": found.value.name, "role": found.value.role, "reason": reason});
    let (chain, entry) = entry(&call, "token.revoke", &resource(&id), &told)?;
    done(&call, Commit::new().delete(key, found.meta.version).audit(chain, entry)).await?;
    json(StatusCode::OK, &Outcome { outcome: "revoked".to_owned() })
}

/// Commits, and lets this server look at the tokens anew.
async fn done(call: &Call, commit: Commit) -> Result<(), Refusal> {
    let commit = commit.request(call.request()?).window(call.window).deadline(call.queue_time());
    let outcome = call.writing(call.onward().store().commit(commit)).await;
    // Also when it is not known what happened.
    call.state.tokens_changed();
    match outcome? {
        CommitOutcome::Committed(_) => Ok(()),
        CommitOutcome::Conflict(_) => Err(Refusal::new(Code::StateConflict, "somebody else changed the token; look again")),
        CommitOutcome::Fenced { .. } => Err(Refusal::new(Code::Internal, "an act without a fence was fenced out")),
    }
}

fn missing() -> Refusal {
    Refusal::new(Code::NotFound, "no such token")
}

fn resource(id: &str) -> String {
    format!("token/{id}")
}

fn spell(id: &str, kept: &Kept) -> onward_api::tokens::Token {
    onward_api::tokens::Token {
        id: id.to_owned(),
        name: kept.name.clone(),
        role: kept.role.clone(),
        scopes: kept.scopes.clone(),
        created_at: kept.created_at.to_string(),
        expires_at: kept.expires_at.map(|at| at.to_string()),
    }
}
