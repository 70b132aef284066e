//! What a writer still knows of the rows that it read and wrote.
//!
//! Every commit moves the facts of the store. So if a transaction that has the writer's right finds the facts as this writer left them,
//! nobody has written since, and the rows are as it knows them: it need not read them again. A lone replica then commits in one exchange.
//!
//! Only what moves the facts is known: an answer to a request id may be remembered and a chain imported without it, so those are read
//! each time.

use std::collections::HashMap;
use std::sync::Arc;

use crate::commit::engine::{Plan, Rows, StoreMeta, Wanted};
use crate::model::{ChainName, FencingToken, Head, Key, LockKey, Object};

/// Most bytes of rows that are known; beyond them everything is forgotten.
const MOST: usize = 16 << 20;
/// What an object, an absence, a fence or a head takes beside the value.
const EACH: usize = 512;

#[derive(Default)]
pub(super) struct Known {
    /// The facts as this writer left or found them last.
    meta: Option<StoreMeta>,
    /// Whether nobody else wrote between the last two looks: only then it is worth a try.
    alone: bool,
    /// `None`: there is no such object.
    objects: HashMap<Key, Option<Arc<Object>>>,
    /// `None`: no token was seen.
    fences: HashMap<LockKey, Option<FencingToken>>,
    heads: HashMap<ChainName, Head>,
    bytes: usize,
}

impl Known {
    /// The rows that are wanted, if all of them are known and likely to be true.
    pub(super) fn rows(&self, wanted: &Wanted) -> Option<Rows> {
        let meta = self.meta.clone()?;
        if !self.alone || wanted.fresh || !wanted.requests.is_empty() {
            return None;
        }
        let mut objects = HashMap::with_capacity(wanted.objects.len());
        for key in &wanted.objects {
            if let Some(object) = self.objects.get(key)? {
                objects.insert(key.clone(), object.clone());
            }
        }
        let mut fences = HashMap::with_capacity(wanted.fences.len());
        for lock in &wanted.fences {
            if let Some(token) = self.fences.get(lock)? {
                fences.insert(lock.clone(), *token);
            }
        }
        let heads = wanted.chains.iter().map(|chain| Some((chain.clone(), self.heads.get(chain)?.clone())));
        let heads = heads.collect::<Option<_>>()?;
        Some(Rows { meta, objects, fences, requests: HashMap::new(), heads, held: false })
    }

    /// The facts that must be found for [`Known::rows`] to be true.
    pub(super) fn facts(&self) -> Option<&StoreMeta> {
        self.meta.as_ref()
    }

    /// Learns from rows that were read under the right.
    pub(super) fn read(&mut self, wanted: &Wanted, rows: &Rows) {
        // Pruning moves its mark without a commit.
        let same = self.meta.as_ref().is_some_and(|meta| StoreMeta { compacted: meta.compacted, ..rows.meta.clone() } == *meta);
        if !same {
            self.forget();
        }
        (self.meta, self.alone) = (Some(rows.meta.clone()), same);
        for key in &wanted.objects {
            self.learn(key, rows.objects.get(key).cloned());
        }
        for lock in &wanted.fences {
            self.learn_fence(lock, rows.fences.get(lock).copied());
        }
        rows.heads.iter().for_each(|(chain, head)| self.learn_head(chain, head));
    }

    /// Learns from a plan that was carried out.
    pub(super) fn wrote(&mut self, plan: &Plan) {
        self.meta = Some(plan.meta.clone());
        plan.objects.iter().for_each(|(key, object)| self.learn(key, object.clone()));
        plan.fences.iter().for_each(|(lock, token)| self.learn_fence(lock, Some(*token)));
        plan.heads.iter().for_each(|(chain, head)| self.learn_head(chain, head));
    }

    /// Knows nothing any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn learn(&mut self, key: &Key, object: Option<Arc<Object>>) {
        self.bytes += size(object.as_ref());
        self.bytes -= self.objects.insert(key.clone(), object).map_or(0, |was| size(was.as_ref()));
        self.bound();
    }

    fn learn_fence(&mut self, lock: &LockKey, token: Option<FencingToken>) {
        self.bytes += if self.fences.insert(lock.clone(), token).is_none() { EACH } else { 0 };
        self.bound();
    }

    fn learn_head(&mut self, chain: &ChainName, head: &Head) {
        self.bytes += if self.heads.insert(chain.clone(), head.clone()).is_none() { EACH } else { 0 };
        self.bound();
    }

    fn bound(&mut self) {
        if self.bytes > MOST {
            *self = Self { meta: self.meta.take(), alone: self.alone, ..Self::default() };
        }
    }
}

fn size(object: Option<&Arc<Object>>) -> usize {
    EACH + object.map_or(0, |object| object.value.bytes().len())
}
