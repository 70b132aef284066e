//! A source that changes, and a cache in front of it. A read that begins after an acknowledged invalidation must not be older than it.

use std::sync::atomic::{AtomicU64, Ordering};

use onward_api::client::{Client, Problem, Request};
use onward_api::locks::Outcome;
use onward_api::{Code, header};

use super::Options;
use super::load::{Load, Once};
use super::report::Judgement;
use crate::failure::Result;
use crate::seed::Random;

/// One turn of so many changes the source.
const CHANGE_ONE_IN: usize = 10;
/// How long a value may live.
const TTL_MS: &str = "60000";

/// The source, and what was told of it.
#[derive(Debug)]
pub(super) struct Values {
    namespace: String,
    pad: usize,
    rows: Vec<Row>,
}

/// One row of the source.
#[derive(Debug, Default)]
struct Row {
    /// What it is now.
    now: AtomicU64,
    /// The newest change whose invalidation was acknowledged.
    acknowledged: AtomicU64,
}

/// One read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    key: usize,
    /// What was acknowledged before it began.
    floor: u64,
    found: u64,
    superseded: bool,
}

impl Values {
    pub(super) fn new(prefix: String, options: &Options) -> Self {
        let rows = (0..options.keys).map(|_| Row::default()).collect();
        Self { namespace: prefix, pad: options.payload as usize, rows }
    }

    fn path(&self, key: usize) -> String {
        format!("cache/{}/{key}", self.namespace)
    }

    async fn change(&self, client: &Client, key: usize, row: &Row) -> std::result::Result<Once<Read>, Problem> {
        let change = row.now.fetch_add(1, Ordering::SeqCst) + 1;
        match client.call(Request::delete(self.path(key))).await {
            // 202: it waits, and no promise holds yet.
            Ok(answer) if answer.status != http::StatusCode::ACCEPTED => {
                row.acknowledged.fetch_max(change, Ordering::SeqCst);
                Ok(Once { record: None, conflicts: 0, unknown: false })
            }
            Ok(_) => Ok(Once { record: None, conflicts: 0, unknown: true }),
            Err(problem) => Once::unknown(problem, None, 0),
        }
    }

    async fn read(&self, client: &Client, key: usize, row: &Row) -> std::result::Result<Once<Read>, Problem> {
        let floor = row.acknowledged.load(Ordering::SeqCst);
        let fill = match client.call(Request::get(self.path(key)).query("wait_ms", 2_000)).await {
            Ok(answer) if answer.status == http::StatusCode::ACCEPTED => return Ok(Once { record: None, conflicts: 1, unknown: false }),
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.body);
                let found = text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
                return Ok(Once::done(Read { key, floor, found, superseded: false }, 0));
            }
            Err(problem) => match (problem.code(), problem.header(header::FILL)) {
                (Code::CacheMiss, Some(fill)) => fill.to_owned(),
                _ => return Err(problem),
            },
        };
        let found = row.now.load(Ordering::SeqCst);
        // The source takes a while; others change it meanwhile.
        tokio::task::yield_now().await;
        let put = Request::put(self.path(key))
            .header(header::FILL, &fill)
            .header(header::TTL_MS, TTL_MS)
            .body("application/octet-stream", format!("{found} {}", "x".repeat(self.pad)));
        match client.call(put).await {
            Ok(answer) => {
                let superseded = answer.json::<Outcome>()?.outcome == "superseded";
                Ok(Once::done(Read { key, floor, found, superseded }, u64::from(superseded)))
            }
            Err(problem) => Once::unknown(problem, None, 0),
        }
    }
}

impl Load for Values {
    type Record = Read;

    async fn once(&self, client: &Client, key: usize, random: &mut Random) -> std::result::Result<Once<Read>, Problem> {
        let none = Row::default();
        let row = self.rows.get(key).unwrap_or(&none);
        if random.within(0, CHANGE_ONE_IN) == 0 { self.change(client, key, row).await } else { self.read(client, key, row).await }
    }

    async fn judge(self, client: &Client, records: Vec<Read>) -> Result<Judgement> {
        client.call(Request::delete(format!("cache/{}", self.namespace)).text_header(header::REASON, "the benchmark is over")).await?;
        Ok(judge(&records))
    }
}

/// No read is older than what was acknowledged before it began.
fn judge(reads: &[Read]) -> Judgement {
    if let Some(stale) = reads.iter().find(|read| read.found < read.floor) {
        let Read { key, floor, found, .. } = stale;
        return Judgement::fail(format!(
            "key {key}: a read found {found}, and the invalidation of {floor} was acknowledged before it began"
        ));
    }
    let superseded = reads.iter().filter(|read| read.superseded).count();
    Judgement::pass(
        format!("{} reads, none older than an acknowledged invalidation; {superseded} late fills were refused", reads.len()),
        superseded > 0,
        "no fill ever came too late",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Verdict;

    #[test]
    fn a_read_from_before_an_acknowledged_invalidation_is_found() {
        let read = |floor, found| Read { key: 0, floor, found, superseded: true };
        assert_eq!(judge(&[read(0, 0), read(1, 1), read(1, 2)]).verdict, Verdict::Pass);
        assert_eq!(judge(&[read(0, 0), read(2, 1)]).verdict, Verdict::Fail);
        assert_eq!(judge(&[Read { superseded: false, ..read(1, 1) }]).verdict, Verdict::Inconclusive);
    }
}
