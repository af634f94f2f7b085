//! E-values: capital that grows only if the canary has more errors than it is allowed to.
//!
//! Let lambda be the ratio of the two error rates, and let a request go to the canary with known probability
//! w. An error then belongs to the canary with probability theta(w, lambda), whatever the base rate is and
//! however it drifts. A bet on `l` times the allowed ratio multiplies its stake by the likelihood ratio. As
//! long as the canary is no worse than allowed, the sum of all stakes is a supermartingale. The probability
//! that it ever reaches 1/alpha is then at most alpha (Ville), however often it is checked (Lindon and Malek,
//! NeurIPS 2022). This file does not know what an error is, nor the time.
//!
//! Restarts: component k begins with 1/(k(k+1)) of the capital. All components that have begun place the same
//! bets on the same `l`, so one sum per `l` holds all their stakes. The mixture over any number of restarts
//! is exact in eight numbers, and nothing has to be merged or dropped.
//!
//! Logarithms are used because after a million errors a stake is far below the range of a float.

use super::Weight;

/// The ratios to bet on, relative to the allowed ratio.
pub(crate) const LADDER: [f64; 8] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, f64::INFINITY];
/// Rungs of the ladder.
pub(crate) const RUNGS: usize = LADDER.len();
/// A bet never puts everything on one outcome.
const CLIP: f64 = 1.0 - 1e-6;
/// Number of slots. A key belongs to a slot by its hash, and the keys of one slot are left out together.
pub(crate) const SLOTS: usize = 64;

/// Log factors of each bet: for an error of the canary and for one of stable.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bets<const J: usize> {
    pub(crate) hit: [f64; J],
    pub(crate) miss: [f64; J],
}

/// The probability that an error belongs to the canary.
fn theta(w: f64, lambda: f64) -> f64 {
    if lambda.is_infinite() {
        return CLIP;
    }
    let odds = w * lambda;
    (odds / (odds + 1.0 - w)).clamp(1.0 - CLIP, CLIP)
}

/// The bets that the ratio exceeds `allowed`; `None` at 0 and 100 %, where an error carries no information.
pub(crate) fn bets_above(weight: Weight, allowed: f64) -> Option<Bets<RUNGS>> {
    bets(weight, allowed, LADDER)
}

/// The bets that the ratio is below `allowed`: the same ladder downwards.
pub(crate) fn bets_below(weight: Weight, allowed: f64) -> Option<Bets<RUNGS>> {
    bets(weight, allowed, LADDER.map(|l| 1.0 / l))
}

fn bets(weight: Weight, allowed: f64, ladder: [f64; RUNGS]) -> Option<Bets<RUNGS>> {
    let between = weight != Weight::ZERO && weight != Weight::FULL;
    between.then(|| bets_at(weight.fraction(), allowed, &ladder))
}

/// The bets on an event that lies on the canary with probability `p`, above 0 and below 1, if the arms are
/// equal: that it is `allowed` times each of the ladder's ratios as frequent there, against `allowed` times.
pub(crate) fn bets_at(p: f64, allowed: f64, ladder: &[f64; RUNGS]) -> Bets<RUNGS> {
    let null = theta(p, allowed);
    let rungs = ladder.map(|l| theta(p, allowed * l));
    Bets {
        hit: rungs.map(|q| (q / null).ln()),
        miss: rungs.map(|q| ((1.0 - q) / (1.0 - null)).ln()),
    }
}

/// ln of the sum of exponentials.
pub(crate) fn ln_sum(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + logs.iter().map(|log| (log - top).exp()).sum::<f64>().ln()
}

/// The e-value behind a logarithm, kept finite for display.
pub(crate) fn e_value(log: f64) -> f64 {
    log.min(690.0).exp()
}

/// An e-value formatted for people: two decimals where they matter.
pub(crate) fn e_text(e: f64) -> String {
    match e {
        ..0.01 => "below 0.01".to_string(),
        0.01..10_000.0 => format!("{e:.2}"),
        _ => format!("{e:.1e}"),
    }
}

/// The logarithm of the e-value for errors by weight, `[stable, canary]` each, without restarts. It depends
/// on the counts only; the order of the errors does not matter.
pub(crate) fn log_e_of<P: Copy>(
    errors: &[(P, [f64; 2])],
    bets: impl Fn(P) -> Option<Bets<RUNGS>>,
) -> f64 {
    let mut logs = [-(RUNGS as f64).ln(); RUNGS];
    for (at, [stable, canary]) in errors {
        if let Some(bets) = bets(*at) {
            for (j, log) in logs.iter_mut().enumerate() {
                *log += canary * bets.hit[j] + stable * bets.miss[j];
            }
        }
    }
    ln_sum(&logs)
}

/// The ratios that the errors do not contradict at level `alpha` on either side, valid at any time. `None` if
/// nothing bounds them within 1/1000 to 1000.
pub(crate) fn ratio_interval(errors: &[(Weight, [f64; 2])], alpha: f64) -> (f64, Option<f64>) {
    interval(errors, alpha, bets_above, bets_below)
}

/// The same for events by their exact probability.
pub(crate) fn exact_interval(events: &[(f64, [f64; 2])], alpha: f64) -> (f64, Option<f64>) {
    let above = |p, allowed| Some(bets_at(p, allowed, &LADDER));
    let below = |p, allowed| Some(bets_at(p, allowed, &LADDER.map(|l| 1.0 / l)));
    interval(events, alpha, above, below)
}

fn interval<P: Copy>(
    errors: &[(P, [f64; 2])],
    alpha: f64,
    above: impl Fn(P, f64) -> Option<Bets<RUNGS>>,
    below: impl Fn(P, f64) -> Option<Bets<RUNGS>>,
) -> (f64, Option<f64>) {
    let limit = -alpha.ln();
    let rejected_above = |ln: f64| log_e_of(errors, |at| above(at, ln.exp())) >= limit;
    let rejected_below = |ln: f64| log_e_of(errors, |at| below(at, ln.exp())) >= limit;
    const END: f64 = 6.9;
    let low = match rejected_above(-END) {
        true => bisect(-END, END, rejected_above).exp(),
        false => 0.0,
    };
    let high = rejected_below(END).then(|| bisect(END, -END, rejected_below).exp());
    (low, high)
}

/// The boundary between `from`, where the test holds, and `to`; the result is on the side where it holds.
fn bisect(mut from: f64, mut to: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..14 {
        let middle = 0.5 * (from + to);
        if holds(middle) { from = middle } else { to = middle }
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::capital::Capital;

    fn weight(percent: u8) -> Weight {
        Weight::new(percent).expect("at most 100")
    }

    /// The published formula, multiplied out.
    fn direct(w: f64, errors: &[bool]) -> f64 {
        let at = |l: f64| {
            let q = if l.is_finite() { (w * l / (w * l + 1.0 - w)).min(CLIP) } else { CLIP };
            let of = |canary: &bool| if *canary { q / w } else { (1.0 - q) / (1.0 - w) };
            errors.iter().map(of).product::<f64>() / 8.0
        };
        LADDER.iter().map(|l| at(*l)).sum()
    }

    #[test]
    fn the_e_value_is_the_documents_formula() {
        let errors: Vec<bool> = (0..40).map(|i| i % 7 == 0).collect();
        let bets = bets_above(weight(25), 1.0).expect("25 %");
        let mut capital = Capital::new();
        capital.restart(1);
        for canary in &errors {
            capital.settle(if *canary { &bets.hit } else { &bets.miss }, None);
        }
        let want = (direct(0.25, &errors) / 2.0).ln();
        assert!((capital.log_e() - want).abs() < 1e-9, "{} {want}", capital.log_e());
        let counts = [(weight(25), [34.0, 6.0])];
        let by_counts = log_e_of(&counts, |w| bets_above(w, 1.0));
        assert!((by_counts - want - 2f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn a_bet_is_fair_under_the_null_and_loses_below_it() {
        for percent in [1, 5, 25, 50, 99] {
            for (allowed, truth) in [(1.0, 1.0), (1.0, 0.5), (1.5, 1.5), (1.5, 1.0)] {
                let w = f64::from(percent) / 100.0;
                let bets = bets_above(weight(percent), allowed).expect("between");
                let p = theta(w, truth);
                for j in 0..RUNGS {
                    let mean = p * bets.hit[j].exp() + (1.0 - p) * bets.miss[j].exp();
                    assert!(mean <= 1.0 + 1e-9, "{percent} % {allowed} {truth}: {mean}");
                    assert!(truth < allowed || mean > 1.0 - 1e-9);
                }
            }
            let down = bets_below(weight(percent), 1.5).expect("between");
            let p = theta(f64::from(percent) / 100.0, 2.0);
            let mean = p * down.hit[3].exp() + (1.0 - p) * down.miss[3].exp();
            assert!(mean < 1.0, "{mean}");
        }
        assert_eq!(bets_above(Weight::FULL, 1.0), None);
        assert_eq!(bets_above(Weight::ZERO, 1.0), None);
    }

    #[test]
    fn one_sum_for_all_components_is_the_mixture_over_restarts() {
        let bets = bets_above(weight(5), 1.0).expect("5 %");
        let runs: [&[bool]; 3] = [&[false, false, true], &[true, false], &[true, true, false]];
        let mut capital = Capital::new();
        for (k, run) in (1..).zip(runs) {
            capital.restart(k);
            for canary in run {
                capital.settle(if *canary { &bets.hit } else { &bets.miss }, None);
            }
        }
        let mixture: f64 = (0..3)
            .map(|k| {
                let seen = runs[k..].concat();
                direct(0.05, &seen) / ((k + 1) * (k + 2)) as f64
            })
            .sum();
        assert!((capital.log_e() - mixture.ln()).abs() < 1e-9);
    }

    #[test]
    fn the_interval_holds_the_truth_and_narrows() {
        let at = |stable: f64, canary: f64| ratio_interval(&[(weight(50), [stable, canary])], 0.05);
        assert_eq!(at(0.0, 0.0), (0.0, None));
        let (low, high) = at(100.0, 200.0);
        let high = high.expect("many errors");
        assert!(low > 1.3 && low < 2.0 && high > 2.0 && high < 3.1, "{low} {high}");
        let (low, high) = at(0.0, 20.0);
        assert!(low > 2.0 && high.is_none(), "{low} {high:?}");
        let (low, high) = at(20.0, 0.0);
        assert!(low < 0.01 && high.is_some_and(|high| high < 0.5), "{low} {high:?}");
    }
}
