//! Known answers of row operations in several orders of threads, and the shapes that are refused.

use super::answers::{Input, Written, download};
use super::*;
use crate::cuda::check::{Bench, refused};

#[test]
fn answers_are_known() {
    crate::cuda::check::prove(answers::checks);
}

#[test]
fn a_block_without_a_number_says_so() {
    let bench = Bench::emulated(16 << 20);
    let mut x = vec![1.0; 64];
    x[40] = f32::NAN;
    let input = Input::new(&bench, 0, &x).unwrap();
    let mut out = Written::new(&bench, ActKind::Q8, 64).unwrap();
    convert(&*bench.card, input.view(), 1, 64, out.out()).unwrap();
    let scales = out.buffer.get(ActKind::Q8, 64).args()[1];
    let read = download(&bench, scales, 16).unwrap();
    let pairs: Vec<f32> = read.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert!((pairs[0] - 1.0 / 127.0).abs() < 1e-8, "{pairs:?}");
    assert!(pairs[2].is_nan() && pairs[3].is_nan(), "{pairs:?}");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let bench = Bench::emulated(16 << 20);
    let card = &*bench.card;
    let x = Input::new(&bench, 0, &[0.0; 64]).unwrap();
    let mut y = Input::new(&bench, 0, &[0.0; 64]).unwrap();
    let mut out = Written::new(&bench, ActKind::F16, 64).unwrap();
    refused(convert(card, x.view(), 3, 32, out.out()), "convert: x: 64 numbers are not 3 rows");
    refused(convert(card, x.view(), usize::MAX, 2, out.out()), "convert: x");
    let mut small = Written::new(&bench, ActKind::F16, 63).unwrap();
    refused(convert(card, x.view(), 2, 32, small.out()), "does not take 2 rows of 32");
    let mut blocks = Written::new(&bench, ActKind::Q8, 64).unwrap();
    refused(convert(card, x.view(), 4, 16, blocks.out()), "does not take 4 rows of 16");
    refused(gated(card, Activation::Silu, x.view(), 2, 32, out.out()), "gate and up");
    refused(add_bias(card, y.view_mut(), 2, x.view()), "add_bias: x");
    refused(soft_cap(card, y.view_mut(), 0.0), "a cap of 0");
    refused(soft_cap(card, y.view_mut(), f32::NAN), "a cap of NaN");
}
