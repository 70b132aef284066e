//! Personal data of entries: what every engine owes that keeps them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use super::audit::{Harness, seq};
use super::store_faults::Fault;
use crate::audit::verify::{Archives, Check, FindingCode, Report, Verdict};
use crate::audit::{Act, AppendOptions, Chain, Filter, Page, Redact};
use crate::model::{Entry, Personal};
use crate::{Code, Kind};

/// Makes one named test for each case, for an engine that keeps personal data; `$open` is an async function in scope that returns a
/// fresh [`Harness`].
#[macro_export]
macro_rules! audit_personal_conformance {
    ($module:ident, $open:ident) => {
        mod $module {
            $crate::audit_conformance! { @in audit_personal $open;
                personal_data_stand_apart_and_the_entry_commits_to_them
                a_redaction_forgets_a_subject_and_the_chain_verifies
                a_redaction_through_an_entry_forgets_everybody
                a_hold_keeps_personal_data
                a_lost_answer_to_a_redaction_is_one_entry
                a_restore_brings_no_redacted_value_back
                a_redaction_that_runs_beside_a_walk_raises_no_alarm
                bad_personal_data_are_refused_before_anything_is_written
            }
        }
    };
}

fn act() -> Act {
    Act::because("request 4711")
}

fn placed(subject: &str, value: &str) -> Entry {
    Entry::new("order.placed").by("shop").with_personal(Personal::new(subject, value.to_owned()))
}

/// Entries 2..=7: three of one subject, two of another, one without personal data.
async fn orders(h: &Harness) -> Chain {
    let orders = h.orders();
    let (ada, bob) = (|n| placed("user:ada", &format!("ada-{n}")), |n| placed("user:bob", &format!("bob-{n}")));
    let entries = vec![ada(1), bob(1), ada(2), Entry::new("order.sent"), bob(2), ada(3)];
    orders.append_many(entries, AppendOptions::new()).await.unwrap();
    orders
}

async fn verified(chain: &Chain) -> Report {
    let check = |threads| Check { archives: Archives::Read, threads, ..Check::default() };
    let report = chain.verify(check(1)).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty() && report.authenticated, "{report}");
    assert_eq!(chain.verify(check(3)).await.unwrap().findings, []);
    report
}

async fn absent(chain: &Chain, at: u64) {
    assert_eq!(chain.personal(seq(at)).await.unwrap_err().kind(), Kind::NotFound, "{at}");
}

async fn told(chain: &Chain) -> usize {
    let redactions = Filter { kind: Some("redact.done".to_owned()), ..Filter::default() };
    chain.query(&redactions, Page::default()).await.unwrap().items.len()
}

/// The entry holds the commitment, and nothing of the value; whoever may reads the value.
pub async fn personal_data_stand_apart_and_the_entry_commits_to_them(h: &Harness) {
    let orders = orders(h).await;
    let kept = h.orders_again().personal(seq(4)).await.unwrap();
    assert_eq!((kept.personal.subject.as_str(), &kept.personal.value[..]), ("user:ada", &b"ada-2"[..]));
    let entry = orders.get(seq(4)).await.unwrap();
    assert_eq!(entry.personal, Some(kept.commitment()));
    let shown = format!("{entry:?} {kept:?}");
    assert!(!shown.contains("user:ada") && !shown.contains("ada-2"), "{shown}");
    assert_eq!(orders.get(seq(5)).await.unwrap().personal, None);
    absent(&orders, 5).await;
    // Equal values have unequal commitments.
    orders.append(placed("user:ada", "ada-2"), AppendOptions::new()).await.unwrap();
    assert_ne!(orders.get(seq(8)).await.unwrap().personal, entry.personal);
    // Told again, the event is the same, and no second value is kept.
    let once = AppendOptions::new().with_event_id("e1");
    let first = orders.append(placed("user:ada", "x"), once.clone()).await.unwrap();
    let again = orders.append(placed("user:ada", "x"), once.clone()).await.unwrap();
    assert!(again.replayed && again.seq == first.seq);
    assert_eq!(orders.append(Entry::new("order.placed").by("shop"), once).await.unwrap_err().code(), Code::RequestIdReused);
    verified(&orders).await;
}

/// One subject's values are gone, the other's stay, and nothing of the chain changed.
pub async fn a_redaction_forgets_a_subject_and_the_chain_verifies(h: &Harness) {
    let orders = orders(h).await;
    let ada = Redact::Subject("user:ada".to_owned());
    let before = orders.get(seq(4)).await.unwrap();
    let planned = orders.redact(&ada, &act().dry()).await.unwrap();
    assert_eq!((planned.values, planned.entries.len()), (3, 0));
    assert_eq!((told(&orders).await, orders.personal(seq(4)).await.is_ok()), (0, true));
    let redacted = orders.redact(&ada, &act().by(Some("officer".to_owned()))).await.unwrap();
    assert_eq!((redacted.values, redacted.entries.as_slice(), redacted.erased), (3, &[8][..], true));
    for gone in [2, 4, 7] {
        absent(&orders, gone).await;
        absent(&h.orders_again(), gone).await;
    }
    assert_eq!(&orders.personal(seq(6)).await.unwrap().personal.value[..], b"bob-2");
    assert_eq!(orders.get(seq(4)).await.unwrap(), before);
    let entry = orders.get(seq(8)).await.unwrap();
    assert_eq!((entry.kind.as_str(), entry.actor.as_deref(), entry.is_pinned()), ("redact.done", Some("officer"), true));
    assert_eq!(&entry.data[..], br#"{"reason":"request 4711","seqs":[[2,2],[4,4],[7,7]]}"#);
    verified(&orders).await;
    // Nothing is left to forget, and nothing more is told.
    assert_eq!(orders.redact(&ada, &act()).await.unwrap().values, 0);
    assert_eq!(told(&orders).await, 1);
    // What comes later is forgotten by the next one.
    orders.append(placed("user:ada", "ada-4"), AppendOptions::new()).await.unwrap();
    assert_eq!(orders.redact(&ada, &act()).await.unwrap().entries, [10]);
    verified(&orders).await;
}

/// Everybody's up to an entry.
pub async fn a_redaction_through_an_entry_forgets_everybody(h: &Harness) {
    let orders = orders(h).await;
    let redacted = orders.redact(&Redact::Through(seq(5)), &act()).await.unwrap();
    assert_eq!((redacted.values, redacted.erased), (3, true));
    assert!(orders.personal(seq(6)).await.is_ok() && orders.personal(seq(7)).await.is_ok());
    absent(&orders, 4).await;
    verified(&orders).await;
}

/// A legal hold keeps values, too: all of them stay, not just the held ones.
pub async fn a_hold_keeps_personal_data(h: &Harness) {
    let orders = orders(h).await;
    let (hold, _) = orders.hold(Some(seq(7)), Some(seq(7)), &act()).await.unwrap();
    let ada = Redact::Subject("user:ada".to_owned());
    for act in [act(), act().dry()] {
        let refused = orders.redact(&ada, &act).await.unwrap_err();
        assert_eq!((refused.kind(), refused.code()), (Kind::Conflict, Code::StateConflict));
    }
    assert!(orders.personal(seq(2)).await.is_ok());
    assert_eq!(told(&orders).await, 0);
    assert_eq!(orders.redact(&Redact::Subject("user:bob".to_owned()), &act()).await.unwrap().values, 2);
    orders.release_hold(&hold.id, &act()).await.unwrap();
    assert_eq!(orders.redact(&ada, &act()).await.unwrap().values, 3);
    verified(&orders).await;
}

/// A redaction whose answer is lost is settled by asking: it happened once.
pub async fn a_lost_answer_to_a_redaction_is_one_entry(h: &Harness) {
    let orders = orders(h).await;
    h.faults.next(Fault::Lost);
    let redacted = orders.redact(&Redact::Subject("user:bob".to_owned()), &act()).await.unwrap();
    assert_eq!((redacted.values, told(&orders).await), (2, 1));
    verified(&orders).await;
}

/// Files of the archive hold commitments: what comes back is the entry, never the value.
pub async fn a_restore_brings_no_redacted_value_back(h: &Harness) {
    let orders = orders(h).await;
    orders.seal(Some(seq(7)), &act()).await.unwrap();
    orders.archive(seq(1), &act()).await.unwrap();
    orders.purge(seq(1), &act()).await.unwrap();
    // Of a purged entry, too, the value can be read and forgotten.
    assert_eq!(&orders.personal(seq(4)).await.unwrap().personal.value[..], b"ada-2");
    assert_eq!(orders.redact(&Redact::Subject("user:ada".to_owned()), &act()).await.unwrap().values, 3);
    verified(&orders).await;
    orders.restore(seq(1), None, &act()).await.unwrap();
    assert!(orders.get(seq(4)).await.unwrap().personal.is_some());
    absent(&orders, 4).await;
    assert!(orders.personal(seq(3)).await.is_ok());
    verified(&orders).await;
}

/// Values that go between a walk's look at the rows and its look beside them are no alarm.
pub async fn a_redaction_that_runs_beside_a_walk_raises_no_alarm(h: &Harness) {
    let orders = h.orders();
    for _ in 0..24 {
        let entries = (0..128).map(|n| placed(&format!("user:{}", n % 8), "value")).collect();
        orders.append_many(entries, AppendOptions::new()).await.unwrap();
    }
    let redact = async {
        for user in 0..8 {
            h.orders_again().redact(&Redact::Subject(format!("user:{user}")), &act()).await.unwrap();
        }
    };
    let walks = async {
        for threads in [1, 3, 1, 3] {
            let report = orders.verify(Check { threads, ..Check::default() }).await.unwrap();
            assert!(!report.findings.iter().any(|finding| finding.code != FindingCode::Leftover), "{report}");
        }
    };
    tokio::join!(redact, walks);
    verified(&orders).await;
}

/// Limits, before anything is written.
pub async fn bad_personal_data_are_refused_before_anything_is_written(h: &Harness) {
    let orders = h.orders();
    for (subject, bytes, code) in [
        (String::new(), 1, Code::InvalidRequest),
        ("x".repeat(257), 1, Code::InvalidRequest),
        ("a\0b".to_owned(), 1, Code::InvalidRequest),
        ("user:7".to_owned(), (64 << 10) + 1, Code::PayloadTooLarge),
    ] {
        let entry = Entry::new("a").with_personal(Personal::new(subject.clone(), vec![b'x'; bytes]));
        assert_eq!(orders.append(entry, AppendOptions::new()).await.unwrap_err().code(), code, "{bytes}");
        if code == Code::InvalidRequest {
            assert_eq!(orders.redact(&Redact::Subject(subject), &act()).await.unwrap_err().kind(), Kind::Invalid);
        }
    }
    assert!(orders.head().await.unwrap().is_none());
    assert_eq!(orders.redact(&Redact::Through(seq(1)), &act()).await.unwrap_err().kind(), Kind::NotFound);
    let most = Entry::new("a").with_personal(Personal::new("x".repeat(256), vec![b'x'; 64 << 10]));
    orders.append(most, AppendOptions::new()).await.unwrap();
    verified(&orders).await;
}
