//! Weights as they come out of a file: a kind, a shape and bytes.
//!
//! It does not know about file formats. The kinds are defined in `serin-kernels`, next to the kernels that read them.

use super::Kind;
use std::borrow::Cow;

/// Weights as they are stored: rows of whole blocks, row by row.
#[derive(Debug, Clone)]
pub struct Stored<'a> {
    /// The storage format of `bytes`.
    pub kind: Kind,
    /// Outermost first, as Hugging Face counts: `[rows, columns]` or `[columns]`.
    pub shape: Vec<usize>,
    /// Borrowed from the mapped file where its layout is the one wanted, else rearranged.
    pub bytes: Cow<'a, [u8]>,
}
