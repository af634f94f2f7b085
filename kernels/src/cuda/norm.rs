//! RMS norm, alone or together with adding a branch to the residual stream (`norm.cu`).
//!
//! Either takes one launch. A row is as wide as the norm's weight; rows of up to 32768 numbers stay in registers.
//! `unscaled` is the norm of a few rows that are inputs of a product; the product then applies the scale.

use super::acts::{ActKind, ActsMut};
use super::buffer::{View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};
use super::rows::{fits, require, whole, written};

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;
mod unscaled;

pub use unscaled::{PIECE, Unscaled, UnscaledBuffer, leaves_scale, rms_pieces};

/// What a row is divided by its root mean square for, and multiplied with.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// As long as a row.
    pub weight: View<'a, f32>,
    /// Added to the mean of the squares, under the root (1e-5 or so).
    pub eps: f32,
}

/// Widest row.
pub const WIDEST: usize = 32_768;

/// `out[i] = norm(x[i])`, or of row `pick[i]` of `x`: `n` rows of `[norm.weight.len()]`. A row picked that `x` does not
/// have gives NaN. Fails if lengths do not fit together or the launch fails.
pub fn rms_norm(
    card: &dyn Card,
    x: View<f32>,
    pick: Option<View<u32>>,
    n: usize,
    norm: Norm,
    out: ActsMut,
) -> Result<(), CardError> {
    let width = norm.weight.len();
    let rows = x.len() / width.max(1);
    match pick {
        Some(pick) => require(pick.len() >= n && rows <= i32::MAX as usize, || {
            format!("rms_norm: {} picks of {rows} rows for {n}", pick.len())
        })?,
        None => fits("rms_norm: x", x.len(), n, width)?,
    }
    written("rms_norm", &out, n, width)?;
    let source = Source { x: x.arg(), rows, pick, branch: None };
    launch(card, &source, (n, width), Some((norm, out)))
}

/// `x += branch`, then `out = norm(x)`, each `[n][norm.weight.len()]`; the branch is normed itself before it joins if
/// there is a `branch_norm`. Fails if lengths do not fit together or the launch fails.
pub fn add_rms_norm(
    card: &dyn Card,
    x: ViewMut<f32>,
    branch: View<f32>,
    branch_norm: Option<Norm>,
    n: usize,
    norm: Norm,
    out: ActsMut,
) -> Result<(), CardError> {
    let width = norm.weight.len();
    let source = joined(&x, branch, branch_norm, (n, width))?;
    written("add_rms_norm", &out, n, width)?;
    launch(card, &source, (n, width), Some((norm, out)))
}

/// As [`add_rms_norm`], without the norm of the sum: `x += branch`, `n` rows of `width`. Fails as it does.
pub fn add(
    card: &dyn Card,
    x: ViewMut<f32>,
    branch: View<f32>,
    branch_norm: Option<Norm>,
    n: usize,
    width: usize,
) -> Result<(), CardError> {
    let source = joined(&x, branch, branch_norm, (n, width))?;
    launch(card, &source, (n, width), None)
}

/// Where rows come from.
struct Source<'a> {
    x: Arg,
    rows: usize,
    pick: Option<View<'a, u32>>,
    /// With its norm, if it has one.
    branch: Option<(View<'a, f32>, Option<Norm<'a>>)>,
}

fn joined<'a>(
    x: &ViewMut<f32>,
    branch: View<'a, f32>,
    branch_norm: Option<Norm<'a>>,
    (n, width): (usize, usize),
) -> Result<Source<'a>, CardError> {
    fits("add: x", x.len(), n, width)?;
    fits("add: the branch", branch.len(), n, width)?;
    if let Some(Norm { weight, .. }) = branch_norm {
        require(weight.len() == width, || {
            format!("add: {} weights for a branch of {width}", weight.len())
        })?;
    }
    Ok(Source { x: x.arg(), rows: n, pick: None, branch: Some((branch, branch_norm)) })
}

fn launch(
    card: &dyn Card,
    source: &Source,
    (n, width): (usize, usize),
    out: Option<(Norm, ActsMut)>,
) -> Result<(), CardError> {
    require(width <= WIDEST, || format!("norm: rows of {width} numbers, at most {WIDEST} fit"))?;
    require(n <= i32::MAX as usize, || format!("norm: {n} rows are too many"))?;
    if n * width == 0 {
        return Ok(());
    }
    let null = Arg::Address(0);
    let (branch, branch_norm) = match source.branch {
        Some((branch, norm)) => (branch.arg(), norm),
        None => (null, None),
    };
    let (branch_weight, branch_eps) = branch_norm.map_or((null, 0.0), |n| (n.weight.arg(), n.eps));
    let (kind, weight, eps, [values, scales]) = match &out {
        Some((norm, out)) => (out.kind(), norm.weight.arg(), norm.eps, out.args()),
        None => (ActKind::F32, null, 0.0, [null, null]),
    };
    let plan = Plan::of(width, n);
    let args = [
        source.x,
        source.pick.map_or(null, |pick| pick.arg()),
        Arg::U32(source.rows as u32),
        branch,
        branch_weight,
        Arg::F32(branch_eps),
        weight,
        Arg::F32(eps),
        Arg::I32(width as i32),
        whole(width, &[source.x, branch, branch_weight, weight, values]),
        values,
        scales,
    ];
    let grid = Grid::line(n, plan.threads).shared(32 * size_of::<f32>());
    // SAFETY: the arguments are the kernel's; the callers checked what they hold.
    unsafe { card.launch(plan.kernel(kind), grid, &args) }
}

/// Rows that are few for any card.
const FEW_ROWS: usize = 64;

/// How a row is spread over a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    threads: u32,
    /// Most fours of numbers per thread.
    keep: usize,
}

impl Plan {
    /// Of many rows, four fours per thread are enough loads under way; more only where 1024 threads do not suffice.
    /// Of few rows, which leave most of a card idle, a block is as wide as it can be: what a thread does one after
    /// the other is what takes the time.
    fn of(width: usize, n: usize) -> Plan {
        let fours = width.div_ceil(4);
        let keep = if fours <= 4 * 1024 { 4 } else { 8 };
        let each = if n <= FEW_ROWS { fours.div_ceil(1024) } else { keep };
        Plan { threads: fours.div_ceil(each).next_multiple_of(32) as u32, keep }
    }

    fn kernel(self, kind: ActKind) -> &'static str {
        match (self.keep, kind) {
            (4, ActKind::F32) => "norm_4_f32",
            (4, ActKind::F16) => "norm_4_f16",
            (4, ActKind::BF16) => "norm_4_bf16",
            (4, ActKind::Q8) => "norm_4_q8",
            (_, ActKind::F32) => "norm_8_f32",
            (_, ActKind::F16) => "norm_8_f16",
            (_, ActKind::BF16) => "norm_8_bf16",
            (_, ActKind::Q8) => "norm_8_q8",
        }
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
