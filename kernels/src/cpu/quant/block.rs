//! What a block of each kind of weights holds, as ggml writes it: taken apart, and turned into floats.
//!
//! Knows the bytes of a row and nothing of tiles or products. The layouts are ggml's file format: facts
//! that every reader of GGUF shares. Works on bytes, since rows in a mapped file are aligned to nothing.

use crate::cpu::half::{bf16_to_f32, f16_to_f32};
use crate::kind::WeightKind as Kind;
use rayon::prelude::*;

/// Values in the largest block.
pub const MAX_BLOCK: usize = 256;

/// One quantised block taken apart. A value is `d * scale * (q - zero) - dmin * min`, with the scale and
/// the minimum of its sub-block (16 values each; formats with wider ones repeat them).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
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

    /// Takes one block of a quantised kind apart; `bytes` has the kind's `block_bytes`.
    pub fn parse(kind: Kind, bytes: &[u8]) -> Block {
        match kind {
            Kind::Q8_0 => parse_q8_0(bytes),
            Kind::Q4_0 => parse_q4_0(bytes),
            Kind::Q4K | Kind::Q5K => parse_q45k(kind, bytes),
            Kind::Q6K => parse_q6k(bytes),
            Kind::F32 | Kind::F16 | Kind::BF16 => Block::EMPTY,
        }
    }

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

fn parse_q8_0(bytes: &[u8]) -> Block {
    let mut block = Block { scale: [1; 16], d: u16_at(bytes, 0), zero: 128, ..Block::EMPTY };
    for (q, b) in block.q.iter_mut().zip(&bytes[2..34]) {
        *q = b ^ 0x80;
    }
    block
}

fn parse_q4_0(bytes: &[u8]) -> Block {
    let mut block = Block { scale: [1; 16], d: u16_at(bytes, 0), zero: 8, ..Block::EMPTY };
    for (i, b) in bytes[2..18].iter().enumerate() {
        block.q[i] = b & 15;
        block.q[i + 16] = b >> 4;
    }
    block
}

fn parse_q45k(kind: Kind, bytes: &[u8]) -> Block {
    let mut block = Block { d: u16_at(bytes, 0), dmin: u16_at(bytes, 2), ..Block::EMPTY };
    let packed = &bytes[4..16];
    for sub in 0..8 {
        let (scale, min) = match sub {
            0..4 => (packed[sub] & 63, packed[sub + 4] & 63),
            _ => (
                packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4,
                packed[sub + 4] >> 4 | packed[sub] >> 6 << 4,
            ),
        };
        block.scale[sub * 2..sub * 2 + 2].fill(i16::from(scale));
        block.min[sub * 2..sub * 2 + 2].fill(min);
    }
    let (high, low) = match kind {
        Kind::Q5K => (Some(&bytes[16..48]), &bytes[48..176]),
        _ => (None, &bytes[16..144]),
    };
    for pair in 0..4 {
        for i in 0..32 {
            let byte = low[pair * 32 + i];
            block.q[pair * 64 + i] = byte & 15;
            block.q[pair * 64 + 32 + i] = byte >> 4;
            if let Some(high) = high {
                block.q[pair * 64 + i] |= (high[i] >> (2 * pair) & 1) << 4;
                block.q[pair * 64 + 32 + i] |= (high[i] >> (2 * pair + 1) & 1) << 4;
            }
        }
    }
    block
}

fn parse_q6k(bytes: &[u8]) -> Block {
    let mut block = Block { d: u16_at(bytes, 208), zero: 32, ..Block::EMPTY };
    for (scale, b) in block.scale.iter_mut().zip(&bytes[192..208]) {
        *scale = i16::from(*b as i8);
    }
    for half in 0..2 {
        let low = &bytes[half * 64..half * 64 + 64];
        let high = &bytes[128 + half * 32..128 + half * 32 + 32];
        for i in 0..32 {
            for part in 0..4 {
                let low = low[i + part % 2 * 32] >> (part / 2 * 4) & 15;
                let high = high[i] >> (part * 2) & 3;
                block.q[half * 128 + part * 32 + i] = low | high << 4;
            }
        }
    }
    block
}

/// Turns whole blocks into floats, in parallel: `out.len()` is the count of stored values.
pub fn dequantise(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    /// Blocks that one task turns.
    const CHUNK: usize = 4096;
    let (from, to) = (CHUNK * kind.block_bytes(), CHUNK * kind.block());
    let chunks = bytes.par_chunks(from).zip(out.par_chunks_mut(to));
    chunks.for_each(|(bytes, out)| dequantise_row(kind, bytes, out));
}

/// Whether all stored values are finite: every value of plain floats, every scale of quantised blocks.
pub fn all_finite(kind: Kind, bytes: &[u8]) -> bool {
    const CHUNK: usize = 4096;
    let half = |block: &[u8], at: usize| u16_at(block, at) & 0x7c00 != 0x7c00;
    let block = |block: &[u8]| match kind {
        Kind::F32 => u16_at(block, 2) & 0x7f80 != 0x7f80,
        Kind::BF16 => u16_at(block, 0) & 0x7f80 != 0x7f80,
        Kind::F16 | Kind::Q8_0 | Kind::Q4_0 => half(block, 0),
        Kind::Q4K | Kind::Q5K => half(block, 0) && half(block, 2),
        Kind::Q6K => half(block, 208),
    };
    let size = kind.block_bytes();
    bytes.par_chunks(CHUNK * size).all(|chunk| chunk.chunks_exact(size).all(block))
}

/// Writes a stored row's values to `out`. `bytes` is the row: `kind.row_bytes(out.len())` bytes.
pub fn dequantise_row(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    let stored = bytes.chunks_exact(kind.block_bytes());
    for (out, bytes) in out.chunks_exact_mut(kind.block()).zip(stored) {
        match kind {
            Kind::F32 => out[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Kind::F16 => out[0] = f16_to_f32(u16_at(bytes, 0)),
            Kind::BF16 => out[0] = bf16_to_f32(u16_at(bytes, 0)),
            _ => Block::parse(kind, bytes).values(out),
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
