//! The server's own worker: what is due in the life of the chains is done while it serves.

use std::time::Duration;

use onward::audit::verify::{SegmentState, Verdict};
use onward::audit::{AppendOptions, Chain, KeptVerdict};
use onward::model::{Entry, MacKeys};
use onward::time::Clock;
use onward::{Config, Onward, retry};

use crate::serve::Served;

/// Waits until the chain has segments and each of them is in this state.
async fn all_are(chain: &Chain, state: SegmentState) {
    let clock = Clock::system();
    let patience = clock.now() + Duration::from_secs(60);
    loop {
        let segments = chain.segments(None).await.unwrap();
        if !segments.is_empty() && segments.iter().all(|segment| segment.state == state) {
            return;
        }
        assert!(clock.now() < patience, "{segments:?}");
        retry::sleep(&clock, Duration::from_millis(20)).await;
    }
}

/// Waits for a verdict on the chain.
async fn verified(chain: &Chain) -> KeptVerdict {
    let clock = Clock::system();
    let patience = clock.now() + Duration::from_secs(60);
    loop {
        if let Some(verdict) = chain.last_verdict().await.unwrap() {
            return verdict;
        }
        assert!(clock.now() < patience, "nobody verified the chain");
        retry::sleep(&clock, Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_maintain_one_store_while_entries_are_appended() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display().to_string();
    let more = format!(
        "store.url = \"sqlite:{at}/onward.db\"\n[audit]\nkey = \"{}\"\nsigning_key = \"{}\"\narchive = \"file:{at}/archive\"\n\
         seal_after = \"0s\"\nsegment_rows = 50\narchive_after = \"0s\"\npurge_after = \"0s\"\n\
         chains = [{{ match = \"filed\", purge_after = \"never\" }}, {{ match = \"left*\", seal_after = \"never\" }}]\n",
        "07".repeat(32),
        "05".repeat(32)
    );
    // A chain from long ago, by a clock that stands: it is verified at the first look.
    let past = Config::new(format!("sqlite:{at}/onward.db")).with_clock(Clock::manual());
    let past = Onward::connect(past.with_keys(MacKeys::parse(&"07".repeat(32)).unwrap())).await.unwrap();
    past.audit().chain("old").unwrap().append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    drop(past);
    let often = Duration::from_millis(20);
    let first = Served::start_looking(tempfile::tempdir().unwrap(), &more, often).await;
    let second = Served::start_looking(tempfile::tempdir().unwrap(), &more, often).await;
    let onward = Onward::connect(Config::new(format!("sqlite:{at}/onward.db"))).await.unwrap();
    let chain = |name: &str| onward.audit().chain(name).unwrap();
    for name in ["orders", "filed", "left-alone"] {
        chain(name).append_many(vec![Entry::new("order.paid"); 120], AppendOptions::new()).await.unwrap();
    }
    all_are(&chain("orders"), SegmentState::Purged).await;
    all_are(&chain("filed"), SegmentState::Archived).await;
    let verdict = verified(&chain("old")).await;
    assert!(verdict.attested && verdict.verdict == Verdict::Ok, "{verdict:?}");
    assert!(chain("left-alone").segments(None).await.unwrap().is_empty());
    assert!(chain("left-alone").last_verdict().await.unwrap().is_none(), "it is young");
    let metrics = [first.get("/metrics").await.1, second.get("/metrics").await.1].concat();
    for row in [
        "stage=\"verify\",result=\"done\"} 1",
        "stage=\"seal\",result=\"done\"",
        "stage=\"purge\",result=\"done\"",
        "onward_audit_maintain_overdue_seconds 0.0",
    ] {
        assert!(metrics.contains(row), "{row}: {metrics}");
    }
    let failed = metrics.lines().filter(|line| line.starts_with("onward_audit_maintain_steps") && line.contains("\"failed\""));
    assert!(failed.clone().all(|line| line.ends_with(" 0")), "{:?}", failed.collect::<Vec<_>>());
    for served in [first, second] {
        served.orders.end();
        let _ = served.ended().await;
    }
}
