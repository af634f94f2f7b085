//! From one row of logits to one token id.
//!
//! Order: penalties, temperature, top-k, top-p, min-p, then one draw (as vLLM orders them). Only as much
//! of the vocabulary is sorted as the filters need. Randomness is a function of (seed, position), so a
//! sequence that is preempted, recomputed or batched differently still draws the same numbers. The draw
//! walks the kept tokens by id, not by rank: how a device came to keep a set, and how it orders near-ties
//! within it, then changes no token. Knows no tensors and no sequences.

use super::logprobs::{self, Logprobs};
use std::cmp::Ordering;

/// How a request wants its tokens chosen. Ranges are checked where requests come in.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides (multiplies, when negative) the logits of tokens in prompt and reply; 1 is none
    /// (CTRL, arXiv:1909.05858).
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the reply.
    pub frequency_penalty: f32,
    /// Subtracted once for tokens in the reply.
    pub presence_penalty: f32,
    pub seed: u64,
    /// Report each sampled token's log-probability, and those of so many likeliest tokens (at most
    /// [`MOST_TOP`](super::logprobs::MOST_TOP)). `None` reports and costs nothing.
    pub logprobs: Option<u8>,
    /// Report the log-probabilities of this many tokens at the end of the prompt, in one event before the
    /// first token. The prompt's first token has none, so the most is one less than its length.
    pub score_last: usize,
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
            seed: 0,
            logprobs: None,
            score_last: 0,
        }
    }
}

impl SamplingParams {
    /// Always the most likely token.
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
    }
}

/// One row's wish: how to sample, and the tokens so far.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    pub params: &'a SamplingParams,
    /// Prompt and reply so far.
    pub tokens: &'a [u32],
    /// Tokens of `tokens` that are prompt.
    pub prompt_len: usize,
}

/// The logits held a NaN or an infinity: the model failed on this sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model produced NaN or infinite logits")]
pub struct NonFinite;

/// As [`sample`], with the log-probabilities that the request asked for.
pub fn sample_with_logprobs(
    logits: &mut [f32],
    draw: &Draw<'_>,
) -> Result<(u32, Option<Box<Logprobs>>), NonFinite> {
    let Some(k) = draw.params.logprobs else {
        return Ok((sample(logits, draw)?, None));
    };
    let own = logits.to_vec();
    let id = sample(logits, draw)?;
    let token = logprobs::of_token(&own, id).ok_or(NonFinite)?;
    Ok((id, Some(Box::new(Logprobs { token, top: logprobs::top(&own, k.into()) }))))
}

/// Chooses the next token from `logits`, `[vocab]`, which are overwritten.
pub fn sample(logits: &mut [f32], draw: &Draw<'_>) -> Result<u32, NonFinite> {
    if logits.is_empty() || !logits.iter().all(|l| l.is_finite()) {
        return Err(NonFinite);
    }
    let params = draw.params;
    if params.penalises() {
        penalise(logits, draw);
    }
    if params.temperature <= 0.0 || params.top_k == 1 {
        return Ok(argmax(logits));
    }
    let inverse = 1.0 / params.temperature;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for logit in logits.iter_mut() {
        *logit = ((*logit - max) * inverse).exp();
    }
    let uniform = uniform(params.seed, draw.tokens.len() as u64);
    Ok(pick(logits, params, uniform))
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    best as u32
}

fn penalise(logits: &mut [f32], draw: &Draw<'_>) {
    let params = draw.params;
    let mut seen: Vec<u32> = draw.tokens.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            let scale = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / scale } else { *logit * scale };
        }
    }
    let reply = &draw.tokens[draw.prompt_len.min(draw.tokens.len())..];
    let mut reply = reply.to_vec();
    reply.sort_unstable();
    for run in reply.chunk_by(|a, b| a == b) {
        if let Some(logit) = logits.get_mut(run[0] as usize) {
            *logit -= params.frequency_penalty * run.len() as f32 + params.presence_penalty;
        }
    }
}

/// Draws from unnormalised weights (the most likely one is 1) after top-k, top-p and min-p.
fn pick(weights: &[f32], params: &SamplingParams, uniform: f64) -> u32 {
    if params.top_k == 0 && params.top_p >= 1.0 {
        let floor = params.min_p;
        let kept = || weights.iter().enumerate().filter(|(_, w)| **w >= floor);
        let total: f64 = kept().map(|(_, w)| f64::from(*w)).sum();
        return walk(kept().map(|(i, w)| (i as u32, *w)), uniform * total);
    }
    let mut kept = most_likely(weights, params);
    let cut = kept.iter().position(|(_, w)| *w < params.min_p).unwrap_or(kept.len());
    kept.truncate(cut.max(1));
    draw_from(kept, uniform)
}

/// One of the kept tokens, as a function of which they are: neither order nor sum depends on their ranks.
fn draw_from(mut kept: Vec<(u32, f32)>, uniform: f64) -> u32 {
    kept.sort_unstable_by_key(|(id, _)| *id);
    let total: f64 = kept.iter().map(|(_, w)| f64::from(*w)).sum();
    walk(kept.into_iter(), uniform * total)
}

/// The tokens that top-k and top-p keep, most likely first. Sorts growing prefixes only.
fn most_likely(weights: &[f32], params: &SamplingParams) -> Vec<(u32, f32)> {
    let mut pool: Vec<(u32, f32)> = (0u32..).zip(weights.iter().copied()).collect();
    let down = |a: &(u32, f32), b: &(u32, f32)| {
        b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
    };
    if params.top_k > 0 && (params.top_k as usize) < pool.len() {
        pool.select_nth_unstable_by(params.top_k as usize - 1, down);
        pool.truncate(params.top_k as usize);
    }
    let total: f64 = pool.iter().map(|(_, w)| f64::from(*w)).sum();
    let target = f64::from(params.top_p) * total;
    let (mut sorted, mut mass) = (0, 0.0);
    while sorted < pool.len() {
        let upto = (sorted * 2).max(64).min(pool.len());
        if upto < pool.len() {
            pool[sorted..].select_nth_unstable_by(upto - sorted - 1, down);
        }
        pool[sorted..upto].sort_unstable_by(down);
        for (i, (_, weight)) in pool[sorted..upto].iter().enumerate() {
            mass += f64::from(*weight);
            if mass >= target {
                pool.truncate(sorted + i + 1);
                return pool;
            }
        }
        sorted = upto;
    }
    pool
}

fn walk(choices: impl Iterator<Item = (u32, f32)>, mut point: f64) -> u32 {
    let mut last = 0;
    for (id, weight) in choices {
        if weight > 0.0 {
            last = id;
            point -= f64::from(weight);
            if point < 0.0 {
                break;
            }
        }
    }
    last
}

/// Uniform in [0, 1), a function of its arguments alone (SplitMix64's finaliser, twice).
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
