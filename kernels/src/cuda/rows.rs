//! Elementwise operations on rows: rounding to the input format of a product, biases, gates, soft caps (`rows.cu`).
//!
//! All of them support any width; formats in blocks of 32 need a multiple of 32. Rows that are aligned to 16 bytes are
//! read 16 bytes at a time, others one number at a time, so callers need not care about alignment.

use super::acts::{ActKind, ActsMut};
use super::buffer::{View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// Threads of a block, and numbers that it works on (`rows.cu`).
const THREADS: u32 = 128;
const PER_BLOCK: usize = 4 * THREADS as usize;
/// Blocks side by side over one row, at most.
const CHUNKS: usize = 65_535;

/// What the gate of the feed-forward part goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (SwiGLU, arXiv:2002.05202).
    Silu,
    /// GELU in its tanh form (arXiv:1606.08415).
    GeluTanh,
}

/// Writes `x`, `[n][width]`, in the form that a product reads. Fails if lengths do not fit together or the launch
/// fails.
pub fn convert(
    card: &dyn Card,
    x: View<f32>,
    n: usize,
    width: usize,
    out: ActsMut,
) -> Result<(), CardError> {
    fits("convert: x", x.len(), n, width)?;
    written("convert", &out, n, width)?;
    let total = n * width;
    if total == 0 {
        return Ok(());
    }
    let kernel = match out.kind() {
        ActKind::F32 => "rows_convert_f32",
        ActKind::F16 => "rows_convert_f16",
        ActKind::BF16 => "rows_convert_bf16",
        ActKind::Q8 => "rows_convert_q8",
    };
    let [values, scales] = out.args();
    let whole = whole(total, &[x.arg(), values]);
    let args = [x.arg(), Arg::U64(total as u64), whole, values, scales];
    // SAFETY: the arguments are the kernel's, and both hold `total` numbers.
    unsafe { card.launch(kernel, pieces(total)?, &args) }
}

/// `out = activation(gate) * up`, `gate_up` `[n][gate: width | up: width]`, `out` `[n][width]`. Fails if lengths do not
/// fit together or the launch fails.
pub fn gated(
    card: &dyn Card,
    activation: Activation,
    gate_up: View<f32>,
    n: usize,
    width: usize,
    out: ActsMut,
) -> Result<(), CardError> {
    fits("gated: gate and up", gate_up.len(), n, width.saturating_mul(2))?;
    written("gated", &out, n, width)?;
    if n * width == 0 {
        return Ok(());
    }
    let kernel = match out.kind() {
        ActKind::F32 => "rows_gated_f32",
        ActKind::F16 => "rows_gated_f16",
        ActKind::BF16 => "rows_gated_bf16",
        ActKind::Q8 => "rows_gated_q8",
    };
    let [values, scales] = out.args();
    let gelu = Arg::I32(i32::from(activation == Activation::GeluTanh));
    let whole = whole(width, &[gate_up.arg(), values]);
    let args = [gelu, gate_up.arg(), Arg::I32(width as i32), whole, values, scales];
    // SAFETY: the arguments are the kernel's; the lengths were checked.
    unsafe { card.launch(kernel, chunked(n, width)?, &args) }
}

/// Adds `bias`, `[width]`, to each of the first `n` rows of `x`, `[n][width]`. Fails if `x` has fewer numbers or the
/// launch fails.
pub fn add_bias(
    card: &dyn Card,
    x: ViewMut<f32>,
    n: usize,
    bias: View<f32>,
) -> Result<(), CardError> {
    let width = bias.len();
    fits("add_bias: x", x.len(), n, width)?;
    if n * width == 0 {
        return Ok(());
    }
    let whole = whole(width, &[x.arg(), bias.arg()]);
    let args = [x.arg(), bias.arg(), Arg::I32(width as i32), whole];
    // SAFETY: the arguments are the kernel's; x holds `n` rows.
    unsafe { card.launch("rows_add_bias", chunked(n, width)?, &args) }
}

/// `x = cap * tanh(x / cap)`, every number of `x`. Fails if `cap` is not above 0 or the launch fails.
pub fn soft_cap(card: &dyn Card, x: ViewMut<f32>, cap: f32) -> Result<(), CardError> {
    require(cap > 0.0, || format!("soft_cap: a cap of {cap}"))?;
    let total = x.len();
    if total == 0 {
        return Ok(());
    }
    let args = [x.arg(), Arg::U64(total as u64), Arg::F32(cap), whole(total, &[x.arg()])];
    // SAFETY: the arguments are the kernel's.
    unsafe { card.launch("rows_soft_cap", pieces(total)?, &args) }
}

/// Refuses shapes that do not fit.
pub(crate) fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), CardError> {
    if holds { Ok(()) } else { Err(CardError::Shape(what())) }
}

/// Whether `len` numbers are `n` rows of `width` (or more), and the kernels can count them.
pub(crate) fn fits(what: &str, len: usize, n: usize, width: usize) -> Result<(), CardError> {
    let countable = n <= i32::MAX as usize && width <= i32::MAX as usize / 2;
    let fits = countable && n.checked_mul(width).is_some_and(|all| all <= len);
    require(fits, || format!("{what}: {len} numbers are not {n} rows of {width}"))
}

/// Whether `out` takes `n` rows of `width`.
pub(crate) fn written(what: &str, out: &ActsMut, n: usize, width: usize) -> Result<(), CardError> {
    require(out.holds(n, width), || {
        format!("{what}: the output, in {:?}, does not take {n} rows of {width}", out.kind())
    })?;
    let Arg::Address(scales) = out.args()[1] else { return Ok(()) };
    require(scales.is_multiple_of(8), || format!("{what}: the scales are not pairs"))
}

/// The kernels' `whole`: whether all rows lie on 16 bytes (or what they take in a narrower form).
pub(crate) fn whole(width: usize, addresses: &[Arg]) -> Arg {
    let aligned = |arg: &Arg| matches!(arg, Arg::Address(a) if a.is_multiple_of(16));
    Arg::I32(i32::from(width.is_multiple_of(4) && addresses.iter().all(aligned)))
}

/// Blocks over `total` numbers end to end.
fn pieces(total: usize) -> Result<Grid, CardError> {
    let blocks = total.div_ceil(PER_BLOCK);
    require(blocks <= i32::MAX as usize, || format!("{total} numbers are too many"))?;
    Ok(Grid::line(blocks, THREADS))
}

/// Blocks over `n` rows of `width` numbers.
fn chunked(n: usize, width: usize) -> Result<Grid, CardError> {
    let chunks = width.div_ceil(PER_BLOCK);
    require(chunks <= CHUNKS, || format!("rows of {width} numbers are too wide"))?;
    let threads = THREADS.min(width.div_ceil(4).next_multiple_of(32) as u32);
    Ok(Grid::of([n as u32, chunks as u32, 1], threads))
}

#[cfg(all(test, feature = "emulator"))]
mod tests;
