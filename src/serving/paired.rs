//! The results of shadow traffic: pairs of replies of both models to the same request.
//!
//! Pure and bounded: only the latest pairs are kept. The differences within pairs say more than two separate
//! distributions, because both models had the same prompt. But the two replies of a pair were generated at different
//! times, and pairs do not account for that.

use crate::control::ShadowStatus;
use std::collections::VecDeque;
use std::time::Duration;

/// Pairs kept.
const KEPT: usize = 1000;

/// One model's answer to one request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    pub tokens: Vec<u32>,
    pub ttft: Duration,
    /// Mean time per token after the first; `None` with fewer than two.
    pub per_token: Option<Duration>,
}

/// Both answers, reduced to what is reported.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pair {
    ttft: f64,
    per_token: Option<f64>,
    length: f64,
    /// The first token that differs; `None` when none does.
    divergence: Option<usize>,
    /// Mean log-probability of stable's tokens to the canary, in nats.
    log_probability: Option<f64>,
}

/// All pairs so far.
#[derive(Debug, Clone, Default)]
pub struct Paired {
    pairs: VecDeque<Pair>,
    total: u64,
}

impl Paired {
    /// Takes in a pair; `log_probability`: mean over stable's tokens to the canary, in nats; `None` unless the tokenizers
    /// agree.
    pub fn add(&mut self, stable: &Answer, canary: &Answer, log_probability: Option<f64>) {
        let same = stable.tokens.iter().zip(&canary.tokens).take_while(|(a, b)| a == b).count();
        let whole = stable.tokens.len() == canary.tokens.len() && same == stable.tokens.len();
        let ratio = |a: Duration, b: Duration| b.as_secs_f64() / a.as_secs_f64().max(1e-9);
        self.pairs.push_back(Pair {
            ttft: ratio(stable.ttft, canary.ttft),
            per_token: stable.per_token.zip(canary.per_token).map(|(a, b)| ratio(a, b)),
            length: canary.tokens.len() as f64 / stable.tokens.len().max(1) as f64,
            divergence: (!whole).then_some(same),
            log_probability,
        });
        self.total += 1;
        if self.pairs.len() > KEPT {
            self.pairs.pop_front();
        }
    }

    /// What the latest pairs amount to; the counts of copies that did not become one are not known here.
    pub fn status(&self) -> ShadowStatus {
        let all = |figure: fn(&Pair) -> Option<f64>| self.pairs.iter().filter_map(figure);
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        let log = |pair: &Pair| pair.log_probability;
        let same = self.pairs.iter().filter(|pair| pair.divergence.is_none()).count();
        ShadowStatus {
            pairs: self.total,
            ttft_ratio: median(all(|pair| Some(pair.ttft))),
            tpot_ratio: median(all(|pair| pair.per_token)),
            length_ratio: median(all(|pair| Some(pair.length))),
            identical: mean(same as f64, self.pairs.len()),
            divergence: median(all(|pair| pair.divergence.map(|at| at as f64))),
            log_probability: mean(all(log).sum(), all(log).count()),
            ..ShadowStatus::default()
        }
    }
}

/// The lower median.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(tokens: &[u32], ms: u64) -> Answer {
        let time = Duration::from_millis(ms);
        Answer { tokens: tokens.to_vec(), ttft: time, per_token: Some(time / 10) }
    }

    #[test]
    fn pairs_are_compared_one_by_one() {
        let mut paired = Paired::default();
        assert_eq!(paired.status(), ShadowStatus::default());
        paired.add(&answer(&[1, 2, 3, 4], 10), &answer(&[1, 2, 3, 4], 20), Some(-0.5));
        paired.add(&answer(&[1, 2, 3, 4], 10), &answer(&[1, 9], 30), Some(-1.5));
        paired.add(&answer(&[1, 2], 10), &answer(&[1, 2, 3], 30), None);
        let found = paired.status();
        assert_eq!((found.pairs, paired.pairs.len()), (3, 3));
        assert!((found.ttft_ratio.unwrap() - 3.0).abs() < 1e-9);
        assert!((found.tpot_ratio.unwrap() - 3.0).abs() < 1e-9);
        assert!((found.length_ratio.unwrap() - 1.0).abs() < 1e-9);
        assert!((found.identical.unwrap() - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(found.divergence, Some(1.0));
        assert_eq!(found.log_probability, Some(-1.0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut paired = Paired::default();
        (0..KEPT + 5).for_each(|_| paired.add(&answer(&[1], 1), &answer(&[1], 1), None));
        let found = paired.status();
        assert_eq!((found.pairs, paired.pairs.len()), (KEPT as u64 + 5, KEPT));
    }
}
