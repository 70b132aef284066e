//! Options and outcomes of single writes.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::commit::{Commit, Conflict, Window, Written};
use crate::model::{FencingToken, LabelChange, LockKey, RequestId, TtlChange};

/// What a single write may carry beside its condition.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    fences: Vec<(LockKey, FencingToken)>,
    request: Option<(RequestId, Window)>,
    intent: Option<Vec<u8>>,
    deadline: Option<Duration>,
    labels: LabelChange,
    ttl: TtlChange,
}

impl WriteOptions {
    /// Nothing beside the condition.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses the write if a newer token of this lock was seen.
    #[must_use]
    pub fn with_fence(mut self, lock: LockKey, token: FencingToken) -> Self {
        self.fences.push((lock, token));
        self
    }

    /// Makes the write happen once, however often it is sent with this id.
    #[must_use]
    pub fn with_request(mut self, id: RequestId, window: Window) -> Self {
        self.request = Some((id, window));
        self
    }

    /// Says what becomes of the object's labels; without a word they stay.
    #[must_use]
    pub fn with_labels(mut self, change: LabelChange) -> Self {
        self.labels = change;
        self
    }

    /// Says what becomes of the object's time to live; without a word it stays.
    #[must_use]
    pub fn with_ttl(mut self, change: TtlChange) -> Self {
        self.ttl = change;
        self
    }

    /// Adds what becomes of labels and time to live to what a request wants, where something is asked for.
    pub(crate) fn intent_of(&self, wish: String) -> Vec<u8> {
        let mut wishes = serde_json::Map::new();
        _ = match &self.labels {
            LabelChange::Keep => None,
            LabelChange::Set(labels) => wishes.insert("labels".to_owned(), serde_json::json!(labels)),
            LabelChange::Merge(labels) => wishes.insert("merge_labels".to_owned(), serde_json::json!(labels)),
        };
        _ = match self.ttl {
            TtlChange::Keep => None,
            TtlChange::Set(ttl) => wishes.insert("ttl_us".to_owned(), u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX).into()),
            TtlChange::Never => wishes.insert("ttl_us".to_owned(), serde_json::Value::Null),
        };
        // What was asked before there were labels keeps its intent. A line end is in no key.
        let mut intent = wish.into_bytes();
        if !wishes.is_empty() {
            intent.push(b'\n');
            intent.extend_from_slice(serde_json::Value::from(wishes).to_string().as_bytes());
        }
        intent
    }

    /// Knows the request by what it wants, where what it writes differs between tries.
    pub(crate) fn with_intent(mut self, intent: Vec<u8>) -> Self {
        self.intent = Some(intent);
        self
    }

    pub(crate) fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// Gives up, with nothing applied, if the write still waits after this time, 1 ms..=10 min.
    #[must_use]
    pub fn with_deadline(mut self, wait: Duration) -> Self {
        self.deadline = Some(wait);
        self
    }

    /// Adds all this to a commit of one write.
    pub(crate) fn apply(self, mut commit: Commit) -> Commit {
        commit = self.of_request(commit).labels(self.labels).ttl(self.ttl);
        for (lock, token) in self.fences {
            commit = commit.fence(lock, token);
        }
        match self.deadline {
            Some(wait) => commit.deadline(wait),
            None => commit,
        }
    }

    /// Adds only what the request is known by.
    pub(crate) fn of_request(&self, mut commit: Commit) -> Commit {
        if let Some((id, window)) = &self.request {
            commit = commit.request(id.clone()).window(*window);
        }
        match &self.intent {
            Some(intent) => commit.intent(intent),
            None => commit,
        }
    }
}

/// What became of a conditional write.
#[must_use]
#[derive(Debug, Clone)]
pub enum Put<T> {
    /// Written, durably.
    Committed(Written),
    /// Nothing was written: the condition did not hold.
    Conflict(Conflict<T>),
}

/// What became of a conditional delete.
#[must_use]
#[derive(Debug, Clone)]
pub enum Delete<T> {
    /// Deleted, durably.
    Removed(Written),
    /// There was nothing.
    Absent,
    /// Nothing was deleted: the object is at another version.
    Conflict(Conflict<T>),
}

/// What an `update` produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated<T> {
    /// The value that was written.
    pub value: T,
    /// Version and revision of the write.
    pub written: Written,
    /// How many tries it took; 0 for an answer that was given before.
    pub tries: u32,
}

impl Conflict {
    /// Reads the current object as a value; one of another shape is left out, as its version still says that the race was lost.
    pub fn read<T: DeserializeOwned>(self) -> Conflict<T> {
        let Conflict { index, key, reason, version, current } = self;
        Conflict { index, key, reason, version, current: current.and_then(|object| object.read().ok()) }
    }
}
