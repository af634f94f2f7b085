//! The matrix products of a decoder: weights are taken as stored, and used in that format.
//!
//! A [`Projection`] is one operation of the decoder: one weight or several that share their input, side by
//! side, with a bias. All weights of a model are in one allocation, whose size a [`Packer`] computes in
//! advance. It does not know about families or files.

use super::error::LoadError;
use super::names::Wanted;
use super::weights::Weights;
use crate::device::{Pool, QMatrix, Scratch, WeightStore, matmul_many, ops};

/// Puts matrices into one allocation, in the order in which a step reads them.
pub struct Packer<'a> {
    source: &'a Weights,
    store: WeightStore,
    pool: Pool,
}

impl<'a> Packer<'a> {
    /// Allocates room for all of `matrices`; they need not have been read yet. Fails if one is missing or cannot be
    /// packed, or if the memory cannot be had.
    pub fn new(
        source: &'a Weights,
        matrices: impl IntoIterator<Item = Wanted>,
    ) -> Result<Packer<'a>, LoadError> {
        let mut total = 0;
        for (name, [outputs, inputs]) in matrices {
            let kind = source.kind(&name)?;
            let bytes = QMatrix::packed_bytes(kind, outputs, inputs);
            total += bytes.map_err(|error| source.unfit(&name, &error))?.next_multiple_of(64);
        }
        let store = WeightStore::new(total).map_err(|error| source.unfit("all weights", &error))?;
        // Not the shared pool: a serving model must not wait for a whole matrix.
        Ok(Packer { source, store, pool: Pool::new((Pool::cores() / 2).max(1)) })
    }

    /// A vector of `len` numbers: a norm's weights or a bias. Fails as [`Weights::values`] does.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        self.source.values(name, &[len])
    }

    /// Packs the tensor `name`, `[outputs, inputs]`, behind those before it. Fails if the source has it
    /// in another shape or not at all, a value is not finite, or there is no room left.
    pub fn matrix(&mut self, (name, shape): &Wanted) -> Result<QMatrix, LoadError> {
        let [outputs, inputs] = *shape;
        let stored = self.source.stored(name, shape)?;
        let (kind, bytes) = (stored.kind, &stored.bytes);
        let packed = QMatrix::new_in(&mut self.store, &self.pool, kind, outputs, inputs, bytes)
            .map_err(|error| self.source.unfit(name, &error))?;
        self.source.consumed(name, packed.bytes() as u64);
        Ok(packed)
    }

    /// A projection of `wanted`, whose names end in `.weight`, and their biases. Fails if one of them is missing,
    /// has another shape, or holds NaN or infinity.
    pub fn projection(&mut self, wanted: &[Wanted], bias: bool) -> Result<Projection, LoadError> {
        let mut parts = Vec::with_capacity(wanted.len());
        let mut biases = Vec::new();
        for one in wanted {
            parts.push(self.matrix(one)?);
            if bias {
                let (name, [outputs, _]) = one;
                let name = name.strip_suffix("weight").unwrap_or(name);
                biases.extend(self.vector(&format!("{name}bias"), *outputs)?);
            }
        }
        Ok(Projection { parts, bias: bias.then_some(biases) })
    }
}

/// One projection of a layer.
pub struct Projection {
    parts: Vec<QMatrix>,
    bias: Option<Vec<f32>>,
}

impl Projection {
    /// `[n][inputs]` to `[n][outputs of all parts, side by side]`, which is what `out` holds afterwards.
    pub fn apply(&self, x: &[f32], n: usize, out: &mut Vec<f32>, products: &mut Scratch) {
        let outputs: usize = self.parts.iter().map(QMatrix::rows).sum();
        out.resize(n * outputs, 0.0);
        matmul_many(&self.parts, x, n, out, products);
        if let Some(bias) = &self.bias {
            ops::add_bias(out, bias);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Kind;
    use crate::device::Workbench;

    #[test]
    fn parts_lie_side_by_side_and_the_bias_is_added() {
        let bytes =
            |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let part = |rows, values: &[f32]| QMatrix::new(Kind::F32, rows, 2, &bytes(values)).unwrap();
        let parts = vec![part(3, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), part(1, &[10.0, 11.0])];
        let projection = Projection { parts, bias: Some(vec![0.5, 0.0, 0.0, 1.0]) };
        let (mut out, mut bench) = (vec![f32::NAN; 3], Workbench::shared());
        projection.apply(&[1.0, 2.0, -1.0, 0.5], 2, &mut out, &mut bench.products);
        assert_eq!(out, [2.5, 8.0, 14.0, 33.0, 1.0, -0.5, -1.5, -3.5]);
    }
}
