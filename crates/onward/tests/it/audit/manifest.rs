//! What somebody can tell who has the folder of an archive and a verifier key, and no database.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use onward::audit::verify::{Archives, Check, Report, Verdict};
use onward::audit::{Act, AppendOptions, Chain, verify_archived};
use onward::model::{Checkpoint, CheckpointKey, Entry, Hash, MacKeys, Manifest, Seq};
use onward::{Config, Kind, Onward, Result};

use super::tamper::Auditor;

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn signing() -> CheckpointKey {
    CheckpointKey::from_seed([5; 32])
}

fn keys() -> MacKeys {
    MacKeys::one("k1", [7; 32]).unwrap()
}

/// A chain with archived segments 1..20 and 21..40.
async fn archived(folder: &Path, signing: Option<CheckpointKey>) -> Chain {
    let config = Config::new(format!("sqlite:{}", folder.join("onward.db").display())).with_keys(keys());
    let config = config.with_archive_at(format!("file:{}", folder.join("archive").display()));
    let config = signing.into_iter().fold(config, Config::with_signing_key);
    let chain = Onward::connect(config).await.unwrap().audit().chain("orders").unwrap();
    chain.append_many(vec![Entry::new("order.paid").by("user:7"); 50], AppendOptions::new()).await.unwrap();
    let act = Act::because("retention");
    for (from, to) in [(1, 20), (21, 40)] {
        chain.seal(Some(seq(to)), &act).await.unwrap();
        chain.archive(seq(from), &act).await.unwrap();
    }
    chain
}

async fn files(chain: &Chain, folder: &Path, from: u64) -> PathBuf {
    let name = chain.segment(seq(from)).await.unwrap().archive.unwrap().name;
    folder.join("archive").join(name).parent().unwrap().to_owned()
}

fn by_library(file: &[u8], note: &str, vkey: &onward::model::Vkey) -> Result<Report> {
    let manifest = vkey.open_manifest(note)?;
    verify_archived(file, &manifest, &Check::default(), &keys(), &mut |_| ControlFlow::Continue(()))
}

/// One auditor in Rust, one in Python, each with the folder and the keys.
struct Outsiders {
    folder: tempfile::TempDir,
    python: Auditor,
    vkey: onward::model::Vkey,
}

impl Outsiders {
    /// Insists that both say the same of the file, and of its lines; the exit code, 2 without a verdict.
    fn judge(&mut self, file: &[u8], plain: &[u8], note: &str) -> (u8, String) {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        std::fs::write(path("plain"), plain).unwrap();
        std::fs::write(path("manifest"), note).unwrap();
        std::fs::write(path("key"), "07".repeat(32)).unwrap();
        let arguments =
            ["--export", &path("plain"), "--manifest", &path("manifest"), "--vkey", &self.vkey.to_string(), "--key", &path("key")];
        let python = self.python.ask(&arguments.map(str::to_owned));
        let rust = by_library(file, note, &self.vkey).map_or((2, String::new()), |report| (report.exit(), format!("{report}\n")));
        assert_eq!(python, rust);
        rust
    }
}

#[tokio::test]
async fn a_folder_and_the_verifier_key_tell_whether_the_file_is_the_one_that_was_archived() {
    let folder = tempfile::tempdir().unwrap();
    let chain = archived(folder.path(), Some(signing())).await;
    let vkey = chain.vkey().await.unwrap().unwrap();
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    let (first, second) = (files(&chain, folder.path(), 1).await, files(&chain, folder.path(), 21).await);
    let (file, others) = (read(second.join("entries.ndjson.zst")), read(first.join("entries.ndjson.zst")));
    let plain = |file: &[u8]| zstd::decode_all(file).unwrap();
    let note = std::fs::read_to_string(second.join("manifest")).unwrap();
    let mut outsiders = Outsiders { folder: tempfile::tempdir().unwrap(), python: Auditor::new(), vkey: vkey.clone() };
    let (code, text) = outsiders.judge(&file, &plain(&file), &note);
    assert!(code == 0 && text.contains("ok, entries 21..40, 20 hashed, authenticated"), "{text}");
    // Another segment's file, one that is cut, one with more, one that was edited and is whole again, and no file at all.
    let edited = String::from_utf8(plain(&file)).unwrap().replacen("user:7", "user:8", 1);
    let edited = (zstd::encode_all(edited.as_bytes(), 3).unwrap(), edited.into_bytes());
    let longer = ([&file[..], b"x"].concat(), [&plain(&file)[..], b"x"].concat());
    let cut = (file[..file.len() - 1].to_vec(), plain(&file)[..100].to_vec());
    for (file, plain) in [(others.clone(), plain(&others)), cut, longer, edited, (Vec::new(), Vec::new())] {
        let (code, text) = outsiders.judge(&file, &plain, &note);
        assert!(code == 1 && text.starts_with("orders DEGRADED 21..40: the file is not the one that the manifest names"), "{text}");
    }
    // Edited, or signed by another key, or for another chain, or no manifest at all: nothing can be told.
    let manifest = vkey.open_manifest(&note).unwrap();
    let other = Manifest { origin: "onward.example/orders".to_owned(), ..manifest.clone() };
    let checkpoint = chain.checkpoint().await.unwrap().unwrap();
    let forged = CheckpointKey::from_seed([6; 32]).sign_manifest(&manifest);
    for note in [note.replacen("from 21", "from 20", 1), forged, signing().sign_manifest(&other), checkpoint, "x".repeat(5_000)] {
        assert_eq!(outsiders.judge(&file, &plain(&file), &note).0, 2, "{note}");
    }
    // Signed by the key for this very file, and of other entries: what it says of them is not so.
    let wrong = signing().sign_manifest(&Manifest { from: 1, to: 20, ..manifest });
    assert_eq!(outsiders.judge(&file, &plain(&file), &wrong).0, 1);
}

#[tokio::test]
async fn no_manifest_passes_for_a_checkpoint_in_python() {
    let folder = tempfile::tempdir().unwrap();
    let chain = archived(folder.path(), Some(signing())).await;
    let vkey = chain.vkey().await.unwrap().unwrap();
    let manifest = files(&chain, folder.path(), 1).await.join("manifest").display().to_string();
    let database = folder.path().join("onward.db").display().to_string();
    let mut python = Auditor::new();
    let mut ask = |note: &str| python.ask(&[&database, "--checkpoint", note, "--vkey", &vkey.to_string()].map(str::to_owned)).0;
    assert_eq!(ask(&manifest), 2);
    // A checkpoint of the same key is read, and compared.
    let origin = vkey.origin().to_owned();
    let short = folder.path().join("short").display().to_string();
    std::fs::write(&short, signing().sign(&Checkpoint { origin, size: 1, root: Hash::from_bytes([0; 32]) })).unwrap();
    assert_eq!(ask(&short), 1);
}

#[tokio::test]
async fn without_a_signing_key_there_is_no_manifest_and_nothing_misses_it() {
    let folder = tempfile::tempdir().unwrap();
    let chain = archived(folder.path(), None).await;
    let mut names: Vec<_> =
        std::fs::read_dir(files(&chain, folder.path(), 1).await).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["entries.ndjson.zst", "verify.py"]);
    assert_eq!(chain.segment(seq(1)).await.unwrap().archive.unwrap().manifest, None);
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{report}");
    // A key that comes later signs what is archived from then on; what is there stays as it is.
    drop(chain);
    let config = Config::new(format!("sqlite:{}", folder.path().join("onward.db").display())).with_keys(keys());
    let config = config.with_archive_at(format!("file:{}", folder.path().join("archive").display())).with_signing_key(signing());
    let chain = Onward::connect(config).await.unwrap().audit().chain("orders").unwrap();
    let act = Act::because("retention");
    chain.purge(seq(1), &act).await.unwrap();
    chain.restore(seq(1), None, &act).await.unwrap();
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{report}");
}

#[tokio::test]
async fn the_manifest_goes_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let chain = archived(folder.path(), Some(signing())).await;
    let (act, beside) = (Act::because("retention"), files(&chain, folder.path(), 1).await);
    assert!(beside.join("manifest").is_file());
    chain.purge(seq(1), &act).await.unwrap();
    chain.purge_file(seq(1), &act).await.unwrap();
    assert!(!beside.join("manifest").exists() && !beside.join("entries.ndjson.zst").exists());
    let error = by_library(b"", "", &chain.vkey().await.unwrap().unwrap()).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let report = chain.verify(Check { archives: Archives::Read, ..Check::default() }).await.unwrap();
    assert!(report.verdict == Verdict::Ok && report.findings.is_empty(), "{report}");
}
