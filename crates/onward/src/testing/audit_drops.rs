//! Entries that may be dropped: counted, and told by the chain.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::time::Duration;

use super::audit::Harness;
use super::store_faults::Fault;
use crate::audit::verify::{Check, Verdict};
use crate::audit::{AppendOptions, Appended, Chain, Filter, Page, Receipt};
use crate::model::Entry;
use crate::{Code, Effect, Kind};

fn orders(h: &Harness) -> Chain {
    h.first.chain("orders").unwrap()
}

async fn append(chain: &Chain) -> Receipt {
    chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap()
}

/// Appends or drops; returns how many were dropped, if this one was.
async fn try_append(chain: &Chain) -> Option<u64> {
    match chain.append_or_drop(Entry::new("order.paid"), AppendOptions::new()).await.unwrap() {
        Appended::Written(_) => None,
        Appended::Dropped { total } => Some(total),
    }
}

/// The seq and the count of each gap that the chain tells of; the chain is good.
async fn gaps(chain: &Chain) -> Vec<(u64, u64)> {
    let report = chain.verify(Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.authenticated), (Verdict::Ok, true), "{report}");
    let filter = Filter { kind: Some("audit.gap".to_owned()), ..Filter::default() };
    let found = chain.query(&filter, Page::default()).await.unwrap();
    let count = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).unwrap()["count"].as_u64().unwrap();
    assert!(found.items.iter().all(crate::model::Sealed::is_pinned));
    found.items.iter().map(|entry| (entry.seq.get(), count(&entry.data))).collect()
}

/// All that was dropped between two entries is one control entry with the exact count, right in front of the second.
pub async fn drops_become_one_gap_entry_with_the_exact_count(h: &Harness) {
    let chain = orders(h);
    let before = append(&chain).await;
    h.faults.script([Some(Fault::Refused); 3]);
    for total in 1..=2 {
        assert_eq!(try_append(&chain).await, Some(total));
    }
    let two = vec![Entry::new("order.paid"), Entry::new("order.paid")];
    assert_eq!(chain.append_many_or_drop(two, AppendOptions::new()).await.unwrap(), Appended::Dropped { total: 4 });
    // Another chain has its own count, and tells of nothing.
    let other = h.first.chain("other").unwrap();
    append(&other).await;
    assert_eq!(gaps(&other).await, []);
    assert_eq!(append(&chain).await.seq.get(), before.seq.get() + 2);
    assert_eq!(try_append(&chain).await, None);
    assert_eq!(gaps(&chain).await, [(before.seq.get() + 1, 4)]);
    let gap = chain.get(crate::model::Seq::new(before.seq.get() + 1).unwrap()).await.unwrap();
    let told: serde_json::Value = serde_json::from_slice(&gap.data).unwrap();
    assert_eq!(told["reason"], "unavailable");
    assert!(told["first"].as_str() <= told["last"].as_str() && told["instance"].as_str().unwrap().len() == 16, "{told}");
}

/// As long as nothing can be appended, not even the gap, drops are counted into the same gap.
pub async fn a_long_outage_is_one_gap(h: &Harness) {
    let chain = orders(h);
    append(&chain).await;
    h.faults.script([Some(Fault::Refused); 20]);
    for total in 1..=20 {
        assert_eq!(try_append(&chain).await, Some(total));
    }
    append(&chain).await;
    assert_eq!(gaps(&chain).await, [(3, 20)]);
}

/// A gap whose answer is lost is told again under the same id: the chain takes it once, and what is dropped meanwhile is the next gap.
pub async fn a_gap_whose_answer_is_lost_is_told_once(h: &Harness) {
    let chain = orders(h);
    append(&chain).await;
    h.faults.script([Some(Fault::Refused), Some(Fault::Refused), Some(Fault::Lost)]);
    assert_eq!((try_append(&chain).await, try_append(&chain).await), (Some(1), Some(2)));
    assert_eq!(try_append(&chain).await, Some(3));
    append(&chain).await;
    assert_eq!(gaps(&chain).await, [(3, 2), (4, 1)]);
}

/// An entry whose fate is unknown is an error, not a drop: the chain must not tell of a gap that is none.
pub async fn what_may_have_been_appended_is_not_called_dropped(h: &Harness) {
    let chain = orders(h);
    h.faults.next(Fault::Lost);
    let lost = chain.append_or_drop(Entry::new("order.paid"), AppendOptions::new().with_event_id("e1")).await.unwrap_err();
    assert_eq!(lost.effect(), Effect::Unknown);
    let again = chain.append_or_drop(Entry::new("order.paid"), AppendOptions::new().with_event_id("e1")).await.unwrap();
    assert!(matches!(again, Appended::Written(Receipt { replayed: true, .. })), "{again:?}");
    let bad = chain.append_or_drop(Entry::new("audit.gap"), AppendOptions::new()).await.unwrap_err();
    assert_eq!(bad.kind(), Kind::Invalid);
    assert_eq!(gaps(&chain).await, []);
}

/// Plain appends never drop; and one that comes behind drops is refused, not put in front of their gap.
pub async fn an_append_that_fails_closed_drops_nothing(h: &Harness) {
    let chain = orders(h);
    append(&chain).await;
    h.faults.next(Fault::Refused);
    let refused = chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap_err();
    assert_eq!((refused.code(), refused.effect()), (Code::Unavailable, Effect::NotApplied));
    append(&chain).await;
    assert_eq!(gaps(&chain).await, []);
    h.faults.script([Some(Fault::Refused), Some(Fault::Refused)]);
    assert_eq!(try_append(&chain).await, Some(1));
    assert_eq!(chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap_err().effect(), Effect::NotApplied);
    append(&chain).await;
    assert_eq!(gaps(&chain).await, [(4, 1)]);
}

/// A deadline that passes in the queue is a drop too.
pub async fn a_busy_queue_drops_too(h: &Harness) {
    let chain = orders(h);
    append(&chain).await;
    h.faults.hold();
    let held = tokio::spawn({
        let chain = chain.clone();
        async move { append(&chain).await }
    });
    h.faults.stopped().await;
    let short = AppendOptions::new().with_deadline(Duration::from_millis(100));
    let waiting = tokio::spawn({
        let chain = chain.clone();
        async move { chain.append_or_drop(Entry::new("order.paid"), short).await.unwrap() }
    });
    // Its first poll puts it into the queue.
    tokio::task::yield_now().await;
    h.clock.advance(Duration::from_millis(200));
    h.faults.release();
    assert_eq!(waiting.await.unwrap(), Appended::Dropped { total: 1 });
    held.await.unwrap();
    append(&chain).await;
    assert_eq!(gaps(&chain).await, [(4, 1)]);
}

/// A chain whose name is ours is refused to callers.
pub async fn chains_of_ours_are_not_for_callers(h: &Harness) {
    for name in ["onward.admin", "onward.", "onward.x"] {
        assert_eq!(h.first.chain(name).unwrap_err().code(), Code::InvalidKey, "{name}");
    }
    h.first.chain("onwards").unwrap();
    h.first.chain_of_ours("onward.admin").unwrap();
}
