//! The life of segments whose files are in a bucket.

use bytes::Bytes;
use onward::audit::verify::{Archives, Check, FindingCode, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Archive};
use onward::engine::memory::MemoryStore;
use onward::model::{Entry, Seq};
use onward::testing::audit::Harness;
use onward::testing::servers::{Bucket, Spoilt};
use onward::time::Clock;
use onward::{Code, Kind};

async fn in_a_bucket() -> Harness {
    let (bucket, store) = (Bucket::start().await, MemoryStore::new());
    let archive = Archive::open_with(&bucket.url(), Bucket::environment()).unwrap();
    Harness::archiving(store.clone(), store, Clock::manual(), archive, bucket).await
}

onward::audit_life_conformance!(life_in_a_bucket, in_a_bucket);

fn act() -> Act {
    Act::because("retention")
}

fn one() -> Seq {
    Seq::new(1).unwrap()
}

/// A chain with a sealed segment of 500 entries, over a bucket.
async fn sealed() -> (Bucket, Harness) {
    let (bucket, store) = (Bucket::start().await, MemoryStore::new());
    let archive = Archive::open_with(&bucket.url(), Bucket::environment()).unwrap();
    let desk = Harness::archiving(store.clone(), store, Clock::manual(), archive, ()).await;
    let chain = desk.first.chain("orders").unwrap();
    for _ in 0..6 {
        chain.append_many(vec![Entry::new("order.paid").by("user:7"); 100], AppendOptions::new()).await.unwrap();
    }
    chain.seal(Some(Seq::new(500).unwrap()), &act()).await.unwrap();
    (bucket, desk)
}

#[tokio::test]
async fn while_the_bucket_is_away_nothing_is_archived_or_purged_and_appends_go_on() {
    let (bucket, desk) = sealed().await;
    let chain = desk.first.chain("orders").unwrap();
    let away = || bucket.spoil(Spoilt { is_away: true, ..Spoilt::default() });
    away();
    let refused = chain.archive(one(), &act()).await.unwrap_err();
    assert!(refused.kind() == Kind::Backend && refused.message().contains("503"), "{refused}");
    assert_eq!(chain.segment(one()).await.unwrap().state, SegmentState::Sealed);
    chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    bucket.spoil(Spoilt::default());
    chain.archive(one(), &act()).await.unwrap();
    away();
    assert_eq!(chain.purge(one(), &act()).await.unwrap_err().kind(), Kind::Backend);
    assert_eq!(chain.segment(one()).await.unwrap().state, SegmentState::Archived);
    bucket.spoil(Spoilt::default());
    chain.purge(one(), &act()).await.unwrap();
    let names: Vec<String> = bucket.files().into_keys().collect();
    assert!(names.iter().any(|name| name.contains("/checkpoints/")), "{names:?}");
    assert!(chain.heal(&act()).await.unwrap().waiting.is_empty());
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Ok, 0), "{report}");
}

#[tokio::test]
async fn a_file_that_was_changed_or_lost_in_the_bucket_is_named() {
    let (bucket, desk) = sealed().await;
    let chain = desk.first.chain("orders").unwrap();
    let file = chain.archive(one(), &act()).await.unwrap().archive.unwrap().name;
    chain.purge(one(), &act()).await.unwrap();
    let whole = bucket.files()[&file].clone();
    let mut changed = whole.to_vec();
    changed[whole.len() / 2] ^= 1;
    for spoilt in [Some(Bytes::from(changed)), Some(whole.slice(..whole.len() - 1)), None] {
        bucket.set(&file, spoilt);
        let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
        assert_eq!(report.findings.iter().map(|finding| finding.code).collect::<Vec<_>>(), [FindingCode::Lost], "{report}");
        assert_eq!(chain.restore(one(), None, &act()).await.unwrap_err().code(), Code::IntegrityFailure);
        assert_eq!(chain.segment(one()).await.unwrap().state, SegmentState::Purged);
    }
    bucket.set(&file, Some(whole));
    chain.restore(one(), None, &act()).await.unwrap();
}
