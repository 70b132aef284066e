//! What the server keeps is lost, old, flushed, evicted or somebody else's.

use super::*;

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
