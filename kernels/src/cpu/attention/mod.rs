//! Paged attention of one layer for a whole step: norms and rotation of queries and keys, the cache's new
//! rows, and softmax attention through block tables.
//!
//! The work is cut into items, which the threads take in turn. An item is a KV head, a block of queries of one row, and
//! a run of the row's keys. All query heads that share a KV head are computed together, so that its keys and values are
//! read once. If there would be too few items, a decoding row with a long context is also cut along its keys, and the
//! parts are merged by their softmax sums. It does not know about models: the caller describes the model family's
//! attention (`AttentionSpec`). Rows of a batch may differ in length and context.

pub(crate) mod kernel;
#[cfg(test)]
mod tests;

use super::cache::{KEY_TILE, KvCache, Values};
use super::isa::Isa;
use super::ops::rms_norm_row;
use super::pool::{Disjoint, Pool};
use crate::attention::AttentionSpec;
use crate::batch::{Batch, Row};
use crate::rope::Angles;
use kernel::{CHUNK, Chunk, Queries, Rules};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Queries (tokens times heads of a group) in one item, about.
const QUERIES: usize = 32;
/// Keys in one part of a row that is cut along them, at least.
const PART: usize = 128;
/// Values of a step's queries and keys below which they are made ready on the calling thread.
const PARALLEL_FROM: usize = 1 << 15;
/// Multiply-adds of scores below which a step's attention stays on the calling thread.
const PARALLEL_PRODUCTS: usize = 1 << 16;

/// Buffers that grow to the largest step seen and are then reused; grown by the calling thread only, so
/// that they come from where its memory comes from.
#[derive(Default)]
pub struct AttendScratch {
    items: Vec<Item>,
    parts: Vec<f32>,
    /// One for each thread. Not thread-local: they are the model's memory and go when it goes.
    works: Vec<Mutex<Work>>,
}

/// One task: queries of `tokens` tokens of a row, all heads of group `head`, over keys `from..to`.
#[derive(Debug, Clone, Copy)]
struct Item {
    row: Row,
    head: usize,
    /// First token, index into the batch.
    first: usize,
    tokens: usize,
    from: usize,
    to: usize,
    /// Which part of how many along the keys.
    part: usize,
    parts: usize,
}

/// One layer's attention for a whole step.
///
/// `qkv`: `[tokens][(heads + 2 * kv_heads) * head_dim]`, the fused projections; queries and keys are
/// normed and rotated in it by the `angles` of this step's tokens, keys and values written to the cache at
/// the batch's slots. `out`: `[tokens][heads * head_dim]`. Causal: a token sees its own position and those before it. Panics on
/// other lengths, and on slots or blocks that the cache does not have.
#[allow(clippy::too_many_arguments, reason = "a step's parts belong to different owners")]
pub fn attend(
    spec: &AttentionSpec,
    qkv: &mut [f32],
    angles: &Angles,
    cache: &mut KvCache,
    layer: usize,
    batch: &Batch,
    out: &mut [f32],
    scratch: &mut AttendScratch,
    (pool, isa): (&Pool, Isa),
) {
    let shape = cache.shape();
    let (q_len, stride) = lengths(spec, cache);
    assert!(spec.heads.is_multiple_of(shape.kv_heads), "heads do not group");
    assert!(qkv.len() == batch.tokens.len() * stride, "qkv does not fit the batch");
    assert!(out.len() == batch.tokens.len() * q_len, "out does not fit the batch");
    turn(spec, qkv, angles, batch, (shape.head_dim, stride), (pool, isa));
    let writer = cache.writer(layer);
    pool.run_if(qkv.len() >= PARALLEL_FROM, shape.kv_heads, &|head| {
        for (token, slot) in qkv.chunks_exact(stride).zip(&batch.slots) {
            let key = &token[q_len + head * shape.head_dim..][..shape.head_dim];
            let value = &token[q_len + shape.row() + head * shape.head_dim..][..shape.head_dim];
            // SAFETY: each task writes to one head.
            unsafe { writer.write(isa, head, *slot as usize, key, value) };
        }
    });
    scratch.items.clear();
    plan(spec, cache, batch, pool.threads(), &mut scratch.items);
    let group = spec.heads / shape.kv_heads;
    let padded = shape.head_dim.next_multiple_of(KEY_TILE);
    let part_len = QUERIES.max(group) * (padded + 2);
    let split = scratch.items.iter().any(|item| item.parts > 1);
    if split && scratch.parts.len() < scratch.items.len() * part_len {
        scratch.parts.resize(scratch.items.len() * part_len, 0.0);
    }
    let parts = Disjoint::new(&mut scratch.parts);
    let job = Job { spec, qkv, cache, layer, batch, isa, group, padded, out: Disjoint::new(out) };
    let works = &mut scratch.works;
    works.resize_with(works.len().max(pool.threads()), Mutex::default);
    for work in works.iter_mut() {
        let work = work.get_mut().unwrap_or_else(PoisonError::into_inner);
        work.reserve(QUERIES.max(group), shape.head_dim, padded, !job.reads_in_place());
    }
    let (items, works) = (&scratch.items, &scratch.works);
    let pairs: usize = items.iter().map(|item| item.tokens * (item.to - item.from)).sum();
    let worth = pairs * group * shape.head_dim >= PARALLEL_PRODUCTS;
    pool.run_if(worth, items.len(), &|i| {
        let work = &mut *free_work(works);
        job.compute(&items[i], work);
        if items[i].parts == 1 {
            job.finish(&items[i], work);
        } else {
            // SAFETY: each item has a part of its own.
            job.keep(work, unsafe { parts.part(i * part_len, part_len) });
        }
    });
    for (i, item) in items.iter().enumerate().filter(|(_, item)| item.parts > 1 && item.part == 0) {
        // SAFETY: the job is done; nobody else reads or writes parts.
        let parts = unsafe { parts.part(i * part_len, item.parts * part_len) };
        job.join(item, parts, part_len);
    }
}

/// Values of one token's queries, and of its queries, keys and values.
fn lengths(spec: &AttentionSpec, cache: &KvCache) -> (usize, usize) {
    let q_len = spec.heads * cache.shape().head_dim;
    (q_len, q_len + 2 * cache.shape().row())
}

/// Norms and rotates queries and keys in place.
fn turn(
    spec: &AttentionSpec,
    qkv: &mut [f32],
    angles: &Angles,
    batch: &Batch,
    (dim, stride): (usize, usize),
    (pool, isa): (&Pool, Isa),
) {
    let kv_heads = (stride / dim - spec.heads) / 2;
    let worth = qkv.len() >= PARALLEL_FROM;
    let tokens = Disjoint::new(qkv);
    pool.run_if(worth, batch.positions.len(), &|t| {
        // SAFETY: each task has a token of its own.
        let token = unsafe { tokens.part(t * stride, stride) };
        let (queries, rest) = token.split_at_mut(spec.heads * dim);
        let keys = &mut rest[..kv_heads * dim];
        if let Some(norm) = &spec.head_norm {
            for (row, weight) in [(&mut *queries, &norm.query), (&mut *keys, &norm.key)] {
                row.chunks_exact_mut(weight.len())
                    .for_each(|part| rms_norm_row(isa, part, weight, norm.eps));
            }
        }
        for head in queries.chunks_exact_mut(dim).chain(keys.chunks_exact_mut(dim)) {
            angles.rotate(head, t);
        }
        if let Some(scale) = spec.query_scale {
            let factor = scale.at(batch.positions[t]);
            queries.iter_mut().for_each(|value| *value *= factor);
        }
    });
}

/// Cuts a step into items.
fn plan(
    spec: &AttentionSpec,
    cache: &KvCache,
    batch: &Batch,
    threads: usize,
    items: &mut Vec<Item>,
) {
    let kv_heads = cache.shape().kv_heads;
    let block = (QUERIES / (spec.heads / kv_heads)).max(1);
    let whole: usize = batch.rows.iter().map(|r| kv_heads * r.len.div_ceil(block)).sum();
    let enough = if threads > 1 { 2 * threads } else { 1 };
    let window = spec.window.unwrap_or(usize::MAX);
    for row in &batch.rows {
        for (block_from, head) in
            (0..row.len).step_by(block).flat_map(|t| (0..kv_heads).map(move |h| (t, h)))
        {
            let tokens = block.min(row.len - block_from);
            let first_position = row.context - row.len + block_from;
            let to = first_position + tokens;
            let seen_from = (first_position + 1).saturating_sub(window);
            // Chunks begin at whole tiles of keys.
            let from = seen_from / KEY_TILE * KEY_TILE;
            let wanted = enough.div_ceil(whole.max(1));
            let parts = wanted.min((to - from) / PART).max(1);
            let len = (to - from).div_ceil(parts).next_multiple_of(CHUNK);
            let parts = (to - from).div_ceil(len);
            for part in 0..parts {
                let from = from + part * len;
                let first = row.start + block_from;
                let to = to.min(from + len);
                items.push(Item { row: *row, head, first, tokens, from, to, part, parts });
            }
        }
    }
}

/// One thread's buffers for an item.
#[derive(Default)]
struct Work {
    q: Vec<f32>,
    positions: Vec<usize>,
    sums: Vec<f32>,
    largest: Vec<f32>,
    totals: Vec<f32>,
    scores: Vec<f32>,
    /// Copies of keys and values that cannot be read in place.
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Work {
    /// Makes room for items of `count` queries, and for copied keys where they cannot be read in place.
    fn reserve(&mut self, count: usize, dim: usize, padded: usize, copied: bool) {
        fn room<T>(buffer: &mut Vec<T>, len: usize) {
            buffer.reserve(len.saturating_sub(buffer.len()));
        }
        room(&mut self.q, count * dim);
        room(&mut self.positions, count);
        room(&mut self.sums, count * padded);
        room(&mut self.largest, count);
        room(&mut self.totals, count);
        room(&mut self.scores, count * CHUNK);
        let copies = usize::from(copied) * CHUNK;
        room(&mut self.keys, copies * dim);
        room(&mut self.values, copies * padded);
    }
}

/// A free one of the threads' buffers: there are as many as threads.
fn free_work(works: &[Mutex<Work>]) -> MutexGuard<'_, Work> {
    loop {
        for work in works {
            match work.try_lock() {
                Ok(work) => return work,
                Err(TryLockError::Poisoned(work)) => return work.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        std::hint::spin_loop();
    }
}

struct Job<'a> {
    spec: &'a AttentionSpec,
    qkv: &'a [f32],
    cache: &'a KvCache,
    layer: usize,
    batch: &'a Batch,
    isa: Isa,
    group: usize,
    padded: usize,
    out: Disjoint<'a, f32>,
}

impl Job<'_> {
    /// Runs an item's queries over its keys; the result stays in `work`.
    fn compute(&self, item: &Item, work: &mut Work) {
        self.gather_queries(item, work);
        let rules = Rules {
            window: self.spec.window.unwrap_or(usize::MAX),
            soft_cap: self.spec.soft_cap.unwrap_or(0.0),
        };
        let direct = self.reads_in_place();
        for start in (item.from..item.to).step_by(CHUNK) {
            let first = work.positions.first().copied().unwrap_or(0);
            let seen_from = (first + 1).saturating_sub(rules.window);
            let to = CHUNK.min(item.to - start);
            let from = seen_from.saturating_sub(start).min(to);
            let chunk = match direct {
                true => self.chunk_in_place(item, start, from, to),
                false => self.chunk_copied(item, start, from, to, work),
            };
            let mut queries = Queries {
                q: &work.q,
                positions: &work.positions,
                sums: &mut work.sums,
                largest: &mut work.largest,
                totals: &mut work.totals,
                scores: &mut work.scores,
                dim: self.cache.shape().head_dim,
                padded: self.padded,
            };
            // SAFETY: the chunk's tiles up to `to` lie in the cache's blocks (checked) or in `work`;
            // `gather_queries` made the slices of these lengths; this machine has `isa`.
            unsafe { kernel::add_chunk(self.isa, &mut queries, &chunk, rules) };
        }
    }

    fn gather_queries(&self, item: &Item, work: &mut Work) {
        let dim = self.cache.shape().head_dim;
        let (_, stride) = lengths(self.spec, self.cache);
        let count = item.tokens * self.group;
        work.q.clear();
        work.positions.clear();
        for t in item.first..item.first + item.tokens {
            let at = t * stride + item.head * self.group * dim;
            let heads = &self.qkv[at..at + self.group * dim];
            work.q.extend(heads.iter().map(|v| v * self.spec.scale));
            let position = self.batch.positions[t] as usize;
            work.positions.extend(std::iter::repeat_n(position, self.group));
        }
        let reset = |buffer: &mut Vec<f32>, len: usize, value: f32| {
            buffer.clear();
            buffer.resize(len, value);
        };
        reset(&mut work.sums, count * self.padded, 0.0);
        reset(&mut work.largest, count, f32::NEG_INFINITY);
        reset(&mut work.totals, count, 0.0);
        work.scores.resize(work.scores.len().max(count * CHUNK), 0.0);
    }

    /// Whether tiles of the cache are what the kernel reads.
    fn reads_in_place(&self) -> bool {
        let shape = self.cache.shape();
        shape.block_size.is_multiple_of(KEY_TILE) && shape.head_dim.is_multiple_of(KEY_TILE)
    }

    fn chunk_in_place(&self, item: &Item, start: usize, from: usize, to: usize) -> Chunk {
        let shape = self.cache.shape();
        let layer = self.cache.layer(self.layer);
        let bytes = self.cache.kind().bytes();
        let table = self.batch.table(&item.row);
        let mut chunk = Chunk {
            start,
            from,
            to,
            keys: [std::ptr::null(); CHUNK / KEY_TILE],
            values: [std::ptr::null(); CHUNK / KEY_TILE],
            stride: shape.head_dim,
            half: matches!(layer.keys, Values::F16(_)),
        };
        for tile in 0..to.div_ceil(KEY_TILE) {
            let position = start + tile * KEY_TILE;
            let block = table[position / shape.block_size] as usize;
            assert!(block < shape.blocks, "a block table names a block that is not there");
            let at = shape.head_at(block, item.head) + position % shape.block_size * shape.head_dim;
            chunk.keys[tile] = layer.keys.start().wrapping_add(at * bytes);
            chunk.values[tile] = layer.values.start().wrapping_add(at * bytes);
        }
        chunk
    }

    /// As `chunk_in_place`, for shapes whose blocks do not hold whole tiles: through a copy in f32.
    fn chunk_copied(
        &self,
        item: &Item,
        start: usize,
        from: usize,
        to: usize,
        work: &mut Work,
    ) -> Chunk {
        let shape = self.cache.shape();
        let (tile_keys, tile_values) = (shape.head_dim * KEY_TILE, KEY_TILE * self.padded);
        work.keys.clear();
        work.keys.resize(CHUNK / KEY_TILE * tile_keys, 0.0);
        work.values.clear();
        work.values.resize(CHUNK / KEY_TILE * tile_values, 0.0);
        let table = self.batch.table(&item.row);
        for k in from..to {
            let position = start + k;
            let block = table[position / shape.block_size] as usize;
            let slot = block * shape.block_size + position % shape.block_size;
            let (tile, lane) = (k / KEY_TILE, k % KEY_TILE);
            let key = &mut work.keys[tile * tile_keys + lane..];
            self.cache.read_key(self.layer, item.head, slot, KEY_TILE, key);
            let value = &mut work.values[k * self.padded..][..shape.head_dim];
            self.cache.read_value(self.layer, item.head, slot, value);
        }
        let tile = |buffer: &[f32], at: usize| buffer[at..].as_ptr().cast::<u8>();
        Chunk {
            start,
            from,
            to,
            keys: std::array::from_fn(|i| tile(&work.keys, i * tile_keys)),
            values: std::array::from_fn(|i| tile(&work.values, i * tile_values)),
            stride: self.padded,
            half: false,
        }
    }

    /// The part of `out` that query `m` of an item writes to.
    #[allow(clippy::mut_from_ref, reason = "items have queries of their own")]
    fn out_of(&self, item: &Item, m: usize) -> &mut [f32] {
        let dim = self.cache.shape().head_dim;
        let (token, head) = (item.first + m / self.group, item.head * self.group + m % self.group);
        let at = (token * self.spec.heads + head) * dim;
        // SAFETY: a query belongs to one item, and of its parts only one writes.
        unsafe { self.out.part(at, dim) }
    }

    /// Writes a whole item's result.
    fn finish(&self, item: &Item, work: &Work) {
        for (m, total) in work.totals.iter().enumerate() {
            let sums = &work.sums[m * self.padded..];
            let inverse = 1.0 / total;
            for (out, sum) in self.out_of(item, m).iter_mut().zip(sums) {
                *out = sum * inverse;
            }
        }
    }

    /// Keeps a part's softmax: per query its largest score, total and sums.
    fn keep(&self, work: &Work, part: &mut [f32]) {
        for (m, part) in part.chunks_exact_mut(self.padded + 2).enumerate().take(work.totals.len())
        {
            (part[0], part[1]) = (work.largest[m], work.totals[m]);
            part[2..].copy_from_slice(&work.sums[m * self.padded..(m + 1) * self.padded]);
        }
    }

    /// Puts the parts of an item together, `part_len` values each.
    fn join(&self, item: &Item, parts: &[f32], part_len: usize) {
        let size = self.padded + 2;
        for m in 0..item.tokens * self.group {
            let of = |i: usize| &parts[i * part_len + m * size..][..size];
            let all = 0..item.parts;
            let largest = all.clone().map(|i| of(i)[0]).fold(f32::NEG_INFINITY, f32::max);
            let weight = |i: usize| if of(i)[1] == 0.0 { 0.0 } else { (of(i)[0] - largest).exp() };
            let total: f32 = all.clone().map(|i| weight(i) * of(i)[1]).sum();
            let out = self.out_of(item, m);
            out.fill(0.0);
            for i in all {
                let weight = weight(i) / total;
                for (out, sum) in out.iter_mut().zip(&of(i)[2..]) {
                    *out += weight * sum;
                }
            }
        }
    }
}
