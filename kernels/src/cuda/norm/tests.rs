//! Known answers of norms in several orders of threads, and the shapes that are refused.

use super::*;
use crate::cuda::buffer::Buffer;
use crate::cuda::check::{Bench, refused};
use crate::cuda::rows::answers::{Input, Written};
use proptest::prelude::*;

#[test]
fn answers_are_known() {
    crate::cuda::check::prove(answers::checks);
}

#[test]
fn a_row_that_is_not_there_gives_nan() {
    let bench = Bench::emulated(16 << 20);
    let x = Input::new(&bench, 0, &[1.0; 16]).unwrap();
    let weight = Input::new(&bench, 0, &[1.0; 8]).unwrap();
    let pick = Buffer::of(&bench.card, bench.pool, &[1, 2, u32::MAX]).unwrap();
    let mut out: Buffer<f32> = Buffer::new(&bench.card, bench.pool, 24).unwrap();
    let norm = Norm { weight: weight.view(), eps: 0.0 };
    let to = ActsMut::F32(out.view_mut());
    rms_norm(&*bench.card, x.view(), Some(pick.view()), 3, norm, to).unwrap();
    let out = out.to_vec().unwrap();
    assert_eq!(out[..8], [1.0; 8]);
    assert!(out[8..].iter().all(|v| v.is_nan()), "{out:?}");
}

#[test]
fn no_rows_are_no_launch() {
    let bench = Bench::emulated(16 << 20);
    let weight = Input::new(&bench, 0, &[1.0; 8]).unwrap();
    let norm = Norm { weight: weight.view(), eps: 0.0 };
    let mut out = Written::new(&bench, ActKind::F16, 0).unwrap();
    rms_norm(&*bench.card, View::none(), None, 0, norm, out.out()).unwrap();
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let bench = Bench::emulated(16 << 20);
    let card = &*bench.card;
    let mut x = Input::new(&bench, 0, &[0.0; 64]).unwrap();
    let other = Input::new(&bench, 0, &[0.0; 64]).unwrap();
    let weight = Input::new(&bench, 0, &[0.0; 32]).unwrap();
    let picks = Buffer::of(&bench.card, bench.pool, &[0, 1]).unwrap();
    let mut out = Written::new(&bench, ActKind::F16, 96).unwrap();
    let norm = Norm { weight: weight.view(), eps: 0.0 };
    let wrong = Norm { weight: other.view().part(0, 31), eps: 0.0 };
    let pick = Some(picks.view());
    refused(rms_norm(card, other.view(), None, 3, norm, out.out()), "rms_norm: x");
    refused(rms_norm(card, other.view(), pick, 3, norm, out.out()), "2 picks of 2 rows for 3");
    let mut small = Written::new(&bench, ActKind::F16, 63).unwrap();
    refused(rms_norm(card, other.view(), None, 2, norm, small.out()), "does not take");
    let mut blocks = Written::new(&bench, ActKind::Q8, 64).unwrap();
    refused(rms_norm(card, other.view(), None, 2, wrong, blocks.out()), "does not take");
    let branch = weight.view();
    refused(add_rms_norm(card, x.view_mut(), branch, None, 2, norm, out.out()), "the branch");
    let branch = other.view();
    refused(add_rms_norm(card, x.view_mut(), branch, None, 3, norm, out.out()), "add: x");
    refused(add(card, x.view_mut(), branch, Some(wrong), 2, 32), "31 weights for a branch of 32");
    let mut squares = Buffer::<f32>::new(&bench.card, bench.pool, 8).unwrap();
    let wide = Input::new(&bench, 0, &[0.0; 9 * 128]).unwrap();
    let mut rows = Input::new(&bench, 0, &[0.0; 9 * 128]).unwrap();
    let mut halves = Written::new(&bench, ActKind::BF16, 9 * 128).unwrap();
    let mut pieces = |n: usize, width: usize, sums: usize, numbers: usize| {
        let (weight, squares) = (wide.view().part(0, width), squares.view_mut().part(0, sums));
        let out = Unscaled { weight, values: halves.out(), squares };
        rms_pieces(card, rows.view_mut().part(0, numbers), wide.view(), n, out)
    };
    pieces(2, 128, 2, 256).unwrap();
    refused(pieces(9, 128, 8, 9 * 128), "do not go without their scale");
    refused(pieces(1, 96, 1, 128), "do not go without their scale");
    refused(pieces(2, 128, 1, 256), "rms_pieces: 1 numbers");
    refused(pieces(2, 128, 2, 255), "rms_pieces: x");
    let long = Buffer::<f32>::new(&bench.card, bench.pool, WIDEST + 1).unwrap();
    let mut rows = Buffer::<f32>::new(&bench.card, bench.pool, WIDEST + 1).unwrap();
    refused(add(card, rows.view_mut(), long.view(), None, 1, WIDEST + 1), "at most 32768");
}

proptest! {
    #[test]
    fn a_block_holds_its_row_and_no_more_than_it_must(width in 1usize..=WIDEST, n in 1usize..4000) {
        let plan = Plan::of(width, n);
        let room = |threads: u32| threads as usize * plan.keep * 4;
        prop_assert!(plan.threads.is_multiple_of(32) && (32..=1024).contains(&plan.threads));
        prop_assert!(room(plan.threads) >= width);
        let few = plan.threads == 32 || room(plan.threads - 32) < width;
        let wide = n <= FEW_ROWS && (plan.threads - 32) as usize * 4 < width;
        prop_assert!(few || wide);
        prop_assert!(plan.keep == 4 || width > 16_384);
    }
}
