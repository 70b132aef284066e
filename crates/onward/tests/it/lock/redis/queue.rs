//! The queues of processes: order, hand-over, and those who do not come.

use super::*;

#[tokio::test]
async fn a_release_hands_the_key_to_the_next_process_at_once() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let waiter = queued(&server, &b, "job", 1).await;
    let before = held.token();
    let released = Clock::system().now();
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let next = waiter.await.unwrap().unwrap();
    assert!(Clock::system().now().since(released) < Duration::from_secs(2), "nobody waited for a timer");
    assert!(next.token() > before);
    assert_eq!(next.release().await.unwrap(), Release::Released);
    assert_eq!(server.ask("EXISTS job onward:q:job"), "0", "nothing is left");
}

#[tokio::test]
async fn processes_are_served_in_the_order_in_which_they_came() {
    let server = Redis::start();
    let held = process(&server).await.acquire(&key("job"), at_once()).await.unwrap();
    let served = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut waiters = Vec::new();
    let mut processes = Vec::new();
    for number in 0..8 {
        let locks = process(&server).await;
        processes.push(locks.clone());
        let served = served.clone();
        waiters.push(tokio::spawn(async move {
            let grant = locks.acquire(&key("job"), waiting()).await.unwrap();
            served.lock().push(number);
            assert_eq!(grant.release().await.unwrap(), Release::Released);
        }));
        until("it has a place", || server.ask("LLEN onward:q:job") == (number + 1).to_string()).await;
    }
    assert_eq!(held.release().await.unwrap(), Release::Released);
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(*served.lock(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_newcomer_does_not_pass_the_queue() {
    let server = Redis::start();
    let (a, b, c) = (process(&server).await, process(&server).await, process(&server).await);
    // From now on it knows the server's clock, and asks the short way.
    let other = c.acquire(&key("other"), at_once()).await.unwrap();
    assert_eq!(other.release().await.unwrap(), Release::Released);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let waiter = queued(&server, &b, "job", 1).await;
    // The lease ends by itself, as it were: nobody has looked yet.
    assert_eq!(server.ask("DEL job"), "1");
    assert_eq!(c.acquire(&key("job"), at_once()).await.unwrap_err().kind(), Kind::Contended, "it is for the one who waits");
    let _next = waiter.await.unwrap().unwrap();
    assert_eq!(held.release().await.unwrap(), Release::AlreadyLost);
}

#[tokio::test]
async fn a_process_that_is_gone_is_passed_over_at_once() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    // Processes that were killed: nobody listens for them.
    for number in 1..=20 {
        assert_eq!(server.ask(&format!("RPUSH onward:q:job {number:032x}:{number:032x}:gone")), number.to_string());
    }
    let waiter = queued(&server, &b, "job", 21).await;
    let released = Clock::system().now();
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let _next = waiter.await.unwrap().unwrap();
    assert!(Clock::system().now().since(released) < Duration::from_millis(400), "no claim was waited for");
}

#[tokio::test]
async fn a_process_that_stands_still_costs_one_claim() {
    let server = Redis::start();
    let (a, b) = (process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    // It listens, and does not come.
    let stopped = "f".repeat(32);
    let client = redis::Client::open(format!("{}/?protocol=resp3", server.url())).unwrap();
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(told).set_response_timeout(Some(PATIENCE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    connection.subscribe(format!("onward:wake:{stopped}")).await.unwrap();
    assert_eq!(server.ask(&format!("RPUSH onward:q:job {stopped}:{stopped}:stopped")), "1");
    let waiter = queued(&server, &b, "job", 2).await;
    let released = Clock::system().now();
    assert_eq!(held.release().await.unwrap(), Release::Released);
    let _next = waiter.await.unwrap().unwrap();
    let cost = Clock::system().now().since(released);
    assert!((Duration::from_millis(990)..Duration::from_secs(4)).contains(&cost), "{cost:?}");
    while hears.recv().await.unwrap().kind != redis::PushKind::Message {}
}

#[tokio::test]
async fn a_waiter_that_leaves_takes_its_place_along_and_passes_on_what_it_was_handed() {
    let server = Redis::start();
    let (a, b, c) = (process(&server).await, process(&server).await, process(&server).await);
    let held = a.acquire(&key("job"), at_once()).await.unwrap();
    let leaves = queued(&server, &b, "job", 1).await;
    leaves.abort();
    until("its place is gone", || server.ask("LLEN onward:q:job") == "0").await;
    assert_eq!(held.release().await.unwrap(), Release::Released);
    // One that leaves in the moment in which it is handed the key.
    for _ in 0..20 {
        let held = a.acquire(&key("job"), at_once()).await.unwrap();
        let leaves = queued(&server, &b, "job", 1).await;
        let stays = queued(&server, &c, "job", 2).await;
        let released = tokio::spawn(held.release());
        tokio::task::yield_now().await;
        leaves.abort();
        assert_eq!(released.await.unwrap().unwrap(), Release::Released);
        let freed = Clock::system().now();
        let grant = stays.await.unwrap().unwrap();
        assert!(Clock::system().now().since(freed) < Duration::from_millis(400), "it was passed on at once");
        assert_eq!(grant.release().await.unwrap(), Release::Released);
        until("nothing is left", || server.ask("EXISTS job onward:q:job") == "0").await;
    }
}

#[tokio::test]
async fn a_thousand_waiters_in_twenty_processes_are_all_served() {
    let server = Redis::start();
    let mut processes = Vec::new();
    for _ in 0..20 {
        processes.push(process(&server).await);
    }
    let inside = Arc::new(parking_lot::Mutex::new((0, FencingToken::new(1).unwrap())));
    let mut waiters = Vec::new();
    for number in 0..1_000 {
        let (locks, inside) = (processes[number % 20].clone(), inside.clone());
        waiters.push(tokio::spawn(async move {
            let grant = locks.acquire(&key("job"), waiting()).await.unwrap();
            {
                let mut inside = inside.lock();
                assert!(grant.token() > inside.1, "tokens grow in the order of holds");
                *inside = (inside.0 + 1, grant.token());
            }
            assert_eq!(grant.release().await.unwrap(), Release::Released);
        }));
    }
    for waiter in waiters {
        waiter.await.unwrap();
    }
    assert_eq!(inside.lock().0, 1_000);
    until("nothing is left", || server.ask("EXISTS job onward:q:job") == "0").await;
}

/// All commands that the server carried out, those inside scripts counted.
fn commands(server: &Redis) -> u64 {
    let stats = server.ask("INFO commandstats");
    let calls = stats.lines().filter(|line| !line.starts_with("cmdstat_info:"));
    calls.filter_map(|line| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn an_acquire_costs_at_most_fifteen_commands_however_many_wait() {
    for count in [10, 50] {
        let server = Redis::start();
        let held = process(&server).await.acquire(&key("job"), at_once()).await.unwrap();
        let mut waiters = Vec::new();
        let mut processes = Vec::new();
        for _ in 0..count {
            processes.push(process(&server).await);
        }
        let before = commands(&server);
        for locks in &processes {
            let locks = locks.clone();
            waiters.push(tokio::spawn(async move {
                let grant = locks.acquire(&key("job"), waiting()).await.unwrap();
                retry::sleep(&Clock::system(), Duration::from_millis(5)).await;
                assert_eq!(grant.release().await.unwrap(), Release::Released);
            }));
        }
        until("all wait", || server.ask("LLEN onward:q:job") == count.to_string()).await;
        let looks = u64::try_from(count).unwrap();
        assert_eq!(held.release().await.unwrap(), Release::Released);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        let llen: u64 = server
            .ask("INFO commandstats")
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_llen:calls=")?.split(',').next()?.parse().ok())
            .unwrap();
        let each = (commands(&server) - before - llen) as f64 / looks as f64;
        assert!(each <= 15.5, "{each} commands an acquire with {count} waiters");
    }
}
