//! The order of this process's calls on one key.
//!
//! Calls travel on several connections, so a release could overtake the request whose grant it gives back, and the grant would stand with
//! nobody who knows of it. So calls on one key follow each other, also when nobody waits for an answer any more (C6).

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::LockKey;

/// The last call of each key that is on its way.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: HashMap<LockKey, (u64, watch::Receiver<()>)>,
    calls: u64,
}

/// A place in the lanes of some keys; dropping it lets the next ones go.
#[derive(Debug)]
pub(super) struct Turn {
    number: u64,
    keys: Vec<LockKey>,
    before: Vec<watch::Receiver<()>>,
    /// Its end is the word to those behind.
    end: watch::Sender<()>,
}

impl Lanes {
    /// Takes the next place in the lanes of all keys at once, so that no two calls wait for each other.
    pub(super) fn join(&self, keys: Vec<LockKey>) -> Turn {
        let mut state = self.0.lock();
        state.calls += 1;
        let (number, end) = (state.calls, watch::Sender::new(()));
        let before = keys.iter().filter_map(|key| state.last.insert(key.clone(), (number, end.subscribe())));
        // A key that is named twice follows itself.
        let before = before.filter(|(before, _)| *before != number).map(|(_, before)| before).collect();
        Turn { number, keys, before, end }
    }

    /// Waits until all calls before are over, does the work, and lets the next ones go.
    pub(super) async fn run<T>(&self, mut turn: Turn, work: impl Future<Output = T>) -> T {
        for before in &mut turn.before {
            // It never speaks: its end is the word.
            let _ = before.changed().await;
        }
        let done = work.await;
        let mut state = self.0.lock();
        for key in &turn.keys {
            if state.last.get(key).is_some_and(|(last, _)| *last == turn.number) {
                state.last.remove(key);
            }
        }
        drop(state);
        drop(turn.end);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn calls_on_a_key_follow_each_other_and_leave_nothing() {
        let lanes = Arc::new(Lanes::default());
        let key = |name: &str| LockKey::raw(name).unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let turns = [vec![key("a")], vec![key("b"), key("a"), key("a")], vec![key("b")], vec![key("c")]].map(|keys| lanes.join(keys));
        let mut tasks: Vec<_> = turns
            .into_iter()
            .enumerate()
            .map(|(number, turn)| {
                let (lanes, log) = (Arc::clone(&lanes), Arc::clone(&log));
                tokio::spawn(async move { lanes.run(turn, async { log.lock().push(number) }).await })
            })
            .collect();
        // The last to be polled is the first.
        tasks.reverse();
        for task in tasks {
            task.await.unwrap();
        }
        let order: Vec<_> = log.lock().iter().copied().filter(|number| *number < 3).collect();
        assert_eq!(order, [0, 1, 2]);
        assert!(lanes.0.lock().last.is_empty());
    }
}
