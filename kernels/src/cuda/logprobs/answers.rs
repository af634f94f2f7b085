//! Known answers of log-probabilities: against a full sort and sums in f64, before logits are edited.

use super::*;
use crate::cuda::buffer::{Buffer, Mapped};
use crate::cuda::check::{Bench, Check, Numbers, Size};
use crate::cuda::sample::{SampleBatch, sample, scratch_len};

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

/// Buffers of a case, and what the kernels made of it.
struct Run {
    logits: Buffer<f32>,
    params: Buffer<RowParams>,
    edits: Buffer<TokenEdit>,
    kept: Buffer<f32>,
    parts: Buffer<u64>,
}

impl Run {
    fn batch(&mut self, n: usize, vocab: usize) -> LogprobsBatch<'_> {
        LogprobsBatch {
            n,
            vocab,
            logits: self.logits.view(),
            params: self.params.view(),
            edits: self.edits.view(),
            kept: self.kept.view_mut(),
            parts: self.parts.view_mut(),
        }
    }
}

impl Case {
    /// The rows, and the ids that were drawn for them.
    fn run(
        &self,
        bench: &Bench,
        n: usize,
        vocab: usize,
    ) -> Result<(Vec<RowLogprobs>, Vec<u32>), CardError> {
        let (card, pool) = (&bench.card, bench.pool);
        let mut run = Run {
            logits: Buffer::of(card, pool, &self.logits)?,
            params: Buffer::of(card, pool, &self.params)?,
            edits: Buffer::of(card, pool, &self.edits)?,
            kept: Buffer::new(card, pool, self.edits.len())?,
            parts: Buffer::new(card, pool, parts_len(n))?,
        };
        let mut scratch = Buffer::new(card, pool, scratch_len(n, vocab))?;
        let (mut ids, mut host_ids) = (Buffer::new(card, pool, n)?, Mapped::new(card, n)?);
        let mut out = Mapped::new(card, n)?;
        run.parts.fill(0xff)?;
        before_sampling(&**card, &run.batch(n, vocab))?;
        let sampled = SampleBatch {
            n,
            vocab,
            logits: run.logits.view_mut(),
            params: run.params.view(),
            edits: run.edits.view(),
            masks: View::none(),
            soft_cap: 0.0,
            scratch: scratch.view_mut(),
            ids: ids.view_mut(),
            host_ids: host_ids.view_mut(),
        };
        sample(&**card, sampled)?;
        after_sampling(&**card, &run.batch(n, vocab), ids.view(), out.view_mut())?;
        let ids = ids.to_vec()?;
        let mut got = vec![RowLogprobs::default(); n];
        out.read(0, &mut got)?;
        Ok((got, ids))
    }

    /// Whether each row with edits has drawn the token with the large bias: its kept logit differs from the edited one.
    fn favours(&self, ids: &[u32]) -> bool {
        ids.iter().zip(&self.params).filter(|(_, row)| row.edits > 0).all(|(id, row)| {
            let own = &self.edits[row.first_edit as usize..][..row.edits as usize];
            own.iter().any(|edit| edit.id == *id && edit.bias > 0.0)
        })
    }
}

/// Number of likeliest tokens, their ids and logits, and the logit of the one that was drawn.
fn listed(logits: &[f32], drawn: u32) -> Vec<u32> {
    let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
    sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    sorted.truncate(MOST_LIKELIEST);
    let bits = |id: &u32| logits[*id as usize].to_bits();
    let head = [sorted.len() as u32];
    head.into_iter()
        .chain(sorted.clone())
        .chain(sorted.iter().map(bits))
        .chain([bits(&drawn)])
        .collect()
}

fn check(bench: &Bench, n: usize, vocab: usize) -> Result<[Check; 3], CardError> {
    let case = case(n, vocab);
    let (got, ids) = case.run(bench, n, vocab)?;
    let (mut found, mut likeliest, mut sums, mut exact) = (vec![], vec![], vec![], vec![]);
    for (row, (got, id)) in got.iter().zip(&ids).enumerate() {
        let (logits, count) = (&case.logits[row * vocab..][..vocab], got.count as usize);
        found.push(got.count);
        found.extend(got.ids.iter().take(count));
        found.extend(got.logits.iter().take(count).map(|logit| logit.to_bits()));
        found.push(got.drawn.to_bits());
        likeliest.extend(listed(logits, *id));
        sums.push(got.most + got.sum.ln());
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(*l - most).exp()).sum();
        exact.push(f64::from(most) + sum.ln());
    }
    let named = |what: &str| format!("{what} of {n} rows of {vocab}");
    Ok([
        Check::equal("logprobs_join", named("tokens and logits"), &found, &likeliest),
        Check::compare("logprobs_parts", named("normalisers"), &sums, &exact, 1e-6),
        Check::equal(
            "logprobs_parts",
            named("edited tokens drawn"),
            &[case.favours(&ids)],
            &[true],
        ),
    ])
}
