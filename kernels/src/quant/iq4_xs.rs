//! IQ4_XS: 256 numbers of IQ4_NL's table, with a scale for every 32.
//!
//! - Stored: f16 `d`, then the eight scales of 6 bits: two bytes with two high bits of each, four bytes with two low
//!   halves each; then 16 bytes of indices for every 32 numbers, as in IQ4_NL. A value is
//!   `d * (scale - 32) * TABLE[index]`.
//! - In a tile of the CPU: indices of 4 bits; `i8 scale[8][16 rows]`, f16 `d[16]`, and 32 bytes unused, so that
//!   numbers begin on whole cache lines.

use super::block::{half_at, u16_at};
use super::iq4_nl::{SIZE, TABLE};
use super::{Block, Blocks, Content, Format, InTile, Scale, q4_1};
use crate::cpu::quant::{Form, Layout, TILE, get_half, kernels, put_half};

pub(super) const FORMAT: Format = Format {
    name: "IQ4_XS",
    ggml: 23,
    block: 256,
    bytes: 136,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), 0.0005)],
        parse,
        tile: Some(InTile { put_scales, get_scales, table: Some(&TABLE), offset: 128 }),
        spread,
    }),
    form: Form::K256,
    layout: Layout::blocks_of_256(4).with_scales(192),
    kernels: kernels!(IQ4XS; avx2: k32<IQ4XS>, avx512: k32<IQ4XS>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0), ..Block::EMPTY };
    let high = u16_at(bytes, 2);
    for group in 0..8 {
        let low = bytes[4 + group / 2] >> (group % 2 * 4) & 15;
        let scale = u16::from(low) | (high >> (2 * group) & 3) << 4;
        block.scale[2 * group..2 * group + 2].fill(scale.cast_signed() - 32);
        let indices = &bytes[8 + group * 16..24 + group * 16];
        q4_1::parse_nibbles(indices, &mut block.q[group * 32..group * 32 + 32]);
    }
    block
}

fn put_scales(meta: &mut [u8], r: usize, block: &Block) {
    put_half(meta, 128, r, block.d);
    for group in 0..8 {
        meta[group * TILE + r] = block.scale[2 * group] as u8;
    }
}

fn get_scales(meta: &[u8], r: usize) -> Block {
    assert!(r < TILE);
    let meta = &meta[..160];
    let mut block = Block { d: get_half(meta, 128, r), ..Block::EMPTY };
    for (i, scale) in block.scale.iter_mut().enumerate() {
        *scale = i16::from(meta[i / 2 * TILE + r].cast_signed());
    }
    block
}

fn spread(block: &mut [u8], spread: f32) {
    // The table's mean is not 0: scales of either sign bring it back. All scales are 31.
    let sign = if block[135] & 1 == 1 { -1.0 } else { 1.0 };
    Scale::F16(0).put(block, sign * spread / (SIZE * 31.0));
    block[2..8].fill(0xff);
}
