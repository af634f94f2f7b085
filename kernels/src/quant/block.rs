//! An unpacked quantised block, and operations on stored numbers that are the same for every kind.
//!
//! It knows the bytes of a row, but not tiles or products. It works on bytes, because rows in a mapped file have no
//! particular alignment.

use super::{Blocks, Content, Kind};
use crate::float16::f16_to_f32;
use half::f16;
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
    pub d: f32,
    pub dmin: f32,
    pub zero: u8,
}

impl Block {
    /// A block of zeros, with all scales 0.
    pub const EMPTY: Block =
        Block { q: [0; MAX_BLOCK], scale: [0; 16], min: [0; 16], d: 0.0, dmin: 0.0, zero: 0 };

    /// 32 numbers under one scale, which are still 0.
    pub fn under(d: f32, zero: u8) -> Block {
        Block { scale: [1; 16], d, zero, ..Block::EMPTY }
    }

    /// The block's values, `out.len()` of them.
    pub fn values(&self, out: &mut [f32]) {
        for (k, out) in out.iter_mut().enumerate() {
            let scale = self.d * f32::from(self.scale[k / 16]);
            let min = self.dmin * f32::from(self.min[k / 16]);
            let q = i32::from(self.q[k]) - i32::from(self.zero);
            *out = scale * q as f32 - min;
        }
    }

    /// Puts a table's numbers in the place of indices into it.
    pub fn look_up(&mut self, table: &[i8; 16]) {
        let numbers = table.map(|number| number.cast_unsigned() ^ 0x80);
        self.q.iter_mut().for_each(|q| *q = numbers[usize::from(*q & 15)]);
        self.zero = 128;
    }
}

impl Blocks {
    /// Takes a stored block apart, numbers instead of indices.
    pub fn open(&self, bytes: &[u8]) -> Block {
        let mut block = (self.parse)(bytes);
        if let Some(table) = self.tile.as_ref().and_then(|tile| tile.table) {
            block.look_up(table);
        }
        block
    }
}

/// Where a block has a scale, and how it is stored. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    F16(usize),
    /// An f16 in the upper four bits of four words of 16 bits each, the lowest bits first.
    Spread16(usize),
    /// A power of two: its exponent, of which 0 stands for 2^-128. All bits set are NaN.
    Exponent(usize),
}

impl Scale {
    /// The scale's value, read from a block as stored in a file.
    pub fn get(self, block: &[u8]) -> f32 {
        match self {
            Scale::F16(at) => half_at(block, at),
            Scale::Spread16(at) => {
                let four = |word: usize| u16_at(block, at + 2 * word) >> 12 << (4 * word);
                f16_to_f32(four(0) | four(1) | four(2) | four(3))
            }
            Scale::Exponent(at) => match block[at] {
                // The two that are below the smallest normal float.
                small @ 0..2 => f32::from_bits(0x0020_0000 << small),
                0xff => f32::NAN,
                exponent => f32::from_bits((u32::from(exponent) - 1) << 23),
            },
        }
    }

    /// Writes a scale as near to `value` as can be stored; of a power of two, its size alone.
    pub fn put(self, block: &mut [u8], value: f32) {
        match self {
            Scale::F16(at) => {
                block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes())
            }
            Scale::Spread16(at) => {
                let bits = f16::from_f32(value).to_bits();
                for word in 0..4 {
                    let high = &mut block[at + 2 * word + 1];
                    *high = *high & 15 | ((bits >> (4 * word) & 15) as u8) << 4;
                }
            }
            Scale::Exponent(at) => {
                // Times the root of 2, the exponent of the nearer power is the one to be read off.
                let nearer = (value.abs() * std::f32::consts::SQRT_2).to_bits() >> 23;
                block[at] =
                    if value.is_nan() { 0xff } else { nearer.saturating_add(1).min(254) as u8 };
            }
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
                blocks.open(bytes).values(out);
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
            let block =
                |block: &[u8]| blocks.scales.iter().all(|(at, _)| at.get(block).is_finite());
            chunks.all(|chunk| chunk.chunks_exact(size).all(block))
        }
    }
}

pub(super) fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16_at(bytes, at))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
