//! Setting one attribute of an object under the lock of that attribute.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::commit::{Commit, CommitOutcome, CommitQueue, WriteCondition};
use crate::lock::{GrantView, LockOptions, Outcome, Scoped};
use crate::model::{Key, LockKey, Payload, Version};
use crate::{Code, Error, Kind, Result};

/// How many times the compare-and-swap is tried: writers of other attributes hold other locks.
const TRIES: u32 = 5;

impl Scoped {
    /// Sets one top-level attribute of the object `collection/id` under the attribute's own lock; skips if another holder has it.
    ///
    /// Never touches other attributes, even unlocked: the write is a compare-and-swap, retried on fresh state. An equal value writes
    /// nothing. Returns the object's version.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: there is no object. [`Kind::Lost`]: a newer holder was seen. [`Kind::Unsupported`]: these locks were opened
    /// without a store. [`Kind::Conflict`]: others were faster in every try.
    pub async fn set<V: Serialize>(&self, collection: &str, id: &str, attribute: &str, value: V) -> Result<Outcome<Version>> {
        self.set_with(collection, id, attribute, value, LockOptions::skip()).await
    }

    /// As [`Scoped::set`], with options of its own.
    ///
    /// # Errors
    /// As [`Scoped::set`], and those of the options.
    pub async fn set_with<V: Serialize>(
        &self,
        collection: &str,
        id: &str,
        attribute: &str,
        value: V,
        options: LockOptions,
    ) -> Result<Outcome<Version>> {
        let Some(queue) = self.locks().commits() else {
            return Err(Error::unsupported("these locks have no store to set attributes in"));
        };
        let object = Key::new(collection, id)?;
        let lock = self.key(collection, id)?.attribute(attribute)?;
        let value =
            serde_json::value::to_raw_value(&value).map_err(|e| Error::invalid("the value cannot be written as JSON").with_source(e))?;
        let outcome = self.locks().with_key(&lock, options, |grant| swap(queue, grant, &lock, &object, attribute, &value)).await?;
        Ok(match outcome {
            Outcome::Ran(result) => Outcome::Ran(result?),
            Outcome::Skipped { held_for } => Outcome::Skipped { held_for },
            Outcome::RanUnlocked(result, why) => Outcome::RanUnlocked(result?, why),
        })
    }
}

async fn swap(queue: &CommitQueue, grant: GrantView, lock: &LockKey, key: &Key, attribute: &str, value: &RawValue) -> Result<Version> {
    let mut state = queue.engine().get(key).await?;
    for _ in 0..TRIES {
        let object = state.ok_or_else(|| Error::not_found("the object does not exist").during("set"))?;
        let mut members: BTreeMap<String, Box<RawValue>> = object.value.read()?;
        let same = members.get(attribute).is_some_and(|old| equal(old, value));
        if same {
            return Ok(object.meta.version);
        }
        members.insert(attribute.to_owned(), value.to_owned());
        let payload = Payload::json(&members)?;
        let mut commit = Commit::new().put_payload(key, payload, WriteCondition::MatchVersion(object.meta.version));
        if let Some(token) = grant.token() {
            grant.check()?;
            commit = commit.fence(lock.clone(), token);
        }
        match queue.submit(commit).await? {
            CommitOutcome::Committed(receipt) => {
                return receipt.writes.first().map(|written| written.version).ok_or_else(|| Error::integrity("a write without a receipt"));
            }
            CommitOutcome::Fenced { newest, .. } => return Err(Error::fenced(newest).during("set")),
            CommitOutcome::Conflict(conflicts) => {
                state = conflicts.into_iter().next().and_then(|lost| lost.current).map(std::sync::Arc::new);
            }
        }
    }
    Err(Error::new(Kind::Conflict, Code::VersionConflict, "others were faster in every try").during("set").with_tries(TRIES))
}

/// Compares two values, not their spelling.
fn equal(a: &RawValue, b: &RawValue) -> bool {
    let read = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    match (read(a), read(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}
