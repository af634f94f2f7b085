//! Sampling compared with the slow implementation, however rows are cut, and with statistical expectations.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn parts_are_whole_and_none_is_empty(n in 1usize..5000, vocab in 1usize..=MOST_TOKENS) {
        let Split { parts, len } = split(n, vocab);
        prop_assert!((1..=MOST_PARTS).contains(&parts));
        prop_assert!(len.is_multiple_of(CHUNK));
        prop_assert!(parts * len >= vocab && (parts - 1) * len < vocab);
        prop_assert!(parts == 1 || n * parts <= BLOCKS + n);
    }
}

#[test]
fn few_rows_get_many_blocks_and_many_rows_one_each() {
    assert_eq!(split(1, 128_256), Split { parts: 32, len: 4096 });
    assert_eq!(split(16, 128_256), Split { parts: 16, len: 8192 });
    assert_eq!(split(256, 128_256).parts, 1);
    assert_eq!(split(1, 4096).parts, 1);
}

#[test]
fn a_sequence_lists_each_token_once() {
    let edit = |id, count, bias| TokenEdit { id, count, bias };
    let list = TokenEdit::list(&[7, 3, 7], &[3, 9, 9], &[(4, -1.0), (9, 2.0)]);
    assert_eq!(list, [edit(3, 1, 0.0), edit(4, UNSEEN, -1.0), edit(7, 0, 0.0), edit(9, 2, 2.0)]);
}

#[test]
fn uniforms_keep_53_bits() {
    let of = |uniform| RowParams::default().with_uniform(uniform).uniform;
    assert_eq!((of(0.0), of(0.5)), (0, 1 << 52));
    assert_eq!(of(1.0 - f64::EPSILON / 2.0), (1 << 53) - 1);
    assert_eq!((of(1.0), of(f64::NAN), of(-1.0)), ((1 << 53) - 1, 0, 0));
}

#[cfg(feature = "emulator")]
mod emulated {
    use super::super::answers::{Case, Penalty, Row, RowSpec, checks, mixed, normal, reference};
    use super::*;
    use crate::cuda::buffer::{Buffer, Mapped};
    use crate::cuda::check::{Bench, Numbers};

    #[test]
    fn answers_are_known() {
        crate::cuda::check::prove(checks);
    }

    /// Thousands of rows; a pick may differ only where it hangs on rounding, and that has to be rare.
    #[test]
    fn picks_are_those_of_the_slow_rules() {
        let bench = Bench::emulated(512 << 20);
        let (mut rows, mut moved) = (0, 0);
        for seed in 0..25 {
            let kind = [Row::Model, Row::Steps, Row::Model, Row::Flat][seed % 4];
            let vocab = [32, 61, 500, 1500, 3000][seed % 5];
            let cap = if seed % 7 == 6 { 15.0 } else { 0.0 };
            let case = mixed(1000 + seed as u64, 96, vocab, kind, cap);
            let got = case.ids(&bench, split(96, vocab)).unwrap();
            let (expected, rounding) = case.expected(&got);
            assert_eq!(got, expected, "{}, seed {seed}", case.name);
            (rows, moved) = (rows + got.len(), moved + rounding);
        }
        println!("{moved} of {rows} picks hang on rounding");
        assert!(moved * 500 <= rows, "{moved} of {rows} picks hang on rounding");
    }

    /// Sums are exact, so that a row's token does not depend on the rows beside it.
    #[test]
    fn picks_do_not_depend_on_how_rows_are_cut_up() {
        let bench = Bench::emulated(512 << 20);
        for (seed, kind) in [Row::Model, Row::Steps, Row::Flat, Row::Equal].into_iter().enumerate()
        {
            let case = mixed(seed as u64, 8, 12_345, kind, 0.0);
            let whole = case.ids(&bench, cut_into(1, case.vocab)).unwrap();
            for parts in [2, 4] {
                let cut = case.ids(&bench, cut_into(parts, case.vocab)).unwrap();
                assert_eq!(whole, cut, "{kind:?} in {parts} parts");
            }
        }
    }

    /// One draw from each of as many equal stretches of [0, 1): a token's share of the draws is then its
    /// probability, to within two draws, where random ones would need a chi-square test and far more of them.
    #[test]
    fn frequencies_follow_the_weights() {
        let bench = Bench::emulated(512 << 20);
        let (draws, vocab) = (400, 40);
        let mut numbers = Numbers::new(77);
        let logits: Vec<f32> = (0..vocab).map(|_| normal(&mut numbers)).collect();
        let settings =
            [(0, 1.0, 0.0), (12, 1.0, 0.0), (0, 0.8, 0.0), (0, 1.0, 0.2), (20, 0.9, 0.01)];
        for (top_k, top_p, min_p) in settings {
            let params =
                RowParams { temperature: 1.3, top_k, top_p, min_p, ..RowParams::default() };
            let mut uniform = |i| {
                (f64::from(i) + f64::from(numbers.number().abs()).min(0.999)) / f64::from(draws)
            };
            let uniforms: Vec<f64> = (0..draws).map(&mut uniform).collect();
            let spec = |u| RowSpec { params: params.with_uniform(u), ..RowSpec::default() };
            let specs: Vec<RowSpec> = uniforms.into_iter().map(spec).collect();
            let logits = logits.repeat(draws as usize);
            let case = Case { name: String::new(), vocab, soft_cap: 0.0, logits, specs };
            let mut seen = vec![0.0f64; vocab];
            for id in case.ids(&bench, split(draws as usize, vocab)).unwrap() {
                seen[id as usize] += 1.0;
            }
            let expected = probabilities(&case);
            let kept = expected.iter().filter(|p| **p > 0.0).count();
            let filtered = (top_k, top_p, min_p) != (0, 1.0, 0.0);
            assert!(kept >= 5 && (kept < vocab) == filtered, "a poor case: {kept} tokens are kept");
            for (seen, p) in seen.iter().zip(&expected) {
                assert!(*p > 0.0 || *seen == 0.0, "a token was drawn that is not kept");
                let want = p * f64::from(draws);
                assert!((seen - want).abs() <= 2.1, "{seen} draws where {want} are due");
            }
        }
    }

    /// Of the first row's tokens, by drawing evenly from the slow rules.
    fn probabilities(case: &Case) -> Vec<f64> {
        let steps = 20_000u32;
        let mut found = vec![0.0; case.vocab];
        let mut spec = case.specs[0].clone();
        for i in 0..steps {
            spec.params = spec.params.with_uniform((f64::from(i) + 0.5) / f64::from(steps));
            let id = reference(&case.logits[..case.vocab], &spec, 0.0, Penalty::default());
            found[id as usize] += 1.0 / f64::from(steps);
        }
        found
    }

    #[test]
    fn ties_go_to_the_lowest_ids() {
        let bench = Bench::emulated(512 << 20);
        let params = |temperature, top_k, uniform: f64| {
            RowParams { temperature, top_k, top_p: 1.0, ..RowParams::default() }
                .with_uniform(uniform)
        };
        let last = 1.0 - f64::EPSILON;
        let rows = [params(0.0, 0, 0.0), params(1.0, 5, last), params(1.0, 0, last)];
        let top_p = RowParams { top_p: 0.25, ..params(1.0, 0, last) };
        let spec = |params| RowSpec { params, ..RowSpec::default() };
        let specs: Vec<RowSpec> = rows.into_iter().chain([top_p]).map(spec).collect();
        let vocab = 10_000;
        let logits = vec![2.5; vocab * specs.len()];
        let case = Case { name: String::new(), vocab, soft_cap: 0.0, logits, specs };
        for parts in [1, 3] {
            let ids = case.ids(&bench, cut_into(parts, vocab)).unwrap();
            assert_eq!(ids, [0, 4, 9999, 2499]);
        }
    }

    #[test]
    fn both_zeroes_are_one_logit() {
        let bench = Bench::emulated(512 << 20);
        let logits = vec![-1.0, -0.0, 0.0, -2.0];
        let specs = vec![RowSpec::default()];
        let case = Case { name: String::new(), vocab: 4, soft_cap: 0.0, logits, specs };
        assert_eq!(case.ids(&bench, split(1, 4)).unwrap(), [1]);
    }

    /// Penalties may not raise a barred token to infinity, and masks may not hide a NaN.
    #[test]
    fn barred_tokens_are_never_drawn_and_still_looked_at() {
        let bench = Bench::emulated(512 << 20);
        let vocab = 8200;
        for parts in [1, 2] {
            for (at, bad) in [(0, 0.0), (100, f32::NAN), (8199, f32::INFINITY)] {
                let mut mask = vec![false; vocab];
                mask[4097] = true;
                let params = RowParams { repetition_penalty: 1.5, ..RowParams::default() };
                let prompt = (0..vocab as u32).collect();
                let greedy = RowSpec { params, prompt, mask: Some(mask), ..RowSpec::default() };
                let mut drawn = greedy.clone();
                drawn.params = RowParams { temperature: 1.0, top_k: 40, top_p: 0.9, ..params };
                let specs = vec![greedy, drawn];
                let mut logits = vec![5.0; 2 * vocab];
                (logits[4097], logits[vocab + 4097]) = (-300.0, -300.0);
                (logits[at], logits[vocab + at]) = (bad, bad);
                let case = Case { name: String::new(), vocab, soft_cap: 0.0, logits, specs };
                let want = if bad == 0.0 { 4097 } else { NON_FINITE };
                assert_eq!(case.ids(&bench, cut_into(parts, vocab)).unwrap(), [want; 2]);
            }
        }
    }

    /// Wishes that no caller should let through still end in some token of the vocabulary.
    #[test]
    fn absurd_parameters_harm_nothing() {
        let bench = Bench::emulated(512 << 20);
        let (vocab, odd) = (5000, [f32::NAN, f32::INFINITY, -1.0, 1e-42, 1e38, 7.0, -0.0]);
        let mut numbers = Numbers::new(3);
        let mut case = mixed(3, 49, vocab, Row::Model, 0.0);
        for spec in &mut case.specs {
            let mut pick = || odd[numbers.below(odd.len())];
            let (temperature, top_p, min_p) = (pick(), pick(), pick());
            spec.params = RowParams { temperature, top_p, min_p, uniform: u64::MAX, ..spec.params };
            spec.params.top_k = [0, 3, u32::MAX][numbers.below(3)];
        }
        for parts in [1, 2] {
            let ids = case.ids(&bench, cut_into(parts, vocab)).unwrap();
            assert!(ids.iter().all(|id| (*id as usize) < vocab || *id == NON_FINITE), "{ids:?}");
        }
    }

    /// A captured step draws by what rows ask for when the graph is launched.
    #[test]
    fn graphs_outlive_parameters() {
        let bench = Bench::emulated(512 << 20);
        let (card, pool) = (&bench.card, bench.pool);
        let (first, second) =
            (mixed(1, 8, 9000, Row::Model, 0.0), mixed(2, 8, 9000, Row::Model, 0.0));
        let params = |case: &Case| case.specs.iter().map(|w| w.params).collect::<Vec<_>>();
        let mut logits = Buffer::of(card, pool, &first.logits).unwrap();
        let mut specs = Buffer::of(card, pool, &params(&first)).unwrap();
        let mut scratch = Buffer::new(card, pool, scratch_len(8, 9000)).unwrap();
        let mut ids = Buffer::new(card, pool, 8).unwrap();
        let mut host_ids = Mapped::new(card, 8).unwrap();
        card.begin_capture().unwrap();
        let batch = SampleBatch {
            n: 8,
            vocab: 9000,
            logits: logits.view_mut(),
            params: specs.view(),
            edits: View::none(),
            masks: View::none(),
            soft_cap: 0.0,
            scratch: scratch.view_mut(),
            ids: ids.view_mut(),
            host_ids: host_ids.view_mut(),
        };
        sample(&**card, batch).unwrap();
        let graph = card.end_capture().unwrap();
        for case in [&first, &second, &first] {
            logits.write(0, &case.logits).unwrap();
            specs.write(0, &params(case)).unwrap();
            card.launch_graph(graph).unwrap();
            let got = ids.to_vec().unwrap();
            let alone = Case {
                name: String::new(),
                specs: plain(&case.specs),
                logits: case.logits.clone(),
                ..*case
            };
            assert_eq!(got, alone.expected(&got).0);
        }
    }

    /// Without edits.
    fn plain(specs: &[RowSpec]) -> Vec<RowSpec> {
        specs.iter().map(|w| RowSpec { params: w.params, ..RowSpec::default() }).collect()
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let bench = Bench::emulated(512 << 20);
        let (card, pool) = (&bench.card, bench.pool);
        let mut logits = Buffer::<f32>::new(card, pool, 192).unwrap();
        logits.fill(0).unwrap();
        let params = Buffer::of(card, pool, &[RowParams::default(); 3]).unwrap();
        let words = scratch_len(3, 64);
        let mut scratch = Buffer::<u64>::new(card, pool, words + 1).unwrap();
        let mut ids = Buffer::<u32>::new(card, pool, 3).unwrap();
        let mut host_ids = Buffer::<u32>::new(card, pool, 3).unwrap();
        let mut run = |n, vocab, soft_cap, lengths: [usize; 5], offset| {
            let batch = SampleBatch {
                n,
                vocab,
                logits: logits.first_mut(lengths[0]),
                params: params.first(lengths[1]),
                edits: View::none(),
                masks: View::none(),
                soft_cap,
                scratch: scratch.view_mut().part(offset, lengths[2]),
                ids: ids.first_mut(lengths[3]),
                host_ids: host_ids.first_mut(lengths[4]),
            };
            match sample(&**card, batch) {
                Ok(()) => "fine".to_owned(),
                Err(CardError::Shape(why)) => why,
                Err(other) => panic!("{other}"),
            }
        };
        let all = [192, 3, words, 3, 3];
        let mut refused = |n, vocab, soft_cap, lengths, offset, what: &str| {
            let why = run(n, vocab, soft_cap, lengths, offset);
            assert!(why.contains(what), "{why} instead of {what}");
        };
        refused(3, 64, 0.0, all, 0, "fine");
        refused(0, 64, 0.0, all, 0, "fine");
        refused(3, 0, 0.0, all, 0, "from 0 tokens");
        refused(0, MOST_TOKENS + 1, 0.0, all, 0, "from 524289 tokens");
        refused(70_000, 1, 0.0, all, 0, "70000 rows");
        refused(3, 64, -1.0, all, 0, "soft cap");
        refused(3, 64, f32::NAN, all, 0, "soft cap");
        refused(3, 65, 0.0, all, 0, "192 logits, not 195");
        refused(3, 64, 0.0, [192, 2, words, 3, 3], 0, "2 rows' parameters, not 3");
        refused(3, 64, 0.0, [192, 3, words - 1, 3, 3], 0, "words of scratch");
        refused(3, 64, 0.0, [192, 3, words, 2, 3], 0, "2 ids, not 3");
        refused(3, 64, 0.0, [192, 3, words, 3, 2], 0, "2 ids for the host, not 3");
        refused(3, 64, 0.0, all, 1, "16 bytes");
    }
}
