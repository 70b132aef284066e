//! Before a row goes, the chain itself must name the file and the skeleton that still prove it, byte for byte (INV-6, INV-7).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use onward::audit::verify::{Check, SegmentState, Verdict};
use onward::audit::{Act, AppendOptions, Chain, Segment};
use onward::model::{CheckpointKey, Entry, MacKeys, Seq};
use onward::{Code, Config, Effect, Onward};
use rusqlite::Connection;

/// A chain of 620 entries: 1..600, more than one batch, and 601..620 are archived.
struct Base {
    folder: tempfile::TempDir,
    chain: Chain,
}

fn one() -> Seq {
    Seq::new(1).unwrap()
}

fn act() -> Act {
    Act::because("retention")
}

impl Base {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new(format!("sqlite:{}", folder.path().join("onward.db").display()))
            .with_keys(MacKeys::one("k1", [7; 32]).unwrap())
            .with_signing_key(CheckpointKey::from_seed([5; 32]))
            .with_archive_at(format!("file:{}", folder.path().join("archive").display()));
        let chain = Onward::connect(config).await.unwrap().audit().chain("orders").unwrap();
        let append = async |some| drop(chain.append_many(vec![Entry::new("order.paid"); some], AppendOptions::new()).await.unwrap());
        // The first entry is the chain's creation.
        for some in [99, 100, 100, 100, 100, 100] {
            append(some).await;
        }
        for to in [600, 620] {
            let segment = chain.seal(Some(Seq::new(to).unwrap()), &act()).await.unwrap();
            chain.archive(Seq::new(segment.from).unwrap(), &act()).await.unwrap();
            append(18).await;
        }
        Self { folder, chain }
    }

    fn file(&self, segment: &Segment) -> PathBuf {
        self.folder.path().join("archive").join(&segment.archive.as_ref().unwrap().name)
    }

    fn database(&self) -> Connection {
        Connection::open(self.folder.path().join("onward.db")).unwrap()
    }

    /// A purge of the first segment is refused as damage, and leaves everything as it was.
    async fn is_refused(&self, why: &str) {
        let before = (self.chain.head().await.unwrap().unwrap().hash, self.chain.segment(one()).await.unwrap());
        let error = self.chain.purge(one(), &act()).await.unwrap_err();
        assert_eq!(error.code(), Code::IntegrityFailure, "{why}: {error}");
        assert_eq!((self.chain.head().await.unwrap().unwrap().hash, self.chain.segment(one()).await.unwrap()), before, "{why}");
        assert!(self.chain.get(Seq::new(5).unwrap()).await.is_ok(), "{why}");
    }
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_purge_needs_the_very_file_that_the_chain_names() {
    let base = Base::new().await;
    let (first, second) = (base.chain.segment(one()).await.unwrap(), base.chain.segment(Seq::new(601).unwrap()).await.unwrap());
    let file = base.file(&first);
    let good = std::fs::read(&file).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        write(&file, &bytes);
        base.is_refused("a bit of the file").await;
    }
    write(&file, &good[..good.len() - 1]);
    base.is_refused("a file that is cut").await;
    write(&file, &[&good[..], b"x"].concat());
    base.is_refused("a file that is too long").await;
    write(&file, &std::fs::read(base.file(&second)).unwrap());
    base.is_refused("a whole file of another segment").await;
    std::fs::remove_file(&file).unwrap();
    base.is_refused("no file").await;
    write(&file, &good);
    base.chain.purge(one(), &act()).await.unwrap();
    assert_eq!(base.chain.verify(Check::default()).await.unwrap().verdict, Verdict::Ok);
}

#[tokio::test]
async fn an_index_that_names_another_file_than_the_chain_lets_no_row_go() {
    let base = Base::new().await;
    let name = base.chain.segment(Seq::new(601).unwrap()).await.unwrap().archive.unwrap();
    // The file of the other segment is whole, and the index says that it is this segment's.
    let text = serde_json::to_string(&name).unwrap();
    let set =
        "UPDATE onward_objects SET payload = CAST(json_set(CAST(payload AS TEXT), '$.archive', json(?1)) AS BLOB), version = version + 1
        WHERE kind = 'onward.segment' AND name = 'orders/0000000000000001'";
    assert_eq!(base.database().execute(set, [text]).unwrap(), 1);
    base.is_refused("another file").await;
}

#[tokio::test]
async fn a_damaged_skeleton_lets_no_row_go() {
    let base = Base::new().await;
    // The hash of entry 5: without it nobody could prove later that the entry was there.
    let set = "UPDATE onward_objects SET payload = CAST(substr(payload, 1, 4 * 32) || zeroblob(32) || substr(payload, 5 * 32 + 1) AS BLOB),
        version = version + 1 WHERE kind = 'onward.skeleton' AND name LIKE 'orders/0000000000000001/%'";
    assert_eq!(base.database().execute(set, []).unwrap(), 1);
    base.is_refused("a skeleton").await;
}

/// What is not the row that was sealed is evidence: it stays, and the purge does not end before it is right again.
#[tokio::test]
async fn a_foreign_row_stays_and_stops_the_purge() {
    for change in ["hash = zeroblob(32)", "flags = flags | 1"] {
        let base = Base::new().await;
        let database = base.database();
        database
            .execute_batch("DROP TRIGGER onward_entries_stay; CREATE TABLE kept AS SELECT * FROM onward_entries WHERE seq = 5")
            .unwrap();
        assert_eq!(database.execute(&format!("UPDATE onward_entries SET {change} WHERE seq = 5"), []).unwrap(), 1);
        let stopped = base.chain.purge(one(), &act()).await.unwrap_err();
        assert_eq!((stopped.code(), stopped.effect()), (Code::IntegrityFailure, Effect::Unknown), "{change}: {stopped}");
        let healed = base.chain.heal(&act()).await;
        assert!(healed.is_err() || healed.is_ok_and(|done| done.finished.is_empty()), "{change}");
        assert_eq!(base.chain.segment(one()).await.unwrap().state, SegmentState::Purging, "{change}");
        let left = "SELECT group_concat(seq) FROM (SELECT seq FROM onward_entries WHERE seq < 600 ORDER BY seq)";
        let left: String = database.query_row(left, [], |row| row.get(0)).unwrap();
        assert_eq!(left, "1,5", "{change}: the creation of the chain, and the foreign row");
        database.execute("UPDATE onward_entries SET (hash, flags) = (SELECT hash, flags FROM kept) WHERE seq = 5", []).unwrap();
        assert_eq!(base.chain.heal(&act()).await.unwrap().finished, [1], "{change}");
        assert_eq!(base.chain.verify(Check::default()).await.unwrap().verdict, Verdict::Ok, "{change}");
    }
}

#[tokio::test]
async fn a_purge_that_goes_on_needs_the_file_as_well() {
    let base = Base::new().await;
    let moved = Arc::new(AtomicU64::new(0));
    let told = moved.clone();
    let why = act().watched(move |rows, _| told.store(rows, Ordering::Relaxed));
    let mut purge = Box::pin(base.chain.purge(one(), &why));
    while moved.load(Ordering::Relaxed) == 0 {
        let _ = std::future::poll_fn(|cx| Poll::Ready(purge.as_mut().poll(cx))).await;
        tokio::task::yield_now().await;
    }
    // It died between two batches, long ago.
    drop(purge);
    let segment = base.chain.segment(one()).await.unwrap();
    let free =
        "UPDATE onward_objects SET payload = CAST(json_set(CAST(payload AS TEXT), '$.attempt_until', NULL) AS BLOB), version = version + 1
        WHERE kind = 'onward.segment' AND name = 'orders/0000000000000001'";
    assert_eq!(base.database().execute(free, []).unwrap(), 1);
    let count = || -> i64 {
        base.database().query_row("SELECT count(*) FROM onward_entries WHERE seq BETWEEN 2 AND 600", [], |row| row.get(0)).unwrap()
    };
    let (file, before) = (base.file(&segment), count());
    assert!(before > 0);
    let good = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(base.chain.heal(&act()).await.unwrap_err().code(), Code::IntegrityFailure);
    assert_eq!(count(), before, "no row goes while its file is away");
    write(&file, &good);
    assert_eq!(base.chain.heal(&act()).await.unwrap().finished, [1]);
    assert_eq!(base.chain.segment(one()).await.unwrap().state, SegmentState::Purged);
    assert_eq!(base.chain.verify(Check::default()).await.unwrap().verdict, Verdict::Ok);
}

#[tokio::test]
async fn nobody_but_a_purge_deletes_entries_and_not_even_a_purge_a_control_entry() {
    let base = Base::new().await;
    let refused = || {
        for range in ["seq = 5", "seq = 1", "flags & 1 = 1", "seq > 600"] {
            let error = base.database().execute(&format!("DELETE FROM onward_entries WHERE {range}"), []).unwrap_err();
            assert!(error.to_string().contains("audit entries are deleted by a purge only"), "{error}");
        }
    };
    refused();
    base.chain.purge(Seq::new(601).unwrap(), &act()).await.unwrap();
    refused();
    // The border of the first segment stands in the second one, and stays.
    let left = "SELECT group_concat(kind) FROM onward_entries WHERE seq BETWEEN 601 AND 620 AND flags & 1 = 1";
    let left = base.database().query_row(left, [], |row| row.get::<_, Option<String>>(0)).unwrap();
    assert_eq!(left.as_deref(), Some("segment.sealed,segment.archived"));
    let gone = "SELECT count(*) FROM onward_entries WHERE seq BETWEEN 601 AND 620 AND flags & 1 = 0";
    assert_eq!(base.database().query_row(gone, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}
