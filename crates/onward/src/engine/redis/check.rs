//! What a person should know about a Redis: role, version, memory, persistence, replicas, clock, how far away it is.
//!
//! The facts are the same for both parts; what they mean is not: a cache may lose anything and wants room, a lock may lose nothing.

use std::time::Duration;

use redis::Value;

use super::cache::{RedisCache, number, server_ms};
use super::connection::{Link, text};
use super::lock::{FENCE, RedisLocks};
use crate::Result;
use crate::cache::Layout;
use crate::observe::{Finding, Grade};
use crate::time::Clock;

/// The oldest release that the tests run on.
const OLDEST: (u32, u32) = (7, 0);
/// A server whose clock is further away than this is mentioned; nothing rests on it.
const CLOCK_APART_MS: u64 = 1_000;
/// A round trip that takes longer eats up what a cache saves, and adds to every lock.
const FAR: Duration = Duration::from_millis(20);
/// How many round trips are timed.
const TRIPS: usize = 20;

/// What nobody here can mend.
const SHARED: &str = "the namespace default shares purges with utopia-php/cache: PHP's own fills are exposed after eviction and FLUSHDB, and a \
                      purge that its circuit breaker drops is lost";

/// The names of findings that both parts have.
struct Names {
    server: &'static str,
    role: &'static str,
    clock: &'static str,
    latency: &'static str,
}

const CACHE: Names = Names { server: "cache.server", role: "cache.role", clock: "cache.clock", latency: "cache.latency" };
const LOCKS: Names = Names { server: "locks.server", role: "locks.role", clock: "locks.clock", latency: "locks.latency" };

impl RedisCache {
    /// Looks at every server.
    pub(super) async fn look_around(&self) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for link in self.nodes.links() {
            let facts = Facts::of(&link).await?;
            findings.extend([facts.server(&CACHE), facts.role(&CACHE), facts.cache_memory(), facts.cache_persistence()]);
            findings.extend(Way::to(&link).await?.findings(&CACHE));
        }
        if self.layout() != Layout::Onward {
            findings.push(Finding::fine("cache.layout", SHARED));
        }
        Ok(findings)
    }
}

impl RedisLocks {
    /// Looks at the server.
    pub(super) async fn look_around(&self) -> Result<Vec<Finding>> {
        let link = &self.calls;
        let facts = Facts::of(link).await?;
        let mut findings = vec![facts.server(&LOCKS), facts.role(&LOCKS), facts.lock_memory(), facts.lock_persistence(), facts.replicas()];
        let way = Way::to(link).await?;
        let counter: Value = link.call(redis::cmd("GET").arg(FENCE)).await?;
        findings.extend(way.findings(&LOCKS));
        findings.push(way.counter(number(&counter).unwrap_or_default()));
        Ok(findings)
    }
}

/// What a server says of itself.
struct Facts(String);

impl Facts {
    async fn of(link: &Link) -> Result<Self> {
        let info: Value = link.call(redis::cmd("INFO").arg("all")).await?;
        Ok(Self(text(&info).to_owned()))
    }

    fn fact(&self, name: &str) -> &str {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
    }

    fn number(&self, name: &str) -> u64 {
        self.fact(name).parse().unwrap_or_default()
    }

    fn server(&self, names: &Names) -> Finding {
        let version = self.fact("redis_version");
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
        let release = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        Finding::of(
            names.server,
            release >= OLDEST,
            Grade::Warning,
            format!("redis {version}, {}", self.fact("redis_mode")),
            "take 7.0 or newer: older releases are not tested",
        )
    }

    fn role(&self, names: &Names) -> Finding {
        Finding::of(
            names.role,
            self.fact("role") == "master",
            Grade::Failure,
            format!("role {}, {} replicas", self.fact("role"), self.number("connected_slaves")),
            "a replica refuses every write: name the primary",
        )
    }

    fn saves(&self) -> bool {
        self.fact("rdb_last_bgsave_status") != "err" && self.fact("aof_last_write_status") != "err"
    }

    fn saving(&self) -> String {
        let switch = |flag: &str| if flag == "1" { "on" } else { "off" };
        format!("append-only file {}, last snapshot {}", switch(self.fact("aof_enabled")), self.fact("rdb_last_bgsave_status"))
    }

    fn used(&self) -> String {
        let (limit, used, policy) = (self.number("maxmemory"), self.number("used_memory"), self.fact("maxmemory_policy"));
        match limit {
            0 => format!("{used} bytes in use, no limit"),
            _ => format!("{used} bytes of {limit} in use, policy {policy}"),
        }
    }

    fn cache_memory(&self) -> Finding {
        let check = "cache.memory";
        if self.number("maxmemory") == 0 {
            return Finding::bad(check, Grade::Warning, self.used(), "set maxmemory, or a busy cache takes all that the machine has");
        }
        Finding::of(
            check,
            self.fact("maxmemory_policy") != "noeviction",
            Grade::Warning,
            self.used(),
            "a full server refuses fills: CONFIG SET maxmemory-policy allkeys-lru, if it keeps no locks",
        )
    }

    fn cache_persistence(&self) -> Finding {
        Finding::of(
            "cache.persistence",
            self.saves(),
            Grade::Failure,
            self.saving(),
            "a server that cannot save refuses writes, purges too: make room on its disk, or switch saving off",
        )
    }

    /// Without a limit nothing is evicted, whatever the policy says.
    fn lock_memory(&self) -> Finding {
        Finding::of(
            "locks.memory",
            self.number("maxmemory") == 0 || self.fact("maxmemory_policy") == "noeviction",
            Grade::Warning,
            self.used(),
            "a full server may evict a lease, and two then hold the lock: CONFIG SET maxmemory-policy noeviction, and keep caches elsewhere",
        )
    }

    fn lock_persistence(&self) -> Finding {
        let check = "locks.persistence";
        if !self.saves() {
            let fix = "a server that cannot save refuses writes, so nobody gets a lock: make room on its disk, or switch saving off";
            return Finding::bad(check, Grade::Failure, self.saving(), fix);
        }
        Finding::of(
            check,
            self.fact("aof_enabled") == "1",
            Grade::Warning,
            self.saving(),
            "a restart frees every lock under its holder, who learns it at his next renewal (tokens go on growing): CONFIG SET appendonly yes, \
             or check tokens where it matters",
        )
    }

    fn replicas(&self) -> Finding {
        let (all, least) = (self.number("connected_slaves"), self.fact("min_slaves_good_slaves"));
        let check = "locks.replicas";
        match (all, least) {
            (0, _) => Finding::fine(check, "no replicas, so no failover"),
            // The server tells how many are good only if it insists on some.
            (_, "") => Finding::bad(
                check,
                Grade::Warning,
                format!("{all} replicas, and writes wait for none"),
                "a failover may lose the last grants, and two then hold a lock: CONFIG SET min-replicas-to-write 1 ends the writes of a primary \
                 that is cut off; check tokens where it matters",
            ),
            (_, good) => Finding::fine(check, format!("{all} replicas, {good} of them near: a primary that is cut off stops to write")),
        }
    }
}

/// How far away a server is, in time and in what its clock says.
struct Way {
    best: Duration,
    worst: Duration,
    server_ms: u64,
    here_ms: u64,
}

impl Way {
    async fn to(link: &Link) -> Result<Self> {
        let clock = Clock::system();
        let mut way = Self { best: Duration::MAX, worst: Duration::ZERO, server_ms: 0, here_ms: 0 };
        for _ in 0..TRIPS {
            let sent = clock.now();
            let time: Value = link.call(&redis::cmd("TIME")).await?;
            let took = clock.now().since(sent);
            way.worst = way.worst.max(took);
            if took < way.best {
                way.best = took;
                way.here_ms = u64::try_from(clock.wall().as_micros() / 1_000).unwrap_or_default();
                way.server_ms = server_ms(&time).unwrap_or_default();
            }
        }
        Ok(way)
    }

    fn findings(&self, names: &Names) -> [Finding; 2] {
        let apart = self.server_ms.abs_diff(self.here_ms);
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        [
            Finding::of(
                names.clock,
                apart <= CLOCK_APART_MS,
                Grade::Warning,
                format!("{apart} ms from the clock here"),
                "no promise rests on it, but times in logs do not match: let NTP set both",
            ),
            Finding::of(
                names.latency,
                self.worst <= FAR,
                Grade::Warning,
                format!("a round trip takes {:.1} ms, the slowest of {TRIPS} {:.1} ms", ms(self.best), ms(self.worst)),
                "put the server nearer, or see its SLOWLOG and LATENCY DOCTOR",
            ),
        ]
    }

    /// Tokens follow the server's clock, so a counter ahead of it tells that the clock, or another one before it, went wrong.
    fn counter(&self, newest: u64) -> Finding {
        let ahead = (newest / 1_000).saturating_sub(self.server_ms);
        Finding::of(
            "locks.counter",
            ahead <= CLOCK_APART_MS,
            Grade::Warning,
            if newest == 0 {
                "no token was given yet".to_owned()
            } else {
                format!("the newest token is {ahead} ms ahead of the server's clock")
            },
            "the server's clock went back, or a store had seen tokens of the future: tokens still grow; let NTP set the clock, \
             for leases end by it",
        )
    }
}
