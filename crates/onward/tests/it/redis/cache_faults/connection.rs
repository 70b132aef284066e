//! The way to the server is cut, slow or shut.

use super::*;

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
