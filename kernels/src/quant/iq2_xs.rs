//! IQ2_XS: 256 numbers in groups of eight, each an entry of a list of 512, with a scale for every 16.
//!
//! - Stored: f16 `d`, then 32 words of 16 bits: an index of 9 bits, and seven of the eight signs (the eighth follows
//!   from them); then 8 bytes with two scales each. A value is `d / 8 * (2 scale + 1)` times the number.
//! - In a tile of the CPU: as stored.

use super::block::{half_at, u16_at};
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::F16(0);

pub(super) const FORMAT: Format = Format {
    name: "IQ2_XS",
    ggml: 17,
    block: 256,
    bytes: 74,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.005)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square is 24.2.
        spread: |block, spread| SCALE.put(block, spread * 8.0 / (grid::ODD_OF_16 * 24.2)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(74),
    kernels: kernels!(IQ2XS; avx2: as_stored<IQ2XS>, avx512: as_stored<IQ2XS>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0) / 8.0, zero: grid::ZERO, ..Block::EMPTY };
    for (i, scale) in block.scale.iter_mut().enumerate() {
        *scale = grid::odd(u32::from(bytes[66 + i / 2] >> (i % 2 * 4) & 15));
    }
    for (i, q) in block.q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(bytes, 2 + 2 * i);
        let sizes = &grid::IQ2_XS[usize::from(word & 511)];
        grid::put_signed(q, sizes, grid::even_signs(u32::from(word >> 9)));
    }
    block
}
