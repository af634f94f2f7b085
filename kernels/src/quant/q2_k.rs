//! Q2_K: 256 numbers of 2 bits, with a scale and a minimum for every 16.
//!
//! - Stored: 16 bytes, each a scale in its low half and a minimum in its high one; 64 bytes with the numbers (of each
//!   32 bytes, bits 2 p.. of byte i are number i's of the p-th group of 32); f16 `d`, f16 `dmin`. A value is
//!   `d * scale * q - dmin * min`.
//! - In a tile of the CPU: numbers of 2 bits; the 16 bytes as `[16][16 rows]`, f16 `d[16]`, f16 `dmin[16]`.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, InTile, Scale};
use crate::cpu::quant::{Form, Layout, TILE, get_half, kernels, put_half};

pub(super) const FORMAT: Format = Format {
    name: "Q2_K",
    ggml: 10,
    block: 256,
    bytes: 84,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(80), 0.02), (Scale::F16(82), 0.03)],
        parse,
        tile: Some(InTile { put_scales, get_scales, table: None, offset: 0 }),
        spread,
    }),
    form: Form::K256,
    layout: Layout::blocks_of_256(2),
    kernels: kernels!(Q2K; avx2: k16<Q2K>, avx512: k16<Q2K>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 80), dmin: half_at(bytes, 82), ..Block::EMPTY };
    for (i, byte) in bytes[..16].iter().enumerate() {
        (block.scale[i], block.min[i]) = (i16::from(byte & 15), byte >> 4);
    }
    parse_pairs(&bytes[16..80], &mut block.q);
    block
}

/// Takes the low two bits of 256 numbers apart, 64 bytes.
pub(super) fn parse_pairs(low: &[u8], q: &mut [u8; 256]) {
    for (low, q) in low.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<128>().0) {
        for (i, q) in q.iter_mut().enumerate() {
            *q = low[i % 32] >> (i / 32 * 2) & 3;
        }
    }
}

fn put_scales(meta: &mut [u8], r: usize, block: &Block) {
    put_half(meta, 256, r, block.d);
    put_half(meta, 288, r, block.dmin);
    for i in 0..16 {
        meta[i * TILE + r] = block.scale[i] as u8 | block.min[i] << 4;
    }
}

fn get_scales(meta: &[u8], r: usize) -> Block {
    assert!(r < TILE);
    let meta = &meta[..320];
    let (d, dmin) = (get_half(meta, 256, r), get_half(meta, 288, r));
    let mut block = Block { d, dmin, ..Block::EMPTY };
    for i in 0..16 {
        let byte = meta[i * TILE + r];
        (block.scale[i], block.min[i]) = (i16::from(byte & 15), byte >> 4);
    }
    block
}

fn spread(block: &mut [u8], spread: f32) {
    // All scales and minima are 8; 1.118 and 1.5 are the standard deviation and the mean of 4 numbers of equal chance.
    let d = spread / (1.118 * 8.0);
    block[..16].fill(0x88);
    Scale::F16(80).put(block, d);
    Scale::F16(82).put(block, d * 1.5);
}
