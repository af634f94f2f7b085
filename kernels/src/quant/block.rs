//! A quantised block taken apart, and what is done to stored numbers whatever their kind.
//!
//! Knows the bytes of a row and nothing of tiles or products. Works on bytes, since rows in a mapped file are aligned
//! to nothing.

use super::{Content, Kind};
use crate::float16::f16_to_f32;
use rayon::prelude::*;

/// Values in the largest block.
pub(crate) const MAX_BLOCK: usize = 256;

/// One quantised block taken apart. A value is `d * scale * (q - zero) - dmin * min`, with the scale and
/// the minimum of its sub-block (16 values each; formats with wider ones repeat them).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Block {
    pub q: [u8; MAX_BLOCK],
    pub scale: [i16; 16],
    pub min: [u8; 16],
    /// f16 bits.
    pub d: u16,
    /// f16 bits.
    pub dmin: u16,
    pub zero: u8,
}

impl Block {
    pub const EMPTY: Block =
        Block { q: [0; MAX_BLOCK], scale: [0; 16], min: [0; 16], d: 0, dmin: 0, zero: 0 };

    /// The block's values, `out.len()` of them.
    pub fn values(&self, out: &mut [f32]) {
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        for (k, out) in out.iter_mut().enumerate() {
            let scale = d * f32::from(self.scale[k / 16]);
            let min = dmin * f32::from(self.min[k / 16]);
            let q = i32::from(self.q[k]) - i32::from(self.zero);
            *out = scale * q as f32 - min;
        }
    }
}

/// Turns whole blocks into floats, in parallel: `out.len()` is the count of stored values.
pub fn dequantise(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    /// Blocks that one task turns.
    const CHUNK: usize = 4096;
    let (from, to) = (CHUNK * kind.block_bytes(), CHUNK * kind.block());
    let chunks = bytes.par_chunks(from).zip(out.par_chunks_mut(to));
    chunks.for_each(|(bytes, out)| dequantise_row(kind, bytes, out));
}

/// Writes a stored row's values to `out`. `bytes` is the row: `kind.row_bytes(out.len())` bytes.
pub fn dequantise_row(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    match &kind.format().content {
        Content::Floats { widen, .. } => widen(bytes, out),
        Content::Blocks(blocks) => {
            let stored = bytes.chunks_exact(kind.block_bytes());
            for (out, bytes) in out.chunks_exact_mut(kind.block()).zip(stored) {
                (blocks.parse)(bytes).values(out);
            }
        }
    }
}

/// Whether all stored values are finite: every value of plain floats, every scale of quantised blocks.
pub fn all_finite(kind: Kind, bytes: &[u8]) -> bool {
    const CHUNK: usize = 4096;
    let size = kind.block_bytes();
    let chunks = bytes.par_chunks(CHUNK * size);
    match &kind.format().content {
        Content::Floats { finite, .. } => chunks.all(finite),
        Content::Blocks(blocks) => {
            let scale = |block: &[u8], at: usize| u16_at(block, at) & 0x7c00 != 0x7c00;
            let block = |block: &[u8]| blocks.scales.iter().all(|(at, _)| scale(block, *at));
            chunks.all(|chunk| chunk.chunks_exact(size).all(block))
        }
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
