//! Proofs over the Merkle tree of a chain, as RFC 6962 defines them: an entry is in the tree, and a tree is the beginning of another.
//!
//! Pure: which subtrees a proof is made of, and how it is checked. Who makes one reads the roots of those subtrees.

use std::ops::Range;

use super::Hash;
use super::merkle::node;
use crate::{Error, Result};

/// Returns the greatest power of two below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// Lists the subtrees, as ranges of leaves from 0, whose roots prove that leaf `index` is in a tree of `size` leaves: the lowest first.
pub fn inclusion_path(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut low, mut high, mut path) = (0, size, Vec::new());
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(middle..high);
            high = middle;
        } else {
            path.push(low..middle);
            low = middle;
        }
    }
    path.reverse();
    path
}

/// Lists the subtrees whose roots prove that the tree of `first` leaves is the beginning of that of `second`: the lowest first.
pub fn consistency_path(first: u64, second: u64) -> Vec<Range<u64>> {
    if first == 0 || first >= second {
        return Vec::new();
    }
    let (mut low, mut high, mut path, mut whole) = (0, second, Vec::new(), true);
    // Down to the subtree that ends where the first tree ends.
    while high != first {
        let middle = low + split(high - low);
        if first <= middle {
            path.push(middle..high);
            high = middle;
        } else {
            path.push(low..middle);
            low = middle;
            whole = false;
        }
    }
    // The first tree itself needs no telling: who checks the proof has its root.
    if !whole {
        path.push(low..high);
    }
    path.reverse();
    path
}

fn refused() -> Error {
    Error::invalid("the proof does not prove it")
}

/// Checks that the leaf with this hash stands at `index`, from 0, in the tree of `size` leaves with this root.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid): it does not follow from the proof.
pub fn check_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<()> {
    if index >= size {
        return Err(refused());
    }
    let (mut at, mut last, mut top) = (index, size - 1, *leaf);
    for step in proof {
        if last == 0 {
            return Err(refused());
        }
        if at & 1 == 1 || at == last {
            top = node(step, &top);
            // A right edge without a neighbour rises by itself.
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            top = node(&top, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last == 0 && top == *root { Ok(()) } else { Err(refused()) }
}

/// Checks that the tree of `first` leaves is the beginning of the tree of `second` leaves.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid): it does not follow from the proof.
pub fn check_consistency(first: u64, first_root: &Hash, second: u64, second_root: &Hash, proof: &[Hash]) -> Result<()> {
    if first == 0 || first > second {
        return Err(refused());
    }
    if first == second {
        return if proof.is_empty() && first_root == second_root { Ok(()) } else { Err(refused()) };
    }
    let (mut at, mut last) = (first - 1, second - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let mut steps = proof.iter();
    // A first tree that is one full subtree is not repeated in the proof.
    let begin = if first.is_power_of_two() { *first_root } else { *steps.next().ok_or_else(refused)? };
    let (mut old, mut new) = (begin, begin);
    for step in steps {
        if last == 0 {
            return Err(refused());
        }
        if at & 1 == 1 || at == last {
            (old, new) = (node(step, &old), node(step, &new));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = node(&new, step);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last == 0 && old == *first_root && new == *second_root { Ok(()) } else { Err(refused()) }
}
