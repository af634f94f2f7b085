//! How numbers are stored in a weight file: the kinds that this program can read, and how many bytes a row
//! of each takes.
//!
//! Block-quantised kinds are llama.cpp's (`ggml`), by its type numbers. Knows sizes only; turning blocks
//! into floats and multiplying by them is each device's business.

use std::borrow::Cow;
use std::fmt;

/// A storage format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Kind {
    pub const ALL: [Kind; 8] =
        [Kind::F32, Kind::F16, Kind::BF16, Kind::Q8_0, Kind::Q4_0, Kind::Q4K, Kind::Q5K, Kind::Q6K];

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
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::BF16 => 30,
            Kind::Q8_0 => 8,
            Kind::Q4_0 => 2,
            Kind::Q4K => 12,
            Kind::Q5K => 13,
            Kind::Q6K => 14,
        }
    }

    /// Numbers per block.
    pub fn block(self) -> usize {
        match self {
            Kind::F32 | Kind::F16 | Kind::BF16 => 1,
            Kind::Q8_0 | Kind::Q4_0 => 32,
            Kind::Q4K | Kind::Q5K | Kind::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::F16 | Kind::BF16 => 2,
            Kind::Q8_0 => 34,
            Kind::Q4_0 => 18,
            Kind::Q4K => 144,
            Kind::Q5K => 176,
            Kind::Q6K => 210,
        }
    }

    /// Bytes of a row of `columns` numbers; `None` if it is no whole number of blocks or overflows.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let whole = columns.is_multiple_of(self.block());
        whole.then(|| (columns / self.block()).checked_mul(self.block_bytes())).flatten()
    }

    pub fn is_quantised(self) -> bool {
        self.block() > 1
    }

    /// The kinds that can be read, for messages.
    pub fn list() -> String {
        Kind::ALL.map(|kind| kind.to_string()).join(", ")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::F32 => "F32",
            Kind::F16 => "F16",
            Kind::BF16 => "BF16",
            Kind::Q8_0 => "Q8_0",
            Kind::Q4_0 => "Q4_0",
            Kind::Q4K => "Q4_K",
            Kind::Q5K => "Q5_K",
            Kind::Q6K => "Q6_K",
        })
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

/// Weights as they are stored: rows of whole blocks, row by row.
#[derive(Debug, Clone)]
pub struct Stored<'a> {
    pub kind: Kind,
    /// Outermost first, as Hugging Face counts: `[rows, columns]` or `[columns]`.
    pub shape: Vec<usize>,
    /// Borrowed from the mapped file where its layout is the one wanted, else rearranged.
    pub bytes: Cow<'a, [u8]>,
}
