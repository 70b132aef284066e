//! Chains from elsewhere: what every engine owes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::audit::Harness;
use crate::audit::verify::{SegmentState, Verdict};
use crate::audit::{Act, AppendOptions, Chain, Filter, Page};
use crate::commit::engine::Scan;
use crate::engine::memory::MemoryStore;
use crate::model::{Data, Entry, Head, Personal, Seq};
use crate::time::Clock;
use crate::{Code, Kind};

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

/// A store elsewhere, whose chain `orders` has so many entries.
async fn elsewhere(entries: u64) -> (Harness, Chain) {
    let store = MemoryStore::new();
    let there = Harness::over(store.clone(), store, Clock::manual(), ()).await;
    let chain = there.first.chain("orders").unwrap();
    let entry = |n: u64| match n % 3 {
        0 => Entry::new("order.paid").by("user:7").on("").with_data(Data::json(&serde_json::json!({ "né": n })).unwrap()),
        1 => Entry::new("order.paid").with_data(Data::bytes(vec![0, 255, 10, 13])),
        _ => Entry::new("order.paid"),
    };
    if entries > 1 {
        chain.append(Entry::new("order.paid").with_event_id("event-1"), AppendOptions::new()).await.unwrap();
    }
    let mut made = (2..entries).map(entry).peekable();
    while made.peek().is_some() {
        chain.append_many(made.by_ref().take(128).collect(), AppendOptions::new()).await.unwrap();
    }
    (there, chain)
}

async fn export(chain: &Chain) -> Vec<u8> {
    let (mut export, mut file) = (chain.export(None, None).await.unwrap(), Vec::new());
    while let Some(piece) = export.next().await.unwrap() {
        file.extend_from_slice(&piece);
    }
    file
}

async fn head(chain: &Chain) -> Option<Head> {
    chain.head().await.unwrap()
}

/// Every object that a chain's index is made of.
async fn index(h: &Harness) -> usize {
    let mut found = 0;
    for kind in ["onward.segment", "onward.skeleton", "onward.holds"] {
        let scan = Scan { namespace: "default".to_owned(), kind: kind.to_owned(), limit: 100, ..Scan::default() };
        found += h.first.queue().engine().list(scan).await.unwrap().items.len();
    }
    found
}

/// Every entry, hash, MAC and time is what it was; the head is the same; and the chain goes on.
pub async fn a_chain_from_elsewhere_is_the_same_and_goes_on(h: &Harness) {
    let (_there, from) = elsewhere(1_300).await;
    let file = export(&from).await;
    let report = h.orders().import(Cursor::new(file.clone())).await.unwrap();
    assert_eq!(
        (report.verdict, report.to_seq, report.attested_to, report.authenticated),
        (Verdict::Ok, 1_300, Some(1_300), true),
        "{report}"
    );
    assert_eq!(head(&h.orders_again()).await, head(&from).await);
    assert_eq!(export(&h.orders_again()).await, file);
    h.orders_again().append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    let report = h.orders().verify(crate::audit::verify::Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.to_seq), (Verdict::Ok, 1_301));
    // And from here to yet another place.
    let store = MemoryStore::new();
    let back = Harness::over(store.clone(), store, Clock::manual(), ()).await;
    back.orders().import(Cursor::new(export(&h.orders()).await)).await.unwrap();
    assert_eq!(head(&back.orders()).await, head(&h.orders()).await);
}

/// Segments, their skeletons and the holds are there, and a purge obeys them.
pub async fn what_the_past_says_comes_along(h: &Harness) {
    let (there, from) = elsewhere(9_000).await;
    let act = Act::because("retention");
    for to in [8_500, 8_900] {
        from.seal(Some(seq(to)), &act).await.unwrap();
    }
    let (released, _) = from.hold(None, None, &act).await.unwrap();
    let (hold, _) = from.hold(Some(seq(10)), Some(seq(20)), &act.clone().by(Some("lawyer".to_owned()))).await.unwrap();
    from.release_hold(&released.id, &act).await.unwrap();
    let to = h.orders();
    let report = to.import(Cursor::new(export(&from).await)).await.unwrap();
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Ok, 0), "{report}");
    assert_eq!(to.holds().await.unwrap().as_slice(), std::slice::from_ref(&hold));
    let same = async |chain: &Chain| {
        let segments = chain.segments(None).await.unwrap();
        segments.into_iter().map(|s| (s.from, s.to, s.state, s.generation, s.root, s.skeleton, s.place)).collect::<Vec<_>>()
    };
    assert_eq!(same(&to).await, same(&from).await);
    assert_eq!(index(h).await, index(&there).await);
    to.archive(seq(1), &act).await.unwrap();
    assert_eq!(to.purge(seq(1), &act).await.unwrap_err().code(), Code::StateConflict);
    to.release_hold(&hold.id, &act).await.unwrap();
    assert_eq!(to.purge(seq(1), &act).await.unwrap().state, SegmentState::Purged);
    let report = to.verify(crate::audit::verify::Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.rows_known), (Verdict::Ok, 8_499), "{report}");
}

/// Damaged, cut, of another chain, of a part, sealed by a stranger: refused with the typed error, and nothing is kept.
pub async fn what_is_no_good_export_is_refused_and_nothing_is_kept(h: &Harness) {
    let (_there, from) = elsewhere(300).await;
    from.seal(Some(seq(200)), &Act::because("retention")).await.unwrap();
    let file = String::from_utf8(export(&from).await).unwrap();
    let other = async {
        let mut part = from.export(Some(seq(2)), None).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = part.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        String::from_utf8(bytes).unwrap()
    };
    let part = other.await;
    let lines: Vec<&str> = file.lines().collect();
    let without =
        |line: usize| lines.iter().enumerate().filter(|(at, _)| *at != line).map(|(_, line)| format!("{line}\n")).collect::<String>();
    let before = h.first.queue().engine().meta().await.unwrap().revision;
    for (what, bad) in [
        ("nothing", String::new()),
        ("something else", "{}\n".to_owned()),
        ("cut off", file[..file.len() / 2].to_owned()),
        ("an entry edited", file.replacen("order.paid", "order.fake", 1)),
        ("an entry left out", without(150)),
        ("the last entry left out", without(lines.len() - 2)),
        ("a step of a segment forged", file.replacen("segment.sealed", "segment.purged", 1)),
        ("another origin", file.replacen("\"origin\":\"", "\"origin\":\"x", 1)),
        ("another chain", file.replacen("\"chain\":\"orders\"", "\"chain\":\"others\"", 1)),
        ("a part of the chain", part),
    ] {
        let refused = h.orders().import(Cursor::new(bad.into_bytes())).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Invalid, "{what}: {refused}");
        assert_eq!((head(&h.orders()).await, index(h).await), (None, 0), "{what}");
    }
    let newer = file.replacen("\"v\":1", "\"v\":99", 1);
    assert_eq!(h.orders().import(Cursor::new(newer.into_bytes())).await.unwrap_err().kind(), Kind::Unsupported);
    let (_there, personal) = elsewhere(5).await;
    personal.append(Entry::new("a.b").with_personal(Personal::new("user:7", b"x".to_vec())), AppendOptions::new()).await.unwrap();
    let personal = Cursor::new(export(&personal).await);
    assert_eq!(h.orders().import(personal).await.unwrap_err().kind(), Kind::Unsupported, "what it commits to would be missing");
    assert_eq!(h.first.queue().engine().meta().await.unwrap().revision, before, "nothing was written at all");
    assert_eq!(h.orders().import(Cursor::new(file.into_bytes())).await.unwrap().verdict, Verdict::Ok);
}

/// The same chain, or another one of this name.
pub async fn a_chain_that_exists_is_left_alone(h: &Harness) {
    let (_there, from) = elsewhere(20).await;
    let file = export(&from).await;
    h.orders().append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    let own = head(&h.orders()).await;
    let refused = h.orders().import(Cursor::new(file)).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (Kind::Conflict, Code::StateConflict), "{refused}");
    assert_eq!(head(&h.orders()).await, own);
    assert_eq!(h.orders().query(&Filter::default(), Page::first(100)).await.unwrap().items.len(), 2);
}

/// A file that can be read to its end a number of times, and then breaks off.
struct Breaks {
    inner: Cursor<Vec<u8>>,
    good: Arc<AtomicUsize>,
}

impl Read for Breaks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let half = self.inner.get_ref().len() as u64 / 2;
        if self.good.load(Ordering::SeqCst) == 0 && self.inner.position() >= half {
            return Err(std::io::Error::other("the disk is gone"));
        }
        let some = buffer.len().min(512);
        self.inner.read(&mut buffer[..some])
    }
}

impl Seek for Breaks {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        // The first time it is rewound nothing was read.
        let left = self.good.load(Ordering::SeqCst);
        if self.inner.position() > 0 && left > 0 {
            self.good.store(left - 1, Ordering::SeqCst);
        }
        self.inner.seek(to)
    }
}

/// It was verified, and cannot be read while the rows are loaded.
pub async fn a_file_that_breaks_off_later_leaves_nothing_and_the_next_try_is_whole(h: &Harness) {
    let (_there, from) = elsewhere(1_300).await;
    from.seal(Some(seq(1_200)), &Act::because("retention")).await.unwrap();
    let file = export(&from).await;
    for good in [1, 2] {
        let broken = Breaks { inner: Cursor::new(file.clone()), good: Arc::new(AtomicUsize::new(good)) };
        let failed = h.orders().import(broken).await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Backend, "{good}: {failed}");
        assert_eq!((head(&h.orders()).await, h.engine.hashes(h.orders().name(), 1, 9).await.unwrap().len()), (None, 0), "{good}");
        assert_eq!(h.first.chains(None, 10).await.unwrap().len(), 0);
    }
    let report = h.orders().import(Cursor::new(file)).await.unwrap();
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Ok, 0), "{report}");
    assert_eq!(head(&h.orders()).await, head(&from).await);
}

/// Whoever is first makes the chain; the others change nothing.
pub async fn of_imports_and_appends_at_once_one_makes_the_chain(h: &Harness) {
    let (_there, from) = elsewhere(200).await;
    from.seal(Some(seq(150)), &Act::because("retention")).await.unwrap();
    let file = export(&from).await;
    let (one, two) = (h.orders(), h.orders_again());
    let (one, two) = tokio::join!(one.import(Cursor::new(file.clone())), two.import(Cursor::new(file.clone())));
    assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1, "{one:?} {two:?}");
    let lost = one.as_ref().err().or(two.as_ref().err()).unwrap();
    assert_eq!(lost.code(), Code::StateConflict, "{lost}");
    assert_eq!(head(&h.orders()).await, head(&from).await);
    let report = h.orders().verify(crate::audit::verify::Check::default()).await.unwrap();
    assert_eq!((report.verdict, report.findings.len()), (Verdict::Ok, 0), "{report}");
    let others = h.first.chain("others").unwrap();
    let (imported, appended) = tokio::join!(others.import(Cursor::new(file)), others.append(Entry::new("a.b"), AppendOptions::new()));
    assert_eq!((imported.unwrap_err().kind(), appended.unwrap().seq), (Kind::Invalid, seq(2)));
}
