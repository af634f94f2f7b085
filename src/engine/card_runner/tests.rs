//! Tests: tokens that the GPU kernel samples from masked rows, compared with the host's sampler.

use super::*;
use crate::model::{Guide, SampleError, SamplingParams, SharedGuide, Taken};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use serin_kernels::cuda::emulated::EmulatedCard;
use serin_kernels::cuda::sample::{SampleBatch, sample, scratch_len};
use serin_kernels::cuda::{Buffer, Card, Pool};
use std::sync::Arc;

/// Always allows the same tokens; `None`: it fails.
#[derive(Debug, Clone)]
struct Always(Option<Arc<TokenMask>>);

impl Guide for Always {
    fn mask(&mut self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        self.0.clone().map(Some).ok_or_else(|| GuideFailed("as asked".to_owned()))
    }

    fn take(&mut self, _: u32) -> Result<Taken, GuideFailed> {
        Ok(Taken::GoesOn)
    }

    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
}

/// One row to be drawn.
#[derive(Debug, Clone)]
struct RowCase {
    /// `[vocab]`.
    logits: Vec<f32>,
    params: SamplingParams,
    tokens: Vec<u32>,
    guide: Option<Always>,
}

/// Words of a mask that may be shorter or longer than the vocabulary; or of one token, often among the first.
fn mask(vocab: usize) -> impl Strategy<Value = Arc<TokenMask>> {
    let word = prop_oneof![Just(0), Just(u32::MAX), any::<u32>(), (0u32..32).prop_map(|b| 1 << b)];
    let words = vec(word, 0..vocab.div_ceil(32) + 2).prop_map(TokenMask::of_words);
    let few = 0..vocab.min(6) as u32;
    let one = prop_oneof![few, 0..vocab as u32].prop_map(|id| TokenMask::of_ids(&[id]));
    prop_oneof![3 => words, 1 => one].prop_map(Arc::new)
}

fn rules(vocab: usize) -> impl Strategy<Value = TokenRules> {
    let bias = prop_oneof![-100f32..100.0, Just(f32::NEG_INFINITY)];
    let ids = 0..(vocab as u32 + 40).min(12);
    (
        btree_map(ids.clone(), bias, 0..9),
        proptest::option::of(mask(vocab)),
        vec(vec(ids.clone(), 1..3), 0..3),
        0usize..8,
        vec(ids, 0..3),
    )
        .prop_map(|(bias, allowed, bad_words, min_tokens, ends)| TokenRules {
            bias: bias.into_iter().collect(),
            allowed,
            bad_words,
            min_tokens,
            ends,
        })
}

fn params(vocab: usize) -> impl Strategy<Value = SamplingParams> {
    let penalties =
        prop_oneof![Just([1.0, 0.0, 0.0]), Just([1.3, 0.4, 0.0]), Just([0.8, 0.0, 0.7])];
    (
        select(vec![0.0, 0.2, 0.7, 1.0, 1.5]),
        select(vec![0, 0, 1, 2, 7, 40, 1_000_000]),
        select(vec![1.0, 1.0, 0.05, 0.5, 0.9]),
        select(vec![0.0, 0.0, 0.01, 0.3]),
        penalties,
        proptest::option::of(rules(vocab)),
        any::<u64>(),
    )
        .prop_map(|(temperature, top_k, top_p, min_p, penalties, rules, seed)| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: penalties[0],
                frequency_penalty: penalties[1],
                presence_penalty: penalties[2],
                rules: rules.map(Arc::new),
                seed,
                ..SamplingParams::default()
            }
        })
}

/// Eight rows of one vocabulary.
fn rows() -> impl Strategy<Value = (usize, Vec<RowCase>)> {
    select(vec![1usize, 31, 32, 33, 63, 100, 1000, 4097, 9001]).prop_flat_map(|vocab| {
        let guide = proptest::option::of(mask(vocab).prop_map(|mask| Always(Some(mask))));
        let tokens = vec(0..vocab as u32, 0..30);
        let logits = vec(-8f32..8.0, vocab);
        let row = (logits, params(vocab), tokens, guide)
            .prop_map(|(logits, params, tokens, guide)| RowCase { logits, params, tokens, guide });
        (Just(vocab), vec(row, 8))
    })
}

impl RowCase {
    /// Calls `f` with the row's draw, half of whose tokens are the prompt.
    fn with<T>(&self, f: impl FnOnce(&Draw<'_>) -> T) -> T {
        let guide = self.guide.clone().map(|guide| SharedGuide::new(Box::new(guide)));
        let (tokens, prompt_len) = (&self.tokens[..], self.tokens.len() / 2);
        f(&Draw { params: &self.params, tokens, unknown: 0, prompt_len, guide: guide.as_ref() })
    }
}

/// What the kernel draws for these rows.
fn on_card(card: &Arc<dyn Card>, pool: Pool, rows: &[RowCase], vocab: usize) -> Vec<u32> {
    let (mut inputs, mut room, n) = (SamplingInputs::default(), usize::MAX, rows.len());
    for row in rows {
        row.with(|draw| {
            assert!(draws_on_card(&RowTask::Sample(draw), &mut room));
            let _ = inputs.add(draw, vocab);
        });
    }
    let logits: Vec<f32> = rows.iter().flat_map(|row| &row.logits).copied().collect();
    let mut logits = Buffer::of(card, pool, &logits).unwrap();
    let params = Buffer::of(card, pool, &inputs.params).unwrap();
    let edits = Buffer::of(card, pool, &inputs.edits).unwrap();
    let masks = Buffer::of(card, pool, &inputs.masks).unwrap();
    let mut scratch = Buffer::new(card, pool, scratch_len(n, vocab)).unwrap();
    let mut ids = Buffer::new(card, pool, n).unwrap();
    let mut host_ids = Buffer::new(card, pool, rows.len()).unwrap();
    let batch = SampleBatch {
        n,
        vocab,
        logits: logits.view_mut(),
        params: params.view(),
        edits: edits.view(),
        masks: masks.view(),
        soft_cap: 0.0,
        scratch: scratch.view_mut(),
        ids: ids.view_mut(),
        host_ids: host_ids.view_mut(),
    };
    sample(&**card, batch).unwrap();
    ids.to_vec().unwrap()
}

fn on_host(row: &RowCase) -> Result<u32, SampleError> {
    row.with(|draw| sampler::sample(&mut row.logits.clone(), draw))
}

proptest! {
    // Always the same cases: one pick in a million hangs on how an exponential is rounded.
    #![proptest_config(ProptestConfig {
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::with_cases(96)
    })]

    #[test]
    fn masked_rows_are_drawn_as_on_the_host((vocab, rows) in rows()) {
        let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(64 << 20));
        let pool = card.create_pool().unwrap();
        let ids = on_card(&card, pool, &rows, vocab);
        for (row, id) in rows.iter().zip(ids) {
            prop_assert_eq!(on_host(row), Ok(id), "{:?} {:?}", row.params, row.guide);
        }
    }
}

#[test]
fn a_guide_that_fails_and_logits_that_are_not_finite_harm_no_other_row() {
    let card: Arc<dyn Card> = Arc::new(EmulatedCard::start(64 << 20));
    let pool = card.create_pool().unwrap();
    let vocab = 70;
    let logits: Vec<f32> = (0..vocab as u32).map(|id| (id * 37 % 70) as f32).collect();
    let of = |mask: Option<TokenMask>| RowCase {
        logits: logits.clone(),
        params: SamplingParams::greedy(),
        tokens: vec![1, 2],
        guide: Some(Always(mask.map(Arc::new))),
    };
    let mut rows = [
        of(Some(TokenMask::of_ids(&[5, 69]))),
        of(None),
        of(Some(TokenMask::of_ids(&[64]))),
        of(Some(TokenMask::of_ids(&[3]))),
    ];
    rows[3].logits[40] = f32::NAN;
    assert!(matches!(on_host(&rows[1]), Err(SampleError::Guide(_))));
    let mut inputs = SamplingInputs::default();
    assert!(rows[1].with(|draw| inputs.add(draw, vocab)).is_err());
    assert_eq!((inputs.params.len(), inputs.params[0].mask, inputs.masks.len()), (1, NO_MASK, 0));
    let ids = on_card(&card, pool, &rows, vocab);
    assert_eq!([ids[0], ids[2], ids[3]], [5, 64, NON_FINITE]);
    assert_eq!(on_host(&rows[0]), Ok(5));
}
