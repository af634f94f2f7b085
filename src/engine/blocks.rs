//! A lane's KV blocks, with every block accounted for: lent, idle or free.
//!
//! A block is *lent* while sequences hold it, and several may hold one: full blocks are shared, and nobody
//! writes to a full block. It is *idle* when nobody holds it but the prefix in it is still known, and *free*
//! otherwise. Idle blocks count as free: when no other is left, the one that was idle for longest is
//! evicted. A table is given back from its end, and whoever holds a block holds those before it too, so a
//! prefix loses its tail first and never a block from its middle.
//!
//! Knows numbers, not memory, and no sequence. Giving back a block that was not lent is a bug and asserted
//! in debug builds; the count of lent blocks is what leak tests look at.

mod lru;
mod prefix;

use lru::Lru;
pub use prefix::{Chain, Origin, Prefix};
use prefix::{Parent, PrefixIndex};

/// Hands out block numbers `0..total`.
#[derive(Debug)]
pub struct BlockPool {
    /// Tokens per block.
    block_size: usize,
    /// Whether prefixes are kept at all.
    caching: bool,
    free: Vec<u32>,
    /// Tables that each block is in.
    holders: Vec<u32>,
    /// Blocks in no table whose prefix is known.
    idle: Lru,
    index: PrefixIndex,
    evictions: u64,
}

impl BlockPool {
    pub fn new(total: usize, block_size: usize, caching: bool) -> BlockPool {
        let indexed = if caching { total } else { 0 };
        BlockPool {
            block_size,
            caching,
            // Popped from the end: low numbers first, so that a small load touches few pages.
            free: (0..total as u32).rev().collect(),
            holders: vec![0; total],
            idle: Lru::new(indexed),
            index: PrefixIndex::new(indexed, block_size),
            evictions: 0,
        }
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub fn caching(&self) -> bool {
        self.caching
    }

    pub fn total(&self) -> usize {
        self.holders.len()
    }

    /// Blocks that can be lent now, idle ones included.
    pub fn free(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks lent to sequences.
    pub fn used(&self) -> usize {
        self.total() - self.free()
    }

    /// Blocks whose prefix can be found, lent or idle.
    pub fn cached(&self) -> usize {
        self.index.len()
    }

    /// Blocks whose prefix had to give way to something new.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Fills an empty table with `blocks` blocks, those that hold `prefix` first. Returns how many these
    /// are; `None`, and the table as it was, if there are too few blocks.
    pub fn acquire(
        &mut self,
        table: &mut Vec<u32>,
        prefix: &Prefix<'_>,
        blocks: usize,
    ) -> Option<usize> {
        debug_assert!(table.is_empty(), "the table has blocks already");
        if self.free() == 0 {
            return None;
        }
        self.index.find_all(prefix, table);
        let idle = table.iter().filter(|block| self.holders[**block as usize] == 0).count();
        let hits = table.len();
        if blocks.saturating_sub(hits) > self.free() - idle {
            table.clear();
            return None;
        }
        table.iter().for_each(|block| self.lend(*block));
        self.grow(table, blocks);
        Some(hits)
    }

    /// Extends `table` to `blocks` entries, or leaves it as it was and returns false.
    pub fn grow(&mut self, table: &mut Vec<u32>, blocks: usize) -> bool {
        let needed = blocks.saturating_sub(table.len());
        if needed > self.free() {
            return false;
        }
        for _ in 0..needed {
            let Some(block) = self.free.pop().or_else(|| self.evict()) else { return false };
            self.holders[block as usize] = 1;
            table.push(block);
        }
        true
    }

    /// Makes the full block at `table[at]` known by its prefix. If that prefix is in another block already,
    /// the table gets that one instead: one copy is enough. Nothing happens if the block before it is not
    /// known, since nobody could find the way to it.
    pub fn register(&mut self, table: &mut [u32], at: usize, prefix: &Prefix<'_>) {
        let parent = match at.checked_sub(1) {
            None => Parent::Origin(prefix.origin),
            Some(before) => match self.index.serial(table[before]) {
                Some(serial) => Parent::Block(serial),
                None => return,
            },
        };
        let key = prefix.key(at, parent, self.block_size);
        let own = table[at];
        match self.index.find(&key) {
            Some(known) if known == own => {}
            Some(known) => {
                self.lend(known);
                table[at] = known;
                self.give_back(own);
            }
            None => {
                debug_assert_eq!(
                    self.holders[own as usize], 1,
                    "block {own} is not its writer's own"
                );
                if let Some(displaced) = self.index.insert(own, &key) {
                    self.unknown(displaced);
                }
            }
        }
    }

    /// Makes a table's blocks unknown: what they hold must not be used again. Those who share them keep
    /// them.
    pub fn forget(&mut self, table: &[u32]) {
        table.iter().for_each(|block| self.index.remove(*block));
    }

    /// Takes all of a table's blocks back, the last first.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for block in table.drain(..).rev() {
            self.give_back(block);
        }
    }

    fn lend(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        if *holders == 0 {
            self.idle.remove(block);
        }
        *holders += 1;
    }

    fn give_back(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        debug_assert!(*holders > 0, "block {block} was not lent");
        *holders = holders.saturating_sub(1);
        if *holders > 0 {
            return;
        }
        match self.index.serial(block) {
            Some(_) => self.idle.push(block),
            None => self.free.push(block),
        }
    }

    /// The block that has been idle for longest, with its prefix forgotten.
    fn evict(&mut self) -> Option<u32> {
        let block = self.idle.pop()?;
        self.index.remove(block);
        self.evictions += 1;
        Some(block)
    }

    /// A block's prefix is known no more: an idle one is free from now on.
    fn unknown(&mut self, block: u32) {
        if self.holders[block as usize] == 0 {
            self.idle.remove(block);
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests;
