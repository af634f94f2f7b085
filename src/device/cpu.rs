//! The CPU's part of a decoder step that candle has no operation for: rotary embedding, the paged KV
//! cache, and attention that reads it through block tables.
//!
//! Works on plain `f32` slices. Knows no model family; the caller passes shapes. Also the reference that
//! kernels for other devices are tested against, so clarity comes before speed here.

use super::batch::{Batch, Row};
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

/// Cosines and sines of the rotary embedding, `[max_len][head_dim / 2]` each, in the half-split layout of
/// the Hugging Face checkpoints (RoFormer, arXiv:2104.09864).
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// `inv_freq`: `[head_dim / 2]` inverse frequencies, radians per position.
    pub fn new(inv_freq: &[f32], max_len: usize) -> RopeTable {
        let angles = (0..max_len).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
        let (sin, cos) = angles.map(f32::sin_cos).unzip();
        RopeTable { half: inv_freq.len(), cos, sin }
    }

    /// Positions the table covers.
    pub fn max_len(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Rotates one head's vector, `[head_dim]`, in place.
    fn rotate(&self, head: &mut [f32], position: usize) {
        let at = position * self.half;
        let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
        let (low, high) = head.split_at_mut(self.half);
        for i in 0..self.half {
            let (a, b) = (low[i], high[i]);
            low[i] = a * cos[i] - b * sin[i];
            high[i] = b * cos[i] + a * sin[i];
        }
    }
}

/// One layer's attention for a whole step.
///
/// `qkv`: `[tokens][(heads + 2 * kv_heads) * head_dim]`, the fused projections; queries and keys are
/// rotated in it, keys and values are written to the cache at the batch's slots. Returns
/// `[tokens][heads * head_dim]`. Causal: a token sees its own position and those before it.
pub fn attend(
    qkv: &mut [f32],
    heads: usize,
    rope: &RopeTable,
    cache: &mut KvCache,
    layer: usize,
    batch: &Batch,
) -> Vec<f32> {
    let shape = cache.shape;
    let (q_len, row) = (heads * shape.head_dim, shape.row());
    let stride = q_len + 2 * row;
    let layer = &mut cache.layers[layer];
    for (i, token) in qkv.chunks_exact_mut(stride).enumerate() {
        let (queries_keys, values) = token.split_at_mut(q_len + row);
        for head in queries_keys.chunks_exact_mut(shape.head_dim) {
            rope.rotate(head, batch.positions[i] as usize);
        }
        let at = batch.slots[i] as usize * row;
        layer.keys[at..at + row].copy_from_slice(&queries_keys[q_len..]);
        layer.values[at..at + row].copy_from_slice(values);
    }
    let layer = &*layer;
    let mut out = vec![0.0; batch.tokens.len() * q_len];
    let work: usize = batch.rows.iter().map(|r| r.len * r.context * q_len * 2).sum();
    let owners = token_rows(batch);
    let one = |(i, out): (usize, &mut [f32])| {
        let row = owners[i];
        let query = &qkv[i * stride..i * stride + q_len];
        attend_token(query, out, shape, layer, batch.table(row), batch.positions[i] as usize + 1);
    };
    if work >= PARALLEL_FROM {
        out.par_chunks_exact_mut(q_len).enumerate().for_each(one);
    } else {
        out.chunks_exact_mut(q_len).enumerate().for_each(one);
    }
    out
}

/// The row that each token belongs to.
fn token_rows(batch: &Batch) -> Vec<&Row> {
    batch.rows.iter().flat_map(|row| std::iter::repeat_n(row, row.len)).collect()
}

/// All heads of one query token over `context` cached positions.
fn attend_token(
    query: &[f32],
    out: &mut [f32],
    shape: KvShape,
    layer: &KvLayer,
    table: &[u32],
    context: usize,
) {
    let dim = shape.head_dim;
    let group = query.len() / shape.row();
    let scale = 1.0 / (dim as f32).sqrt();
    let slot =
        |p: usize| table[p / shape.block_size] as usize * shape.block_size + p % shape.block_size;
    let mut weights = vec![0.0f32; context];
    for (head, (q, out)) in query.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let offset = head / group * dim;
        for (p, weight) in weights.iter_mut().enumerate() {
            let at = slot(p) * shape.row() + offset;
            *weight = dot(q, &layer.keys[at..at + dim]) * scale;
        }
        softmax(&mut weights);
        for (p, &weight) in weights.iter().enumerate() {
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

/// Dot product in eight running sums, so that the compiler can keep them in one vector register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + tail
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

    /// A step over one sequence whose blocks lie scattered.
    fn step(start: usize, len: usize, table: &[u32]) -> Batch {
        let positions: Vec<u32> = (start..start + len).map(|p| p as u32).collect();
        let slots = positions.iter().map(|p| table[*p as usize / 4] * 4 + p % 4).collect();
        let row = Row {
            start: 0,
            len,
            context: start + len,
            table: 0,
            table_len: table.len(),
            sample: true,
        };
        Batch { tokens: vec![0; len], positions, slots, rows: vec![row], tables: table.to_vec() }
    }

    /// Attention by the book in f64: no cache, no blocks.
    fn by_the_book(qkv: &[f32], rope: &RopeTable, n: usize) -> Vec<f64> {
        let (q_len, row, dim) = (HEADS * 16, SHAPE.row(), 16);
        let stride = q_len + 2 * row;
        let mut rotated = qkv.to_vec();
        for (p, token) in rotated.chunks_exact_mut(stride).enumerate() {
            for head in token[..q_len + row].chunks_exact_mut(dim) {
                rope.rotate(head, p);
            }
        }
        let at = |t: usize, from: usize| &rotated[t * stride + from..t * stride + from + dim];
        let mut out = Vec::new();
        for t in 0..n {
            for h in 0..HEADS {
                let (k, v) = (q_len + h / 2 * dim, q_len + row + h / 2 * dim);
                let score = |p: usize| -> f64 {
                    at(t, h * dim).iter().zip(at(p, k)).map(|(a, b)| f64::from(a * b)).sum::<f64>()
                        / 4.0
                };
                let weights: Vec<f64> = (0..=t).map(|p| score(p).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..dim).map(|d| {
                    (0..=t).map(|p| weights[p] / total * f64::from(at(p, v)[d])).sum::<f64>()
                }));
            }
        }
        out
    }

    #[test]
    fn paged_attention_equals_the_book_whole_and_in_chunks() {
        let inv_freq: Vec<f32> = (0..8).map(|i| 10_000f32.powf(-(i as f32) / 8.0)).collect();
        let rope = RopeTable::new(&inv_freq, 64);
        let (n, stride) = (23, HEADS * 16 + 2 * SHAPE.row());
        let qkv = noise(n * stride, 7);
        let expected = by_the_book(&qkv, &rope, n);
        let table = [9, 2, 11, 0, 5, 7];
        for chunk in [1, 3, 5, 23] {
            let mut cache = KvCache::new(SHAPE);
            let mut got = Vec::new();
            for start in (0..n).step_by(chunk) {
                let len = chunk.min(n - start);
                let mut part = qkv[start * stride..(start + len) * stride].to_vec();
                let batch = step(start, len, &table);
                got.extend(attend(&mut part, HEADS, &rope, &mut cache, 0, &batch));
            }
            for (a, b) in got.iter().zip(&expected) {
                assert!((f64::from(*a) - b).abs() < 1e-5, "chunk {chunk}: {a} against {b}");
            }
        }
    }

    #[test]
    fn a_nan_in_the_cache_reaches_the_output() {
        let rope = RopeTable::new(&[1.0; 8], 8);
        let mut cache = KvCache::new(SHAPE);
        let mut qkv = noise(HEADS * 16 + 2 * SHAPE.row(), 3);
        qkv[HEADS * 16 + 1] = f32::NAN;
        let out = attend(&mut qkv, HEADS, &rope, &mut cache, 0, &step(0, 1, &[0]));
        assert!(out[0].is_nan());
    }
}
