//! Locks, and the switch of all of them.

use std::time::Duration;

use http::StatusCode;
use onward::lock::{self, Health, LockOptions, LockStatus, Locks, Owner, Reason, Record, Release, Switch};
use onward::model::{FencingToken, LockKey};
use onward::{Code, Error};
use onward_api::locks::{
    self as wire, Acquire, Broken, Grant, Locking, Outcome, Renew, RenewMany, RenewResult, Renewed, RenewedMany, SetSwitch, Status,
    SwitchRecord, Switched,
};

use super::json;
use crate::auth::Role;
use crate::auth::scope::Part;
use crate::call::{Call, WAIT_MS};
use crate::cursor;
use crate::refusal::{Answer, Refusal, millis};

/// The length of a lease that names none.
const TTL_MS: u64 = 30_000;
/// Longest body: 200 leases with the longest keys.
const BODY_BYTES: usize = 512 << 10;

/// `POST /v1/locks/{key}`
pub(crate) async fn acquire(mut call: Call) -> Answer {
    call.query(&[])?;
    let key = key(&call)?;
    let asked: Acquire = call.json(BODY_BYTES).await?;
    let (ttl_ms, wait_ms) = (asked.ttl_ms.unwrap_or(TTL_MS), asked.wait_ms.unwrap_or(0));
    if wait_ms > WAIT_MS {
        return Err(Refusal::member("/wait_ms", "0 to 60000; repeat the call to wait longer"));
    }
    let given = asked.owner.as_deref().map(str::parse::<Owner>).transpose();
    let given = given.map_err(|e| Refusal::from(e).under("/owner"))?;
    let wait = Duration::from_millis(wait_ms);
    let mut options = LockOptions::fail().with_ttl(Duration::from_millis(ttl_ms)).with_wait(wait);
    if let Some(holder) = asked.holder {
        options = options.with_holder(holder);
    }
    if wait_ms > 0 {
        call.begin_wait()?;
    }
    let locks = call.onward().locks();
    let owner = given.unwrap_or_else(Owner::draw);
    let mut orphan = Orphan { locks: locks.clone(), key: key.clone(), owner: given.is_none().then_some(owner) };
    let late = Refusal::unknown;
    let leased = match call.waiting(wait, late, locks.acquire_as(&key, owner, options)).await {
        Ok(leased) => leased,
        Err(refusal) => {
            // The library knows that nothing is left; a wait that we cut does not.
            if refusal.cause.is_some() && refusal.problem.effect == onward_api::Effect::NotApplied {
                orphan.owner = None;
            }
            return Err(refusal);
        }
    };
    orphan.owner = None;
    let grant = Grant {
        key: key.to_string(),
        owner: owner.to_string(),
        token: leased.token.get(),
        ttl_ms,
        remaining_ms: whole(leased.remaining),
        waited_ms: whole(leased.waited),
    };
    json(if leased.already_ours { StatusCode::OK } else { StatusCode::CREATED }, &grant)
}

/// A grant whose owner was drawn here and told to nobody: whoever is gone before the answer cannot release it, so we do.
struct Orphan {
    locks: Locks,
    key: LockKey,
    owner: Option<Owner>,
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if let (Some(owner), Ok(runtime)) = (self.owner.take(), tokio::runtime::Handle::try_current()) {
            let (locks, key) = (self.locks.clone(), self.key.clone());
            // If it fails, the lease ends by itself.
            runtime.spawn(async move { drop(locks.release_as(&key, &owner).await) });
        }
    }
}

/// `PUT /v1/locks/{key}`
pub(crate) async fn renew(mut call: Call) -> Answer {
    call.query(&[])?;
    let (key, owner) = (key(&call)?, owner(&call)?);
    let asked: Renew = call.json(BODY_BYTES).await?;
    let ttl = Duration::from_millis(asked.ttl_ms.unwrap_or(TTL_MS));
    let locks = call.onward().locks();
    let leased = call.writing(locks.renew_as(&key, owner, ttl)).await?;
    json(StatusCode::OK, &Renewed { token: leased.token.get(), remaining_ms: whole(leased.remaining) })
}

/// `DELETE /v1/locks/{key}`
pub(crate) async fn release(call: Call) -> Answer {
    let query = call.query(&["keep_ms", "break", "audit"])?;
    let key = key(&call)?;
    let keep_ms: Option<u64> = query.parse("keep_ms", "0 to 86400000")?;
    if query.flag("break", false)? {
        if keep_ms.is_some() {
            return Err(Refusal::new(Code::InvalidRequest, "query parameter `keep_ms`: a broken lock is free at once"));
        }
        let record = if query.flag("audit", true)? { Record::Audited } else { Record::Unaudited };
        return break_lock(&call, &key, record).await;
    }
    if query.get("audit").is_some() {
        return Err(Refusal::new(Code::InvalidRequest, "query parameter `audit`: only with `break=true`"));
    }
    let owner = owner(&call)?;
    let locks = call.onward().locks();
    let keep = Duration::from_millis(keep_ms.unwrap_or(0));
    match call.writing(locks.release_keeping(&key, &owner, keep)).await? {
        Release::Released => json(StatusCode::OK, &Outcome { outcome: "released".to_owned() }),
        Release::AlreadyLost => Err(Refusal::new(Code::LeaseLost, "the lease has ended or belongs to somebody else")),
    }
}

async fn break_lock(call: &Call, key: &LockKey, record: Record) -> Answer {
    call.caller.needs(Role::Operator)?;
    let reason = why(call, call.reason()?)?;
    let locks = call.onward().locks();
    let broken = match call.writing(locks.break_lock(key, &reason, record)).await? {
        lock::Broken::Broken { holder, old, token } => Broken {
            outcome: "broken".to_owned(),
            token: Some(token.get()),
            holder: Some(holder.to_string()),
            old_token: old.map(FencingToken::get),
        },
        lock::Broken::Absent => Broken { outcome: "absent".to_owned(), token: None, holder: None, old_token: None },
    };
    json(StatusCode::OK, &broken)
}

/// Why the caller does something, with his name.
fn why(call: &Call, text: String) -> Result<Reason, Refusal> {
    let reason = Reason::new(text)?;
    Ok(match call.caller.actor(None) {
        Some(actor) => reason.by(actor),
        None => reason,
    })
}

/// `GET /v1/locks/{key}`
pub(crate) async fn status(call: Call) -> Answer {
    call.query(&[])?;
    let key = key(&call)?;
    let locks = call.onward().locks();
    let status = match call.reading(locks.status(&key)).await? {
        Some(held) => spell(&key, &held),
        None => Status {
            key: key.to_string(),
            state: "free".to_owned(),
            holder: None,
            token: None,
            since: None,
            remaining_ms: None,
            waiters: 0,
        },
    };
    json(StatusCode::OK, &status)
}

fn spell(key: &LockKey, held: &LockStatus) -> Status {
    Status {
        key: key.to_string(),
        state: "held".to_owned(),
        holder: Some(held.holder.to_string()),
        token: held.token.map(FencingToken::get),
        since: Some(held.since.to_string()),
        remaining_ms: held.remaining.map(millis),
        waiters: held.waiters,
    }
}

/// `GET /v1/locks`
pub(crate) async fn list(call: Call) -> Answer {
    let query = call.query(&["prefix", "limit", "cursor"])?;
    let limit = query.parse("limit", "1 to 1000")?.unwrap_or(100);
    let prefix = query.get("prefix").unwrap_or_default();
    let question = ["locks", prefix];
    let after = query.get("cursor").map(|text| cursor::open(text, &question)).transpose()?;
    let after = after.map(|key| LockKey::raw(&key)).transpose()?;
    let locks = call.onward().locks();
    let page = call.reading(locks.list(prefix, after.as_ref(), limit)).await?;
    let next_cursor = page.next.map(|key| cursor::seal(key.as_str(), &question));
    json(StatusCode::OK, &wire::Locks { items: page.items.iter().map(|(key, held)| spell(key, held)).collect(), next_cursor })
}

/// `GET /v1/admin/lock-switch`
pub(crate) async fn locking(call: Call) -> Answer {
    call.query(&[])?;
    let locks = call.onward().locks();
    let state = call.reading(locks.switch_state()).await?;
    let (word, latency) = match call.reading(async { Ok(locks.health().await) }).await? {
        Health::Answers(latency) => ("ok", Some(latency)),
        Health::Away => ("away", None),
        Health::NotAsked => ("off", None),
    };
    let locking = Locking {
        enabled: state.effective() == Switch::On,
        source: state.source().to_owned(),
        configured: state.configured == Switch::On,
        live: state.live.as_ref().map(spell_switch),
        engine: locks.engine_name().to_owned(),
        state: word.to_owned(),
        latency_us: latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
        default_ttl_ms: TTL_MS,
        longest_wait_ms: WAIT_MS,
    };
    json(StatusCode::OK, &locking)
}

/// `PUT /v1/admin/lock-switch`
pub(crate) async fn switch(mut call: Call) -> Answer {
    call.query(&[])?;
    let asked: SetSwitch = call.json(BODY_BYTES).await?;
    let reason = why(&call, asked.reason).map_err(|e| e.under("/reason"))?;
    let locks = call.onward().locks();
    let to = if asked.enabled { Switch::On } else { Switch::Off };
    let (old, new) = call.writing(locks.switch(to, &reason)).await?;
    json(StatusCode::OK, &Switched { old: old.as_ref().map(spell_switch), new: spell_switch(&new) })
}

fn spell_switch(record: &lock::SwitchRecord) -> SwitchRecord {
    SwitchRecord { enabled: record.enabled, by: record.by.clone(), at: record.at.to_string(), reason: record.reason.clone() }
}

/// `POST /v1/locks`
pub(crate) async fn renew_many(mut call: Call) -> Answer {
    call.query(&[])?;
    let asked: RenewMany = call.json(BODY_BYTES).await?;
    let mut leases = Vec::with_capacity(asked.renew.len());
    for (index, one) in asked.renew.iter().enumerate() {
        call.caller.needs_in_scope(Part::Locks, &[one.key.as_bytes()])?;
        let read = || Ok::<_, Error>((LockKey::raw(&one.key)?, one.owner.parse::<Owner>()?, Duration::from_millis(one.ttl_ms)));
        leases.push(read().map_err(|e| Refusal::from(e).under(&format!("/renew/{index}")))?);
    }
    let locks = call.onward().locks();
    let renewed = call.writing(locks.renew_many(&leases)).await?;
    let result = |(one, leased): (onward_api::locks::RenewOne, Option<onward::lock::Leased>)| RenewResult {
        key: one.key,
        outcome: if leased.is_some() { "renewed" } else { "lost" }.to_owned(),
        remaining_ms: leased.map(|leased| whole(leased.remaining)),
    };
    json(StatusCode::OK, &RenewedMany { results: asked.renew.into_iter().zip(renewed).map(result).collect() })
}

/// Whole milliseconds, rounded down: nobody shall believe in a lease for longer than it runs.
fn whole(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn key(call: &Call) -> Result<LockKey, Refusal> {
    let key = String::from_utf8(call.key()?).map_err(|_| Refusal::new(Code::InvalidKey, "the key of a lock is UTF-8"))?;
    Ok(LockKey::raw(&key)?)
}

fn owner(call: &Call) -> Result<Owner, Refusal> {
    let name = onward_api::header::OWNER;
    let text = call.header(name)?.ok_or_else(|| Refusal::header(name, "the owner that came with the grant is needed"))?;
    Ok(text.parse::<Owner>()?)
}
