//! Attention of a block of queries over a run of keys of one head: scores, online softmax, weighted values.
//!
//! It gets pointers to tiles of keys and values, and does not know about caches or batches. Softmax is computed in one
//! pass (Milakov and Gimelshein, arXiv:1805.02867) over chunks of 64 keys, as FlashAttention does (arXiv:2205.14135),
//! so that a chunk's keys, scores and values stay in the first-level caches.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

use crate::cpu::cache::KEY_TILE;
use crate::cpu::ops::cap_16_of;
use crate::cpu::simd::{Lanes, dispatch};

/// Keys per chunk.
pub const CHUNK: usize = 64;
const TILES: usize = CHUNK / KEY_TILE;

/// A block of queries with its running softmax. All slices of one task; `m` counts queries.
pub struct Queries<'a> {
    /// `[m][dim]`, scaled.
    pub q: &'a [f32],
    /// Position in the sequence, `[m]`.
    pub positions: &'a [usize],
    /// `[m][padded]`: the sum of weighted values so far.
    pub sums: &'a mut [f32],
    /// `[m]`: the largest score so far.
    pub largest: &'a mut [f32],
    /// `[m]`: the sum of weights so far.
    pub totals: &'a mut [f32],
    /// `[m][CHUNK]`.
    pub scores: &'a mut [f32],
    pub dim: usize,
    /// `dim` up to a multiple of 16.
    pub padded: usize,
}

/// Which keys a query sees besides its own and earlier ones, and what is done to scores.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Keys seen at most, the query's own included; `usize::MAX` for all.
    pub window: usize,
    /// Scores become `cap * tanh(score / cap)`; 0 for none.
    pub soft_cap: f32,
}

/// Up to 64 keys and their values: tiles of 16, in f16 or f32.
pub struct Chunk {
    /// Position of the first key.
    pub start: usize,
    /// Keys that any of the queries may see: `from..to`, relative to `start`; no other value is read.
    pub from: usize,
    pub to: usize,
    /// `[dim][16]` each.
    pub keys: [*const u8; TILES],
    /// `[16][stride]` each.
    pub values: [*const u8; TILES],
    /// Values between one token's and the next.
    pub stride: usize,
    pub half: bool,
}

dispatch!(
    /// Adds a chunk's keys to the queries' running softmax.
    ///
    /// # Safety
    /// The chunk's tiles up to `to` are readable with the queries' `dim` and `padded`, and the slices have
    /// the lengths that their docs give.
    add_chunk = add_chunk_of(queries: &mut Queries<'_>, chunk: &Chunk, rules: Rules)
);

#[inline(always)]
unsafe fn add_chunk_of<L: Lanes>(queries: &mut Queries<'_>, chunk: &Chunk, rules: Rules) {
    // SAFETY: the caller's promise.
    unsafe {
        if chunk.half {
            score_all::<L, true>(queries, chunk);
        } else {
            score_all::<L, false>(queries, chunk);
        }
        for m in 0..queries.positions.len() {
            soften::<L>(queries, chunk, rules, m);
        }
        if chunk.half {
            weigh_all::<L, true>(queries, chunk);
        } else {
            weigh_all::<L, false>(queries, chunk);
        }
    }
}

#[inline(always)]
unsafe fn load<L: Lanes, const HALF: bool>(start: *const u8, index: usize) -> L {
    // SAFETY: the caller passes 16 readable values.
    unsafe {
        if HALF {
            L::load_half(start.cast::<u16>().add(index))
        } else {
            L::load(start.cast::<f32>().add(index))
        }
    }
}

/// Scores of all queries against all keys of a chunk.
#[inline(always)]
unsafe fn score_all<L: Lanes, const HALF: bool>(queries: &mut Queries<'_>, chunk: &Chunk) {
    let count = queries.positions.len();
    for tile in chunk.from / KEY_TILE..chunk.to.div_ceil(KEY_TILE) {
        let keys = chunk.keys[tile];
        let mut m = 0;
        // SAFETY: queries `m ..` exist by the loop's bounds.
        unsafe {
            while m + 8 <= count {
                score::<L, HALF, 8>(queries, keys, m, tile);
                m += 8;
            }
            while m + 2 <= count {
                score::<L, HALF, 2>(queries, keys, m, tile);
                m += 2;
            }
            if m < count {
                score::<L, HALF, 1>(queries, keys, m, tile);
            }
        }
    }
}

/// Scores of `N` queries from `m` on against one tile of 16 keys.
#[inline(always)]
unsafe fn score<L: Lanes, const HALF: bool, const N: usize>(
    queries: &mut Queries<'_>,
    keys: *const u8,
    m: usize,
    tile: usize,
) {
    let dim = queries.dim;
    // SAFETY: `q` is `[count][dim]`, `scores` `[count][CHUNK]`, the tile `[dim][16]`.
    unsafe {
        let q = queries.q.as_ptr().add(m * dim);
        // Two chains where there are few queries, so that one's latency hides behind the other.
        let mut sums = [[L::splat(0.0); N]; 2];
        for d in 0..dim / 2 {
            for u in 0..2 {
                let key = load::<L, HALF>(keys, (2 * d + u) * KEY_TILE);
                let chain = if N <= 2 { u } else { 0 };
                for (n, sum) in sums[chain].iter_mut().enumerate() {
                    *sum = L::splat(*q.add(n * dim + 2 * d + u)).mul_add(key, *sum);
                }
            }
        }
        if dim % 2 == 1 {
            let key = load::<L, HALF>(keys, (dim - 1) * KEY_TILE);
            for (n, sum) in sums[0].iter_mut().enumerate() {
                *sum = L::splat(*q.add(n * dim + dim - 1)).mul_add(key, *sum);
            }
        }
        for n in 0..N {
            let out = queries.scores.as_mut_ptr().add((m + n) * CHUNK + tile * KEY_TILE);
            sums[0][n].add(sums[1][n]).store(out);
        }
    }
}

/// Turns query `m`'s scores into weights and brings its running sums to the new largest score.
#[inline(always)]
unsafe fn soften<L: Lanes>(queries: &mut Queries<'_>, chunk: &Chunk, rules: Rules, m: usize) {
    let (first, last) = (chunk.from / KEY_TILE, chunk.to.div_ceil(KEY_TILE));
    let scores = &mut queries.scores[m * CHUNK..(m + 1) * CHUNK];
    // SAFETY: tiles below `last` lie in the chunk's scores, and `sums` is `[count][padded]`.
    unsafe {
        if rules.soft_cap > 0.0 {
            for tile in first..last {
                cap_16_of::<L>(scores.as_mut_ptr().add(tile * KEY_TILE), rules.soft_cap);
            }
        }
        hide(queries.positions[m], chunk, rules.window, scores);
        let mut top = L::splat(f32::NEG_INFINITY);
        for tile in first..last {
            top = L::load(scores.as_ptr().add(tile * KEY_TILE)).max(top);
        }
        let before = queries.largest[m];
        let largest = top.largest().max(before);
        // All keys hidden: weights of zero (a NaN would come from subtracting infinity).
        let level = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        let mut total = L::splat(0.0);
        for tile in first..last {
            let at = scores.as_mut_ptr().add(tile * KEY_TILE);
            let weight = L::load(at).sub(L::splat(level)).exp();
            weight.store(at);
            total = total.add(weight);
        }
        let kept = (before - level).exp();
        queries.totals[m] = queries.totals[m] * kept + total.total();
        queries.largest[m] = largest;
        if kept != 1.0 {
            let sums = queries.sums.as_mut_ptr().add(m * queries.padded);
            for d in 0..queries.padded / KEY_TILE {
                let at = sums.add(d * KEY_TILE);
                L::load(at).mul(L::splat(kept)).store(at);
            }
        }
    }
}

/// Takes the scores of keys that a query at `position` must not see out of the running.
#[inline(always)]
fn hide(position: usize, chunk: &Chunk, window: usize, scores: &mut [f32]) {
    let seen_to = (position + 1).saturating_sub(chunk.start).min(chunk.to);
    let seen_from = (position + 1).saturating_sub(window).saturating_sub(chunk.start);
    let end = chunk.to.next_multiple_of(KEY_TILE);
    let start = chunk.from / KEY_TILE * KEY_TILE;
    let seen_from = seen_from.max(chunk.from).min(end);
    scores[start..seen_from].fill(f32::NEG_INFINITY);
    scores[seen_to.max(start)..end].fill(f32::NEG_INFINITY);
}

/// Adds the chunk's values, weighted, to all queries' sums.
#[inline(always)]
unsafe fn weigh_all<L: Lanes, const HALF: bool>(queries: &mut Queries<'_>, chunk: &Chunk) {
    let count = queries.positions.len();
    let mut m = 0;
    // SAFETY: queries `m ..` exist by the loops' bounds.
    unsafe {
        while m + 4 <= count {
            weigh::<L, HALF, 4>(queries, chunk, m);
            m += 4;
        }
        while m + 2 <= count {
            weigh::<L, HALF, 2>(queries, chunk, m);
            m += 2;
        }
        if m < count {
            weigh::<L, HALF, 1>(queries, chunk, m);
        }
    }
}

#[inline(always)]
unsafe fn weigh<L: Lanes, const HALF: bool, const N: usize>(
    queries: &mut Queries<'_>,
    chunk: &Chunk,
    m: usize,
) {
    let mut d = 0;
    // SAFETY: `d` stays within `padded`, a multiple of 16.
    unsafe {
        while d + 64 <= queries.padded {
            weigh_part::<L, HALF, N, 4>(queries, chunk, m, d);
            d += 64;
        }
        while d < queries.padded {
            weigh_part::<L, HALF, N, 1>(queries, chunk, m, d);
            d += KEY_TILE;
        }
    }
}

/// `P` times 16 dimensions from `d` on, for `N` queries from `m` on.
#[inline(always)]
unsafe fn weigh_part<L: Lanes, const HALF: bool, const N: usize, const P: usize>(
    queries: &mut Queries<'_>,
    chunk: &Chunk,
    m: usize,
    d: usize,
) {
    // SAFETY: `sums` is `[count][padded]`, `scores` `[count][CHUNK]`, values `[16][stride]` per tile.
    unsafe {
        let mut sums = [[L::splat(0.0); P]; N];
        let out = queries.sums.as_mut_ptr().add(m * queries.padded + d);
        for (n, sums) in sums.iter_mut().enumerate() {
            for (p, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(out.add(n * queries.padded + p * KEY_TILE));
            }
        }
        let weights = queries.scores.as_ptr().add(m * CHUNK);
        for k in chunk.from..chunk.to {
            let at = k % KEY_TILE * chunk.stride + d;
            let mut values = [L::splat(0.0); P];
            for (p, value) in values.iter_mut().enumerate() {
                *value = load::<L, HALF>(chunk.values[k / KEY_TILE], at + p * KEY_TILE);
            }
            for (n, sums) in sums.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(n * CHUNK + k));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = weight.mul_add(value, *sum);
                }
            }
        }
        for (n, sums) in sums.iter().enumerate() {
            for (p, sum) in sums.iter().enumerate() {
                sum.store(out.add(n * queries.padded + p * KEY_TILE));
            }
        }
    }
}
