//! How numbers are stored in a weight file: one source file per kind, and the table of all kinds.
//!
//! The block-quantised kinds are those of llama.cpp (`ggml`), with its type numbers. Their layouts are its file format,
//! which every GGUF reader has to follow. A kind's file says how a block is stored and unpacked, its layout in the
//! CPU's tiles and in a GPU's planes, and which kernels read it. Code that the kinds share is generic over [`Format`]:
//! blocks here (`block`), tiles in `cpu::quant`, planes in `cuda::weights`. It does not know about matrices.

mod block;
mod floats;
mod grid;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q45_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod stand_in;
#[cfg(test)]
mod tests;

pub(crate) use block::{Block, MAX_BLOCK, Scale};
pub use block::{all_finite, dequantise, dequantise_row};
pub use stand_in::stand_in;

use crate::cpu::quant::{Form, Kernels, Layout, get_half, put_half};
use crate::cuda::on_card::OnCard;
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
    /// Blocks of 20 bytes: 32 numbers of 4 bits under one f16 scale, above an f16 minimum.
    Q4_1: q4_1::FORMAT,
    /// Blocks of 22 bytes: 32 numbers of 5 bits under one f16 scale.
    Q5_0: q5_0::FORMAT,
    /// Blocks of 24 bytes: 32 numbers of 5 bits under one f16 scale, above an f16 minimum.
    Q5_1: q5_1::FORMAT,
    /// Blocks of 84 bytes: 256 numbers of 2 bits, with a scale and a minimum for every 16.
    Q2K: q2_k::FORMAT,
    /// Blocks of 110 bytes: 256 numbers of 3 bits, with a scale for every 16.
    Q3K: q3_k::FORMAT,
    /// Blocks of 18 bytes: 32 numbers of a table of 16 under one f16 scale.
    IQ4NL: iq4_nl::FORMAT,
    /// Blocks of 136 bytes: 256 numbers of the same table, with a scale for every 32.
    IQ4XS: iq4_xs::FORMAT,
    /// Blocks of 17 bytes: 32 floats of 4 bits under a power of two.
    MXFP4: mxfp4::FORMAT,
    /// Blocks of 98 bytes: 256 numbers by fours of a list of 256, with a scale for every 32.
    IQ3XXS: iq3_xxs::FORMAT,
    /// Blocks of 110 bytes: 256 numbers by fours of a list of 512, with a scale for every 32.
    IQ3S: iq3_s::FORMAT,
    /// Blocks of 66 bytes: 256 numbers by eights of a list of 256, with a scale for every 32.
    IQ2XXS: iq2_xxs::FORMAT,
    /// Blocks of 74 bytes: 256 numbers by eights of a list of 512, with a scale for every 16.
    IQ2XS: iq2_xs::FORMAT,
    /// Blocks of 82 bytes: 256 numbers by eights of a list of 1024, with a scale for every 16.
    IQ2S: iq2_s::FORMAT,
    /// Blocks of 50 bytes: 256 numbers by eights of a list of 2048, with a scale and a shift for every 32.
    IQ1S: iq1_s::FORMAT,
    /// Blocks of 56 bytes: as IQ1_S, with a scale for every 16 and a shift for every 8.
    IQ1M: iq1_m::FORMAT,
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
    /// On a card: the form of inputs, the planes, and the kernels that read them. `None`: no card has kernels for it.
    pub card: Option<OnCard>,
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
    /// Where a block has its scales, and what they are about in a model.
    pub scales: &'static [(Scale, f32)],
    /// Takes a stored block apart. Of a kind with a table, `q` are indices into it; see [`Blocks::open`].
    pub parse: fn(&[u8]) -> Block,
    /// How numbers and scales are sorted into tiles of the CPU; `None`: tiles hold blocks as they are stored.
    pub tile: Option<InTile>,
    /// Gives a block of random bits scales with which its numbers have about this standard deviation, and
    /// together with those of other blocks the mean 0.
    pub spread: fn(&mut [u8], f32),
}

/// A quantised kind in tiles of the CPU, beside what its [`Layout`] says.
pub(crate) struct InTile {
    /// Writes a block's scales into those of row `r` of a tile, which begin where the slice does.
    pub put_scales: fn(&mut [u8], usize, &Block),
    /// Takes them out again: a block without numbers.
    pub get_scales: fn(&[u8], usize) -> Block,
    /// The numbers that indices in the tile stand for; `None`: they are the numbers.
    pub table: Option<&'static [i8; 16]>,
    /// What kernels add to numbers to have unsigned ones, 0 or a power of two: what is stored has it already, a
    /// table's numbers get it when they are looked up.
    pub offset: u8,
}

impl InTile {
    /// Of blocks under one scale, whose numbers are stored with `ZERO` added.
    const fn under_one_scale<const ZERO: u8>() -> InTile {
        InTile {
            put_scales: |meta, r, block| put_half(meta, 0, r, block.d),
            get_scales: |meta, r| Block::under(get_half(meta, 0, r), ZERO),
            table: None,
            offset: ZERO,
        }
    }
}

impl Kind {
    /// The kind with ggml's type number. Fails if there is none that can be read; the error names the type.
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

    /// The kinds that GPUs have kernels for.
    pub fn on_cards() -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.is_on_cards())
    }

    /// Whether GPUs have kernels for it.
    pub fn is_on_cards(self) -> bool {
        self.card().is_some()
    }

    /// What GPUs are told of it, if they have kernels for it.
    pub(crate) fn card(self) -> Option<&'static OnCard> {
        self.format().card.as_ref()
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
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => return None,
    })
}
