//! Blocks of stored weights into f32, as ggml defines them.
//!
//! Plain scalar code: it serves embeddings, norms and whoever wants a whole tensor in f32, and it is what
//! faster kernels are compared with. Works on bytes, since rows in a mapped file are aligned to nothing.

use super::super::kind::Kind;
use half::{bf16, f16};
use rayon::prelude::*;

/// Turns whole blocks into floats: `out.len()` is the number of stored numbers. Parallel over chunks.
pub fn dequantise(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    /// Blocks that one task turns.
    const CHUNK: usize = 4096;
    let (from, to) = (CHUNK * kind.block_bytes(), CHUNK * kind.block());
    let one = |(bytes, out): (&[u8], &mut [f32])| {
        let blocks = bytes.chunks_exact(kind.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(kind.block())) {
            match kind {
                Kind::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Kind::F16 => out[0] = half_at(block, 0),
                Kind::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Kind::Q8_0 => q8_0(block, out),
                Kind::Q4_0 => q4_0(block, out),
                Kind::Q4K => q4_k(block, out),
                Kind::Q5K => q5_k(block, out),
                Kind::Q6K => q6_k(block, out),
            }
        }
    };
    bytes.par_chunks(from).zip(out.par_chunks_mut(to)).for_each(one);
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// f16 scale, 32 signed bytes.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (x, q) in out.iter_mut().zip(&block[2..34]) {
        *x = d * f32::from(*q as i8);
    }
}

/// f16 scale, 16 bytes: number j in the low half of byte j, number j + 16 in the high half.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (j, q) in block[2..18].iter().enumerate() {
        out[j] = d * (f32::from(q & 15) - 8.0);
        out[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

/// Scale and minimum of sub-block `j` of 8, six bits each, out of 12 bytes.
fn scale_min(scales: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = match j < 4 {
        true => (scales[j] & 63, scales[j + 4] & 63),
        false => (
            (scales[j + 4] & 15) | ((scales[j - 4] >> 6) << 4),
            (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4),
        ),
    };
    (f32::from(scale), f32::from(min))
}

/// f16 scale and minimum, 12 bytes of sub-scales, 128 bytes: per 64 numbers 32 low then 32 high halves.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(scales, j);
        let (scale, min) = (d * scale, dmin * min);
        let q = &block[16 + j / 2 * 32..][..32];
        for (x, q) in out.iter_mut().zip(q) {
            *x = scale * f32::from((q >> (4 * (j % 2))) & 15) - min;
        }
    }
}

/// As Q4_K with a fifth bit: bit j of byte l belongs to number l of sub-block j.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    let high = &block[16..48];
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(scales, j);
        let (scale, min) = (d * scale, dmin * min);
        let q = &block[48 + j / 2 * 32..][..32];
        for ((x, q), h) in out.iter_mut().zip(q).zip(high) {
            let q = ((q >> (4 * (j % 2))) & 15) | (((h >> j) & 1) << 4);
            *x = scale * f32::from(q) - min;
        }
    }
}

/// 128 bytes of low halves, 64 bytes of upper bit pairs, 16 signed sub-scales, f16 scale.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 208);
    for (half, out) in out.chunks_exact_mut(128).enumerate() {
        let low = &block[half * 64..][..64];
        let high = &block[128 + half * 32..][..32];
        let scales = &block[192 + half * 8..][..8];
        for (i, x) in out.iter_mut().enumerate() {
            let (quarter, l) = (i / 32, i % 32);
            let four = (low[(quarter % 2) * 32 + l] >> (4 * (quarter / 2))) & 15;
            let two = (high[l] >> (2 * quarter)) & 3;
            let q = f32::from(((two << 4) | four) as i8) - 32.0;
            *x = d * f32::from(scales[quarter * 2 + l / 16] as i8) * q;
        }
    }
}
