//! What is reported about sampled tokens: log-probabilities and the most likely tokens (`logprobs.cu`).
//!
//! They are computed from the logits before sampling edits them. So there is one launch before sampling and one after
//! it, and a buffer carries data from the first to the second. It does not know about requests.

use super::buffer::{Plain, View, ViewMut};
use super::card::{Arg, Card, CardError, Grid};
use super::sample::{RowParams, TokenEdit};

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// Likeliest tokens that are found.
pub const MOST_LIKELIEST: usize = 20;

const THREADS: u32 = 128;
const MOST_PARTS: usize = 64;
/// What a part has at least.
const LEAST: usize = 1024;
/// A part's results, in words of 64 bits (`logprobs::Part`).
const PART_WORDS: usize = 21;
const MOST_ROWS: usize = u16::MAX as usize;

/// What is known of the token of one row. Undefined if its logits were not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub struct RowLogprobs {
    /// The largest logit.
    pub most: f32,
    /// The sum of `exp(logit - most)`.
    pub sum: f32,
    /// The logit of the token that was drawn.
    pub drawn: f32,
    /// Likeliest tokens: [`MOST_LIKELIEST`], or all.
    pub count: u32,
    /// Their ids, the likeliest first; of equal ones, the lowest id.
    pub ids: [u32; MOST_LIKELIEST],
    /// Their logits.
    pub logits: [f32; MOST_LIKELIEST],
}

// SAFETY: numbers of 32 bits.
unsafe impl Plain for RowLogprobs {}

/// Rows of which log-probabilities are wanted.
#[derive(Debug)]
pub struct LogprobsBatch<'a> {
    /// Rows, at most 65535.
    pub n: usize,
    /// Logits per row.
    pub vocab: usize,
    /// `[n][vocab]`.
    pub logits: View<'a, f32>,
    /// `[n]`.
    pub params: View<'a, RowParams>,
    /// The edits of all rows.
    pub edits: View<'a, TokenEdit>,
    /// As many numbers as there are edits, kept from one launch to the other.
    pub kept: ViewMut<'a, f32>,
    /// [`parts_len`] words of 64 bits, kept from one launch to the other.
    pub parts: ViewMut<'a, u64>,
}

/// Words of 64 bits that the parts of `n` rows take.
pub fn parts_len(n: usize) -> usize {
    n * MOST_PARTS * PART_WORDS
}

/// Tokens of a part, and parts of a row.
fn cut(vocab: usize) -> (usize, usize) {
    let len = vocab.div_ceil(MOST_PARTS).max(LEAST).next_multiple_of(32);
    (len, vocab.div_ceil(len).max(1))
}

/// Keeps what [`after_sampling`] needs of the logits. Launched before they are edited. Fails if lengths do not fit
/// together or the launch fails.
pub fn before_sampling(card: &dyn Card, batch: &LogprobsBatch<'_>) -> Result<(), CardError> {
    check(batch)?;
    if batch.n == 0 {
        return Ok(());
    }
    let (len, parts) = cut(batch.vocab);
    let sizes = [batch.vocab, len].map(|size| Arg::U32(size as u32));
    let args = [&batch.args()[..], &sizes].concat();
    let grid = Grid::of([parts as u32, batch.n as u32, 1], THREADS).shared(128);
    // SAFETY: `check` has seen that every array is as long as the kernel takes it to be; it looks itself at what the
    // rows say about the list of edits.
    unsafe { card.launch("logprobs_parts", grid, &args) }
}

/// Finds the logits of the tokens that were drawn, `ids`, `[n]`, and puts everything together: `out`, `[n]`, in memory
/// that the host reads ([`super::Mapped`]) or any other. `batch` is that of [`before_sampling`]. Fails if lengths do
/// not fit together or the launch fails.
pub fn after_sampling(
    card: &dyn Card,
    batch: &LogprobsBatch<'_>,
    ids: View<'_, u32>,
    out: ViewMut<'_, RowLogprobs>,
) -> Result<(), CardError> {
    check(batch)?;
    if ids.len() < batch.n || out.len() < batch.n {
        let what = format!("{} ids and {} results for {} rows", ids.len(), out.len(), batch.n);
        return Err(CardError::Shape(what));
    }
    if batch.n == 0 {
        return Ok(());
    }
    let sizes = [batch.vocab, cut(batch.vocab).1].map(|size| Arg::U32(size as u32));
    let args = [&batch.args()[..], &[ids.arg(), out.arg()], &sizes].concat();
    // SAFETY: as above.
    unsafe { card.launch("logprobs_join", Grid::line(batch.n, 32), &args) }
}

impl LogprobsBatch<'_> {
    /// What both kernels take.
    fn args(&self) -> [Arg; 6] {
        [
            self.logits.arg(),
            self.params.arg(),
            self.edits.arg(),
            Arg::U32(self.edits.len().min(u32::MAX as usize) as u32),
            self.kept.arg(),
            self.parts.arg(),
        ]
    }
}

fn check(batch: &LogprobsBatch<'_>) -> Result<(), CardError> {
    let LogprobsBatch { n, vocab, .. } = *batch;
    let wrong = |what: String| Err(CardError::Shape(what));
    if vocab == 0 || u32::try_from(vocab).is_err() || n > MOST_ROWS {
        return wrong(format!("log-probabilities of {vocab} tokens for {n} rows"));
    }
    let lengths = [
        ("logits", batch.logits.len(), n * vocab),
        ("rows' parameters", batch.params.len(), n),
        ("kept logits", batch.kept.len(), batch.edits.len()),
        ("words of parts", batch.parts.len(), parts_len(n)),
    ];
    for (what, have, want) in lengths {
        if have < want {
            return wrong(format!("log-probabilities of {n} rows: {have} {what}, not {want}"));
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::*;
    use crate::cuda::buffer::Buffer;
    use crate::cuda::check::Bench;

    #[test]
    fn answers_are_known() {
        crate::cuda::check::prove(answers::checks);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let bench = Bench::emulated(64 << 20);
        let (card, pool) = (&bench.card, bench.pool);
        let logits = Buffer::<f32>::new(card, pool, 192).unwrap();
        let params = Buffer::of(card, pool, &[RowParams::default(); 3]).unwrap();
        let edits = Buffer::of(card, pool, &[TokenEdit::default(); 2]).unwrap();
        let mut kept = Buffer::new(card, pool, 2).unwrap();
        let mut parts = Buffer::new(card, pool, parts_len(3)).unwrap();
        let mut refused = |vocab, lengths: [usize; 4], what: &str| {
            let batch = LogprobsBatch {
                n: 3,
                vocab,
                logits: logits.first(lengths[0]),
                params: params.first(lengths[1]),
                edits: edits.view(),
                kept: kept.first_mut(lengths[2]),
                parts: parts.first_mut(lengths[3]),
            };
            let why = check(&batch).err().map_or("fine".into(), |error| error.to_string());
            assert!(why.contains(what), "{why} instead of {what}");
        };
        let words = parts_len(3);
        refused(64, [192, 3, 2, words], "fine");
        refused(0, [192, 3, 2, words], "of 0 tokens");
        refused(64, [191, 3, 2, words], "191 logits, not 192");
        refused(64, [192, 2, 2, words], "2 rows' parameters, not 3");
        refused(64, [192, 3, 1, words], "1 kept logits, not 2");
        refused(64, [192, 3, 2, words - 1], "words of parts");
    }
}

#[cfg(test)]
mod cuts {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_is_in_one_part(vocab in 1usize..600_000) {
            let (len, parts) = cut(vocab);
            prop_assert!((1..=MOST_PARTS).contains(&parts));
            prop_assert!(len * parts >= vocab && len * (parts - 1) < vocab);
        }
    }
}
