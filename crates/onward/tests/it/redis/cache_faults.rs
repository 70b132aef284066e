//! The cache on Redis when the server, the way to it or its data is spoilt: an invalidation is done or not reported as done, and nothing
//! from before it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use onward::cache::layers::{Breaker, Tiered};
use onward::cache::{Cache, CacheEngine, CacheOptions, Filled, How, Invalidation, Lease, Lookup, Now, Reserved, Scope, Slot, Unfilled};
use onward::engine::memory::MemoryCache;
use onward::engine::redis::{Address, RedisCache};
use onward::observe::Silent;
use onward::testing::cache::staleness::{race, race_stale};
use onward::testing::servers::{Keep, Proxy, Redis, RedisCluster};
use onward::time::Clock;
use onward::{Effect, Kind};

use super::cache::{own_database, server};

/// How long a test waits for what must come; only a broken engine lets it pass.
const PATIENCE: Duration = Duration::from_secs(20);
const SLOT: Slot<'_> = Slot { namespace: "default", key: b"k", field: None };

async fn engine(url: &str) -> Arc<dyn CacheEngine> {
    Arc::new(RedisCache::open(&Address::parse(url).unwrap(), Clock::system()).await.unwrap())
}

pub(super) fn over(engine: &Arc<dyn CacheEngine>) -> Cache {
    let options = CacheOptions::default().with_jitter_percent(0).with_op_timeout(Duration::from_secs(2));
    Cache::new(Arc::clone(engine), "default", options, Clock::system(), Arc::new(Silent)).unwrap()
}

async fn cache(url: &str) -> Cache {
    over(&engine(url).await)
}

pub(super) async fn lease(cache: &Cache, key: &str) -> Lease<u64> {
    match cache.begin(key).await.unwrap() {
        Lookup::Lease(lease) => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

pub(super) async fn fill(cache: &Cache, key: &str, value: u64) {
    assert_eq!(lease(cache, key).await.commit(&value).await.unwrap(), Filled::Stored);
}

/// Waits until the connection is there again.
pub(super) async fn get_again(cache: &Cache, key: &str) -> Option<Option<u64>> {
    let patience = Clock::system().now() + PATIENCE;
    loop {
        match cache.get::<u64>(key).await {
            Ok(found) => return found,
            Err(error) => assert!(error.kind() == Kind::Backend && Clock::system().now() < patience, "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let patience = Clock::system().now() + PATIENCE;
    while !is_so().await {
        assert!(Clock::system().now() < patience, "{what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn killed_and_restarted_empty_no_lease_from_before_lands() {
    let server = Redis::start();
    let cache = cache(&server.url()).await;
    fill(&cache, "k", 1).await;
    let in_flight = lease(&cache, "l").await;
    server.restart(Keep::Nothing);
    assert_eq!(get_again(&cache, "k").await, None);
    assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    fill(&cache, "k", 2).await;
    assert_eq!(cache.get("k").await.unwrap(), Some(Some(2u64)));
}

#[tokio::test]
async fn restart_from_an_old_snapshot_brings_back_nothing_that_was_purged() {
    let server = Redis::start();
    let (here, there) = (cache(&server.url()).await, cache(&server.url()).await);
    fill(&here, "k", 1).await;
    let in_flight = lease(&here, "l").await;
    let in_flight_elsewhere = lease(&there, "m").await;
    assert_eq!(server.ask("SAVE"), "OK");
    assert_eq!(here.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(here.invalidate("l").await.unwrap(), Invalidation::Absent);
    server.kill();
    server.revive();
    assert_ne!(server.ask("DBSIZE"), "0", "the snapshot was not loaded");
    assert_eq!(get_again(&here, "k").await, None, "a purged value came back");
    assert_eq!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { now: Now::Flushed });
    // Whoever comes later sees the same, also if nobody has begun an epoch yet.
    assert_eq!(cache(&server.url()).await.get::<u64>("k").await.unwrap(), None);
    assert!(get_again(&there, "k").await.is_none());
    assert!(matches!(in_flight_elsewhere.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    fill(&here, "k", 2).await;
    assert_eq!(there.get("k").await.unwrap(), Some(Some(2u64)));
}

#[tokio::test]
async fn scripts_forgotten_between_calls_and_inside_a_batch_cost_a_trip_and_nothing_else() {
    let server = Redis::start();
    let cache = cache(&server.url()).await;
    let forget = || assert_eq!(server.ask("SCRIPT FLUSH"), "OK");
    forget();
    let held = lease(&cache, "k").await;
    forget();
    assert_eq!(held.commit(&1).await.unwrap(), Filled::Stored);
    forget();
    assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    let over = Arc::new(AtomicBool::new(false));
    let forgetting = std::thread::spawn({
        let (over, port) = (Arc::clone(&over), server.port());
        move || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut answer = [0; 64];
            let mut times = 0;
            while !over.load(Ordering::SeqCst) {
                std::io::Write::write_all(&mut stream, b"SCRIPT FLUSH\r\n").unwrap();
                times += usize::from(std::io::Read::read(&mut stream, &mut answer).unwrap() > 0);
            }
            times
        }
    });
    let keys: Vec<String> = (0..500).map(|key| format!("k{key}")).collect();
    let mut stored = 0;
    for round in 0..20 {
        let mut fills = Vec::new();
        for lookup in cache.begin_many::<u64, _>(&keys).await.unwrap() {
            // A script forgotten twice in one call is an error, never a lease that is none.
            if let Lookup::Lease(lease) = lookup {
                fills.push((lease, &round));
            }
        }
        for filled in cache.commit_many(fills).await.unwrap() {
            stored += usize::from(matches!(filled, Ok(Filled::Stored)));
        }
        let mut gone = Vec::new();
        for (key, purged) in keys.iter().zip(cache.invalidate_many(&keys).await.unwrap()) {
            if purged.is_ok() {
                gone.push(key);
            }
        }
        for found in cache.get_many::<u64, _>(&gone).await.unwrap() {
            assert_eq!(found.unwrap(), None, "a purge that was reported as done was not");
        }
    }
    over.store(true, Ordering::SeqCst);
    assert!(forgetting.join().unwrap() > 10);
    assert!(stored > 100, "{stored} of 10000 were stored");
}

#[tokio::test]
async fn after_flushdb_nothing_is_live_and_late_fills_are_refused() {
    let server = Redis::start();
    let cache = cache(&server.url()).await;
    fill(&cache, "k", 1).await;
    let (one, two) = (lease(&cache, "l").await, lease(&cache, "m").await);
    assert_eq!(server.ask("FLUSHDB"), "OK");
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    assert!(matches!(one.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    fill(&cache, "k", 2).await;
    assert!(matches!(two.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    // An evicted epoch is the same for all that was under it.
    for bucket in 0..16 {
        server.ask(&format!("DEL on:c1:{{{bucket}}}"));
    }
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_purge_cut_at_any_stage_is_done_or_not_reported_as_done() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let (through, direct) = (cache(&proxy.redis_url()).await, cache(&server.url()).await);
    // The script is known, so that each request has one length.
    let _ = through.invalidate("k").await.unwrap();
    let (mut done, mut failed) = (0, 0);
    for stage in (0..600).step_by(20) {
        for cut in [Proxy::cut_after_requests, Proxy::cut_after_answers] {
            direct.invalidate("k").await.map(drop).unwrap();
            fill(&direct, "k", 1).await;
            let in_flight = lease(&direct, "l").await;
            assert!(get_again(&through, "k").await.is_some());
            cut(&proxy, stage);
            for key in ["k", "l"] {
                match through.invalidate(key).await {
                    Ok(_) => {
                        done += 1;
                        assert_eq!(direct.get::<u64>(key).await.unwrap(), None, "stage {stage}");
                    }
                    Err(error) => {
                        failed += 1;
                        assert_eq!(error.kind(), Kind::Backend, "{error:?}");
                        if error.effect() == Effect::NotApplied && key == "k" {
                            assert!(direct.get::<u64>(key).await.unwrap().is_some(), "stage {stage}: {error:?}");
                        }
                    }
                }
            }
            let filled = in_flight.commit(&1).await.unwrap();
            direct.invalidate("l").await.map(drop).unwrap();
            proxy.heal();
            assert!(matches!(filled, Filled::Stored | Filled::Superseded { .. }));
        }
    }
    assert!(done > 10 && failed > 10, "{done} done, {failed} failed");
}

#[tokio::test]
async fn a_fill_cut_at_any_stage_leaves_a_value_or_none() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let (through, direct) = (cache(&proxy.redis_url()).await, cache(&server.url()).await);
    for stage in (0..900).step_by(60) {
        for cut in [Proxy::cut_after_requests, Proxy::cut_after_answers] {
            let _ = get_again(&through, "k").await;
            direct.invalidate("k").await.map(drop).unwrap();
            cut(&proxy, stage);
            let fetched = through.fetch("k", |_| async { Ok::<_, onward::Error>(Some(7u64)) }).await.unwrap();
            assert_eq!(fetched.value, Some(7), "the reader has its value whatever happens");
            assert!(matches!(direct.get("k").await.unwrap(), None | Some(Some(7u64))), "stage {stage}");
            proxy.heal();
        }
    }
}

#[tokio::test]
async fn an_answer_that_comes_after_the_lease_is_no_leave_to_fill() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let (through, direct) = (engine(&proxy.redis_url()).await, engine(&server.url()).await);
    let life = onward::cache::Life { ttl: PATIENCE, grace: Duration::ZERO };
    let fill_ttl = Duration::from_millis(50);
    proxy.delay_answers(fill_ttl * 3);
    let Reserved::Lease(late) = through.reserve(SLOT, fill_ttl, None).await.unwrap() else { panic!("expected a lease") };
    // By now it is another's, who is done before the first one comes.
    let Reserved::Lease(next) = direct.reserve(SLOT, PATIENCE, None).await.unwrap() else { panic!("the lease did not end") };
    assert_eq!(direct.commit(SLOT, next, Bytes::from_static(b"new"), life).await.unwrap(), Filled::Stored);
    let filled = through.commit(SLOT, late, Bytes::from_static(b"old"), life).await.unwrap();
    assert_eq!(filled, Filled::Superseded { now: Now::Replaced });
    assert_eq!(&*direct.lookup(SLOT).await.unwrap().unwrap().payload, b"new");
}

#[tokio::test]
async fn with_redis_paused_every_call_ends_in_its_time_and_purges_wait() {
    let server = Redis::start();
    let engine = engine(&server.url()).await;
    let breaker = Arc::new(Breaker::new(engine, Clock::system()));
    let cache = over(&(Arc::clone(&breaker) as Arc<dyn CacheEngine>));
    fill(&cache, "k", 1).await;
    let in_flight = lease(&cache, "l").await;
    server.pause();
    let clock = Clock::system();
    let limit = Duration::from_secs(3);
    let begun = clock.now();
    assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Queued);
    assert_eq!(cache.get::<u64>("k").await.unwrap_err().kind(), Kind::Backend);
    let loaded = cache.fetch("k", |_| async { Ok::<_, onward::Error>(Some(2u64)) }).await.unwrap();
    assert_eq!((loaded.value, loaded.how), (Some(2), How::Unfilled(Unfilled::Away)));
    let other = cache.in_namespace("other").unwrap();
    assert!(other.get::<u64>("k").await.is_err());
    assert!(other.write_guard(["k"]).await.is_err());
    assert!(other.stats().await.is_err());
    assert!(other.touch("k", limit).await.is_err());
    assert!(in_flight.commit(&1).await.is_err());
    assert!(clock.now().since(begun) < limit, "calls took {:?}", clock.now().since(begun));
    server.go_on();
    until("what waits is sent again", async || breaker.queued() == 0).await;
    assert_eq!(get_again(&cache, "k").await, None);
    let direct = self::cache(&server.url()).await;
    assert_eq!(direct.get::<u64>("l").await.unwrap(), None);
}

#[tokio::test]
async fn a_purge_while_redis_is_gone_is_replayed_when_it_is_back() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let breaker = Arc::new(Breaker::new(engine(&proxy.redis_url()).await, Clock::system()));
    let cache = over(&(Arc::clone(&breaker) as Arc<dyn CacheEngine>));
    let direct = self::cache(&server.url()).await;
    fill(&cache, "k", 1).await;
    fill(&cache, "l", 1).await;
    proxy.refuse();
    assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Queued);
    assert_eq!(direct.get("k").await.unwrap(), Some(Some(1u64)));
    assert!(cache.get::<u64>("l").await.is_err(), "the namespace is bypassed");
    proxy.heal();
    until("what waits is sent again", async || breaker.queued() == 0).await;
    assert_eq!(direct.get::<u64>("k").await.unwrap(), None);
    assert_eq!(get_again(&cache, "l").await, Some(Some(1)));
}

#[tokio::test]
async fn out_of_memory_still_purges() {
    let server = Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]);
    let cache = cache(&server.url()).await;
    let big = "x".repeat(100_000);
    let mut refused = 0;
    for key in 0..60 {
        let fetched = cache.fetch(format!("k{key}"), |_| async { Ok::<_, onward::Error>(Some(big.clone())) }).await.unwrap();
        assert_eq!(fetched.value.as_deref(), Some(big.as_str()));
        refused += usize::from(fetched.how == How::Unfilled(Unfilled::Away));
    }
    assert!(refused > 10, "the server was never full");
    assert_eq!(cache.invalidate("k0").await.unwrap(), Invalidation::Removed);
    assert_eq!(cache.get::<String>("k0").await.unwrap(), None);
    cache.flush_namespace().await.unwrap();
    assert_eq!(cache.get::<String>("k1").await.unwrap(), None);
}

#[tokio::test]
async fn eviction_costs_misses_only() {
    let server = Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-random"]);
    let cache = cache(&server.url()).await;
    let mut newest = vec![0; 50];
    let padding = "x".repeat(100_000);
    for turn in 0..1_000u64 {
        let key = (turn * 7 % 50) as usize;
        if turn % 3 == 0 {
            newest[key] = turn;
            cache.invalidate(key.to_le_bytes()).await.map(drop).unwrap();
        }
        let floor = newest[key];
        let load = |_| async { Ok::<_, onward::Error>(Some((floor, padding.clone()))) };
        let (value, _) = cache.fetch::<(u64, String), _, _, _>(key.to_le_bytes(), load).await.unwrap().value.unwrap();
        assert_eq!(value, floor, "turn {turn}");
    }
    let info = server.ask("INFO stats");
    assert!(!info.contains("evicted_keys:0\r"), "nothing was evicted");
}

#[tokio::test]
async fn a_read_only_replica_refuses_fills_and_purges() {
    let server = Redis::start();
    let replica = server.replica();
    let cache = cache(&replica.url()).await;
    let fetched = cache.fetch("k", |_| async { Ok::<_, onward::Error>(Some(1u64)) }).await.unwrap();
    assert_eq!(fetched.how, How::Unfilled(Unfilled::Away));
    let patience = Clock::system().now() + PATIENCE;
    // The connection is given up at the first refusal, for the primary may be elsewhere by now.
    loop {
        let error = cache.invalidate("k").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Backend);
        if error.message().contains("replica") {
            break;
        }
        assert!(Clock::system().now() < patience, "{error:?}");
        tokio::task::yield_now().await;
    }
    let findings = loop {
        if let Ok(findings) = cache.check().await {
            break findings;
        }
        tokio::task::yield_now().await;
    };
    let role = findings.iter().find(|finding| finding.check == "cache.role").unwrap();
    assert_eq!(role.grade, onward::observe::Grade::Failure);
}

#[tokio::test]
async fn a_key_of_another_type_is_a_miss_and_an_invalidation_repairs_it() {
    let server = Redis::start();
    let cache = cache(&server.url()).await;
    fill(&cache, "k", 1).await;
    for part in ["s", "h", "l"] {
        assert_eq!(cache.invalidate("k").await.map(drop).map_err(|e| e.kind()), Ok(()));
        let name = format!("on:c1:{{14}}:default:{part}:k");
        assert_eq!(server.ask(&format!("XADD {name} 1-1 a b")), "1-1");
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None, "{part}");
        assert_eq!(cache.field("k", "f").get::<u64>().await.unwrap(), None, "{part}");
        let fetched = cache.fetch("k", |_| async { Ok::<_, onward::Error>(Some(1u64)) }).await.unwrap();
        assert_eq!(fetched.value, Some(1));
        if part != "h" {
            assert_eq!(fetched.how, How::Unfilled(Unfilled::Away), "{part}");
        }
        let _ = cache.invalidate("k").await.unwrap();
        assert_eq!(server.ask(&format!("EXISTS {name}")), "0", "{part}");
        fill(&cache, "k", 2).await;
    }
    // What no release of ours wrote.
    let _ = cache.invalidate("k").await.unwrap();
    for strange in ["", "x", "text-that-is-longer-than-the-head-of-an-entry-of-ours-could-be"] {
        server.ask(&format!("SET on:c1:{{14}}:default:s:k \"{strange}\""));
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
        let _ = cache.fetch("k", |_| async { Ok::<_, onward::Error>(Some(1u64)) }).await.unwrap();
    }
    let _ = cache.invalidate("k").await.unwrap();
    fill(&cache, "k", 3).await;
}

#[tokio::test]
async fn a_user_with_few_rights_gets_errors_and_nothing_weaker() {
    let server = Redis::start();
    let user = |name: &str, rights: &str| {
        assert_eq!(server.ask(&format!("ACL SETUSER {name} on >pw ~* &* +@all {rights}")), "OK");
        server.url().replace("redis://", &format!("redis://{name}:pw@"))
    };
    // Nobody may publish: near copies end by their bound, purges are purges.
    let quiet = cache(&user("quiet", "-publish resetchannels")).await;
    fill(&quiet, "k", 1).await;
    assert_eq!(quiet.invalidate("k").await.unwrap(), Invalidation::Removed);
    quiet.flush_namespace().await.unwrap();
    fill(&quiet, "k", 1).await;
    let reader = cache(&user("reader", "-@write")).await;
    assert_eq!(reader.get("k").await.unwrap(), Some(Some(1u64)));
    let error = reader.invalidate("k").await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
    assert_eq!(quiet.get("k").await.unwrap(), Some(Some(1u64)));
    let scriptless = cache(&user("scriptless", "-@scripting")).await;
    assert!(scriptless.invalidate("k").await.is_err());
    let fetched = scriptless.fetch("new", |_| async { Ok::<_, onward::Error>(Some(1u64)) }).await.unwrap();
    assert_eq!(fetched.how, How::Unfilled(Unfilled::Away));
    // Without INFO nobody could tell a restart.
    let address = Address::parse(&user("blind", "-info")).unwrap();
    assert_eq!(RedisCache::open(&address, Clock::system()).await.unwrap_err().kind(), Kind::Unsupported);
    let address = Address::parse(&server.url().replace("redis://", "redis://nobody:pw@")).unwrap();
    assert_eq!(RedisCache::open(&address, Clock::system()).await.unwrap_err().kind(), Kind::Backend);
}

#[tokio::test]
async fn one_slow_reply_hurts_no_other_call() {
    let server = server();
    let address = own_database(&server);
    let engine: Arc<dyn CacheEngine> = Arc::new(RedisCache::open(&address, Clock::system()).await.unwrap());
    let cache = over(&engine);
    let value = Bytes::from(vec![b'x'; 8 << 20]);
    let Reserved::Lease(nonce) = engine.reserve(SLOT, Duration::from_secs(10), None).await.unwrap() else { panic!("expected a lease") };
    let life = onward::cache::Life { ttl: PATIENCE, grace: Duration::ZERO };
    let _ = engine.commit(SLOT, nonce, value, life).await.unwrap();
    // Given up at once: the reply is read all the same, and nobody gets somebody else's.
    for turn in 0..20u64 {
        let look = engine.lookup(SLOT);
        let mut look = std::pin::pin!(look);
        std::future::poll_fn(|cx| {
            let _ = look.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
        let key = format!("k{turn}");
        fill(&cache, &key, turn).await;
        assert_eq!(cache.get(&key).await.unwrap(), Some(Some(turn)));
        assert_eq!(cache.invalidate(&key).await.unwrap(), Invalidation::Removed);
    }
}

#[tokio::test]
async fn ten_thousand_keys_are_flushed_at_once_and_purges_leave_no_byte() {
    let server = Redis::start();
    let cache = cache(&server.url()).await;
    let keys: Vec<String> = (0..10_000).map(|key| format!("key:{key}")).collect();
    let fill_all = async || {
        for keys in keys.chunks(1_000) {
            let mut fills = Vec::new();
            for lookup in cache.begin_many::<u64, _>(keys).await.unwrap() {
                let Lookup::Lease(lease) = lookup else { panic!("expected a lease") };
                fills.push((lease, &7));
            }
            assert!(cache.commit_many(fills).await.unwrap().into_iter().all(|filled| matches!(filled, Ok(Filled::Stored))));
        }
    };
    fill_all().await;
    let stats = cache.with(CacheOptions::default().with_op_timeout(PATIENCE)).unwrap().stats().await.unwrap();
    assert_eq!((stats.entries, stats.reservations), (10_000, 0));
    cache.flush_namespace().await.unwrap();
    for keys in keys.chunks(1_000) {
        assert!(cache.get_many::<u64, _>(keys).await.unwrap().into_iter().all(|found| found.unwrap().is_none()));
    }
    fill_all().await;
    for keys in keys.chunks(1_000) {
        let purged = cache.invalidate_many(keys).await.unwrap();
        assert!(purged.into_iter().all(|purged| matches!(purged, Ok(Invalidation::Removed))));
    }
    // Only the record of the epoch is left.
    assert_eq!(server.ask("DBSIZE"), "1");
}

#[tokio::test]
async fn near_copies_are_told_of_purges_by_others_and_dropped_after_a_cut() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let far = Arc::new(RedisCache::open(&Address::parse(&proxy.redis_url()).unwrap(), Clock::system()).await.unwrap());
    let near: Arc<dyn CacheEngine> = Arc::new(MemoryCache::new(Clock::system()));
    far.tell(Arc::clone(&near)).await.unwrap();
    let bound = Duration::from_secs(60);
    let tiered: Arc<dyn CacheEngine> = Arc::new(Tiered::new(Arc::clone(&near), far, Clock::system(), bound).unwrap());
    let (here, there) = (over(&tiered), cache(&server.url()).await);
    assert_eq!((here.promise().scope, here.promise().staleness), (Scope::Shared, Some(bound)));
    fill(&here, "k", 1).await;
    for purge in 0..4 {
        assert_eq!(get_again(&here, "k").await, Some(Some(1)), "{purge}");
        assert!(near.lookup(SLOT).await.unwrap().is_some(), "no near copy was made");
        match purge {
            0 => there.invalidate("k").await.map(drop).unwrap(),
            1 => there.flush_namespace().await.map(drop).unwrap(),
            2 => there.flush_all().await.map(drop).unwrap(),
            _ => there.write_guard(["k"]).await.unwrap().release().await.map(drop).unwrap(),
        }
        until("the near copy is dropped", async || here.get::<u64>("k").await.unwrap().is_none()).await;
        fill(&here, "k", 1).await;
    }
    // Copies of before a cut may have missed a purge: all go when the connection is back.
    assert_eq!(get_again(&here, "k").await, Some(Some(1)));
    proxy.refuse();
    let _ = there.invalidate("k").await.unwrap();
    assert!(near.lookup(SLOT).await.unwrap().is_some());
    proxy.heal();
    until("the near copy is dropped", async || here.get::<u64>("k").await.is_ok_and(|found| found.is_none())).await;
}

#[tokio::test]
async fn a_cluster_is_followed_when_a_slot_moves() {
    let cluster = RedisCluster::start();
    let cache = cache(&cluster.url()).await;
    fill(&cache, "k", 1).await;
    let in_flight = lease(&cache, "l").await;
    // `default` lies in bucket 14: slot 115, of the first node.
    cluster.give_empty(115, 2);
    assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
    assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
    fill(&cache, "k", 2).await;
    assert_eq!(cluster.nodes()[2].ask("DBSIZE"), "2");
    assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Removed);
    assert_eq!(self::cache(&cluster.url()).await.get::<u64>("k").await.unwrap(), None);
    // A node of a cluster, named as if it were alone, says so.
    let alone = cluster.nodes()[1].url();
    let error = self::cache(&alone).await.invalidate("k").await.unwrap_err();
    assert!(error.message().contains("redis+cluster"), "{error:?}");
}

/// Runs a race of readers and writers on an engine whose connections live in a runtime of their own.
fn races(spoil: impl Fn(&Redis) + Sync) {
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = runtime.block_on(engine(&server.url()));
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                spoil(&server);
                std::thread::yield_now();
            }
        });
        for seen in [race(&engine, 600), race_stale(&engine, 600)] {
            assert!(seen.loads > 20 && seen.reads > 100, "{seen:?}");
            assert_eq!(seen.stale, 0, "{seen:?}");
        }
        over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_on_redis() {
    races(|_| std::thread::park_timeout(Duration::from_millis(5)));
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_while_scripts_and_data_are_flushed() {
    races(|server| {
        server.ask("SCRIPT FLUSH");
        server.ask("FLUSHDB");
        std::thread::park_timeout(Duration::from_millis(3));
    });
}
