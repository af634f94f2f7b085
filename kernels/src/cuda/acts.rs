//! The inputs of matrix products on a GPU: rows of floats or halves, or of 8-bit numbers in blocks of 32.
//!
//! Which of these forms a product needs depends on how its weights are stored. The kernel that computes the input
//! writes it directly in that form (`acts.cuh`). It does not know about weights.

use super::buffer::{Buffer, View, ViewMut};
use super::card::{Arg, Card, CardError, Pool, Stream};
use half::{bf16, f16};
use std::sync::Arc;

/// How inputs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActKind {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Blocks of 32: whole numbers, and for each block (d, d * their sum) in f32.
    Q8,
}

/// Inputs to be read, `[n][width]`.
#[derive(Debug, Clone, Copy)]
pub enum Acts<'a> {
    /// 32-bit floats, `[n][width]`.
    F32(View<'a, f32>),
    /// IEEE half precision, `[n][width]`.
    F16(View<'a, f16>),
    /// bfloat16, `[n][width]`.
    BF16(View<'a, bf16>),
    /// `scales`: two numbers per block.
    Q8 {
        /// `[n][width]`; `width` is a multiple of [`Q8_BLOCK`].
        values: View<'a, i8>,
        /// `[n][width / Q8_BLOCK][2]`: d, and d times the sum of the block's numbers.
        scales: View<'a, f32>,
    },
}

/// Inputs of a product, and what its sums are still to be multiplied with.
#[derive(Debug, Clone, Copy)]
pub struct ProductInput<'a> {
    /// The inputs.
    pub acts: Acts<'a>,
    /// Of rows that a norm has left without their scale (`norm::leaves_scale`).
    pub scale: Option<Scale<'a>>,
}

/// 1 / rms of each row.
#[derive(Debug, Clone, Copy)]
pub struct Scale<'a> {
    /// `[n][width / norm::PIECE]`: what the squares of each piece add up to.
    pub squares: View<'a, f32>,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl<'a> From<Acts<'a>> for ProductInput<'a> {
    fn from(acts: Acts<'a>) -> ProductInput<'a> {
        ProductInput { acts, scale: None }
    }
}

impl ProductInput<'_> {
    /// The kernels' `squares` and `eps`: null without a scale.
    pub(crate) fn scale_args(&self) -> [Arg; 2] {
        match self.scale {
            Some(scale) => [scale.squares.arg(), Arg::F32(scale.eps)],
            None => [Arg::Address(0), Arg::F32(0.0)],
        }
    }
}

/// Inputs to be written, `[n][width]`.
#[derive(Debug)]
pub enum ActsMut<'a> {
    /// 32-bit floats, `[n][width]`.
    F32(ViewMut<'a, f32>),
    /// IEEE half precision, `[n][width]`.
    F16(ViewMut<'a, f16>),
    /// bfloat16, `[n][width]`.
    BF16(ViewMut<'a, bf16>),
    /// Blocks of [`Q8_BLOCK`] numbers, as in [`Acts::Q8`].
    Q8 {
        /// `[n][width]`; `width` is a multiple of [`Q8_BLOCK`].
        values: ViewMut<'a, i8>,
        /// `[n][width / Q8_BLOCK][2]`: d, and d times the sum of the block's numbers.
        scales: ViewMut<'a, f32>,
    },
}

/// Numbers per block of [`ActKind::Q8`].
pub const Q8_BLOCK: usize = 32;

impl Acts<'_> {
    /// The form that the inputs are written in.
    pub fn kind(&self) -> ActKind {
        match self {
            Acts::F32(_) => ActKind::F32,
            Acts::F16(_) => ActKind::F16,
            Acts::BF16(_) => ActKind::BF16,
            Acts::Q8 { .. } => ActKind::Q8,
        }
    }

    /// Addresses of the numbers and of the scales (null without).
    pub fn args(&self) -> [Arg; 2] {
        match self {
            Acts::F32(v) => [v.arg(), Arg::Address(0)],
            Acts::F16(v) => [v.arg(), Arg::Address(0)],
            Acts::BF16(v) => [v.arg(), Arg::Address(0)],
            Acts::Q8 { values, scales } => [values.arg(), scales.arg()],
        }
    }

    /// Whether it holds `n` rows of `width` numbers (or more).
    pub fn holds(&self, n: usize, width: usize) -> bool {
        let all = n * width;
        match self {
            Acts::F32(v) => v.len() >= all,
            Acts::F16(v) => v.len() >= all,
            Acts::BF16(v) => v.len() >= all,
            Acts::Q8 { values, scales } => {
                width.is_multiple_of(Q8_BLOCK)
                    && values.len() >= all
                    && scales.len() >= 2 * all / Q8_BLOCK
            }
        }
    }
}

impl ActsMut<'_> {
    /// The same memory, to be read.
    pub fn as_acts(&self) -> Acts<'_> {
        match self {
            ActsMut::F32(v) => Acts::F32(v.as_view()),
            ActsMut::F16(v) => Acts::F16(v.as_view()),
            ActsMut::BF16(v) => Acts::BF16(v.as_view()),
            ActsMut::Q8 { values, scales } => {
                Acts::Q8 { values: values.as_view(), scales: scales.as_view() }
            }
        }
    }

    /// The form that the inputs are to be written in.
    pub fn kind(&self) -> ActKind {
        self.as_acts().kind()
    }

    /// Addresses of the numbers and of the scales (null without).
    pub fn args(&self) -> [Arg; 2] {
        self.as_acts().args()
    }

    /// Whether it has room for `n` rows of `width` numbers (or more).
    pub fn holds(&self, n: usize, width: usize) -> bool {
        self.as_acts().holds(n, width)
    }
}

/// Room for inputs of any form.
#[derive(Debug)]
pub struct ActBuffer {
    bytes: Buffer<u8>,
    scales: Buffer<f32>,
    numbers: usize,
}

impl ActBuffer {
    /// Room for `numbers` inputs in any of these forms, taken in the order of `stream`. Fails if the pool's memory is
    /// used up or the device fails.
    pub fn new(
        card: &Arc<dyn Card>,
        pool: Pool,
        numbers: usize,
        kinds: &[ActKind],
        stream: Stream,
    ) -> Result<ActBuffer, CardError> {
        let bytes = kinds.iter().map(|kind| kind.bytes()).max().unwrap_or(0);
        let scales = if kinds.contains(&ActKind::Q8) { numbers.div_ceil(Q8_BLOCK) * 2 } else { 0 };
        let bytes = Buffer::on(card, pool, numbers * bytes, stream)?;
        let scales = Buffer::on(card, pool, scales, stream)?;
        Ok(ActBuffer { bytes, scales, numbers })
    }

    /// The first `numbers` inputs, in this form. Panics if there is no room.
    pub fn get(&self, kind: ActKind, numbers: usize) -> Acts<'_> {
        assert!(numbers <= self.numbers, "{numbers} inputs do not fit");
        let bytes = self.bytes.first(numbers * kind.bytes());
        match kind {
            ActKind::F32 => Acts::F32(bytes.cast()),
            ActKind::F16 => Acts::F16(bytes.cast()),
            ActKind::BF16 => Acts::BF16(bytes.cast()),
            ActKind::Q8 => {
                let scales = self.scales.first(numbers.div_ceil(Q8_BLOCK) * 2);
                Acts::Q8 { values: bytes.cast(), scales }
            }
        }
    }

    /// As [`ActBuffer::get`], to be written.
    pub fn get_mut(&mut self, kind: ActKind, numbers: usize) -> ActsMut<'_> {
        assert!(numbers <= self.numbers, "{numbers} inputs do not fit");
        let bytes = self.bytes.first_mut(numbers * kind.bytes());
        match kind {
            ActKind::F32 => ActsMut::F32(bytes.cast()),
            ActKind::F16 => ActsMut::F16(bytes.cast()),
            ActKind::BF16 => ActsMut::BF16(bytes.cast()),
            ActKind::Q8 => {
                let scales = self.scales.first_mut(numbers.div_ceil(Q8_BLOCK) * 2);
                ActsMut::Q8 { values: bytes.cast(), scales }
            }
        }
    }
}

impl ActKind {
    /// Bytes of one number, scales aside.
    pub fn bytes(self) -> usize {
        match self {
            ActKind::F32 => 4,
            ActKind::F16 | ActKind::BF16 => 2,
            ActKind::Q8 => 1,
        }
    }

    /// What kernels' names end in.
    pub fn suffix(self) -> &'static str {
        match self {
            ActKind::F32 => "f32",
            ActKind::F16 => "f16",
            ActKind::BF16 => "bf16",
            ActKind::Q8 => "q8",
        }
    }
}
