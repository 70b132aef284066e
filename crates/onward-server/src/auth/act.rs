//! The log of what operators and admins did: chain `onward.admin`, who, what, and why.
//!
//! An act that is a commit carries its entry; any other one has two: begun, without which it does not happen, and how it ended. A begun
//! one without an end was cut off. A refused act is an entry too, one a minute a token.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;
use onward::audit::AppendOptions;
use onward::model::{ChainName, Data, Entry};
use onward::time::{Clock, Moment};
use onward::Onward;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::caller::Caller;
use super::role::Role;
use crate::call::Call;
use crate::log;
use crate::refusal::Refusal;

/// The chain.
const CHAIN: &str = "onward.admin";
/// How often a token's refused acts are told.
const REFUSED_EVERY: Duration = Duration::from_secs(60);
/// How many tokens' refusals are remembered; beyond them none is told until a minute is over.
const REMEMBERED: usize = 10_000;

fn made(caller: &Caller, kind: &str, resource: &str, data: &Value) -> onward::Result<Entry> {
    let actor = caller.actor(None).unwrap_or_else(|| "local".to_owned());
    let mut entry = Entry::new(kind).with_data(Data::json(data)?);
    entry.actor = Some(actor);
    entry.resource = Some(resource.to_owned());
    entry.check()?;
    Ok(entry)
}

/// Makes the entry of an act that is a commit.
///
/// # Errors
/// The entry is too long.
pub(crate) fn entry(call: &Call, act: &str, resource: &str, data: &Value) -> Result<(ChainName, Entry), Refusal> {
    Ok((ChainName::new(CHAIN)?, made(&call.caller, act, resource, data)?))
}

/// Does an act that is no commit, between two entries.
///
/// # Errors
/// What the act says; or its beginning cannot be written, and it was not done.
///
/// # Cancel safety
/// Dropping the future leaves the act as dropping its own future does, and an entry that it was begun.
pub(crate) async fn acting<T>(
    call: &Call,
    act: &'static str,
    resource: &str,
    reason: &str,
    run: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    let begun = json!({"reason": reason, "request_id": &*call.id, "state": "begun"});
    call.writing(append(call.onward(), made(&call.caller, act, resource, &begun)?)).await?;
    let done = run.await;
    log::acted(call, act, reason);
    let ended = match &done {
        Ok(_) => json!({"reason": reason, "request_id": &*call.id, "state": "done"}),
        Err(refusal) => {
            json!({"reason": reason, "request_id": &*call.id, "state": "failed", "code": refusal.problem.code, "effect": refusal.problem.effect})
        }
    };
    // The act is done or not: that its end is missing says as much as the log can.
    if call.writing(append(call.onward(), made(&call.caller, act, resource, &ended)?)).await.is_err() {
        log::warn("the end of an operator's act could not be written to the chain onward.admin");
    }
    done
}

async fn append(onward: &Onward, entry: Entry) -> onward::Result<()> {
    onward.audit().chain(CHAIN)?.append(entry, AppendOptions::new()).await.map(drop)
}

/// When each token was last told to have been refused.
#[derive(Debug, Default)]
pub(crate) struct Acts(Mutex<HashMap<String, Moment>>);

impl Acts {
    /// Writes that a token was refused what only operators or admins do; reading is no act.
    pub(crate) async fn refused(&self, onward: &Onward, caller: &Caller, method: &Method, route: &str, refusal: &Refusal) {
        let act = refusal.needed >= Some(Role::Operator) && !matches!(*method, Method::GET | Method::HEAD);
        let Caller::Token(known) = caller else { return };
        if !act || !self.is_due(&known.name, onward.store().queue().clock()) {
            return;
        }
        let told = json!({"method": method.as_str(), "role": known.role.word()});
        let written = match made(caller, "refused", route, &told) {
            Ok(entry) => append(onward, entry).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            log::warn("a refused act could not be written to the chain onward.admin");
        }
    }

    fn is_due(&self, name: &str, clock: &Clock) -> bool {
        let now = clock.now();
        let mut told = self.0.lock();
        if told.get(name).is_some_and(|at| now.since(*at) < REFUSED_EVERY) {
            return false;
        }
        if told.len() >= REMEMBERED {
            told.retain(|_, at| now.since(*at) < REFUSED_EVERY);
        }
        let room = told.len() < REMEMBERED;
        if room {
            told.insert(name.to_owned(), now);
        }
        room
    }
}
