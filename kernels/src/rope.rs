//! Rotary position embedding: the angle by which each pair of values of a head is rotated (RoFormer, arXiv:2104.09864).
//!
//! The cosines and sines of a step's tokens are computed once per step and kind of layer. There is no table over all
//! positions: a config may allow ten million positions, but a step has a few hundred tokens, and for these the work is
//! far below that of one projection. Pairs are laid out as in Hugging Face checkpoints: value `i` is rotated with value
//! `i + half`. It does not know about scaling methods; the frequencies come from the model's config.

use super::batch::Batch;

/// Frequencies of one kind of layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// `[rotary_dim / 2]`, radians per position. Values of a head beyond `rotary_dim` are not turned.
    pub inv_freq: Vec<f32>,
    /// Multiplies the turned queries and keys; 1 unless a scaling recipe asks for it.
    pub factor: f32,
    /// What long sequences use instead (LongRoPE, arXiv:2402.13753).
    pub long: Option<LongRope>,
}

/// Frequencies for sequences of more than `beyond` tokens, for all of their positions.
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// Length of the longest sequence that still uses the short frequencies, in tokens.
    pub beyond: usize,
    /// As many as the short ones.
    pub inv_freq: Vec<f32>,
}

impl Rope {
    /// Values of each head that are turned.
    pub fn rotary_dim(&self) -> usize {
        2 * self.inv_freq.len()
    }

    /// Computes the angles of a step's tokens into `out`.
    pub fn fill(&self, batch: &Batch, out: &mut Angles) {
        out.half = self.inv_freq.len();
        out.cos.clear();
        out.sin.clear();
        for row in &batch.rows {
            let long = self.long.as_ref().filter(|long| row.total > long.beyond);
            let frequencies = long.map_or(&self.inv_freq, |long| &long.inv_freq);
            for &position in &batch.positions[row.start..row.start + row.len] {
                for frequency in frequencies {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    out.cos.push(cos * self.factor);
                    out.sin.push(sin * self.factor);
                }
            }
        }
    }
}

/// Cosines and sines for the tokens of one step, `[tokens][half]` each.
#[derive(Debug, Clone, Default)]
pub struct Angles {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Turns one head's vector, `[head_dim]`, in place by the angles of the step's token `token`.
    pub fn rotate(&self, head: &mut [f32], token: usize) {
        let at = token * self.half;
        let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
        let (low, high) = head.split_at_mut(self.half);
        for i in 0..self.half {
            let (a, b) = (low[i], high[i]);
            low[i] = a * cos[i] - b * sin[i];
            high[i] = b * cos[i] + a * sin[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Row;

    fn batch(positions: &[u32], total: usize) -> Batch {
        let row = Row {
            start: 0,
            len: positions.len(),
            context: positions.len(),
            total,
            table: 0,
            table_len: 0,
            scored: 0,
            drawn: None,
            sample: true,
        };
        let tokens = vec![0; positions.len()];
        Batch { tokens, positions: positions.to_vec(), rows: vec![row], ..Batch::default() }
    }

    #[test]
    fn a_turn_keeps_the_length_and_leaves_the_rest_of_the_head() {
        let rope = Rope { inv_freq: vec![1.0, 0.5], factor: 1.0, long: None };
        let mut angles = Angles::default();
        rope.fill(&batch(&[0, 3], 4), &mut angles);
        let head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (mut still, mut turned) = (head, head);
        angles.rotate(&mut still, 0);
        angles.rotate(&mut turned, 1);
        assert_eq!(still, head, "position 0 is not turned");
        let (sin, cos) = 3f32.sin_cos();
        assert!((turned[0] - (cos - 3.0 * sin)).abs() < 1e-6);
        assert!((turned[2] - (3.0 * cos + sin)).abs() < 1e-6);
        let length = |a: f32, b: f32| a * a + b * b;
        assert!((length(turned[1], turned[3]) - length(2.0, 4.0)).abs() < 1e-5);
        assert_eq!(turned[4..], head[4..], "beyond the rotary part");
    }

    #[test]
    fn long_sequences_use_their_own_frequencies_at_every_position() {
        let long = LongRope { beyond: 4, inv_freq: vec![0.25] };
        let rope = Rope { inv_freq: vec![1.0], factor: 2.0, long: Some(long) };
        let mut angles = Angles::default();
        for (total, frequency) in [(4, 1.0f32), (5, 0.25)] {
            rope.fill(&batch(&[1], total), &mut angles);
            assert_eq!(angles.cos, [2.0 * frequency.cos()], "{total} tokens");
        }
    }
}
