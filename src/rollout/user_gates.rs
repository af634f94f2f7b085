//! The gates on user behaviour (votes, regenerated replies) for the earlier rules of evidence. The gates of the default
//! rule are in `exact/gates.rs`.
//!
//! Pure functions of the stage's counts and of the evidence over the rollout.

use super::evalue::{e_text, e_value};
use super::signal::Signal;
use super::verdict::{Gate, GateName, GateState};
use super::{Counts, Policy};

/// The counts of a stage, by arm.
pub(crate) struct Users<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) stable: &'a Counts,
    pub(crate) canary: &'a Counts,
}

/// Votes: thumbs down, of all votes.
pub(crate) fn feedback(input: &Users<'_>, votes: &Signal) -> Gate {
    let Users { stable, canary, .. } = input;
    let rate = Rate {
        what: "thumbs down",
        stable: (stable.votes_down, stable.votes()),
        canary: (canary.votes_down, canary.votes()),
    };
    let nothing = match (stable.votes(), canary.votes()) {
        (0, 0) => Some("no feedback"),
        (_, 0) => Some("no feedback on the canary"),
        (0, _) => Some("no feedback on stable"),
        _ => None,
    };
    rated(input.policy, GateName::Feedback, votes, &rate, nothing)
}

/// Regenerated answers, of all requests.
pub(crate) fn retries(input: &Users<'_>, retries: &Signal) -> Gate {
    let Users { stable, canary, .. } = input;
    let rate = Rate {
        what: "regenerated",
        stable: (stable.retries, stable.requests),
        canary: (canary.retries, canary.requests),
    };
    let nothing = (stable.retries + canary.retries == 0).then_some("no retries");
    rated(input.policy, GateName::Retries, retries, &rate, nothing)
}

/// How often something bad happened: (times, of).
struct Rate {
    what: &'static str,
    stable: (u64, u64),
    canary: (u64, u64),
}

/// A gate on evidence alone. It fails while the e-value is at least 1/alpha, whatever this stage has seen. If
/// this stage has seen nothing, the gate is not judged.
fn rated(
    policy: &Policy,
    name: GateName,
    signal: &Signal,
    rate: &Rate,
    nothing: Option<&str>,
) -> Gate {
    let of = |(part, whole): (u64, u64)| (whole > 0).then(|| part as f64 / whole as f64);
    let (stable, canary) = (of(rate.stable), of(rate.canary));
    let value = match (stable, canary) {
        (Some(stable), Some(canary)) if stable > 0.0 => Some(canary / stable),
        _ => None,
    };
    let side = |rate: Option<f64>, (part, whole): (u64, u64)| {
        format!("{:.1} % ({part} of {whole})", 100.0 * rate.unwrap_or(0.0))
    };
    let e = e_value(signal.log_e());
    let limit = 1.0 / policy.alpha;
    let text = format!(
        "{} {} against stable's {}; evidence {} of {limit:.0} over the rollout",
        rate.what,
        side(canary, rate.canary),
        side(stable, rate.stable),
        e_text(e),
    );
    let state = if signal.log_e() >= policy.log_limit() {
        GateState::Fail(text.clone())
    } else if let Some(why) = nothing {
        return Gate::bare(name, GateState::NotJudged(why.to_string()));
    } else {
        GateState::Pass
    };
    let samples = (rate.stable.1, rate.canary.1);
    Gate { value, evidence: Some(e), text, samples, ..Gate::bare(name, state) }
}
