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
