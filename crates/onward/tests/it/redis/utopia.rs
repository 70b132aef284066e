//! The layout that shares purges with utopia-php/cache: what PHP does to a key is done here with bare commands; PHP itself in the interop tests.

use std::sync::Arc;
use std::time::Duration;

use onward::cache::{Cache, CacheEngine, Filled, Invalidation, Layout, Lookup, Scope, Touched};
use onward::engine::redis::{Address, RedisCache};
use onward::testing::cache::staleness::race;
use onward::testing::cache::watched::WatchedCache;
use onward::testing::servers::{Keep, Redis, RedisCluster};
use onward::time::Clock;
use onward::{Config, Kind, Onward};

use super::cache::{own_database, server};
use super::cache_faults::{fill, get_again, lease, over};

async fn shared(clock: Clock) -> WatchedCache {
    let server = server();
    let cache = RedisCache::open(&own_database(&server), clock).await.unwrap().with_layout(Layout::Utopia).unwrap();
    WatchedCache::new(Arc::new(cache), server)
}

// All but what the layout refuses (to keep as stale on demand) and what it does more of: a purge of one field ends its siblings, and keys are
// purged together that differ in case only.
onward::cache_conformance! { @cases on_redis_shared_with_php, shared;
    cases: a_fill_across_an_invalidation_is_superseded, a_fill_begun_after_an_invalidation_is_stored, a_superseded_fill_leaves_nothing,
        invalidating_an_empty_key_kills_its_fill, removed_means_a_reader_could_see_it, a_flush_supersedes_fills_in_flight,
        no_nonce_fits_again_after_a_flush, a_lost_reservation_only_wastes_a_fill, every_client_sees_a_flush_at_once,
        a_flush_leaves_other_namespaces, a_flush_of_all_leaves_nothing, a_purge_under_an_old_epoch_still_lands,
        invalidating_a_key_drops_all_fields, any_bytes_are_a_field_name, an_entry_ends_with_its_ttl, an_abandoned_lease_frees_the_key,
        a_dropped_lease_frees_the_key, absence_is_remembered_until_invalidated, a_commit_sent_twice_stores_once,
        a_lease_of_another_slot_is_superseded, an_unreadable_entry_is_a_miss, a_reservation_replaces_only_the_entry_it_names,
        nothing_remains_after_the_fill_ttl, a_key_has_4096_fields_at_most;
    flight_cases: many_callers_one_load, two_processes_one_load, a_follower_never_gets_an_older_superseded_load;
    stale_cases: only_one_refresher_wins, an_entry_outlives_its_refresh, after_invalidate_nothing_stale_is_served,
        a_refresh_across_an_invalidation_is_superseded;
    batch_cases: a_batch_answers_each_key_for_itself, a_batch_of_leases_gives_one_a_key, a_batch_of_fills_refuses_only_what_is_dead,
        a_hold_off_keeps_fills_out_for_its_time, a_released_guard_holds_off_too;
    save_cases: a_save_kills_the_fills_in_flight, no_save_lands_under_a_guard;
    guard_cases: no_fill_lands_under_a_guard, overlapping_guards_hold_until_the_last, release_purges_even_if_the_guard_was_lost,
        a_flush_keeps_guards, writer_killed_between_commit_and_release;
    faults: cut_between_a_purge_and_its_reply, a_commit_whose_reply_is_lost_is_sent_again;
}

/// Where nobody comes between: a server of one's own, a cache on it, and PHP's view.
async fn own() -> (Redis, Cache) {
    let server = Redis::start();
    let cache = over(&engine(&server).await);
    (server, cache)
}

async fn engine(server: &Redis) -> Arc<dyn CacheEngine> {
    let cache = RedisCache::open(&Address::parse(&server.url()).unwrap(), Clock::system()).await.unwrap();
    Arc::new(cache.with_layout(Layout::Utopia).unwrap())
}

fn generation(server: &Redis, key: &str) -> u64 {
    server.ask(&format!("HGET {key} __utopia_gen__")).parse().unwrap_or_default()
}

/// What PHP's purge of a whole key leaves.
fn purged_by_php(server: &Redis, key: &str) {
    let next = generation(server, key) + 1;
    server.ask(&format!("DEL {key}"));
    server.ask(&format!("HSET {key} __utopia_gen__ {next}"));
}

#[tokio::test]
async fn a_purge_by_php_ends_our_values_and_our_fills_in_flight() {
    let (server, cache) = own().await;
    let removals: [fn(&Redis); 4] = [
        |server| purged_by_php(server, "k"),
        // Of one field: which of ours that is, nobody knows, so it ends all.
        |server| assert!(server.ask("HINCRBY k __utopia_gen__ 1").parse::<u64>().is_ok()),
        // An old release without generations, or eviction.
        |server| assert_eq!(server.ask("DEL k"), "1"),
        |server| assert_eq!(server.ask("FLUSHDB"), "OK"),
    ];
    for remove in removals {
        fill(&cache, "k", 1).await;
        let field = cache.field("k", "f");
        let Lookup::Lease(in_flight) = field.begin::<u64>().await.unwrap() else { panic!("expected a lease") };
        remove(&server);
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None);
        assert_eq!(cache.touch("k", Duration::from_secs(60)).await.unwrap(), Touched::Absent);
        assert!(cache.list("k").await.unwrap().is_empty());
        assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
        assert_eq!(field.get::<u64>().await.unwrap(), None);
        assert_eq!(cache.invalidate("k").await.unwrap(), Invalidation::Absent, "nobody could see what PHP had purged");
        // And the next load is not kept waiting by what is dead.
        fill(&cache, "k", 2).await;
        assert_eq!(cache.get("k").await.unwrap(), Some(Some(2u64)));
        let _ = cache.invalidate("k").await.unwrap();
    }
}

#[tokio::test]
async fn a_purge_by_us_ends_phps_values_and_moves_its_generation() {
    let (server, cache) = own().await;
    server.ask("HSET project:42 project:42 {} f {}");
    assert_eq!(
        cache.invalidate("Project:42").await.unwrap(),
        Invalidation::Removed,
        "PHP's readers could see it; ASCII letters are folded"
    );
    assert_eq!(server.ask("HLEN project:42"), "1");
    let first = generation(&server, "project:42");
    assert!((1_000_000_000_000_000..9_000_000_000_000_000).contains(&first), "{first} is no seed");
    assert_eq!(cache.invalidate("project:42").await.unwrap(), Invalidation::Absent);
    assert_eq!(generation(&server, "project:42"), first + 1, "a purge of nothing kills PHP's fills in flight, too");

    server.ask("HSET project:42 project:42 {} f {} g {}");
    let purge = async |field: &str| cache.field("project:42", field).invalidate().await.unwrap();
    assert_eq!(purge("F").await, Invalidation::Removed);
    assert_eq!(server.ask("HKEYS project:42").len(), "*3".len());
    assert_eq!(generation(&server, "project:42"), first + 2);
    for field in ["__utopia_gen__", "__UTOPIA_GEN__", "__utopia_tomb__", "none"] {
        assert_eq!(purge(field).await, Invalidation::Absent, "{field}");
    }
    assert_eq!(generation(&server, "project:42"), first + 6, "no field name of ours deletes it");
    // PHP takes 0 for no field at all.
    assert_eq!(purge("0").await, Invalidation::Removed);
    assert_eq!(server.ask("HLEN project:42"), "1");
}

#[tokio::test]
async fn a_generation_that_may_come_again_is_replaced_before_a_lease_is_given() {
    let (server, cache) = own().await;
    for (turn, small) in ["1", "999999999999999", "9000000000000001", "garbage"].into_iter().enumerate() {
        server.ask(&format!("HSET k __utopia_gen__ {small}"));
        let value = turn as u64;
        let held = lease(&cache, "k").await;
        let seed = generation(&server, "k");
        assert!(seed >= 1_000_000_000_000_000, "{small}");
        assert_eq!(held.commit(&value).await.unwrap(), Filled::Stored);
        assert_eq!(cache.get("k").await.unwrap(), Some(Some(value)));
        // The same small number once more, as after a flush: nothing of before is live.
        server.ask(&format!("HSET k __utopia_gen__ {small}"));
        assert_eq!(cache.get::<u64>("k").await.unwrap(), None, "{small}");
        let _ = cache.invalidate("k").await.unwrap();
        assert!(generation(&server, "k") >= 1_000_000_000_000_000);
    }
    // PHP counts on from a seed exactly.
    let before = generation(&server, "k");
    purged_by_php(&server, "k");
    assert_eq!(generation(&server, "k"), before + 1);
}

#[tokio::test]
async fn a_time_in_which_php_holds_fills_off_holds_ours_off_and_the_other_way_round() {
    let (server, cache) = own().await;
    let now = u64::try_from(Clock::system().wall().as_micros()).unwrap();
    server.ask(&format!("HSET k __utopia_gen__ 1760000000000001 __utopia_tomb__ {}", now + 300_000_000));
    assert!(matches!(cache.begin::<u64>("k").await.unwrap(), Lookup::Busy(_)));
    // A purge of ours does not shorten it.
    let _ = cache.invalidate("k").await.unwrap();
    assert_eq!(server.ask("HGET k __utopia_tomb__"), (now + 300_000_000).to_string());
    // One that is over, and one that no window explains, go.
    for deadline in [now - 1, now + 3_600_000_000] {
        server.ask(&format!("HSET k __utopia_tomb__ {deadline}"));
        fill(&cache, "k", 1).await;
        assert_eq!(server.ask("HEXISTS k __utopia_tomb__"), "0", "{deadline}");
        let _ = cache.invalidate("k").await.unwrap();
    }
    let options = onward::cache::CacheOptions::default().with_hold_off(Duration::from_secs(300));
    let _ = cache.with(options).unwrap().invalidate("k").await.unwrap();
    let until: u64 = server.ask("HGET k __utopia_tomb__").parse().unwrap();
    assert!(until > now + 299_000_000, "{until}");
    assert!(matches!(cache.begin::<u64>("k").await.unwrap(), Lookup::Busy(_)));
}

#[tokio::test]
async fn what_is_not_shared_is_as_ever_and_what_cannot_be_is_refused() {
    let (server, cache) = own().await;
    assert_eq!((cache.engine_name(), cache.promise().scope), ("redis-utopia", Scope::Shared));
    assert!(cache.promise().foreign_writers);
    let ours = RedisCache::open(&Address::parse(&server.url()).unwrap(), Clock::system()).await.unwrap();
    assert!(!ours.promise().foreign_writers, "our own layout is ours alone");
    let other = cache.in_namespace("web").unwrap();
    fill(&other, "k", 1).await;
    let _ = other.invalidate("k").await.unwrap();
    assert_eq!(server.ask("EXISTS k"), "0", "other namespaces are ours alone");
    assert_eq!(cache.expire("k").await.unwrap_err().kind(), Kind::Unsupported);
    // Somebody else's key of that name is never touched.
    server.ask("SET job theirs");
    assert_eq!(cache.get::<u64>("job").await.unwrap(), None);
    assert_eq!(cache.get_or_load("job", |_| async { Ok::<_, onward::Error>(1u64) }).await.unwrap(), 1);
    assert_eq!(cache.invalidate("job").await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(server.ask("GET job"), "theirs");
    let findings = cache.check().await.unwrap();
    assert!(findings.iter().any(|finding| finding.check == "cache.layout" && finding.found.contains("FLUSHDB")), "{findings:?}");

    let cluster = RedisCluster::start();
    for url in [cluster.url(), "memory:".to_owned()] {
        let config = Config::new("memory:").with_cache_at(&url).with_cache_layout(Layout::Utopia);
        assert_eq!(Onward::connect(config).await.unwrap_err().kind(), Kind::Unsupported, "{url}");
    }
}

#[tokio::test]
async fn after_a_restart_from_an_old_snapshot_nothing_that_php_purged_is_live() {
    let (server, cache) = own().await;
    fill(&cache, "k", 1).await;
    assert_eq!(server.ask("SAVE"), "OK");
    purged_by_php(&server, "k");
    server.kill();
    server.revive();
    assert_eq!(server.ask("EXISTS k"), "1", "the snapshot was not loaded");
    assert_eq!(get_again(&cache, "k").await, None, "the generation is the old one again, the epoch is not");
    server.restart(Keep::Nothing);
    assert_eq!(get_again(&cache, "k").await, None);
}

#[tokio::test]
async fn of_several_servers_the_one_is_taken_that_php_takes() {
    let (one, two) = (Redis::start(), Redis::start());
    let config = Config::new("memory:").with_cache_at(format!("{},{}", one.url(), two.url())).with_cache_layout(Layout::Utopia);
    let cache = Onward::connect(config).await.unwrap().cache();
    // As `php -r 'var_dump(crc32("project:42") % 2);'` says.
    for (key, place) in [("Project:42", 1), ("project:44", 0)] {
        let _ = cache.invalidate(key).await.unwrap();
        let counts = [&one, &two].map(|server| server.ask(&format!("EXISTS {}", key.to_ascii_lowercase())));
        assert_eq!(counts[place], "1", "{key}: {counts:?}");
        assert_eq!(counts[1 - place], "0", "{key}: {counts:?}");
    }
}

#[test]
fn no_read_is_older_than_an_acknowledged_invalidation_in_the_shared_layout() {
    let server = Redis::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let engine = runtime.block_on(engine(&server));
    let seen = race(&engine, 400);
    assert!(seen.loads > 20 && seen.reads > 100, "{seen:?}");
    assert_eq!(seen.stale, 0, "{seen:?}");
}
