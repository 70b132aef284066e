//! The checker of holds finds engines that break a promise of the lock.

use std::sync::Arc;

use futures_core::future::BoxFuture;
use onward::Result;
use onward::engine::memory::MemoryLocks;
use onward::lock::{Ask, Capabilities, Claim, LeaseRow, LockEngine, Locks, LocksConfig, Owner, Release, Renewal, Renewed, Tried};
use onward::model::{FencingToken, LockKey};
use onward::testing::lock_history::{Hold, check_holds};
use onward::time::Clock;
use parking_lot::Mutex;

use super::{History, Teller, fenced};

/// What a lock engine does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A token is handed out again and again.
    TokenStands,
    /// Any release frees the key.
    ReleaseByAnyone,
    /// A lease ends earlier than its holder was told.
    EndsEarly,
}

#[derive(Debug)]
struct Buggy(MemoryLocks, Bug, Mutex<Option<Owner>>);

impl LockEngine for Buggy {
    fn name(&self) -> &'static str {
        "buggy"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn try_acquire(&self, mut ask: Ask) -> BoxFuture<'_, Result<Tried>> {
        Box::pin(async move {
            let (owner, ttl) = (ask.owner, ask.ttl);
            if self.1 == Bug::EndsEarly {
                ask.ttl = ttl / 4;
            }
            let mut tried = self.0.try_acquire(ask).await?;
            if let Tried::Granted { token, remaining, .. } = &mut tried {
                *self.2.lock() = Some(owner);
                if self.1 == Bug::TokenStands {
                    *token = FencingToken::new(7)?;
                }
                if self.1 == Bug::EndsEarly {
                    *remaining = ttl;
                }
            }
            Ok(tried)
        })
    }

    fn renew(&self, batch: Vec<Renewal>) -> BoxFuture<'_, Result<Vec<Option<Renewed>>>> {
        self.0.renew(batch)
    }

    fn release(&self, mut batch: Vec<Claim>) -> BoxFuture<'_, Result<Vec<Release>>> {
        if let (Bug::ReleaseByAnyone, Some(owner)) = (self.1, *self.2.lock()) {
            batch.iter_mut().for_each(|claim| claim.owner = owner);
        }
        self.0.release(batch)
    }

    fn inspect(&self, key: LockKey) -> BoxFuture<'_, Result<Option<LeaseRow>>> {
        self.0.inspect(key)
    }

    fn list(&self, prefix: String, after: Option<LockKey>, limit: usize) -> BoxFuture<'_, Result<Vec<(LockKey, LeaseRow)>>> {
        self.0.list(prefix, after, limit)
    }

    fn take_over(&self, ask: Ask) -> BoxFuture<'_, Result<Option<FencingToken>>> {
        self.0.take_over(ask)
    }

    fn raise(&self, newest: FencingToken) -> BoxFuture<'_, Result<()>> {
        self.0.raise(newest)
    }
}

/// Lets four clients take one lock of an engine with a bug.
async fn contend(bug: Bug) -> std::result::Result<(), String> {
    let engine = Arc::new(Buggy(MemoryLocks::new(Clock::system()), bug, Mutex::new(None)));
    let history = Arc::new(Mutex::new(History::default()));
    let mut tasks = tokio::task::JoinSet::new();
    for name in 0..4 {
        let locks = Locks::new(engine.clone(), LocksConfig::default()).unwrap();
        let hear = history.clone();
        tasks.spawn(fenced(None, locks, Teller::new(name, move |line| hear.lock().hear(&line)), 40));
    }
    while tasks.join_next().await.is_some() {}
    let holds: Vec<Hold> = history.lock().holds.values().cloned().collect();
    assert!(holds.len() > 10, "{holds:?}");
    check_holds(&holds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contending_clients_of_a_right_engine_pass() {
    contend(Bug::None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_stands_is_found() {
    assert!(contend(Bug::TokenStands).await.unwrap_err().contains("one token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_an_owner_test_is_found() {
    contend(Bug::ReleaseByAnyone).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ends_early_is_found() {
    contend(Bug::EndsEarly).await.unwrap_err();
}

#[test]
fn holds_that_overlap_or_tokens_that_fall_are_found() {
    let hold = |owner: &str, asked, granted, token, until, released| Hold {
        owner: owner.into(),
        asked,
        granted,
        token,
        until,
        released,
        lost: None,
    };
    check_holds(&[hold("a", 0, 1, 1, 9, Some(3)), hold("b", 2, 4, 2, 12, None), hold("c", 13, 14, 3, 20, None)]).unwrap();
    assert!(check_holds(&[hold("a", 0, 1, 1, 9, None), hold("b", 2, 4, 2, 12, None)]).unwrap_err().contains("two believe"));
    assert!(check_holds(&[hold("a", 0, 1, 2, 3, None), hold("b", 4, 5, 1, 9, None)]).unwrap_err().contains("does not rise"));
    assert!(check_holds(&[hold("a", 0, 1, 2, 3, None), hold("b", 4, 5, 2, 9, None)]).unwrap_err().contains("one token"));
    // A long hold behind which short ones hide.
    let hidden = [hold("a", 0, 1, 1, 99, None), hold("b", 2, 3, 2, 4, None)];
    assert!(check_holds(&hidden).unwrap_err().contains("two believe"));
    let ended = Hold { lost: Some(8), ..hold("a", 0, 1, 1, 9, Some(7)) };
    assert!(check_holds(&[ended]).unwrap_err().contains("ended under its holder"));
}
