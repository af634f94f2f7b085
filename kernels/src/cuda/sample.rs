//! Batched sampling: rows of logits in, one token id per row out (`sample.cu`).
//!
//! The rules are those of the host's sampler. The sampling parameters of each row are in GPU memory, so that a captured
//! CUDA graph stays valid as requests come and go: launches depend only on the number of rows and the vocabulary size.
//! A row's random number is the same function of seed and position as on the host. It does not know about requests.

use super::buffer::{Plain, View, ViewMut};
use super::card::{Arg, COUNTS, Card, CardError, Grid};
use std::collections::BTreeMap;

#[cfg(any(test, feature = "known-answers"))]
pub(crate) mod answers;

/// The id of a row whose logits held a NaN or an infinity.
pub const NON_FINITE: u32 = u32::MAX;
/// The largest vocabulary.
pub const MOST_TOKENS: usize = 1 << 19;

const THREADS: u32 = 512;
const SHARED: usize = 25 << 10;
/// What one block takes at least: 16 warps of 256 tokens.
const CHUNK: usize = 4096;
const MOST_PARTS: usize = 32;
/// Blocks that keep a card busy; beyond, a row gets fewer.
const BLOCKS: usize = 256;
const MOST_ROWS: usize = u16::MAX as usize;
/// Scratch of one row, in words of 64 bits (`sample::Scratch`).
const ROW_SCRATCH: usize = 5666;

/// How one row wants its token chosen. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct RowParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all, 1 is greedy.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides (multiplies, when negative) the logits of every token listed; not 0.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the reply.
    pub frequency_penalty: f32,
    /// Subtracted once for tokens in the reply.
    pub presence_penalty: f32,
    /// The row's slice of the list of edits; entries beyond the list are none.
    pub first_edit: u32,
    /// Number of entries in that slice; 0 if nothing is changed.
    pub edits: u32,
    /// Where the words of the row's mask begin in those of all rows, `[ceil(vocab / 32)]`, the lowest bit of a word its
    /// first id: tokens that it lacks are never drawn. Words beyond the list are 0. [`NO_MASK`]: any may be drawn.
    pub mask: u32,
    /// The random number, in units of 2^-53: see [`RowParams::with_uniform`].
    pub uniform: u64,
}

/// The mask of a row whose tokens may all be drawn.
pub const NO_MASK: u32 = u32::MAX;

// SAFETY: ten numbers of 32 bits, and one of 64 bits.
unsafe impl Plain for RowParams {}

impl Default for RowParams {
    fn default() -> RowParams {
        RowParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 0.0,
            min_p: 0.0,
            repetition_penalty: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            first_edit: 0,
            edits: 0,
            mask: NO_MASK,
            uniform: 0,
        }
    }
}

impl RowParams {
    /// Draws by this number, in [0, 1), of which 53 bits count.
    pub fn with_uniform(self, uniform: f64) -> RowParams {
        let most = (1u64 << 53) - 1;
        RowParams { uniform: ((uniform * (1u64 << 53) as f64) as u64).min(most), ..self }
    }
}

/// A token of a row whose logit is changed. A row lists each id once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub struct TokenEdit {
    /// The token.
    pub id: u32,
    /// Occurrences in the reply; 0 for tokens of the prompt alone, [`UNSEEN`] for others, which are not penalised.
    pub count: u32,
    /// Added to the logit, after the mask and before penalties; -infinity: the token is never drawn.
    pub bias: f32,
}

/// The count of a token that is neither in the prompt nor in the reply.
pub const UNSEEN: u32 = u32::MAX;

// SAFETY: three numbers of 32 bits.
unsafe impl Plain for TokenEdit {}

impl TokenEdit {
    /// The entries of a sequence, by id: the tokens of its prompt and reply, and those with a bias.
    pub fn list(prompt: &[u32], reply: &[u32], biases: &[(u32, f32)]) -> Vec<TokenEdit> {
        let mut all: BTreeMap<u32, (u32, f32)> = prompt.iter().map(|id| (*id, (0, 0.0))).collect();
        for id in reply {
            all.entry(*id).or_default().0 += 1;
        }
        for (id, bias) in biases {
            all.entry(*id).or_insert((UNSEEN, 0.0)).1 = *bias;
        }
        all.into_iter().map(|(id, (count, bias))| TokenEdit { id, count, bias }).collect()
    }
}

/// Rows to draw from.
#[derive(Debug)]
pub struct SampleBatch<'a> {
    /// Rows, at most 65535.
    pub n: usize,
    /// Logits per row, 1 to [`MOST_TOKENS`].
    pub vocab: usize,
    /// `[n][vocab]`, overwritten.
    pub logits: ViewMut<'a, f32>,
    /// `[n]`.
    pub params: View<'a, RowParams>,
    /// The edits of all rows.
    pub edits: View<'a, TokenEdit>,
    /// The words of all rows' masks, 32 bits each: a bit per token.
    pub masks: View<'a, u32>,
    /// Logits become cap * tanh(logit / cap) before anything else; 0 is none.
    pub soft_cap: f32,
    /// [`scratch_len`] words of 64 bits, undefined before and after.
    pub scratch: ViewMut<'a, u64>,
    /// `[n]`: token ids, or [`NON_FINITE`].
    pub ids: ViewMut<'a, u32>,
    /// `[n]`: the same, in memory that the host reads ([`super::Mapped`]) or any other.
    pub host_ids: ViewMut<'a, u32>,
}

/// How a row is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    parts: usize,
    /// Tokens of a part; the last may have fewer.
    len: usize,
}

/// More parts per row the fewer rows there are, none of them empty.
fn split(n: usize, vocab: usize) -> Split {
    cut_into(BLOCKS.div_ceil(n.max(1)), vocab)
}

fn cut_into(parts: usize, vocab: usize) -> Split {
    let chunks = vocab.div_ceil(CHUNK).max(1);
    let each = chunks.div_ceil(parts.clamp(1, MOST_PARTS));
    Split { parts: chunks.div_ceil(each), len: each * CHUNK }
}

/// Words of 64 bits of scratch that `n` rows take.
pub fn scratch_len(n: usize, _vocab: usize) -> usize {
    n * ROW_SCRATCH
}

/// Draws one token per row. Fails if lengths do not fit together, if `n` or `vocab` is too large, or if the launch
/// fails.
pub fn sample(card: &dyn Card, batch: SampleBatch<'_>) -> Result<(), CardError> {
    let split = split(batch.n, batch.vocab);
    launch(card, batch, split)
}

fn launch(card: &dyn Card, batch: SampleBatch<'_>, split: Split) -> Result<(), CardError> {
    check(&batch)?;
    if split.parts > 1 && batch.n > COUNTS {
        return Err(CardError::Shape(format!("sampling for {} rows in parts", batch.n)));
    }
    if batch.n == 0 {
        return Ok(());
    }
    let count = |len: usize| Arg::U32(len.min(u32::MAX as usize) as u32);
    let args = [
        batch.logits.arg(),
        batch.params.arg(),
        batch.edits.arg(),
        count(batch.edits.len()),
        batch.masks.arg(),
        count(batch.masks.len()),
        Arg::F32(batch.soft_cap),
        batch.scratch.arg(),
        batch.ids.arg(),
        batch.host_ids.arg(),
        Arg::U32(batch.vocab as u32),
        Arg::U32(split.len as u32),
        Arg::Address(card.workspace().counts),
    ];
    let run = |kernel: &'static str, parts: usize| {
        let grid = Grid::of([parts as u32, batch.n as u32, 1], THREADS).shared(SHARED);
        // SAFETY: `check` has seen that every array is as long as the kernels take it to be, and kernels
        // themselves look at what the rows say about the lists of edits and masks.
        unsafe { card.launch(kernel, grid, &args) }
    };
    if split.parts == 1 {
        return run("sample_row", 1);
    }
    for kernel in ["sample_peak", "sample_spread", "sample_gather", "sample_weigh"] {
        run(kernel, split.parts)?;
    }
    Ok(())
}

fn check(batch: &SampleBatch<'_>) -> Result<(), CardError> {
    let SampleBatch { n, vocab, soft_cap, .. } = *batch;
    let wrong = |what: String| Err(CardError::Shape(what));
    if vocab == 0 || vocab > MOST_TOKENS {
        return wrong(format!("sampling from {vocab} tokens, not 1 to {MOST_TOKENS}"));
    }
    if n > MOST_ROWS {
        return wrong(format!("sampling for {n} rows, more than {MOST_ROWS}"));
    }
    if !(soft_cap >= 0.0 && soft_cap.is_finite()) {
        return wrong(format!("a soft cap of {soft_cap}"));
    }
    let lengths = [
        ("logits", batch.logits.len(), n * vocab),
        ("rows' parameters", batch.params.len(), n),
        ("words of scratch", batch.scratch.len(), scratch_len(n, vocab)),
        ("ids", batch.ids.len(), n),
        ("ids for the host", batch.host_ids.len(), n),
    ];
    for (what, have, want) in lengths {
        if have < want {
            return wrong(format!("sampling for {n} rows of {vocab}: {have} {what}, not {want}"));
        }
    }
    if !batch.scratch.address().is_multiple_of(16) {
        return wrong("sampling's scratch does not lie on 16 bytes".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
