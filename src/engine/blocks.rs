//! A lane's KV blocks. Each block is referenced, evictable or free.
//!
//! A block is *referenced* while it is in the table of at least one sequence. Several sequences may share a
//! full block, and nobody writes to a full block. A block is *evictable* when no sequence references it
//! but its prefix is still cached, and *free* otherwise. Evictable blocks count as available: when no free block
//! is left, the least recently used one is evicted. A table is released from its end, and a sequence that
//! references a block also references all blocks before it. So a prefix is evicted from its end, never from its
//! middle.
//!
//! It knows block numbers, but not memory or sequences. Releasing a block that is not referenced is a bug,
//! and is asserted in debug builds. Leak tests check the number of referenced blocks.

mod eviction;
mod prefix;

use eviction::Lru;
pub use prefix::{Chain, Origin, Prefix};
use prefix::{Parent, PrefixIndex};

/// Allocates block numbers `0..total`.
#[derive(Debug)]
pub struct BlockPool {
    block_size: usize,
    caching: bool,
    free: Vec<u32>,
    /// For each block, the number of tables that contain it.
    ref_counts: Vec<u32>,
    /// Evictable blocks: cached, and in no table.
    evictable: Lru,
    index: PrefixIndex,
    evictions: u64,
    /// Blocks that the cache leaves free: its low watermark.
    reserved: usize,
}

impl BlockPool {
    /// A pool of `total` free blocks of `block_size` tokens; prefixes are cached only with `caching`.
    pub fn new(total: usize, block_size: usize, caching: bool) -> BlockPool {
        let indexed = if caching { total } else { 0 };
        BlockPool {
            block_size,
            caching,
            // Popped from the end: low numbers first, so that a small load touches few pages.
            free: (0..total as u32).rev().collect(),
            ref_counts: vec![0; total],
            evictable: Lru::new(indexed),
            index: PrefixIndex::new(indexed, block_size),
            evictions: 0,
            reserved: 0,
        }
    }

    /// From now on, evicts rather than leave fewer than `reserved` blocks free to the cache. Sequences may still take
    /// all.
    pub fn keep_free(self, reserved: usize) -> BlockPool {
        BlockPool { reserved, ..self }
    }

    /// Blocks that a sequence may take: without evicting any if it is in the background.
    pub fn acquirable(&self, background: bool) -> usize {
        if background { self.free.len() } else { self.free() }
    }

    /// Tokens per block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Whether prefixes are cached.
    pub fn caching(&self) -> bool {
        self.caching
    }

    /// Number of blocks, whether referenced, evictable or free.
    pub fn total(&self) -> usize {
        self.ref_counts.len()
    }

    /// Blocks that can be allocated now, including evictable ones.
    pub fn free(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// Blocks that are referenced by sequences.
    pub fn used(&self) -> usize {
        self.total() - self.free()
    }

    /// Blocks whose prefix can be found, referenced or not.
    pub fn cached(&self) -> usize {
        self.index.len()
    }

    /// Number of cached blocks that were evicted.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Fills an empty table with `blocks` blocks, beginning with those that hold `prefix`. Returns the number
    /// of cached blocks used. If it would need more than `most` others, or there are too few blocks, returns `None`
    /// and leaves the table empty.
    pub fn acquire(
        &mut self,
        table: &mut Vec<u32>,
        prefix: &Prefix<'_>,
        blocks: usize,
        most: usize,
    ) -> Option<usize> {
        debug_assert!(table.is_empty(), "the table has blocks already");
        if self.free() == 0 {
            return None;
        }
        self.index.find_all(prefix, table);
        let evictable = table.iter().filter(|block| self.ref_counts[**block as usize] == 0).count();
        let hits = table.len();
        if blocks.saturating_sub(hits) > most.min(self.free() - evictable) {
            table.clear();
            return None;
        }
        table.iter().for_each(|block| self.reference(*block));
        self.grow(table, blocks, most);
        Some(hits)
    }

    /// Extends `table` to `blocks` entries, or returns false and leaves it unchanged if that is more than `most` or
    /// than there are.
    pub fn grow(&mut self, table: &mut Vec<u32>, blocks: usize, most: usize) -> bool {
        let needed = blocks.saturating_sub(table.len());
        if needed > most.min(self.free()) {
            return false;
        }
        for _ in 0..needed {
            let Some(block) = self.free.pop().or_else(|| self.evict()) else { return false };
            self.ref_counts[block as usize] = 1;
            table.push(block);
        }
        true
    }

    /// Registers the full block at `table[at]` under its prefix. If another block already holds that prefix,
    /// the table gets that block instead, since one copy is enough. Does nothing if the previous block is not
    /// registered, because then no lookup could reach this one.
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
            Some(cached) if cached == own => {}
            Some(cached) => {
                self.reference(cached);
                table[at] = cached;
                self.release_block(own);
            }
            None => {
                debug_assert_eq!(
                    self.ref_counts[own as usize], 1,
                    "block {own} is not its writer's own"
                );
                if let Some(displaced) = self.index.insert(own, &key) {
                    self.uncache(displaced);
                }
            }
        }
    }

    /// Removes a table's blocks from the prefix cache: their contents must not be reused. Sequences that
    /// share them keep them.
    pub fn invalidate(&mut self, table: &[u32]) {
        table.iter().for_each(|block| self.index.remove(*block));
    }

    /// Releases all blocks of a table, the last one first.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for block in table.drain(..).rev() {
            self.release_block(block);
        }
    }

    fn reference(&mut self, block: u32) {
        let count = &mut self.ref_counts[block as usize];
        if *count == 0 {
            self.evictable.remove(block);
        }
        *count += 1;
    }

    fn release_block(&mut self, block: u32) {
        let count = &mut self.ref_counts[block as usize];
        debug_assert!(*count > 0, "block {block} was not referenced");
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        match self.index.serial(block) {
            Some(_) => {
                self.evictable.push(block);
                while self.free.len() < self.reserved {
                    let Some(evicted) = self.evict() else { return };
                    self.free.push(evicted);
                }
            }
            None => self.free.push(block),
        }
    }

    /// Evicts the least recently used evictable block.
    fn evict(&mut self) -> Option<u32> {
        let block = self.evictable.pop()?;
        self.index.remove(block);
        self.evictions += 1;
        Some(block)
    }

    /// Removes a block from the prefix cache. If no table contains it, it becomes free.
    fn uncache(&mut self, block: u32) {
        if self.ref_counts[block as usize] == 0 {
            self.evictable.remove(block);
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests;
