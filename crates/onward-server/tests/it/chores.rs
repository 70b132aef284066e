//! The server's own worker: what is due in the life of the chains is done while it serves.

use std::time::Duration;

use onward::audit::verify::{SegmentState, Verdict};
use onward::audit::{AppendOptions, Chain};
use onward::model::{Entry, MacKeys};
use onward::time::Clock;
use onward::{Config, Onward, retry};

use crate::serve::Served;

/// Waits until something is so; it says what it found instead.
async fn until(found: impl AsyncFn() -> Result<(), String>) {
    let clock = Clock::system();
    let patience = clock.now() + Duration::from_secs(60);
    while let Err(instead) = found().await {
        assert!(clock.now() < patience, "{instead}");
        retry::sleep(&clock, Duration::from_millis(20)).await;
    }
}

/// Waits until the chain has segments and each of them is in this state.
async fn all_are(chain: &Chain, state: SegmentState) {
    until(async || {
        let segments = chain.segments(None).await.unwrap();
        let so = !segments.is_empty() && segments.iter().all(|segment| segment.state == state);
        if so { Ok(()) } else { Err(format!("{segments:?}")) }
    })
    .await;
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
    assert!(chain("left-alone").segments(None).await.unwrap().is_empty());
    until(async || match chain("old").last_verdict().await.unwrap() {
        Some(kept) if kept.attested && kept.verdict == Verdict::Ok => Ok(()),
        kept => Err(format!("{kept:?}")),
    })
    .await;
    assert!(chain("left-alone").last_verdict().await.unwrap().is_none(), "it is young");
    let metrics = async || [first.get("/metrics").await.1, second.get("/metrics").await.1].concat();
    // A step is told when its state can be seen already.
    for row in [
        "stage=\"verify\",result=\"done\"} 1",
        "stage=\"seal\",result=\"done\"",
        "stage=\"purge\",result=\"done\"",
        "onward_audit_maintain_overdue_seconds 0.0",
    ] {
        until(async || {
            let metrics = metrics().await;
            if metrics.contains(row) { Ok(()) } else { Err(format!("{row}: {metrics}")) }
        })
        .await;
    }
    let metrics = metrics().await;
    let failed = metrics.lines().filter(|line| line.starts_with("onward_audit_maintain_steps") && line.contains("\"failed\""));
    assert!(failed.clone().all(|line| line.ends_with(" 0")), "{:?}", failed.collect::<Vec<_>>());
    for served in [first, second] {
        served.orders.end();
        let _ = served.ended().await;
    }
}
