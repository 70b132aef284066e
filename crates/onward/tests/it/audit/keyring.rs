//! Keys that come and go: what an older key sealed still verifies, and what it seals after it was retired is named.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use onward::audit::verify::Check;
use onward::audit::{AppendOptions, read_keyring, save_keyring};
use onward::model::merkle::Frontier;
use onward::model::{Entry, MacKeys, Row, genesis};
use onward::{Config, Onward};
use rusqlite::{Connection, params};

use super::tamper::Auditor;

async fn open(folder: &Path, keys: &MacKeys) -> Onward {
    Onward::connect(Config::new(format!("sqlite:{}", folder.join("live.db").display())).with_keys(keys.clone())).await.unwrap()
}

async fn append(folder: &Path, keys: &MacKeys) {
    let onward = open(folder, keys).await;
    onward.audit().chain("orders").unwrap().append(Entry::new("a"), AppendOptions::new()).await.unwrap();
}

/// What is found with a keyring, by the library and by `verify.py` in the same words.
async fn found(folder: &Path, keys: &MacKeys) -> Vec<String> {
    let report = open(folder, keys).await.audit().chain("orders").unwrap().verify(Check::default()).await.unwrap();
    let path = |name: &str| folder.join(name).display().to_string();
    save_keyring(&folder.join("keys"), keys).unwrap();
    let asked = [path("live.db"), "--chain".into(), "orders".into(), "--key".into(), path("keys")];
    assert_eq!(Auditor::new().ask(&asked), (report.exit(), format!("{report}\n")));
    report.findings.iter().map(|one| format!("{} {}..{}", one.code, one.from_seq, one.to_seq)).collect()
}

#[tokio::test]
async fn a_retired_key_vouches_for_its_past_and_for_nothing_later() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let old = MacKeys::one("k1", [7; 32]).unwrap();
    append(folder, &old).await;
    let both = old.clone().rotated("k2", [8; 32]).unwrap();
    // Replicas start with the new file one after the other: entries of both keys stand between each other.
    append(folder, &both).await;
    append(folder, &old).await;
    append(folder, &both).await;
    assert_eq!(found(folder, &both).await, [] as [&str; 0]);
    let origin = open(folder, &both).await.audit().chain("orders").unwrap().head().await.unwrap().unwrap().origin.to_string();
    let retired = both.clone().retired("k1", &origin, 5).unwrap();
    assert_eq!(found(folder, &retired).await, [] as [&str; 0]);
    append(folder, &retired).await;
    assert_eq!(found(folder, &retired).await, [] as [&str; 0]);
    // Somebody has the old key, and writes on.
    append(folder, &old).await;
    append(folder, &retired).await;
    assert_eq!(found(folder, &retired).await, ["BROKEN(key_window) 7..7"]);
    assert_eq!(found(folder, &both.clone().retired("k1", "other/orders", 1).unwrap()).await, [] as [&str; 0]);
    // A missing key, and a wrong one.
    assert_eq!(
        found(folder, &MacKeys::one("k2", [8; 32]).unwrap()).await,
        ["BROKEN(unknown_key) 1..2", "BROKEN(unknown_key) 4..4", "BROKEN(unknown_key) 7..7"]
    );
    let wrong = MacKeys::one("k1", [9; 32]).unwrap().rotated("k2", [8; 32]).unwrap();
    assert_eq!(found(folder, &wrong).await, ["BROKEN(mac) 1..2", "BROKEN(mac) 4..4", "BROKEN(mac) 7..7"]);
}

/// Who steals the key of today seals nothing of yesterday with it.
#[tokio::test]
async fn a_new_key_rewrites_nothing_that_older_keys_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let old = MacKeys::one("k1", [7; 32]).unwrap();
    for _ in 0..4 {
        append(folder, &old).await;
    }
    let origin = open(folder, &old).await.audit().chain("orders").unwrap().head().await.unwrap().unwrap().origin.to_string();
    let unpinned = old.clone().rotated("k2", [8; 32]).unwrap();
    let pinned = unpinned.clone().begun("k2", &origin, 5).unwrap();
    for keys in [&pinned, &old, &pinned] {
        append(folder, keys).await;
    }
    for keys in [&pinned, &pinned.clone().retired("k1", &origin, 8).unwrap()] {
        assert_eq!(found(folder, keys).await, [] as [&str; 0]);
    }
    // The thief rewrites the chain from an entry on, under the new key; whatever the old one sealed later he cannot seal.
    for (index, (from, kid, expected)) in [
        (1, "k2", &["BROKEN(key_window) 1..5"][..]),
        (4, "k2", &["BROKEN(key_window) 4..5"]),
        (6, "k2", &[]),
        // Or without a key, as if it had begun without one.
        (1, "", &["BROKEN(mac) 5..5"]),
    ]
    .into_iter()
    .enumerate()
    {
        let copy = folder.join(index.to_string());
        std::fs::create_dir(&copy).unwrap();
        let live = Connection::open(folder.join("live.db")).unwrap();
        live.execute("VACUUM INTO ?1", [copy.join("live.db").to_str().unwrap()]).unwrap();
        rewrite(&copy.join("live.db"), &origin, from, kid, &unpinned);
        assert_eq!(found(&copy, &unpinned).await, [] as [&str; 0], "from {from} under {kid:?}, and no pin");
        assert_eq!(found(&copy, &pinned).await, expected, "from {from} under {kid:?}");
    }
}

/// Seals the entries from one on anew, those up to the fifth under a key or none and those behind it under the new key, and fixes the head.
fn rewrite(path: &Path, origin: &str, from: i64, kid: &str, keys: &MacKeys) {
    let db = Connection::open(path).unwrap();
    db.execute_batch("DROP TRIGGER onward_entries_stay").unwrap();
    let (mut tree, mut prev) = (Frontier::default(), genesis(origin));
    for seq in 1..=8 {
        let read = "SELECT at, event_id, kind, data, flags, kid FROM onward_entries WHERE seq = ?1";
        let read = db.query_row(read, [seq], |row| {
            let text = |index| row.get::<_, String>(index).map(String::into_bytes);
            let data = row.get::<_, Vec<u8>>(3)?.into();
            Ok(Row { seq, at: row.get(0)?, event_id: text(1)?, kind: text(2)?, data, flags: row.get(4)?, kid: text(5)?, ..Row::default() })
        });
        let mut row = read.unwrap();
        if seq >= from {
            row.kid = if seq > 5 { "k2" } else { kid }.as_bytes().to_vec();
        }
        row.prev = prev.as_bytes().to_vec();
        prev = row.compute_hash(origin);
        tree.push(&prev);
        let kid = String::from_utf8(row.kid).unwrap();
        let mac = keys.sign(&kid, &prev);
        let write = "UPDATE onward_entries SET kid = ?1, prev = ?2, hash = ?3, mac = ?4 WHERE seq = ?5";
        db.execute(write, params![kid, row.prev, prev.as_bytes(), mac, seq]).unwrap();
    }
    db.execute("UPDATE onward_heads SET hash = ?1, frontier = ?2", params![prev.as_bytes(), tree.to_bytes()]).unwrap();
}

#[test]
fn a_keyring_that_others_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    save_keyring(&path, &MacKeys::one("k1", [7; 32]).unwrap()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read_keyring(&path).unwrap().active(), "k1");
    for mode in [0o620, 0o602, 0o666] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        assert!(read_keyring(&path).unwrap_err().to_string().contains("others may write"), "{mode:o}");
    }
}
