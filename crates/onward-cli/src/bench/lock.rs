//! Acquire and release. Between the answer to one and the sending of the other nobody else may hold the key.

use std::collections::HashMap;
use std::time::Duration;

use onward::lock::Owner;
use onward::time::{Clock, Moment};
use onward_api::client::{Client, Problem, Request};
use onward_api::{Code, header};
use serde::Deserialize;
use serde_json::json;

use super::Options;
use super::load::{Load, Once};
use super::report::Judgement;
use crate::failure::Result;
use crate::lock::path;
use crate::seed::Random;

/// How long a client waits for its turn.
const WAIT: Duration = Duration::from_secs(10);
/// Long enough that no lease ends while it is held.
const TTL_MS: u64 = 60_000;

/// Locks of this run.
#[derive(Debug)]
pub(super) struct Locks {
    clock: Clock,
    keys: Vec<String>,
    clients: u32,
}

/// One hold, as its holder saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hold {
    key: usize,
    token: u64,
    /// The answer came.
    from: Moment,
    /// The release was sent.
    to: Moment,
    waited: bool,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(with = "onward_api::number")]
    token: u64,
    waited_ms: u64,
}

impl Locks {
    pub(super) fn new(prefix: String, options: &Options) -> Self {
        Self { clock: Clock::system(), keys: (0..options.keys).map(|n| format!("{prefix}/{n}")).collect(), clients: options.clients }
    }
}

impl Load for Locks {
    type Record = Hold;

    async fn once(&self, client: &Client, key: usize, _: &mut Random) -> std::result::Result<Once<Hold>, Problem> {
        let (owner, name) = (Owner::draw(), self.keys.get(key).map_or("", String::as_str));
        let wait = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
        let ask = json!({"ttl_ms": TTL_MS, "wait_ms": wait, "owner": owner.to_string(), "holder": "bench"});
        let asked = Request::post(path(name)).json(&ask).timeout(client.timeout() + WAIT);
        let granted: Granted = match client.call(asked).await.and_then(|answer| answer.json()) {
            Ok(granted) => granted,
            Err(problem) => return Once::unknown(problem, None, 1),
        };
        let (from, waited) = (self.clock.now(), granted.waited_ms > 0);
        let release = Request::delete(path(name)).header(header::OWNER, &owner.to_string());
        let to = self.clock.now();
        let hold = Hold { key, token: granted.token, from, to, waited };
        match client.call(release).await {
            Ok(_) => Ok(Once::done(hold, u64::from(waited))),
            // A hold that was lost is one of the things to be judged, not a reason to stop.
            Err(problem) if problem.code() == Code::LeaseLost => Ok(Once::done(hold, 1)),
            Err(problem) => Once::unknown(problem, Some(hold), u64::from(waited)),
        }
    }

    async fn judge(self, _: &Client, records: Vec<Hold>) -> Result<Judgement> {
        Ok(judge(records, self.clients))
    }
}

/// Holds of one key never overlap, and their tokens grow in the order in which they were held.
fn judge(mut holds: Vec<Hold>, clients: u32) -> Judgement {
    holds.sort_by_key(|hold| (hold.key, hold.from));
    let mut last: HashMap<usize, Hold> = HashMap::new();
    for hold in &holds {
        if let Some(before) = last.insert(hold.key, *hold) {
            if hold.from < before.to {
                let by = before.to.since(hold.from).as_micros();
                return Judgement::fail(format!("tokens {} and {} held one key together for {by} us", before.token, hold.token));
            }
            if hold.token <= before.token {
                return Judgement::fail(format!("token {} was granted after token {}", hold.token, before.token));
            }
        }
    }
    let contended = holds.iter().filter(|hold| hold.waited).count();
    Judgement::pass(
        format!("{} holds: none overlaps another of its key, and tokens only grow", holds.len()),
        clients > 1 && contended > 0,
        "nobody ever waited",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Verdict;

    fn hold(key: usize, token: u64, from: u64, to: u64) -> Hold {
        let start = Clock::manual().now();
        Hold { key, token, from: start + Duration::from_millis(from), to: start + Duration::from_millis(to), waited: true }
    }

    #[test]
    fn holds_that_touch_are_good_and_holds_that_overlap_are_not() {
        let good = vec![hold(0, 3, 5, 9), hold(0, 1, 0, 5), hold(1, 2, 1, 8)];
        assert_eq!(judge(good.clone(), 2).verdict, Verdict::Pass);
        let overlap = [good.clone(), vec![hold(0, 4, 8, 10)]].concat();
        assert_eq!(judge(overlap, 2).verdict, Verdict::Fail);
    }

    #[test]
    fn a_token_that_does_not_grow_is_found() {
        assert_eq!(judge(vec![hold(0, 7, 0, 1), hold(0, 7, 2, 3)], 2).verdict, Verdict::Fail);
        assert_eq!(judge(vec![hold(0, 7, 0, 1), hold(0, 6, 2, 3)], 2).verdict, Verdict::Fail);
        assert_eq!(judge(vec![hold(0, 7, 0, 1), hold(1, 6, 2, 3)], 2).verdict, Verdict::Pass);
    }

    #[test]
    fn without_a_race_nothing_is_shown() {
        let alone = vec![Hold { waited: false, ..hold(0, 1, 0, 1) }];
        assert_eq!(judge(alone, 1).verdict, Verdict::Inconclusive);
    }
}
