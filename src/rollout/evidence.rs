//! When the canary's errors count as a regression: the one rule that can take a canary out.
//!
//! A seam of four methods. The machine tells it of every stage and every counted outcome, asks
//! after each whether to roll back, and shows its gate; it never looks at an error rate itself. It
//! does not know weights' order, latencies or what a rollback is. Why an enum and not a trait
//! object: the rules are few, known here and nowhere else, and a rollout stays `Clone` and
//! comparable. A rule with memory (an e-value over the outcomes seen) keeps it in its variant.

use std::time::Duration;

use super::verdict::{Gate, GateName, GateState};
use super::window::rate_reaches;
use super::{Arm, Counts, Policy, Weight};

/// The rule in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Evidence {
    /// The ratio of the current stage's error rates, with minimums of requests and errors. It reads
    /// the stage's counts and remembers nothing.
    PlainRatio,
}

impl Evidence {
    /// The rule that the policy asks for, with nothing seen yet.
    pub(crate) fn new(_policy: &Policy) -> Evidence {
        Evidence::PlainRatio
    }

    /// A new stage begins; every outcome observed until the next was routed at this weight.
    pub(crate) fn begin_stage(&mut self, _now: Duration, _weight: Weight) {
        match self {
            Evidence::PlainRatio => {}
        }
    }

    /// One counted outcome of the current stage: judged, past the warm-up, no copy.
    pub(crate) fn observe(&mut self, _now: Duration, _arm: Arm, _error: bool) {
        match self {
            Evidence::PlainRatio => {}
        }
    }

    /// Whether the canary has to go, now. Asked at every outcome, so it formats nothing.
    pub(crate) fn regressed(&self, policy: &Policy, stable: &Counts, canary: &Counts) -> bool {
        match self {
            Evidence::PlainRatio => plain_regressed(policy, stable, canary),
        }
    }

    /// The error gate with its figures. It fails exactly when [`Evidence::regressed`].
    pub(crate) fn gate(&self, policy: &Policy, stable: &Counts, canary: &Counts) -> Gate {
        match self {
            Evidence::PlainRatio => plain_gate(policy, stable, canary),
        }
    }
}

fn plain_regressed(policy: &Policy, stable: &Counts, canary: &Counts) -> bool {
    canary.requests >= policy.rollback_min_requests
        && canary.errors >= policy.rollback_min_errors
        && reaches(policy.max_error_ratio, stable, canary)
}

fn reaches(limit: f64, stable: &Counts, canary: &Counts) -> bool {
    let stable = (stable.errors, stable.requests);
    rate_reaches(limit, stable, (canary.errors, canary.requests))
}

fn plain_gate(policy: &Policy, stable: &Counts, canary: &Counts) -> Gate {
    let limit = policy.max_error_ratio;
    let value = match (canary.error_rate(), stable.error_rate()) {
        (Some(canary), Some(stable)) if stable > 0.0 => Some(canary / stable),
        _ => None,
    };
    let text = plain_text(limit, value, stable, canary);
    let least = policy.rollback_min_requests;
    let state = if stable.requests == 0 {
        let missing = "no counted stable request to compare with".to_string();
        GateState::Inconclusive { missing }
    } else if canary.requests < least {
        let missing = format!("{} of {least} counted canary requests", canary.requests);
        GateState::Inconclusive { missing }
    } else if plain_regressed(policy, stable, canary) {
        GateState::Fail { reason: text.clone() }
    } else if reaches(limit, stable, canary) {
        let least = policy.rollback_min_errors;
        let missing = format!("{text}; only {} of {least} errors needed to judge", canary.errors);
        GateState::Inconclusive { missing }
    } else {
        GateState::Pass
    };
    let samples = (stable.requests, canary.requests);
    Gate { name: GateName::Errors, state, value, threshold: Some(limit), text, samples }
}

fn plain_text(limit: f64, ratio: Option<f64>, stable: &Counts, canary: &Counts) -> String {
    let side = |counts: &Counts| match counts.error_rate() {
        Some(rate) => format!("{:.2} % ({} of {})", 100.0 * rate, counts.errors, counts.requests),
        None => "none counted".to_string(),
    };
    let ratio = match ratio {
        Some(ratio) => format!("ratio {ratio:.2}"),
        None if stable.requests == 0 || canary.requests == 0 => "no ratio yet".to_string(),
        None if canary.errors == 0 => "no errors on either".to_string(),
        None => "ratio infinite".to_string(),
    };
    format!("errors {} against stable's {}: {ratio}, limit {limit:.2}", side(canary), side(stable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(errors: u64, requests: u64) -> Counts {
        Counts { errors, requests, ..Counts::default() }
    }

    fn state(stable: Counts, canary: Counts) -> GateState {
        let policy = Policy::default();
        let evidence = Evidence::new(&policy);
        let gate = evidence.gate(&policy, &stable, &canary);
        let failed = matches!(gate.state, GateState::Fail { .. });
        assert_eq!(failed, evidence.regressed(&policy, &stable, &canary), "{}", gate.text);
        assert!(gate.value.is_none_or(f64::is_finite));
        gate.state
    }

    #[test]
    fn the_limit_itself_fails() {
        let stable = counts(10, 1000);
        assert!(matches!(state(stable, counts(3, 200)), GateState::Fail { .. }));
        assert_eq!(state(stable, counts(3, 201)), GateState::Pass);
    }

    #[test]
    fn a_stable_arm_without_errors_is_no_special_case() {
        let stable = counts(0, 1000);
        assert_eq!(state(stable, counts(0, 50)), GateState::Pass);
        assert!(matches!(state(stable, counts(2, 50)), GateState::Inconclusive { .. }));
        assert!(matches!(state(stable, counts(3, 50)), GateState::Fail { .. }));
    }

    #[test]
    fn minimums_keep_it_inconclusive() {
        let stable = counts(1, 1000);
        assert!(matches!(state(stable, counts(49, 49)), GateState::Inconclusive { .. }));
        assert!(matches!(state(stable, counts(2, 100)), GateState::Inconclusive { .. }));
        assert!(matches!(state(counts(0, 0), counts(60, 60)), GateState::Inconclusive { .. }));
        assert!(matches!(state(counts(0, 0), counts(0, 0)), GateState::Inconclusive { .. }));
    }
}
