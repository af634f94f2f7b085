//! Known answers of row operations, and the helpers with which the cases of all families write inputs and read rows
//! back.

use super::*;
use crate::cuda::acts::{ActBuffer, Q8_BLOCK};
use crate::cuda::buffer::Buffer;
use crate::cuda::card::Stream;
use crate::cuda::check::{Bench, Check, Numbers, Size};

/// All forms of outputs.
pub(crate) const KINDS: [ActKind; 4] = [ActKind::F32, ActKind::F16, ActKind::BF16, ActKind::Q8];

/// Room for what a case writes, poisoned, `[n][width]` in one form.
pub(crate) struct Written {
    pub(super) buffer: ActBuffer,
    kind: ActKind,
    numbers: usize,
}

impl Written {
    pub(crate) fn new(bench: &Bench, kind: ActKind, numbers: usize) -> Result<Written, CardError> {
        let mut buffer =
            ActBuffer::new(&bench.card, bench.pool, numbers, &[kind], Stream::Compute)?;
        let out = buffer.get_mut(kind, numbers);
        for (arg, bytes) in out.args().iter().zip([numbers * kind.bytes(), numbers / Q8_BLOCK * 8])
        {
            let Arg::Address(address @ 1..) = *arg else { continue };
            bench.card.fill(address, 0xff, bytes, Stream::Compute)?;
        }
        Ok(Written { buffer, kind, numbers })
    }

    pub(crate) fn out(&mut self) -> ActsMut<'_> {
        self.buffer.get_mut(self.kind, self.numbers)
    }

    /// What was written beside what should have been.
    pub(crate) fn checks(
        &self,
        bench: &Bench,
        (kernel, case): (&'static str, &str),
        expected: &[f64],
    ) -> Result<Vec<Check>, CardError> {
        let [values, scales] = self.buffer.get(self.kind, self.numbers).args();
        let numbers = self.numbers;
        let (got, limit): (Vec<f32>, f64) = match self.kind {
            ActKind::F32 => {
                let read = download(bench, values, numbers * 4)?;
                (read.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), 1e-5)
            }
            ActKind::F16 => {
                let read = download(bench, values, numbers * 2)?;
                let halves = read.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b));
                (halves.map(half::f16::to_f32).collect(), 6e-4)
            }
            ActKind::BF16 => {
                let read = download(bench, values, numbers * 2)?;
                let halves = read.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b));
                (halves.map(half::bf16::to_f32).collect(), 5e-3)
            }
            ActKind::Q8 => {
                let q = download(bench, values, numbers)?;
                let pairs = download(bench, scales, numbers / Q8_BLOCK * 8)?;
                let pairs: Vec<f32> =
                    pairs.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                return Ok(blocks_of_32(kernel, case, &q, &pairs, expected));
            }
        };
        Ok(vec![Check::compare(kernel, format!("{case}, {:?}", self.kind), &got, expected, limit)])
    }
}

/// Every number within half a step of its block, and every block's pair.
fn blocks_of_32(
    kernel: &'static str,
    case: &str,
    q: &[u8],
    pairs: &[f32],
    expected: &[f64],
) -> Vec<Check> {
    let (mut ds, mut sums, mut worst) = (Vec::new(), Vec::new(), 0.0f64);
    for (block, expected) in q.chunks(Q8_BLOCK).zip(expected.chunks(Q8_BLOCK)) {
        let d = expected.iter().fold(0.0f64, |most, v| most.max(v.abs())) / 127.0;
        let q: Vec<f64> = block.iter().map(|q| f64::from(q.cast_signed())).collect();
        ds.push(d);
        sums.push(d * q.iter().sum::<f64>());
        let steps_off = q.iter().zip(expected).map(|(q, v)| (q - v / d.max(1e-30)).abs());
        worst = steps_off.fold(worst, f64::max);
    }
    let (got_d, got_sum): (Vec<f32>, Vec<f32>) =
        pairs.as_chunks::<2>().0.iter().map(|[d, sum]| (*d, *sum)).unzip();
    let values = Check { kernel, case: format!("{case}, steps off"), error: worst, limit: 0.501 };
    vec![
        values,
        Check::compare(kernel, format!("{case}, steps"), &got_d, &ds, 1e-5),
        Check::compare(kernel, format!("{case}, sums"), &got_sum, &sums, 1e-5),
    ]
}

pub(super) fn download(bench: &Bench, from: Arg, bytes: usize) -> Result<Vec<u8>, CardError> {
    let mut out = vec![0; bytes];
    if let Arg::Address(address @ 1..) = from {
        bench.card.download(address, &mut out, Stream::Compute)?;
    }
    Ok(out)
}

/// Numbers on the bench's card that begin `off` numbers behind a place on 16 bytes.
pub(crate) struct Input {
    buffer: Buffer<f32>,
    off: usize,
}

impl Input {
    pub(crate) fn new(bench: &Bench, off: usize, values: &[f32]) -> Result<Input, CardError> {
        let mut buffer = Buffer::new(&bench.card, bench.pool, off + values.len())?;
        buffer.write(off, values)?;
        Ok(Input { buffer, off })
    }

    pub(crate) fn view(&self) -> View<'_, f32> {
        self.buffer.view().part(self.off, self.buffer.len() - self.off)
    }

    pub(crate) fn view_mut(&mut self) -> ViewMut<'_, f32> {
        let len = self.buffer.len() - self.off;
        self.buffer.view_mut().part(self.off, len)
    }

    pub(crate) fn to_vec(&self) -> Result<Vec<f32>, CardError> {
        Ok(self.buffer.to_vec()?.split_off(self.off))
    }
}

/// Rows, width, and by how many numbers inputs are off 16 bytes.
const QUICK: &[(usize, usize, usize)] = &[(3, 64, 0)];
const FULL: &[(usize, usize, usize)] = &[
    (1, 1, 0),
    (1, 8, 0),
    (3, 30, 0),
    (5, 32, 0),
    (2, 33, 0),
    (4, 128, 1),
    (2, 480, 0),
    (1, 544, 0),
    (3, 1056, 2),
    (2, 2047, 0),
    (130, 12, 0),
    (1, 14_336, 0),
];

/// Known answers.
pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let cases = if size == Size::Quick { QUICK } else { FULL };
    let mut all = Vec::new();
    for (seed, &(n, width, off)) in cases.iter().enumerate() {
        let mut numbers = Numbers::new(seed as u64);
        for kind in KINDS {
            if kind == ActKind::Q8 && !width.is_multiple_of(Q8_BLOCK) {
                continue;
            }
            all.extend(check_convert(bench, kind, (n, width, off), &mut numbers)?);
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let shape = (n, width, off);
                all.extend(check_gated(bench, kind, activation, shape, &mut numbers)?);
            }
        }
        all.push(check_bias(bench, (n, width, off), &mut numbers)?);
        all.push(check_cap(bench, (n, width, off), &mut numbers)?);
    }
    Ok(all)
}

fn check_convert(
    bench: &Bench,
    kind: ActKind,
    (n, width, off): (usize, usize, usize),
    numbers: &mut Numbers,
) -> Result<Vec<Check>, CardError> {
    let mut x = numbers.numbers(n * width);
    // Whole rows of nothing have a step of 0.
    x[..width.min(32)].fill(0.0);
    let (input, mut out) = (Input::new(bench, off, &x)?, Written::new(bench, kind, n * width)?);
    convert(&*bench.card, input.view(), n, width, out.out())?;
    let expected: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    out.checks(bench, ("convert", &format!("{n} x {width} + {off}")), &expected)
}

fn check_gated(
    bench: &Bench,
    kind: ActKind,
    activation: Activation,
    (n, width, off): (usize, usize, usize),
    numbers: &mut Numbers,
) -> Result<Vec<Check>, CardError> {
    let mut gate_up: Vec<f32> = numbers.numbers(2 * n * width).iter().map(|v| v * 4.0).collect();
    // Gates that are all closed, or all open.
    gate_up[0] = -200.0;
    gate_up[width - 1] = 30.0;
    let input = Input::new(bench, off, &gate_up)?;
    let mut out = Written::new(bench, kind, n * width)?;
    gated(&*bench.card, activation, input.view(), n, width, out.out())?;
    let mut expected = Vec::new();
    for row in gate_up.chunks(2 * width) {
        for i in 0..width {
            let (gate, up) = (f64::from(row[i]), f64::from(row[width + i]));
            expected.push(up * activated(activation, gate));
        }
    }
    let case = format!("{activation:?} {n} x {width} + {off}");
    out.checks(bench, ("gated", &case), &expected)
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

fn check_bias(
    bench: &Bench,
    (n, width, off): (usize, usize, usize),
    numbers: &mut Numbers,
) -> Result<Check, CardError> {
    // One row more than is asked for: it has to stay.
    let (x, bias) = (numbers.numbers((n + 1) * width), numbers.numbers(width));
    let (mut rows, other) = (Input::new(bench, off, &x)?, Input::new(bench, 0, &bias)?);
    add_bias(&*bench.card, rows.view_mut(), n, other.view())?;
    let added = |(at, v): (usize, &f32)| {
        let bias = if at < n * width { f64::from(bias[at % width]) } else { 0.0 };
        f64::from(*v) + bias
    };
    let expected: Vec<f64> = x.iter().enumerate().map(added).collect();
    let case = format!("{n} x {width} + {off}");
    Ok(Check::compare("add_bias", case, &rows.to_vec()?, &expected, 1e-6))
}

fn check_cap(
    bench: &Bench,
    (n, width, off): (usize, usize, usize),
    numbers: &mut Numbers,
) -> Result<Check, CardError> {
    let mut x: Vec<f32> = numbers.numbers(n * width).iter().map(|v| v * 60.0).collect();
    x[0] = 1e30;
    let mut values = Input::new(bench, off, &x)?;
    soft_cap(&*bench.card, values.view_mut(), 30.0)?;
    let expected: Vec<f64> = x.iter().map(|v| 30.0 * (f64::from(*v) / 30.0).tanh()).collect();
    let case = format!("{n} x {width} + {off}");
    Ok(Check::compare("soft_cap", case, &values.to_vec()?, &expected, 1e-5))
}
