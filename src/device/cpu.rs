//! The CPU's paged KV cache, and attention that reads it through block tables.
//!
//! Works on plain `f32` slices. Knows no model family; the caller passes an [`AttentionSpec`]. Also the
//! reference that kernels for other devices are tested against, so clarity comes before speed here.

use super::attention::{AttentionSpec, HeadNorm};
use super::batch::{Batch, Row};
use super::ops::{dot, rms_norm, soft_cap};
use super::rope::Angles;
use candle_core::{Storage, Tensor};
use rayon::prelude::*;

/// Multiply-adds below which a step's attention runs on the calling thread: waking others costs more.
const PARALLEL_FROM: usize = 1 << 17;

/// Shape of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    pub blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl KvShape {
    /// Values that one token takes in one layer's keys (and as many in its values).
    pub fn row(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes that one block takes over all layers, keys and values, in f32.
    pub fn block_bytes(&self) -> usize {
        self.layers * 2 * self.block_size * self.row() * size_of::<f32>()
    }
}

/// Keys and values of all layers in fixed-size blocks, `[layers][blocks * block_size][kv_heads * head_dim]`.
/// Pages of blocks never used are never touched, so they cost address space only.
pub struct KvCache {
    shape: KvShape,
    layers: Vec<KvLayer>,
}

struct KvLayer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    pub fn new(shape: KvShape) -> KvCache {
        let len = shape.blocks * shape.block_size * shape.row();
        let layer = || KvLayer { keys: vec![0.0; len], values: vec![0.0; len] };
        KvCache { shape, layers: (0..shape.layers).map(|_| layer()).collect() }
    }

    pub fn shape(&self) -> KvShape {
        self.shape
    }
}

/// One layer's attention for a whole step.
///
/// `qkv`: `[tokens][(heads + 2 * kv_heads) * head_dim]`, the fused projections; queries and keys are
/// normed (if the spec says so) and rotated in it, keys and values are written to the cache at the batch's
/// slots. `angles`: of this step's tokens. Returns `[tokens][heads * head_dim]`. Causal: a token sees its
/// own position and those before it, as far back as the window reaches.
pub fn attend(
    qkv: &mut [f32],
    spec: &AttentionSpec,
    angles: &Angles,
    cache: &mut KvCache,
    layer: usize,
    batch: &Batch,
) -> Vec<f32> {
    let shape = cache.shape;
    let (q_len, row) = (spec.heads * shape.head_dim, shape.row());
    let stride = q_len + 2 * row;
    let layer = &mut cache.layers[layer];
    for (i, token) in qkv.chunks_exact_mut(stride).enumerate() {
        let (queries_keys, values) = token.split_at_mut(q_len + row);
        if let Some(norm) = &spec.head_norm {
            norm_heads(queries_keys, q_len, norm);
        }
        for head in queries_keys.chunks_exact_mut(shape.head_dim) {
            angles.rotate(head, i);
        }
        let at = batch.slots[i] as usize * row;
        layer.keys[at..at + row].copy_from_slice(&queries_keys[q_len..]);
        layer.values[at..at + row].copy_from_slice(values);
    }
    let layer = &*layer;
    let mut out = vec![0.0; batch.tokens.len() * q_len];
    let seen = |r: &Row| r.context.min(spec.window.map_or(usize::MAX, |w| w.saturating_add(r.len)));
    let work: usize = batch.rows.iter().map(|r| r.len * seen(r) * q_len * 2).sum();
    let owners = token_rows(batch);
    let one = |(i, out): (usize, &mut [f32])| {
        let query = &qkv[i * stride..i * stride + q_len];
        let position = batch.positions[i] as usize;
        attend_token(query, out, spec, shape, layer, batch.table(owners[i]), position);
    };
    if work >= PARALLEL_FROM {
        out.par_chunks_exact_mut(q_len).enumerate().for_each(one);
    } else {
        out.chunks_exact_mut(q_len).enumerate().for_each(one);
    }
    out
}

fn norm_heads(queries_keys: &mut [f32], q_len: usize, norm: &HeadNorm) {
    let (queries, keys) = queries_keys.split_at_mut(q_len);
    rms_norm(queries, &norm.query, norm.eps);
    rms_norm(keys, &norm.key, norm.eps);
}

/// The row that each token belongs to.
fn token_rows(batch: &Batch) -> Vec<&Row> {
    batch.rows.iter().flat_map(|row| std::iter::repeat_n(row, row.len)).collect()
}

/// All heads of one query token over the cached positions that it sees.
fn attend_token(
    query: &[f32],
    out: &mut [f32],
    spec: &AttentionSpec,
    shape: KvShape,
    layer: &KvLayer,
    table: &[u32],
    position: usize,
) {
    let dim = shape.head_dim;
    let group = query.len() / shape.row();
    let first = spec.first_seen(position);
    let slot =
        |p: usize| table[p / shape.block_size] as usize * shape.block_size + p % shape.block_size;
    let mut weights = vec![0.0f32; position + 1 - first];
    for (head, (q, out)) in query.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let offset = head / group * dim;
        for (p, weight) in (first..).zip(weights.iter_mut()) {
            let at = slot(p) * shape.row() + offset;
            *weight = dot(q, &layer.keys[at..at + dim]) * spec.scale;
        }
        if let Some(cap) = spec.soft_cap {
            soft_cap(&mut weights, cap);
        }
        softmax(&mut weights);
        for (p, &weight) in (first..).zip(&weights) {
            let at = slot(p) * shape.row() + offset;
            for (o, v) in out.iter_mut().zip(&layer.values[at..at + dim]) {
                *o += weight * v;
            }
        }
    }
}

/// Whether a contiguous f32 tensor holds neither NaN nor infinity.
pub fn all_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(cpu.as_slice::<f32>()?.iter().all(|v| v.is_finite())),
        _ => candle_core::bail!("a CPU tensor was expected"),
    }
}

/// Softmax in place; a NaN anywhere stays a NaN everywhere, so that it reaches the logits and is seen.
fn softmax(weights: &mut [f32]) {
    let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for weight in weights.iter_mut() {
        *weight = (*weight - max).exp();
        sum += *weight;
    }
    for weight in weights.iter_mut() {
        *weight /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::rope::Rope;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..len).map(|_| next()).collect()
    }

    const SHAPE: KvShape =
        KvShape { layers: 1, blocks: 12, block_size: 4, kv_heads: 2, head_dim: 16 };
    const HEADS: usize = 4;

    const TABLE: [u32; 6] = [9, 2, 11, 0, 5, 7];
    const STRIDE: usize = (HEADS + 2 * SHAPE.kv_heads) * SHAPE.head_dim;

    /// A step over one sequence whose blocks lie scattered.
    fn step(start: usize, len: usize, table: &[u32]) -> Batch {
        let positions: Vec<u32> = (start..start + len).map(|p| p as u32).collect();
        let slots = positions.iter().map(|p| table[*p as usize / 4] * 4 + p % 4).collect();
        let row = Row {
            start: 0,
            len,
            context: start + len,
            total: start + len,
            table: 0,
            table_len: table.len(),
            scored: 0,
            sample: true,
        };
        Batch { tokens: vec![0; len], positions, slots, rows: vec![row], tables: table.to_vec() }
    }

    fn plain() -> AttentionSpec {
        AttentionSpec { heads: HEADS, scale: 0.25, window: None, soft_cap: None, head_norm: None }
    }

    fn rope(pairs: usize) -> Rope {
        let inv_freq = (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect();
        Rope { inv_freq, factor: 1.0, long: None }
    }

    /// Attention by the book in f64: no cache, no blocks.
    fn by_the_book(qkv: &[f32], spec: &AttentionSpec, rope: &Rope, n: usize) -> Vec<f64> {
        let (q_len, row, dim) = (HEADS * 16, SHAPE.row(), 16);
        let mut rotated = qkv.to_vec();
        let mut angles = Angles::default();
        rope.fill(&step(0, n, &TABLE), &mut angles);
        for (p, token) in rotated.chunks_exact_mut(STRIDE).enumerate() {
            for (h, head) in token[..q_len + row].chunks_exact_mut(dim).enumerate() {
                if let Some(norm) = &spec.head_norm {
                    let square: f32 = head.iter().map(|v| v * v).sum::<f32>() / 16.0;
                    let weight = if h < HEADS { &norm.query } else { &norm.key };
                    head.iter_mut().zip(weight).for_each(|(v, w)| *v *= w / square.sqrt());
                }
                angles.rotate(head, p);
            }
        }
        let at = |t: usize, from: usize| &rotated[t * STRIDE + from..t * STRIDE + from + dim];
        let mut out = Vec::new();
        for t in 0..n {
            let seen: Vec<usize> =
                (0..=t).filter(|p| spec.window.is_none_or(|w| t - p < w)).collect();
            for h in 0..HEADS {
                let (k, v) = (q_len + h / 2 * dim, q_len + row + h / 2 * dim);
                let score = |p: &usize| -> f64 {
                    let pairs = at(t, h * dim).iter().zip(at(*p, k));
                    let score =
                        pairs.map(|(a, b)| f64::from(a * b)).sum::<f64>() * f64::from(spec.scale);
                    spec.soft_cap
                        .map_or(score, |cap| (score / f64::from(cap)).tanh() * f64::from(cap))
                };
                let weights: Vec<f64> = seen.iter().map(|p| score(p).exp()).collect();
                let total: f64 = weights.iter().sum();
                let value = |d: usize| -> f64 {
                    let terms = seen.iter().zip(&weights);
                    terms.map(|(p, w)| w / total * f64::from(at(*p, v)[d])).sum()
                };
                out.extend((0..dim).map(value));
            }
        }
        out
    }

    fn check(spec: &AttentionSpec, rope: &Rope) {
        let n = 23;
        let qkv = noise(n * STRIDE, 7);
        let expected = by_the_book(&qkv, spec, rope, n);
        for chunk in [1, 3, 5, 23] {
            let (mut cache, mut angles) = (KvCache::new(SHAPE), Angles::default());
            let mut got = Vec::new();
            for start in (0..n).step_by(chunk) {
                let len = chunk.min(n - start);
                let mut part = qkv[start * STRIDE..(start + len) * STRIDE].to_vec();
                let batch = step(start, len, &TABLE);
                rope.fill(&batch, &mut angles);
                got.extend(attend(&mut part, spec, &angles, &mut cache, 0, &batch));
            }
            for (a, b) in got.iter().zip(&expected) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "{spec:?}, chunk {chunk}: {a} {b}");
            }
        }
    }

    #[test]
    fn paged_attention_equals_the_book_whole_and_in_chunks() {
        check(&plain(), &rope(8));
    }

    #[test]
    fn windows_caps_norms_and_partial_rotation_equal_the_book() {
        check(&AttentionSpec { window: Some(5), ..plain() }, &rope(8));
        check(&AttentionSpec { window: Some(1), ..plain() }, &rope(8));
        check(&AttentionSpec { scale: 4.0, soft_cap: Some(0.5), ..plain() }, &rope(8));
        let (query, key) = (noise(16, 1), noise(16, 2));
        let head_norm = Some(HeadNorm { query, key, eps: 0.0 });
        check(&AttentionSpec { head_norm, window: Some(30), ..plain() }, &rope(6));
    }

    #[test]
    fn a_nan_in_the_cache_reaches_the_output() {
        let (mut cache, mut angles) = (KvCache::new(SHAPE), Angles::default());
        let batch = step(0, 1, &[0]);
        rope(8).fill(&batch, &mut angles);
        let mut qkv = noise(STRIDE, 3);
        qkv[HEADS * 16 + 1] = f32::NAN;
        let out = attend(&mut qkv, &plain(), &angles, &mut cache, 0, &batch);
        assert!(out[0].is_nan());
    }
}
