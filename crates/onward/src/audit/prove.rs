//! Proofs over a chain: signed checkpoints, that an entry is in one, and that one is the beginning of another.
//!
//! Hashes of entries never change, so the roots of full blocks of 256 entries are kept in memory once they are known: the first proof of a
//! process reads the hash of every entry before it, later ones a few hundred.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use crate::model::merkle::{Frontier, leaf};
use crate::model::{ChainName, Checkpoint, Hash, Head, Seq, Vkey, proof};
use crate::{Code, Error, Kind, Result};

/// A block is `2^8` entries.
const BLOCK_HEIGHT: u32 = 8;
const BLOCK: u64 = 1 << BLOCK_HEIGHT;
/// Hashes that are read at a time.
pub(super) const HASHES: u64 = 8_192;
/// Most blocks that are kept in all, 32 bytes each.
const KEPT: usize = 1 << 20;

/// The roots of the full blocks of each chain, from its first entry on without a hole.
#[derive(Debug, Default)]
pub(super) struct Blocks(Mutex<HashMap<ChainName, Vec<Hash>>>);

impl Blocks {
    fn known(&self, chain: &ChainName) -> u64 {
        self.0.lock().get(chain).map_or(0, |blocks| blocks.len() as u64)
    }

    fn get(&self, chain: &ChainName, range: Range<u64>) -> Vec<Hash> {
        let (from, to) = (usize::try_from(range.start).unwrap_or(usize::MAX), usize::try_from(range.end).unwrap_or(usize::MAX));
        let all = self.0.lock();
        let Some(blocks) = all.get(chain) else { return Vec::new() };
        blocks.get(from..to.min(blocks.len())).map(<[Hash]>::to_vec).unwrap_or_default()
    }

    /// Takes roots over that begin at block `at`; what is not the continuation is known already, or comes again.
    fn extend(&self, chain: &ChainName, at: u64, roots: &[Hash]) {
        let mut all = self.0.lock();
        if all.values().map(Vec::len).sum::<usize>() + roots.len() > KEPT {
            all.clear();
        }
        let blocks = all.entry(chain.clone()).or_default();
        let known = blocks.len() as u64;
        if let Some(new) = known.checked_sub(at).and_then(|skip| roots.get(usize::try_from(skip).ok()?..)) {
            blocks.extend_from_slice(new);
        }
    }
}

/// A proof that an entry is in a chain: all that it takes to check it, without the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inclusion {
    /// The chain's identity in the world.
    pub origin: String,
    /// The entry's position.
    pub seq: u64,
    /// The entry's hash.
    pub hash: Hash,
    /// The size of the tree that it is in.
    pub size: u64,
    /// The root of that tree.
    pub root: Hash,
    /// The roots of the subtrees beside the entry's way up, the lowest first.
    pub proof: Vec<Hash>,
}

impl Inclusion {
    /// Checks the proof by itself; that size and root are the chain's is what a [checkpoint](Checkpoint) says.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: it proves nothing.
    pub fn check(&self) -> Result<()> {
        let index = self.seq.checked_sub(1).ok_or_else(|| Error::invalid("the proof does not prove it"))?;
        proof::check_inclusion(&leaf(&self.hash), index, self.size, &self.proof, &self.root)
    }
}

/// A proof that a chain of one size is the beginning of the chain of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// The chain's identity in the world.
    pub origin: String,
    /// The smaller size.
    pub first: u64,
    /// The root at that size.
    pub first_root: Hash,
    /// The greater size.
    pub second: u64,
    /// The root at that size.
    pub second_root: Hash,
    /// The roots of the subtrees that both are made of, the lowest first.
    pub proof: Vec<Hash>,
}

impl Consistency {
    /// Checks the proof by itself; the caller compares both sizes and roots with what it trusts.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: it proves nothing.
    pub fn check(&self) -> Result<()> {
        proof::check_consistency(self.first, &self.first_root, self.second, &self.second_root, &self.proof)
    }
}

impl Chain {
    /// Signs what the chain is now, as a C2SP tlog-checkpoint; `None` before the first append.
    ///
    /// Keep it where those who can write the database cannot: it shows a cut tail, a rewritten past and a database put back.
    ///
    /// # Errors
    /// [`Kind::Unsupported`](crate::Kind::Unsupported): no signing key was given. `Backend`: the engine is away.
    pub async fn checkpoint(&self) -> Result<Option<String>> {
        let key = self.trail().signing().ok_or_else(|| Error::unsupported("no key to sign checkpoints with was given"));
        let key = key.map_err(|e| e.during("checkpoint"))?;
        Ok(self.head().await?.map(|head| key.sign(&of(&head))))
    }

    /// Returns the key that checks the checkpoints of this chain; `None` without a signing key, or before the first append.
    ///
    /// # Errors
    /// [`Kind::Backend`]: the engine is away.
    pub async fn vkey(&self) -> Result<Option<Vkey>> {
        let Some(key) = self.trail().signing() else { return Ok(None) };
        Ok(self.head().await?.map(|head| key.vkey(&head.origin)))
    }

    /// Proves that an entry is in the chain as it was at a size; by default as it is now.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: not `seq <= size <= head`. `NotFound`: no such chain. `Backend`: the engine is away, or an entry is missing.
    pub async fn prove_inclusion(&self, seq: Seq, size: Option<Seq>) -> Result<Inclusion> {
        self.inclusion(seq, size).await.map_err(|e| e.during("prove_inclusion"))
    }

    async fn inclusion(&self, seq: Seq, size: Option<Seq>) -> Result<Inclusion> {
        let head = self.grown().await?;
        let (seq, size) = (seq.get(), size.unwrap_or(head.seq).get());
        if seq > size || size > head.seq.get() {
            return Err(Error::invalid("a proof is of an entry up to a size, and of a size up to the head"));
        }
        let hash = *self.hashes(seq - 1..seq).await?.first().ok_or_else(missing)?;
        let path = self.roots(proof::inclusion_path(seq - 1, size)).await?;
        let root = self.root_of(0..size, &head).await?;
        let proved = Inclusion { origin: head.origin.to_string(), seq, hash, size, root, proof: path };
        // Never hand out what does not hold: then the stored hashes are not what was appended.
        proved.check().map_err(|e| Error::integrity("the chain does not give its own root").with_source(e))?;
        Ok(proved)
    }

    /// Proves that the chain of one size is the beginning of the chain of another; by default as it is now.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: not `first <= second <= head`. `NotFound`: no such chain. `Backend`: the engine is away, or an entry is missing.
    pub async fn prove_consistency(&self, first: Seq, second: Option<Seq>) -> Result<Consistency> {
        self.consistency(first, second).await.map_err(|e| e.during("prove_consistency"))
    }

    async fn consistency(&self, first: Seq, second: Option<Seq>) -> Result<Consistency> {
        let head = self.grown().await?;
        let (first, second) = (first.get(), second.unwrap_or(head.seq).get());
        if first > second || second > head.seq.get() {
            return Err(Error::invalid("a proof is from a size to a greater one, and that is at most the head"));
        }
        let proved = Consistency {
            origin: head.origin.to_string(),
            first,
            first_root: self.root_of(0..first, &head).await?,
            second,
            second_root: self.root_of(0..second, &head).await?,
            proof: self.roots(proof::consistency_path(first, second)).await?,
        };
        proved.check().map_err(|e| Error::integrity("the chain does not give its own root").with_source(e))?;
        Ok(proved)
    }

    pub(super) async fn grown(&self) -> Result<Head> {
        self.head().await?.ok_or_else(|| Error::not_found("no such chain"))
    }

    async fn roots(&self, path: Vec<Range<u64>>) -> Result<Vec<Hash>> {
        let mut roots = Vec::with_capacity(path.len());
        for range in path {
            roots.push(self.root(range).await?);
        }
        Ok(roots)
    }

    /// The root at a size; at the head it is the head's own.
    async fn root_of(&self, range: Range<u64>, head: &Head) -> Result<Hash> {
        if range.end == head.seq.get() { Ok(head.frontier.root()) } else { self.root(range).await }
    }

    /// Computes the root over a range of leaves that begins where a subtree of its size may begin.
    async fn root(&self, range: Range<u64>) -> Result<Hash> {
        Ok(self.tree(range).await?.root())
    }

    /// Computes the tree over such a range.
    pub(super) async fn tree(&self, range: Range<u64>) -> Result<Frontier> {
        let mut tree = Frontier::default();
        if range.start.is_multiple_of(BLOCK) && range.end - range.start >= BLOCK {
            let (first, end) = (range.start / BLOCK, range.end / BLOCK);
            self.learn(end).await?;
            for root in self.trail().0.blocks.get(self.name(), first..end) {
                tree.push_tree(BLOCK_HEIGHT, root);
            }
        }
        // Whatever is no full block, or was forgotten meanwhile.
        let mut from = range.start + tree.size();
        while from < range.end {
            let hashes = self.hashes(from..range.end.min(from + HASHES)).await?;
            hashes.iter().for_each(|hash| tree.push(hash));
            from += hashes.len() as u64;
        }
        Ok(tree)
    }

    /// Makes the roots of the blocks below `end` known.
    async fn learn(&self, end: u64) -> Result<()> {
        let blocks = &self.trail().0.blocks;
        let mut at = blocks.known(self.name());
        while at < end {
            let until = end.min(at + HASHES / BLOCK);
            let hashes = self.hashes(at * BLOCK..until * BLOCK).await?;
            let roots: Vec<Hash> = hashes
                .chunks_exact(BLOCK as usize)
                .map(|block| {
                    let mut tree = Frontier::default();
                    block.iter().for_each(|hash| tree.push(hash));
                    tree.root()
                })
                .collect();
            blocks.extend(self.name(), at, &roots);
            at = until;
        }
        Ok(())
    }

    /// Fills what was purged from the skeletons.
    async fn hashes_known(&self, leaves: Range<u64>, found: Vec<(u64, Hash)>) -> Result<Vec<Hash>> {
        let mut all: Vec<Option<Hash>> = vec![None; usize::try_from(leaves.end - leaves.start).unwrap_or(0)];
        let mut put = |seq: u64, hash: Hash| {
            if let Some(place) = seq.checked_sub(leaves.start + 1).and_then(|place| all.get_mut(usize::try_from(place).ok()?)) {
                *place = Some(hash);
            }
        };
        for segment in self.all_segments().await?.iter().filter(|segment| segment.from <= leaves.end && segment.to > leaves.start) {
            let (from, to) = (segment.from.max(leaves.start + 1), segment.to.min(leaves.end));
            let known = self.known_hashes(segment, from, to).await?;
            (from..).zip(known).for_each(|(seq, hash)| put(seq, hash));
        }
        found.into_iter().for_each(|(seq, hash)| put(seq, hash));
        all.into_iter().collect::<Option<Vec<_>>>().ok_or_else(missing)
    }

    /// Reads the hashes of the entries whose leaves are in a range, at most 8,192.
    pub(super) async fn hashes(&self, leaves: Range<u64>) -> Result<Vec<Hash>> {
        let wanted = leaves.end - leaves.start;
        let found = self.trail().0.engine.hashes(self.name(), leaves.start + 1, leaves.end).await?;
        let dense = found.iter().zip(leaves.start + 1..).all(|((seq, _), expected)| *seq == expected);
        if found.len() as u64 == wanted && dense {
            return Ok(found.into_iter().map(|(_, hash)| hash).collect());
        }
        self.hashes_known(leaves, found).await
    }
}

/// What a head says of its chain.
fn of(head: &Head) -> Checkpoint {
    Checkpoint { origin: head.origin.to_string(), size: head.seq.get(), root: head.frontier.root() }
}

fn missing() -> Error {
    Error::new(Kind::Backend, Code::IntegrityFailure, "an entry is missing from the chain")
}
