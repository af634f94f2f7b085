//! IQ3_S: 256 numbers in groups of four, each an entry of a list of 512, with a scale for every 32.
//!
//! - Stored: f16 `d`, then the low eight bits of 64 indices, their ninth bits (bit i of byte b is that of index
//!   8 b + i), 32 bytes with the signs of eight numbers each, and 4 bytes with two scales each. A value is
//!   `d * (2 scale + 1)` times the number.
//! - In a tile of the CPU: as stored.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::F16(0);

pub(super) const FORMAT: Format = Format {
    name: "IQ3_S",
    ggml: 21,
    block: 256,
    bytes: 110,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.002)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square is 7.59.
        spread: |block, spread| SCALE.put(block, spread * 1.0 / (grid::ODD_OF_16 * 7.59)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(110),
    kernels: kernels!(IQ3S; avx2: as_stored<IQ3S>, avx512: as_stored<IQ3S>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0), zero: grid::ZERO, ..Block::EMPTY };
    for (i, scale) in block.scale.iter_mut().enumerate() {
        *scale = grid::odd(u32::from(bytes[106 + i / 4] >> (i / 2 % 2 * 4) & 15));
    }
    for (i, q) in block.q.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let ninth = bytes[66 + i / 8] >> (i % 8) & 1;
        let index = usize::from(bytes[2 + i]) | usize::from(ninth) << 8;
        grid::put_signed(q, &grid::IQ3_S[index], bytes[74 + i / 2] >> (i % 2 * 4));
    }
    block
}
