//! The pool compared with a model of what was written where. Whatever is admitted, computed, corrupted or
//! cancelled, in any order: a hit contains exactly the requested tokens, no sequence writes to a block that
//! others may read, and every block is freed in the end.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const SIZE: usize = 4;

impl BlockPool {
    /// Number of tables that contain a block.
    pub(in crate::engine) fn ref_count(&self, block: u32) -> u32 {
        self.ref_counts[block as usize]
    }

    /// Whether a block can be found by its prefix.
    pub(in crate::engine) fn is_cached(&self, block: u32) -> bool {
        self.index.serial(block).is_some()
    }

    /// Checks that each block is in exactly one state, that the counts match `tables`, and that prefixes
    /// would be evicted from their ends.
    pub(in crate::engine) fn audit<'a>(&self, tables: impl Iterator<Item = &'a [u32]>) {
        let mut counts = vec![0; self.total()];
        tables.flatten().for_each(|block| counts[*block as usize] += 1);
        assert_eq!(counts, self.ref_counts, "references are those of the tables");
        let evictable = self.evictable.order();
        let mut unreferenced: HashSet<u32> = HashSet::new();
        for block in evictable.iter().chain(&self.free) {
            assert!(unreferenced.insert(*block), "block {block} is in two places");
            assert_eq!(self.ref_count(*block), 0, "block {block} is referenced and free");
        }
        assert!(
            self.free.iter().all(|block| !self.is_cached(*block)),
            "free blocks are not cached"
        );
        assert!(
            evictable.iter().all(|block| self.is_cached(*block)),
            "evictable blocks are cached"
        );
        let referenced = counts.iter().filter(|count| **count > 0).count();
        assert_eq!(referenced + unreferenced.len(), self.total(), "no block is lost");
        assert_eq!((self.used(), self.free()), (referenced, unreferenced.len()));
        let cached = self.index.cached();
        let by_serial: HashMap<u64, u32> =
            cached.iter().map(|(b, serial, _)| (*serial, *b)).collect();
        assert_eq!((cached.len(), by_serial.len()), (self.cached(), self.cached()));
        let age = |block: u32| evictable.iter().position(|b| *b == block).unwrap_or(usize::MAX);
        for (child, _, parent) in &cached {
            let Some(parent) = parent.and_then(|serial| by_serial.get(&serial)) else { continue };
            let (child, parent) = (age(*child), age(*parent));
            assert!(child < parent || parent == usize::MAX, "a block outlives the one before it");
        }
    }
}

/// The contents of a block: the origin and all tokens up to its end. `None`: nothing that may be read.
type Written = Option<(Origin, Vec<u32>)>;

/// A sequence, driven as the scheduler would.
struct Holder {
    origin: Origin,
    tokens: Vec<u32>,
    chain: Chain,
    table: Vec<u32>,
    computed: usize,
    registered: usize,
}

struct World {
    pool: BlockPool,
    written: HashMap<u32, Written>,
    holders: Vec<Holder>,
    mask: u64,
    hits: usize,
}

impl World {
    fn new(total: usize, mask: u64) -> World {
        let pool = BlockPool::new(total, SIZE, true);
        World { pool, written: HashMap::new(), holders: Vec::new(), mask, hits: 0 }
    }

    /// Admits a sequence if it fits, and checks that the cached blocks it gets have the right contents.
    fn admit(&mut self, origin: Origin, tokens: Vec<u32>) {
        let mut chain = Chain::default();
        chain.set_origin(origin);
        chain.extend(&tokens, SIZE);
        chain.weaken(self.mask);
        let prefix = chain.prefix(&tokens, (tokens.len() - 1) / SIZE);
        let (mut table, blocks) = (Vec::new(), tokens.len().div_ceil(SIZE));
        let Some(hits) = self.pool.acquire(&mut table, &prefix, blocks, usize::MAX) else {
            assert!(table.is_empty());
            return;
        };
        assert_eq!(table.len(), blocks);
        for (at, block) in table[..hits].iter().enumerate() {
            let expected = Some((origin, tokens[..(at + 1) * SIZE].to_vec()));
            assert_eq!(self.written[block], expected, "a hit of other tokens");
        }
        self.hits += hits;
        let computed = hits * SIZE;
        self.holders.push(Holder { origin, tokens, chain, table, computed, registered: hits });
    }

    /// Writes the next tokens' keys and values.
    fn write(&mut self, who: usize, tokens: usize) {
        let holder = &mut self.holders[who];
        let upto = (holder.computed + tokens).min(holder.tokens.len());
        for at in holder.computed / SIZE..upto.div_ceil(SIZE) {
            let block = holder.table[at];
            assert_eq!(self.pool.ref_count(block), 1, "a shared block is written");
            assert!(!self.pool.is_cached(block), "a block that others may find is written");
            let end = upto.min((at + 1) * SIZE);
            self.written.insert(block, Some((holder.origin, holder.tokens[..end].to_vec())));
        }
        holder.computed = upto;
    }

    fn register(&mut self, who: usize) {
        let holder = &mut self.holders[who];
        let full = holder.computed / SIZE;
        holder.chain.extend(&holder.tokens, SIZE);
        holder.chain.weaken(self.mask);
        let prefix = holder.chain.prefix(&holder.tokens, full);
        for at in holder.registered..full {
            self.pool.register(&mut holder.table, at, &prefix);
            let expected = Some((holder.origin, holder.tokens[..(at + 1) * SIZE].to_vec()));
            assert_eq!(self.written[&holder.table[at]], expected, "exchanged for other tokens");
        }
        holder.registered = full;
    }

    /// Adds a token if there is room for it.
    fn push(&mut self, who: usize, token: u32) {
        let holder = &mut self.holders[who];
        let blocks = (holder.tokens.len() + 1).div_ceil(SIZE);
        if holder.computed == holder.tokens.len()
            && self.pool.grow(&mut holder.table, blocks, usize::MAX)
        {
            holder.tokens.push(token);
        }
    }

    /// A step that fails after it has written something, or a sequence whose blocks are all suspect.
    fn spoil(&mut self, who: usize, all: bool) {
        let from = self.holders[who].computed / SIZE;
        self.write(who, 6);
        let table = self.holders[who].table.clone();
        if all {
            self.pool.invalidate(&table);
            assert!(table.iter().all(|block| !self.pool.is_cached(*block)));
        }
        for block in &table[from.min(table.len())..] {
            if !self.pool.is_cached(*block) && self.pool.ref_count(*block) == 1 {
                self.written.insert(*block, None);
            }
        }
        self.leave(who);
    }

    fn leave(&mut self, who: usize) {
        let mut holder = self.holders.remove(who);
        self.pool.release(&mut holder.table);
    }

    fn audit(&self) {
        self.pool.audit(self.holders.iter().map(|holder| holder.table.as_slice()));
    }
}

/// Tokens with a beginning that many sequences have in common.
fn tokens(kind: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|p| if p < 9 { p } else { p * (kind % 3) + 1 }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn a_hit_holds_what_was_asked_for_and_all_blocks_come_back(
        total in 1usize..24,
        mask in prop_oneof![Just(u64::MAX), Just(7u64)],
        moves in proptest::collection::vec((0u32..10, 0usize..8, 1usize..30), 1..150),
    ) {
        let mut world = World::new(total, mask);
        for (what, who, amount) in moves {
            let running = world.holders.len();
            match what {
                0..3 if running < 6 => {
                    let origin = Origin { salt: (who % 2) as u64, long: amount > 25 };
                    world.admit(origin, tokens(who as u32, amount));
                }
                _ if running == 0 => {}
                3..6 => {
                    world.write(who % running, amount);
                    world.register(who % running);
                }
                6 => world.push(who % running, amount as u32 % 3),
                7 => world.leave(who % running),
                8 => world.spoil(who % running, false),
                _ => world.spoil(who % running, true),
            }
            world.audit();
        }
        while !world.holders.is_empty() {
            world.leave(0);
        }
        world.audit();
        prop_assert_eq!((world.pool.free(), world.pool.used()), (total, 0));
    }

    #[test]
    fn without_a_cache_no_block_is_lent_twice_and_all_come_back(
        total in 0usize..40,
        moves in proptest::collection::vec((0usize..5, 0usize..12), 0..200),
    ) {
        let mut pool = BlockPool::new(total, SIZE, false);
        let mut tables = vec![Vec::new(); 5];
        for (who, want) in moves {
            let had = tables[who].len();
            if want == 0 {
                pool.release(&mut tables[who]);
            } else if pool.grow(&mut tables[who], want, usize::MAX) {
                prop_assert_eq!(tables[who].len(), had.max(want));
            } else {
                prop_assert_eq!(tables[who].len(), had);
                prop_assert!(want - had > pool.free());
            }
            pool.audit(tables.iter().map(Vec::as_slice));
        }
        tables.iter_mut().for_each(|table| pool.release(table));
        prop_assert_eq!((pool.free(), pool.used(), pool.cached()), (total, 0, 0));
    }
}

/// A sequence that was computed and has ended.
fn computed(world: &mut World, tokens: Vec<u32>) -> Vec<u32> {
    world.admit(Origin::default(), tokens);
    let who = world.holders.len() - 1;
    world.write(who, usize::MAX / 2);
    world.register(who);
    let table = world.holders[who].table.clone();
    world.leave(who);
    table
}

#[test]
fn unused_blocks_go_first_then_the_least_recently_used_from_its_end() {
    let mut world = World::new(8, u64::MAX);
    let older = computed(&mut world, tokens(1, 12));
    let newer = computed(&mut world, vec![50; 8]);
    assert_eq!((world.pool.cached(), world.pool.free(), world.pool.used()), (5, 8, 0));
    let mut table = Vec::new();
    assert!(world.pool.grow(&mut table, 3, usize::MAX));
    assert_eq!((world.pool.evictions(), world.pool.cached()), (0, 5), "three were never used");
    assert!(world.pool.grow(&mut table, 8, usize::MAX));
    let order = [older[2], older[1], older[0], newer[1], newer[0]];
    assert_eq!(table[3..], order, "tails first, then the newer");
    assert_eq!((world.pool.evictions(), world.pool.cached()), (5, 0));
}

#[test]
fn a_prefix_that_is_used_again_stays_longest() {
    let mut world = World::new(6, u64::MAX);
    let first = computed(&mut world, tokens(1, 12));
    let second = computed(&mut world, vec![50; 12]);
    let again = computed(&mut world, tokens(1, 9));
    assert_eq!(again[..2], first[..2], "shared, not copied");
    let mut table = Vec::new();
    // The third block of the first sequence was evicted for the tail of the third sequence.
    assert_eq!((again[2], world.pool.evictions(), world.pool.free()), (first[2], 1, 6));
    assert!(world.pool.grow(&mut table, 6, usize::MAX));
    assert_eq!(table, [first[2], second[2], second[1], second[0], first[1], first[0]]);
}

#[test]
fn what_two_compute_at_once_is_kept_once() {
    let mut world = World::new(8, u64::MAX);
    world.admit(Origin::default(), tokens(1, 10));
    world.admit(Origin::default(), tokens(1, 10));
    for who in [0, 1] {
        world.write(who, 10);
        world.register(who);
    }
    let (a, b) = (&world.holders[0].table, &world.holders[1].table);
    assert_eq!((&a[..2], a[2] == b[2]), (&b[..2], false), "the tails are their own");
    assert_eq!((world.pool.used(), world.pool.cached()), (4, 2));
    world.leave(0);
    assert_eq!(world.pool.used(), 3);
    world.audit();
}

#[test]
fn what_stood_on_a_forgotten_block_stays_out_of_reach() {
    let mut world = World::new(8, u64::MAX);
    computed(&mut world, tokens(1, 12));
    world.admit(Origin::default(), tokens(1, 5));
    assert_eq!(world.hits, 1, "it holds the first block alone");
    world.spoil(0, true);
    // The same first block is computed again; the two after the removed one must not be found.
    computed(&mut world, tokens(1, 5));
    world.hits = 0;
    world.admit(Origin::default(), tokens(1, 13));
    assert_eq!(world.hits, 1);
    world.write(0, 13);
    world.register(0);
    world.leave(0);
    world.admit(Origin::default(), tokens(1, 13));
    assert_eq!(world.hits, 1 + 3, "computed anew, they are found again");
    world.audit();
}

#[test]
fn an_admission_that_does_not_fit_changes_nothing() {
    let mut world = World::new(4, u64::MAX);
    let table = computed(&mut world, tokens(1, 12));
    world.admit(Origin::default(), vec![60; 5]);
    let before = world.pool.evictable.order();
    // Three of its four blocks are evictable here, but then only its own hits are left to allocate.
    world.admit(Origin::default(), tokens(1, 16));
    assert_eq!((world.holders.len(), world.pool.evictable.order()), (1, before));
    assert_eq!(world.pool.evictions(), 1);
    assert!(world.pool.is_cached(table[0]));
}
