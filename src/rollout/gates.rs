//! The gates of one stage, computed from the windows of both arms: the conditions for raising the weight.
//!
//! This file has the list of all gates, and the gates of bake time and requests. By default the other gates are those
//! of `exact/gates.rs`; `error_gate`, `latency_gate` and `user_gates` are for the earlier rules of evidence. A gate
//! that is added to only one of the two lists applies only under that rule.
//!
//! Pure functions of a [`GateInput`]; they decide nothing and keep no state. Each gate is judged on the current
//! counts, not on the worst so far: a gate only holds, and a hold that the data no longer support should end.
//! Latency is compared as time to first token and time per token, never as end-to-end time alone: a more
//! verbose canary is not slower.

use std::time::Duration;

use super::error_gate;
use super::evidence::Evidence;
use super::exact::Exact;
use super::exact::gates as exact;
use super::latency_gate::{self, Pair};
use super::signal::Signal;
use super::user_gates::{self, Users};
use super::verdict::{Gate, GateName, GateState, Verdict};
use super::window::ArmWindow;
use super::{Policy, Weight};

/// The input of a verdict.
pub(crate) struct GateInput<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) evidence: &'a Evidence,
    /// The evidence by exact probabilities, if the policy wants it.
    pub(crate) exact: Option<&'a Exact>,
    pub(crate) votes: &'a Signal,
    pub(crate) retries: &'a Signal,
    pub(crate) weight: Weight,
    /// The share that is routed to the canary.
    pub(crate) routed: Weight,
    /// Time at this weight.
    pub(crate) age: Duration,
    /// Stable next to the canary, or its frozen reference at 100 %.
    pub(crate) stable: &'a ArmWindow,
    pub(crate) canary: &'a ArmWindow,
}

/// The verdict: every gate, in the order of [`GateName`].
pub(crate) fn judge(input: &GateInput<'_>) -> Verdict {
    if let Some(exact) = input.exact {
        return judge_exactly(input, exact);
    }
    let GateInput { policy, stable, canary, .. } = input;
    let matched = canary.by_matched(stable, latency_gate::least(policy));
    let (stable_ttft, stable_tpot) = stable.latencies(matched);
    let (canary_ttft, canary_tpot) = canary.latencies(matched);
    let full = stable.counts.requests >= latency_gate::least(policy)
        && canary.counts.requests >= policy.min_requests;
    let tail = match input.weight {
        Weight::FULL => (latency_gate::TAIL * policy.alone_allowance).min(0.5),
        _ => latency_gate::TAIL,
    };
    let ttft = Pair { policy, stable: stable_ttft, canary: canary_ttft, tail, full };
    let tpot = Pair { policy, stable: stable_tpot, canary: canary_tpot, tail, full };
    let counts = (&stable.counts, &canary.counts);
    let users = Users { policy, stable: counts.0, canary: counts.1 };
    Verdict {
        gates: vec![
            bake(input),
            requests(input),
            error_gate::gate(input.evidence, policy, input.weight, counts),
            latency_gate::latency(GateName::Ttft, &ttft),
            latency_gate::latency(GateName::Tpot, &tpot),
            latency_gate::throughput(&tpot),
            user_gates::feedback(&users, input.votes),
            user_gates::retries(&users, input.retries),
        ],
        counts: Box::new([stable.counts, canary.counts]),
    }
}

fn judge_exactly(input: &GateInput<'_>, evidence: &Exact) -> Verdict {
    let GateInput { policy, stable, canary, .. } = *input;
    let of = exact::Input { policy, exact: evidence, stable, canary };
    let mut gates = vec![bake(input), requests(input), exact::errors(&of)];
    gates.extend(exact::latency(&of));
    gates.extend(exact::users(&of));
    gates.extend(exact::cross_read(&of));
    gates.extend(exact::quality(&of));
    Verdict { gates, counts: Box::new([stable.counts, canary.counts]) }
}

fn bake(input: &GateInput<'_>) -> Gate {
    let (age, bake) = (input.age, input.policy.bake);
    let text = format!("baked {} of {}", span(age), span(bake));
    let state = if age >= bake {
        GateState::Pass
    } else {
        GateState::Inconclusive(format!("{} to go", span(bake - age)))
    };
    let (value, threshold) = (Some(age.as_secs_f64()), Some(bake.as_secs_f64()));
    Gate { value, threshold, text, ..Gate::bare(GateName::Bake, state) }
}

fn requests(input: &GateInput<'_>) -> Gate {
    let (stable, canary) = (input.stable.counts.requests, input.canary.counts.requests);
    let least = input.policy.min_requests;
    let text = format!("{canary} of {least} canary requests");
    let state = if canary >= least {
        GateState::Pass
    } else {
        GateState::Inconclusive(format!("{} more canary requests", least - canary))
    };
    let (value, threshold) = (Some(canary as f64), Some(least as f64));
    let samples = (stable, canary);
    Gate { value, threshold, text, samples, ..Gate::bare(GateName::Requests, state) }
}

/// A duration for people: `2 h 05 min`, `14 min 20 s`, `3.5 s`.
pub(crate) fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Overall;

    fn window(requests: u64, ttft_ms: u64, tpot_ms: u64) -> ArmWindow {
        let mut window = ArmWindow::default();
        window.counts.requests = requests;
        for _ in 0..requests {
            window.ttft.record(Duration::from_millis(ttft_ms));
            if tpot_ms > 0 {
                window.tpot.record(Duration::from_millis(tpot_ms));
            }
        }
        window
    }

    fn verdict(stable: &ArmWindow, canary: &ArmWindow) -> Verdict {
        let policy = Policy::default();
        let evidence = Evidence::new(&policy);
        let (none, weight) = (Signal::new(), Weight::new(5).expect("at most 100"));
        let (votes, retries, age) = (&none, &none, policy.bake);
        let (policy, evidence) = (&policy, &evidence);
        let exact = None;
        judge(&GateInput {
            policy,
            evidence,
            exact,
            votes,
            retries,
            weight,
            routed: weight,
            age,
            stable,
            canary,
        })
    }

    fn state(verdict: &Verdict, name: GateName) -> &'static str {
        verdict.gate(name).map_or("absent", |gate| gate.state.as_str())
    }

    #[test]
    fn latency_and_throughput_are_ratios_to_stable() {
        let stable = window(300, 100, 10);
        assert_eq!(verdict(&stable, &window(300, 109, 10)).overall(), Overall::Pass);
        let slow_start = verdict(&stable, &window(300, 112, 10));
        assert_eq!(state(&slow_start, GateName::Ttft), "fail");
        assert_eq!(state(&slow_start, GateName::Tpot), "pass");
        let slow_decode = verdict(&stable, &window(300, 100, 12));
        assert_eq!(state(&slow_decode, GateName::Tpot), "fail");
        assert_eq!(state(&slow_decode, GateName::Throughput), "fail");
    }

    #[test]
    fn missing_samples_hold_unless_there_are_none_at_all() {
        let one_token = verdict(&window(300, 100, 0), &window(300, 100, 0));
        assert_eq!(state(&one_token, GateName::Tpot), "not_judged");
        assert_eq!(state(&one_token, GateName::Throughput), "not_judged");
        assert_eq!(one_token.overall(), Overall::Pass);
        let only_canary = verdict(&window(300, 100, 10), &window(300, 100, 0));
        assert_eq!(state(&only_canary, GateName::Tpot), "inconclusive");
        let no_stable = verdict(&ArmWindow::default(), &window(300, 100, 0));
        assert_eq!(state(&no_stable, GateName::Ttft), "inconclusive");
        assert_eq!(state(&no_stable, GateName::Tpot), "inconclusive");
    }

    #[test]
    fn nothing_at_all_is_inconclusive() {
        let empty = verdict(&ArmWindow::default(), &ArmWindow::default());
        assert_eq!(empty.overall(), Overall::Inconclusive);
        assert!(empty.gates.iter().all(|gate| gate.value.is_none_or(f64::is_finite)));
    }

    #[test]
    fn spans_read_like_times() {
        let s = Duration::from_secs;
        assert_eq!(span(Duration::from_millis(3500)), "3.5 s");
        assert_eq!(span(s(860)), "14 min 20 s");
        assert_eq!(span(s(7500)), "2 h 05 min");
    }
}
