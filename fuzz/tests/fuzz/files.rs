//! Files that come from elsewhere: archives of segments, exports, notes and proofs. What is taken says what the good one says.

use std::ops::ControlFlow;

use onward::audit::verify::{Check, Verdict};
use onward::audit::{Consistency, Inclusion, verify_archived, verify_export};
use onward::model::{Checkpoint, CheckpointKey, Hash, Manifest, Row, Vkey, merkle};
use onward::testing::archives::{ORIGIN, compressed, entries, file, hash, keys, manifest, read};

use crate::engine::{corpus, fuzz};

#[test]
fn a_file_in_place_of_an_archived_one_is_refused() {
    let archived = file();
    let rows = read(&archived, &archived).unwrap();
    assert_eq!(rows.len(), entries().len());
    let seeds = corpus("archives");
    assert!(seeds.iter().any(|seed| read(&compressed(seed), &compressed(seed)).is_ok()), "a good file is among the corpus, as text");
    let named = manifest(&archived);
    let judge = |file: &[u8]| verify_archived(file, &named, &Check::default(), &keys(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(judge(&archived).verdict == Verdict::Ok, "{}", judge(&archived));
    fuzz("archives", |input| {
        // A folder, and a manifest of another file: always a verdict, and never that it is good.
        assert_eq!(judge(input).verdict == Verdict::Ok, input == archived);
        // Bytes from a store, where others were archived.
        if read(input, &archived).is_ok() {
            assert_eq!(input, archived);
        }
        // Text that an archive holds by its own word: every row is there, and each is the one that was sealed or betrays itself by its hash.
        let own = compressed(input);
        if let Ok(read) = read(&own, &own) {
            assert_eq!(read.len(), rows.len());
            let same = |(one, two): (&Row, &Row)| Row { mac: two.mac.clone(), ..one.clone() } == *two || hash(one) != hash(two);
            assert!(read.iter().zip(&rows).all(same), "{read:?}");
        }
    });
}

#[test]
fn a_changed_export_is_found() {
    let judge = |file: &[u8]| verify_export(file, &Check::default(), &keys(), &mut |_| ControlFlow::Continue(()));
    let seeds = corpus("archives");
    let good = seeds.iter().find_map(|seed| judge(seed).ok()).expect("a good export is among the corpus");
    assert!(good.verdict == Verdict::Ok && good.authenticated, "{good}");
    fuzz("archives", |input| {
        if let Ok(report) = judge(input)
            && report.verdict == Verdict::Ok
        {
            assert_eq!((report.root, report.to_seq), (good.root, good.to_seq));
        }
    });
}

#[test]
fn notes_and_proofs_prove_what_is_true() {
    let hashes: Vec<Hash> = entries().iter().map(|entry| entry.hash).collect();
    let root = |size: usize| {
        let mut tree = merkle::Frontier::default();
        hashes.iter().take(size).for_each(|hash| tree.push(hash));
        tree.root()
    };
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: hashes.len() as u64, root: root(hashes.len()) };
    let key = CheckpointKey::from_seed([7; 32]);
    let (note, vkey) = (key.sign(&checkpoint), key.vkey(ORIGIN));
    assert_eq!(vkey.open(&note).unwrap(), checkpoint);
    // Of numbers that no library's next version changes.
    let first = *hashes.first().unwrap();
    let manifest = Manifest {
        sha256: first,
        plain_sha256: first,
        bytes: 1_234,
        plain_bytes: 56_789,
        prev: first,
        last: first,
        root: first,
        verifier: first,
        ..manifest(&file())
    };
    let beside = key.sign_manifest(&manifest);
    assert_eq!(vkey.open_manifest(&beside).unwrap(), manifest);
    let seeds = corpus("notes");
    assert!(seeds.contains(&beside.into_bytes()), "the corpus has a manifest");
    assert!(seeds.contains(&note.into_bytes()) && seeds.contains(&vkey.to_string().into_bytes()), "the corpus has them");
    let mut proved = [0, 0];
    fuzz("notes", |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(opened) = vkey.open(text) {
            assert_eq!(opened, checkpoint);
        }
        if let Ok(opened) = vkey.open_manifest(text) {
            assert_eq!(opened, manifest);
        }
        if let Ok(other) = Vkey::parse(text) {
            assert_eq!(Vkey::parse(&other.to_string()).unwrap(), other);
        }
        let of = |size: u64| usize::try_from(size).ok().filter(|size| (1..=hashes.len()).contains(size)).map(root);
        if let Ok(proof) = serde_json::from_str::<Inclusion>(text)
            && of(proof.size) == Some(proof.root)
            && proof.check().is_ok()
        {
            proved[0] += 1;
            assert_eq!(proof.hash, hashes[usize::try_from(proof.seq).unwrap() - 1]);
        }
        if let Ok(proof) = serde_json::from_str::<Consistency>(text)
            && of(proof.second) == Some(proof.second_root)
            && proof.check().is_ok()
        {
            proved[1] += 1;
            assert_eq!(of(proof.first), Some(proof.first_root));
        }
    });
    assert!(proved.iter().all(|count| *count > 0), "{proved:?}: the corpus has a proof of each kind");
}
