//! What only this part can see.

use bytes::Bytes;

use super::codec;

#[test]
fn no_cut_entry_is_read_as_another_value() {
    let whole = codec::encode_raw(b"bytes", "text/plain").unwrap();
    for len in 0..whole.len() {
        let cut = whole.slice(..len);
        let value = match codec::decode_raw(&cut) {
            None => continue,
            Some(codec::Raw::Absence) => panic!("read as an absence at {len}"),
            Some(codec::Raw::Value { bytes, .. }) => bytes,
        };
        assert!(value.len() < 5 && b"bytes".starts_with(&value));
    }
}

#[test]
fn an_absence_and_a_null_are_two_things() {
    let null = codec::encode(Some(&None::<u64>)).unwrap();
    assert_eq!(codec::decode::<Option<u64>>(&null), Some(Some(None)));
    assert_eq!(codec::decode::<Option<u64>>(&codec::absence()), Some(None));
}

#[test]
fn a_damaged_or_unknown_entry_is_unreadable() {
    for bytes in [b"".as_slice(), b"\x01x", b"\x02{", b"\x03\xff", b"\x20{}"] {
        assert_eq!(codec::decode::<u64>(&Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
    }
}

#[test]
fn what_json_cannot_hold_is_not_encoded() {
    let map = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(codec::encode(Some(&map)).is_none());
}
