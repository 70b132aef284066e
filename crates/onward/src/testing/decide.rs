//! The decision that every engine shares, over facts small enough for a model checker: it explores with the rule that ships.

#![allow(clippy::expect_used, reason = "test code that ships behind a feature")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::commit::decide::{Decision, View, decide};
use crate::commit::engine::{Remembered, Rows, StoreMeta};
use crate::commit::{Commit, Delivery, Receipt};
use crate::model::{Epoch, FencingToken, Fingerprint, Key, Labels, LockKey, Meta, Object, Payload, RequestId, Revision, Version};
use crate::time::Timestamp;

/// All that a store of one object under one lock holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The newest revision.
    pub revision: u64,
    /// Version and value of the object, if there is one.
    pub object: Option<(u64, u64)>,
    /// The newest token seen.
    pub newest_token: Option<u64>,
    /// The fingerprint and revision of each request that was answered.
    pub requests: BTreeMap<String, ([u8; 32], u64)>,
}

/// What became of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It applies, and leaves these facts.
    Applies(Facts),
    /// It was applied before, at this revision.
    Replays(u64),
    /// The object is not as the commit wants it.
    Conflicts,
    /// A newer token was seen.
    Fenced,
}

/// The object of [`Facts`].
pub fn object() -> Key {
    Key::new("thing", "one").expect("a good key")
}

/// The lock of [`Facts`].
pub fn lock() -> LockKey {
    LockKey::raw("thing-one").expect("a good key")
}

/// Judges a commit on [`object`] and [`lock`] as a batch would, and carries it out.
pub fn judge(commit: &Commit, facts: &Facts) -> Judged {
    let now = Timestamp::from_micros(1 << 50);
    let print = commit.fingerprint();
    let (mut view, _) = View::new(rows(facts, now), now);
    let verdict = match decide(commit, Some(&print), &view).expect("a commit without a mistake") {
        Decision::Replay(receipt) => return Judged::Replays(receipt.revision.get()),
        Decision::Conflict(_) => return Judged::Conflicts,
        Decision::Fenced { .. } => return Judged::Fenced,
        Decision::Apply(verdict) => verdict,
    };
    view.lay(&verdict);
    let mut after = facts.clone();
    after.revision = view.meta.revision.get();
    after.object = view.objects.get(&object()).map(|object| (object.meta.version.get(), object.value.read().expect("a number")));
    after.newest_token = view.fences.get(&lock()).map(|token| token.get());
    if let Some(id) = &commit.request {
        after.requests.insert(id.as_str().to_owned(), (print.0, after.revision));
    }
    Judged::Applies(after)
}

fn rows(facts: &Facts, now: Timestamp) -> Rows {
    let revision = |number| Revision::new(number).expect("a small number");
    let meta = StoreMeta {
        epoch: Epoch::from_bits(1),
        revision: revision(facts.revision),
        version_floor: 0,
        restore_floor: 0,
        compacted: Revision::default(),
        newest_token: facts.newest_token.unwrap_or_default(),
        at: now,
        origin: "model".into(),
    };
    let stored = facts.object.map(|(version, value)| {
        let meta = Meta {
            uid: uuid::Uuid::nil(),
            version: Version::new(version).expect("a small number"),
            revision: revision(facts.revision),
            create_revision: revision(1),
            labels: Labels::new(),
            expires_at: None,
            created_at: now,
            updated_at: now,
        };
        (object(), Arc::new(Object { key: object(), value: Payload::json(&value).expect("a number"), meta }))
    });
    let known = |(id, (print, at)): (&String, &([u8; 32], u64))| {
        let receipt = Receipt {
            revision: revision(*at),
            writes: Vec::new(),
            audit: Vec::new(),
            changed: true,
            replayed: false,
            invalidation: Delivery::NotAsked,
        };
        let known = Remembered {
            fingerprint: Fingerprint(*print),
            receipt: Arc::new(receipt),
            expires_at: Timestamp::from_micros(now.as_micros() + 1),
        };
        (RequestId::new(id).expect("a good id"), known)
    };
    Rows {
        meta,
        objects: stored.into_iter().collect(),
        fences: facts.newest_token.map(|token| (lock(), FencingToken::new(token).expect("a small number"))).into_iter().collect(),
        requests: facts.requests.iter().map(known).collect(),
        heads: HashMap::new(),
        held: true,
    }
}
