//! Time to a verdict: which differences the data so far can show, and when each gate can decide.
//!
//! These are expectations at the current traffic, not promises: half of all verdicts take longer. Nothing is
//! decided here. The forecast is shown because at 5 % of little traffic, proving a doubled error rate takes
//! days, and operators need to know that beforehand.

use std::time::Duration;

use super::evalue::{bets_above, log_e_of};
use super::exact::Limits;
use super::gates::GateInput;
use super::latency_gate::{BOUNDED, least};
use super::stats::{csm_least, csm_rejects};
use super::{EvidenceRule, GateName, Mode, Weight};

/// The e-value of real counts fluctuates around that of the expected counts, and the first crossing of the
/// limit is what matters. Half of all runs have crossed it when the expectation is this far from it (fitted
/// to the simulated medians).
const LUCK: f64 = 1.0;

/// What the current traffic can show, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Finished requests per second at this weight so far: stable's, the canary's. `None` in the
    /// first second.
    pub requests_per_second: Option<[f64; 2]>,
    /// Stable's error rate that the figures below assume, 0.0 to 1.0; half an error more than observed.
    pub base_error_rate: f64,
    /// The smallest ratio of error rates that the requests of this stage so far could have proved; `None` if
    /// they could not even prove a ratio of 100.
    pub detectable_error_ratio: Option<f64>,
    /// The smallest share of canary replies above stable's p99 (and 10 %) that would so far have failed a
    /// latency gate; equal models show 0.01. `None` if no share would.
    pub detectable_exceedance: Option<f64>,
    /// How long it takes, from the beginning of the stage, to prove that a canary has twice stable's error
    /// rate; `None` without traffic on both arms.
    pub until_doubled_errors: Option<Duration>,
    /// When each gate can decide, from now; `None` if it never can at the current traffic. Gates that are
    /// absent can decide at any time.
    pub gates: Vec<(GateName, Option<Duration>)>,
}

/// Total requests until a canary with `ratio` times stable's error rate is expected to be proved worse, at
/// level `alpha`. `None` at 0 and 100 %, for ratios up to 1, or beyond 10^12 requests.
///
/// Computed from the e-value of the expected counts. For ratios of 2 to 5 it is within a third of the
/// simulated medians.
pub fn requests_to_detect(weight: Weight, base_rate: f64, ratio: f64, alpha: f64) -> Option<u64> {
    let proved = |requests: f64| expected(weight, requests, base_rate, ratio) >= -alpha.ln();
    if !proved(1e12) {
        return None;
    }
    let (mut low, mut high) = (0.0, 12.0);
    for _ in 0..30 {
        let middle: f64 = 0.5 * (low + high);
        if proved(10f64.powf(middle)) { high = middle } else { low = middle }
    }
    Some(10f64.powf(high).ceil() as u64)
}

/// ln of the e-value of the expected errors among `requests` requests, first component only.
fn expected(weight: Weight, requests: f64, base_rate: f64, ratio: f64) -> f64 {
    let w = weight.fraction();
    let canary = requests * w * (base_rate * ratio).min(1.0);
    let stable = requests * (1.0 - w) * base_rate;
    log_e_of(&[(weight, [stable, canary])], |w| bets_above(w, 1.0)) - 2f64.ln() + LUCK
}

pub(super) fn detectable_ratio(
    weight: Weight,
    requests: f64,
    base_rate: f64,
    alpha: f64,
) -> Option<f64> {
    let proved = |ln: f64| expected(weight, requests, base_rate, ln.exp()) >= -alpha.ln();
    let (mut low, mut high) = (0.0, 100f64.ln());
    if !proved(high) {
        return None;
    }
    for _ in 0..12 {
        let middle = 0.5 * (low + high);
        if proved(middle) { high = middle } else { low = middle }
    }
    Some(high.exp())
}

pub(crate) fn forecast(input: &GateInput<'_>) -> Forecast {
    let counts = [input.stable.counts, input.canary.counts];
    // At 100 %, stable's figures are the reference's, from another stage.
    let beside = input.routed != Weight::FULL;
    let seconds = input.age.as_secs_f64();
    let rates = (seconds >= 1.0).then(|| {
        let stable = if beside { counts[0].requests as f64 / seconds } else { 0.0 };
        [stable, counts[1].requests as f64 / seconds]
    });
    let requests: f64 = counts.map(|arm| arm.requests as f64).iter().sum();
    let base = (counts[0].errors as f64 + 0.5) / (counts[0].requests as f64 + 1.0);
    let alpha = match input.policy.evidence {
        EvidenceRule::Exact => (-Limits::of(input.policy).errors).exp(),
        _ => input.policy.alpha,
    };
    let all = rates.map_or(0.0, |[stable, canary]| stable + canary);
    let doubled = requests_to_detect(input.routed, base, 2.0, alpha);
    let samples = input.canary.ttft.count();
    Forecast {
        requests_per_second: rates,
        base_error_rate: base,
        detectable_error_ratio: detectable_ratio(input.routed, requests, base, alpha),
        detectable_exceedance: csm_least(samples, 0.01, alpha)
            .filter(|_| samples > 0)
            .map(|least| least as f64 / samples as f64),
        until_doubled_errors: doubled.and_then(|n| span(n as f64, all)),
        gates: gates(input, rates),
    }
}

/// When each gate that still waits for time or samples can decide.
fn gates(input: &GateInput<'_>, rates: Option<[f64; 2]>) -> Vec<(GateName, Option<Duration>)> {
    let [stable_rate, canary_rate] = rates.unwrap_or_default();
    let policy = input.policy;
    let mut gates = Vec::new();
    if input.age < policy.bake {
        gates.push((GateName::Bake, Some(policy.bake - input.age)));
    }
    let canary = input.canary.counts.requests;
    if canary < policy.min_requests {
        let missing = (policy.min_requests - canary) as f64;
        gates.push((GateName::Requests, span(missing, canary_rate)));
    }
    let (stable_least, canary_least) = match policy.mode {
        Mode::BestEffort => (least(policy), least(policy)),
        Mode::Strict => (BOUNDED, certain(policy.alpha)),
    };
    for (name, stable, canary) in [
        (GateName::Ttft, &input.stable.ttft, &input.canary.ttft),
        (GateName::Tpot, &input.stable.tpot, &input.canary.tpot),
    ] {
        let missing = |least: u64, have: u64| least.saturating_sub(have) as f64;
        let (stable, canary) =
            (missing(stable_least, stable.count()), missing(canary_least, canary.count()));
        if stable + canary > 0.0 {
            let both = (span(stable, stable_rate), span(canary, canary_rate));
            gates.push((name, both.0.zip(both.1).map(|(stable, canary)| stable.max(canary))));
        }
    }
    gates
}

/// Number of canary samples after which a tail without any exceedance is certain to be within 1 %.
fn certain(alpha: f64) -> u64 {
    (1..100_000).find(|n| csm_rejects(*n, 0, 0.01, alpha)).unwrap_or(100_000)
}

pub(super) fn span(count: f64, per_second: f64) -> Option<Duration> {
    if count <= 0.0 {
        return Some(Duration::ZERO);
    }
    Duration::try_from_secs_f64(count / per_second).ok().filter(|_| per_second > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_a_verdict_is_near_the_documents_table() {
        let table = [
            (5, [(2.0, 19_000.0), (3.0, 5_300.0), (5.0, 1_900.0)]),
            (25, [(2.0, 4_900.0), (3.0, 1_600.0), (5.0, 550.0)]),
            (50, [(2.0, 3_300.0), (3.0, 1_200.0), (5.0, 420.0)]),
        ];
        for (percent, row) in table {
            let weight = Weight::new(percent).expect("at most 100");
            for (ratio, median) in row {
                let got = requests_to_detect(weight, 0.01, ratio, 0.05).expect("it can") as f64;
                println!("{percent} % {ratio}x: {got} for {median}");
                assert!(got < 1.5 * median && got > median / 1.5, "{percent} % {ratio}x: {got}");
            }
        }
        assert_eq!(requests_to_detect(Weight::FULL, 0.01, 2.0, 0.05), None);
        let weight = Weight::new(5).expect("at most 100");
        assert_eq!(requests_to_detect(weight, 0.01, 1.0, 0.05), None);
        assert_eq!(requests_to_detect(weight, 0.0, 2.0, 0.05), None);
    }

    #[test]
    fn what_is_detectable_shrinks_with_the_requests() {
        let weight = Weight::new(25).expect("at most 100");
        let at = |requests| detectable_ratio(weight, requests, 0.01, 0.05);
        assert_eq!(at(0.0), None);
        let (few, many) = (at(500.0).expect("some"), at(50_000.0).expect("some"));
        assert!(few > 4.0 && many < 1.6 && many > 1.0, "{few} {many}");
    }

    #[test]
    fn spans_need_traffic() {
        assert_eq!(span(0.0, 0.0), Some(Duration::ZERO));
        assert_eq!(span(5.0, 0.0), None);
        assert_eq!(span(5.0, 2.0), Some(Duration::from_millis(2500)));
    }
}
