//! What a look at the server finds: servers that are configured badly, and one that is not.

use onward::observe::{Finding, Grade};
use onward::testing::servers::Proxy;

use super::*;

async fn findings(url: &str) -> Vec<Finding> {
    process_at(url).await.unwrap().check().await.unwrap()
}

fn of<'a>(findings: &'a [Finding], check: &str) -> &'a Finding {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("no {check}: {findings:?}"))
}

/// Checks the grade of one finding, and that a bad one says what to do.
fn graded(findings: &[Finding], check: &str, grade: Grade) {
    let finding = of(findings, check);
    assert_eq!((finding.grade, finding.fix.is_some()), (grade, grade != Grade::Fine), "{finding:?}");
}

#[tokio::test]
async fn a_server_made_for_locks_has_nothing_to_mend() {
    let server = Redis::start_with(&["--appendonly", "yes", "--maxmemory", "64mb", "--maxmemory-policy", "noeviction"]);
    let locks = process(&server).await;
    let held = locks.acquire(&key("job"), at_once()).await.unwrap();
    let findings = locks.check().await.unwrap();
    for check in ["server", "role", "memory", "persistence", "replicas", "clock", "counter"] {
        graded(&findings, &format!("locks.{check}"), Grade::Fine);
    }
    // How fast this machine is, is no matter of the test.
    assert!(of(&findings, "locks.latency").found.contains("round trip"));
    drop(held);
}

#[tokio::test]
async fn a_server_that_may_evict_or_forget_leases_is_a_warning() {
    let server = Redis::start_with(&["--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru"]);
    let found = findings(&server.url()).await;
    graded(&found, "locks.memory", Grade::Warning);
    graded(&found, "locks.persistence", Grade::Warning);
    // Without a limit nothing is evicted.
    assert_eq!(server.ask("CONFIG SET maxmemory 0"), "OK");
    graded(&findings(&server.url()).await, "locks.memory", Grade::Fine);
}

#[tokio::test]
async fn a_server_that_cannot_save_is_a_failure() {
    let server = Redis::start();
    // Its working folder goes away under it.
    std::fs::remove_dir_all(std::fs::read_link(format!("/proc/{}/cwd", server.pid())).unwrap()).unwrap();
    server.ask("BGSAVE");
    until("the snapshot has failed", || server.ask("INFO persistence").contains("rdb_last_bgsave_status:err")).await;
    graded(&findings(&server.url()).await, "locks.persistence", Grade::Failure);
}

#[tokio::test]
async fn a_replica_is_a_failure_and_a_primary_that_waits_for_none_a_warning() {
    let server = Redis::start();
    let replica = server.replica();
    graded(&findings(&replica.url()).await, "locks.role", Grade::Failure);
    graded(&findings(&server.url()).await, "locks.replicas", Grade::Warning);
    assert_eq!(server.ask("CONFIG SET min-replicas-to-write 1"), "OK");
    graded(&findings(&server.url()).await, "locks.replicas", Grade::Fine);
}

#[tokio::test]
async fn tokens_from_the_future_and_a_long_way_are_warnings() {
    let server = Redis::start();
    let ahead = Clock::system().wall().as_micros() + 3_600_000_000;
    assert_eq!(server.ask(&format!("SET onward:fence {ahead}")), "OK");
    let proxy = Proxy::to(server.port()).await;
    let locks = process_at(&proxy.redis_url()).await.unwrap();
    proxy.delay_answers(Duration::from_millis(30));
    let found = locks.check().await.unwrap();
    graded(&found, "locks.counter", Grade::Warning);
    graded(&found, "locks.latency", Grade::Warning);
}

#[tokio::test]
async fn the_locks_of_an_application_are_looked_at_with_its_store_and_cache() {
    let server = Redis::start();
    let checks = |findings: Vec<Finding>| findings.into_iter().map(|finding| finding.check).collect::<Vec<_>>();
    let onward = Onward::connect(Config::new("memory:").with_locks_at(server.url())).await.unwrap();
    assert!(checks(onward.check().await.unwrap()).contains(&"locks.memory"));
    // Switched off: nobody is asked.
    let onward = Onward::connect(Config::new("memory:").with_locks_at(server.url()).with_locks_off()).await.unwrap();
    assert!(!checks(onward.check().await.unwrap()).contains(&"locks.memory"));
}
