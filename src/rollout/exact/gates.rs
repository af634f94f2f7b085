//! The gates that use the exact evidence: their figures, and whether they pass.
//!
//! Pure functions of the evidence. A gate passes unless the evidence against the canary reaches the gate's limit. In
//! strict mode there must also be evidence that the canary is within the limits. Nothing is decided here.

use std::time::Duration;

use super::reading::Readings;
use super::signal::{Draw, Finding, Ratio, Signal};
use super::timing::{Part, Timing};
use super::{Exact, Limits};
use crate::rollout::evalue::{e_text, e_value};
use crate::rollout::latency_gate::least;
use crate::rollout::quality::Flag;
use crate::rollout::verdict::{Gate, GateName, GateState};
use crate::rollout::window::{ArmWindow, tokens_per_second};
use crate::rollout::{Arm, CrossRead, Expect, Mode, Policy, Reading, SignalAction};

/// What the gates are computed from.
pub(crate) struct Input<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) exact: &'a Exact,
    /// Stable and the canary in this stage.
    pub(crate) stable: &'a ArmWindow,
    pub(crate) canary: &'a ArmWindow,
}

impl Input<'_> {
    fn limits(&self) -> &Limits {
        &self.exact.limits
    }

    /// Both arms have the requests that the policy requires: missing samples will not come.
    fn is_full(&self) -> bool {
        self.stable.counts.requests > 0 && self.canary.counts.requests >= self.policy.min_requests
    }

    fn party(&self) -> String {
        let name = self.exact.parties.lone();
        name.map_or(String::new(), |name| format!("; nearly all traffic is of one party ({name})"))
    }
}

/// The gate of errors.
pub(crate) fn errors(input: &Input<'_>) -> Gate {
    let exact = input.exact;
    if let Some(test) = &exact.full_weight {
        let rate = rate(exact.failed[1], exact.requests[1]);
        let text = format!(
            "errors {rate}, no traffic on stable; {:.2} % allowed; evidence {} of {:.0}",
            100.0 * test.allowed,
            e_text(e_value(test.log_e())),
            input.limits().errors.exp()
        );
        let state = match test.log_e() >= input.limits().errors {
            true => GateState::Fail(text.clone()),
            false => GateState::Pass,
        };
        return Gate { text, ..Gate::bare(GateName::Errors, state) };
    }
    let what = format!(
        "errors {} against stable's {} over the rollout",
        rate(exact.failed[1], exact.requests[1]),
        rate(exact.failed[0], exact.requests[0])
    );
    let mut gate = bad(input, GateName::Errors, &exact.errors, input.limits().errors, &what);
    gate.samples = (exact.requests[0], exact.requests[1]);
    if exact.requests[0] == 0 && gate.state == GateState::Pass {
        let missing = "no counted stable request to compare with".to_string();
        gate.state = GateState::Inconclusive(missing);
    }
    gate
}

/// A gate on a bad event that can roll back or hold: it fails if that is proved at a ratio above the limit.
fn bad(input: &Input<'_>, name: GateName, signal: &Signal, limit: f64, what: &str) -> Gate {
    let Input { policy, exact, .. } = *input;
    let finding = signal.finding(limit, &input.exact.parties);
    let proved = finding == Finding::Proved;
    let ratio = if proved { signal.ratio_of_evidence() } else { signal.ratio };
    let (low, high) = signal.interval(policy.alpha);
    let upper = high.map_or("unknown".to_string(), |high| format!("{high:.2}"));
    let text = format!(
        "{what}: {} ({low:.2} to {upper}), limit {:.2}; evidence {} of {:.0}{}",
        ratio_text(&ratio, signal),
        policy.max_error_ratio,
        e_text(e_value(signal.log_e())),
        limit.exp(),
        input.party(),
    );
    let reached = ratio.reaches(policy.max_error_ratio);
    let uncertain = policy.mode == Mode::Strict
        && name == GateName::Errors
        && high.is_none_or(|high| high >= policy.max_error_ratio);
    let state = match finding {
        Finding::Proved if exact.requests[0] == 0 => {
            GateState::Inconclusive(format!("{text}; no counted stable request to compare with"))
        }
        Finding::Proved if reached => GateState::Fail(text.clone()),
        Finding::Proved => GateState::Inconclusive(format!(
            "{text}; more frequent than on stable, but below the limit"
        )),
        Finding::OneParty => pass_on_one_party(&text, uncertain),
        Finding::Hidden => GateState::Inconclusive(format!(
            "{text}; without the party that has most of stable's events, the ratio would be too high"
        )),
        Finding::Below if uncertain => {
            GateState::Inconclusive(format!("{text}; not yet certain to be below the limit"))
        }
        Finding::Below => GateState::Pass,
    };
    Gate {
        value: ratio.value(),
        threshold: Some(policy.max_error_ratio),
        evidence: Some(e_value(signal.log_e())),
        interval: high.map(|high| (low, high)),
        samples: (signal.counted[0], signal.counted[1]),
        text,
        ..Gate::bare(name, state)
    }
}

/// One party's experience neither rolls back nor holds while others are active.
fn pass_on_one_party(text: &str, uncertain: bool) -> GateState {
    match uncertain {
        true => GateState::Inconclusive(format!("{text}; the evidence comes from one party")),
        false => GateState::Pass,
    }
}

fn ratio_text(ratio: &Ratio, signal: &Signal) -> String {
    match ratio.value() {
        Some(value) => format!("ratio {value:.2}"),
        None if ratio.is_infinite() => "ratio infinite".to_string(),
        None if signal.counted == [0, 0] => "none on either".to_string(),
        None => "no ratio yet".to_string(),
    }
}

fn rate(part: u64, whole: u64) -> String {
    match whole {
        0 => "none counted".to_string(),
        _ => format!("{:.2} % ({part} of {whole})", 100.0 * part as f64 / whole as f64),
    }
}

/// The gates of latency: TTFT, time per token (p99), throughput (median).
pub(crate) fn latency(input: &Input<'_>) -> [Gate; 3] {
    let Exact { ttft, tpot, .. } = input.exact;
    [
        timing(input, GateName::Ttft, ttft, Part::Whole),
        timing(input, GateName::Tpot, tpot, Part::P99),
        timing(input, GateName::Throughput, tpot, Part::Median),
    ]
}

fn timing(input: &Input<'_>, name: GateName, timing: &Timing, part: Part) -> Gate {
    let policy = input.policy;
    let limit = input.limits().latency;
    let of = |window: &ArmWindow| match name {
        GateName::Ttft => window.ttft.count(),
        _ => window.tpot.count(),
    };
    let samples = (of(input.stable), of(input.canary));
    let (value, shown, threshold) = figures(input, name);
    let e = timing.log_e(part);
    let text = format!(
        "{shown}; {} of {} canary samples at equal work above the past p99; evidence {} of {:.0}",
        timing.slow[1],
        timing.counted[1],
        e_text(e_value(e)),
        limit.exp(),
    );
    let state = match timing.finding((part, e), limit, &input.exact.parties) {
        Finding::Proved => GateState::Fail(text.clone()),
        _ if samples.1 == 0 && input.is_full() => {
            let why = "not applicable: no reply on the canary has such a sample".to_string();
            return Gate { samples, ..Gate::bare(name, GateState::NotJudged(why)) };
        }
        _ if samples.1 < least(policy) || samples.0 == 0 => GateState::Inconclusive(format!(
            "{} canary and {} stable samples, {} needed of the canary",
            samples.1,
            samples.0,
            least(policy)
        )),
        _ if policy.mode == Mode::Strict && !timing.is_certain(part, policy.log_limit()) => {
            GateState::Inconclusive(format!("{text}; not yet certain"))
        }
        _ => GateState::Pass,
    };
    Gate {
        value,
        threshold: Some(threshold),
        evidence: Some(e_value(e)),
        samples,
        text,
        ..Gate::bare(name, state)
    }
}

/// The ratio of this stage's figures, for display, with a text and the limit.
fn figures(input: &Input<'_>, name: GateName) -> (Option<f64>, String, f64) {
    let Input { policy, stable, canary, .. } = input;
    if name == GateName::Throughput {
        let rates = tokens_per_second(&stable.tpot).zip(tokens_per_second(&canary.tpot));
        let text = |(stable, canary): (f64, f64)| {
            format!("median {canary:.1} tokens/s against stable's {stable:.1}")
        };
        let value = rates.map(|(stable, canary)| canary / stable);
        let none = || "no rates yet".to_string();
        return (value, rates.map_or_else(none, text), policy.min_throughput_ratio);
    }
    let of = |window: &ArmWindow| match name {
        GateName::Ttft => window.ttft.quantile(0.99),
        _ => window.tpot.quantile(0.99),
    };
    let times = of(stable).zip(of(canary));
    let value = times.map(|(stable, canary)| canary.as_secs_f64() / stable.as_secs_f64());
    let text = |(stable, canary): (Duration, Duration)| {
        format!("p99 {canary:.1?} against stable's {stable:.1?}")
    };
    let none = || "no samples yet".to_string();
    (value, times.map_or_else(none, text), policy.max_latency_ratio)
}

/// The gates that hold on what users do: feedback and retries.
pub(crate) fn users(input: &Input<'_>) -> [Gate; 2] {
    let (stable, canary) = (&input.stable.counts, &input.canary.counts);
    let votes = format!(
        "thumbs down {} against stable's {}",
        rate(canary.votes_down, canary.votes()),
        rate(stable.votes_down, stable.votes())
    );
    let retries = format!(
        "regenerated {} against stable's {}",
        rate(canary.retries, canary.requests),
        rate(stable.retries, stable.requests)
    );
    let silent = stable.votes() + canary.votes() == 0;
    [
        held(
            input,
            GateName::Feedback,
            &input.exact.votes,
            &votes,
            silent.then_some("no feedback"),
        ),
        held(
            input,
            GateName::Retries,
            &input.exact.retries,
            &retries,
            (stable.retries + canary.retries == 0).then_some("no retries"),
        ),
    ]
}

/// A gate on evidence alone.
fn held(
    input: &Input<'_>,
    name: GateName,
    signal: &Signal,
    what: &str,
    nothing: Option<&str>,
) -> Gate {
    let limit = input.limits().holds;
    let e = e_value(signal.log_e());
    let text = format!(
        "{what}; {} over the rollout; evidence {} of {:.0}",
        ratio_text(&signal.ratio, signal),
        e_text(e),
        limit.exp(),
    );
    let state = match signal.finding(limit, &input.exact.parties) {
        Finding::Proved => GateState::Fail(text.clone()),
        _ => match nothing {
            Some(why) => return Gate::bare(name, GateState::NotJudged(why.to_string())),
            None => GateState::Pass,
        },
    };
    let samples = (signal.counted[0], signal.counted[1]);
    let value = signal.ratio.value();
    Gate { value, evidence: Some(e), text, samples, ..Gate::bare(name, state) }
}

/// The gate of what both models read, if the policy wants it.
pub(crate) fn cross_read(input: &Input<'_>) -> Option<Gate> {
    let rule = &input.policy.cross_read;
    if !input.policy.reads() {
        return None;
    }
    let (readings, limit) = (&input.exact.readings, input.policy.log_limit());
    let [of_stable, of_canary] = readings.found.map(|found| found.replies);
    let (name, samples) = (GateName::CrossRead, (of_stable, of_canary));
    if of_stable + of_canary == 0 {
        let expect = rule.expect.as_str();
        let why = format!("no reply was read by both models; expected: {expect}");
        return Some(Gate::bare(name, GateState::NotJudged(why)));
    }
    let e = readings.log_e();
    let (finding, cause) = (readings.finding(limit, &input.exact.parties), readings.cause());
    let rollback = match rule.action {
        SignalAction::Rollback => format!(" ({:.0} to roll back)", input.limits().readings.exp()),
        _ => String::new(),
    };
    let one_party = match finding {
        Finding::OneParty => ", but not without one party",
        _ => "",
    };
    let text = format!(
        "{}{}; expected: {}; evidence {} of {:.0}{rollback}{one_party}",
        if e >= limit { format!("{cause}; ") } else { String::new() },
        sentences(readings),
        rule.expect.as_str(),
        e_text(e_value(e)),
        limit.exp(),
    );
    let state = match (rule.action, finding) {
        (SignalAction::Notify, _) if e >= input.limits().notices => GateState::Noted(text.clone()),
        (SignalAction::Notify, _) => GateState::NotJudged(format!("{text}; it is only reported")),
        (_, Finding::Proved) => GateState::Fail(text.clone()),
        _ => GateState::Pass,
    };
    let evidence = Some(e_value(e));
    Some(Gate { value: readings.kl.mean(), evidence, samples, text, ..Gate::bare(name, state) })
}

/// What readings say, in words.
pub fn readings_text(all: &[Reading]) -> String {
    let mut readings = Readings::new(&CrossRead::default());
    for reading in all {
        readings
            .observe(&Draw { arm: reading.writer, party: None, cluster: None, w: 0.5 }, reading);
    }
    sentences(&readings)
}

/// What the gate would say of these readings, for each kind of change that could be expected, in words.
pub fn readings_verdicts(all: &[Reading], alpha: f64) -> Vec<(Expect, String)> {
    let verdict = |expect: Expect| {
        let mut readings = Readings::new(&CrossRead { expect, ..CrossRead::default() });
        readings.begin(Duration::ZERO);
        for reading in all {
            let draw = Draw { arm: reading.writer, party: None, cluster: None, w: 0.5 };
            readings.observe(&draw, reading);
        }
        let held = readings.log_e() >= -alpha.ln();
        let text = match held {
            true => format!("held: {}", readings.cause()),
            false => format!("nothing against it in {} replies", all.len()),
        };
        (expect, text)
    };
    [Expect::Same, Expect::Similar, Expect::Different].map(verdict).into()
}

/// What was read, in words.
fn sentences(readings: &Readings) -> String {
    let mut all = Vec::new();
    if let Some((kl, low, high)) = readings.kl.interval() {
        let same = 100.0 * (1.0 - readings.differing.mean().unwrap_or(0.0));
        let like = requantisation(kl);
        all.push(format!(
            "replies agree {like}: KL {kl:.3} ({low:.3} to {high:.3}), same top {same:.1} %, {} replies read",
            readings.kl.count
        ));
    }
    let [own, other] = readings.found;
    if own.replies == 0 || other.replies == 0 {
        let only = "replies of one arm only were read".to_string();
        return all.pop().unwrap_or(only);
    }
    all.push(format!(
        "stable finds {:.1} % of the canary's tokens implausible (its own: {:.1} %), {:.2} nats per byte (its own: {:.2}), {} and {} replies read",
        100.0 * other.implausible(),
        100.0 * own.implausible(),
        other.nats(),
        own.nats(),
        other.replies,
        own.replies
    ));
    let otherwise = readings.otherwise.mean().unwrap_or(0.0);
    if readings.kl.count == 0 {
        all.push("the vocabularies differ, so the distributions cannot be compared".to_string());
    } else if otherwise > 0.0 {
        let percent = 100.0 * otherwise;
        all.push(format!(
            "{percent:.0} % of the requests give the two another prompt or other sampling"
        ));
    }
    all.join("; ")
}

/// Mean KL divergences of requantisations from the f16 model, on Wikitext: Llama 3 8B, as llama.cpp publishes them
/// (tools/perplexity/README.md).
const REQUANTISED: [(f64, &str); 6] = [
    (0.0014, "Q8_0"),
    (0.0055, "Q6_K"),
    (0.0108, "Q5_K_M"),
    (0.0313, "Q4_K_M"),
    (0.1019, "Q3_K_M"),
    (0.4451, "Q2_K"),
];

fn requantisation(kl: f64) -> String {
    let far = |at: f64| (kl.max(1e-9) / at).ln().abs();
    let nearest = REQUANTISED.iter().min_by(|a, b| far(a.0).total_cmp(&far(b.0)));
    match nearest {
        Some((least, _)) if kl < least / 4.0 => "almost exactly".to_string(),
        Some((most, _)) if kl > 2.0 * most => {
            "less than any requantisation of one model".to_string()
        }
        Some((_, name)) => format!("like a {name} of the same model"),
        None => String::new(),
    }
}

/// The gates of the quality flags that the policy does not switch off.
pub(crate) fn quality<'a>(input: &'a Input<'a>) -> impl Iterator<Item = Gate> + 'a {
    Flag::ALL.into_iter().filter_map(|flag| {
        let action = input.policy.quality.action(flag);
        (action != SignalAction::Off).then(|| flagged(input, flag, action))
    })
}

fn flagged(input: &Input<'_>, flag: Flag, action: SignalAction) -> Gate {
    let signal = &input.exact.flags[flag as usize];
    let [stable, canary] = Arm::BOTH.map(|arm| {
        let at = arm.index();
        rate(input.exact.flagged[flag as usize][at], input.exact.requests[at])
    });
    let what = format!("{} {canary} against stable's {stable}", flag.phrase());
    let name = GateName::Quality(flag);
    if signal.counted == [0, 0] {
        let why = format!("no {} on either", flag.phrase());
        return Gate::bare(name, GateState::NotJudged(why));
    }
    match action {
        SignalAction::Rollback => bad(input, name, signal, input.limits().flags, &what),
        SignalAction::Hold => held(input, name, signal, &what, None),
        SignalAction::Notify | SignalAction::Off => {
            let limit = input.limits().notices;
            let gate = held(input, name, signal, &what, None);
            let state = match signal.log_e() >= limit {
                true => GateState::Noted(gate.text.clone()),
                false => GateState::NotJudged(format!("{}; it is only reported", gate.text)),
            };
            Gate { state, ..gate }
        }
    }
}
