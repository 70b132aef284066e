//! The Merkle tree of RFC 6962 over the hashes of all entries of a chain: its growing edge. Proofs are in [`proof`](super::proof).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::Hash;
use crate::{Error, Result};

/// Returns the hash of a leaf: `SHA-256(0x00 || entry hash)`.
pub fn leaf(entry: &Hash) -> Hash {
    let mut bytes = [0; 33];
    bytes[1..].copy_from_slice(entry.as_bytes());
    Hash::from_bytes(Sha256::digest(bytes).into())
}

/// Returns the hash of an inner node: `SHA-256(0x01 || left || right)`.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left.as_bytes());
    bytes[33..].copy_from_slice(right.as_bytes());
    Hash::from_bytes(Sha256::digest(bytes).into())
}

/// The roots of the full subtrees of a tree, largest first: all that is needed to append and to give the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// Returns the number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends the leaf of an entry's hash.
    pub fn push(&mut self, entry: &Hash) {
        self.push_leaf(leaf(entry));
    }

    /// Appends a leaf.
    pub(crate) fn push_leaf(&mut self, leaf: Hash) {
        self.push_tree(0, leaf);
    }

    /// Appends the root of a full subtree of `2^height` leaves, where such a one may stand.
    pub(crate) fn push_tree(&mut self, height: u32, root: Hash) {
        let mut top = root;
        // A carry for each trailing one bit of the size, as in binary addition.
        for _ in 0..(self.size >> height).trailing_ones() {
            if let Some(left) = self.roots.pop() {
                top = node(&left, &top);
            }
        }
        self.roots.push(top);
        self.size += 1 << height;
    }

    /// Returns the root; that of the empty tree is the hash of nothing.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else {
            return Hash::from_bytes(Sha256::digest([]).into());
        };
        roots.fold(*last, |right, left| node(left, &right))
    }

    /// Returns the roots one after the other, as they are stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.roots.iter().flat_map(|root| *root.as_bytes()).collect()
    }

    /// Reads what [`Frontier::to_bytes`] wrote for a tree of `size` leaves.
    ///
    /// # Errors
    /// [`Kind::Backend`](crate::Kind::Backend), `integrity_failure`: the bytes do not fit the size.
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Result<Self> {
        let (chunks, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() || chunks.len() != size.count_ones() as usize {
            return Err(Error::integrity("the frontier of a chain does not fit its length"));
        }
        Ok(Self { size, roots: chunks.iter().copied().map(Hash::from_bytes).collect() })
    }
}

impl Serialize for Frontier {
    /// As text: the size, a colon, and the roots in hex digits.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.size, hex::encode(self.to_bytes())))
    }
}

impl<'de> Deserialize<'de> for Frontier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let malformed = || serde::de::Error::custom("a frontier is a size, a colon and the roots in hex digits");
        let text = String::deserialize(deserializer)?;
        let (size, roots) = text.split_once(':').ok_or_else(malformed)?;
        let (size, roots) = (size.parse().map_err(|_| malformed())?, hex::decode(roots).map_err(|_| malformed())?);
        Self::from_bytes(size, &roots).map_err(serde::de::Error::custom)
    }
}
