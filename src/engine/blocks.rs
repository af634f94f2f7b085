//! The free list of KV blocks, with every block accounted for.
//!
//! Knows numbers, not memory: which blocks are free and which are lent. Giving back a block that was not
//! lent is a bug and asserted in debug builds; the count of lent blocks is what leak tests look at.

/// Hands out block numbers `0..total`.
#[derive(Debug)]
pub struct BlockPool {
    free: Vec<u32>,
    lent: Vec<bool>,
}

impl BlockPool {
    pub fn new(total: usize) -> BlockPool {
        // Popped from the end: low numbers first, so that a small load touches few pages.
        BlockPool { free: (0..total as u32).rev().collect(), lent: vec![false; total] }
    }

    pub fn total(&self) -> usize {
        self.lent.len()
    }

    pub fn free(&self) -> usize {
        self.free.len()
    }

    pub fn used(&self) -> usize {
        self.lent.len() - self.free.len()
    }

    /// Extends `table` to `blocks` entries, or leaves it as it was and returns false.
    pub fn grow(&mut self, table: &mut Vec<u32>, blocks: usize) -> bool {
        let needed = blocks.saturating_sub(table.len());
        if needed > self.free.len() {
            return false;
        }
        let at = self.free.len() - needed;
        for block in self.free.drain(at..).rev() {
            self.lent[block as usize] = true;
            table.push(block);
        }
        true
    }

    /// Takes all of a table's blocks back.
    pub fn release(&mut self, table: &mut Vec<u32>) {
        for block in table.drain(..).rev() {
            debug_assert!(self.lent[block as usize], "block {block} was not lent");
            self.lent[block as usize] = false;
            self.free.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_block_is_lent_twice_and_all_come_back(
            total in 0usize..40,
            moves in proptest::collection::vec((0usize..5, 0usize..12), 0..200),
        ) {
            let mut pool = BlockPool::new(total);
            let mut tables = vec![Vec::new(); 5];
            for (who, want) in moves {
                let had = tables[who].len();
                if want == 0 {
                    pool.release(&mut tables[who]);
                } else if pool.grow(&mut tables[who], want) {
                    prop_assert_eq!(tables[who].len(), had.max(want));
                } else {
                    prop_assert_eq!(tables[who].len(), had);
                    prop_assert!(want - had > pool.free());
                }
                let mut all: Vec<u32> = tables.iter().flatten().copied().collect();
                all.sort_unstable();
                let before = all.len();
                all.dedup();
                prop_assert_eq!(all.len(), before);
                prop_assert_eq!(pool.used(), before);
            }
            tables.iter_mut().for_each(|table| pool.release(table));
            prop_assert_eq!((pool.free(), pool.used()), (total, 0));
        }
    }
}
