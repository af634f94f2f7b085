//! Weights of matrix products, behind the one seam that storage formats differ at.
//!
//! [`Linear`] multiplies plain rows of activations by a weight in whatever form it is stored. A
//! [`Projection`] is one step of the decoder: one weight or several that share their input, side by side,
//! and a bias. Knows no family and no file.

use super::intake::{LoadError, Source};
use crate::device::{ops, with_f32};
use candle_core::{Device, Result, Tensor};

/// A weight matrix, `[outputs][inputs]`. Clones share the numbers.
#[derive(Debug, Clone)]
pub enum Linear {
    /// f32, contiguous.
    Dense(Tensor),
}

impl Linear {
    pub fn outputs(&self) -> usize {
        match self {
            Linear::Dense(weight) => weight.dims()[0],
        }
    }

    pub fn inputs(&self) -> usize {
        match self {
            Linear::Dense(weight) => weight.dims()[1],
        }
    }

    /// `out = x * weight^T` for `n` rows: `x` is `[n][inputs]`, `out` is `[n][outputs]`.
    pub fn matmul(&self, x: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        match self {
            Linear::Dense(weight) => {
                let x = Tensor::from_slice(x, (n, self.inputs()), &Device::Cpu)?;
                let product = x.matmul(&weight.t()?)?;
                with_f32(&product, |product| out.copy_from_slice(product))
            }
        }
    }

    /// The weight's rows at `ids`, end to end: an embedding's look-up.
    pub fn rows(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let width = self.inputs();
        match self {
            Linear::Dense(weight) => with_f32(weight, |all| {
                let row = |id: &u32| &all[*id as usize * width..][..width];
                ids.iter().flat_map(row).copied().collect()
            }),
        }
    }
}

/// One projection of a layer.
#[derive(Debug)]
pub struct Projection {
    parts: Vec<Linear>,
    outputs: usize,
    bias: Option<Vec<f32>>,
}

impl Projection {
    /// Loads tensors that share their input, one after the other in the output. `names`: one per entry of
    /// `outputs`, or a single one that holds them all; both without `.weight`.
    pub fn load(
        source: &dyn Source,
        names: &[String],
        outputs: &[usize],
        inputs: usize,
        bias: bool,
    ) -> std::result::Result<Projection, LoadError> {
        let total: usize = outputs.iter().sum();
        let sizes = if names.len() == 1 { vec![total] } else { outputs.to_vec() };
        let mut parts = Vec::new();
        let mut biases = Vec::new();
        for (name, size) in names.iter().zip(sizes) {
            parts.push(source.linear(&format!("{name}.weight"), [size, inputs])?);
            if bias {
                biases.extend(source.vector(&format!("{name}.bias"), size)?);
            }
        }
        Ok(Projection { parts: merge(parts)?, outputs: total, bias: bias.then_some(biases) })
    }

    /// `[n][inputs]` to `[n][outputs]`.
    pub fn apply(&self, x: &[f32], n: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; n * self.outputs];
        match self.parts.as_slice() {
            [one] => one.matmul(x, n, &mut out)?,
            parts => {
                let mut at = 0;
                for part in parts {
                    let width = part.outputs();
                    let mut piece = vec![0.0; n * width];
                    part.matmul(x, n, &mut piece)?;
                    let rows = out.chunks_exact_mut(self.outputs).zip(piece.chunks_exact(width));
                    rows.for_each(|(row, piece)| row[at..at + width].copy_from_slice(piece));
                    at += width;
                }
            }
        }
        if let Some(bias) = &self.bias {
            ops::add_bias(&mut out, bias);
        }
        Ok(out)
    }
}

/// Dense weights become one, so that one product does for all; others stay side by side.
fn merge(parts: Vec<Linear>) -> Result<Vec<Linear>> {
    let dense: Vec<&Tensor> = parts.iter().map(|Linear::Dense(weight)| weight).collect();
    if dense.len() < 2 || dense.len() < parts.len() {
        return Ok(parts);
    }
    Ok(vec![Linear::Dense(Tensor::cat(&dense, 0)?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(rows: usize, from: f32) -> Linear {
        let values: Vec<f32> = (0..rows * 2).map(|i| from + i as f32).collect();
        Linear::Dense(Tensor::from_vec(values, (rows, 2), &Device::Cpu).unwrap())
    }

    #[test]
    fn parts_side_by_side_equal_one_merged_weight() {
        let parts = vec![dense(3, 0.0), dense(1, 10.0)];
        let merged = merge(parts.clone()).unwrap();
        assert_eq!((merged.len(), merged[0].outputs()), (1, 4));
        let bias = Some(vec![0.5, 0.0, 0.0, 1.0]);
        let x = [1.0, 2.0, -1.0, 0.5];
        let apart = Projection { parts, outputs: 4, bias: bias.clone() };
        let one = Projection { parts: merged, outputs: 4, bias };
        let expected = [2.5, 8.0, 14.0, 33.0, 1.0, -0.5, -1.5, -3.5];
        assert_eq!(apart.apply(&x, 2).unwrap(), expected);
        assert_eq!(one.apply(&x, 2).unwrap(), expected);
    }

    #[test]
    fn rows_are_looked_up_in_order() {
        assert_eq!(dense(3, 0.0).rows(&[2, 0]).unwrap(), [4.0, 5.0, 0.0, 1.0]);
    }
}
