//! What a policy can detect at a given traffic: how long each step takes, and which regressions it can show.
//!
//! These are expectations, as in `forecast`. With little traffic, operators use them to choose steps, minimums and
//! durations before a rollout begins. Pure; the traffic is an argument.

use std::time::Duration;

use super::evalue::{bets_above, log_e_of};
use super::exact::Limits;
use super::forecast::{detectable_ratio, requests_to_detect, span};
use super::{Policy, Weight};

/// More errors than this are never needed to find a canary that always fails.
const MOST_ERRORS: u32 = 100;
/// Longer times are no different for anybody: a thousand years.
const NEVER: Duration = Duration::from_secs(1000 * 365 * 86_400);

/// What is to be expected of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutlook {
    /// The step's weight.
    pub weight: Weight,
    /// Requests to the canary in a day.
    pub canary_per_day: f64,
    /// Time until the step can end: its bake time, or longer until the canary has had enough requests.
    pub takes: Duration,
    /// Time until a canary that fails every request is rolled back.
    pub total_failure: Duration,
    /// Time until a canary with twice stable's error rate is rolled back; `None` beyond years.
    pub doubled_errors: Option<Duration>,
    /// The smallest ratio of error rates that is found within the step; `None` above 100.
    pub ratio: Option<f64>,
}

/// The outlook of every step at this traffic, and the time that they take together. `base_rate`: the share of
/// requests that fail on stable, 0 to 1.
pub fn outlook(
    policy: &Policy,
    requests_per_day: f64,
    base_rate: f64,
) -> (Vec<StepOutlook>, Duration) {
    let steps: Vec<StepOutlook> = policy
        .steps
        .iter()
        .map(|weight| step(policy, *weight, requests_per_day, base_rate))
        .collect();
    let all = steps.iter().map(|step| step.takes).sum();
    (steps, all)
}

fn step(policy: &Policy, weight: Weight, per_day: f64, base_rate: f64) -> StepOutlook {
    let routed = policy.routed(weight);
    let per_second = per_day / 86_400.0;
    let canary_rate = per_second * routed.fraction();
    let lasts = |requests: f64| span(requests, canary_rate).map_or(NEVER, |time| time.min(NEVER));
    let full = lasts(policy.min_requests as f64);
    let takes = policy.bake.max(full);
    let alpha = (-Limits::of(policy).errors).exp();
    let errors = errors_to_find(routed, alpha).min(policy.fault_streak);
    let doubled = requests_to_detect(routed, base_rate, 2.0, alpha);
    let requests = per_second * takes.as_secs_f64();
    StepOutlook {
        weight,
        canary_per_day: canary_rate * 86_400.0,
        takes,
        total_failure: lasts(f64::from(errors)),
        doubled_errors: doubled.and_then(|requests| span(requests as f64, per_second)),
        ratio: detectable_ratio(routed, requests, base_rate, alpha),
    }
}

/// Errors in a row on the canary, and none on stable, until the evidence is there.
fn errors_to_find(routed: Weight, alpha: f64) -> u32 {
    let proved = |errors: &u32| {
        let counts = [(routed, [0.0, f64::from(*errors)])];
        log_e_of(&counts, |w| bets_above(w, 1.0)) - 2f64.ln() >= -alpha.ln()
    };
    (1..MOST_ERRORS).find(proved).unwrap_or(MOST_ERRORS)
}

/// Policies that need less time at this traffic: what is changed, and the policy. Only those that help by a third.
pub fn alternatives(policy: &Policy, requests_per_day: f64) -> Vec<(String, Policy)> {
    let time = |policy: &Policy| outlook(policy, requests_per_day, 0.01).1.as_secs_f64();
    let now = time(policy);
    let with_steps = |steps: &[u8]| {
        let steps = steps.iter().copied().filter_map(Weight::new).collect();
        Policy { steps, ..policy.clone() }
    };
    let fewer = Policy { min_requests: policy.min_requests.min(100), ..policy.clone() };
    let candidates = [
        ("steps = [25, 50, 100]".to_owned(), with_steps(&[25, 50, 100])),
        ("steps = [50, 100]".to_owned(), with_steps(&[50, 100])),
        (format!("min_requests = {}", fewer.min_requests), fewer),
    ];
    candidates.into_iter().filter(|(_, policy)| time(policy) < 0.67 * now).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ten_requests_a_day_take_months_and_a_total_failure_is_found_within_seven_errors() {
        let policy = Policy::default();
        let (steps, all) = outlook(&policy, 10.0, 0.01);
        let days = |time: Duration| time.as_secs_f64() / 86_400.0;
        assert!((days(steps[0].takes) - 600.0).abs() < 1.0, "300 requests at half a request a day");
        assert!(days(all) > 700.0);
        let errors = |step: &StepOutlook| days(step.total_failure) * step.canary_per_day;
        assert!(steps[..2].iter().all(|step| errors(step) <= 7.01), "{steps:?}");
        assert!(
            steps.iter().all(|step| errors(step) <= 10.01),
            "a streak of ten ends it: {steps:?}"
        );
        let ways = alternatives(&policy, 10.0);
        assert_eq!(ways.len(), 3, "{ways:?}");
    }

    #[test]
    fn with_much_traffic_a_step_takes_its_bake_time() {
        let policy = Policy::default();
        let (steps, _) = outlook(&policy, 1e7, 0.01);
        assert!(steps.iter().all(|step| step.takes == policy.bake));
        assert!(steps.iter().all(|step| step.ratio.is_some_and(|ratio| ratio < 1.5)));
        assert!(alternatives(&Policy { steps: vec![Weight::FULL], ..policy }, 1e7).is_empty());
    }

    proptest! {
        #[test]
        fn more_traffic_never_takes_longer(per_day in 1.0f64..1e6, more in 1.0f64..10.0) {
            let policy = Policy::default();
            let (few, many) = (outlook(&policy, per_day, 0.01), outlook(&policy, per_day * more, 0.01));
            prop_assert!(many.1 <= few.1);
            for (few, many) in few.0.iter().zip(&many.0) {
                prop_assert!(many.total_failure <= few.total_failure);
                prop_assert!(many.doubled_errors <= few.doubled_errors || few.doubled_errors.is_none());
            }
        }
    }
}
