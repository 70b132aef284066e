//! The parts put together: a store in a file, locks and the cache on Redis.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onward::cache::Scope;
use onward::lock::{LockOptions, OnError};
use onward::model::LockKey;
use onward::testing::servers::{Proxy, Redis, RedisCluster};
use onward::time::Clock;
use onward::{Config, Kind, Onward};
use serde::{Deserialize, Serialize};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Project {
    size: u64,
}

async fn open(file: &str, redis: &str) -> Onward {
    Onward::connect(Config::new(file).with_cache_at(redis)).await.unwrap()
}

async fn read(onward: &Onward, loads: &AtomicU64) -> u64 {
    let load = |_| async {
        loads.fetch_add(1, Ordering::SeqCst);
        let found = onward.store().get::<Project>(("projects", "42")).await?;
        Ok::<_, onward::Error>(found.map_or(0, |found| found.value.size))
    };
    onward.cache().get_or_load("project:42", load).await.unwrap()
}

async fn write(onward: &Onward) -> onward::Result<()> {
    let grow = |project: &mut Project| project.size += 1;
    onward.guard("projects", "42").by("user:7").invalidate(["project:42"]).update(grow).commit().await.map(drop)
}

#[tokio::test]
async fn a_guarded_write_here_is_what_everybody_reads_from_the_shared_cache() {
    let (server, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let file = format!("sqlite:{}", folder.path().join("store.db").display());
    let (here, there) = (open(&file, &server.url()).await, open(&file, &server.url()).await);
    assert_eq!((here.cache().engine_name(), here.cache().promise().scope), ("redis", Scope::Shared));
    let _ = here.store().create(("projects", "42"), &Project::default()).await.unwrap();
    let loads = AtomicU64::new(0);
    for size in 0..20 {
        for onward in [&there, &here, &there] {
            assert_eq!(read(onward, &loads).await, size);
        }
        // The other process reads what this one has loaded. The change log may purge once more, and cost a load.
        write(if size % 2 == 0 { &here } else { &there }).await.unwrap();
    }
    assert!(loads.load(Ordering::SeqCst) < 60, "nothing is shared: {loads:?}");
}

#[tokio::test]
async fn a_guarded_write_while_the_cache_is_away_succeeds_and_is_delivered_when_it_is_back() {
    let (server, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let proxy = Proxy::to(server.port()).await;
    let file = format!("sqlite:{}", folder.path().join("store.db").display());
    let (cut_off, there) = (open(&file, &proxy.redis_url()).await, open(&file, &server.url()).await);
    let _ = there.store().create(("projects", "42"), &Project::default()).await.unwrap();
    let loads = AtomicU64::new(0);
    assert_eq!(read(&there, &loads).await, 0);
    proxy.refuse();
    write(&cut_off).await.unwrap();
    // The process that wrote bypasses its cache; the other one follows the change log, or hears of it when the way is free again.
    assert_eq!(read(&cut_off, &loads).await, 1);
    proxy.heal();
    let patience = Clock::system().now() + Duration::from_secs(20);
    while read(&there, &loads).await != 1 || read(&cut_off, &loads).await != 1 {
        assert!(Clock::system().now() < patience, "the invalidation is lost");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_url_gives_a_cache_and_locks_and_says_that_there_is_no_store() {
    let server = Redis::start();
    let onward = Onward::connect(Config::new(server.url())).await.unwrap();
    assert_eq!(onward.cache().get_or_load("k", |_| async { Ok::<_, onward::Error>(7u64) }).await.unwrap(), 7);
    let near = Config::new(server.url()).with_cache_near(Duration::from_secs(5));
    let near = Onward::connect(near).await.unwrap();
    assert_eq!(near.cache().promise().staleness, Some(Duration::from_secs(5)));
    assert_eq!(near.cache().get("k").await.unwrap(), Some(Some(7u64)));
    let error = onward.store().create(("projects", "42"), &Project::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let checks: Vec<&str> = onward.check().await.unwrap().iter().map(|finding| finding.check).collect();
    for check in ["cache.server", "cache.role", "cache.memory", "cache.persistence", "cache.clock", "cache.latency"] {
        assert!(checks.contains(&check), "{check} of {checks:?}");
    }
}

#[tokio::test]
async fn a_cluster_has_a_cache_and_says_that_it_has_no_locks() {
    let cluster = RedisCluster::start();
    for config in [Config::new(cluster.url()), Config::new("memory:").with_cache_at(cluster.url())] {
        let onward = Onward::connect(config).await.unwrap();
        let _ = onward.cache().invalidate("k").await.unwrap();
        assert_eq!(onward.cache().get_or_load("k", |_| async { Ok::<_, onward::Error>(7u64) }).await.unwrap(), 7);
    }
    let onward = Onward::connect(Config::new(cluster.url())).await.unwrap();
    let job = LockKey::raw("job").unwrap();
    // Never opened: nobody runs unlocked because the place has no locks.
    for options in [LockOptions::skip(), LockOptions::fail().with_on_error(OnError::Open)] {
        let refused = onward.locks().with_key(&job, options, |_| async { panic!("it ran") }).await.map(drop);
        let error = refused.unwrap_err();
        assert!(error.kind() == Kind::Unsupported && error.message().contains("not a cluster"), "{error:?}");
    }
    assert_eq!(onward.locks().status(&job).await.unwrap_err().kind(), Kind::Unsupported);
    // Who asks for locks there is told at once.
    let refused = Onward::connect(Config::new("memory:").with_locks_at(cluster.url())).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Unsupported);
}

#[tokio::test]
async fn several_servers_share_the_keys_and_only_servers_do() {
    let (one, two) = (Redis::start(), Redis::start());
    let both = format!("{},{}", one.url(), two.url());
    let onward = Onward::connect(Config::new("memory:").with_cache_at(&both)).await.unwrap();
    for key in 0..100u64 {
        let cache = onward.cache();
        assert_eq!(cache.get_or_load(key.to_le_bytes(), |_| async move { Ok::<_, onward::Error>(key) }).await.unwrap(), key);
    }
    let sizes = [&one, &two].map(|server| server.ask("DBSIZE").parse::<u64>().unwrap());
    assert_eq!(sizes.iter().sum::<u64>(), 102, "100 values and an epoch each");
    assert!(sizes.iter().all(|size| *size > 20), "{sizes:?}");
    for bad in [format!("memory:,{}", one.url()), format!("{},", one.url()), format!("{},{}", one.url(), one.url())] {
        let refused = Onward::connect(Config::new("memory:").with_cache_at(&bad)).await;
        assert!(matches!(refused.unwrap_err().kind(), Kind::Invalid | Kind::Unsupported), "{bad}");
    }
}
