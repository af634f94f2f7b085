//! F32, F16 and BF16: plain floats, each a block of its own.
//!
//! In a CPU tile their layout is `[columns][16 rows]`; on a GPU it is as stored.

use super::{Content, Format};
use crate::cpu::quant::{Form, Layout, kernels};
use crate::cuda::acts::ActKind;
use crate::cuda::on_card::{KernelNames, OnCard, to_8};
use crate::float16::{bf16_to_f32, f16_to_f32};

pub(super) const F32: Format = Format {
    name: "F32",
    ggml: 0,
    block: 1,
    bytes: 4,
    content: Content::Floats {
        widen: |bytes, out| {
            let words = bytes.as_chunks::<4>().0;
            out.iter_mut().zip(words).for_each(|(out, b)| *out = f32::from_le_bytes(*b));
        },
        finite: |bytes| {
            let high = |b: &[u8; 4]| u16::from_le_bytes([b[2], b[3]]);
            bytes.as_chunks::<4>().0.iter().all(|b| high(b) & 0x7f80 != 0x7f80)
        },
    },
    form: Form::Dense,
    layout: Layout::floats(32),
    kernels: kernels!(F32; avx2: dense<F32>, avx512: dense<F32>),
    card: Some(OnCard {
        input: ActKind::F32,
        shares: [4, 0, 0, 0],
        minimum: false,
        staged: [0, 0],
        kernels: KernelNames {
            embed: "embed_f32",
            few: to_8!("product_dense_f32_"),
            gated: None,
            normed: None,
            tiles: None,
            tiles_gated: &[],
            tiles_normed: &[],
        },
        sort: None,
    }),
};

pub(super) const F16: Format = Format {
    name: "F16",
    ggml: 1,
    block: 1,
    bytes: 2,
    content: Content::Floats {
        widen: |bytes, out| widen_halves(bytes, out, f16_to_f32),
        finite: |bytes| finite_halves(bytes, 0x7c00),
    },
    form: Form::Dense,
    layout: Layout::floats(16),
    kernels: kernels!(F16; avx2: dense<F16>, avx512: dense<F16>),
    card: Some(OnCard {
        input: ActKind::F16,
        shares: [2, 0, 0, 0],
        minimum: false,
        staged: [0, 0],
        kernels: KernelNames {
            embed: "embed_f16",
            few: ["product_dense_f16"; 8],
            gated: Some(["product_gated_f16"; 8]),
            normed: None,
            tiles: None,
            tiles_gated: &[],
            tiles_normed: &[],
        },
        sort: None,
    }),
};

pub(super) const BF16: Format = Format {
    name: "BF16",
    ggml: 30,
    block: 1,
    bytes: 2,
    content: Content::Floats {
        widen: |bytes, out| widen_halves(bytes, out, bf16_to_f32),
        finite: |bytes| finite_halves(bytes, 0x7f80),
    },
    form: Form::Dense,
    layout: Layout::floats(16),
    kernels: kernels!(BF16; avx2: dense<BF16>, avx512: dense<BF16>),
    card: Some(OnCard {
        input: ActKind::BF16,
        shares: [2, 0, 0, 0],
        minimum: false,
        staged: [0, 0],
        kernels: KernelNames {
            embed: "embed_bf16",
            few: ["product_dense_bf16"; 8],
            gated: Some(["product_gated_bf16"; 8]),
            normed: Some(["product_normed_bf16"; 8]),
            tiles: None,
            tiles_gated: &[],
            tiles_normed: &[],
        },
        sort: None,
    }),
};

#[inline(always)]
fn widen_halves(bytes: &[u8], out: &mut [f32], widen: impl Fn(u16) -> f32) {
    let halves = bytes.as_chunks::<2>().0;
    out.iter_mut().zip(halves).for_each(|(out, b)| *out = widen(u16::from_le_bytes(*b)));
}

/// `exponent`: the bits that are all set in what is not finite.
#[inline(always)]
fn finite_halves(bytes: &[u8], exponent: u16) -> bool {
    bytes.as_chunks::<2>().0.iter().all(|b| u16::from_le_bytes(*b) & exponent != exponent)
}
