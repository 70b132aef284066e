//! The log of what operators and admins did: chain `onward.admin`, who, what, and why.
//!
//! An act that is a commit carries its entry; any other one has two: begun, without which it does not happen, and how it ended. A begun
//! one without an end was cut off. A refused act is an entry too, one a minute a token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use onward::audit::AppendOptions;
use onward::model::{ChainName, Data, Entry};
use onward::time::{Clock, Moment};
use onward::{Code, Onward};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::caller::Caller;
use super::role::{Least, Role};
use crate::call::Call;
use crate::log;
use crate::refusal::{Answer, Refusal};
use crate::wait::within;

/// The chain.
const CHAIN: &str = "onward.admin";
/// Routes whose operation puts the entry into its own commit.
const TELLING: [&str; 3] = ["/v1/admin/lock-switch", "/v1/admin/tokens", "/v1/admin/tokens/{id}"];
/// How long an entry of an act may take to be written.
const WRITTEN: Duration = Duration::from_secs(5);
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

/// An act that is no commit, which was begun.
#[derive(Debug)]
pub(crate) struct Begun {
    onward: Onward,
    caller: Caller,
    act: String,
    resource: String,
    reason: Option<String>,
    id: Arc<str>,
}

impl Begun {
    /// Writes that an act begins, if the route is one of operators or admins that tells nothing by itself.
    ///
    /// # Errors
    /// The entry cannot be written: the act is not to be done.
    pub(crate) async fn write(call: &Call, least: Least, route: &str, operation: &str) -> Result<Option<Self>, Refusal> {
        let acts = match least {
            // To read what only admins may is an act: a backup has everything.
            Least::Role(Role::Admin) => true,
            Least::Role(Role::Operator) => is_act(&call.parts.method),
            Least::Role(Role::Viewer | Role::Writer) | Least::Open => false,
        };
        if !acts || TELLING.contains(&route) {
            return Ok(None);
        }
        let begun = Self {
            onward: call.onward().clone(),
            caller: call.caller.clone(),
            act: operation.replace(" ", "").replace("::", "."),
            resource: call.parts.uri.path().to_owned(),
            // A reason that is malformed is refused where it is needed.
            reason: call.reason().ok(),
            id: call.id.clone(),
        };
        // Its time is not the caller's: without the entry nothing is done, and that is what the answer says.
        match within(WRITTEN, Box::pin(append(call.onward(), begun.entry(json!({"state": "begun"}))?))).await {
            Some(Ok(())) => Ok(Some(begun)),
            // An engine without a store has no trail: only a command with that engine inside comes here, `serve` needs a store.
            Some(Err(error)) if error.kind() == onward::Kind::Unsupported => Ok(None),
            failed => {
                let cause = failed.and_then(Result::err);
                let refusal = Refusal::new(Code::Unavailable, "the act was not done: its entry in onward.admin cannot be written");
                Err(Refusal { cause, ..refusal })
            }
        }
    }

    /// Writes how it ended.
    pub(crate) fn ended(self, answer: &Answer) -> impl Future<Output = ()> + use<> {
        let state = match answer {
            Ok(_) => json!({"state": "done"}),
            Err(refusal) => json!({"state": "failed", "code": refusal.problem.code, "effect": refusal.problem.effect}),
        };
        async move {
            let written = match self.entry(state) {
                Ok(entry) => within(WRITTEN, Box::pin(append(&self.onward, entry))).await,
                Err(_) => None,
            };
            // The act is done or not; that its end is missing says as much as the chain can.
            if !matches!(written, Some(Ok(()))) {
                log::warn("the end of an operator's act could not be written to the chain onward.admin");
            }
        }
    }

    fn entry(&self, mut data: Value) -> Result<Entry, Refusal> {
        data["request_id"] = json!(&*self.id);
        if let Some(reason) = &self.reason {
            data["reason"] = json!(reason);
        }
        Ok(made(&self.caller, &self.act, &self.resource, &data)?)
    }
}

fn is_act(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

async fn append(onward: &Onward, entry: Entry) -> onward::Result<()> {
    onward.audit().chain_of_ours(CHAIN)?.append(entry, AppendOptions::new()).await.map(drop)
}

/// When each token was last told to have been refused.
#[derive(Debug, Default)]
pub(crate) struct Acts(Mutex<HashMap<String, Moment>>);

impl Acts {
    /// Writes that a token was refused what only operators or admins do; reading is no act.
    pub(crate) async fn refused(&self, onward: &Onward, caller: &Caller, method: &Method, route: &str, refusal: &Refusal) {
        let act = refusal.needed >= Some(Role::Operator) && is_act(method);
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
