//! Read a counter, add one, write it back if nobody else did. Every acknowledged addition must be in the end.

use std::collections::BTreeMap;

use onward_api::client::{Client, Problem, Request};
use onward_api::{Code, Effect};
use serde::Deserialize;
use serde_json::json;

use super::Options;
use super::load::{Load, Once};
use super::report::Judgement;
use crate::failure::{Failure, Result};
use crate::seed::Random;

/// How often one addition is tried.
const TRIES: u64 = 1_000;

/// Counters of this run: one kind of its own.
#[derive(Debug)]
pub(super) struct Counters {
    kind: String,
    keys: u32,
    pad: String,
}

/// One addition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Added {
    key: usize,
    /// The number that was written.
    number: u64,
    /// The version that the answer gave; none: nobody knows whether it was written.
    version: Option<u64>,
    conflicts: u64,
}

#[derive(Deserialize)]
struct Counter {
    n: u64,
}

#[derive(Deserialize)]
struct Current {
    #[serde(with = "onward_api::number")]
    version: u64,
    payload: Counter,
}

#[derive(Deserialize)]
struct Written {
    #[serde(with = "onward_api::number")]
    version: u64,
}

impl Counters {
    pub(super) async fn create(prefix: String, client: &Client, options: &Options) -> Result<Self> {
        let counters = Self { kind: prefix, keys: options.keys, pad: "x".repeat(options.payload as usize) };
        for key in 0..counters.keys as usize {
            client.call(counters.put(key, 0).header("if-none-match", "*")).await?;
        }
        Ok(counters)
    }

    fn path(&self, key: usize) -> String {
        format!("objects/{}/{key}", self.kind)
    }

    fn put(&self, key: usize, number: u64) -> Request {
        Request::put(self.path(key)).json(&json!({"n": number, "pad": self.pad}))
    }

    async fn read(&self, client: &Client, key: usize) -> std::result::Result<Current, Problem> {
        client.call(Request::get(self.path(key)).header("accept", onward_api::OBJECT_TYPE)).await?.json()
    }
}

impl Load for Counters {
    type Record = Added;

    async fn once(&self, client: &Client, key: usize, _: &mut Random) -> std::result::Result<Once<Added>, Problem> {
        let mut current = self.read(client, key).await?;
        let mut conflicts = 0;
        loop {
            let number = current.payload.n + 1;
            let problem = match client.call(self.put(key, number).header("if-match", &format!("\"{}\"", current.version))).await {
                Ok(answer) => {
                    let Written { version } = answer.json()?;
                    return Ok(Once::done(Added { key, number, version: Some(version), conflicts }, conflicts));
                }
                Err(problem) => problem,
            };
            conflicts += 1;
            match (problem.code(), problem.current().and_then(|now| serde_json::from_str(now.get()).ok())) {
                // The refusal brought the state of now: the next try needs no read.
                (Code::VersionConflict, Some(now)) if conflicts < TRIES => current = now,
                _ => return Once::unknown(problem, Some(Added { key, number, version: None, conflicts }), conflicts),
            }
        }
    }

    async fn judge(self, client: &Client, records: Vec<Added>) -> Result<Judgement> {
        let mut left = BTreeMap::new();
        for key in 0..self.keys as usize {
            let Current { version, payload } = self.read(client, key).await?;
            left.insert(key, (version, payload.n));
            match client.call(Request::delete(self.path(key)).query("overwrite", true)).await {
                Ok(_) => {}
                Err(problem) if problem.effect() == Effect::Unknown || problem.code() == Code::NotFound => {}
                Err(problem) => return Err(Failure::from(problem)),
            }
        }
        Ok(judge(records, &left))
    }
}

/// In the order of versions the numbers grow by one; the last of both is what the counter holds.
fn judge(mut added: Vec<Added>, left: &BTreeMap<usize, (u64, u64)>) -> Judgement {
    added.sort_by_key(|one| (one.key, one.version));
    for (&key, &(version, number)) in left {
        let of_key = || added.iter().filter(move |one| one.key == key);
        let acknowledged: Vec<(u64, u64)> = of_key().filter_map(|one| Some((one.version?, one.number))).collect();
        let (known, unknown) = (acknowledged.len() as u64, of_key().filter(|one| one.version.is_none()).count() as u64);
        if number < known || number > known + unknown {
            return Judgement::fail(format!(
                "counter {key}: {known} additions were acknowledged ({unknown} unknown), and it holds {number}"
            ));
        }
        for pair in acknowledged.windows(2) {
            if let [(before, first), (after, second)] = pair
                && (before == after || first >= second)
            {
                return Judgement::fail(format!("counter {key}: version {before} is {first}, and version {after} is {second}"));
            }
        }
        if let Some((newest, last)) = acknowledged.last()
            && (*newest > version || *newest == version && *last != number)
        {
            return Judgement::fail(format!("counter {key}: version {newest} was {last}, and at the end version {version} is {number}"));
        }
    }
    let conflicts: u64 = added.iter().map(|one| one.conflicts).sum();
    let known = added.iter().filter(|one| one.version.is_some()).count();
    Judgement::pass(format!("{known} acknowledged additions, and all of them are in the counters"), conflicts > 0, "nobody was ever second")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Verdict;

    fn added(number: u64, version: u64) -> Added {
        Added { key: 0, number, version: Some(version), conflicts: 1 }
    }

    fn verdict(added: &[Added], version: u64, number: u64) -> Verdict {
        judge(added.to_vec(), &BTreeMap::from([(0, (version, number))])).verdict
    }

    #[test]
    fn a_lost_addition_is_found() {
        assert_eq!(verdict(&[added(1, 2), added(2, 3)], 3, 2), Verdict::Pass);
        assert_eq!(verdict(&[added(1, 2), added(2, 3)], 3, 1), Verdict::Fail);
        // Two writers both wrote 1 over 0, and both were told so.
        assert_eq!(verdict(&[added(1, 2), added(1, 3)], 3, 1), Verdict::Fail);
        assert_eq!(verdict(&[added(1, 2), added(2, 2)], 2, 2), Verdict::Fail);
    }

    #[test]
    fn an_unknown_addition_may_be_there_or_not() {
        let unknown = Added { version: None, ..added(2, 1) };
        assert_eq!(verdict(&[added(1, 2), unknown], 2, 1), Verdict::Pass);
        assert_eq!(verdict(&[added(1, 2), unknown], 3, 2), Verdict::Pass);
        assert_eq!(verdict(&[added(1, 2), unknown], 4, 3), Verdict::Fail);
    }

    #[test]
    fn a_counter_that_went_back_is_found() {
        assert_eq!(verdict(&[added(1, 2), added(2, 3)], 2, 2), Verdict::Fail);
        assert_eq!(verdict(&[Added { conflicts: 0, ..added(1, 2) }], 2, 1), Verdict::Inconclusive);
    }
}
