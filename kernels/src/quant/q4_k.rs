//! Q4_K: 256 numbers of 4 bits, with a scale and a minimum for every 32.
//!
//! - Stored: the head (see `q45_k`), then 128 bytes with the numbers.
//! - In a tile of the CPU, for 32 columns: `[4][16 rows][4]` bytes, group g in the low, g + 4 in the high half.
//! - On a GPU: 16 bytes for 32 numbers in the plane of low bits, number i beside 16 + i.

use super::{Block, Blocks, Content, Format, InTile, Scale, q45_k};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, quantised};

pub(super) const FORMAT: Format = Format {
    name: "Q4_K",
    ggml: 12,
    block: 256,
    bytes: 144,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), 0.002), (Scale::F16(2), 0.02)],
        parse,
        tile: Some(InTile {
            put_scales: q45_k::put_scales,
            get_scales: q45_k::get_scales,
            table: None,
            offset: 0,
        }),
        // The standard deviation and the mean of 16 numbers of equal chance.
        spread: |block, spread| q45_k::spread(block, spread, 4.61, 7.5),
    }),
    form: Form::K256,
    layout: Layout::blocks_of_256(4),
    kernels: kernels!(Q4K; avx2: k32<Q4K>, avx512: k32<Q4K>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [128, 0, 16, 0],
        minimum: true,
        staged: [0, 16],
        kernels: quantised!("q4_k"),
        sort: Some(|planes, block| {
            q45_k::sort_head(planes.scales, block);
            q45_k::sort_nibbles(planes.low, &block[16..]);
        }),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = q45_k::parse_head(bytes);
    q45_k::parse_nibbles(&bytes[16..144], &mut block.q);
    block
}
