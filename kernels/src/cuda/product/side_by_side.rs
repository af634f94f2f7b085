//! Several matrices over the same inputs, their results side by side.
//!
//! Two matrices of the kinds that mixtures have are one launch with up to 8 inputs (`product_mixed.cu`); others are a
//! launch each. Both give the same bits, since each matrix is split as it would be by itself.

use super::{Matrix, Output, Way, check, few_blocks, multiply, names};
use crate::cuda::acts::ProductInput;
use crate::cuda::buffer::{View, ViewMut};
use crate::cuda::card::{Arg, Card, CardError, Grid};
use crate::cuda::rows::require;

/// `[n][columns]` to `[n][results of all parts, side by side]`, and a bias for all of them. Inputs as [`multiply`]
/// takes them; all parts take them in the same form.
pub fn multiply_all<'a>(
    card: &dyn Card,
    parts: &[Matrix],
    x: impl Into<ProductInput<'a>>,
    n: usize,
    mut out: ViewMut<'_, f32>,
    bias: Option<View<'_, f32>>,
) -> Result<(), CardError> {
    let (x, stride) = (x.into(), parts.iter().map(Matrix::rows).sum::<usize>());
    if let Some(bias) = &bias {
        require(bias.len() == stride, || {
            format!("a bias of {} numbers for {stride} rows", bias.len())
        })?;
    }
    if let [first, second] = parts
        && let Some(pair) = Pair::of(card, [first, second], n)
    {
        return pair.launch(card, x, out, bias);
    }
    let mut offset = 0;
    for part in parts {
        let bias = bias.map(|bias| bias.part(offset, part.rows));
        multiply(card, part, x, n, Output { values: out.again(), stride, offset }, bias)?;
        offset += part.rows;
    }
    Ok(())
}

/// Two matrices that one launch multiplies.
struct Pair<'a> {
    kernel: &'static str,
    matrices: [&'a Matrix; 2],
    /// The kernel's names of their kinds, and how many warps share their rows.
    kinds: [usize; 2],
    splits: [usize; 2],
    n: usize,
}

impl Pair<'_> {
    /// Of `n` inputs, if there is a kernel.
    fn of<'a>(card: &dyn Card, matrices: [&'a Matrix; 2], n: usize) -> Option<Pair<'a>> {
        let (kernel, kinds) = names::mixed(matrices.map(Matrix::kind), n)?;
        let ways = matrices.map(|matrix| {
            Way::choose(matrix.kind, matrix.rows, matrix.columns, n, card.properties())
        });
        let [Way::Vectors { split: first }, Way::Vectors { split: second }] = ways else {
            return None;
        };
        let alike = matrices[0].columns == matrices[1].columns;
        alike.then_some(Pair { kernel, matrices, kinds, splits: [first, second], n })
    }

    fn launch(
        &self,
        card: &dyn Card,
        x: ProductInput<'_>,
        mut out: ViewMut<'_, f32>,
        bias: Option<View<'_, f32>>,
    ) -> Result<(), CardError> {
        let stride = self.matrices[0].rows + self.matrices[1].rows;
        let (mut offset, mut args, mut blocks) = (0, Vec::new(), [0; 2]);
        for (i, matrix) in self.matrices.into_iter().enumerate() {
            let bias = bias.map(|bias| bias.part(offset, matrix.rows));
            let to = Output { values: out.again(), stride, offset };
            let way = Way::Vectors { split: self.splits[i] };
            check(matrix, way, &x, self.n, &to, bias.as_ref())?;
            let [kind, rows, split] =
                [self.kinds[i], matrix.rows, self.splits[i]].map(|count| Arg::I32(count as i32));
            let results = Arg::Address(out.address() + (offset * size_of::<f32>()) as u64);
            args.push(kind);
            args.extend(matrix.planes());
            args.extend([
                rows,
                results,
                Arg::Address(bias.map_or(0, |bias| bias.address())),
                split,
            ]);
            blocks[i] = few_blocks(matrix.rows, self.n, self.splits[i]);
            offset += matrix.rows;
        }
        args.push(Arg::I32(blocks[0] as i32));
        args.extend(x.acts.args());
        args.extend([Arg::I32(self.matrices[0].groups() as i32), Arg::U64(stride as u64)]);
        args.extend(x.scale_args());
        let grid = Grid::line(blocks[0] + blocks[1], 128).shared(512);
        // SAFETY: the kernel's arguments; `check` has held every length against what it reads and writes.
        unsafe { card.launch(self.kernel, grid, &args) }
    }
}
