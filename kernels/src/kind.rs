//! How numbers are stored in a weight file: the kinds that can be read, and how many bytes a row of each takes.
//!
//! Block-quantised kinds are llama.cpp's (`ggml`), by its type numbers. Knows sizes only; turning blocks into
//! floats and multiplying by them is each device's business.

use std::fmt;

/// A storage format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightKind {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4K,
    Q5K,
    Q6K,
}

impl WeightKind {
    pub const ALL: [WeightKind; 8] = [
        WeightKind::F32,
        WeightKind::F16,
        WeightKind::BF16,
        WeightKind::Q8_0,
        WeightKind::Q4_0,
        WeightKind::Q4K,
        WeightKind::Q5K,
        WeightKind::Q6K,
    ];

    /// From ggml's type number; `Err` names the type that cannot be read.
    pub fn from_ggml(number: u32) -> Result<WeightKind, String> {
        let found = WeightKind::ALL.iter().find(|kind| kind.ggml() == number);
        found.copied().ok_or_else(|| match other_name(number) {
            Some(name) => name.to_owned(),
            None => format!("type {number}"),
        })
    }

    /// ggml's type number.
    pub fn ggml(self) -> u32 {
        match self {
            WeightKind::F32 => 0,
            WeightKind::F16 => 1,
            WeightKind::BF16 => 30,
            WeightKind::Q8_0 => 8,
            WeightKind::Q4_0 => 2,
            WeightKind::Q4K => 12,
            WeightKind::Q5K => 13,
            WeightKind::Q6K => 14,
        }
    }

    /// Numbers per block.
    pub fn block(self) -> usize {
        match self {
            WeightKind::F32 | WeightKind::F16 | WeightKind::BF16 => 1,
            WeightKind::Q8_0 | WeightKind::Q4_0 => 32,
            WeightKind::Q4K | WeightKind::Q5K | WeightKind::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            WeightKind::F32 => 4,
            WeightKind::F16 | WeightKind::BF16 => 2,
            WeightKind::Q8_0 => 34,
            WeightKind::Q4_0 => 18,
            WeightKind::Q4K => 144,
            WeightKind::Q5K => 176,
            WeightKind::Q6K => 210,
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
        WeightKind::ALL.map(|kind| kind.to_string()).join(", ")
    }
}

impl fmt::Display for WeightKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightKind::F32 => "F32",
            WeightKind::F16 => "F16",
            WeightKind::BF16 => "BF16",
            WeightKind::Q8_0 => "Q8_0",
            WeightKind::Q4_0 => "Q4_0",
            WeightKind::Q4K => "Q4_K",
            WeightKind::Q5K => "Q5_K",
            WeightKind::Q6K => "Q6_K",
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
