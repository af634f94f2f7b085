//! IQ2_S: 256 numbers in groups of eight, each an entry of a list of 1024, with a scale for every 16.
//!
//! - Stored: f16 `d`, then the low eight bits of 32 indices, a byte of signs for each, 8 bytes with two more bits of
//!   four indices each, and 8 bytes with two scales each. A value is `d / 8 * (2 scale + 1)` times the number.
//! - In a tile of the CPU: as stored.

use super::block::half_at;
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::F16(0);

pub(super) const FORMAT: Format = Format {
    name: "IQ2_S",
    ggml: 22,
    block: 256,
    bytes: 82,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.005)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square is 24.4.
        spread: |block, spread| SCALE.put(block, spread * 8.0 / (grid::ODD_OF_16 * 24.4)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(82),
    kernels: kernels!(IQ2S; avx2: as_stored<IQ2S>, avx512: as_stored<IQ2S>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: half_at(bytes, 0) / 8.0, zero: grid::ZERO, ..Block::EMPTY };
    for (i, scale) in block.scale.iter_mut().enumerate() {
        *scale = grid::odd(u32::from(bytes[74 + i / 2] >> (i % 2 * 4) & 15));
    }
    for (i, q) in block.q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = bytes[66 + i / 4] >> (i % 4 * 2) & 3;
        let index = usize::from(bytes[2 + i]) | usize::from(high) << 8;
        grid::put_signed(q, &grid::IQ2_S[index], bytes[34 + i]);
    }
    block
}
