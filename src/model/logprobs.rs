//! Log-probabilities of tokens under the model, and the most likely tokens.
//!
//! They are taken from the model's own distribution, before penalties, temperature and filters, so that they
//! describe the model and not the request (as in vLLM). Natural logarithms. It does not know about sequences.

use std::cmp::Ordering;

/// Maximum number of alternatives that can be requested.
pub const MOST_TOP: usize = 20;

/// The log-probabilities at the position of a sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The sampled token's log-probability.
    pub token: f32,
    /// The most likely tokens with their log-probabilities, most likely first; as many as requested.
    pub top: Vec<(u32, f32)>,
}

/// What the model made of a token that was already there, given all tokens before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The token's log-probability.
    pub logprob: f32,
    /// The most likely token at its place; of several, the one with the lowest id.
    pub top: u32,
    /// The most likely tokens at its place with their log-probabilities, most likely first; as many as requested.
    pub likeliest: Vec<(u32, f32)>,
    /// The log-probabilities of all tokens at its place, by id; only where requested.
    pub all: Option<Box<[f32]>>,
}

/// The log of the sum over `exp(logits)`, `[vocab]`: subtracting it from a logit gives its log-probability.
pub fn normaliser(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(*l - max).exp()).sum();
    f64::from(max) + sum.ln()
}

/// The score of `token`, with the `k` most likely ones, and all log-probabilities if `whole`; `None` if a logit is
/// NaN or infinite, or the token is out of range.
pub fn score(logits: &[f32], token: u32, k: usize, whole: bool) -> Option<Score> {
    let logit = f64::from(*logits.get(token as usize)?);
    if !logits.iter().all(|l| l.is_finite()) {
        return None;
    }
    let normaliser = normaliser(logits);
    let of = |logit: f64| (logit - normaliser) as f32;
    let all = whole.then(|| logits.iter().map(|logit| of(f64::from(*logit))).collect());
    let likeliest = top_of(logits, k, normaliser);
    Some(Score { logprob: of(logit), top: argmax(logits), likeliest, all })
}

fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// The log-probabilities at the position where `token` was sampled, and the `k` largest, from finite logits, `[vocab]`,
/// that include it.
pub fn at(logits: &[f32], token: u32, k: usize) -> Logprobs {
    let normaliser = normaliser(logits);
    let token = (f64::from(logits[token as usize]) - normaliser) as f32;
    Logprobs { token, top: top_of(logits, k, normaliser) }
}

/// The `k` most likely tokens with their log-probabilities, most likely first, ties by id.
pub fn top(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    top_of(logits, k, normaliser(logits))
}

fn top_of(logits: &[f32], k: usize, normaliser: f64) -> Vec<(u32, f32)> {
    let k = k.min(MOST_TOP).min(logits.len());
    if k == 0 {
        return Vec::new();
    }
    let down = |a: &(u32, f32), b: &(u32, f32)| {
        b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
    };
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    for candidate in (0u32..).zip(logits.iter().copied()) {
        if best.len() == k && down(&candidate, &best[k - 1]) != Ordering::Less {
            continue;
        }
        let at = best.partition_point(|kept| down(kept, &candidate) == Ordering::Less);
        best.insert(at, candidate);
        best.truncate(k);
    }
    best.iter().map(|(id, logit)| (*id, (f64::from(*logit) - normaliser) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_however_large_the_logits() {
        let logits = [1000.0, 1001.0, 999.0, -1000.0];
        let all = top(&logits, 4);
        assert_eq!(all.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0, 2, 3]);
        let sum: f32 = all.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        let score = score(&logits, 0, 2, true).unwrap();
        assert_eq!((score.logprob, score.top), (all[1].1, 1));
        assert_eq!(score.likeliest, all[..2]);
        assert_eq!(score.all.unwrap()[2], all[2].1);
    }

    #[test]
    fn the_top_is_what_a_full_sort_says() {
        let logits: Vec<f32> = (0..500u32).map(|i| ((i * 7919) % 97) as f32 / 10.0).collect();
        let mut sorted: Vec<u32> = (0..500).collect();
        sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        let ids: Vec<u32> = top(&logits, 100).iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, sorted[..MOST_TOP]);
        assert!(top(&logits, 0).is_empty());
    }

    #[test]
    fn what_is_no_number_or_outside_has_no_probability() {
        assert_eq!(score(&[0.0, f32::NAN], 0, 0, false), None);
        assert_eq!(score(&[0.0, f32::INFINITY], 0, 0, true), None);
        assert_eq!(score(&[0.0], 1, 0, false), None);
    }
}
