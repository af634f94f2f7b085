//! Fast CPU kernels: what a decoder step is made of, on plain slices.
//!
//! The decoder does not use them yet: it multiplies and attends through `dense`, `cpu` and `ops`, whose place
//! they are to take. Their speed against llama.cpp is in `benches/runs/cpu-kernels.md`.
//!
//! Products of weights as stored (`quant`), paged attention (`attention`, `cache`, `rope`), the small
//! operations between them (`ops`), the threads they run on (`pool`) and the instruction set they use
//! (`isa`, `simd`). Knows no model family; the caller passes shapes. Also the reference that kernels for
//! other devices are tested against: every vector kernel has a scalar twin here.

pub mod attention;
pub mod cache;
pub mod half;
pub mod isa;
pub mod ops;
pub mod pool;
pub mod quant;
pub mod rope;
mod simd;

pub use attention::{AttendScratch, Attention, attend_into};
pub use cache::{KvCache, KvKind, KvShape};
pub use isa::Isa;
pub use pool::Pool;
pub use rope::{RopePairs, RopeTable};

use super::batch::Batch;
use std::sync::{Arc, OnceLock};

/// Environment variable with the number of threads of the shared pool; physical cores without it.
pub const THREADS_VARIABLE: &str = "SERIN_THREADS";

/// The process's pool: all models run on the one executor thread, so they share its helpers.
pub fn shared_pool() -> &'static Arc<Pool> {
    static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
    POOL.get_or_init(|| {
        let asked = std::env::var(THREADS_VARIABLE).ok().and_then(|v| v.parse().ok());
        let threads = asked.filter(|n| (1..=1024).contains(n));
        Arc::new(Pool::new(threads.unwrap_or_else(pool::physical_cores)))
    })
}

/// One layer's plain causal attention for a whole step, on the shared pool.
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
    let head_dim = cache.shape().head_dim;
    let mut out = vec![0.0; batch.tokens.len() * heads * head_dim];
    let (attention, near) = (Attention::plain(heads, head_dim), (&**shared_pool(), Isa::best()));
    let mut scratch = AttendScratch::default();
    attend_into(&attention, qkv, rope, cache, layer, batch, &mut out, &mut scratch, near);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::batch::Row;

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
            total: start + len,
            table: 0,
            table_len: table.len(),
            sample: true,
            scored: 0,
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
