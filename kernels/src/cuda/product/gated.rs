//! Gate and up, and the activation: the feed-forward part up to the inputs of its last product.
//!
//! It is one launch if there is a kernel for the weights, the number of inputs and the form of the outputs: with up to
//! 8 inputs (`product_gated.cu`, `product_dense.cu`), and with up to 64 in tiles of 8-bit inputs
//! (`product_tiles_gated.cu`). Otherwise it is separate products followed by [`gated`]. Both give the same bits.

use super::fused::{Few, Fused, Tiled};
use super::{Matrix, Output, Way, check, multiply_all, names};
use crate::cuda::acts::{ActKind, ActsMut, ProductInput, Q8_BLOCK};
use crate::cuda::buffer::{View, ViewMut};
use crate::cuda::card::{Arg, COUNTS, Card, CardError, Grid};
use crate::cuda::rows::{Activation, gated, require, written};

/// `out = activation(gate) * up`, where the rows of `parts` are first those of the gate, then as many of up. `n` inputs
/// of as many numbers as the parts have columns, in [`Matrix::input_kind`], and a bias for all rows. `wide`: room for
/// `n` times all rows. Fails if lengths do not fit together or the launch fails.
#[allow(clippy::too_many_arguments, reason = "parts of a step belong to different owners")]
pub fn multiply_gated<'a>(
    card: &dyn Card,
    parts: &[Matrix],
    activation: Activation,
    x: impl Into<ProductInput<'a>>,
    n: usize,
    mut wide: ViewMut<'_, f32>,
    out: ActsMut<'_>,
    bias: Option<View<'_, f32>>,
) -> Result<(), CardError> {
    let (x, rows) = (x.into(), parts.iter().map(Matrix::rows).sum::<usize>());
    require(rows.is_multiple_of(2), || format!("{rows} rows are not those of gate and up"))?;
    if let [matrix] = parts
        && let Some(fused) = fused(card, matrix, n, out.kind())
    {
        return fused.launch_gated(card, activation, x, wide, out, bias);
    }
    if let [matrix] = parts
        && let Some(tiled) = tiled(card, matrix, n, out.kind())
    {
        return tiled.launch_gated(card, activation, x, wide, out, bias);
    }
    multiply_all(card, parts, x, n, wide.again(), bias)?;
    gated(card, activation, wide.as_view(), n, rows / 2, out)
}

/// `n` inputs to outputs in `form`, if there is a kernel.
fn fused<'a>(card: &dyn Card, matrix: &'a Matrix, n: usize, form: ActKind) -> Option<Fused<'a>> {
    let kernel = names::gated(matrix.kind, n).filter(|_| form == matrix.kind.input_kind());
    let counted = is_whole(matrix) && matrix.rows / 2 / Q8_BLOCK <= COUNTS;
    Fused::of(card, matrix, n, kernel)
        .filter(|fused| counted || matches!(fused.few, Few::Dense { .. }))
}

/// Whether the outputs are whole blocks of 8-bit numbers.
fn is_whole(matrix: &Matrix) -> bool {
    matrix.rows.is_multiple_of(2 * Q8_BLOCK)
}

/// Whether everything starts on 16 bytes.
fn require_aligned(outputs: &[Arg]) -> Result<(), CardError> {
    let aligned = |arg: &Arg| matches!(arg, Arg::Address(at) if at.is_multiple_of(16));
    require(outputs.iter().all(aligned), || "outputs do not start on 16 bytes".into())
}

fn is_gelu(activation: Activation) -> Arg {
    Arg::I32(i32::from(activation == Activation::GeluTanh))
}

/// `n` inputs of 8 bits in tiles to outputs in `form`, if there is a kernel. It counts the bytes from a row of the gate to
/// its row of up in 32 bits. What more inputs than a tile has would save is about what it costs
/// (`benches/runs/card-model.md`).
fn tiled<'a>(card: &dyn Card, matrix: &'a Matrix, n: usize, form: ActKind) -> Option<Tiled<'a>> {
    let fits = is_whole(matrix) && form == ActKind::Q8 && u32::try_from(matrix.bytes()).is_ok();
    Tiled::of(card, matrix, n, names::tiles_gated).filter(|_| fits)
}

impl Tiled<'_> {
    fn launch_gated(
        &self,
        card: &dyn Card,
        activation: Activation,
        x: ProductInput<'_>,
        wide: ViewMut<'_, f32>,
        out: ActsMut<'_>,
        bias: Option<View<'_, f32>>,
    ) -> Result<(), CardError> {
        let Tiled { kernel, matrix, tile, n } = *self;
        let results = Output::of(wide, matrix.rows);
        check(matrix, Way::Tiles(tile), &x, n, &results, bias.as_ref())?;
        written("gate and up", &out, n, matrix.rows / 2)?;
        let [values, scales] = out.args();
        require_aligned(&[values])?;
        let [groups, inputs, outputs] =
            [matrix.groups(), n, matrix.rows / 2].map(|count| Arg::I32(count as i32));
        let bias = Arg::Address(bias.map_or(0, |bias| bias.address()));
        let rest = [groups, inputs, bias, is_gelu(activation), outputs, values, scales];
        let workspace = card.workspace();
        let places = [workspace.floats, workspace.counts].map(Arg::Address);
        let scale = x.scale_args();
        let args = [&matrix.planes()[..], &x.acts.args(), &rest, &places, &scale].concat();
        // SAFETY: the kernel's arguments; `check` and `written` have held every length against what it reads and writes,
        // and the workspace has room for all shares of all tiles.
        unsafe { card.launch(kernel, self.grid(card), &args) }
    }
}

impl Fused<'_> {
    fn launch_gated(
        &self,
        card: &dyn Card,
        activation: Activation,
        x: ProductInput<'_>,
        mut wide: ViewMut<'_, f32>,
        out: ActsMut<'_>,
        bias: Option<View<'_, f32>>,
    ) -> Result<(), CardError> {
        let Fused { kernel, matrix, few, n } = *self;
        let results = Output::of(wide.again(), matrix.rows);
        check(matrix, few.into(), &x, n, &results, bias.as_ref())?;
        written("gate and up", &out, n, matrix.rows / 2)?;
        let [values, _] = out.args();
        require_aligned(&[wide.arg(), values])?;
        let bias = Arg::Address(bias.map_or(0, |bias| bias.address()));
        let gelu = is_gelu(activation);
        let (grid, args) = match few {
            Few::Vectors { split } => {
                let counts = Arg::Address(card.workspace().counts);
                self.gated_vectors(split, &x, [bias, gelu], [wide.arg(), counts], &out)
            }
            Few::Dense { split } => self.gated_dense(split, &x, [bias, gelu], &out),
        };
        // SAFETY: the kernel's arguments; `check` and `written` have held every length against what it reads and
        // writes, and there is a count for each block of outputs.
        unsafe { card.launch(kernel, grid, &args) }
    }

    fn gated_vectors(
        &self,
        split: usize,
        x: &ProductInput<'_>,
        [bias, gelu]: [Arg; 2],
        [floats, counts]: [Arg; 2],
        out: &ActsMut<'_>,
    ) -> (Grid, Vec<Arg>) {
        let outputs = self.matrix.rows / 2;
        let each = if self.n <= 4 { 1 } else { 2 } * (4 / split);
        let [groups, split] = [self.matrix.groups(), split].map(|count| Arg::I32(count as i32));
        let mut args =
            [self.matrix.planes().as_slice(), &x.acts.args(), &[groups, bias, gelu]].concat();
        args.extend([Arg::I32(outputs as i32), floats]);
        args.extend(out.args());
        args.extend([counts, split]);
        args.extend(x.scale_args());
        (Grid::line(outputs / each, 128).shared(512), args)
    }

    fn gated_dense(
        &self,
        split: usize,
        x: &ProductInput<'_>,
        [bias, gelu]: [Arg; 2],
        out: &ActsMut<'_>,
    ) -> (Grid, Vec<Arg>) {
        let outputs = self.matrix.rows / 2;
        let blocks = outputs.div_ceil(8).div_ceil(8 / split);
        let [columns, n, split] =
            [self.matrix.columns, self.n, split].map(|count| Arg::I32(count as i32));
        let weights = [Arg::Address(self.matrix.address()), x.acts.args()[0]];
        let shape = [Arg::U64(outputs as u64), columns, n];
        let rest = [bias, gelu, out.args()[0], split];
        let args = [&weights[..], &shape, &rest, &x.scale_args()].concat();
        (Grid::line(blocks, 256).shared(4096), args)
    }
}
