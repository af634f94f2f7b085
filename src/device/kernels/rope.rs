//! Rotary position embedding (RoFormer, arXiv:2104.09864) from a table of cosines and sines.
//!
//! Knows positions, not how a family scales its frequencies: the caller passes them. May turn only the
//! first part of a head (partial rotary), and pairs either the two halves, as Hugging Face checkpoints
//! have it, or neighbours, as GGUF files of the Llama family do.

/// Which two values of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `i` and `i + half`.
    Halves,
    /// `2 i` and `2 i + 1`.
    Neighbours,
}

/// Cosines and sines, `[max_len][half]` each.
pub struct RopeTable {
    half: usize,
    pairs: RopePairs,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// `inv_freq`: `[head_dim / 2]` inverse frequencies, radians per position; halves turn together.
    pub fn new(inv_freq: &[f32], max_len: usize) -> RopeTable {
        RopeTable::with(inv_freq, max_len, 1.0, RopePairs::Halves)
    }

    /// `inv_freq`: `[half]` inverse frequencies, radians per position; a head's first `2 * half` values
    /// turn. `factor` multiplies the result (long-context scaling of attention).
    pub fn with(inv_freq: &[f32], max_len: usize, factor: f32, pairs: RopePairs) -> RopeTable {
        let angles = (0..max_len).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
        let (sin, cos) = angles.map(|a| (factor * a.sin(), factor * a.cos())).unzip();
        RopeTable { half: inv_freq.len(), pairs, cos, sin }
    }

    /// Positions the table covers.
    pub fn max_len(&self) -> usize {
        self.cos.len().checked_div(self.half).unwrap_or(0)
    }

    /// Rotates one head's vector, `[head_dim]`, in place.
    #[inline]
    pub fn rotate(&self, head: &mut [f32], position: usize) {
        let at = position * self.half;
        let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
        let turned = &mut head[..2 * self.half];
        match self.pairs {
            RopePairs::Halves => {
                let (low, high) = turned.split_at_mut(self.half);
                for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    (*low, *high) = (*low * cos - *high * sin, *high * cos + *low * sin);
                }
            }
            RopePairs::Neighbours => {
                for ((pair, cos), sin) in turned.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin)
                {
                    *pair = [pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pairings_turn_by_the_angle_and_leave_the_rest() {
        let head = [1.0, 2.0, 3.0, 4.0, 5.0];
        let turn = |pairs, position| {
            let mut head = head;
            RopeTable::with(&[0.5, 0.25], 8, 1.0, pairs).rotate(&mut head, position);
            head
        };
        assert_eq!(turn(RopePairs::Halves, 0), head);
        let (sin, cos) = 1.5f32.sin_cos();
        let halves = turn(RopePairs::Halves, 3);
        assert_eq!((halves[0], halves[2], halves[4]), (cos - 3.0 * sin, 3.0 * cos + sin, 5.0));
        let neighbours = turn(RopePairs::Neighbours, 3);
        assert_eq!((neighbours[0], neighbours[1]), (cos - 2.0 * sin, 2.0 * cos + sin));
        let twice = RopeTable::with(&[0.5], 8, 2.0, RopePairs::Halves);
        let mut pair = [1.0, 0.0];
        twice.rotate(&mut pair, 0);
        assert_eq!(pair, [2.0, 0.0]);
    }
}
