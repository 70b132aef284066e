//! The names of what the cache keeps, and what its entries look like. Frozen: two releases side by side must agree.
//!
//! Of a namespace, in its bucket `b`: `on:c1:{b}` holds the epochs of all namespaces of the bucket (a hash); `on:c1:{b}:NAMESPACE:s:KEY` the
//! plain value, `..:h:KEY` the fields, `..:l:KEY` the leases, `..:g:KEY` the owners of the write guard. So a namespace is one slot of a cluster, and
//! a flush of all is one delete a bucket.

use std::time::Duration;

use bytes::Bytes;

use crate::cache::{Age, Entry, Nonce};

/// How many buckets namespaces fall into.
pub(super) const BUCKETS: u8 = 16;

/// Where purges are told.
pub(super) const PURGED: &str = "on:c1:purged";

/// Returns the bucket of a namespace: FNV-1a, the same in every process and version.
pub(super) fn bucket(namespace: &str) -> u8 {
    let hash = namespace.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % u32::from(BUCKETS)) as u8
}

/// Returns the name of a bucket's epochs.
pub(super) fn epochs(bucket: u8) -> String {
    format!("on:c1:{{{bucket}}}")
}

/// Returns what the names of all that a namespace keeps begin with.
pub(super) fn prefix(namespace: &str) -> String {
    format!("{}:{namespace}:", epochs(bucket(namespace)))
}

/// What a name of a key stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Plain = b's' as isize,
    Fields = b'h' as isize,
    Leases = b'l' as isize,
    Guards = b'g' as isize,
}

/// Returns the name of a part of a key.
pub(super) fn name(prefix: &str, part: Part, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(prefix.len() + 2 + key.len());
    name.extend_from_slice(prefix.as_bytes());
    name.extend_from_slice(&[part as u8, b':']);
    name.extend_from_slice(key);
    name
}

/// Length of an epoch.
const EPOCH: usize = 8;
/// Length of what stands before the payload: version 1, epoch 8, nonce 16, end as fresh 11, time as stale 8.
const HEAD: usize = 44;
/// The version of an entry.
const VERSION: u8 = 1;

/// The epoch of a namespace, if it was begun under this identity; else nothing in it is live.
pub(super) fn epoch<'a>(record: &'a [u8], identity: &str) -> Option<&'a [u8]> {
    let (epoch, of) = record.split_at_checked(EPOCH)?;
    (of == identity.as_bytes()).then_some(epoch)
}

/// Reads an entry, if it is of this epoch and its time is not over; what cannot be read is none.
pub(super) fn entry(bytes: Vec<u8>, epoch: &[u8], now_ms: u64) -> Option<Entry> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let hex = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    if head[0] != VERSION || head[1..9] != *epoch {
        return None;
    }
    let nonce = Nonce::from_bytes(*head[9..].first_chunk()?);
    let ends = hex(&head[25..36])?;
    let gone = ends.checked_add(hex(&head[36..])?)?;
    if now_ms >= gone {
        return None;
    }
    let age = match ends.checked_sub(now_ms) {
        Some(left) if left > 0 => Age::Fresh { left: Duration::from_millis(left) },
        _ => Age::Stale { since: Duration::from_millis(now_ms - ends) },
    };
    Some(Entry { payload: Bytes::from(bytes).slice(HEAD..), nonce, age })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_namespace_is_frozen() {
        let buckets: Vec<u8> = ["default", "web", "a", "b", "0"].map(bucket).to_vec();
        assert_eq!(buckets, [14, 1, 12, 5, 15]);
        assert_eq!(name(&prefix("web"), Part::Plain, b"k{1}"), b"on:c1:{1}:web:s:k{1}");
    }

    #[test]
    fn an_entry_lives_in_its_epoch_until_its_time_is_over() {
        let bytes = [b"\x01EPOCHEPO".as_slice(), &[7; 16], b"000000003e8", b"000001f4", b"payload"].concat();
        let read = |epoch: &[u8], now| entry(bytes.clone(), epoch, now);
        let fresh = read(b"EPOCHEPO", 999).unwrap();
        assert_eq!((fresh.payload.as_ref(), fresh.nonce.as_bytes()), (b"payload".as_slice(), &[7; 16]));
        assert_eq!(fresh.age, Age::Fresh { left: Duration::from_millis(1) });
        assert_eq!(read(b"EPOCHEPO", 1_000).unwrap().age, Age::Stale { since: Duration::ZERO });
        assert!(read(b"EPOCHEPO", 1_499).is_some());
        assert!(read(b"EPOCHEPO", 1_500).is_none());
        assert!(read(b"epochepo", 999).is_none());
        for spoilt in [&bytes[..43], b"", b"\x02EPOCHEPO", &[1; 60]] {
            assert!(entry(spoilt.to_vec(), b"EPOCHEPO", 0).is_none());
        }
    }

    #[test]
    fn an_epoch_counts_on_the_server_that_began_it() {
        assert_eq!(epoch(b"EPOCHEPOone", "one"), Some(b"EPOCHEPO".as_slice()));
        for (record, identity) in [(b"EPOCHEPOone".as_slice(), "two"), (b"EPOCHEPO", "one"), (b"EPO", ""), (b"", "")] {
            assert_eq!(epoch(record, identity), None);
        }
    }
}
