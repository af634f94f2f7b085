//! The error gate: turns the evidence about errors into a gate with figures.
//!
//! It fails exactly when [`Evidence::regression`] says that the canary must be rolled back. It passes when
//! the e-value is below 1/alpha and the ratio over the whole rollout is below the limit. In strict mode, the
//! errors of the current stage must also show that the ratio is below the limit. Anything in between holds
//! the weight.

use super::evalue::{e_text, e_value, ratio_interval};
use super::evidence::{Evidence, Regression, plain_reaches, plain_regressed};
use super::strata::Ratio;
use super::verdict::{Gate, GateName, GateState};
use super::{Counts, EvidenceRule, Mode, Policy, Weight};

/// The gate at this weight, from this stage's counts (at 100 %, stable's counts are the reference's).
pub(crate) fn gate(
    evidence: &Evidence,
    policy: &Policy,
    weight: Weight,
    (stable, canary): (&Counts, &Counts),
) -> Gate {
    let regression = match evidence.rule {
        EvidenceRule::None => return plain_gate(policy, stable, canary),
        EvidenceRule::EValue | EvidenceRule::Exact => evidence.regression(policy, stable, canary),
    };
    match (&regression, weight) {
        (None | Some(Regression::FullWeightTest), Weight::FULL) => {
            alone_gate(evidence, policy, regression.is_some(), (stable, canary))
        }
        _ => beside_gate(evidence, policy, weight, regression, (stable, canary)),
    }
}

fn beside_gate(
    evidence: &Evidence,
    policy: &Policy,
    weight: Weight,
    regression: Option<Regression>,
    (stable, canary): (&Counts, &Counts),
) -> Gate {
    let strata = &evidence.strata;
    let ratio = match regression {
        Some(Regression::Beside(ratio)) => ratio,
        _ => strata.ratio(),
    };
    let e = e_value(evidence.errors.log_e());
    let here = [(weight, [stable.errors as f64, canary.errors as f64])];
    let (low, high) = match policy.mode {
        Mode::Strict => ratio_interval(&here, policy.alpha),
        Mode::BestEffort => ratio_interval(&strata.by_weight, policy.alpha),
    };
    let text = beside_text(evidence, policy, &ratio, (low, high));
    let limit = policy.max_error_ratio;
    let missing = if regression.is_some() {
        return Gate {
            value: ratio.value(),
            threshold: Some(limit),
            evidence: Some(e),
            interval: high.map(|high| (low, high)),
            samples: (strata.requests[0], strata.requests[1]),
            ..Gate::bare(GateName::Errors, GateState::Fail(text))
        };
    } else if stable.requests == 0 {
        Some("no counted stable request to compare with".to_string())
    } else if evidence.rests_on_one_key(policy) {
        Some(format!("{text}; the evidence rests on one API key alone"))
    } else if e >= 1.0 / policy.alpha {
        Some(format!("{text}; the canary errs more, but the ratio is below the limit"))
    } else if ratio.reaches(limit) && !ratio.is_infinite() {
        Some(format!("{text}; the ratio is too high, but it may be chance"))
    } else if policy.mode == Mode::Strict && high.is_none_or(|high| high >= limit) {
        Some(format!("{text}; not yet certain to be below the limit"))
    } else {
        None
    };
    let state = missing.map_or(GateState::Pass, GateState::Inconclusive);
    Gate {
        value: ratio.value(),
        threshold: Some(limit),
        evidence: Some(e),
        interval: high.map(|high| (low, high)),
        samples: (strata.requests[0], strata.requests[1]),
        text,
        ..Gate::bare(GateName::Errors, state)
    }
}

fn beside_text(
    evidence: &Evidence,
    policy: &Policy,
    ratio: &Ratio,
    (low, high): (f64, Option<f64>),
) -> String {
    let ([stable, canary], errors) = (evidence.strata.requests, evidence.strata.errors);
    let stands = match ratio.value() {
        Some(value) => format!("ratio {value:.2}"),
        None if ratio.is_infinite() => "ratio infinite".to_string(),
        None if errors == [0, 0] => "no errors on either".to_string(),
        None => "no ratio yet".to_string(),
    };
    let high = high.map_or("unknown".to_string(), |high| format!("{high:.2}"));
    format!(
        "errors {} against stable's {} over the rollout: {stands} ({low:.2} to {high}), limit \
         {:.2}; evidence {} of {:.0}",
        rate_text(errors[1], canary),
        rate_text(errors[0], stable),
        policy.max_error_ratio,
        e_text(e_value(evidence.errors.log_e())),
        1.0 / policy.alpha,
    )
}

fn alone_gate(
    evidence: &Evidence,
    policy: &Policy,
    regressed: bool,
    (stable, canary): (&Counts, &Counts),
) -> Gate {
    let Some(test) = &evidence.full_weight else {
        let missing = "no reference of stable's error rate from below 100 %".to_string();
        return Gate::bare(GateName::Errors, GateState::Inconclusive(missing));
    };
    let rate = canary.error_rate();
    let e = e_value(test.log_e());
    let text = format!(
        "errors {} alone, stable's were {}: {:.2} % allowed; evidence {} of {:.0}",
        rate_text(canary.errors, canary.requests),
        rate_text(test.reference.0, test.reference.1),
        100.0 * test.allowed,
        e_text(e),
        1.0 / policy.alpha,
    );
    let state = if regressed {
        GateState::Fail(text.clone())
    } else if evidence.rests_on_one_key(policy) {
        GateState::Inconclusive(format!("{text}; it rests on one API key alone"))
    } else if rate.is_some_and(|rate| rate >= test.allowed) {
        GateState::Inconclusive(format!("{text}; too high, but it may be chance"))
    } else {
        GateState::Pass
    };
    Gate {
        value: rate,
        threshold: Some(test.allowed),
        evidence: Some(e),
        samples: (stable.requests, canary.requests),
        text,
        ..Gate::bare(GateName::Errors, state)
    }
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
        GateState::Inconclusive(missing)
    } else if canary.requests < least {
        let missing = format!("{} of {least} counted canary requests", canary.requests);
        GateState::Inconclusive(missing)
    } else if plain_regressed(policy, stable, canary) {
        GateState::Fail(text.clone())
    } else if plain_reaches(limit, stable, canary) {
        let least = policy.rollback_min_errors;
        let missing = format!("{text}; only {} of {least} errors needed to judge", canary.errors);
        GateState::Inconclusive(missing)
    } else {
        GateState::Pass
    };
    let samples = (stable.requests, canary.requests);
    let gate = Gate::bare(GateName::Errors, state);
    Gate { value, threshold: Some(limit), text, samples, ..gate }
}

fn plain_text(limit: f64, ratio: Option<f64>, stable: &Counts, canary: &Counts) -> String {
    let side = |counts: &Counts| rate_text(counts.errors, counts.requests);
    let ratio = match ratio {
        Some(ratio) => format!("ratio {ratio:.2}"),
        None if stable.requests == 0 || canary.requests == 0 => "no ratio yet".to_string(),
        None if canary.errors == 0 => "no errors on either".to_string(),
        None => "ratio infinite".to_string(),
    };
    format!("errors {} against stable's {}: {ratio}, limit {limit:.2}", side(canary), side(stable))
}

fn rate_text(errors: u64, requests: u64) -> String {
    match requests {
        0 => "none counted".to_string(),
        _ => format!("{:.2} % ({errors} of {requests})", 100.0 * errors as f64 / requests as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(errors: u64, requests: u64) -> Counts {
        Counts { errors, requests, ..Counts::default() }
    }

    fn state(stable: Counts, canary: Counts) -> GateState {
        let policy = Policy { evidence: EvidenceRule::None, ..Policy::default() };
        let evidence = Evidence::new(&policy);
        let weight = Weight::new(5).expect("at most 100");
        let gate = gate(&evidence, &policy, weight, (&stable, &canary));
        let failed = matches!(gate.state, GateState::Fail(_));
        let regressed = evidence.regression(&policy, &stable, &canary).is_some();
        assert_eq!(failed, regressed, "{}", gate.text);
        assert!(gate.value.is_none_or(f64::is_finite));
        gate.state
    }

    #[test]
    fn the_limit_itself_fails() {
        let stable = counts(10, 1000);
        assert!(matches!(state(stable, counts(3, 200)), GateState::Fail(_)));
        assert_eq!(state(stable, counts(3, 201)), GateState::Pass);
    }

    #[test]
    fn a_stable_arm_without_errors_is_no_special_case() {
        let stable = counts(0, 1000);
        assert_eq!(state(stable, counts(0, 50)), GateState::Pass);
        assert!(matches!(state(stable, counts(2, 50)), GateState::Inconclusive(_)));
        assert!(matches!(state(stable, counts(3, 50)), GateState::Fail(_)));
    }

    #[test]
    fn minimums_keep_it_inconclusive() {
        let stable = counts(1, 1000);
        assert!(matches!(state(stable, counts(49, 49)), GateState::Inconclusive(_)));
        assert!(matches!(state(stable, counts(2, 100)), GateState::Inconclusive(_)));
        assert!(matches!(state(counts(0, 0), counts(60, 60)), GateState::Inconclusive(_)));
        assert!(matches!(state(counts(0, 0), counts(0, 0)), GateState::Inconclusive(_)));
    }
}
