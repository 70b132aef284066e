use super::*;
use crate::time::Timestamp;

const ORIGIN: &str = "onward.example/audit/orders";

fn worked_example() -> (MacKeys, Sealed, Sealed) {
    let mut key = [0; 32];
    key.iter_mut().zip(0..).for_each(|(byte, i)| *byte = i);
    let keys = MacKeys::one("k1", key).unwrap();
    let first_data = r#"{"alg":"sha256","nonce":"000102030405060708090a0b0c0d0e0f","origin":"onward.example/audit/orders","v":1}"#;
    let mut first = Sealed {
        seq: Seq::new(1).unwrap(),
        prev: genesis(ORIGIN),
        hash: Hash::from_bytes([0; 32]),
        mac: None,
        kid: "k1".into(),
        flags: 1,
        at: Timestamp::from_micros(1_760_000_000_000_000),
        event_id: "created".into(),
        kind: "chain.created".into(),
        actor: None,
        resource: None,
        data: first_data.into(),
        personal: None,
    };
    first.hash = first.compute_hash(ORIGIN);
    first.mac = keys.sign("k1", &first.hash);
    let mut second = Sealed {
        seq: Seq::new(2).unwrap(),
        prev: first.hash,
        flags: 6,
        at: Timestamp::from_micros(1_760_000_000_123_456),
        event_id: "01JA0000-refund-42".into(),
        kind: "order.refund".into(),
        actor: Some("user:7".into()),
        resource: Some("order:42".into()),
        data: r#"{"amount":9.5,"note":"remboursé","order":42}"#.into(),
        ..first.clone()
    };
    second.hash = second.compute_hash(ORIGIN);
    second.mac = keys.sign("k1", &second.hash);
    (keys, first, second)
}

#[test]
fn the_golden_vector_of_the_entry_layout_holds() {
    let (_, first, second) = worked_example();
    assert_eq!(genesis(ORIGIN).to_string(), "f1b68579544b877437921c745fbbb63d9394322bea4b60560e9b974b71cf12df");
    assert_eq!(first.hash.to_string(), "053fc9deca9580cb177b40142af537b6c674f4f47f53fa77448029247cb6abec");
    assert_eq!(hex::encode(first.mac.unwrap()), "c7c4d5d80f2641dcbf787c29522880448660864d7c5a315097acd31d514bca95");
    assert_eq!(second.hash.to_string(), "9a2bda567bf52732bee0ebc63a7b4d6ddf8a8b61ed6a3eb2c698487cecc7d815");
    assert_eq!(hex::encode(second.mac.unwrap()), "9d66f49c07833dc1d34c8a53dad0b53e3f55e7bd72b4c47d12da4d46cb082618");
}

#[test]
fn the_golden_vector_of_a_commitment_holds() {
    let mut salt = [0; 32];
    salt.iter_mut().zip(0x20..).for_each(|(byte, i)| *byte = i);
    let made = commitment(&salt, br#"{"email":"a@example.org"}"#);
    assert_eq!(made.to_string(), "51fbecd00a32f1490df4f9c9af3a9f7e47a5ba30f5de2bec5705bbab90fe9744");
}

#[test]
fn the_root_of_the_worked_example_holds() {
    let (_, first, second) = worked_example();
    let mut frontier = merkle::Frontier::default();
    frontier.push(&first.hash);
    frontier.push(&second.hash);
    assert_eq!(frontier.root().to_string(), "37f1b03a7d0079808491291b3b879a4f696f0e594dd39b86523191f70b8ff002");
    assert_eq!(merkle::Frontier::from_bytes(2, &frontier.to_bytes()).unwrap(), frontier);
    assert!(merkle::Frontier::from_bytes(3, &frontier.to_bytes()).is_err());
}

#[test]
fn absent_and_empty_actor_differ() {
    let (_, first, _) = worked_example();
    let empty = Sealed { actor: Some(String::new()), flags: first.flags | 2, ..first.clone() };
    assert_ne!(empty.compute_hash(ORIGIN), first.compute_hash(ORIGIN));
}

#[test]
fn no_id_can_inject_a_separator_into_a_lock_key() {
    let key = LockKey::typed("main", "eu-1", "projects", "a:b{c} 100%*").unwrap();
    assert_eq!(key.as_str(), "lock:main:eu-1:projects:a%3Ab%7Bc%7D%20100%25%2A");
    assert_ne!(LockKey::typed("main", "", "p", "a:b").unwrap(), LockKey::typed("main", "", "p", "a").unwrap().attribute("b").unwrap());
    assert_eq!(LockKey::raw(key.as_str()).unwrap(), key);
    for bad in ["", "onward:x", "a\nb", &"k".repeat(513)] {
        assert!(LockKey::raw(bad).is_err(), "{bad:?}");
    }
    assert!(LockKey::typed("main", "", "", "1").is_err());
    assert!(LockKey::typed("main", "", "p", &"%".repeat(200)).is_err());
}

#[test]
fn zero_is_no_version_token_or_seq() {
    assert!(Version::new(0).is_err() && FencingToken::new(0).is_err() && Seq::new(0).is_err());
    assert!(Version::new(1 << 63).is_err());
    assert_eq!("7".parse::<Version>().unwrap().get(), 7);
    for bad in ["", "0", "-1", "+1", "1.0", " 1", "18446744073709551616"] {
        assert!(bad.parse::<Version>().is_err(), "{bad:?}");
    }
}

#[test]
fn keys_follow_their_rules() {
    assert!(Key::new("projects", "a/b c é").is_ok());
    for (kind, name) in [("Projects", "a"), ("", "a"), ("p", ""), ("p", "a\0"), (".p", "a"), ("p", &"n".repeat(385))] {
        assert!(Key::new(kind, name).is_err(), "{kind:?} {name:?}");
    }
}

#[test]
fn numbers_grow_over_a_lost_counter_and_a_clock_that_stands() {
    assert_eq!(above(7, 1_000), 1_000);
    assert_eq!(above(1_000, 1_000), 1_001);
    assert_eq!(above(2_000, 1_000), 2_001);
}

/// The inputs of the Merkle tests of Certificate Transparency, and what their trees give.
const CT_LEAVES: [&str; 8] = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const CT_ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn ct_leaf(index: usize) -> Hash {
    let mut bytes = vec![0];
    bytes.extend(hex::decode(CT_LEAVES[index]).unwrap());
    digest_hex(&bytes).parse().unwrap()
}

fn ct_root(leaves: std::ops::Range<u64>) -> Hash {
    let mut tree = merkle::Frontier::default();
    leaves.for_each(|leaf| tree.push_leaf(ct_leaf(leaf as usize)));
    tree.root()
}

fn ct_proof(path: Vec<std::ops::Range<u64>>) -> Vec<Hash> {
    path.into_iter().map(ct_root).collect()
}

#[test]
fn proofs_match_the_rfc_6962_vectors() {
    let short = |proof: Vec<Hash>| proof.iter().map(|hash| hash.to_string()[..8].to_owned()).collect::<Vec<_>>();
    for (size, root) in (1..).zip(CT_ROOTS) {
        assert_eq!(ct_root(0..size).to_string(), root);
    }
    for (index, size, expected) in [
        (0, 1, &[][..]),
        (0, 8, &["96a296d2", "5f083f0a", "6b47aaf2"]),
        (5, 8, &["bc1a0643", "ca854ea1", "d37ee418"]),
        (2, 3, &["fac54203"]),
        (1, 5, &["6e340b9c", "5f083f0a", "bc1a0643"]),
    ] {
        assert_eq!(short(ct_proof(proof::inclusion_path(index, size))), expected, "{index} in {size}");
    }
    for (first, second, expected) in [
        (1, 1, &[][..]),
        (1, 8, &["96a296d2", "5f083f0a", "6b47aaf2"]),
        (6, 8, &["0ebc5d34", "ca854ea1", "d37ee418"]),
        (2, 5, &["5f083f0a", "bc1a0643"]),
    ] {
        assert_eq!(short(ct_proof(proof::consistency_path(first, second))), expected, "{first} to {second}");
    }
}

#[test]
fn a_proof_holds_for_its_own_place_and_nothing_else() {
    for size in 1..=8_u64 {
        for index in 0..size {
            let proof = ct_proof(proof::inclusion_path(index, size));
            // In this tree: what tells a tree from one of another size is the checkpoint.
            for other in (0..size).filter(|other| *other != index) {
                assert!(proof::check_inclusion(&ct_leaf(index as usize), other, size, &proof, &ct_root(0..size)).is_err());
                assert!(proof::check_inclusion(&ct_leaf(other as usize), index, size, &proof, &ct_root(0..size)).is_err());
            }
            assert!(proof::check_inclusion(&ct_leaf(index as usize), index, size, &proof, &ct_root(0..size)).is_ok());
        }
        for first in 1..=size {
            let proof = ct_proof(proof::consistency_path(first, size));
            let (old, new) = (ct_root(0..first), ct_root(0..size));
            assert!(proof::check_consistency(first, &old, size, &new, &proof).is_ok());
            assert!(proof::check_consistency(first, &new, size, &old, &proof).is_err() || first == size);
            let mut longer = proof.clone();
            longer.push(old);
            assert!(proof::check_consistency(first, &old, size, &new, &longer).is_err());
        }
    }
}

#[test]
fn the_golden_vector_of_a_checkpoint_holds() {
    let key = CheckpointKey::from_seed([7; 32]);
    let root = "37f1b03a7d0079808491291b3b879a4f696f0e594dd39b86523191f70b8ff002".parse().unwrap();
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 2, root };
    let vkey = key.vkey(ORIGIN);
    assert_eq!(vkey.to_string(), "onward.example/audit/orders+03e3584f+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs");
    let note = key.sign(&checkpoint);
    let text = "onward.example/audit/orders\n2\nN/GwOn0AeYCEkSkbO4eaT2lvDllN05uGUjGR9wuP8AI=\n";
    let signature = "A+NYT3PzHMVriiwKQ1cn7iE3jP6kE3Fy0mfdn4WJ2PhBz2mWQKd6YaF8DljueFm6etINByLT63DwsjPOf7Z5olu13QE=";
    assert_eq!(note, format!("{text}\n\u{2014} {ORIGIN} {signature}\n"));
    assert_eq!(Vkey::parse(&vkey.to_string()).unwrap().open(&note).unwrap(), checkpoint);
}

#[test]
fn a_checkpoint_with_any_byte_changed_is_refused() {
    let key = CheckpointKey::from_seed([7; 32]);
    let note = key.sign(&Checkpoint { origin: ORIGIN.into(), size: 300, root: Hash::from_bytes([9; 32]) });
    let vkey = key.vkey(ORIGIN);
    let mut accepted = 0;
    for at in 0..note.len() {
        for bit in 0..8 {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            accepted += usize::from(String::from_utf8(bytes).is_ok_and(|text| vkey.open(&text).is_ok()));
        }
        assert!(vkey.open(&note[..note.char_indices().map(|(i, _)| i).rfind(|i| *i <= at).unwrap()]).is_err());
    }
    assert_eq!(accepted, 0);
    assert!(CheckpointKey::from_seed([8; 32]).vkey(ORIGIN).open(&note).is_err());
    assert!(key.vkey("onward.example/audit/other").open(&note).is_err());
}

fn manifest() -> Manifest {
    let hash = |byte| Hash::from_bytes([byte; 32]);
    Manifest {
        origin: ORIGIN.into(),
        from: 21,
        to: 40,
        prev: hash(1),
        last: hash(2),
        root: hash(3),
        sha256: hash(4),
        plain_sha256: hash(5),
        bytes: 1_234,
        plain_bytes: 56_789,
        verifier: hash(6),
    }
}

#[test]
fn a_manifest_says_in_plain_text_what_it_names() {
    let note = CheckpointKey::from_seed([7; 32]).sign_manifest(&manifest());
    let hash = |byte: u8| format!("{byte:02x}").repeat(32);
    let text = format!(
        "onward archive manifest v1\norigin {ORIGIN}\nfrom 21\nto 40\nrows 20\nprev {}\nlast {}\nroot {}\n\
         entries.ndjson.zst {} 1234\nentries.ndjson {} 56789\nverify.py {}\n\n\u{2014} {ORIGIN} ",
        hash(1),
        hash(2),
        hash(3),
        hash(4),
        hash(5),
        hash(6)
    );
    assert!(note.starts_with(&text), "{note}");
    assert_eq!(note, CheckpointKey::from_seed([7; 32]).sign_manifest(&manifest()));
}

#[test]
fn a_manifest_with_any_byte_changed_is_refused() {
    let key = CheckpointKey::from_seed([7; 32]);
    let (note, vkey) = (key.sign_manifest(&manifest()), key.vkey(ORIGIN));
    assert_eq!(vkey.open_manifest(&note).unwrap(), manifest());
    for at in 0..note.len() {
        let mut bytes = note.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(String::from_utf8(bytes).map_or(true, |text| vkey.open_manifest(&text).is_err()), "byte {at}");
        assert!(note.get(..at).is_none_or(|cut| vkey.open_manifest(cut).is_err()), "cut at {at}");
    }
    assert!(CheckpointKey::from_seed([8; 32]).vkey(ORIGIN).open_manifest(&note).is_err());
    assert!(key.vkey("onward.example/audit/other").open_manifest(&note).is_err());
    // Signed by the key, and not in the one form of what it says.
    let signed = |change: fn(Manifest) -> Manifest| vkey.open_manifest(&key.sign_manifest(&change(manifest())));
    assert!(signed(|manifest| Manifest { to: 20, ..manifest }).is_err());
    assert!(signed(|manifest| Manifest { from: 0, ..manifest }).is_err());
    assert!(signed(|manifest| Manifest { to: u64::MAX, ..manifest }).is_err());
}

/// One key signs both: neither may ever pass for the other, whatever the name of a chain is.
#[test]
fn a_manifest_is_no_checkpoint_and_a_checkpoint_no_manifest() {
    let key = CheckpointKey::from_seed([7; 32]);
    for origin in [ORIGIN, "onward archive manifest v1", "onward archive manifest v1\norigin x", "1", ""] {
        let vkey = key.vkey(origin);
        let checkpoint = Checkpoint { origin: origin.into(), size: 40, root: Hash::from_bytes([3; 32]) };
        let manifest = Manifest { origin: origin.into(), ..manifest() };
        assert!(vkey.open(&key.sign_manifest(&manifest)).is_err(), "{origin:?}");
        assert!(vkey.open_manifest(&key.sign(&checkpoint)).is_err(), "{origin:?}");
    }
}

#[test]
fn a_keyring_is_read_as_it_was_written_and_its_last_key_seals() {
    let (old, new) = ("07".repeat(32), "08".repeat(32));
    let text = format!("# ours\n\n2026:{old} a/orders=40 b/users=7\nk2:{new} a/orders>40 a>b=c/x>7 a/orders=90\n");
    let keys = MacKeys::parse(&text).unwrap();
    assert_eq!((keys.active(), keys.names().collect::<Vec<_>>()), ("k2", vec!["2026", "k2"]));
    assert_eq!(MacKeys::parse(&keys.to_text()).unwrap(), keys);
    assert!(keys.is_in_window("2026", "a/orders", 40) && !keys.is_in_window("2026", "a/orders", 41));
    assert!(keys.is_in_window("2026", "c/others", 41) && keys.is_in_window("k2", "a/orders", 41));
    // A key that came later has an end on both sides.
    assert!(
        !keys.is_in_window("k2", "a/orders", 40) && keys.is_in_window("k2", "a/orders", 90) && !keys.is_in_window("k2", "a/orders", 91)
    );
    assert!(!keys.is_in_window("k2", "a>b=c/x", 7) && keys.is_in_window("k2", "a>b=c/x", 8) && keys.is_in_window("k2", "b/users", 1));
    assert!(keys.is_sealed_at("a/orders", 40) && !keys.is_sealed_at("a/orders", 41) && !keys.is_sealed_at("b/users", 7));
    assert!(!format!("{keys:?}").contains("0707"));
    assert_ne!(keys.fingerprint("2026"), keys.fingerprint("k2"));
    // One key alone needs no name.
    assert_eq!(MacKeys::parse(&old).unwrap(), MacKeys::one("k1", [7; 32]).unwrap());
    let ring = |behind: &str| format!("k1:{old}{behind}");
    for bad in [
        "",
        "#",
        "x",
        &ring(" a"),
        &ring(" =1"),
        &ring(" a="),
        &ring(" a=-1"),
        &ring(" a=+1"),
        &ring(" a=1 a=2"),
        &ring(" a>1 a>1"),
        &ring(" >1"),
        &ring(" a>"),
        &format!("{old}\n{old}"),
    ] {
        let error = MacKeys::parse(bad).unwrap_err();
        assert!(!error.to_string().contains(&old), "{bad}");
    }
}

#[test]
fn a_key_is_retired_once_and_never_while_it_seals() {
    let keys = MacKeys::one("k1", [7; 32]).unwrap();
    assert_eq!(keys.clone().retired("k1", "a", 4).unwrap_err().code(), crate::Code::StateConflict);
    assert!(keys.clone().rotated("k1", [8; 32]).is_err() && keys.clone().rotated("k2", [7; 32]).is_err());
    let keys = keys.rotated("k2", [8; 32]).unwrap().retired("k1", "a", 4).unwrap();
    assert_eq!(keys.clone().retired("k1", "a", 5).unwrap_err().code(), crate::Code::StateConflict);
    assert_eq!(keys.clone().retired("k1", "a", 4).unwrap(), keys);
    assert_eq!(keys.clone().retired("k3", "a", 4).unwrap_err().kind(), crate::Kind::NotFound);
}

#[test]
fn a_key_begins_once_and_the_oldest_never_did() {
    let keys = MacKeys::one("k1", [7; 32]).unwrap().rotated("k2", [8; 32]).unwrap();
    assert_eq!(keys.clone().begun("k1", "a", 4).unwrap_err().code(), crate::Code::StateConflict);
    let keys = keys.begun("k2", "a", 4).unwrap();
    assert_eq!(keys.to_text().lines().last().unwrap(), format!("k2:{} a>4", "08".repeat(32)));
    assert_eq!(keys.clone().begun("k2", "a", 5).unwrap_err().code(), crate::Code::StateConflict);
    assert_eq!(keys.clone().begun("k2", "a", 4).unwrap(), keys);
    assert_eq!(keys.clone().begun("k3", "a", 4).unwrap_err().kind(), crate::Kind::NotFound);
}
