//! Q5_K: 256 numbers of 5 bits, with a scale and a minimum for every 32.
//!
//! - Stored: the head (see `q45_k`), then 32 bytes with the fifth bits (bit g of byte i is that of number i of group
//!   g of 32), then 128 bytes with the low 4 bits, as in Q4_K.
//! - In a tile of the CPU, for 32 columns: `[16 rows][4]` bytes: bit g is the fifth of the numbers of group g of 4;
//!   then as Q4_K.
//! - On a GPU: 4 bytes for 32 numbers in the plane of further bits: bit w of byte b belongs to number 4 w + b;
//!   otherwise as in Q4_K.

use super::{Block, Blocks, Content, Format, InTile, Scale, q45_k};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{OnCard, Planes, quantised};

pub(super) const FORMAT: Format = Format {
    name: "Q5_K",
    ggml: 13,
    block: 256,
    bytes: 176,
    content: Content::Blocks(Blocks {
        scales: &[(Scale::F16(0), 0.002), (Scale::F16(2), 0.02)],
        parse,
        tile: Some(InTile {
            put_scales: q45_k::put_scales,
            get_scales: q45_k::get_scales,
            table: None,
            offset: 0,
        }),
        // The standard deviation and the mean of 32 numbers of equal chance.
        spread: |block, spread| q45_k::spread(block, spread, 9.23, 15.5),
    }),
    form: Form::K256,
    layout: Layout::blocks_of_256(5),
    kernels: kernels!(Q5K; avx2: k32<Q5K>, avx512: k32<Q5K>),
    card: Some(OnCard {
        input: ActKind::Q8,
        shares: [128, 32, 16, 0],
        minimum: true,
        staged: [0, 16],
        kernels: quantised!("q5_k"),
        sort: Some(sort),
    }),
};

fn parse(bytes: &[u8]) -> Block {
    let mut block = q45_k::parse_head(bytes);
    q45_k::parse_nibbles(&bytes[48..176], &mut block.q);
    for (group, q) in block.q.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (q, high) in q.iter_mut().zip(&bytes[16..48]) {
            *q |= (high >> group & 1) << 4;
        }
    }
    block
}

fn sort(planes: Planes<'_>, block: &[u8]) {
    q45_k::sort_head(planes.scales, block);
    q45_k::sort_nibbles(planes.low, &block[48..]);
    let high = &block[16..48];
    for (group, out) in planes.high.chunks_exact_mut(4).enumerate() {
        for (byte, out) in out.iter_mut().enumerate() {
            let bit = |word: usize| (high[4 * word + byte] >> group & 1) << word;
            *out = (0..8).map(bit).fold(0, |all, bit| all | bit);
        }
    }
}
