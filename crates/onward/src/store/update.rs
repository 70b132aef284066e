//! Read, change, validate, write at the version read; again on fresh state if somebody was faster.

use std::future::{Future, IntoFuture};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::handle::Store;
use super::options::{Put, Updated, WriteOptions};
use crate::commit::{Commit, Window, WriteCondition, Written};
use crate::model::limits::{WAIT_MAX, WAIT_MIN};
use crate::model::{FencingToken, Key, LabelChange, LockKey, Meta, Object, Payload, RequestId, Revision, TtlChange};
use crate::retry::{self, Backoff};
use crate::{Code, Error, Kind, Refusal, Result};

/// Losers of one key go one after the other within a process: they would only beat each other otherwise.
#[derive(Debug)]
pub(crate) struct Turns([tokio::sync::Mutex<()>; 64]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| tokio::sync::Mutex::new(())))
    }
}

impl Turns {
    async fn take(&self, key: &Key) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % 64).unwrap_or(0);
        Some(self.0.get(index)?.lock().await)
    }
}

type Validator<'a, T> = Box<dyn FnMut(&T, Option<&T>) -> Result<(), Refusal> + Send + 'a>;

/// An update in the making; await it to run it.
///
/// One try is: state, `change` on a fresh copy, the validator, `put_if` at the version read. At most 5 tries or 10 s, whichever ends
/// first. A lost try goes on from the object in the conflict: no read. Spent tries are an error, since `?` would hide a value.
#[must_use = "an update runs when it is awaited"]
pub struct Update<'a, T, F> {
    store: &'a Store,
    key: Result<Key>,
    change: F,
    validators: Vec<Validator<'a, T>>,
    insert: Option<T>,
    tries: u32,
    deadline: Duration,
    options: WriteOptions,
    shape: PhantomData<T>,
}

impl<T, F> std::fmt::Debug for Update<'_, T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Update({:?})", self.key)
    }
}

impl<'a, T, F> Update<'a, T, F>
where
    T: Serialize + DeserializeOwned,
    F: FnMut(&mut T, &Meta) -> Result<(), Refusal> + Send,
{
    pub(super) fn new(store: &'a Store, key: Result<Key>, change: F) -> Self {
        Self {
            store,
            key,
            change,
            validators: Vec::new(),
            insert: None,
            tries: 5,
            deadline: Duration::from_secs(10),
            options: WriteOptions::new(),
            shape: PhantomData,
        }
    }

    /// Sets how many times it tries, 1..=100; 5 by default.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Sets how long it tries, 1 ms..=10 min; 10 s by default.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Judges each candidate against the state that it is based on, before it is written, in every try. Several are asked in turn.
    pub fn validate(mut self, validate: impl FnMut(&T, Option<&T>) -> Result<(), Refusal> + Send + 'a) -> Self {
        self.validators.push(Box::new(validate));
        self
    }

    /// Creates the object with this value, unchanged by the closure, if it does not exist.
    pub fn or_insert(mut self, value: T) -> Self {
        self.insert = Some(value);
        self
    }

    /// Says what becomes of the object's labels; without a word they stay.
    pub fn labels(mut self, change: LabelChange) -> Self {
        self.options = self.options.with_labels(change);
        self
    }

    /// Says what becomes of the object's time to live; without a word it stays.
    pub fn ttl(mut self, change: TtlChange) -> Self {
        self.options = self.options.with_ttl(change);
        self
    }

    /// Makes the update happen once, however often it is sent with this id: the way to settle an unknown outcome.
    ///
    /// The request is known by its key, labels and time to live, since the value that is written differs between tries. A replay answers with the value that was
    /// written then, as long as the change log has it.
    pub fn request(mut self, id: RequestId) -> Self {
        self.options = self.options.with_request(id, Window::Caller);
        self
    }

    /// Refuses the write if a newer token of this lock was seen.
    pub fn fence(mut self, lock: LockKey, token: FencingToken) -> Self {
        self.options = self.options.with_fence(lock, token);
        self
    }

    async fn run(mut self) -> Result<Updated<T>> {
        let key = self.key?;
        if !(1..=100).contains(&self.tries) {
            return Err(Error::invalid("tries is 1..=100"));
        }
        if !(WAIT_MIN..=WAIT_MAX).contains(&self.deadline) {
            return Err(Error::invalid("deadline is 1 ms..=10 min"));
        }
        if self.options.has_request() {
            let intent = self.options.intent_of(format!("update {key}"));
            self.options = self.options.with_intent(intent);
            // Nothing of this commit is applied: it stands for the request.
            let known = self.store.replay(self.options.of_request(Commit::new())).await?;
            if let Some(written) = known.and_then(|mut receipt| receipt.writes.pop()) {
                return replayed(self.store, &key, written).await;
            }
        }
        let clock = self.store.queue().clock();
        let until = clock.now() + self.deadline;
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(100));
        let mut turn = None;
        let mut state = self.store.get_payload(&key).await?;
        for tries in 1..=self.tries {
            if tries > 2 {
                turn = match turn {
                    Some(turn) => Some(turn),
                    None => retry::deadline(clock, until, self.store.turns().take(&key)).await.flatten(),
                };
                if tries > 3 {
                    retry::sleep_until(clock, until.min(clock.now() + backoff.next())).await;
                }
            }
            let left = until.left(clock.now());
            if left.is_zero() {
                return Err(spent(tries - 1, state));
            }
            let (value, condition) = match &state {
                Some(object) => {
                    let mut value: T = object.value.read()?;
                    (self.change)(&mut value, &object.meta).map_err(Refusal::into_error)?;
                    (value, WriteCondition::MatchVersion(object.meta.version))
                }
                None => match self.insert.take() {
                    Some(value) => (value, WriteCondition::MustCreate),
                    None => return Err(Error::not_found("the object does not exist").during("update")),
                },
            };
            if !self.validators.is_empty() {
                let before: Option<T> = state.as_ref().map(|object| object.value.read()).transpose()?;
                for validate in &mut self.validators {
                    validate(&value, before.as_ref()).map_err(Refusal::into_error)?;
                }
            }
            let options = self.options.clone().with_deadline(left.max(WAIT_MIN));
            match self.store.put_payload_if(&key, Payload::json(&value)?, condition, options).await? {
                // Sent twice at once: the other one wrote.
                Put::Committed(written) if written.replayed => return replayed(self.store, &key, written).await,
                Put::Committed(written) => return Ok(Updated { value, written, tries }),
                Put::Conflict(conflict) => state = conflict.current,
            }
            if condition == WriteCondition::MustCreate {
                self.insert = Some(value);
            }
        }
        Err(spent(self.tries, state))
    }
}

/// What an update answered before: the very value that it wrote, never what a later read finds (C2).
async fn replayed<T: DeserializeOwned>(store: &Store, key: &Key, written: Written) -> Result<Updated<T>> {
    let gone =
        || Error::new(Kind::Expired, Code::CursorCompacted, "the update was applied, and what it wrote is no longer kept").during("update");
    let before = Revision::new(written.revision.get().saturating_sub(1))?;
    let page = store.queue().engine().changes(before, 1).await?;
    let mut changes = page.records.into_iter().filter(|record| record.revision == written.revision).flat_map(|record| record.changes);
    let after = match changes.find(|change| change.key == *key) {
        Some(change) => change.after.map(Arc::unwrap_or_clone),
        // An update that changed nothing: the object as it was then is still the one at this version, or is gone.
        None => store.get_payload(key).await?.filter(|object| object.meta.version == written.version),
    };
    Ok(Updated { value: after.ok_or_else(gone)?.value.read()?, written, tries: 0 })
}

fn spent(tries: u32, current: Option<Object>) -> Error {
    Error::new(Kind::Conflict, Code::VersionConflict, "others were faster in every try")
        .during("update")
        .with_tries(tries)
        .with_current(current)
}

impl<'a, T, F> IntoFuture for Update<'a, T, F>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'a,
    F: FnMut(&mut T, &Meta) -> Result<(), Refusal> + Send + 'a,
{
    type Output = Result<Updated<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
