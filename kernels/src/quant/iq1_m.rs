//! IQ1_M: 256 numbers in groups of eight, each an entry of a list of 2048, with a scale for every 16 and a shift for
//! every 8.
//!
//! - Stored: the low eight bits of 32 indices, then 32 times 4 bits: three more bits of an index, and the sign of the
//!   shift; then four words of 16 bits with four scales of 3 bits each, and in their upper four bits a part of the f16
//!   `d`. A value is `d * (2 scale + 1)` times the number plus or minus an eighth.
//! - In a tile of the CPU: as stored.

use super::block::u16_at;
use super::{Block, Blocks, Content, Format, Scale, grid};
use crate::cpu::quant::{Form, Layout, kernels};

const SCALE: Scale = Scale::Spread16(48);

pub(super) const FORMAT: Format = Format {
    name: "IQ1_M",
    ggml: 29,
    block: 256,
    bytes: 56,
    content: Content::Blocks(Blocks {
        scales: &[(SCALE, 0.01)],
        parse,
        tile: None,
        // The scales are random as the numbers are, whose root of the mean square with their shifts is 0.781.
        spread: |block, spread| SCALE.put(block, spread * 1.0 / (grid::ODD_OF_8 * 0.781)),
    }),
    form: Form::K256,
    layout: Layout::as_stored(56),
    kernels: kernels!(IQ1M; avx2: as_stored<IQ1M>, avx512: as_stored<IQ1M>),
    card: None,
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = Block { d: SCALE.get(bytes) / 8.0, zero: grid::ZERO, ..Block::EMPTY };
    for (i, scale) in block.scale.iter_mut().enumerate() {
        *scale = grid::odd(u32::from(u16_at(bytes, 48 + i / 4 * 2) >> (i % 4 * 3) & 7));
    }
    for (i, q) in block.q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = bytes[32 + i / 2] >> (i % 2 * 4);
        let index = usize::from(bytes[i]) | usize::from(high & 7) << 8;
        grid::put_shifted(q, &grid::IQ1[index], high & 8 != 0);
    }
    block
}
