//! Counting what a namespace holds, within bounds.

use std::collections::BTreeSet;

use redis::Value;

use super::cache::{RedisCache, number};
use super::cache_names::{bucket, prefix};
use super::cache_nodes::Way;
use super::cache_steps::{Act, Step};
use super::error::{Sent, of_call, strange};
use crate::Result;
use crate::cache::{CacheStats, Slot};

/// Names that one page of a scan looks at.
const PAGE: usize = 1_000;
/// Pages of a count; beyond them the figures are scaled up.
const PAGES: u64 = 64;

impl RedisCache {
    /// Counts a namespace: exactly if the server holds no more than some 64,000 names, else by a sample.
    pub(super) async fn count(&self, namespace: &str) -> Result<CacheStats> {
        let (bucket, prefix) = (bucket(namespace), prefix(namespace));
        let mut keys = BTreeSet::new();
        let (mut cursor, mut pages) = (0, 0);
        loop {
            let mut page = redis::Pipeline::with_capacity(1);
            page.cmd("SCAN").arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(PAGE);
            let (mut answers, _) = self.nodes.each(bucket, Way::Calls, &page).await?;
            let answer = answers.pop().ok_or_else(strange)?.map_err(|error| of_call(error, Sent::Command))?;
            let Value::Array(parts) = answer else { return Err(strange()) };
            let [next, Value::Array(names)] = parts.as_slice() else { return Err(strange()) };
            cursor = number(next).ok_or_else(strange)?;
            pages += 1;
            for name in names {
                let Value::BulkString(name) = name else { continue };
                // After the prefix stand the part, a colon and the key.
                keys.extend(name.get(prefix.len() + 2..).map(Vec::from));
            }
            if cursor == 0 || pages >= PAGES {
                break;
            }
        }
        let steps = keys.iter().map(|key| Step::new(Act::Count, Slot { namespace, key, field: None }).shared(self.sharing(namespace)));
        let steps: Vec<Step<'_>> = steps.collect();
        let mut sum = CacheStats::default();
        for steps in steps.chunks(PAGE) {
            for answer in self.nodes.carry_out(bucket, Way::Calls, &self.told_time(), steps).await? {
                // What is not ours is not counted.
                let Ok(Value::Array(counted)) = answer else { continue };
                let part = |at: usize| counted.get(at).and_then(number).unwrap_or_default();
                sum.entries += part(0);
                sum.bytes += part(1);
                sum.reservations += part(2);
                sum.guarded += part(3);
            }
        }
        if cursor == 0 {
            return Ok(sum);
        }
        let mut size = redis::Pipeline::with_capacity(1);
        size.cmd("DBSIZE");
        let (answers, _) = self.nodes.each(bucket, Way::Calls, &size).await?;
        let size = answers.first().and_then(|answer| number(answer.as_ref().ok()?)).unwrap_or_default();
        let scale = |count: u64| (count.saturating_mul(size) / (pages * PAGE as u64)).max(count);
        Ok(CacheStats {
            entries: scale(sum.entries),
            bytes: scale(sum.bytes),
            reservations: scale(sum.reservations),
            guarded: scale(sum.guarded),
        })
    }
}
