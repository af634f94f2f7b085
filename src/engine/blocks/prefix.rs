//! The prefix index: which block holds which prefix, and the hash chain for looking prefixes up.
//!
//! A full block is identified by its own tokens, the block before it (or, for the first block, the
//! [`Origin`]), and a 64-bit hash over all of this, which a sequence computes once. The hash only finds
//! candidates: a hit requires equal tokens, predecessor and origin. A wider hash could not replace the
//! comparison, because xxh3 does not resist deliberate collisions, and prompts come from untrusted clients.
//! With the comparison, a collision costs a recomputation and never gives an answer from another client's
//! tokens.
//!
//! Predecessors are identified by a serial number that is never reused. Blocks that were computed after a
//! block that has been removed can therefore not be found, even when the same tokens are registered again. It
//! does not know which sequences reference blocks or when blocks are evicted.

use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a prefix's keys and values depend on besides its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// Prefixes with different salts are never shared.
    pub salt: u64,
    /// Whether the sequence had passed the length from which other RoPE frequencies apply
    /// (`Capacity::rope_switch`).
    pub long: bool,
}

impl Origin {
    fn seed(self) -> u64 {
        xxh3_64_with_seed(&[u8::from(self.long)], self.salt)
    }
}

/// The hashes of a sequence's full blocks, each over all tokens up to the end of its block.
#[derive(Debug, Default)]
pub struct Chain {
    origin: Origin,
    hashes: Vec<u64>,
}

impl Chain {
    /// Starts over if the origin has changed.
    pub fn set_origin(&mut self, origin: Origin) {
        if self.origin != origin {
            *self = Chain { origin, hashes: Vec::new() };
        }
    }

    /// Hashes the full blocks of `tokens` that have no hash yet.
    pub fn extend(&mut self, tokens: &[u32], block_size: usize) {
        let mut last = self.hashes.last().copied().unwrap_or_else(|| self.origin.seed());
        for block in tokens.chunks_exact(block_size).skip(self.hashes.len()) {
            last = chained(last, block);
            self.hashes.push(last);
        }
    }

    /// The first `blocks` blocks of `tokens`, as far as they have been hashed.
    pub fn prefix<'a>(&'a self, tokens: &'a [u32], blocks: usize) -> Prefix<'a> {
        let hashes = &self.hashes[..blocks.min(self.hashes.len())];
        Prefix { origin: self.origin, hashes, tokens }
    }
}

/// A block's hash: over its tokens, seeded with the hash of the blocks before it.
fn chained(before: u64, tokens: &[u32]) -> u64 {
    const PIECE: usize = 32;
    tokens.chunks(PIECE).fold(before, |seed, piece| {
        let mut bytes = [0; 4 * PIECE];
        for (to, id) in bytes.chunks_exact_mut(4).zip(piece) {
            to.copy_from_slice(&id.to_le_bytes());
        }
        xxh3_64_with_seed(&bytes[..4 * piece.len()], seed)
    })
}

/// Full blocks from a sequence's beginning.
#[derive(Debug, Clone, Copy)]
pub struct Prefix<'a> {
    pub(super) origin: Origin,
    hashes: &'a [u64],
    tokens: &'a [u32],
}

impl<'a> Prefix<'a> {
    pub(super) fn key(&self, at: usize, parent: Parent, block_size: usize) -> Key<'a> {
        let tokens = &self.tokens[at * block_size..(at + 1) * block_size];
        Key { hash: self.hashes[at], parent, tokens }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    Origin(Origin),
    /// The serial number of a registered block.
    Block(u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    hash: u64,
    parent: Parent,
    tokens: &'a [u32],
}

#[derive(Debug, Clone, Copy)]
struct Node {
    serial: u64,
    hash: u64,
    parent: Parent,
}

#[derive(Debug)]
pub(super) struct PrefixIndex {
    block_size: usize,
    by_hash: HashMap<u64, u32>,
    /// One entry per block.
    nodes: Vec<Option<Node>>,
    /// The tokens of each block, concatenated; undefined where the node is `None`.
    tokens: Vec<u32>,
    last_serial: u64,
}

impl PrefixIndex {
    /// An empty index of `blocks` blocks, each of `block_size` tokens.
    pub fn new(blocks: usize, block_size: usize) -> PrefixIndex {
        PrefixIndex {
            block_size,
            by_hash: HashMap::with_capacity(blocks),
            nodes: vec![None; blocks],
            tokens: vec![0; blocks * block_size],
            last_serial: 0,
        }
    }

    /// How many blocks are registered.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// A block's serial number, if it is registered.
    pub fn serial(&self, block: u32) -> Option<u64> {
        Some(self.node(block)?.serial)
    }

    /// The block with exactly this key.
    pub fn find(&self, key: &Key<'_>) -> Option<u32> {
        let block = *self.by_hash.get(&key.hash)?;
        let same = self.node(block)?.parent == key.parent && self.tokens_of(block) == key.tokens;
        same.then_some(block)
    }

    /// Appends the blocks that hold the prefix, up to the first one that is not registered.
    pub fn find_all(&self, prefix: &Prefix<'_>, table: &mut Vec<u32>) {
        let mut parent = Parent::Origin(prefix.origin);
        for at in 0..prefix.hashes.len() {
            let found = self.find(&prefix.key(at, parent, self.block_size));
            let Some((block, serial)) = found.and_then(|b| Some((b, self.serial(b)?))) else {
                return;
            };
            table.push(block);
            parent = Parent::Block(serial);
        }
    }

    /// Registers a block. Returns a block with the same hash that was removed for it: the newer one is more
    /// likely to be found again.
    pub fn insert(&mut self, block: u32, key: &Key<'_>) -> Option<u32> {
        self.remove(block);
        let displaced = self.by_hash.get(&key.hash).copied();
        if let Some(displaced) = displaced {
            self.remove(displaced);
        }
        self.last_serial += 1;
        let node = Node { serial: self.last_serial, hash: key.hash, parent: key.parent };
        self.nodes[block as usize] = Some(node);
        let at = block as usize * self.block_size;
        self.tokens[at..at + self.block_size].copy_from_slice(key.tokens);
        self.by_hash.insert(key.hash, block);
        displaced
    }

    /// Removes a block, if it was registered.
    pub fn remove(&mut self, block: u32) {
        if let Some(node) = self.nodes.get_mut(block as usize).and_then(Option::take) {
            self.by_hash.remove(&node.hash);
        }
    }

    fn node(&self, block: u32) -> Option<Node> {
        self.nodes.get(block as usize).copied().flatten()
    }

    fn tokens_of(&self, block: u32) -> &[u32] {
        let at = block as usize * self.block_size;
        &self.tokens[at..at + self.block_size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Chain {
        /// Keeps only some bits of each hash, so that prefixes collide.
        pub fn weaken(&mut self, mask: u64) {
            self.hashes.iter_mut().for_each(|hash| *hash &= mask);
        }
    }

    impl PrefixIndex {
        /// Each registered block with its serial number and its predecessor's.
        pub fn cached(&self) -> Vec<(u32, u64, Option<u64>)> {
            let cached = (0u32..).zip(&self.nodes).filter_map(|(block, node)| {
                let Node { serial, hash, parent } = (*node)?;
                assert_eq!(self.by_hash.get(&hash), Some(&block), "a cached block can be found");
                let parent = match parent {
                    Parent::Origin(_) => None,
                    Parent::Block(serial) => Some(serial),
                };
                Some((block, serial, parent))
            });
            let cached: Vec<_> = cached.collect();
            assert_eq!(cached.len(), self.by_hash.len(), "what can be found is cached");
            cached
        }
    }

    fn hashes(origin: Origin, tokens: &[u32]) -> Vec<u64> {
        let mut chain = Chain::default();
        chain.set_origin(origin);
        chain.extend(tokens, 4);
        chain.hashes
    }

    #[test]
    fn a_hash_is_of_all_before_it_and_of_the_origin() {
        let origin = Origin::default();
        let tokens: Vec<u32> = (0..15).collect();
        let all = hashes(origin, &tokens);
        assert_eq!(all.len(), 3, "of full blocks only");
        for changed in 0..12 {
            let mut other = tokens.clone();
            other[changed] += 100;
            let other = hashes(origin, &other);
            let same: Vec<bool> = all.iter().zip(&other).map(|(a, b)| a == b).collect();
            assert_eq!(same, [changed >= 4, changed >= 8, false]);
        }
        for other in [Origin { salt: 1, ..origin }, Origin { long: true, ..origin }] {
            assert!(hashes(other, &tokens).iter().zip(&all).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn a_chain_that_grows_is_that_of_the_whole_and_a_new_origin_starts_it_over() {
        let tokens: Vec<u32> = (0..200).collect();
        let (origin, mut chain) = (Origin { salt: 7, long: false }, Chain::default());
        chain.set_origin(origin);
        for upto in 0..200 {
            chain.extend(&tokens[..upto], 4);
        }
        assert_eq!(chain.hashes, hashes(origin, &tokens[..199]));
        chain.set_origin(origin);
        assert_eq!(chain.hashes.len(), 49);
        let long = Origin { long: true, ..origin };
        chain.set_origin(long);
        chain.extend(&tokens, 4);
        assert_eq!(chain.hashes, hashes(long, &tokens));
        let long_blocks: Vec<u32> = (0..90).collect();
        assert_ne!(chained(0, &long_blocks), chained(0, &long_blocks[..89]));
    }

    #[test]
    fn a_collision_is_no_hit() {
        let mut index = PrefixIndex::new(4, 2);
        let root = Parent::Origin(Origin::default());
        let key = Key { hash: 9, parent: root, tokens: &[1, 2] };
        assert_eq!(index.insert(0, &key), None);
        assert_eq!(index.find(&key), Some(0));
        let salted = Parent::Origin(Origin { salt: 1, long: false });
        let others = [
            Key { tokens: &[1, 3], ..key },
            Key { parent: salted, ..key },
            Key { parent: Parent::Block(1), ..key },
        ];
        assert!(others.iter().all(|other| index.find(other).is_none()));
        assert_eq!(index.insert(1, &others[0]), Some(0), "the older gives way");
        assert_eq!((index.find(&others[0]), index.find(&key)), (Some(1), None));
        assert_eq!((index.serial(0), index.len()), (None, 1));
        index.remove(0);
        assert_eq!(index.find(&others[0]), Some(1), "what is unknown takes nobody along");
    }
}
