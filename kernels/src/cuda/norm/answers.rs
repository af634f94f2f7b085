//! Known answers of norms and residual additions, from plain loops in f64.

use super::*;
use crate::cuda::acts::Q8_BLOCK;
use crate::cuda::buffer::Buffer;
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::rows::answers::{Input, KINDS, Written};

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
pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
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
    all.extend(unscaled(bench, size)?);
    Ok(all)
}

/// Rows whose scale is left to the next product.
fn unscaled(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let shapes: &[(usize, usize)] = match size {
        Size::Quick => &[(2, 256)],
        Size::Full => &[(1, 128), (8, 1024), (3, 5120)],
    };
    let mut all = Vec::new();
    for &(n, width) in shapes {
        for kind in [ActKind::BF16, ActKind::Q8] {
            all.extend(check_unscaled(bench, kind, (n, width, 0))?);
        }
    }
    Ok(all)
}

fn check_unscaled(bench: &Bench, kind: ActKind, shape: Shape) -> Result<Vec<Check>, CardError> {
    let (n, width, off) = shape;
    let case = Case::new(shape, false, &mut Numbers::new((n * width) as u64));
    let (mut x, branch) = (Input::new(bench, off, &case.x)?, Input::new(bench, 0, &case.branch)?);
    let weight = Input::new(bench, 0, &case.weight)?;
    let mut out = Written::new(bench, kind, n * width)?;
    let mut squares = Buffer::new(&bench.card, bench.pool, n * width / PIECE)?;
    let to = Unscaled { weight: weight.view(), values: out.out(), squares: squares.view_mut() };
    rms_pieces(&*bench.card, x.view_mut(), branch.view(), n, to)?;
    let (kernel, name, rows) = ("norm_pieces", case.name(shape), case.joined());
    let mut checks = vec![Check::compare(kernel, format!("{name}, x"), &x.to_vec()?, &rows, 1e-6)];
    let rows = &rows[..n * width];
    let weighed = rows.iter().zip(case.weight.iter().cycle()).map(|(v, w)| v * f64::from(*w));
    checks.extend(out.checks(bench, (kernel, &name), &weighed.collect::<Vec<f64>>())?);
    let sums: Vec<f64> =
        rows.chunks(PIECE).map(|piece| piece.iter().map(|v| v * v).sum()).collect();
    checks.push(Check::compare(kernel, name, &squares.to_vec()?, &sums, 1e-6));
    Ok(checks)
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
