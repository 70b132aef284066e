//! Signed checkpoints and proofs outside of our code: `verify.py` says the same of good and of forged ones.

use onward::audit::AppendOptions;
use onward::model::{CheckpointKey, Entry, Seq};
use onward::{Config, Onward};

use super::tamper::Auditor;

#[tokio::test]
async fn the_python_verifier_agrees_on_checkpoints_and_proofs() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = Config::new(format!("sqlite:{}", path("onward.db"))).with_signing_key(CheckpointKey::from_seed([5; 32]));
    let chain = Onward::connect(config).await.unwrap().audit().chain("orders").unwrap();
    chain.append_many(vec![Entry::new("order.paid"); 100], AppendOptions::new()).await.unwrap();
    let note = chain.checkpoint().await.unwrap().unwrap();
    let vkey = chain.vkey().await.unwrap().unwrap().to_string();
    chain.append_many(vec![Entry::new("order.paid"); 10], AppendOptions::new()).await.unwrap();
    let proof = chain.prove_inclusion(Seq::new(42).unwrap(), Some(Seq::new(101).unwrap())).await.unwrap();
    let proof = serde_json::to_string(&proof).unwrap();
    let mut auditor = Auditor::new();
    let mut ask = |note: &str, proof: &str| {
        std::fs::write(path("note"), note).unwrap();
        std::fs::write(path("proof"), proof).unwrap();
        let trusted = ["--checkpoint".to_owned(), path("note"), "--vkey".to_owned(), vkey.clone()];
        let inclusion = auditor.ask(&[&["--inclusion".to_owned(), path("proof")], &trusted[..]].concat());
        let database = auditor.ask(&[&[path("onward.db")], &trusted[..]].concat());
        (inclusion, database)
    };
    let (inclusion, database) = ask(&note, &proof);
    assert_eq!(inclusion.0, 0, "{}", inclusion.1);
    assert!(database.0 == 0 && database.1.contains("attested to 101"), "{}", database.1);
    // A proof of another entry, one of another size, and a note whose size was edited.
    assert_eq!(ask(&note, &proof.replace("\"seq\":42", "\"seq\":43")).0.0, 1);
    assert_eq!(ask(&note, &proof.replace("\"size\":101", "\"size\":102")).0.0, 1);
    let forged = ask(&note.replace("\n101\n", "\n100\n"), &proof);
    assert_eq!((forged.0.0, forged.1.0), (2, 2));
    // Signed by the same key, of a chain with another past.
    let other = onward::model::Checkpoint { origin: "onward.example/orders".to_owned(), size: 101, root: "00".repeat(32).parse().unwrap() };
    let origin = chain.head().await.unwrap().unwrap().origin.to_string();
    let other = CheckpointKey::from_seed([5; 32]).sign(&onward::model::Checkpoint { origin, ..other });
    let (inclusion, database) = ask(&other, &proof);
    assert!(inclusion.0 == 1 && database.0 == 1 && database.1.contains("DIVERGED 1..101"), "{}", database.1);
}
