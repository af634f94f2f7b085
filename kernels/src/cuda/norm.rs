//! RMS norm, alone or with the join of a branch to the residual stream (`norm.cu`).
//!
//! One launch either way. A row is as wide as the norm's weight; rows of up to 32768 numbers stay in registers.

use super::acts::{ActKind, ActsMut, Q8_BLOCK};
use super::buffer::{Buffer, View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};
use super::check::{Bench, Check, Numbers, Size};
use super::rows::{Input, KINDS, Written, fits, require, whole, written};

/// What a row is divided by its root mean square for, and multiplied with.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// As long as a row.
    pub weight: View<'a, f32>,
    /// Added to the mean of the squares.
    pub eps: f32,
}

/// Widest row.
pub const WIDEST: usize = 32_768;

/// `out[i] = norm(x[i])`, or of row `pick[i]` of `x`: `n` rows. A row picked that `x` does not have gives
/// NaN.
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

/// `x += branch`, then `out = norm(x)`, `n` rows; the branch is normed itself before it joins if there is a
/// `branch_norm`.
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

/// As [`add_rms_norm`], without the norm of the sum: `x += branch`, `n` rows of `width`.
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

/// Rows, width, and by how many numbers the rows are off 16 bytes.
type Shape = (usize, usize, usize);

const QUICK: &[Shape] = &[(2, 96, 0), (1, 16_416, 0)];
const FULL: &[Shape] = &[
    (1, 1, 0),
    (2, 8, 0),
    (3, 30, 0),
    (2, 33, 3),
    (3, 96, 0),
    (5, 256, 0),
    (2, 544, 1),
    (2, 2048, 0),
    (1, 4127, 0),
    (1, 16_384, 0),
    (1, 16_416, 0),
    (1, 32_768, 0),
    (90, 64, 0),
];

/// Known answers.
pub fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let shapes = if size == Size::Quick { QUICK } else { FULL };
    let mut all = Vec::new();
    for (seed, &shape) in shapes.iter().enumerate() {
        let mut numbers = Numbers::new(seed as u64);
        for kind in KINDS {
            if kind == ActKind::Q8 && !shape.1.is_multiple_of(Q8_BLOCK) {
                continue;
            }
            all.extend(check_norm(bench, kind, shape, &mut numbers)?);
            for branch_normed in [false, true] {
                all.extend(check_join(bench, kind, branch_normed, shape, &mut numbers)?);
            }
        }
        for branch_normed in [false, true] {
            all.push(check_add(bench, branch_normed, shape, &mut numbers)?);
        }
    }
    Ok(all)
}

/// A case's rows, branch, and two weights.
struct Case {
    x: Vec<f32>,
    branch: Vec<f32>,
    weight: Vec<f32>,
    branch_weight: Vec<f32>,
    normed: bool,
}

/// Larger than models have it, so that it shows.
const EPS: f32 = 1e-3;

impl Case {
    fn new((n, width, _): Shape, normed: bool, numbers: &mut Numbers) -> Case {
        let weight = |numbers: &mut Numbers| -> Vec<f32> {
            numbers.numbers(width).iter().map(|v| 1.0 + v / 2.0).collect()
        };
        // One row more than is asked for: it has to stay.
        let mut x = numbers.numbers((n + 1) * width);
        // Small enough for eps to count.
        x[..width].iter_mut().for_each(|v| *v *= 0.05);
        let branch = numbers.numbers(n * width);
        Case { x, branch, weight: weight(numbers), branch_weight: weight(numbers), normed }
    }

    /// The rows after the join.
    fn joined(&self) -> Vec<f64> {
        let branch: Vec<f64> = match self.normed {
            true => normed(&wide(&self.branch), &self.branch_weight),
            false => wide(&self.branch),
        };
        let missing = std::iter::repeat(0.0);
        self.x
            .iter()
            .zip(branch.into_iter().chain(missing))
            .map(|(x, b)| f64::from(*x) + b)
            .collect()
    }

    fn name(&self, (n, width, off): Shape) -> String {
        let branch = if self.normed { ", branch normed" } else { "" };
        format!("{n} x {width} + {off}{branch}")
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn normed(rows: &[f64], weight: &[f32]) -> Vec<f64> {
    let mut out = Vec::new();
    for row in rows.chunks_exact(weight.len()) {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let rms = (mean + f64::from(EPS)).sqrt();
        out.extend(row.iter().zip(weight).map(|(v, w)| v / rms * f64::from(*w)));
    }
    out
}

/// Plain, and with rows picked in another order.
fn check_norm(
    bench: &Bench,
    kind: ActKind,
    shape: Shape,
    numbers: &mut Numbers,
) -> Result<Vec<Check>, CardError> {
    let (n, width, off) = shape;
    let case = Case::new(shape, false, numbers);
    let x = Input::new(bench, off, &case.x)?;
    let weight = Input::new(bench, 0, &case.weight)?;
    let norm = Norm { weight: weight.view(), eps: EPS };
    let all = normed(&wide(&case.x), &case.weight);
    let mut out = Written::new(bench, kind, n * width)?;
    rms_norm(&*bench.card, x.view(), None, n, norm, out.out())?;
    let name = case.name(shape);
    let mut checks = out.checks(bench, ("rms_norm", &name), &all[..n * width])?;
    let picks: Vec<u32> = (0..n).map(|_| numbers.below(n + 1) as u32).collect();
    let pick = Buffer::of(&bench.card, bench.pool, &picks)?;
    let mut out = Written::new(bench, kind, n * width)?;
    rms_norm(&*bench.card, x.view(), Some(pick.view()), n, norm, out.out())?;
    let picked: Vec<f64> =
        picks.iter().flat_map(|row| &all[*row as usize * width..][..width]).copied().collect();
    checks.extend(out.checks(bench, ("rms_norm", &format!("{name}, picked")), &picked)?);
    Ok(checks)
}

fn check_join(
    bench: &Bench,
    kind: ActKind,
    branch_normed: bool,
    shape: Shape,
    numbers: &mut Numbers,
) -> Result<Vec<Check>, CardError> {
    let (n, width, off) = shape;
    let case = Case::new(shape, branch_normed, numbers);
    let (mut x, branch) = (Input::new(bench, off, &case.x)?, Input::new(bench, 0, &case.branch)?);
    let weight = Input::new(bench, 0, &case.weight)?;
    let branch_weight = Input::new(bench, 0, &case.branch_weight)?;
    let norm = Norm { weight: weight.view(), eps: EPS };
    let branch_norm = branch_normed.then(|| Norm { weight: branch_weight.view(), eps: EPS });
    let mut out = Written::new(bench, kind, n * width)?;
    add_rms_norm(&*bench.card, x.view_mut(), branch.view(), branch_norm, n, norm, out.out())?;
    let (name, sums) = (case.name(shape), case.joined());
    let expected = normed(&sums[..n * width], &case.weight);
    let mut checks = out.checks(bench, ("add_rms_norm", &name), &expected)?;
    checks.push(Check::compare("add_rms_norm", format!("{name}, x"), &x.to_vec()?, &sums, 1e-6));
    Ok(checks)
}

fn check_add(
    bench: &Bench,
    branch_normed: bool,
    shape: Shape,
    numbers: &mut Numbers,
) -> Result<Check, CardError> {
    let (n, width, off) = shape;
    let case = Case::new(shape, branch_normed, numbers);
    let (mut x, branch) = (Input::new(bench, off, &case.x)?, Input::new(bench, 0, &case.branch)?);
    let branch_weight = Input::new(bench, 0, &case.branch_weight)?;
    let branch_norm = branch_normed.then(|| Norm { weight: branch_weight.view(), eps: EPS });
    add(&*bench.card, x.view_mut(), branch.view(), branch_norm, n, width)?;
    Ok(Check::compare("add", case.name(shape), &x.to_vec()?, &case.joined(), 1e-6))
}

#[cfg(all(test, feature = "emulator"))]
#[path = "norm_tests.rs"]
mod tests;
