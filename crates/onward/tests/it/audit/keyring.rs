//! Keys that come and go: what an older key sealed still verifies, and what it seals after it was retired is named.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use onward::audit::verify::Check;
use onward::audit::{AppendOptions, read_keyring, save_keyring};
use onward::model::{Entry, MacKeys};
use onward::{Config, Onward};

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
