//! Conformance of the part `audit`: what every engine owes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::audit_reads::verified;
use crate::audit::engine::AuditEngine;
use crate::audit::{AppendOptions, Archive, Chain, Trail, TrailOptions};
use crate::commit::engine::CommitEngine;
use crate::commit::{Commit, CommitOutcome, CommitQueue, Guard, QueueOptions, Retention, WriteCondition};
use crate::model::{CheckpointKey, Data, Entry, FencingToken, Key, LockKey, MacKeys, RequestId, Seq};
use crate::observe::Silent;
use crate::testing::store_faults::{Faults, Faulty};
use crate::time::Clock;
use crate::{Code, Kind};

/// Two handles on one store, as two processes have them, and the clock that both read.
pub struct Harness {
    /// One handle.
    pub first: Trail,
    /// Another handle on the same store.
    pub second: Trail,
    /// The manual clock of both.
    pub clock: Clock,
    /// What goes wrong with writes through the first.
    pub faults: Faults,
    /// What the first reads from.
    pub(super) engine: Arc<dyn AuditEngine>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Harness")
    }
}

impl Harness {
    /// Puts a trail over each of two handles on one store. `keep` lives as long as the harness.
    pub async fn over<E: CommitEngine + AuditEngine + 'static>(first: E, second: E, clock: Clock, keep: impl Any + Send + Sync) -> Self {
        Self::archiving(first, second, clock, Archive::open("memory:").unwrap(), keep).await
    }

    /// Does so with an archive of the caller's.
    pub async fn archiving<E>(first: E, second: E, clock: Clock, archive: Archive, keep: impl Any + Send + Sync) -> Self
    where
        E: CommitEngine + AuditEngine + 'static,
    {
        let faults = Faults::default();
        let (first, second) = (Arc::new(first), Arc::new(second));
        let trail = async |engine: Arc<E>, faults: Faults, signing: Option<CheckpointKey>| {
            let keys = MacKeys::one("k1", [7; 32]).unwrap();
            let options = QueueOptions { clock: clock.clone(), observer: Arc::new(Silent), keys, retention: Retention::default() };
            let commits = Arc::new(Faulty::new(engine.clone(), faults));
            Trail::with(
                CommitQueue::start(commits, options).await.unwrap(),
                engine,
                TrailOptions { signing, archive: Some(archive.clone()), policies: super::audit_maintain::policies() },
            )
        };
        let signing = Some(CheckpointKey::from_seed([7; 32]));
        let engine = first.clone();
        let (first, second) = (trail(first, faults.clone(), signing).await, trail(second, Faults::default(), None).await);
        Self { first, second, clock: clock.clone(), faults, engine, _keep: Box::new(keep) }
    }

    pub(super) fn orders(&self) -> Chain {
        self.first.chain("orders").unwrap()
    }

    pub(super) fn orders_again(&self) -> Chain {
        self.second.chain("orders").unwrap()
    }
}

/// Makes one named test for each case; `$open` is an async function in scope that returns a fresh [`Harness`].
#[macro_export]
macro_rules! audit_conformance {
    ($module:ident, $open:ident) => {
        mod $module {
            $crate::audit_conformance! { @in audit $open;
                seqs_are_dense_with_many_writers_on_two_handles
                a_chain_begins_with_its_creation
                an_entry_is_read_as_it_was_written
                absent_and_empty_actor_differ
                many_entries_are_appended_all_or_none
                a_refused_commit_leaves_no_entry_and_no_seq_hole
                an_entry_and_its_object_change_commit_together
                a_retried_event_id_returns_the_first_receipt
                a_retried_event_id_under_a_later_grant_is_the_same_event
                a_reused_event_id_with_other_content_is_refused
                a_reused_event_id_never_hides_an_object_change
                an_event_id_is_remembered_for_seven_days
                an_older_fencing_token_appends_nothing
                time_never_goes_back
                bad_input_is_refused_before_anything_is_written
            }
            $crate::audit_conformance! { @in audit_reads $open;
                a_query_narrows_by_every_field
                pages_join_to_the_whole_in_both_orders
                a_rare_entry_is_found_behind_pages_that_are_empty
                chains_are_listed_in_order_of_their_names
                tail_delivers_each_entry_once
                a_tail_waits_for_the_first_entry_of_a_chain
                no_alarm_while_entries_are_appended
                a_saved_head_vouches_for_the_chain_that_grew_from_it
                what_is_not_there_is_not_found
                an_incremental_run_never_clears_a_finding
                a_verdict_with_less_to_compare_never_clears_a_finding
                a_slow_pace_is_kept_and_ends_with_its_caller
                many_threads_verify_what_one_does
            }
            $crate::audit_conformance! { @in audit_drops $open;
                drops_become_one_gap_entry_with_the_exact_count
                a_long_outage_is_one_gap
                a_gap_whose_answer_is_lost_is_told_once
                what_may_have_been_appended_is_not_called_dropped
                an_append_that_fails_closed_drops_nothing
                a_busy_queue_drops_too
                chains_of_ours_are_not_for_callers
            }
            $crate::audit_conformance! { @in audit_import $open;
                a_chain_from_elsewhere_is_the_same_and_goes_on
                what_the_past_says_comes_along
                what_is_no_good_export_is_refused_and_nothing_is_kept
                a_chain_that_exists_is_left_alone
                a_file_that_breaks_off_later_leaves_nothing_and_the_next_try_is_whole
                of_imports_and_appends_at_once_one_makes_the_chain
            }
            $crate::audit_conformance! { @in audit_proofs $open;
                an_entry_is_proved_to_be_in_every_later_size
                every_size_is_the_beginning_of_every_later_one
                a_checkpoint_attests_its_chain_and_no_other
            }
        }
    };
    (@in $part:ident $open:ident; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let harness = super::$open().await;
                $crate::testing::$part::$case(&harness).await;
            }
        )*
    };
}

pub(super) fn refund(order: u64) -> Entry {
    let data = Data::json(&serde_json::json!({ "order": order })).unwrap();
    Entry::new("order.refund").by("user:7").on(format!("order:{order}")).with_data(data)
}

pub(super) fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn lock() -> LockKey {
    LockKey::raw("jobs/refunds").unwrap()
}

/// INV-5: many writers on two handles, and each position is taken once.
pub async fn seqs_are_dense_with_many_writers_on_two_handles(harness: &Harness) {
    let writers = (0..16_u64).map(|writer| {
        let chain = if writer % 2 == 0 { harness.orders() } else { harness.orders_again() };
        tokio::spawn(async move {
            let mut seqs = Vec::new();
            for order in 0..5 {
                seqs.push(chain.append(refund(writer * 100 + order), AppendOptions::new()).await.unwrap().seq.get());
            }
            seqs
        })
    });
    let mut seqs = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        let own = writer.await.unwrap();
        assert!(own.is_sorted());
        seqs.extend(own);
    }
    // The first entry is the chain's creation.
    assert_eq!(seqs.iter().copied().collect::<BTreeSet<_>>(), (2..=81).collect());
    assert_eq!(verified(&harness.orders_again()).await, 81);
}

/// The first entry says what the chain is, and only this library writes it.
pub async fn a_chain_begins_with_its_creation(harness: &Harness) {
    let chain = harness.orders();
    assert!(chain.head().await.unwrap().is_none());
    let receipt = chain.append(refund(1), AppendOptions::new()).await.unwrap();
    assert_eq!(receipt.seq, seq(2));
    let first = chain.get(seq(1)).await.unwrap();
    assert!(first.is_pinned() && first.kind == "chain.created");
    let data: serde_json::Value = serde_json::from_slice(&first.data).unwrap();
    assert_eq!(data["origin"], receipt.origin.as_str());
    assert_eq!(data["origin"], format!("{}/orders", harness.first.queue().origin()));
}

/// C2: the receipt, the entry and the head agree.
pub async fn an_entry_is_read_as_it_was_written(harness: &Harness) {
    let data = Data::bytes(vec![0, 159, 146, 150]);
    let entry = refund(1).with_data(data.clone()).with_event_id("refund-1");
    let receipt = harness.orders().append(entry, AppendOptions::new()).await.unwrap();
    let stored = harness.orders_again().get(receipt.seq).await.unwrap();
    assert_eq!((stored.hash, stored.at, &stored.event_id), (receipt.hash, receipt.at, &receipt.event_id));
    assert_eq!(
        (stored.kind.as_str(), stored.actor.as_deref(), stored.resource.as_deref()),
        ("order.refund", Some("user:7"), Some("order:1"))
    );
    assert_eq!((&stored.data, stored.event_id.as_str(), stored.kid.as_str()), (data.as_bytes(), "refund-1", "k1"));
    assert_eq!(stored.compute_hash(&receipt.origin), receipt.hash);
    let head = harness.orders_again().head().await.unwrap().unwrap();
    assert_eq!((head.seq, head.hash, head.at, &*head.origin), (receipt.seq, receipt.hash, receipt.at, receipt.origin.as_str()));
}

/// Nobody is not the same as somebody without a name.
pub async fn absent_and_empty_actor_differ(harness: &Harness) {
    let chain = harness.orders();
    let absent = chain.append(Entry::new("login"), AppendOptions::new()).await.unwrap();
    let empty = chain.append(Entry::new("login").by("").on(""), AppendOptions::new()).await.unwrap();
    assert_eq!(chain.get(absent.seq).await.unwrap().actor, None);
    assert_eq!(chain.get(empty.seq).await.unwrap().actor.as_deref(), Some(""));
    verified(&chain).await;
}

/// One commit, one id, neighbours in the chain.
pub async fn many_entries_are_appended_all_or_none(harness: &Harness) {
    let chain = harness.orders();
    let options = || AppendOptions::new().with_event_id("batch-1");
    let receipts = chain.append_many((1..=3).map(refund).collect(), options()).await.unwrap();
    assert_eq!(receipts.iter().map(|receipt| receipt.seq.get()).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(receipts.iter().map(|receipt| receipt.event_id.as_str()).collect::<Vec<_>>(), ["batch-1/0", "batch-1/1", "batch-1/2"]);
    assert_eq!(receipts[0].revision, receipts[2].revision);
    let again = harness.orders_again().append_many((1..=3).map(refund).collect(), options()).await.unwrap();
    assert!(again.iter().zip(&receipts).all(|(again, first)| again.replayed && again.hash == first.hash));
    let bad = vec![refund(4), Entry::new("chain.created")];
    assert_eq!(chain.append_many(bad, AppendOptions::new()).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(verified(&chain).await, 4);
}

/// INV-5: what is refused takes no position.
pub async fn a_refused_commit_leaves_no_entry_and_no_seq_hole(harness: &Harness) {
    let chain = harness.orders();
    chain.append(refund(1), AppendOptions::new()).await.unwrap();
    let commit = Commit::new().guard(Guard::Exists(Key::new("account", "closed").unwrap())).audit(chain.name().clone(), refund(2));
    // Neighbours that may share its transaction.
    let others: Vec<_> = (0..8)
        .map(|order| {
            let chain = chain.clone();
            tokio::spawn(async move { chain.append(refund(order), AppendOptions::new()).await.map(drop) })
        })
        .collect();
    let refused = harness.first.queue().submit(commit).await.unwrap();
    assert!(matches!(refused, CommitOutcome::Conflict(_)));
    for append in others {
        append.await.unwrap().unwrap();
    }
    assert_eq!(verified(&chain).await, 10);
}

/// One transaction for the object and its entry.
pub async fn an_entry_and_its_object_change_commit_together(harness: &Harness) {
    let chain = harness.orders();
    let create = || {
        Commit::new()
            .put(("account", "a"), &serde_json::json!({ "sum": 1 }), WriteCondition::MustCreate)
            .audit(chain.name().clone(), Entry::new("account.created").on("account/a"))
    };
    let CommitOutcome::Committed(receipt) = harness.first.queue().submit(create()).await.unwrap() else { panic!("refused") };
    assert_eq!((receipt.audit.len(), receipt.audit[0].seq), (1, seq(2)));
    assert!(matches!(harness.second.queue().submit(create()).await.unwrap(), CommitOutcome::Conflict(_)));
    assert_eq!(verified(&chain).await, 2);
}

/// Exactly once, on whatever handle the retry comes.
pub async fn a_retried_event_id_returns_the_first_receipt(harness: &Harness) {
    let entry = || refund(1).with_event_id("refund-1");
    let first = harness.orders().append(entry(), AppendOptions::new()).await.unwrap();
    harness.orders().append(refund(2), AppendOptions::new()).await.unwrap();
    let again = harness.orders_again().append(refund(1), AppendOptions::new().with_event_id("refund-1")).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!((first.seq, first.hash, first.at, first.revision), (again.seq, again.hash, again.at, again.revision));
    // In another chain the same id is another event.
    let other = harness.first.chain("refunds").unwrap().append(entry(), AppendOptions::new()).await.unwrap();
    assert!(!other.replayed);
    assert_eq!(verified(&harness.orders()).await, 3);
}

/// The fence is a condition, not a part of the event.
pub async fn a_retried_event_id_under_a_later_grant_is_the_same_event(harness: &Harness) {
    let append = async |token| {
        let options = AppendOptions::new().with_fence(lock(), FencingToken::new(token).unwrap());
        harness.orders().append(refund(1).with_event_id("refund-1"), options).await.unwrap()
    };
    let (first, again) = (append(5).await, append(6).await);
    assert!(again.replayed && first.hash == again.hash);
}

/// One id names one content.
pub async fn a_reused_event_id_with_other_content_is_refused(harness: &Harness) {
    let chain = harness.orders();
    chain.append(refund(1).with_event_id("refund-1"), AppendOptions::new()).await.unwrap();
    for other in [refund(2), refund(1).by("user:8"), refund(1).with_data(Data::default())] {
        let refused = chain.append(other.with_event_id("refund-1"), AppendOptions::new()).await.unwrap_err();
        assert_eq!((refused.kind(), refused.code()), (Kind::Invalid, Code::RequestIdReused));
    }
    let two = chain.append(refund(1).with_event_id("a"), AppendOptions::new().with_event_id("b")).await;
    assert_eq!(two.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(verified(&chain).await, 2);
}

/// A commit that changes objects never passes for an append that was answered.
pub async fn a_reused_event_id_never_hides_an_object_change(harness: &Harness) {
    let chain = harness.orders();
    chain.append(refund(1).with_event_id("refund-1"), AppendOptions::new()).await.unwrap();
    let commit = Commit::new()
        .put(("account", "a"), &serde_json::json!({ "sum": 1 }), WriteCondition::MustCreate)
        .audit(chain.name().clone(), refund(1))
        .request(RequestId::of_event("orders", "refund-1"));
    assert_eq!(harness.first.queue().submit(commit).await.unwrap_err().code(), Code::RequestIdReused);
    // And no caller can name such an id.
    assert_eq!(RequestId::new("audit/orders/refund-1").unwrap_err().code(), Code::InvalidRequest);
}

/// The window of an event id is 7 days.
pub async fn an_event_id_is_remembered_for_seven_days(harness: &Harness) {
    let chain = harness.orders();
    let append = async || chain.append(refund(1).with_event_id("refund-1"), AppendOptions::new()).await.unwrap();
    let first = append().await;
    harness.clock.advance(Duration::from_secs(7 * 86_400 - 1));
    assert!(append().await.replayed);
    harness.clock.advance(Duration::from_secs(2));
    let second = append().await;
    assert!(!second.replayed && second.seq > first.seq);
}

/// INV-1: a paused holder's entry is refused.
pub async fn an_older_fencing_token_appends_nothing(harness: &Harness) {
    let append = async |chain: Chain, token| {
        chain.append(refund(token), AppendOptions::new().with_fence(lock(), FencingToken::new(token).unwrap())).await
    };
    append(harness.orders(), 7).await.unwrap();
    append(harness.orders(), 7).await.unwrap();
    let late = append(harness.orders_again(), 6).await.unwrap_err();
    assert_eq!((late.kind(), late.code(), late.newest_token()), (Kind::Lost, Code::Fenced, Some(FencingToken::new(7).unwrap())));
    assert_eq!(verified(&harness.orders()).await, 3);
}

/// C5: a wall clock that steps back changes no order.
pub async fn time_never_goes_back(harness: &Harness) {
    let chain = harness.orders();
    let before = chain.append(refund(1), AppendOptions::new()).await.unwrap();
    harness.clock.step_wall(-3_600_000_000);
    let after = harness.orders_again().append(refund(2), AppendOptions::new()).await.unwrap();
    assert_eq!((after.at, after.seq.get()), (before.at, before.seq.get() + 1));
    let stored = chain.get(after.seq).await.unwrap();
    assert_eq!(stored.flags & 8, 8, "the entry says that the clock was behind");
    verified(&chain).await;
}

/// C10: a typed error, and nothing is written.
pub async fn bad_input_is_refused_before_anything_is_written(harness: &Harness) {
    let chain = harness.orders();
    let long = "x".repeat(513);
    let bad = [
        Entry::new(""),
        Entry::new("Order"),
        Entry::new("k".repeat(129)),
        Entry::new("chain.created"),
        Entry::new("segment.sealed"),
        Entry::new("hold.placed"),
        Entry::new("redact.done"),
        Entry::new("key.retired"),
        Entry::new("audit.gap"),
        Entry::new("ok").by(&long),
        Entry::new("ok").on("a\nb"),
        Entry::new("ok").with_event_id(""),
        Entry::new("ok").with_event_id("a b"),
        Entry::new("ok").with_event_id("x".repeat(129)),
        Entry::new("ok").with_data(Data::bytes(vec![0; (1 << 20) + 1])),
    ];
    for entry in bad {
        let refused = chain.append(entry.clone(), AppendOptions::new()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{:?} {:?}", entry.kind, entry.event_id);
    }
    for deadline in [Duration::ZERO, Duration::from_secs(601)] {
        let options = AppendOptions::new().with_deadline(deadline);
        assert_eq!(chain.append(Entry::new("ok"), options).await.unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(chain.append_many(Vec::new(), AppendOptions::new()).await.unwrap_err().kind(), Kind::Invalid);
    let many = (0..129).map(refund).collect();
    assert_eq!(chain.append_many(many, AppendOptions::new()).await.unwrap_err().kind(), Kind::Invalid);
    for name in ["", "Orders", "a/b", ".a", &"a".repeat(65)] {
        assert_eq!(harness.first.chain(name).unwrap_err().code(), Code::InvalidKey, "{name}");
    }
    assert!(chain.head().await.unwrap().is_none());
    // What is at the limit is fine.
    let limit = Entry::new("k".repeat(128)).by("x".repeat(512)).with_event_id("x".repeat(128)).with_data(Data::bytes(vec![0; 1 << 20]));
    chain.append(limit, AppendOptions::new()).await.unwrap();
    verified(&chain).await;
}
