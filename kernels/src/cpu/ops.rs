//! The small operations between products: RMS norm, gated activations, soft cap, choosing the largest.
//!
//! They work in place on plain slices, allocate nothing, and do not know about models. They are fused where this saves
//! a pass over memory: the residual is added in the pass that sums its squares, and a gate and its product are one
//! pass.

#![allow(clippy::needless_range_loop, reason = "kernels walk several arrays by one index")]

use super::isa::Isa;
use super::pool::{Disjoint, Pool};
use super::simd::{Lanes, dispatch};

/// Values below which rows are worked on by the calling thread.
const PARALLEL_FROM: usize = 1 << 15;

/// `row = row / rms(row) * weight`, in place; `row` and `weight` are equally long. `eps` is added to the mean of the
/// squares.
pub fn rms_norm_row(isa: Isa, row: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(row.len(), weight.len(), "a norm's weight has another length");
    // SAFETY: `isa` is one that this machine has; one slice in and out is what the kernel allows.
    unsafe { norm(isa, row.as_ptr(), row.as_mut_ptr(), weight, eps) };
}

/// RMS norm of each row: `out = x / rms(x) * weight`, `x` and `out` `[n][weight.len()]`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], (pool, isa): (&Pool, Isa)) {
    assert_eq!(x.len(), out.len(), "in and out differ in length");
    let width = weight.len();
    let parts = Disjoint::new(out);
    pool.run_if(x.len() >= PARALLEL_FROM, x.len() / width, &|i| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { parts.part(i * width, width) };
        let x = &x[i * width..(i + 1) * width];
        // SAFETY: `isa` is one that this machine has; lengths are `width`.
        unsafe { norm(isa, x.as_ptr(), out.as_mut_ptr(), weight, eps) };
    });
}

/// Adds a branch to the residual stream and norms the sum: `x += branch`, `out = norm(x)`; all
/// `[n][weight.len()]`.
pub fn add_rms_norm(
    x: &mut [f32],
    branch: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
    (pool, isa): (&Pool, Isa),
) {
    assert!(x.len() == branch.len() && x.len() == out.len(), "lengths differ");
    let (width, len) = (weight.len(), x.len());
    let (xs, outs) = (Disjoint::new(x), Disjoint::new(out));
    pool.run_if(len >= PARALLEL_FROM, len / width, &|i| {
        // SAFETY: each task has a row of its own.
        let (x, out) = unsafe { (xs.part(i * width, width), outs.part(i * width, width)) };
        for (x, b) in x.iter_mut().zip(&branch[i * width..]) {
            *x += b;
        }
        // SAFETY: `isa` is one that this machine has; lengths are `width`.
        unsafe { norm(isa, x.as_ptr(), out.as_mut_ptr(), weight, eps) };
    });
}

dispatch!(norm = norm_of(x: *const f32, out: *mut f32, weight: &[f32], eps: f32));

/// `x` and `out` hold `weight.len()` values and are the same or apart.
#[inline(always)]
unsafe fn norm_of<L: Lanes>(x: *const f32, out: *mut f32, weight: &[f32], eps: f32) {
    let len = weight.len();
    let whole = len / 16 * 16;
    // SAFETY: indices stay below `len`.
    unsafe {
        let mut squares = L::splat(0.0);
        for i in (0..whole).step_by(16) {
            let v = L::load(x.add(i));
            squares = v.mul_add(v, squares);
        }
        let tail: f32 = (whole..len).map(|i| *x.add(i) * *x.add(i)).sum();
        let mean = (squares.total() + tail) / len as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for i in (0..whole).step_by(16) {
            let v = L::load(x.add(i)).mul(L::splat(scale));
            v.mul(L::load(weight.as_ptr().add(i))).store(out.add(i));
        }
        for i in whole..len {
            *out.add(i) = *x.add(i) * scale * weight[i];
        }
    }
}

/// `x += y`, number by number; both are equally long.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Adds `bias` to each row of `x`, `[n][bias.len()]`.
pub fn add_bias(x: &mut [f32], bias: &[f32]) {
    x.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
}

/// What the gate of the feed-forward part goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (SwiGLU, arXiv:2002.05202).
    Silu,
    /// GELU in its tanh form (arXiv:1606.08415).
    GeluTanh,
}

/// `out = activation(gate) * up`, with `gate_up` `[n][gate: width | up: width]` and `out` `[n][width]`.
pub fn gated(
    activation: Activation,
    gate_up: &[f32],
    width: usize,
    out: &mut [f32],
    (pool, isa): (&Pool, Isa),
) {
    assert_eq!(gate_up.len(), 2 * out.len(), "gate and up are twice the output");
    let parts = Disjoint::new(out);
    pool.run_if(gate_up.len() >= PARALLEL_FROM, gate_up.len() / 2 / width, &|i| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { parts.part(i * width, width) };
        let (gate, up) = gate_up[i * 2 * width..(i + 1) * 2 * width].split_at(width);
        for ((out, gate), up) in out.chunks_mut(16).zip(gate.chunks(16)).zip(up.chunks(16)) {
            // SAFETY: `isa` is one that this machine has.
            unsafe { gate_16(isa, activation, gate, up, out) };
        }
    });
}

dispatch!(gate_16 = gate_16_of(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]));

/// Up to 16 values, of equal count.
#[inline(always)]
unsafe fn gate_16_of<L: Lanes>(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let (mut g, mut u, mut o) = ([0.0f32; 16], [0.0f32; 16], [0.0f32; 16]);
    g[..gate.len()].copy_from_slice(gate);
    u[..up.len()].copy_from_slice(up);
    // SAFETY: arrays of 16.
    unsafe {
        let x = L::load(g.as_ptr());
        let one = L::splat(1.0);
        // Both are x * sigmoid(y): (1 + tanh(z)) / 2 = sigmoid(2 z).
        let y = match activation {
            Activation::Silu => x,
            Activation::GeluTanh => {
                let cube = x.mul(x).mul(x);
                cube.mul_add(L::splat(0.044_715), x).mul(L::splat(2.0 * 0.797_884_6))
            }
        };
        let power = L::splat(0.0).sub(y).exp();
        x.div(one.add(power)).mul(L::load(u.as_ptr())).store(o.as_mut_ptr());
    }
    out.copy_from_slice(&o[..out.len()]);
}

/// `x = cap * tanh(x / cap)` for every value (Gemma 2's logits).
pub fn soft_cap(isa: Isa, x: &mut [f32], cap: f32) {
    let (whole, tail) = x.as_chunks_mut::<16>();
    let mut last = [0.0; 16];
    last[..tail.len()].copy_from_slice(tail);
    for chunk in whole.iter_mut().chain([&mut last]) {
        // SAFETY: `isa` is one that this machine has, and a chunk has 16 values.
        unsafe { cap_16(isa, chunk.as_mut_ptr(), cap) };
    }
    tail.copy_from_slice(&last[..tail.len()]);
}

dispatch!(cap_16 = cap_16_of(at: *mut f32, cap: f32));

/// Caps 16 values at `at`, by tanh(x) = 1 - 2 / (e^2x + 1).
#[inline(always)]
pub(crate) unsafe fn cap_16_of<L: Lanes>(at: *mut f32, cap: f32) {
    // SAFETY: the caller passes 16 values.
    unsafe {
        let power = L::load(at).mul(L::splat(2.0 / cap)).exp();
        let tanh = L::splat(1.0).sub(L::splat(2.0).div(power.add(L::splat(1.0))));
        tanh.mul(L::splat(cap)).store(at);
    }
}

/// The ids (indices) of the `k` largest of `scores`, largest first, equal ones by id, lower first; a NaN counts as the
/// smallest. `ids` is cleared and reused. Linear in the scores but for the last `k`.
pub fn top_k(scores: &[f32], k: usize, ids: &mut Vec<u32>) {
    ids.clear();
    let k = k.min(scores.len());
    if k == 0 {
        return;
    }
    let key = |id: u32| {
        let score = scores[id as usize];
        if score.is_nan() { f32::NEG_INFINITY } else { score }
    };
    let order = |a: &u32, b: &u32| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    // Candidates are gathered above a rising floor, so that few of a vocabulary are ever compared.
    let room = (4 * k).max(256);
    let mut floor = f32::NEG_INFINITY;
    for (id, score) in scores.iter().enumerate() {
        if *score > floor || ids.len() < k {
            ids.push(id as u32);
            if ids.len() == room {
                ids.select_nth_unstable_by(k - 1, order);
                ids.truncate(k);
                floor = key(ids[k - 1]);
            }
        }
    }
    if ids.len() > k {
        ids.select_nth_unstable_by(k - 1, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
}

/// The largest of the values; `None` if there is none, or one of them is NaN or infinite.
pub fn largest(isa: Isa, x: &[f32]) -> Option<f32> {
    // SAFETY: `isa` is one that this machine has.
    let (most, finite) = unsafe { survey(isa, x) };
    (finite && !x.is_empty()).then_some(most)
}

dispatch!(survey = survey_of(x: &[f32]) -> (f32, bool));

/// The largest, and whether all are finite: only then does nought times each come to nought.
#[inline(always)]
unsafe fn survey_of<L: Lanes>(x: &[f32]) -> (f32, bool) {
    let (whole, tail) = x.as_chunks::<16>();
    // SAFETY: chunks of 16.
    unsafe {
        let (nought, mut noughts) = (L::splat(0.0), L::splat(0.0));
        let mut most = L::splat(f32::NEG_INFINITY);
        for chunk in whole {
            let values = L::load(chunk.as_ptr());
            most = values.max(most);
            noughts = values.mul_add(nought, noughts);
        }
        let finite = noughts.total() == 0.0 && tail.iter().all(|v| v.is_finite());
        (tail.iter().copied().fold(most.largest(), f32::max), finite)
    }
}

/// `x = e^((x - shift) * factor)`, in place.
pub fn exps(isa: Isa, x: &mut [f32], shift: f32, factor: f32) {
    let (whole, tail) = x.as_chunks_mut::<16>();
    let mut last = [shift; 16];
    last[..tail.len()].copy_from_slice(tail);
    // SAFETY: `isa` is one that this machine has.
    unsafe {
        exp_16s(isa, whole, shift, factor);
        exp_16s(isa, std::slice::from_mut(&mut last), shift, factor);
    }
    tail.copy_from_slice(&last[..tail.len()]);
}

dispatch!(exp_16s = exp_16s_of(x: &mut [[f32; 16]], shift: f32, factor: f32));

#[inline(always)]
unsafe fn exp_16s_of<L: Lanes>(x: &mut [[f32; 16]], shift: f32, factor: f32) {
    for chunk in x {
        // SAFETY: a chunk has 16 values.
        unsafe {
            let power = L::load(chunk.as_ptr()).sub(L::splat(shift)).mul(L::splat(factor));
            power.exp().store(chunk.as_mut_ptr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn isas() -> Vec<Isa> {
        Isa::available()
    }

    fn close(a: f32, b: f64) -> bool {
        (f64::from(a) - b).abs() <= 2e-6 * b.abs().max(1e-3)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn norms_are_right(x in prop::collection::vec(-9f32..9.0, 1..70), n in 1usize..4) {
            let weight: Vec<f32> = (0..x.len()).map(|i| 0.5 + i as f32 / 50.0).collect();
            let rows = x.repeat(n);
            let branch: Vec<f32> = rows.iter().map(|v| v * 0.25 + 0.1).collect();
            for isa in isas() {
                let pool = Pool::new(2);
                let (mut sum, mut out) = (rows.clone(), vec![0.0; rows.len()]);
                add_rms_norm(&mut sum, &branch, &weight, 1e-5, &mut out, (&pool, isa));
                let mut alone = vec![0.0; rows.len()];
                rms_norm(&sum, &weight, 1e-5, &mut alone, (&pool, isa));
                prop_assert_eq!(&alone, &out);
                let mut row = sum[..x.len()].to_vec();
                rms_norm_row(isa, &mut row, &weight, 1e-5);
                prop_assert_eq!(&row[..], &out[..x.len()]);
                let wide: Vec<f64> =
                    rows.iter().zip(&branch).map(|(a, b)| f64::from(a + b)).take(x.len()).collect();
                let mean = wide.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
                for (i, v) in wide.iter().enumerate() {
                    let right = v / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                    prop_assert!((f64::from(out[i]) - right).abs() < 1e-5, "{} {}", out[i], right);
                }
            }
        }

        #[test]
        fn top_k_is_a_full_sort_cut_short(
            scores in prop::collection::vec(-4i32..5, 0..900), k in 0usize..40, odd in 0usize..900,
        ) {
            let mut scores: Vec<f32> = scores.into_iter().map(|v| v as f32).collect();
            if let Some(score) = scores.get_mut(odd) {
                *score = f32::NAN;
            }
            let low = |v: f32| if v.is_nan() { f32::NEG_INFINITY } else { v };
            let mut all: Vec<u32> = (0..scores.len() as u32).collect();
            all.sort_by(|a, b| {
                low(scores[*b as usize]).total_cmp(&low(scores[*a as usize])).then(a.cmp(b))
            });
            all.truncate(k);
            let mut ids = Vec::new();
            top_k(&scores, k, &mut ids);
            prop_assert_eq!(ids, all);
        }

        #[test]
        fn the_largest_is_found_unless_something_is_no_number(
            x in prop::collection::vec(-1e30f32..1e30, 1..80), at in 0usize..80,
            bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        ) {
            for isa in isas() {
                prop_assert_eq!(largest(isa, &x), x.iter().copied().reduce(f32::max));
                let mut spoilt = x.clone();
                let at = at % x.len();
                spoilt[at] = bad;
                prop_assert_eq!(largest(isa, &spoilt), None);
                prop_assert_eq!(largest(isa, &[]), None);
            }
        }

        #[test]
        fn exponentials_are_right(x in prop::collection::vec(-40f32..0.0, 1..80), factor in 0.1f32..2.0) {
            for isa in isas() {
                let mut got = x.clone();
                exps(isa, &mut got, -0.5, factor);
                for (got, x) in got.iter().zip(&x) {
                    prop_assert!(close(*got, f64::from((x + 0.5) * factor).exp()), "{got} of {x}");
                }
            }
        }

        /// A sampler gives this logit to tokens that must not be drawn.
        #[test]
        fn the_lowest_number_has_no_share(
            mut x in prop::collection::vec(-40f32..40.0, 1..80), at in 0usize..80, factor in 1e-3f32..1e3,
        ) {
            for isa in isas() {
                let at = at % x.len();
                x[at] = f32::MIN;
                let shift = largest(isa, &x);
                prop_assert_eq!(shift, x.iter().copied().reduce(f32::max));
                let mut got = x.clone();
                exps(isa, &mut got, shift.unwrap_or(0.0), factor);
                prop_assert!(got.iter().all(|w| (0.0..=1.0001).contains(w)), "{:?}", got);
                prop_assert!(got[at] == 0.0 || x.len() == 1, "{:?}", got);
            }
        }
    }

    #[test]
    fn gates_are_right_at_odd_widths_and_extremes() {
        let width = 37;
        let values = |seed: usize| (0..2 * width).map(move |i| ((i * 7 + seed) % 41) as f32 - 20.0);
        let gate_up: Vec<f32> = values(0).chain(values(3)).collect();
        for isa in isas() {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                let mut out = vec![0.0; 2 * width];
                gated(activation, &gate_up, width, &mut out, (&Pool::new(1), isa));
                for (i, out) in out.iter().enumerate() {
                    let at = i / width * 2 * width + i % width;
                    let (x, u) = (f64::from(gate_up[at]), f64::from(gate_up[at + width]));
                    let gate = match activation {
                        Activation::Silu => x / (1.0 + (-x).exp()),
                        Activation::GeluTanh => {
                            let z =
                                (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                            0.5 * x * (1.0 + z.tanh())
                        }
                    };
                    assert!(close(*out, gate * u), "{isa:?} {activation:?} {x} {u}: {out}");
                }
            }
        }
        // A gate this negative is closed, whatever comes up: no instruction set may leave a rest of it.
        for isa in isas() {
            for (gate, up, want) in [
                (-1e25, 1e25, 0.0),
                (-200.0, f32::MAX, 0.0),
                (1e25, 1e25, f32::INFINITY),
                (-1e25, f32::INFINITY, f32::NAN),
                (f32::NAN, 0.0, f32::NAN),
            ] {
                for activation in [Activation::Silu, Activation::GeluTanh] {
                    let mut out = [7.0];
                    gated(activation, &[gate, up], 1, &mut out, (&Pool::new(1), isa));
                    let same = out[0] == want || (out[0].is_nan() && want.is_nan());
                    assert!(same, "{isa:?} {activation:?} {gate} {up}: {out:?}");
                }
            }
        }
        for isa in isas() {
            let mut x = vec![1e30, -1e30, 0.0, 30.0];
            x.resize(21, -15.0);
            soft_cap(isa, &mut x, 30.0);
            assert!(x[0] == 30.0 && x[1] == -30.0 && x[2] == 0.0, "{x:?}");
            assert!(
                close(x[3], 30.0 * 1f64.tanh()) && close(x[20], -30.0 * 0.5f64.tanh()),
                "{x:?}"
            );
        }
    }
}
