//! Rights that a role has not: what they forbid is refused to whoever asks for it, and to nobody else in the same transaction (C1, INV-5).

use std::future::Future;

use onward::audit::verify::{Check, Verdict};
use onward::audit::{AppendOptions, Redact};
use onward::commit::{CommitOutcome, Guard, WriteCondition};
use onward::model::{ChainName, Entry, FencingToken, Personal, Version};
use onward::testing::audit::Harness;

use super::*;

/// A trail of a role that lacks rights, and one of the owner, who keeps personal data of a subject at seq 2.
async fn without(rights: &str) -> (String, Harness) {
    let (url, clock) = (Postgres::shared().schema().await, Clock::manual());
    let owner = PostgresStore::open(&url, &clock).await.unwrap();
    let app = PostgresStore::open(&Postgres::role_at(&url, rights).await, &clock).await.unwrap();
    let h = Harness::over(app, owner, clock, ()).await;
    h.second.chain("orders").unwrap().append(placed("ada"), AppendOptions::new()).await.unwrap();
    (url, h)
}

fn placed(subject: &str) -> Entry {
    Entry::new("order.placed").with_personal(Personal::new(subject, b"value".to_vec()))
}

/// Lets works come to the writer one after the other while it is held at another commit, so that they are one batch; returns what became
/// of them.
async fn one_batch<T: Send + 'static>(h: &Harness, works: Vec<impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    h.faults.hold();
    let opener = h.first.chain("opener").unwrap();
    let opener = tokio::spawn(async move { opener.append(Entry::new("a"), AppendOptions::new()).await.map(drop) });
    h.faults.stopped().await;
    let mut tasks = Vec::new();
    for work in works {
        tasks.push(tokio::spawn(work));
        let until = Clock::system().now() + PATIENCE;
        while h.first.queue().waiting() < tasks.len() {
            assert!(Clock::system().now() < until, "it does not come to the writer");
            tokio::task::yield_now().await;
        }
    }
    h.faults.release();
    // The server may have ended it, which was in a transaction for as long as that took.
    let _ = opener.await.unwrap();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_batch_only_those_are_refused_who_lack_a_right() {
    let (url, h) = without("INSERT ON onward_personal, onward_fences").await;
    let put = |name: &str| Commit::new().put(("thing", name), &1, WriteCondition::MustCreate);
    let orders = || ChainName::new("orders").unwrap();
    let commits = vec![
        put("plain"),
        put("fenced").fence(LockKey::raw("job").unwrap(), FencingToken::new(7).unwrap()),
        put("audited").audit(orders(), Entry::new("order.paid")),
        put("personal").audit(orders(), placed("bob")),
        put("stale").audit(orders(), placed("cyd")).guard(Guard::At(Key::new("thing", "absent").unwrap(), Version::new(1).unwrap())),
        put("last").audit(orders(), Entry::new("order.sent")),
    ];
    let before = h.faults.writes();
    let works = commits.into_iter().map(|commit| {
        let queue = h.first.queue().clone();
        async move { queue.submit(commit).await }
    });
    let outcomes = one_batch(&h, works.collect()).await;
    assert!(h.faults.writes() - before > 6, "they were refused together once, and then written one by one");
    let told = outcomes.into_iter().map(|outcome| match outcome {
        Ok(CommitOutcome::Committed(receipt)) => format!("written {:?}", receipt.audit.first().map(|entry| entry.seq.get())),
        Ok(_) => "conflict".to_owned(),
        Err(error) => format!("{:?} {:?}", error.kind(), error.effect()),
    });
    let refused = "Unsupported NotApplied";
    let expected = ["written None", refused, "written Some(3)", refused, "conflict", "written Some(4)"];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let things = "SELECT name FROM onward_objects WHERE kind = 'thing' ORDER BY name";
    let names: Vec<_> = Postgres::ask_at(&url, things).await.concat().into_iter().flatten().collect();
    assert_eq!(names, ["audited", "last", "plain"]);
    let left = "SELECT (SELECT count(*) FROM onward_personal), (SELECT count(*) FROM onward_fences)";
    assert_eq!(Postgres::ask_at(&url, left).await, [[Some("1".to_owned()), Some("0".to_owned())]]);
    let report = h.second.chain("orders").unwrap().verify(Check::default()).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.to_seq == 4, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_the_right_to_delete_redacts_nothing_and_keeps_nobody_else_from_writing() {
    let (_, h) = without("UPDATE, DELETE, TRUNCATE ON onward_entries, onward_personal, onward_personal_0, onward_personal_1").await;
    let (orders, ada) = (h.first.chain("orders").unwrap(), Redact::Subject("ada".to_owned()));
    orders.append(placed("bob"), AppendOptions::new()).await.unwrap();
    let because = onward::audit::Act::because("request 4711");
    let works = (0..4).map(|n| {
        let (orders, ada, because) = (orders.clone(), ada.clone(), because.clone());
        async move {
            match n {
                1 => orders.redact(&ada, &because).await.map(drop),
                _ => orders.append(Entry::new("order.paid"), AppendOptions::new()).await.map(drop),
            }
        }
    });
    let refused: Vec<_> = one_batch(&h, works.collect()).await.into_iter().map(|done| done.err().map(|error| error.kind())).collect();
    assert_eq!(refused, [None, Some(Kind::Unsupported), None, None]);
    let personal = async |at| orders.personal(onward::model::Seq::new(at).unwrap()).await.unwrap().personal.subject;
    assert_eq!((personal(2).await, personal(3).await), ("ada".to_owned(), "bob".to_owned()));
    assert_eq!(h.second.chain("orders").unwrap().redact(&ada, &because).await.unwrap().values, 1);
    let report = orders.verify(Check::default()).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{report}");
}
