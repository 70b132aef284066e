//! What a person should know about a Redis that keeps a cache: role, version, memory, persistence, clock, how far away it is.

use std::time::Duration;

use redis::Value;

use super::cache::{RedisCache, server_ms};
use super::connection::Link;
use crate::Result;
use crate::observe::{Finding, Grade};
use crate::time::Clock;

/// The oldest release that the tests run on.
const OLDEST: (u32, u32) = (7, 0);
/// A server whose clock is further away than this is mentioned; nothing rests on it.
const CLOCK_APART_MS: u64 = 1_000;
/// A round trip that takes longer eats up what a cache saves.
const FAR: Duration = Duration::from_millis(20);
/// How many round trips are timed.
const TRIPS: usize = 20;

impl RedisCache {
    /// Looks at every server.
    pub(super) async fn look_around(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for link in self.nodes.links() {
            findings.extend(look(&link).await?);
        }
        Ok(findings)
    }
}

async fn look(link: &Link) -> Result<Vec<Finding>> {
    let info: Value = link.call(redis::cmd("INFO").arg("all")).await?;
    let text = super::connection::text(&info);
    let fact = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
    let number = |name: &str| fact(name).parse::<u64>().unwrap_or_default();
    let version = fact("redis_version");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let release = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut findings = vec![
        Finding::of(
            "cache.server",
            release >= OLDEST,
            Grade::Warning,
            format!("redis {version}, {}", fact("redis_mode")),
            "take 7.0 or newer: older releases are not tested",
        ),
        Finding::of(
            "cache.role",
            fact("role") == "master",
            Grade::Failure,
            format!("role {}, {} replicas", fact("role"), number("connected_slaves")),
            "a replica refuses fills and purges: name the primary",
        ),
        memory(number("maxmemory"), number("used_memory"), fact("maxmemory_policy")),
        Finding::of(
            "cache.persistence",
            fact("rdb_last_bgsave_status") != "err" && fact("aof_last_write_status") != "err",
            Grade::Failure,
            format!("append-only file {}, last snapshot {}", switch(fact("aof_enabled")), fact("rdb_last_bgsave_status")),
            "a server that cannot save refuses writes, purges too: make room on its disk, or switch saving off",
        ),
    ];
    findings.extend(clock_and_way(link).await?);
    Ok(findings)
}

fn switch(flag: &str) -> &str {
    if flag == "1" { "on" } else { "off" }
}

fn memory(limit: u64, used: u64, policy: &str) -> Finding {
    let check = "cache.memory";
    let found = format!("{used} bytes of {limit} in use, policy {policy}");
    if limit == 0 {
        let found = format!("{used} bytes in use, no limit");
        return Finding::bad(check, Grade::Warning, found, "set maxmemory, or a busy cache takes all that the machine has");
    }
    let is_fine = policy != "noeviction";
    Finding::of(
        check,
        is_fine,
        Grade::Warning,
        found,
        "a full server refuses fills: CONFIG SET maxmemory-policy allkeys-lru, if it keeps no locks",
    )
}

async fn clock_and_way(link: &Link) -> Result<Vec<Finding>> {
    let clock = Clock::system();
    let (mut best, mut worst, mut apart) = (Duration::MAX, Duration::ZERO, 0);
    for _ in 0..TRIPS {
        let sent = clock.now();
        let time: Value = link.call(&redis::cmd("TIME")).await?;
        let took = clock.now().since(sent);
        worst = worst.max(took);
        if took < best {
            best = took;
            let here = u64::try_from(clock.wall().as_micros() / 1_000).unwrap_or_default();
            apart = server_ms(&time).unwrap_or_default().abs_diff(here);
        }
    }
    let of = |fine, check, found: String, fix| Finding::of(check, fine, Grade::Warning, found, fix);
    Ok(vec![
        of(
            apart <= CLOCK_APART_MS,
            "cache.clock",
            format!("{apart} ms from the clock here"),
            "no promise rests on it, but times in logs do not match: let NTP set both",
        ),
        of(
            worst <= FAR,
            "cache.latency",
            format!("a round trip takes {:.1} ms, the slowest of {TRIPS} {:.1} ms", ms(best), ms(worst)),
            "put the server nearer, or see its SLOWLOG and LATENCY DOCTOR",
        ),
    ])
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
