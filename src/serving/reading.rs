//! Evaluates scores: how plausible a reply is to a model, and how closely two models agree.
//!
//! Pure. It does not know how the scores were computed, or how the results are used.

use crate::model::Score;
use crate::rollout::{Agreement, Arm, Read};

/// Places of a reply at which whole distributions are compared.
pub const PLACES: usize = 16;
/// Natural logarithm of the probability below which a token is implausible: 1e-3.
const IMPLAUSIBLE: f32 = -6.907_755_4;

/// What a model made of a reply of `bytes` bytes of text, by the scores of all its tokens; `None` if there are none.
pub fn read(scores: &[Score], bytes: usize) -> Option<Read> {
    if scores.is_empty() || bytes == 0 {
        return None;
    }
    let total: f64 = scores.iter().map(|score| -f64::from(score.logprob)).sum();
    let implausible = scores.iter().filter(|score| score.logprob < IMPLAUSIBLE).count();
    let read = Read {
        nats: (total / bytes as f64) as f32,
        implausible: implausible as f32 / scores.len() as f32,
    };
    read.nats.is_finite().then_some(read)
}

/// How far two models with the same vocabulary agree on the same tokens; `None` if there is nothing to compare.
pub fn agreement(stable: &[Score], canary: &[Score], writer: Arm) -> Option<Agreement> {
    let pairs = || stable.iter().zip(canary);
    let differing = pairs().filter(|(a, b)| a.top != b.top).count();
    let whole = pairs().filter_map(|(a, b)| Some((a.all.as_deref()?, b.all.as_deref()?)));
    let (mut kl, mut sharper, mut places) = (0.0, 0.0, 0u32);
    for (stable, canary) in whole {
        // One of them may have rows beyond its vocabulary.
        let both = stable.len().min(canary.len());
        let (stable, canary) = (&stable[..both], &canary[..both]);
        let spread = (deviation(canary) / deviation(stable)).ln();
        kl += divergence(stable, canary);
        sharper += if spread.is_finite() { spread } else { 0.0 };
        places += 1;
    }
    let mean = |sum: f64| (sum / f64::from(places)) as f32;
    let differing = differing as f32 / stable.len().min(canary.len()) as f32;
    let worse: f64 =
        pairs().map(|(stable, canary)| f64::from(stable.logprob - canary.logprob)).sum();
    let worse = if writer == Arm::Stable { worse } else { -worse };
    let excess = (worse / stable.len() as f64) as f32;
    let both = Agreement { kl: mean(kl).max(0.0), differing, sharper: mean(sharper), excess };
    (places > 0 && both.kl.is_finite() && excess.is_finite()).then_some(both)
}

/// KL divergence of `other` from `base`, in nats, both given as log-probabilities by token id; beyond the shorter one,
/// nothing is compared.
pub fn divergence(base: &[f32], other: &[f32]) -> f64 {
    let one = |(p, q): (&f32, &f32)| f64::from(*p).exp() * f64::from(p - q);
    base.iter().zip(other).map(one).sum()
}

/// Standard deviation of log-probabilities, which is that of the logits.
fn deviation(all: &[f32]) -> f64 {
    let n = all.len() as f64;
    let mean = all.iter().copied().map(f64::from).sum::<f64>() / n;
    (all.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::logprobs::score;

    fn scores(logits: &[&[f32]], token: u32) -> Vec<Score> {
        logits.iter().map(|logits| score(logits, token, 0, true).unwrap()).collect()
    }

    #[test]
    fn a_reply_is_read_by_its_bytes() {
        let half = (0.5f32).ln();
        let of = |logprob| Score { logprob, top: 0, likeliest: Vec::new(), all: None };
        let found = read(&[of(half), of(-10.0)], 4).unwrap();
        assert!((found.nats - (10.0 - half) / 4.0).abs() < 1e-6);
        assert_eq!(found.implausible, 0.5);
        assert_eq!((read(&[], 4), read(&[of(half)], 0)), (None, None));
    }

    #[test]
    fn agreement_is_that_of_the_distributions() {
        let base: [&[f32]; 2] = [&[1.0, 0.0, -1.0], &[0.0, 2.0, 0.5]];
        let same = agreement(&scores(&base, 1), &scores(&base, 1), Arm::Stable).unwrap();
        assert_eq!(same, Agreement { kl: 0.0, differing: 0.0, sharper: 0.0, excess: 0.0 });
        let doubled: [&[f32]; 2] = [&[2.0, 0.0, -2.0], &[0.0, 4.0, 1.0]];
        let read = |writer| agreement(&scores(&base, 1), &scores(&doubled, 1), writer).unwrap();
        let found = read(Arm::Stable);
        assert!((found.excess + read(Arm::Canary).excess).abs() < 1e-6);
        assert!((found.sharper - 2f32.ln()).abs() < 1e-5 && found.differing == 0.0);
        let [p, q] = [[1.0f64, 0.0, -1.0], [2.0, 0.0, -2.0]].map(|logits| {
            let sum: f64 = logits.iter().map(|x: &f64| x.exp()).sum();
            logits.map(|x| x.exp() / sum)
        });
        let kl: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let one =
            agreement(&scores(&base[..1], 1), &scores(&doubled[..1], 1), Arm::Stable).unwrap();
        assert!((f64::from(one.kl) - kl).abs() < 1e-6, "{} {kl}", one.kl);
        let other: [&[f32]; 2] = [&[0.0, 1.0, -1.0], &[0.0, 2.0, 0.5]];
        let found = agreement(&scores(&base, 1), &scores(&other, 1), Arm::Stable).unwrap();
        assert_eq!(found.differing, 0.5);
    }
}
