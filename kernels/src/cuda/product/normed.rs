//! Products whose results are added to the residual stream, and the norm that follows, which leaves its scale to the
//! next product.
//!
//! It is one launch if there is a kernel for the weights, the number of inputs and the form of the rows: with up to 8
//! inputs (`product_normed.cu`, `product_dense.cu`), and with up to 64 in tiles of 8-bit inputs
//! (`product_tiles_normed.cu`). Otherwise it is separate products followed by a launch of [`rms_pieces`]. Both give the
//! same bits.

use super::fused::{Few, Fused, Tiled};
use super::{Matrix, Output, Way, check, multiply_all, names};
use crate::cuda::acts::{ActKind, Acts, ProductInput};
use crate::cuda::buffer::{View, ViewMut};
use crate::cuda::card::{Arg, COUNTS, Card, CardError, Grid};
use crate::cuda::norm::{PIECE, Unscaled, add, rms_pieces};
use crate::cuda::rows::require;

/// `stream += x * weights^T + bias`, and the norm of that if a product follows: `n` rows of as many numbers as `parts`
/// have rows. `branch`: room for as many numbers as `stream`. Inputs as [`multiply_all`] takes them; they may not lie
/// where `out` is. Fails if lengths do not fit together or a launch fails.
#[allow(clippy::too_many_arguments, reason = "parts of a step belong to different owners")]
pub fn multiply_normed(
    card: &dyn Card,
    parts: &[Matrix],
    x: Acts<'_>,
    n: usize,
    bias: Option<View<'_, f32>>,
    stream: ViewMut<'_, f32>,
    mut branch: ViewMut<'_, f32>,
    out: Option<Unscaled<'_>>,
) -> Result<(), CardError> {
    let width: usize = parts.iter().map(Matrix::rows).sum();
    if let Some(out) = &out {
        require(out.weight.len() == width, || {
            format!("{} weights of a norm for {width} rows", out.weight.len())
        })?;
        out.check("a product's norm", n)?;
    }
    if let [matrix] = parts
        && let Some(fused) = fused(card, matrix, n, out.as_ref())
    {
        return fused.launch_normed(card, x.into(), bias, stream, out);
    }
    if let [matrix] = parts
        && let Some(tiled) = Tiled::of(card, matrix, n, names::tiles_normed)
        && fits(matrix, ActKind::Q8, out.as_ref())
    {
        return tiled.launch_normed(card, x.into(), bias, stream, out);
    }
    multiply_all(card, parts, x, n, branch.again(), bias)?;
    match out {
        Some(out) => rms_pieces(card, stream, branch.as_view(), n, out),
        None => add(card, stream, branch.as_view(), None, n, width),
    }
}

/// `n` inputs to rows in the form of `out`, if there is a kernel.
fn fused<'a>(
    card: &dyn Card,
    matrix: &'a Matrix,
    n: usize,
    out: Option<&Unscaled<'_>>,
) -> Option<Fused<'a>> {
    let Matrix { kind, rows, .. } = *matrix;
    let fits = fits(matrix, kind.input_kind(), out) && rows / PIECE <= COUNTS;
    Fused::of(card, matrix, n, names::normed(kind, n).filter(|_| fits))
}

/// Whether a kernel that writes rows in `form` can do that.
fn fits(matrix: &Matrix, form: ActKind, out: Option<&Unscaled<'_>>) -> bool {
    matrix.rows.is_multiple_of(PIECE) && out.is_none_or(|out| out.values.kind() == form)
}

/// The norm's weight, and where the rows and their squares go: null if no product follows.
fn out_args(out: Option<&Unscaled<'_>>) -> [Arg; 4] {
    out.map_or([Arg::Address(0); 4], |out| {
        let [values, scales] = out.values.args();
        [out.weight.arg(), values, scales, out.squares.arg()]
    })
}

/// Whether everything fits together.
fn check_normed(
    matrix: &Matrix,
    way: Way,
    x: &ProductInput<'_>,
    n: usize,
    bias: Option<&View<'_, f32>>,
    stream: ViewMut<'_, f32>,
) -> Result<(), CardError> {
    require(stream.address().is_multiple_of(16), || {
        "the residual stream does not start on 16 bytes".into()
    })?;
    check(matrix, way, x, n, &Output::of(stream, matrix.rows), bias)
}

impl Tiled<'_> {
    fn launch_normed(
        &self,
        card: &dyn Card,
        x: ProductInput<'_>,
        bias: Option<View<'_, f32>>,
        stream: ViewMut<'_, f32>,
        out: Option<Unscaled<'_>>,
    ) -> Result<(), CardError> {
        let Tiled { kernel, matrix, tile, n } = *self;
        let to = stream.arg();
        check_normed(matrix, Way::Tiles(tile), &x, n, bias.as_ref(), stream)?;
        let [weight, values, scales, squares] = out_args(out.as_ref());
        let [groups, inputs, rows] =
            [matrix.groups(), n, matrix.rows].map(|count| Arg::I32(count as i32));
        let bias = Arg::Address(bias.map_or(0, |bias| bias.address()));
        let product = [groups, inputs, bias, rows, to, weight, values, scales, squares];
        let workspace = card.workspace();
        let places = [workspace.floats, workspace.counts].map(Arg::Address);
        let args = [&matrix.planes()[..], &x.acts.args(), &product, &places].concat();
        // SAFETY: the kernel's arguments; `check` and `Unscaled::check` have held every length against what it reads and
        // writes, and the workspace has room for all shares of all tiles.
        unsafe { card.launch(kernel, self.grid(card), &args) }
    }
}

impl Fused<'_> {
    fn launch_normed(
        &self,
        card: &dyn Card,
        x: ProductInput<'_>,
        bias: Option<View<'_, f32>>,
        stream: ViewMut<'_, f32>,
        out: Option<Unscaled<'_>>,
    ) -> Result<(), CardError> {
        let Fused { kernel, matrix, few, n } = *self;
        let to = stream.arg();
        check_normed(matrix, few.into(), &x, n, bias.as_ref(), stream)?;
        let bias = Arg::Address(bias.map_or(0, |bias| bias.address()));
        let [weight, values, scales, squares] = out_args(out.as_ref());
        let counts = Arg::Address(card.workspace().counts);
        let [rows, columns, groups, inputs] =
            [matrix.rows, matrix.columns, matrix.groups(), n].map(|count| Arg::I32(count as i32));
        let (grid, args) = match few {
            Few::Vectors { split } => {
                let each = if n <= 4 { 2 } else { 4 } * (4 / split);
                let head = [&matrix.planes()[..], &x.acts.args(), &[groups, bias]].concat();
                let stream = [rows, to, weight, values, scales, squares];
                let rest = [counts, Arg::I32(split as i32)];
                let grid = Grid::line(matrix.rows / each, 128).shared(512);
                (grid, [&head[..], &stream, &rest].concat())
            }
            Few::Dense { split } => {
                let head =
                    [Arg::Address(matrix.address()), x.acts.args()[0], columns, inputs, bias];
                let stream = [rows, to, weight, values, squares];
                let rest = [counts, Arg::I32(split as i32)];
                let grid = Grid::line(matrix.rows / (16 * 8 / split), 256).shared(4096);
                (grid, [&head[..], &stream, &rest].concat())
            }
        };
        // SAFETY: the kernel's arguments; `check` and `Unscaled::check` have held every length against what it reads and
        // writes, and there is a count for each piece.
        unsafe { card.launch(kernel, grid, &args) }
    }
}
