//! IQ2_XXS: 256 numbers in groups of eight, each an entry of a list of 256, with a scale for every 32.
//!
//! - Stored: f16 `d`, then for every 32 numbers four indices, a byte each, and a word: for each index seven of its
//!   eight signs (the eighth follows from them), and the scale in the upper four bits. A value is `d / 8 * (2 scale +
//!   1)` times the number.
//! - In a tile of the CPU: as stored.

use super::block::{half_at, u32_at};
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::F16(0);

pub(super) const FORMAT: Format = Format {
    name: "IQ2_XXS",
    ggml: 16,
    block: 256,
    bytes: 66,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.005)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square is 23.1.
        spread: |block, spread| SCALE.put(block, spread * 8.0 / (grid::ODD_OF_16 * 23.1)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(66),
    kernels: kernels!(IQ2XXS; avx2: as_stored<IQ2XXS>, avx512: as_stored<IQ2XXS>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0) / 8.0, zero: grid::ZERO, ..Block::EMPTY };
    for (group, stored) in bytes[2..66].as_chunks::<8>().0.iter().enumerate() {
        let word = u32_at(stored, 4);
        block.scale[2 * group..2 * group + 2].fill(grid::odd(word >> 28));
        for (i, index) in stored[..4].iter().enumerate() {
            let q = &mut block.q[32 * group + 8 * i..][..8];
            grid::put_signed(
                q,
                &grid::IQ2_XXS[usize::from(*index)],
                grid::even_signs(word >> (7 * i)),
            );
        }
    }
    block
}
