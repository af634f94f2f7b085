//! Known answers of log-probabilities: against a full sort and sums in f64, before logits are edited.

use super::*;
use crate::cuda::buffer::{Buffer, Mapped};
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::sample::{NON_FINITE, SampleBatch, sample, scratch_len};

/// Few tokens and many, less than a part and more than fit the parts evenly, with ties.
pub(crate) fn checks(bench: &Bench, size: Size) -> Result<Vec<Check>, CardError> {
    let cases: &[(usize, usize)] = match size {
        Size::Quick => &[(2, 2500)],
        Size::Full => &[(1, 1), (3, 7), (8, 1024), (2, 4097), (5, 32_000), (1, 70_001)],
    };
    let mut all = Vec::new();
    for (n, vocab) in cases {
        all.extend(check(bench, *n, *vocab)?);
    }
    Ok(all)
}

struct Case {
    logits: Vec<f32>,
    params: Vec<RowParams>,
    edits: Vec<TokenEdit>,
}

/// Every second row has tokens that occurred, among them the likeliest, and one with a bias so large that it is drawn.
fn case(n: usize, vocab: usize) -> Case {
    let mut numbers = Numbers::new((n * vocab) as u64);
    // Steps, so that there are ties.
    let logits: Vec<f32> =
        (0..n * vocab).map(|_| (numbers.number() * 64.0).round() / 4.0).collect();
    let (mut params, mut edits) = (Vec::new(), Vec::new());
    for row in 0..n {
        let first = edits.len();
        if row % 2 == 1 {
            let favourite = numbers.below(vocab) as u32;
            let occurred: Vec<u32> = (0..40).map(|_| numbers.below(vocab) as u32).collect();
            edits.extend(TokenEdit::list(&[], &occurred, &[(favourite, 1000.0)]));
        }
        params.push(RowParams {
            repetition_penalty: 1.5,
            presence_penalty: 0.5,
            first_edit: first as u32,
            edits: (edits.len() - first) as u32,
            ..RowParams::default()
        });
    }
    Case { logits, params, edits }
}

fn check(bench: &Bench, n: usize, vocab: usize) -> Result<[Check; 3], CardError> {
    let (card, pool) = (&bench.card, bench.pool);
    let Case { logits, params, edits } = case(n, vocab);
    let (got, ids) = {
        let mut logits = Buffer::of(card, pool, &logits)?;
        let params = Buffer::of(card, pool, &params)?;
        let edits = Buffer::of(card, pool, &edits)?;
        let mut kept = Buffer::new(card, pool, edits.len())?;
        let mut parts = Buffer::new(card, pool, parts_len(n))?;
        let mut scratch = Buffer::new(card, pool, scratch_len(n, vocab))?;
        let (mut ids, mut host_ids) = (Buffer::new(card, pool, n)?, Mapped::new(card, n)?);
        let mut out = Mapped::new(card, n)?;
        parts.fill(0xff)?;
        let batch = LogprobsBatch {
            n,
            vocab,
            logits: logits.view(),
            params: params.view(),
            edits: edits.view(),
            kept: kept.view_mut(),
            parts: parts.view_mut(),
        };
        before_sampling(&**card, &batch)?;
        let sampled = SampleBatch {
            n,
            vocab,
            logits: logits.view_mut(),
            params: params.view(),
            edits: edits.view(),
            masks: View::none(),
            soft_cap: 0.0,
            scratch: scratch.view_mut(),
            ids: ids.view_mut(),
            host_ids: host_ids.view_mut(),
        };
        sample(&**card, sampled)?;
        let batch = LogprobsBatch {
            n,
            vocab,
            logits: logits.view(),
            params: params.view(),
            edits: edits.view(),
            kept: kept.view_mut(),
            parts: parts.view_mut(),
        };
        after_sampling(&**card, &batch, ids.view(), out.view_mut())?;
        let ids = ids.to_vec()?;
        let mut got = vec![RowLogprobs::default(); n];
        out.read(0, &mut got)?;
        (got, ids)
    };
    let (mut listed, mut likeliest, mut sums, mut exact) = (vec![], vec![], vec![], vec![]);
    for (row, (got, id)) in got.iter().zip(&ids).enumerate() {
        let logits = &logits[row * vocab..][..vocab];
        let mut sorted: Vec<u32> = (0..vocab as u32).collect();
        sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        sorted.truncate(MOST_LIKELIEST);
        listed.push(got.count);
        listed.extend(got.ids.iter().take(got.count as usize));
        listed.extend(got.logits.iter().take(got.count as usize).map(|l| l.to_bits()));
        listed.push(got.drawn.to_bits());
        likeliest.push(sorted.len() as u32);
        likeliest.extend(&sorted);
        likeliest.extend(sorted.iter().map(|id| logits[*id as usize].to_bits()));
        likeliest.push(match *id {
            NON_FINITE => 0,
            id => logits[id as usize].to_bits(),
        });
        sums.push(got.most + got.sum.ln());
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(*l - most).exp()).sum();
        exact.push(f64::from(most) + sum.ln());
    }
    let named = |what: &str| format!("{what} of {n} rows of {vocab}");
    // The bias decides what is drawn, so that the kept logit differs from the edited one.
    let favoured = ids.iter().zip(&params).filter(|(_, row)| row.edits > 0).all(|(id, row)| {
        let own = &edits[row.first_edit as usize..][..row.edits as usize];
        own.iter().any(|edit| edit.id == *id && edit.bias > 0.0)
    });
    Ok([
        Check::equal("logprobs_join", named("tokens and logits"), &listed, &likeliest),
        Check::compare("logprobs_parts", named("normalisers"), &sums, &exact, 1e-6),
        Check::equal("logprobs_parts", named("edited tokens drawn"), &[favoured], &[true]),
    ])
}
