//! Append. Every receipt must be in the chain, at its place and with its hash, and the chain must verify.

use std::collections::HashMap;

use onward::audit::verify::Verdict;
use onward_api::client::{Client, Problem, Request};
use serde::Deserialize;
use serde_json::{Map, json};

use super::Options;
use super::load::{Load, Once};
use super::report::Judgement;
use crate::audit::streamed;
use crate::failure::Result;
use crate::progress::{Progress, When};
use crate::seed::Random;

/// Entries a page.
const PAGE: u64 = 1_000;

/// One chain a key.
#[derive(Debug)]
pub(super) struct Appends {
    chains: Vec<String>,
    data: String,
    clients: u32,
}

/// What one append was told.
#[derive(Clone, Debug)]
pub(super) struct Told {
    chain: usize,
    seq: u64,
    hash: String,
}

#[derive(Deserialize)]
struct Receipts {
    receipts: Vec<Entry>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(with = "onward_api::number")]
    seq: u64,
    hash: String,
}

impl Appends {
    pub(super) fn new(prefix: String, options: &Options) -> Self {
        let chains = (0..options.keys).map(|n| format!("{prefix}.{n}")).collect();
        Self { chains, data: "x".repeat(options.payload as usize), clients: options.clients }
    }

    fn path(&self, chain: usize, rest: &str) -> String {
        format!("chains/{}/{rest}", self.chains.get(chain).map_or("", String::as_str))
    }
}

impl Load for Appends {
    type Record = Told;

    async fn once(&self, client: &Client, chain: usize, _: &mut Random) -> std::result::Result<Once<Told>, Problem> {
        let ask = json!({"entries": [{"kind": "bench.append", "data_text": self.data}]});
        match client.call(Request::post(self.path(chain, "entries")).json(&ask)).await {
            Ok(answer) => {
                let told = answer.json::<Receipts>()?.receipts.into_iter().next();
                let record = told.map(|Entry { seq, hash }| Told { chain, seq, hash });
                Ok(Once { record, conflicts: 0, unknown: false })
            }
            Err(problem) => Once::unknown(problem, None, 0),
        }
    }

    async fn judge(self, client: &Client, records: Vec<Told>) -> Result<Judgement> {
        for chain in 0..self.chains.len() {
            let told: Vec<&Told> = records.iter().filter(|told| told.chain == chain).collect();
            if told.is_empty() {
                continue;
            }
            let name = self.chains.get(chain).map_or("", String::as_str);
            let verdict = streamed(client, name, Map::new(), &mut Progress::begin(When::Never, "rows")).await?.verdict;
            if verdict != Verdict::Ok {
                return Ok(Judgement::fail(format!("chain {chain} does not verify: {verdict}")));
            }
            let mut kept = HashMap::new();
            let mut from = 1;
            loop {
                let page: Page =
                    client.call(Request::get(self.path(chain, "entries")).query("from_seq", from).query("limit", PAGE)).await?.json()?;
                let Some(last) = page.items.last() else { break };
                from = last.seq + 1;
                kept.extend(page.items.into_iter().map(|entry| (entry.seq, entry.hash)));
            }
            if let Some(bad) = missing(&told, &kept) {
                return Ok(Judgement::fail(format!("chain {chain}: {bad}")));
            }
        }
        Ok(Judgement::pass(
            format!("{} receipts, each in a chain that verifies, at its place and with its hash", records.len()),
            self.clients > 1 && !records.is_empty(),
            "one client races with nobody",
        ))
    }
}

/// The first receipt that the chain does not bear out, in words.
fn missing(told: &[&Told], kept: &HashMap<u64, String>) -> Option<String> {
    let mut given = HashMap::new();
    told.iter().find_map(|told| match kept.get(&told.seq) {
        None => Some(format!("entry {} was acknowledged and is not there", told.seq)),
        Some(hash) if *hash != told.hash => Some(format!("entry {} was acknowledged with another hash", told.seq)),
        Some(_) if given.insert(told.seq, ()).is_some() => Some(format!("entry {} was given to two callers", told.seq)),
        Some(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_that_the_chain_does_not_bear_out_is_found() {
        let told = |seq, hash: &str| Told { chain: 0, seq, hash: hash.to_owned() };
        let kept = HashMap::from([(1, "a".to_owned()), (2, "b".to_owned())]);
        let judged = |told: &[Told]| missing(&told.iter().collect::<Vec<_>>(), &kept);
        assert_eq!(judged(&[told(2, "b"), told(1, "a")]), None);
        assert!(judged(&[told(3, "c")]).unwrap().contains("not there"));
        assert!(judged(&[told(1, "b")]).unwrap().contains("another hash"));
        assert!(judged(&[told(1, "a"), told(1, "a")]).unwrap().contains("two callers"));
    }
}
