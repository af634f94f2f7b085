//! How numbers are stored in a weight file: a file for each kind, and the table of them all.
//!
//! Block-quantised kinds are llama.cpp's (`ggml`), by its type numbers; their layouts are its file format: facts
//! that every reader of GGUF shares. A kind's file says how a block is stored and taken apart, how it lies in the
//! CPU's tiles and in a card's planes, and which kernels read it. What the kinds have in common is generic over
//! [`Format`]: blocks here (`block`), tiles in `cpu::quant`, planes in `cuda::weights`. Knows no matrix.

mod block;
mod floats;
mod q45_k;
mod q4_0;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;
#[cfg(test)]
mod tests;

pub(crate) use block::{Block, MAX_BLOCK};
pub use block::{all_finite, dequantise, dequantise_row};

use crate::cpu::quant::{Form, Kernels, Layout};
use crate::cuda::on_card::OnCard;
use crate::cuda::weights::Planes;
use std::fmt;

/// Makes the kinds of a list of their names and formats.
macro_rules! table {
    ($($(#[$doc:meta])* $kind:ident: $format:path),* $(,)?) => {
        /// A storage format of weights.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind),*
        }

        impl Kind {
            /// Every kind, in the order of their discriminants.
            pub const ALL: [Kind; [$(Kind::$kind),*].len()] = [$(Kind::$kind),*];
        }

        const FORMATS: &[Format; Kind::ALL.len()] = &[$($format),*];
    };
}

table! {
    /// IEEE 754 floats of 32 bits.
    F32: floats::F32,
    /// IEEE 754 floats of 16 bits.
    F16: floats::F16,
    /// bfloat16: the upper 16 bits of an f32.
    BF16: floats::BF16,
    /// Blocks of 34 bytes: 32 numbers of 8 bits under one f16 scale.
    Q8_0: q8_0::FORMAT,
    /// Blocks of 18 bytes: 32 numbers of 4 bits under one f16 scale.
    Q4_0: q4_0::FORMAT,
    /// Blocks of 144 bytes: 256 numbers of 4 bits, with a scale and a minimum for every 32.
    Q4K: q4_k::FORMAT,
    /// Blocks of 176 bytes: 256 numbers of 5 bits, with a scale and a minimum for every 32.
    Q5K: q5_k::FORMAT,
    /// Blocks of 210 bytes: 256 numbers of 6 bits, with a scale for every 16.
    Q6K: q6_k::FORMAT,
}

/// All that there is to know of one kind.
pub(crate) struct Format {
    /// ggml's name and type number.
    pub name: &'static str,
    pub ggml: u32,
    /// Numbers per block, and its bytes.
    pub block: usize,
    pub bytes: usize,
    pub content: Content,
    /// On the CPU: the form of inputs, how blocks lie in tiles, and the kernels that multiply them.
    pub form: Form,
    pub layout: Layout,
    pub kernels: Kernels,
    /// On a card: the form of inputs, the planes, and the kernels that read them.
    pub card: OnCard,
}

/// What a block holds.
pub(crate) enum Content {
    /// One float.
    Floats {
        /// Turns stored numbers into floats, as many as there is room for.
        widen: fn(&[u8], &mut [f32]),
        /// Whether all of them are finite.
        finite: fn(&[u8]) -> bool,
    },
    Blocks(Blocks),
}

/// What is done to blocks of a quantised kind. The random blocks that it makes are for models without a file.
pub(crate) struct Blocks {
    /// Where a block has its f16 scales, and what they are about in a model.
    pub scales: &'static [(usize, f32)],
    /// Takes a stored block apart.
    pub parse: fn(&[u8]) -> Block,
    /// Writes a block's scales into those of row `r` of a tile, which begin where the slice does.
    pub put_scales: fn(&mut [u8], usize, &Block),
    /// Takes them out again: a block without numbers.
    pub get_scales: fn(&[u8], usize) -> Block,
    /// Sorts a stored block into the planes of a card.
    pub sort: fn(Planes<'_>, &[u8]),
    /// Gives a block of random bits scales with which its numbers have about this standard deviation, and
    /// together with those of other blocks the mean 0.
    pub spread: fn(&mut [u8], f32),
}

impl Kind {
    /// From ggml's type number; `Err` names the type that cannot be read.
    pub fn from_ggml(number: u32) -> Result<Kind, String> {
        let found = Kind::ALL.iter().find(|kind| kind.ggml() == number);
        found.copied().ok_or_else(|| match other_name(number) {
            Some(name) => name.to_owned(),
            None => format!("type {number}"),
        })
    }

    /// ggml's type number.
    pub fn ggml(self) -> u32 {
        self.format().ggml
    }

    /// Numbers per block.
    pub const fn block(self) -> usize {
        self.format().block
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.format().bytes
    }

    /// Bytes of a row of `columns` numbers; `None` if it is no whole number of blocks or overflows.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let whole = columns.is_multiple_of(self.block());
        whole.then(|| (columns / self.block()).checked_mul(self.block_bytes())).flatten()
    }

    /// Whether numbers are stored in blocks with common scales; false for plain floats.
    pub const fn is_quantised(self) -> bool {
        self.block() > 1
    }

    /// Gives a block of random bits scales with which its numbers have about the standard deviation `spread`, and
    /// together with those of other blocks the mean 0. Nothing is done to plain floats.
    pub fn spread(self, block: &mut [u8], spread: f32) {
        if let Some(blocks) = self.blocks() {
            (blocks.spread)(block, spread);
        }
    }

    /// The kinds that can be read, for messages.
    pub fn list() -> String {
        Kind::ALL.map(|kind| kind.to_string()).join(", ")
    }

    pub(crate) const fn format(self) -> &'static Format {
        &FORMATS[self as usize]
    }

    /// What is done to its blocks, if it is quantised.
    pub(crate) const fn blocks(self) -> Option<&'static Blocks> {
        match &self.format().content {
            Content::Blocks(blocks) => Some(blocks),
            Content::Floats { .. } => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format().name)
    }
}

/// Names of types that are known but not read.
fn other_name(number: u32) -> Option<&'static str> {
    Some(match number {
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}
