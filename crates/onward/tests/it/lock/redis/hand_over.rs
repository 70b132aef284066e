//! A key that is handed over is held at once, for a second, and for as long as was asked for from the first renewal on.

use onward::lock::{GrantView, Owner, Renew};
use onward::testing::servers::Proxy;

use super::*;

/// What a key is handed over for.
const CLAIM: Duration = Duration::from_secs(1);

fn millis_left(server: &Redis) -> u64 {
    server.ask("PTTL job").parse().unwrap()
}

/// Holds a key, has another process wait for it, and hands it over.
async fn handed(server: &Redis, options: LockOptions) -> Grant {
    let (a, b) = (process(server).await, process(server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let waiter = tokio::spawn(async move { b.acquire(&key("job"), options).await });
    until("it has a place", || server.ask("LLEN onward:q:job") == "1").await;
    assert_eq!(held.release().await.unwrap(), Release::Released);
    waiter.await.unwrap().unwrap()
}

#[tokio::test]
async fn it_is_held_at_once_without_a_question_and_renewed_to_what_was_asked_for() {
    let server = Redis::start();
    // A machine that stands still for a moment has the server asked, or the lease renewed, before it is looked at here.
    let mut tries = 0..20;
    let grant = loop {
        assert!(tries.next().is_some(), "the server is always asked");
        let grant = handed(&server, waiting()).await;
        let (believed, lease) = (grant.remaining(), server.ask("GET job"));
        if millis_left(&server) <= 1_000 {
            assert!(lease.starts_with(&format!("ow1:{}:{}:h", grant.owner(), grant.token())), "{lease}");
            assert!(believed <= CLAIM, "nobody believes in more than there is: {believed:?}");
            break grant;
        }
        assert_eq!(grant.release().await.unwrap(), Release::Released);
    };
    let status = process(&server).await.status(&key("job")).await.unwrap().unwrap();
    assert_eq!(status.token, Some(grant.token()));
    until("it is renewed", || millis_left(&server) > 5_000).await;
    until("and its holder knows", || grant.remaining() > CLAIM * 5).await;
    grant.check().unwrap();
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    assert_eq!(server.ask("EXISTS job onward:q:job"), "0", "nothing is left");
}

#[tokio::test]
async fn whoever_renews_nothing_has_all_that_was_asked_for_from_the_start() {
    let server = Redis::start();
    let grant = handed(&server, waiting().with_renew(Renew::Off)).await;
    assert!(millis_left(&server) > 5_000);
    assert!(grant.remaining() > CLAIM * 5);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
    let (a, b) = (process(&server).await, process(&server).await);
    let (held, owner) = (a.acquire(&key("job"), at_once()).await.unwrap(), Owner::draw());
    let waiter = tokio::spawn(async move { (b.acquire_as(&key("job"), owner, waiting()).await.unwrap(), b) });
    until("it has a place", || server.ask("LLEN onward:q:job") == "1").await;
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let (leased, b) = waiter.await.unwrap();
    assert!(leased.remaining > CLAIM * 5, "{leased:?}");
    assert_eq!(b.release_as(&key("job"), &owner).await.unwrap(), Release::Released, "the owner is the caller's own");
}

#[tokio::test]
async fn a_lease_shorter_than_a_hand_over_is_asked_for() {
    let server = Redis::start();
    let grant = handed(&server, waiting().with_ttl(Duration::from_millis(800))).await;
    assert!(millis_left(&server) <= 800, "it would outlive its holder");
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn after_a_long_wait_the_server_is_asked() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let waiter = queued(&server, &b, "job", 1).await;
    // What was asked for then says too little about a lease of now.
    retry::sleep(&Clock::system(), CLAIM / 2).await;
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let grant = waiter.await.unwrap().unwrap();
    assert!(millis_left(&server) > 5_000);
    assert_eq!(grant.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_holder_whose_renewals_go_nowhere_knows_the_loss_before_the_key_is_free() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let (a, b) = (process(&server).await, process_at(&proxy.redis_url()).await.unwrap());
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let waiter = queued(&server, &b, "job", 1).await;
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let grant = waiter.await.unwrap().unwrap();
    proxy.hold_requests();
    let clock = Clock::system();
    retry::deadline(&clock, clock.now() + PATIENCE, grant.lost()).await.unwrap();
    // At the first sight of the loss the server still has the lease, or had it a moment ago: nobody else was granted anything.
    let lease = server.ask("GET job");
    assert!(lease.is_empty() || lease.contains(&grant.owner().to_string()), "{lease}");
    assert_eq!(grant.check().unwrap_err().kind(), Kind::Lost);
    let _next = a.acquire(&key("job"), waiting()).await.unwrap();
}

#[tokio::test]
async fn a_word_that_comes_late_is_not_believed() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let (a, b) = (process(&server).await, process_at(&proxy.redis_url()).await.unwrap());
    let c = process(&server).await;
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let late = queued(&server, &b, "job", 1).await;
    let next = queued(&server, &c, "job", 2).await;
    // The word is under way for longer than the lease of which it tells.
    proxy.delay_answers(CLAIM + CLAIM / 2);
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let second = next.await.unwrap().unwrap();
    assert!(!late.is_finished(), "two hold the lock at once");
    proxy.heal();
    // It arrives, tells of a lease that is over, and the waiter waits on.
    until("it asks again", || late.is_finished() || server.ask("LLEN onward:q:job") == "1").await;
    assert!(!late.is_finished(), "two hold the lock at once");
    second.check().unwrap();
    assert_eq!(second.release().await.unwrap(), Release::Released);
    assert_eq!(late.await.unwrap().unwrap().release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn without_a_counter_the_key_is_freed_and_whoever_waits_hears_why() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let waiter = queued(&server, &b, "job", 1).await;
    assert_eq!(server.ask("DEL onward:fence"), "1");
    assert_eq!(server.ask("RPUSH onward:fence x"), "1");
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let clock = Clock::system();
    let told = retry::deadline(&clock, clock.now() + Duration::from_secs(4), waiter).await.expect("it waits for a timer");
    assert_eq!(told.unwrap().unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(server.ask("EXISTS job"), "0");
}

#[tokio::test]
async fn two_handles_of_one_process_and_another_process_are_all_served_in_turn() {
    let server = Redis::start();
    let engine = Arc::new(RedisLocks::open(&Address::parse(&server.url()).unwrap()).await.unwrap());
    let handle = || Locks::new(Arc::clone(&engine) as _, LocksConfig::default()).unwrap();
    let inside = Arc::new(parking_lot::Mutex::new((0, FencingToken::new(1).unwrap())));
    let mut workers = Vec::new();
    for locks in [handle(), handle(), process(&server).await] {
        let inside = Arc::clone(&inside);
        workers.push(tokio::spawn(async move {
            for _ in 0..100 {
                let grant = locks.acquire(&key("job"), waiting()).await.unwrap();
                {
                    let mut inside = inside.lock();
                    assert!(grant.token() > inside.1, "tokens grow in the order of holds");
                    *inside = (inside.0 + 1, grant.token());
                }
                tokio::task::yield_now().await;
                assert_eq!(grant.release().await.unwrap(), Release::Released);
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(inside.lock().0, 300);
}

/// Five processes on ways that stall, lose and cut, for one key: at no time do two believe that they hold it.
#[tokio::test]
async fn on_spoilt_ways_two_never_believe_in_the_same_key() {
    const HOLDS: usize = 4;
    let server = Redis::start();
    let believers: Arc<parking_lot::Mutex<Vec<(FencingToken, GrantView)>>> = Arc::default();
    let (mut workers, mut ways) = (Vec::new(), Vec::new());
    for number in 0..5_u64 {
        let proxy = Proxy::to(server.port()).await;
        let locks = process_at(&proxy.redis_url()).await.unwrap();
        let believers = Arc::clone(&believers);
        workers.push(tokio::spawn(async move {
            let mut holds = 0;
            while holds < HOLDS {
                let Ok(grant) = locks.acquire(&key("job"), LockOptions::fail().with_ttl(CLAIM * 2)).await else { continue };
                believers.lock().push((grant.token(), grant.view()));
                // Some hold it for long enough to be there when an old word comes.
                let step = if holds % 3 == 0 { 100 } else { number % 3 };
                for _ in 0..4 {
                    retry::sleep(&Clock::system(), Duration::from_millis(step)).await;
                    let believe: Vec<FencingToken> =
                        believers.lock().iter().filter(|(_, view)| view.check().is_ok()).map(|(token, _)| *token).collect();
                    assert!(believe.len() <= 1, "{believe:?} all believe that they hold it");
                }
                believers.lock().retain(|(token, view)| *token != grant.token() && view.check().is_ok());
                // Lost or not, an error or none: what counts is who believed.
                let _ = grant.release().await;
                holds += 1;
            }
        }));
        ways.push(proxy);
    }
    let spoiler = tokio::spawn(async move {
        let mut state = 7_u64;
        loop {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let proxy = &ways[usize::try_from(state >> 33).unwrap() % ways.len()];
            match (state >> 40) % 6 {
                0 => proxy.delay_answers(CLAIM / 5),
                1 => proxy.delay_answers(CLAIM + CLAIM / 10),
                2 => proxy.delay_answers(CLAIM + CLAIM / 3),
                3 => proxy.cut(),
                _ => proxy.heal(),
            }
            retry::sleep(&Clock::system(), CLAIM / 10).await;
        }
    });
    for worker in workers {
        worker.await.unwrap();
    }
    spoiler.abort();
}
