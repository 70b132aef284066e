//! Servers that may not or do not do everything: replicas, users with few rights, nodes of a cluster.

use super::*;

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
