//! The sampler compared with slow, obvious versions of the same rules.

use super::*;
use proptest::prelude::*;

fn draw(params: &SamplingParams) -> Draw<'_> {
    Draw { params, tokens: &[], unknown: 0, prompt_len: 0, guide: None }
}

/// Sort everything, then apply each filter in turn.
fn allowed(logits: &[f32], p: &SamplingParams) -> Vec<u32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |l: f32| f64::from(((l - max) * (1.0 / p.temperature)).exp());
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    let mut all: Vec<(u32, f64)> =
        ids.into_iter().map(|id| (id, weight(logits[id as usize]))).collect();
    if p.top_k > 0 {
        all.truncate(p.top_k as usize);
    }
    let total: f64 = all.iter().map(|a| a.1).sum();
    let mut mass = 0.0;
    let mut kept = Vec::new();
    for (id, weight) in all {
        kept.push((id, weight));
        mass += weight;
        if p.top_p < 1.0 && mass >= f64::from(p.top_p) * total {
            break;
        }
    }
    let floor = f64::from(p.min_p);
    kept.iter().enumerate().filter(|(i, k)| *i == 0 || k.1 >= floor).map(|(_, k)| k.0).collect()
}

proptest! {
    #[test]
    fn only_tokens_that_the_filters_allow_are_drawn(
        logits in proptest::collection::vec(-8f32..8.0, 1..400),
        top_k in prop_oneof![Just(0u32), 1u32..50],
        top_p in prop_oneof![Just(1f32), 0.05f32..0.99],
        min_p in prop_oneof![Just(0f32), 0.01f32..0.9],
        temperature in 0.2f32..2.0,
    ) {
        let base = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
        let expected = allowed(&logits, &base);
        for seed in 0..20 {
            let params = SamplingParams { seed, ..base.clone() };
            let id = sample(&mut logits.clone(), &draw(&params)).unwrap();
            prop_assert!(expected.contains(&id), "{id} not in {expected:?}");
        }
    }

    #[test]
    fn the_pick_is_a_function_of_the_kept_set(
        logits in proptest::collection::vec(-4f32..4.0, 1..200),
        top_k in prop_oneof![Just(0u32), 1u32..50],
        top_p in prop_oneof![Just(1f32), 0.05f32..0.99],
        min_p in prop_oneof![Just(0f32), 0.01f32..0.9],
        uniform in 0f64..1.0,
    ) {
        let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut weights = logits.clone();
        ops::exps(Isa::best(), &mut weights, largest, 1.0);
        let mut kept = allowed(&logits, &params);
        kept.sort_unstable();
        let of_kept: Vec<(u32, f32)> = kept.iter().map(|id| (*id, weights[*id as usize])).collect();
        let mut expected = kept[0];
        let mut point = uniform * of_kept.iter().map(|(_, w)| f64::from(*w)).sum::<f64>();
        for (id, weight) in &of_kept {
            expected = *id;
            point -= f64::from(*weight);
            if point < 0.0 {
                break;
            }
        }
        prop_assert_eq!(choose(&mut logits.clone(), largest, &params, uniform), expected);
        // The same set in another order, and among tokens with weight zero.
        prop_assert_eq!(draw_from(of_kept.iter().rev().copied().collect(), uniform), expected);
        let mut only = vec![0.0; weights.len()];
        of_kept.iter().for_each(|(id, weight)| only[*id as usize] = *weight);
        prop_assert_eq!(pick(&only, uniform), expected as usize);
    }

    #[test]
    fn a_nucleus_is_a_full_sort_cut_short(
        levels in proptest::collection::vec(0u32..300, 1..3000),
        share in 0.01f32..1.0,
    ) {
        // Many equal weights, some of them far below the last grade.
        let weights: Vec<f32> = levels.iter().map(|l| 0.9f32.powi(*l as i32)).collect();
        let mut ranked: Vec<(u32, f32)> = (0u32..).zip(weights.iter().copied()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let target = f64::from(share) * total;
        let mut mass = 0.0;
        let (mut surely, mut perhaps) = (Vec::new(), Vec::new());
        for (id, weight) in ranked {
            // Sums in another order differ in their last bits.
            if mass < target * (1.0 - 1e-12) {
                surely.push(id);
            }
            if mass < target * (1.0 + 1e-12) {
                perhaps.push(id);
            }
            mass += f64::from(weight);
        }
        let mut kept = weights.clone();
        keep_nucleus(&mut kept, share);
        for (id, (kept, weight)) in (0u32..).zip(kept.iter().zip(&weights)) {
            prop_assert!(*kept == 0.0 || kept == weight);
            prop_assert!(*kept > 0.0 || !surely.contains(&id), "{} is missing", id);
            prop_assert!(*kept == 0.0 || perhaps.contains(&id), "{} is too many", id);
        }
    }
}

#[test]
fn a_long_row_is_drawn_from_as_a_short_one() {
    let weights: Vec<f32> = (0..5 * RUN + 7).map(|i| ((i * 7919) % 97) as f32).collect();
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
    for at in 0..1000 {
        // Sums of integers are exact in any order.
        let uniform = f64::from(at) / 1000.0 + 0.0004;
        let mut point = uniform * total;
        let expected = weights.iter().position(|w| {
            point -= f64::from(*w);
            point < 0.0
        });
        assert_eq!(Some(pick(&weights, uniform)), expected);
    }
    assert_eq!(pick(&[0.0, 2.0, 0.0], 1.0), 1, "nothing beyond the end");
    for largest in [0, 1, RUN - 1, RUN, 3 * RUN + 5] {
        let mut logits = vec![-1.0; 4 * RUN];
        (logits[largest], logits[4 * RUN - 1]) = (2.0, 2.0);
        assert_eq!(first_of(&logits, 2.0) as usize, largest);
    }
}

#[test]
fn near_ties_that_swap_ranks_draw_the_same() {
    for (top_k, top_p) in [(3, 1.0), (0, 0.9)] {
        let params = SamplingParams { top_k, top_p, ..SamplingParams::default() };
        for at in 0..100 {
            let uniform = f64::from(at) / 100.0 + 0.005;
            let one = choose(&mut [-3.0, 0.999_999, 0.5, 1.0], 1.0, &params, uniform);
            let other = choose(&mut [-3.0, 1.0, 0.5, 0.999_999], 1.0, &params, uniform);
            assert_eq!(one, other);
        }
    }
}

#[test]
fn frequencies_follow_the_softmax() {
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let weights: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut counts = [0u32; 4];
    let n = 40_000u32;
    for seed in 0..n {
        let params = SamplingParams { seed: seed.into(), ..SamplingParams::default() };
        counts[sample(&mut logits.to_vec(), &draw(&params)).unwrap() as usize] += 1;
    }
    for (count, weight) in counts.iter().zip(&weights) {
        let p = weight / total;
        let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
        assert!((f64::from(*count) - f64::from(n) * p).abs() < 4.5 * sigma, "{counts:?}");
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(sample(&mut [1.0, 3.0, 3.0, 2.0], &draw(&SamplingParams::greedy())), Ok(1));
}

#[test]
fn nan_and_infinity_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let got = sample(&mut [1.0, bad, 0.0], &draw(&SamplingParams::greedy()));
        assert_eq!(got, Err(SampleError::NonFinite));
    }
    assert_eq!(sample(&mut [], &draw(&SamplingParams::greedy())), Err(SampleError::NonFinite));
}

#[test]
fn penalties_count_what_they_say_they_count() {
    let tokens = [0u32, 1, 1, 2];
    let params = SamplingParams {
        repetition_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        ..SamplingParams::greedy()
    };
    let mut logits = [4.0f32, 4.0, -1.0, 1.9];
    // Token 0 is in the prompt: repetition only. Token 1 occurs twice in the reply, 2 once.
    let id = sample(
        &mut logits,
        &Draw { params: &params, tokens: &tokens, unknown: 0, prompt_len: 1, guide: None },
    );
    assert_eq!(id, Ok(0));
    assert_eq!(logits, [2.0, 2.0 - 1.25, -2.0 - 0.75, 1.9]);
}

#[test]
fn the_same_seed_and_position_draw_the_same_and_others_differ() {
    assert_eq!(uniform(7, 3).to_bits(), uniform(7, 3).to_bits());
    let mut points: Vec<u64> =
        (0..100).flat_map(|s| (0..100).map(move |p| uniform(s, p).to_bits())).collect();
    points.sort_unstable();
    points.dedup();
    assert_eq!(points.len(), 10_000);
}
