//! The gates of one stage, computed from its two windows: what has to hold before a weight rises.
//!
//! Pure functions of a [`Stand`]; they decide nothing and remember nothing. Latency is compared as
//! time to first token and time per token, never end to end alone: a more verbose canary is not a
//! slower one. Why plain ratios of quantiles with a least sample, and not a mean: the tail is what
//! users complain about, and a mean hides it.

use std::time::Duration;

use super::evidence::Evidence;
use super::latency::Histogram;
use super::verdict::{Gate, GateName, GateState, Verdict};
use super::window::{ArmWindow, rate_reaches, tokens_per_second};
use super::{Counts, Policy};

/// Below this many samples the p99 is simply the largest. A policy that raises on fewer requests
/// judges latency on as few.
const LEAST_LATENCIES: u64 = 100;
/// Fewer thumbs-down on the canary than this fail nothing, whatever the ratio.
const LEAST_DOWN: u64 = 3;

/// What a verdict is formed from.
pub(crate) struct Stand<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) evidence: &'a Evidence,
    /// Time at this weight.
    pub(crate) age: Duration,
    /// Stable beside the canary, or its frozen reference at 100 %.
    pub(crate) stable: &'a ArmWindow,
    pub(crate) canary: &'a ArmWindow,
}

/// The verdict: every gate, in the order of [`GateName`].
pub(crate) fn judge(stand: &Stand<'_>) -> Verdict {
    let Stand { policy, stable, canary, .. } = stand;
    // The canary's replies nearly always take turns with stable's, but at a low weight few of stable's
    // do with the canary's: unlike would be compared with unlike, and every canary look slow.
    let shared = canary.mostly_shared();
    let (stable_ttft, stable_tpot) = stable.latencies(shared);
    let (canary_ttft, canary_tpot) = canary.latencies(shared);
    Verdict {
        gates: vec![
            bake(stand),
            requests(stand),
            stand.evidence.gate(policy, &stable.counts, &canary.counts),
            latency(stand, GateName::Ttft, stable_ttft, canary_ttft),
            latency(stand, GateName::Tpot, stable_tpot, canary_tpot),
            throughput(stand, stable_tpot, canary_tpot),
            feedback(policy, &stable.counts, &canary.counts),
        ],
    }
}

fn bake(stand: &Stand<'_>) -> Gate {
    let (age, bake) = (stand.age, stand.policy.bake);
    let text = format!("baked {} of {}", span(age), span(bake));
    let state = if age >= bake {
        GateState::Pass
    } else {
        GateState::Inconclusive { missing: format!("{} to go", span(bake - age)) }
    };
    Gate {
        name: GateName::Bake,
        state,
        value: Some(age.as_secs_f64()),
        threshold: Some(bake.as_secs_f64()),
        text,
        samples: (0, 0),
    }
}

fn requests(stand: &Stand<'_>) -> Gate {
    let (stable, canary) = (stand.stable.counts.requests, stand.canary.counts.requests);
    let least = stand.policy.min_requests;
    let text = format!("{canary} of {least} canary requests");
    let state = if canary >= least {
        GateState::Pass
    } else {
        GateState::Inconclusive { missing: format!("{} more canary requests", least - canary) }
    };
    Gate {
        name: GateName::Requests,
        state,
        value: Some(canary as f64),
        threshold: Some(least as f64),
        text,
        samples: (stable, canary),
    }
}

fn latency(stand: &Stand<'_>, name: GateName, stable: &Histogram, canary: &Histogram) -> Gate {
    let samples = (stable.count(), canary.count());
    let limit = stand.policy.max_latency_ratio;
    let p99 = (stable.quantile(0.99), canary.quantile(0.99));
    let (stable, canary) = match compare(stand, samples, p99) {
        Ok(pair) => pair,
        Err(state) => return unmeasured(name, state, limit, samples),
    };
    // Neither is ever zero: the histogram's lowest bucket ends above 10 us.
    let ratio = canary.as_secs_f64() / stable.as_secs_f64();
    let text = format!(
        "p99 {canary:.1?} against stable's {stable:.1?}: ratio {ratio:.2}, limit {limit:.2}"
    );
    let state =
        if ratio <= limit { GateState::Pass } else { GateState::Fail { reason: text.clone() } };
    Gate { name, state, value: Some(ratio), threshold: Some(limit), text, samples }
}

fn throughput(stand: &Stand<'_>, stable: &Histogram, canary: &Histogram) -> Gate {
    let name = GateName::Throughput;
    let samples = (stable.count(), canary.count());
    let limit = stand.policy.min_throughput_ratio;
    let medians = (tokens_per_second(stable), tokens_per_second(canary));
    let (stable, canary) = match compare(stand, samples, medians) {
        Ok(pair) => pair,
        Err(state) => return unmeasured(name, state, limit, samples),
    };
    let ratio = canary / stable;
    let text = format!(
        "median {canary:.1} tokens/s against stable's {stable:.1}: ratio {ratio:.2}, least {limit:.2}"
    );
    let state =
        if ratio >= limit { GateState::Pass } else { GateState::Fail { reason: text.clone() } };
    Gate { name, state, value: Some(ratio), threshold: Some(limit), text, samples }
}

/// The two figures if both arms have samples enough, or the state that stands in for them.
///
/// When no request of a full stage has such a sample on either arm (answers of one token have no
/// time per token) there is nothing to judge. When only one arm lacks them, that holds.
fn compare<T>(
    stand: &Stand<'_>,
    samples: (u64, u64),
    figures: (Option<T>, Option<T>),
) -> Result<(T, T), GateState> {
    let least = LEAST_LATENCIES.min(stand.policy.min_requests).max(1);
    let full = stand.stable.counts.requests >= least
        && stand.canary.counts.requests >= stand.policy.min_requests;
    if samples == (0, 0) && full {
        return Err(GateState::NotJudged {
            why: "no request on either arm has a sample".to_string(),
        });
    }
    match figures {
        (Some(stable), Some(canary)) if samples.0 >= least && samples.1 >= least => {
            Ok((stable, canary))
        }
        _ => {
            let (stable, canary) = samples;
            let missing =
                format!("{canary} canary and {stable} stable samples, {least} needed of each");
            Err(GateState::Inconclusive { missing })
        }
    }
}

fn feedback(policy: &Policy, stable: &Counts, canary: &Counts) -> Gate {
    let name = GateName::Feedback;
    let samples = (stable.votes(), canary.votes());
    let (limit, least) = (policy.max_feedback_ratio, policy.feedback_min);
    let (Some(stable_down), Some(canary_down)) = (stable.down_rate(), canary.down_rate()) else {
        let why = match samples {
            (0, 0) => "no feedback".to_string(),
            (_, 0) => "no feedback on the canary".to_string(),
            _ => "no feedback on stable".to_string(),
        };
        return unmeasured(name, GateState::NotJudged { why }, limit, samples);
    };
    let value = (stable_down > 0.0).then(|| canary_down / stable_down);
    let ratio = match value {
        Some(ratio) => format!("ratio {ratio:.2}"),
        None if canary.votes_down == 0 => "none on either".to_string(),
        None => "ratio infinite".to_string(),
    };
    let text = format!(
        "thumbs down {:.1} % ({} of {}) against stable's {:.1} % ({} of {}): {ratio}, limit {limit:.2}",
        100.0 * canary_down,
        canary.votes_down,
        samples.1,
        100.0 * stable_down,
        stable.votes_down,
        samples.0,
    );
    let down = (stable.votes_down, canary.votes_down);
    let worse = rate_reaches(limit, (down.0, samples.0), (down.1, samples.1));
    let state = if samples.0 < least || samples.1 < least {
        let (stable, canary) = samples;
        let why = format!("{canary} canary and {stable} stable votes, {least} needed of each");
        GateState::NotJudged { why }
    } else if canary.votes_down >= LEAST_DOWN && worse {
        GateState::Fail { reason: text.clone() }
    } else {
        GateState::Pass
    };
    Gate { name, state, value, threshold: Some(limit), text, samples }
}

/// A gate without a figure; its text is what its state says.
fn unmeasured(name: GateName, state: GateState, limit: f64, samples: (u64, u64)) -> Gate {
    let text = match &state {
        GateState::Pass => String::new(),
        GateState::Fail { reason: text }
        | GateState::Inconclusive { missing: text }
        | GateState::NotJudged { why: text } => text.clone(),
    };
    Gate { name, state, value: None, threshold: Some(limit), text, samples }
}

/// A span of time for people: `2 h 05 min`, `14 min 20 s`, `3.5 s`.
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

    fn votes(down: u64, up: u64) -> Counts {
        Counts { votes_down: down, votes_up: up, ..Counts::default() }
    }

    fn vote_state(stable: Counts, canary: Counts) -> GateState {
        feedback(&Policy::default(), &stable, &canary).state
    }

    #[test]
    fn feedback_is_judged_on_enough_votes_only() {
        let why = |state| matches!(state, GateState::NotJudged { .. });
        assert!(why(vote_state(votes(0, 0), votes(0, 0))));
        assert!(why(vote_state(votes(1, 50), votes(0, 0))));
        assert!(why(vote_state(votes(1, 50), votes(19, 0))));
        assert_eq!(vote_state(votes(10, 90), votes(2, 18)), GateState::Pass, "two are too few");
        assert_eq!(vote_state(votes(10, 90), votes(3, 27)), GateState::Pass);
        assert!(matches!(vote_state(votes(10, 90), votes(3, 17)), GateState::Fail { .. }));
        assert!(matches!(vote_state(votes(0, 90), votes(3, 17)), GateState::Fail { .. }));
        assert_eq!(vote_state(votes(0, 90), votes(0, 20)), GateState::Pass);
    }

    fn window(requests: u64, ttft_ms: u64, tpot_ms: u64) -> ArmWindow {
        let mut window = ArmWindow::new();
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
        judge(&Stand { policy: &policy, evidence: &evidence, age: policy.bake, stable, canary })
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
        let no_stable = verdict(&ArmWindow::new(), &window(300, 100, 0));
        assert_eq!(state(&no_stable, GateName::Ttft), "inconclusive");
        assert_eq!(state(&no_stable, GateName::Tpot), "inconclusive");
    }

    #[test]
    fn nothing_at_all_is_inconclusive() {
        let empty = verdict(&ArmWindow::new(), &ArmWindow::new());
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
