//! IQ3_XXS: 256 numbers in groups of four, each an entry of a list of 256, with a scale for every 32.
//!
//! - Stored: f16 `d`, then 64 indices, a byte each, then for every 32 numbers a word as in IQ2_XXS: for each eight
//!   numbers seven of their signs (the eighth follows from them), and the scale in the upper four bits. A value is `d /
//!   4 * (2 scale + 1)` times the number.
//! - In a tile of the CPU: as stored.

use super::block::{half_at, u32_at};
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::F16(0);

pub(super) const FORMAT: Format = Format {
    name: "IQ3_XXS",
    ggml: 18,
    block: 256,
    bytes: 98,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.002)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square is 30.8.
        spread: |block, spread| SCALE.put(block, spread * 4.0 / (grid::ODD_OF_16 * 30.8)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(98),
    kernels: kernels!(IQ3XXS; avx2: as_stored<IQ3XXS>, avx512: as_stored<IQ3XXS>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0) / 4.0, zero: grid::ZERO, ..Block::EMPTY };
    for group in 0..8 {
        let word = u32_at(bytes, 66 + 4 * group);
        block.scale[2 * group..2 * group + 2].fill(grid::odd(word >> 28));
        for i in 0..8 {
            let signs = grid::even_signs(word >> (i / 2 * 7)) >> (i % 2 * 4);
            let index = usize::from(bytes[2 + 8 * group + i]);
            grid::put_signed(&mut block.q[32 * group + 4 * i..][..4], &grid::IQ3_XXS[index], signs);
        }
    }
    block
}
