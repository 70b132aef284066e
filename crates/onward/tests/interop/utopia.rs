//! The cache shared with PHP: php-redis does to Redis what utopia-php/cache does, and we beside it, both ways.

use std::io::{BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use onward::cache::{Cache, Filled, Invalidation, Layout, Lease, Lookup};
use onward::testing::servers::Redis;
use onward::{Config, Onward};

use super::line;

/// PHP with a connection of its own; it ends with its input.
struct Php {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Php {
    fn start(server: &Redis) -> Self {
        Self::with(server, &[])
    }

    fn with(server: &Redis, more: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/utopia.php");
        let mut command = Command::new(std::env::var("ONWARD_PHP").unwrap_or_else(|_| "php".to_owned()));
        command.args([script, &server.port().to_string()]).args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("php is installed, with php-redis");
        Self { to: child.stdin.take().unwrap(), from: BufReader::new(child.stdout.take().unwrap()), child }
    }

    /// Sends one line and returns the answer, as JSON.
    fn ask(&mut self, words: &str) -> serde_json::Value {
        self.to.write_all(format!("{words}\n").as_bytes()).unwrap();
        serde_json::from_str(&line(&mut self.from)).unwrap()
    }

    fn generation(&mut self, key: &str) -> String {
        self.ask(&format!("generation {key}")).as_str().unwrap().to_owned()
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn shared(server: &Redis) -> Cache {
    as_told(server, Layout::Utopia).await
}

async fn as_told(server: &Redis, layout: Layout) -> Cache {
    let config = Config::new("memory:").with_cache_at(server.url()).with_cache_layout(layout);
    Onward::connect(config).await.unwrap().cache()
}

async fn lease(cache: &Cache, key: &str) -> Lease<u64> {
    match cache.begin(key).await.unwrap() {
        Lookup::Lease(lease) => lease,
        other => panic!("expected a lease, got {other:?}"),
    }
}

#[tokio::test]
async fn a_purge_by_php_ends_our_value_and_our_fill() {
    let server = Redis::start();
    let (cache, mut php) = (shared(&server).await, Php::start(&server));
    for purge in ["purge Project:42", "purge project:42 any-field"] {
        let in_flight = lease(&cache, "project:42").await;
        php.ask(purge);
        assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }), "{purge}");
        assert_eq!(lease(&cache, "project:42").await.commit(&2).await.unwrap(), Filled::Stored, "{purge}");
        assert_eq!(cache.get("project:42").await.unwrap(), Some(Some(2u64)));
        php.ask(purge);
        assert_eq!(cache.get::<u64>("project:42").await.unwrap(), None, "{purge}");
    }
    // Where PHP's generations are lost, ours are refused all the same.
    let in_flight = lease(&cache, "project:42").await;
    php.ask("flush");
    php.ask("purge project:42");
    assert!(matches!(in_flight.commit(&1).await.unwrap(), Filled::Superseded { .. }));
}

#[tokio::test]
async fn a_purge_by_us_ends_phps_value_and_phps_fill() {
    let server = Redis::start();
    let (cache, mut php) = (shared(&server).await, Php::start(&server));
    for round in 0..3 {
        let seen = php.generation("project:42");
        let stored = php.ask(&format!("save project:42 list old {seen}"));
        assert_eq!((stored, php.ask("load project:42 list")), (1.into(), "old".into()), "{round}");
        let seen = php.generation("project:42");
        let purged = if round == 1 { cache.field("project:42", "LIST").invalidate().await } else { cache.invalidate("Project:42").await };
        assert_eq!(purged.unwrap(), Invalidation::Removed, "PHP's readers could see it");
        assert_eq!(php.ask("load project:42 list"), false);
        // It read its source before the purge.
        assert_eq!(php.ask(&format!("save project:42 list old {seen}")), 0, "{round}");
        assert_eq!(php.ask("load project:42 list"), false);
    }
    // Nothing was there, and PHP counts an absent generation as 0: refused too.
    let seen = php.generation("fresh");
    assert_eq!(cache.invalidate("fresh").await.unwrap(), Invalidation::Absent);
    assert_eq!(php.ask(&format!("save fresh list old {seen}")), 0);
}

#[tokio::test]
async fn values_stand_side_by_side_and_generations_count_on_exactly() {
    let server = Redis::start();
    let (cache, mut php) = (shared(&server).await, Php::start(&server));
    assert_eq!(lease(&cache, "k").await.commit(&7).await.unwrap(), Filled::Stored);
    let seen = php.generation("k");
    assert_eq!(php.ask(&format!("save k list theirs {seen}")), 1, "our fill refuses none of PHP's");
    assert_eq!((cache.get("k").await.unwrap(), php.ask("load k list")), (Some(Some(7u64)), "theirs".into()));
    let mut last: u64 = seen.parse().unwrap();
    for round in 0..20 {
        if round % 2 == 0 {
            php.ask("purge k");
        } else {
            let _ = cache.invalidate("k").await.unwrap();
        }
        let next: u64 = php.generation("k").parse().unwrap();
        assert_eq!(next, last + 1, "{round}");
        last = next;
    }
}

#[tokio::test]
async fn a_time_to_hold_fills_off_holds_on_both_sides() {
    let server = Redis::start();
    let (cache, mut php) = (shared(&server).await, Php::start(&server));
    php.ask("purge k 0 60000");
    assert!(matches!(cache.begin::<u64>("k").await.unwrap(), Lookup::Busy(_)));
    let options = onward::cache::CacheOptions::default().with_hold_off(Duration::from_secs(60));
    let _ = cache.with(options).unwrap().invalidate("l").await.unwrap();
    let seen = php.generation("l");
    assert_eq!(php.ask(&format!("save l list late {seen} 90000")), 0);
}

#[tokio::test]
async fn case_sensitive_keys_are_purged_one_by_one() {
    let server = Redis::start();
    let (cache, mut php) = (as_told(&server, Layout::UtopiaCaseSensitive).await, Php::with(&server, &["case-sensitive"]));
    assert_eq!(lease(&cache, "project:42").await.commit(&1).await.unwrap(), Filled::Stored);
    let in_flight = lease(&cache, "Project:42").await;
    php.ask("purge Project:42");
    assert!(matches!(in_flight.commit(&2).await.unwrap(), Filled::Superseded { .. }));
    assert_eq!(cache.get("project:42").await.unwrap(), Some(Some(1u64)), "another key");
    // The other way.
    let (small, great) = (php.generation("project:42"), php.generation("Project:42"));
    assert_eq!(cache.invalidate("Project:42").await.unwrap(), Invalidation::Absent);
    assert_eq!(php.ask(&format!("save Project:42 list old {great}")), 0);
    assert_eq!(php.ask(&format!("save project:42 list new {small}")), 1);
    php.ask("purge project:42");
    assert_eq!(cache.get::<u64>("project:42").await.unwrap(), None);
}
