//! The conformance suite of the audit trail: queries, lists, tails, and verification.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise ends a test")]

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::audit::{Harness, refund, seq};
use crate::Kind;
use crate::audit::verify::{Check, Depth, Extent, SavedHead, Verdict};
use crate::audit::{AppendOptions, Chain, Filter, From, Order, Pace, Page};
use crate::model::{Data, Entry};
use crate::time::Clock;

pub(super) async fn verified(chain: &Chain) -> u64 {
    let report = chain.verify(Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.authenticated), (Verdict::Ok, true), "{report}");
    report.to_seq
}

/// Moves the clock while a future waits for it.
async fn ticking<T>(clock: &Clock, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(output),
        Poll::Pending => {
            clock.advance(Duration::from_millis(20));
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// Kind, actor, resource, time and seq, alone and together.
pub async fn a_query_narrows_by_every_field(harness: &Harness) {
    let chain = harness.orders();
    let mut times = Vec::new();
    for order in 1..=6 {
        harness.clock.advance(Duration::from_secs(1));
        let mut entry = refund(order % 3);
        if order % 2 == 0 {
            entry = entry.by("user:8");
        }
        if order == 6 {
            entry.kind = "order.closed".into();
        }
        times.push(chain.append(entry, AppendOptions::new()).await.unwrap().at);
    }
    let seqs = async |filter: Filter| {
        let found = harness.orders_again().query(&filter, Page::default()).await.unwrap();
        assert_eq!(found.next, None);
        found.items.iter().map(|entry| entry.seq.get()).collect::<Vec<_>>()
    };
    let any = Filter::default;
    assert_eq!(seqs(any()).await, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(seqs(Filter { kind: Some("order.refund".into()), ..any() }).await, [2, 3, 4, 5, 6]);
    assert_eq!(seqs(Filter { actor: Some("user:8".into()), ..any() }).await, [3, 5, 7]);
    assert_eq!(seqs(Filter { resource: Some("order:1".into()), ..any() }).await, [2, 5]);
    assert_eq!(seqs(Filter { since: Some(times[1]), until: Some(times[3]), ..any() }).await, [3, 4, 5]);
    assert_eq!(seqs(Filter { from: Some(seq(3)), to: Some(seq(4)), ..any() }).await, [3, 4]);
    let both = Filter { actor: Some("user:8".into()), since: Some(times[2]), order: Order::Descending, ..any() };
    assert_eq!(seqs(both).await, [7, 5]);
    assert!(seqs(Filter { kind: Some("order".into()), ..any() }).await.is_empty());
    assert!(seqs(Filter { from: Some(seq(8)), ..any() }).await.is_empty());
}

/// No entry twice, none left out, whatever the size of a page.
pub async fn pages_join_to_the_whole_in_both_orders(harness: &Harness) {
    let chain = harness.orders();
    chain.append_many((1..=20).map(refund).collect(), AppendOptions::new()).await.unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let filter = Filter { kind: Some("order.refund".into()), order, ..Filter::default() };
        let (mut page, mut seqs) = (Page::first(3), Vec::new());
        loop {
            let found = chain.query(&filter, page).await.unwrap();
            assert!(found.items.len() <= 3);
            seqs.extend(found.items.iter().map(|entry| entry.seq.get()));
            match found.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        let all: Vec<u64> = if order == Order::Ascending { (2..=21).collect() } else { (2..=21).rev().collect() };
        assert_eq!(seqs, all);
    }
    // A page also ends at 8 MiB.
    let big = Data::bytes(vec![0; 1 << 20]);
    for _ in 0..10 {
        chain.append(Entry::new("big").with_data(big.clone()), AppendOptions::new()).await.unwrap();
    }
    let found = chain.query(&Filter { kind: Some("big".into()), ..Filter::default() }, Page::first(1_000)).await.unwrap();
    assert_eq!((found.items.len(), found.next.is_some()), (8, true));
    for limit in [0, 1_001] {
        assert_eq!(chain.query(&Filter::default(), Page::first(limit)).await.unwrap_err().kind(), Kind::Invalid);
    }
}

/// A page looks at a bounded number of entries, so it may be empty; whoever goes on finds what there is.
pub async fn a_rare_entry_is_found_behind_pages_that_are_empty(harness: &Harness) {
    let chain = harness.orders();
    let rare = || Entry::new("rare").by("user:1").on("order:1");
    chain.append(rare(), AppendOptions::new()).await.unwrap();
    for _ in 0..80 {
        chain.append_many(vec![Entry::new("x"); 128], AppendOptions::new()).await.unwrap();
    }
    chain.append(rare(), AppendOptions::new()).await.unwrap();
    for (order, wanted) in [(Order::Ascending, [2, 10_243]), (Order::Descending, [10_243, 2])] {
        for filter in [
            Filter { kind: Some("rare".into()), order, ..Filter::default() },
            Filter { actor: Some("user:1".into()), order, ..Filter::default() },
            Filter { resource: Some("order:1".into()), order, ..Filter::default() },
        ] {
            let (mut page, mut seqs, mut pages) = (Page::first(10), Vec::new(), 0);
            loop {
                let found = chain.query(&filter, page).await.unwrap();
                seqs.extend(found.items.iter().map(|entry| entry.seq.get()));
                pages += 1;
                match found.next {
                    Some(next) => page.after = Some(next),
                    None => break,
                }
            }
            assert_eq!(seqs, wanted);
            assert!((2..=3).contains(&pages), "{pages} pages for 10,243 entries");
        }
    }
}

/// By name, page by page.
pub async fn chains_are_listed_in_order_of_their_names(harness: &Harness) {
    for name in ["b", "a", "c"] {
        harness.first.chain(name).unwrap().append(Entry::new("x"), AppendOptions::new()).await.unwrap();
    }
    let names = async |after: Option<&str>, limit| {
        let after = after.map(|name| crate::model::ChainName::new(name).unwrap());
        let chains = harness.second.chains(after.as_ref(), limit).await.unwrap();
        assert!(chains.iter().all(|chain| chain.head.seq == seq(2)));
        chains.iter().map(|chain| chain.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(None, 2).await, ["a", "b"]);
    assert_eq!(names(Some("b"), 2).await, ["c"]);
}

/// From a position and from the head, over both handles.
pub async fn tail_delivers_each_entry_once(harness: &Harness) {
    let chain = harness.orders();
    chain.append_many((1..=3).map(refund).collect(), AppendOptions::new()).await.unwrap();
    let mut all = harness.orders_again().tail(From::Seq(seq(1)));
    let mut new = harness.orders_again().tail(From::Head);
    new.start().await.unwrap();
    chain.append_many((4..=6).map(refund).collect(), AppendOptions::new()).await.unwrap();
    harness.first.chain("others").unwrap().append(refund(0), AppendOptions::new()).await.unwrap();
    harness.orders_again().append(refund(7), AppendOptions::new()).await.unwrap();
    for expected in 1..=8 {
        assert_eq!(ticking(&harness.clock, all.next()).await.unwrap().seq.get(), expected);
    }
    for expected in 5..=8 {
        assert_eq!(ticking(&harness.clock, new.next()).await.unwrap().seq.get(), expected);
    }
    // Both wait now; the next entry reaches each of them, once.
    let waiting = tokio::spawn(async move {
        let entry = all.next().await.unwrap();
        (entry.seq.get(), all)
    });
    chain.append(refund(8), AppendOptions::new()).await.unwrap();
    let (reached, mut all) = ticking(&harness.clock, waiting).await.unwrap();
    assert_eq!(reached, 9);
    chain.append(refund(9), AppendOptions::new()).await.unwrap();
    assert_eq!(ticking(&harness.clock, all.next()).await.unwrap().seq.get(), 10);
}

/// A tail may be older than its chain.
pub async fn a_tail_waits_for_the_first_entry_of_a_chain(harness: &Harness) {
    let mut tail = harness.orders_again().tail(From::Head);
    tail.start().await.unwrap();
    harness.orders().append(refund(1), AppendOptions::new()).await.unwrap();
    assert_eq!(ticking(&harness.clock, tail.next()).await.unwrap().kind, "chain.created");
    assert_eq!(ticking(&harness.clock, tail.next()).await.unwrap().seq.get(), 2);
}

/// INV-7: no false alarm beside running appends.
pub async fn no_alarm_while_entries_are_appended(harness: &Harness) {
    let chain = harness.orders();
    chain.append(refund(0), AppendOptions::new()).await.unwrap();
    let writer = tokio::spawn(async move {
        for batch in 0..20 {
            chain.append_many((0..50).map(|order| refund(batch * 50 + order)).collect(), AppendOptions::new()).await.unwrap();
        }
    });
    let mut walks = 0;
    while !writer.is_finished() || walks == 0 {
        verified(&harness.orders_again()).await;
        walks += 1;
    }
    writer.await.unwrap();
    assert_eq!(verified(&harness.orders_again()).await, 1_002);
}

/// The head that was saved is a prefix of what grew from it.
pub async fn a_saved_head_vouches_for_the_chain_that_grew_from_it(harness: &Harness) {
    let chain = harness.orders();
    chain.append_many((1..=9).map(refund).collect(), AppendOptions::new()).await.unwrap();
    let saved = chain.verify(Check::default()).await.unwrap().saved_head(harness.clock.wall()).unwrap();
    let head = chain.head().await.unwrap().unwrap();
    assert_eq!((saved.size, saved.hash, saved.root), (head.seq.get(), head.hash, head.frontier.root()));
    chain.append_many((1..=9).map(refund).collect(), AppendOptions::new()).await.unwrap();
    let check = Check { saved: Some(saved.clone()), depth: Some(Depth::Public), ..Check::default() };
    let report = harness.orders_again().verify(check).await.unwrap();
    assert_eq!((report.verdict, report.attested_to, report.authenticated), (Verdict::Ok, Some(10), false), "{report}");
    // Another store's chain of the same name is another chain.
    let other = harness.first.chain("others").unwrap();
    other.append(refund(1), AppendOptions::new()).await.unwrap();
    assert_eq!(other.verify(Check { saved: Some(saved), ..Check::default() }).await.unwrap_err().kind(), Kind::Invalid);
}

/// Reads of what is not there say so.
pub async fn what_is_not_there_is_not_found(harness: &Harness) {
    let chain = harness.orders();
    assert_eq!(chain.get(seq(1)).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(chain.query(&Filter::default(), Page::default()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(chain.verify(Check::default()).await.unwrap_err().kind(), Kind::NotFound);
    chain.append(refund(1), AppendOptions::new()).await.unwrap();
    assert_eq!(chain.get(seq(3)).await.unwrap_err().kind(), Kind::NotFound);
    let beyond = Check { from: Some(seq(9)), ..Check::default() };
    assert_eq!(chain.verify(beyond).await.unwrap_err().kind(), Kind::Invalid);
}

/// A finding of a whole walk stays until a whole walk finds nothing.
pub async fn an_incremental_run_never_clears_a_finding(harness: &Harness) {
    let chain = harness.orders();
    assert_eq!(chain.last_verdict().await.unwrap(), None);
    chain.append(refund(1), AppendOptions::new()).await.unwrap();
    let report = chain.verify(Check::default()).await.unwrap();
    assert!(report.kept);
    let saved = report.saved_head(harness.clock.wall()).unwrap();
    chain.append(refund(2), AppendOptions::new()).await.unwrap();
    // A head that this chain never had: as if the chain had been rewritten.
    let foreign = SavedHead { hash: saved.root, ..saved.clone() };
    let broken = chain.verify(Check { saved: Some(foreign), ..Check::default() }).await.unwrap();
    assert_eq!((broken.verdict, broken.kept), (Verdict::Broken, true));
    harness.clock.advance(Duration::from_secs(1));
    let incremental = Check { saved: Some(saved.clone()), extent: Extent::Incremental, ..Check::default() };
    let good = chain.verify(incremental).await.unwrap();
    assert_eq!((good.verdict, good.rows_hashed), (Verdict::Ok, 1), "{good}");
    let kept = harness.orders_again().last_verdict().await.unwrap().unwrap();
    assert_eq!((kept.verdict, kept.extent, kept.finding), (Verdict::Broken, Extent::Full, broken.findings.first().cloned()));
    // A whole walk against a head that the chain did have clears it.
    chain.verify(Check { saved: Some(saved), ..Check::default() }).await.unwrap();
    assert_eq!(harness.orders_again().last_verdict().await.unwrap().unwrap().verdict, Verdict::Ok);
}

/// A walk that would not have seen it says nothing about a finding.
pub async fn a_verdict_with_less_to_compare_never_clears_a_finding(harness: &Harness) {
    let chain = harness.orders();
    chain.append(refund(1), AppendOptions::new()).await.unwrap();
    let saved = chain.verify(Check::default()).await.unwrap().saved_head(harness.clock.wall()).unwrap();
    let foreign = SavedHead { hash: saved.root, ..saved.clone() };
    chain.verify(Check { saved: Some(foreign), ..Check::default() }).await.unwrap();
    let seq = Some(seq(1));
    for less in [
        Check::default(),
        Check { saved: Some(saved.clone()), depth: Some(Depth::Public), ..Check::default() },
        Check { saved: Some(saved.clone()), from: seq, ..Check::default() },
    ] {
        assert_eq!(chain.verify(less.clone()).await.unwrap().verdict, Verdict::Ok);
        assert_eq!(chain.last_verdict().await.unwrap().unwrap().verdict, Verdict::Broken, "{less:?}");
    }
    chain.verify(Check { saved: Some(saved), ..Check::default() }).await.unwrap();
    assert_eq!(chain.last_verdict().await.unwrap().unwrap().verdict, Verdict::Ok);
}

/// A verification may leave the machine to others, and ends when nobody waits for it.
pub async fn a_slow_pace_is_kept_and_ends_with_its_caller(harness: &Harness) {
    let chain = harness.orders();
    chain.append_many((0..59).map(refund).collect(), AppendOptions::new()).await.unwrap();
    let begun = harness.clock.now();
    let slow = Pace { rows_per_s: Some(10), ..Pace::default() };
    let report = ticking(&harness.clock, chain.verify_watched(Check::default(), slow, |_| {})).await.unwrap();
    assert_eq!(report.rows_hashed, 60);
    assert!(harness.clock.now().since(begun) >= Duration::from_secs(6));
    let stopped = Pace { bytes_per_s: Some(0), ..Pace::default() };
    assert_eq!(chain.verify_watched(Check::default(), stopped, |_| {}).await.unwrap_err().kind(), Kind::Invalid);
    // Each of these would wait for ever, and each gives its place back.
    for _ in 0..8 {
        let (told, mut at_it) = tokio::sync::mpsc::unbounded_channel();
        let endless = Pace { bytes_per_s: Some(1), ..Pace::default() };
        let chain = chain.clone();
        let walk =
            tokio::spawn(async move { chain.verify_watched(Check::default(), endless, move |_| told.send(()).unwrap_or_default()).await });
        at_it.recv().await.unwrap();
        walk.abort();
        // The walk drops what it was given when it ends.
        while at_it.recv().await.is_some() {}
    }
    // The last one's place may be given back a moment after its end was seen.
    while matches!(chain.verify(Check::default()).await, Err(error) if error.kind() == Kind::Overloaded) {
        tokio::task::yield_now().await;
    }
}

/// The number of threads changes the time that a verification takes, and nothing else.
pub async fn many_threads_verify_what_one_does(harness: &Harness) {
    let chain = harness.orders();
    for batch in 0..40 {
        chain.append_many((0..128).map(|order| refund(batch * 128 + order)).collect(), AppendOptions::new()).await.unwrap();
    }
    let one = chain.verify(Check::default()).await.unwrap();
    let many = chain.verify(Check { threads: 4, ..Check::default() }).await.unwrap();
    assert_eq!((many.verdict, many.rows_hashed), (Verdict::Ok, 5_121));
    assert_eq!(many, one);
}
