//! What happens when the server, the way to it, or its data fail. Nothing hangs, and nothing runs unlocked without saying so.

use onward::lock::{Ask, Claim, LockEngine as _, OnError, Owner, Place, Renewal, Tried, Why};
use onward::testing::servers::Proxy;
use onward::{Effect, Error};

use super::*;

/// The longest that any call may take beside its wait: two tries of a second, and room for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

/// Runs a call and checks that it ended in time.
async fn in_time<T>(what: &str, call: impl Future<Output = T>) -> T {
    let clock = Clock::system();
    retry::deadline(&clock, clock.now() + BOUND, call).await.unwrap_or_else(|| panic!("{what} hangs"))
}

/// Waits until an engine answers again.
async fn healed(locks: &Locks, lock: &LockKey) -> Grant {
    let clock = Clock::system();
    let over = clock.now() + PATIENCE;
    loop {
        match locks.acquire(lock, at_once()).await {
            Ok(grant) => return grant,
            Err(error) => assert!(clock.now() < over, "not healed: {error}"),
        }
        retry::sleep(&clock, Duration::from_millis(10)).await;
    }
}

/// Every kind of call while the server does not work: closed ones fail, open ones say that they ran unlocked.
async fn nothing_hangs_or_lies(locks: &Locks) {
    let lock = key("another");
    let failed = |error: Error| assert_eq!(error.kind(), Kind::Backend, "{error}");
    failed(in_time("acquire", locks.acquire(&lock, at_once())).await.unwrap_err());
    let open = in_time("skip", locks.with_key(&lock, LockOptions::skip(), |grant| async move { grant.token() })).await.unwrap();
    assert!(matches!(open, Outcome::RanUnlocked(None, Why::Backend(_))), "{open:?}");
    let open = LockOptions::fail().with_wait(Duration::from_millis(200)).with_on_error(OnError::Open);
    let open = in_time("wait", locks.with_key(&lock, open, |_| async {})).await.unwrap();
    assert!(matches!(open, Outcome::RanUnlocked((), Why::Backend(_))), "{open:?}");
    failed(
        in_time("fail", locks.with_key(&lock, LockOptions::fail().with_wait(Duration::from_millis(200)), |_| async {})).await.unwrap_err(),
    );
    failed(in_time("status", locks.status(&lock)).await.unwrap_err());
    failed(in_time("list", locks.list("", None, 10)).await.unwrap_err());
    failed(in_time("renew", locks.renew_as(&lock, Owner::draw(), Duration::from_secs(1))).await.unwrap_err());
    failed(in_time("release", locks.release_as(&lock, &Owner::draw())).await.unwrap_err());
    failed(in_time("break", locks.break_lock(&lock, &Reason::new("test").unwrap(), Record::Unaudited)).await.unwrap_err());
}

#[tokio::test]
async fn with_the_server_paused_every_call_ends_in_time_and_then_it_works_again() {
    let server = Redis::start();
    let locks = process(&server).await;
    let held = locks.acquire(&key("job"), at_once()).await.unwrap();
    server.pause();
    nothing_hangs_or_lies(&locks).await;
    // By now it is known that the server is away: that costs no time.
    let begun = Clock::system().now();
    for _ in 0..100 {
        assert_eq!(locks.acquire(&key("another"), at_once()).await.unwrap_err().kind(), Kind::Backend);
    }
    assert!(Clock::system().now().since(begun) < Duration::from_millis(900));
    server.go_on();
    let _other = healed(&locks, &key("another")).await;
    // The hold was renewed, or is known to be lost: never a holder that believes wrongly.
    if held.check().is_ok() {
        assert_eq!(locks.status(&key("job")).await.unwrap().unwrap().token, Some(held.token()));
    }
}

#[tokio::test]
async fn a_killed_server_that_comes_back_empty_ends_the_hold_and_tokens_go_on() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), LockOptions::fail().with_ttl(Duration::from_secs(2)).with_wait(Duration::ZERO)).await.unwrap();
    let token = held.token();
    let waiter = queued(&server, &b, "job", 1).await;
    server.kill();
    nothing_hangs_or_lies(&b).await;
    server.revive();
    // Its lease is gone with the data: whoever waits has it as soon as the connection is back, with a newer token.
    let next = in_time("the waiter", waiter).await.unwrap().unwrap();
    assert!(next.token() > token);
    let clock = Clock::system();
    assert!(retry::deadline(&clock, clock.now() + BOUND, held.lost()).await.is_some(), "the old holder learns it");
    let over = clock.now() + PATIENCE;
    while let Err(error) = a.release_as(&key("job"), held.owner()).await {
        assert!(clock.now() < over, "{error}");
        // It fails at once while the connection is away, and the task that makes it anew runs on this very thread.
        tokio::task::yield_now().await;
    }
    next.check().unwrap();
}

#[tokio::test]
async fn flushed_scripts_are_sent_again() {
    let server = Redis::start();
    let locks = process(&server).await;
    for _ in 0..3 {
        assert_eq!(server.ask("SCRIPT FLUSH"), "OK");
        let grant = locks.acquire(&key("job"), waiting()).await.unwrap();
        assert_eq!(server.ask("SCRIPT FLUSH"), "OK");
        let _more = grant.renew().await.unwrap();
        assert_eq!(server.ask("SCRIPT FLUSH"), "OK");
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn a_flushed_database_loses_no_waiter_for_good() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), LockOptions::fail().with_ttl(Duration::from_secs(1)).with_wait(Duration::ZERO)).await.unwrap();
    let token = held.token();
    let waiter = queued(&server, &b, "job", 1).await;
    assert_eq!(server.ask("FLUSHDB"), "OK");
    let next = in_time("the waiter", waiter).await.unwrap().unwrap();
    assert!(next.token() > token);
    assert_eq!(held.release().await.unwrap(), Release::AlreadyLost);
}

#[tokio::test]
async fn a_replica_grants_nothing_and_surely_changed_nothing() {
    let server = Redis::start();
    let replica = server.replica();
    let locks = process(&replica).await;
    let error = locks.acquire(&key("job"), at_once()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::NotApplied), "{error}");
    let open = locks.with_key(&key("job"), LockOptions::skip(), |_| async {}).await.unwrap();
    assert!(matches!(open, Outcome::RanUnlocked((), Why::Backend(_))), "{open:?}");
}

#[tokio::test]
async fn a_full_server_grants_and_frees_as_ever() {
    let server = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    let locks = process(&server).await;
    let held = locks.acquire(&key("job"), at_once()).await.unwrap();
    assert_eq!(server.ask("CONFIG SET maxmemory 1"), "OK");
    assert!(server.ask("SET a 1").starts_with("OOM"));
    // A lease is small and ends by itself: locks are no reason to stand still.
    let another = locks.acquire(&key("another"), at_once()).await.unwrap();
    assert_eq!(another.release().await.unwrap(), Release::Released);
    assert_eq!(held.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_user_who_may_not_is_told_so() {
    let may = "+hello +client +ping +info +subscribe +evalsha +eval +mget +set +pttl +time +publish +lpop +rpush +lpos +lindex +lrem +pexpire +del +exists +get";
    let users = format!("--user default off --user admin on nopass ~* &* +@all --user app on >secret ~* &onward:wake:* -@all {may}");
    let server = Redis::start_with(&users.split(' ').collect::<Vec<_>>());
    let at = |user: &str| format!("redis://{user}@127.0.0.1:{}", server.port());
    let locks = process_at(&at("app:secret")).await.unwrap();
    assert_eq!(locks.acquire(&key("job"), waiting()).await.unwrap().release().await.unwrap(), Release::Released);
    // Listing needs SCAN, which this user has not.
    let error = locks.list("", None, 10).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::NotApplied), "{error}");
    assert_eq!(process_at(&at("app:wrong")).await.unwrap_err().kind(), Kind::Backend);
    assert_eq!(process_at(&server.url()).await.unwrap_err().kind(), Kind::Backend);
}

#[tokio::test]
async fn a_connection_cut_at_any_byte_of_an_acquire_leaves_one_grant_or_none() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    let direct = process(&server).await;
    let cuts = [0, 1, 60, 200, 300].map(|bytes| (true, bytes)).into_iter().chain([0, 1, 4, 20, 40].map(|bytes| (false, bytes)));
    let mut newest = FencingToken::new(1).unwrap();
    for (request, bytes) in cuts {
        if request {
            proxy.cut_after_requests(bytes)
        } else {
            proxy.cut_after_answers(bytes)
        }
        // Whatever was cut is resolved within the wait: asked again with the same owner.
        let grant = in_time("acquire", locks.acquire(&key("job"), waiting())).await.unwrap();
        assert!(grant.token() > newest, "{request} {bytes}");
        newest = grant.token();
        assert_eq!(direct.status(&key("job")).await.unwrap().unwrap().token, Some(newest));
        proxy.heal();
        // Released, or given back by the worker: in any case free in time.
        match in_time("release", grant.release()).await {
            Ok(release) => assert_eq!(release, Release::Released),
            Err(error) => assert_eq!(error.kind(), Kind::Backend),
        }
        until("the key is free", || server.ask("EXISTS job") == "0").await;
    }
}

#[tokio::test]
async fn a_release_whose_answer_is_lost_spares_the_next_holder() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    let other = process(&server).await;
    for _ in 0..5 {
        let grant = healed(&locks, &key("job")).await;
        proxy.cut_after_answers(0);
        let error = in_time("release", grant.release()).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Backend, Effect::Unknown));
        let next = other.acquire(&key("job"), waiting()).await.unwrap();
        // The worker tries again, finds another's lease and leaves it.
        retry::sleep(&Clock::system(), Duration::from_millis(100)).await;
        next.check().unwrap();
        assert_eq!(next.release().await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn an_answer_that_comes_after_the_lease_is_no_grant() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    proxy.delay_answers(Duration::from_millis(150));
    let short = LockOptions::fail().with_ttl(Duration::from_millis(100)).with_wait(Duration::ZERO);
    let error = in_time("acquire", locks.acquire(&key("job"), short)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Backend, "{error}");
    let skip = LockOptions::skip().with_ttl(Duration::from_millis(100));
    let open = in_time("skip", locks.with_key(&key("job"), skip, |_| async {})).await.unwrap();
    assert!(matches!(open, Outcome::RanUnlocked((), Why::Backend(_))), "{open:?}");
}

#[tokio::test]
async fn swallowed_answers_end_in_time_and_a_new_connection_is_made() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    proxy.swallow_answers();
    nothing_hangs_or_lies(&locks).await;
    proxy.heal();
    let grant = healed(&locks, &key("job")).await;
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_waiter_whose_connection_is_cut_still_hears_of_its_turn() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let (a, b) = (process(&server).await, process_at(&proxy.redis_url()).await.unwrap());
    for _ in 0..5 {
        let held = a.acquire(&key("job"), waiting()).await.unwrap();
        let waiter = queued(&server, &b, "job", 1).await;
        proxy.cut();
        assert_eq!(held.release().await.unwrap(), Release::Released);
        let grant = in_time("the waiter", waiter).await.unwrap().unwrap();
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn renewals_go_on_while_a_connection_comes_and_goes() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    let held = locks.acquire(&key("job"), LockOptions::fail().with_ttl(Duration::from_secs(1)).with_wait(Duration::ZERO)).await.unwrap();
    let clock = Clock::system();
    let begun = clock.now();
    while clock.now().since(begun) < Duration::from_secs(3) {
        proxy.cut();
        retry::sleep(&clock, Duration::from_millis(100)).await;
    }
    held.check().unwrap();
    assert_eq!(server.ask("EXISTS job"), "1");
    drop(held);
}

#[tokio::test]
async fn a_renewal_or_release_cut_at_any_byte_takes_nothing_from_its_holder_or_the_next() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    let direct = process(&server).await;
    let cuts = [0, 1, 40, 120].map(|bytes| (true, bytes)).into_iter().chain([0, 1, 10, 30].map(|bytes| (false, bytes)));
    for (request, bytes) in cuts {
        let cut = || if request { proxy.cut_after_requests(bytes) } else { proxy.cut_after_answers(bytes) };
        let grant = healed(&locks, &key("job")).await;
        cut();
        match in_time("renew", grant.renew()).await {
            Ok(left) => assert!(left > Duration::from_secs(5)),
            Err(error) => assert_eq!(error.kind(), Kind::Backend, "{error}"),
        }
        // Applied or not, and whatever was told: the hold is what it was.
        grant.check().unwrap();
        assert_eq!(direct.status(&key("job")).await.unwrap().unwrap().token, Some(grant.token()));
        proxy.heal();
        cut();
        let token = grant.token();
        let _ = in_time("release", grant.release()).await;
        proxy.heal();
        // Released, or given back by the worker: the next one comes in, and nobody takes the lock from him.
        let next = direct.acquire(&key("job"), waiting()).await.unwrap();
        assert!(next.token() > token);
        next.renew().await.map(drop).unwrap();
        assert_eq!(next.release().await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn an_evicted_lease_is_lost_to_its_holder_and_tokens_go_on() {
    let server = Redis::start_with(&["--maxmemory-policy", "volatile-ttl"]);
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    assert_eq!(server.ask("CONFIG SET maxmemory 3mb"), "OK");
    let junk = "x".repeat(10_000);
    let mut count = 0;
    until("the lease is evicted", || {
        count += 1;
        server.ask(&format!("SET junk:{count} {junk} PX 100000000"));
        server.ask("EXISTS job") == "0"
    })
    .await;
    // What nothing on the server can prevent; the token orders the two.
    let next = b.acquire(&key("job"), at_once()).await.unwrap();
    assert!(next.token() > held.token());
    assert_eq!(held.renew().await.unwrap_err().kind(), Kind::Lost);
    assert_eq!(held.check().unwrap_err().kind(), Kind::Lost);
    next.check().unwrap();
}

#[tokio::test]
async fn a_queue_of_another_type_is_an_error_and_no_grant() {
    let server = Redis::start();
    let locks = process(&server).await;
    assert_eq!(server.ask("SET onward:q:job x"), "OK");
    let error = locks.acquire(&key("job"), at_once()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    // Not even opened: it will not get better by itself.
    let open = locks.with_key(&key("job"), LockOptions::skip(), |_| async { panic!("it ran") }).await.map(drop);
    assert_eq!(open.unwrap_err().kind(), Kind::Unsupported);
    until("what may have been granted is given back", || server.ask("EXISTS job") == "0").await;
    assert_eq!(server.ask("GET onward:q:job"), "x");
}

#[tokio::test]
async fn ten_thousand_keys_are_held_renewed_and_released_in_batches() {
    let server = Redis::start();
    let engine = Arc::new(RedisLocks::open(&Address::parse(&server.url()).unwrap()).await.unwrap());
    let owners: Vec<(LockKey, Owner)> = (0..10_000).map(|n| (key(&format!("k:{n}")), Owner::draw())).collect();
    let ttl = Duration::from_secs(600);
    let tasks: Vec<_> = owners
        .chunks(500)
        .map(|part| {
            let (engine, part) = (Arc::clone(&engine), part.to_vec());
            tokio::spawn(async move {
                for (key, owner) in part {
                    let ask = Ask { key, owner, holder: "test".into(), ttl, place: Place::None };
                    assert!(matches!(engine.try_acquire(ask).await.unwrap(), Tried::Granted { already_ours: false, .. }));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(server.ask("DBSIZE"), "10001", "the leases and the counter");
    for part in owners.chunks(200) {
        let batch = part.iter().map(|(key, owner)| Renewal { key: key.clone(), owner: *owner, ttl }).collect();
        assert!(engine.renew(batch).await.unwrap().iter().all(Option::is_some));
        let batch = part.iter().map(|(key, owner)| Claim { key: key.clone(), owner: *owner, keep: Duration::ZERO }).collect();
        assert!(engine.release(batch).await.unwrap().iter().all(|release| *release == Release::Released));
    }
    assert_eq!(server.ask("DBSIZE"), "1");
}
