//! A store moves, its chains included: from a file to Postgres and back.

use std::io::{Cursor, Read, Seek, SeekFrom};
use std::sync::mpsc::{Receiver, Sender, channel};

use onward::audit::verify::{Check, Verdict};
use onward::audit::{Act, AppendOptions, Chain};
use onward::model::{CheckpointKey, Entry, MacKeys, Object, Seq};
use onward::store::{ExportOptions, List};
use onward::testing::servers::Postgres;
use onward::{Config, Kind, Onward};

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

async fn open(url: &str, archive: &tempfile::TempDir) -> Onward {
    let config = Config::new(url).with_keys(MacKeys::one("k1", [7; 32]).unwrap()).with_signing_key(CheckpointKey::from_seed([5; 32]));
    Onward::connect(config.with_archive_at(format!("file:{}", archive.path().display()))).await.unwrap()
}

async fn export(chain: &Chain) -> Vec<u8> {
    let (mut export, mut file) = (chain.export(None, None).await.unwrap(), Vec::new());
    while let Some(piece) = export.next().await.unwrap() {
        file.extend_from_slice(&piece);
    }
    file
}

/// Copies every object and every chain, and compares.
async fn moved(from: &Onward, to: &Onward) {
    let (mut objects, mut import) = (from.store().export(ExportOptions::default()).await.unwrap(), to.store().import().unwrap());
    while let Some(object) = objects.next().await.unwrap() {
        import.push(object.into()).await.unwrap();
    }
    assert_eq!(import.finish().await.unwrap().existing, 0);
    let chains = from.audit().chains(None, 100).await.unwrap();
    for info in &chains {
        let name = info.name.as_str();
        let file = export(&from.audit().chain(name).unwrap()).await;
        let report = to.audit().chain(name).unwrap().import(Cursor::new(file)).await.unwrap();
        assert_eq!((report.verdict, report.attested_to), (Verdict::Ok, Some(info.head.seq.get())), "{report}");
    }
    assert_eq!(to.audit().chains(None, 100).await.unwrap(), chains);
    let all = async |onward: &Onward| {
        let items = onward.store().list(List::new("order")).await.unwrap().items;
        let seen = |object: &Object| (object.key.clone(), object.value.bytes().clone(), object.meta.labels.clone());
        items.iter().map(seen).collect::<Vec<_>>()
    };
    assert_eq!(all(to).await, all(from).await);
    for info in &chains {
        let (was, is) = (from.audit().chain(info.name.as_str()).unwrap(), to.audit().chain(info.name.as_str()).unwrap());
        let borders = async |chain: &Chain| {
            chain.segments(None).await.unwrap().into_iter().map(|s| (s.from, s.to, s.state, s.generation)).collect::<Vec<_>>()
        };
        assert_eq!(borders(&is).await, borders(&was).await);
        let holds = async |chain: &Chain| {
            chain.holds().await.unwrap().into_iter().map(|hold| (hold.id, hold.from, hold.to, hold.reason)).collect::<Vec<_>>()
        };
        assert_eq!(holds(&is).await, holds(&was).await);
        let signed = is.checkpoint().await.unwrap();
        assert_eq!(signed, was.checkpoint().await.unwrap(), "outside nothing can be told apart");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_to_postgres_and_back_with_its_chains() {
    let (folder, archive) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let old = open(&file("old.db"), &archive).await;
    let act = Act::because("retention");
    for n in 0..20 {
        let _ = old.store().create(("order", format!("o{n}")), &n).await.unwrap();
        for chain in ["orders", "others"] {
            let entries = vec![Entry::new("order.paid").by("user:7"); 20];
            old.audit().chain(chain).unwrap().append_many(entries, AppendOptions::new()).await.unwrap();
        }
    }
    let orders = old.audit().chain("orders").unwrap();
    orders.seal(Some(seq(200)), &act).await.unwrap();
    orders.archive(seq(1), &act).await.unwrap();
    orders.hold(Some(seq(300)), None, &act).await.unwrap();
    let new = open(&Postgres::shared().schema().await, &archive).await;
    moved(&old, &new).await;
    drop(old);
    // What was archived before the move is purged after it, and restored.
    let orders = new.audit().chain("orders").unwrap();
    orders.purge(seq(1), &act).await.unwrap();
    assert_eq!(orders.export(None, None).await.unwrap().next().await.unwrap_err().kind(), Kind::Expired);
    orders.restore(seq(1), None, &act).await.unwrap();
    let back = open(&file("back.db"), &archive).await;
    moved(&new, &back).await;
    let chain = back.audit().chain("orders").unwrap();
    chain.append(Entry::new("order.paid"), AppendOptions::new()).await.unwrap();
    assert_eq!(chain.verify(Check::default()).await.unwrap().verdict, Verdict::Ok);
}

/// A file that says when it is read for the second time to half of its length, and waits for a word to go on.
struct Waits {
    inner: Cursor<Vec<u8>>,
    ends: u32,
    there: Sender<()>,
    go_on: Receiver<()>,
}

impl Read for Waits {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let some = buffer.len().min(4_096);
        let read = self.inner.read(&mut buffer[..some])?;
        if self.ends == 1 && self.inner.position() as usize * 2 > self.inner.get_ref().len() {
            self.ends = 2;
            let _ = self.there.send(());
            let _ = self.go_on.recv();
        }
        Ok(read)
    }
}

impl Seek for Waits {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.ends += u32::from(self.inner.position() > 0);
        self.inner.seek(to)
    }
}

/// The rows are on their way, and nobody waits for them: not even who makes the chain meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_no_append_waits_for_an_import() {
    let archive = tempfile::tempdir().unwrap();
    let source = open("memory:", &archive).await.audit().chain("orders").unwrap();
    for _ in 0..20 {
        source.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
    }
    let ((there, is_there), (say, go_on)) = (channel(), channel());
    let file = Waits { inner: Cursor::new(export(&source).await), ends: 0, there, go_on };
    let onward = open(&Postgres::shared().schema().await, &archive).await;
    let importing = tokio::spawn({
        let chain = onward.audit().chain("orders").unwrap();
        async move { chain.import(file).await }
    });
    tokio::task::spawn_blocking(move || is_there.recv()).await.unwrap().unwrap();
    for chain in ["others", "orders"] {
        let receipt = onward.audit().chain(chain).unwrap().append(Entry::new("a.b"), AppendOptions::new()).await.unwrap();
        assert_eq!(receipt.seq, seq(2));
    }
    assert!(!importing.is_finished());
    say.send(()).unwrap();
    assert_eq!(importing.await.unwrap().unwrap_err().kind(), Kind::Conflict);
    let chains = onward.audit().chains(None, 10).await.unwrap();
    assert_eq!(chains.iter().map(|chain| chain.head.seq.get()).collect::<Vec<_>>(), [2, 2]);
}
