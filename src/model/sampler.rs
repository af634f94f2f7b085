//! From one row of logits to one token id.
//!
//! Order: masks and rules for single tokens, penalties, temperature, top-k, top-p, min-p, then one draw (the same order
//! as in vLLM). A row takes a few passes over the vocabulary, and only the part that the filters need is sorted.
//!
//! Randomness is a function of (seed, position), so a sequence that is preempted, recomputed or batched
//! differently still draws the same numbers. The draw goes through the remaining tokens by id, not by rank.
//! So it does not matter how a device filtered the set or ordered near-ties in it.
//!
//! Rows with top-k have a separate path (`choose_of_few`), and the GPU has a second copy of the rules
//! (`kernels/sample.cu`). A new filter must be added to all three. The sampler does not know about tensors or
//! sequences.

use super::guide::{GuideFailed, SharedGuide};
use super::logprobs::{self, Logprobs};
use super::token_mask::TokenMask;
use super::token_rules::TokenRules;
use crate::device::{Isa, ops};
use std::sync::Arc;

/// A request's sampling parameters. Ranges are checked where requests come in.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides (or, if negative, multiplies) the logits of tokens in prompt and reply; 1: none (CTRL,
    /// arXiv:1909.05858).
    pub repetition_penalty: f32,
    /// Subtracted for each occurrence in the reply.
    pub frequency_penalty: f32,
    /// Subtracted once for tokens in the reply.
    pub presence_penalty: f32,
    /// Rules for single tokens; `None`: there are none.
    pub rules: Option<Arc<TokenRules>>,
    /// With a token's position, determines the random number that it is drawn with.
    pub seed: u64,
    /// Report each sampled token's log-probability, and those of this many most likely tokens (at most
    /// [`MOST_TOP`](super::logprobs::MOST_TOP)), also for scored tokens. `None` reports nothing and costs nothing.
    pub logprobs: Option<u8>,
    /// Report the log-probabilities of this many tokens at the end of the prompt, in one event before the
    /// first token. The prompt's first token has none, so the maximum is one less than the prompt's length.
    pub score_last: usize,
    /// Of this many of the scored tokens, evenly spread, the log-probabilities of all alternatives are reported too.
    pub distributions: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        SamplingParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            rules: None,
            seed: 0,
            logprobs: None,
            score_last: 0,
            distributions: 0,
        }
    }
}

impl SamplingParams {
    /// Always the most likely token.
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Whether all log-probabilities are reported at the `index`-th of the scored tokens.
    pub fn is_whole(&self, index: usize) -> bool {
        let before = |index: usize| index * self.distributions / self.score_last.max(1);
        before(index) != before(index + 1)
    }

    /// Whether tokens that have occurred have other logits for it.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }
}

/// The sampling input of one row: parameters and the tokens so far.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// The sampling parameters of the row's request.
    pub params: &'a SamplingParams,
    /// Prompt and reply so far, as far as they are known.
    pub tokens: &'a [u32],
    /// Tokens after these that only the device knows yet.
    pub unknown: usize,
    /// How many of `tokens` are the prompt.
    pub prompt_len: usize,
    /// What restricts the reply. It has been told all of its tokens.
    pub guide: Option<&'a SharedGuide>,
}

impl<'a> Draw<'a> {
    /// The prompt, and the reply so far.
    pub fn split(&self) -> (&'a [u32], &'a [u32]) {
        self.tokens.split_at(self.prompt_len.min(self.tokens.len()))
    }

    /// The position in its sequence of the token to be drawn.
    pub fn position(&self) -> usize {
        self.tokens.len() + self.unknown
    }

    /// Whether [`Draw::mask`] may return one.
    pub fn is_masked(&self) -> bool {
        let rules = self.params.rules.as_ref();
        self.guide.is_some() || rules.is_some_and(|rules| rules.allowed.is_some())
    }

    /// The tokens that may be drawn: those that the guide and the request's list both allow, or, if there are none,
    /// those of the guide. `None`: all. Fails if the guide cannot go on.
    pub fn mask(&self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        let listed = self.params.rules.as_ref().and_then(|rules| rules.allowed.clone());
        let Some(guided) = self.guide.map_or(Ok(None), SharedGuide::mask)? else {
            return Ok(listed);
        };
        let both = listed.map(|listed| Arc::new(listed.and(&guided)));
        Ok(Some(both.filter(|both| !both.is_empty(usize::MAX)).unwrap_or(guided)))
    }
}

/// No token could be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The logits contain a NaN or an infinity: the model failed on this sequence.
    #[error("the model produced NaN or infinite logits")]
    NonFinite,
    /// The sequence's guide failed.
    #[error(transparent)]
    Guide(#[from] GuideFailed),
}

/// Chooses the next token as [`sample`] does, and returns the requested log-probabilities. Fails as it does.
pub fn sample_with_logprobs(
    logits: &mut [f32],
    draw: &Draw<'_>,
) -> Result<(u32, Option<Box<Logprobs>>), SampleError> {
    let Some(k) = draw.params.logprobs else {
        return Ok((sample(logits, draw)?, None));
    };
    let own = logits.to_vec();
    let id = sample(logits, draw)?;
    Ok((id, Some(Box::new(logprobs::at(&own, id, k.into())))))
}

/// Chooses the next token from `logits`, `[vocab]`, which are overwritten. Fails if one of them is NaN or infinite, or
/// if the guide cannot go on.
pub fn sample(logits: &mut [f32], draw: &Draw<'_>) -> Result<u32, SampleError> {
    let (params, isa) = (draw.params, Isa::best());
    let mut largest = ops::largest(isa, logits).ok_or(SampleError::NonFinite)?;
    let mask = draw.mask()?;
    match (&params.rules, &mask) {
        (Some(rules), mask) => rules.apply(logits, draw.split().1, mask.as_deref()),
        (None, Some(mask)) => mask.apply(logits),
        (None, None) => {}
    }
    if params.penalises() {
        penalise(logits, draw);
    }
    if params.rules.is_some() || mask.is_some() || params.penalises() {
        largest = ops::largest(isa, logits).ok_or(SampleError::NonFinite)?;
    }
    let greedy = params.temperature <= 0.0 || params.temperature.recip().is_infinite();
    if greedy || params.top_k == 1 {
        return Ok(first_of(logits, largest));
    }
    let uniform = uniform(params.seed, draw.position() as u64);
    Ok(choose(logits, largest, params, uniform))
}

/// The first id whose logit is `largest`. Searched in runs, because a run is compared at once.
fn first_of(logits: &[f32], largest: f32) -> u32 {
    let within = |run: &[f32]| run.iter().fold(false, |found, logit| found | (*logit == largest));
    let run = logits.chunks(RUN).position(within).unwrap_or(0);
    let rest = &logits[run * RUN..];
    (run * RUN + rest.iter().position(|logit| *logit == largest).unwrap_or(0)) as u32
}

fn penalise(logits: &mut [f32], draw: &Draw<'_>) {
    let params = draw.params;
    let mut seen: Vec<u32> = draw.tokens.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            let scale = params.repetition_penalty;
            let scaled = if *logit > 0.0 { *logit / scale } else { *logit * scale };
            *logit = scaled.clamp(f32::MIN, f32::MAX);
        }
    }
    let mut reply = draw.split().1.to_vec();
    reply.sort_unstable();
    for run in reply.chunk_by(|a, b| a == b) {
        if let Some(logit) = logits.get_mut(run[0] as usize) {
            *logit -= params.frequency_penalty * run.len() as f32 + params.presence_penalty;
        }
    }
}

/// Filters by top-k, top-p and min-p, and draws from the remaining tokens. `largest` is the largest logit.
fn choose(logits: &mut [f32], largest: f32, params: &SamplingParams, uniform: f64) -> u32 {
    let (isa, factor) = (Isa::best(), params.temperature.recip());
    if params.top_k > 0 && (params.top_k as usize) < logits.len() {
        return choose_of_few(logits, largest, params, uniform);
    }
    ops::exps(isa, logits, largest, factor);
    if params.top_p < 1.0 {
        keep_nucleus(logits, params.top_p);
    }
    if params.min_p > 0.0 {
        logits.iter_mut().for_each(|w| *w = if *w < params.min_p { 0.0 } else { *w });
    }
    pick(logits, uniform) as u32
}

/// Like [`choose`] with top-k, which leaves so few tokens that it is better to collect them.
fn choose_of_few(logits: &[f32], largest: f32, params: &SamplingParams, uniform: f64) -> u32 {
    let mut ids = Vec::new();
    ops::top_k(logits, params.top_k as usize, &mut ids);
    let mut weights: Vec<f32> = ids.iter().map(|id| logits[*id as usize]).collect();
    ops::exps(Isa::best(), &mut weights, largest, params.temperature.recip());
    let mut kept: Vec<(u32, f32)> = ids.into_iter().zip(weights).collect();
    let total: f64 = kept.iter().map(|(_, w)| f64::from(*w)).sum();
    if params.top_p < 1.0 {
        kept.truncate(reaching(&kept, f64::from(params.top_p) * total));
    }
    let cut = kept.iter().position(|(_, w)| *w < params.min_p).unwrap_or(kept.len());
    kept.truncate(cut.max(1));
    draw_from(kept, uniform)
}

/// Draws one of the remaining tokens. The result depends only on the set: neither the order nor the sum
/// depends on ranks.
fn draw_from(mut kept: Vec<(u32, f32)>, uniform: f64) -> u32 {
    kept.sort_unstable_by_key(|(id, _)| *id);
    let weights: Vec<f32> = kept.iter().map(|(_, w)| *w).collect();
    kept[pick(&weights, uniform)].0
}

/// Grades of weights: eight per halving, 32 halvings; the last grade has all smaller weights.
const GRADES: usize = 256;

/// The grade of a weight between 0 and 1; larger weights have lower grades.
fn grade(weight: f32) -> usize {
    // The bits of positive floats sort like their values; here the exponent and three bits of the fraction
    // are used.
    (1f32.to_bits().saturating_sub(weight.to_bits()) >> 20).min(GRADES as u32 - 1) as usize
}

/// Sets all weights to 0 that are not in the smallest set reaching `share` of the total, most likely first,
/// equal ones by id. Weights are summed by grade, so that only those of one grade have to be sorted.
fn keep_nucleus(weights: &mut [f32], share: f32) {
    let mut masses = [0f64; GRADES];
    weights.iter().for_each(|w| masses[grade(*w)] += f64::from(*w));
    let target = f64::from(share) * masses.iter().sum::<f64>();
    let (mut last, mut before) = (0, 0.0);
    while last + 1 < GRADES && before + masses[last] < target {
        before += masses[last];
        last += 1;
    }
    let of_grade = |(_, w): &(u32, f32)| grade(*w) == last;
    let mut ranked: Vec<(u32, f32)> =
        (0u32..).zip(weights.iter().copied()).filter(of_grade).collect();
    ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let count = reaching(&ranked, target - before);
    let Some(&(id, weight)) = ranked[..count].last() else { return };
    for (i, w) in (0u32..).zip(weights) {
        if *w < weight || (*w == weight && i > id) {
            *w = 0.0;
        }
    }
}

/// How many of the ranked weights are needed to reach `target`; all of them if they do not.
fn reaching(ranked: &[(u32, f32)], target: f64) -> usize {
    let mut mass = 0.0;
    let reaches = |(_, weight): &(u32, f32)| {
        mass += f64::from(*weight);
        mass >= target
    };
    ranked.iter().position(reaches).map_or(ranked.len(), |last| last + 1)
}

/// Number of values in a run whose sum is kept.
const RUN: usize = 1024;

/// Draws an index in proportion to the weights, which are in order of their ids: first a run by the runs'
/// sums, then an index within it.
fn pick(weights: &[f32], uniform: f64) -> usize {
    let sums: Vec<f64> = weights.chunks(RUN).map(mass).collect();
    let mut point = uniform * sums.iter().sum::<f64>();
    for (at, (run, sum)) in weights.chunks(RUN).zip(sums).enumerate() {
        if point >= sum {
            point -= sum;
            continue;
        }
        for (i, weight) in run.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            point -= f64::from(*weight);
            if point < 0.0 {
                return at * RUN + i;
            }
        }
    }
    weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
}

/// The sum, in eight independent parts, so that additions do not wait for each other.
fn mass(run: &[f32]) -> f64 {
    let (eights, rest) = run.as_chunks::<8>();
    let mut parts = [0f64; 8];
    for eight in eights {
        parts.iter_mut().zip(eight).for_each(|(part, w)| *part += f64::from(*w));
    }
    parts.iter().sum::<f64>() + rest.iter().map(|w| f64::from(*w)).sum::<f64>()
}

/// Uniform in [0, 1), a function of its arguments only (SplitMix64's finaliser, twice).
pub fn uniform(seed: u64, position: u64) -> f64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let z = mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15))
        ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
