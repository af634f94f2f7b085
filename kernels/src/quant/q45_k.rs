//! What Q4_K and Q5_K share: the head of 256 numbers, with a scale and a minimum of 6 bits for every 32, and the low
//! 4 bits of the numbers.
//!
//! - Stored: f16 `d`, f16 `dmin`, then 12 bytes with the eight scales and minima. A value is
//!   `d * scale * q - dmin * min`. Of the low bits, 32 bytes have group 2 p in their low halves and 2 p + 1 in the
//!   high ones.
//! - In a tile of the CPU: `u8 scale[8][16 rows]`, `u8 min[4][16][2]` (neighbouring groups side by side, for
//!   multiply-add of pairs), f16 `d[16]`, f16 `dmin[16]`.
//! - On a GPU: a head of 16 bytes in the plane of scales (see [`sort_head`]).

use super::Block;
use super::block::half_at;
use crate::cpu::quant::{TILE, get_half, put_half};
use half::f16;

/// The 6-bit scale and minimum of a group of 32, in the 12 bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (u8, u8) {
    match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    }
}

/// A block without numbers.
pub(super) fn parse_head(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0), dmin: half_at(bytes, 2), ..Block::EMPTY };
    for group in 0..8 {
        let (scale, min) = scale_and_min(&bytes[4..16], group);
        block.scale[group * 2..group * 2 + 2].fill(i16::from(scale));
        block.min[group * 2..group * 2 + 2].fill(min);
    }
    block
}

/// Takes the low bits of 256 numbers apart, 128 bytes.
pub(super) fn parse_nibbles(low: &[u8], q: &mut [u8; 256]) {
    for (low, q) in low.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<64>().0) {
        for (i, byte) in low.iter().enumerate() {
            q[i] = byte & 15;
            q[32 + i] = byte >> 4;
        }
    }
}

pub(super) fn put_scales(meta: &mut [u8], r: usize, block: &Block) {
    put_half(meta, 256, r, block.d);
    put_half(meta, 288, r, block.dmin);
    for group in 0..8 {
        meta[group * TILE + r] = block.scale[group * 2] as u8;
        meta[128 + group / 2 * 32 + r * 2 + group % 2] = block.min[group * 2];
    }
}

pub(super) fn get_scales(meta: &[u8], r: usize) -> Block {
    assert!(r < TILE);
    let meta = &meta[..320];
    let (d, dmin) = (get_half(meta, 256, r), get_half(meta, 288, r));
    let mut block = Block { d, dmin, ..Block::EMPTY };
    for i in 0..16 {
        let group = i / 2;
        block.scale[i] = i16::from(meta[group * TILE + r]);
        block.min[i] = meta[128 + group / 2 * 32 + r * 2 + group % 2];
    }
    block
}

/// The head of 256 numbers: d and dmin (f16 each), then three words with 4 bits for each of the 8 groups: low bits of
/// its scale, low bits of its minimum, and the two high bits of both, the scale's first.
pub(super) fn sort_head(out: &mut [u8], block: &[u8]) {
    out[..4].copy_from_slice(&block[..4]);
    let [mut scales, mut mins, mut highs] = [0u32; 3];
    for group in 0..8 {
        let (scale, min) = scale_and_min(&block[4..16], group);
        let (scale, min, at) = (u32::from(scale), u32::from(min), 4 * group);
        scales |= (scale & 15) << at;
        mins |= (min & 15) << at;
        highs |= (scale >> 4 | min >> 4 << 2) << at;
    }
    for (out, word) in out[4..].chunks_exact_mut(4).zip([scales, mins, highs]) {
        out.copy_from_slice(&word.to_le_bytes());
    }
}

/// The low bits of 256 numbers: of each 32, number i beside 16 + i.
pub(super) fn sort_nibbles(out: &mut [u8], stored: &[u8]) {
    for (out, from) in out.chunks_exact_mut(32).zip(stored.chunks_exact(32)) {
        let (first, second) = from.split_at(16);
        for i in 0..16 {
            out[i] = first[i] & 15 | second[i] << 4;
            out[16 + i] = first[i] >> 4 | second[i] & 0xf0;
        }
    }
}

/// Scales for numbers of this standard deviation around `middle`, whose minimum brings the mean back to 0.
pub(super) fn spread(block: &mut [u8], spread: f32, deviation: f32, middle: f32) {
    // All scales and minima are 32.
    let d = spread / (deviation * 32.0);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(d * middle).to_le_bytes());
    block[4..12].fill(0xA0);
    block[12..16].fill(0);
}
