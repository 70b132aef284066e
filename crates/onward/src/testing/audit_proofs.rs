//! Checkpoints and proofs: what every engine owes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

use super::audit::Harness;
use crate::Kind;
use crate::audit::verify::{Check, FindingCode, Verdict};
use crate::audit::{AppendOptions, Chain};
use crate::model::{Checkpoint, CheckpointKey, Entry, Hash, Seq};

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

/// A chain of a number of entries, its creation among them.
async fn grown(h: &Harness, to: u64) -> Chain {
    let chain = h.first.chain("orders").unwrap();
    let mut left = to - chain.head().await.unwrap().map_or(1, |head| head.seq.get());
    while left > 0 {
        let some = usize::try_from(left.min(128)).unwrap();
        chain.append_many(vec![Entry::new("order.paid"); some], AppendOptions::new()).await.unwrap();
        left -= some as u64;
    }
    chain
}

/// A proof of each kind of place: inside blocks, at their borders, in the open end.
pub async fn an_entry_is_proved_to_be_in_every_later_size(h: &Harness) {
    let chain = grown(h, 777).await;
    let head = chain.head().await.unwrap().unwrap();
    for (entry, size) in [(1, 1), (1, 777), (256, 256), (256, 257), (257, 512), (300, 777), (512, 777), (777, 777), (700, 768)] {
        let proved = chain.prove_inclusion(seq(entry), Some(seq(size))).await.unwrap();
        assert_eq!((proved.seq, proved.size, proved.hash), (entry, size, chain.get(seq(entry)).await.unwrap().hash));
        proved.check().unwrap();
        assert!(proved.proof.len() <= 10, "{}", proved.proof.len());
        let forged = crate::audit::Inclusion { hash: Hash::from_bytes([1; 32]), ..proved };
        assert_eq!(forged.check().unwrap_err().kind(), Kind::Invalid);
    }
    let now = chain.prove_inclusion(seq(5), None).await.unwrap();
    assert_eq!((now.size, now.root), (777, head.frontier.root()));
    for (entry, size) in [(778, None), (2, Some(seq(1))), (1, Some(seq(778)))] {
        assert_eq!(chain.prove_inclusion(seq(entry), size).await.unwrap_err().kind(), Kind::Invalid);
    }
    let absent = h.first.chain("absent").unwrap();
    assert_eq!(absent.prove_inclusion(seq(1), None).await.unwrap_err().kind(), Kind::NotFound);
}

/// The root at an old size never changes, and the newer one is its continuation.
pub async fn every_size_is_the_beginning_of_every_later_one(h: &Harness) {
    let mut old = Vec::new();
    for size in [2, 256, 300, 512, 600] {
        let root = grown(h, size).await.head().await.unwrap().unwrap().frontier.root();
        old.push((size, root));
        for (first, first_root) in &old {
            let proved = h.second.chain("orders").unwrap().prove_consistency(seq(*first), None).await.unwrap();
            assert_eq!((proved.first_root, proved.second, proved.second_root), (*first_root, size, root));
            proved.check().unwrap();
        }
    }
    let chain = grown(h, 600).await;
    assert_eq!(chain.prove_consistency(seq(601), None).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(chain.prove_consistency(seq(3), Some(seq(2))).await.unwrap_err().kind(), Kind::Invalid);
}

/// A signed checkpoint vouches for its own chain, and names a chain that has another past, or is shorter.
pub async fn a_checkpoint_attests_its_chain_and_no_other(h: &Harness) {
    let chain = grown(h, 300).await;
    let note = chain.checkpoint().await.unwrap().unwrap();
    let vkey = chain.vkey().await.unwrap().unwrap();
    let checkpoint = vkey.open(&note).unwrap();
    assert_eq!(checkpoint.size, 300);
    grown(h, 310).await;
    let check = |checkpoint: Checkpoint| Check { checkpoint: Some(checkpoint), ..Check::default() };
    let report = chain.verify(check(checkpoint.clone())).await.unwrap();
    assert_eq!((report.verdict, report.attested_to), (Verdict::Ok, Some(300)), "{report}");
    let other = Checkpoint { root: Hash::from_bytes([3; 32]), ..checkpoint.clone() };
    let report = chain.verify(check(other)).await.unwrap();
    assert_eq!((report.findings[0].code, report.findings[0].to_seq), (FindingCode::Diverged, 300));
    let longer = Checkpoint { size: 311, ..checkpoint.clone() };
    let report = chain.verify(check(longer)).await.unwrap();
    assert_eq!((report.findings[0].code, report.findings[0].from_seq), (FindingCode::Truncated, 311));
    // A key of somebody else, and a checkpoint of another chain.
    assert!(CheckpointKey::from_seed([8; 32]).vkey(vkey.origin()).open(&note).is_err());
    let foreign = Checkpoint { origin: "onward.example/invoices".to_owned(), ..checkpoint };
    assert_eq!(chain.verify(check(foreign)).await.unwrap_err().kind(), Kind::Invalid);
    // The second handle has no signing key.
    let unsigned = h.second.chain("orders").unwrap();
    assert_eq!(unsigned.checkpoint().await.unwrap_err().kind(), Kind::Unsupported);
}
