//! IQ1_S: 256 numbers in groups of eight, each an entry of a list of 2048, with a scale and a shift for every 32.
//!
//! - Stored: f16 `d`, then the low eight bits of 32 indices, then 16 bits for every 32 numbers: three more bits of each
//!   of the four indices, the scale of 3 bits, and the sign of the shift. A value is `d * (2 scale + 1)` times the
//!   number plus or minus an eighth.
//! - In a tile of the CPU: as stored.

use super::block::{half_at, u16_at};
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::F16(0);

pub(super) const FORMAT: Format = Format {
    name: "IQ1_S",
    ggml: 19,
    block: 256,
    bytes: 50,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.01)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square with their shifts is 0.781.
        spread: |block, spread| SCALE.put(block, spread * 1.0 / (grid::ODD_OF_8 * 0.781)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(50),
    kernels: kernels!(IQ1S; avx2: as_stored<IQ1S>, avx512: as_stored<IQ1S>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0) / 8.0, zero: grid::ZERO, ..Block::EMPTY };
    for group in 0..8 {
        let word = u16_at(bytes, 34 + 2 * group);
        block.scale[2 * group..2 * group + 2].fill(grid::odd(u32::from(word >> 12 & 7)));
        for i in 0..4 {
            let high = word >> (3 * i) & 7;
            let index = usize::from(bytes[2 + 4 * group + i]) | usize::from(high) << 8;
            let q = &mut block.q[32 * group + 8 * i..][..8];
            grid::put_shifted(q, &grid::IQ1[index], word >> 15 == 1);
        }
    }
    block
}
