//! Products of a few inputs that one launch does together with what follows.
//!
//! What follows is known to `gated` and `normed`, not here.

use super::{FEW, Matrix, Way};
use crate::cuda::card::Card;

/// A product of few inputs, and the kernel that does it.
pub(super) struct Fused<'a> {
    pub kernel: &'static str,
    pub matrix: &'a Matrix,
    pub few: Few,
    pub n: usize,
}

/// The ways that there are kernels for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Few {
    /// As [`Way::Vectors`].
    Vectors { split: usize },
    /// As [`Way::Dense`].
    Dense { split: usize },
}

impl<'a> Fused<'a> {
    /// Of `n` inputs with `kernel`, if there is one and it can do that.
    pub fn of(
        card: &dyn Card,
        matrix: &'a Matrix,
        n: usize,
        kernel: Option<&'static str>,
    ) -> Option<Fused<'a>> {
        let Matrix { kind, rows, columns, .. } = *matrix;
        let few = match Way::choose(kind, rows, columns, n, card.properties()) {
            Way::Vectors { split } if n <= FEW => Few::Vectors { split },
            Way::Dense { split } => Few::Dense { split },
            _ => return None,
        };
        Some(Fused { kernel: kernel?, matrix, few, n })
    }
}

impl From<Few> for Way {
    fn from(few: Few) -> Way {
        match few {
            Few::Vectors { split } => Way::Vectors { split },
            Few::Dense { split } => Way::Dense { split },
        }
    }
}
