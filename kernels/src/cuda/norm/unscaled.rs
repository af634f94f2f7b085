//! RMS norm of up to 64 rows whose scale is left to the next product (`norm.cuh`).
//!
//! [`leaves_scale`] decides which rows are handled this way. The rows are written by the previous product
//! ([`crate::cuda::multiply_normed`]) or by [`rms_pieces`], with bit-identical results. Before the first layer they are
//! written by [`crate::cuda::embed()`].

use super::require;
use crate::cuda::acts::{ActBuffer, ActKind, ActsMut, ProductInput, Scale};
use crate::cuda::buffer::{Buffer, View, ViewMut};
use crate::cuda::card::{Arg, Card, CardError, Grid, Pool, Stream};
use crate::cuda::rows::{fits, written};
use std::sync::Arc;

/// Numbers of a row that are written together (`norms::kPiece`).
pub const PIECE: usize = 128;
/// Most rows in halves: as many as a product takes that is limited by reading its weights.
const FEW: usize = 8;
/// Most rows in 8 bits: as many as a tile of such inputs has.
const MANY: usize = 64;
/// Threads of a block: a warp has a piece.
const THREADS: u32 = 128;

/// Whether `n` rows of `width` numbers go to a product that takes them in `form` without their norm's scale. f16 has no
/// room for such numbers, and products of more rows do not multiply their sums.
pub fn leaves_scale(form: ActKind, n: usize, width: usize) -> bool {
    let most = match form {
        ActKind::Q8 => MANY,
        ActKind::BF16 => FEW,
        ActKind::F16 | ActKind::F32 => return false,
    };
    n <= most && width.is_multiple_of(PIECE)
}

/// Where such rows are written.
#[derive(Debug)]
pub struct Unscaled<'a> {
    /// The norm's weight, as long as a row.
    pub weight: View<'a, f32>,
    /// Rows times the weight.
    pub values: ActsMut<'a>,
    /// `[n][width / PIECE]`: what a piece's squares add up to.
    pub squares: ViewMut<'a, f32>,
}

impl Unscaled<'_> {
    /// Whether it has room for `n` rows, and rows are what [`leaves_scale`] allows.
    pub(crate) fn check(&self, what: &str, n: usize) -> Result<(), CardError> {
        let (width, form) = (self.weight.len(), self.values.kind());
        require(leaves_scale(form, n, width), || {
            format!("{what}: {n} rows of {width} in {form:?} do not go without their scale")
        })?;
        written(what, &self.values, n, width)?;
        fits(what, self.squares.len(), n, width / PIECE)?;
        let aligned = |arg: Arg| matches!(arg, Arg::Address(at) if at.is_multiple_of(16));
        require([self.weight.arg(), self.values.args()[0]].into_iter().all(aligned), || {
            format!("{what}: the weight or the rows do not start on 16 bytes")
        })
    }
}

/// Room for such rows.
#[derive(Debug)]
pub struct UnscaledBuffer {
    acts: ActBuffer,
    squares: Buffer<f32>,
    width: usize,
}

impl UnscaledBuffer {
    /// Room for rows of `width` in any of these forms, as many as [`leaves_scale`] allows. Fails if memory is used up
    /// or the device fails.
    pub fn new(
        card: &Arc<dyn Card>,
        pool: Pool,
        width: usize,
        kinds: &[ActKind],
        stream: Stream,
    ) -> Result<UnscaledBuffer, CardError> {
        Ok(UnscaledBuffer {
            acts: ActBuffer::new(card, pool, MANY * width, kinds, stream)?,
            squares: Buffer::on(card, pool, MANY * width.div_ceil(PIECE), stream)?,
            width,
        })
    }

    /// Numbers and sums of squares that it has room for.
    pub fn sizes(width: usize) -> [usize; 2] {
        [MANY * width, MANY * width.div_ceil(PIECE)]
    }

    /// The first `n` rows as the inputs of a product. Panics if there is no room.
    pub fn get(&self, form: ActKind, n: usize, eps: f32) -> ProductInput<'_> {
        let squares = self.squares.first(n * (self.width / PIECE));
        ProductInput {
            acts: self.acts.get(form, n * self.width),
            scale: Some(Scale { squares, eps }),
        }
    }

    /// The first `n` rows, to be written by the norm with this weight. Panics if there is no room.
    pub fn get_mut<'a>(
        &'a mut self,
        form: ActKind,
        n: usize,
        weight: View<'a, f32>,
    ) -> Unscaled<'a> {
        let values = self.acts.get_mut(form, n * self.width);
        Unscaled { weight, values, squares: self.squares.first_mut(n * (self.width / PIECE)) }
    }
}

/// `x += branch`, then its norm without the scale, `n` rows of `[out.weight.len()]`. Fails if lengths do not fit
/// together, if rows do not start on 16 bytes, or if the launch fails.
pub fn rms_pieces(
    card: &dyn Card,
    x: ViewMut<'_, f32>,
    branch: View<'_, f32>,
    n: usize,
    out: Unscaled<'_>,
) -> Result<(), CardError> {
    let width = out.weight.len();
    out.check("rms_pieces", n)?;
    fits("rms_pieces: x", x.len(), n, width)?;
    fits("rms_pieces: the branch", branch.len(), n, width)?;
    let aligned = |arg: Arg| matches!(arg, Arg::Address(at) if at.is_multiple_of(16));
    require([x.arg(), branch.arg()].into_iter().all(aligned), || {
        "rms_pieces: rows do not start on 16 bytes".into()
    })?;
    let all = n * width / PIECE;
    if all == 0 {
        return Ok(());
    }
    let kernel =
        if out.values.kind() == ActKind::Q8 { "norm_pieces_q8" } else { "norm_pieces_bf16" };
    let [values, scales] = out.values.args();
    let [wide, count] = [width, all].map(|count| Arg::I32(count as i32));
    let args =
        [x.arg(), branch.arg(), out.weight.arg(), wide, count, values, scales, out.squares.arg()];
    let grid = Grid::line(all.div_ceil(THREADS as usize / 32), THREADS);
    // SAFETY: the kernel's arguments; the lengths were checked.
    unsafe { card.launch(kernel, grid, &args) }
}
