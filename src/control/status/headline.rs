//! The state of a server in one sentence: which version serves, the canary's share, and what the rollout is waiting for
//! and how long.
//!
//! A pure function of the status.

use super::{GateStatus, Status};
use std::time::Duration;

/// Longest reason that is quoted, in characters.
const REASON: usize = 160;

/// The state of the server in one sentence.
pub fn headline(status: &Status) -> String {
    let version = |arm: usize| status.arms.get(arm).and_then(|arm| arm.version.as_deref());
    let Some(stable) = version(0) else {
        return format!("{} is not ready: stable is being loaded.", status.model);
    };
    let canary = version(1);
    let trial = canary.unwrap_or("the canary");
    let sentence = match status.phase.as_str() {
        "running" | "paused" => return running(status, trial),
        "rolled_back" => rolled_back(status, stable),
        "promoted" => promoted(status, stable),
        "self_tested" => format!("{stable} serves everything; the self-test is over"),
        _ if status.loading.is_some() => format!("{stable} serves everything"),
        _ => format!("{stable} serves everything; no rollout runs"),
    };
    match &status.loading {
        Some(path) => format!("{sentence}; {path} is being loaded."),
        None => format!("{sentence}."),
    }
}

fn rolled_back(status: &Status, stable: &str) -> String {
    let reason = reason(status);
    match reason.starts_with("by ") {
        true => format!("Rolled back {reason}, {stable} serves everything"),
        false => format!("Rolled back, {stable} serves everything: {reason}"),
    }
}

fn promoted(status: &Status, stable: &str) -> String {
    match &status.previous {
        Some(former) => {
            format!("Promoted: {stable} serves everything; {former} is kept and can be put back")
        }
        None => format!("Promoted: {stable} serves everything"),
    }
}

fn running(status: &Status, canary: &str) -> String {
    let what = if status.self_test { "the second copy" } else { canary };
    // The latest requests tell of this weight only if all of them came at it.
    let counted: u64 = status.arms.iter().map(|arm| arm.figures.requests).sum();
    let share = match status.share_of {
        of if of == 0 || counted < of as u64 => String::new(),
        of => format!(" ({:.1} % of the last {of} requests)", 100.0 * status.share),
    };
    let share = match status.weight.saturating_sub(status.routed) {
        0 => share,
        percent => format!("{share}; {percent} % are held back on stable for comparison"),
    };
    let gets = format!("{what} gets {} % of the requests{share}", status.weight);
    let paused = if status.paused { "Paused: " } else { "" };
    format!("{paused}{gets}; {}.", waits_for(status))
}

/// What keeps the weight from rising, and until when.
fn waits_for(status: &Status) -> String {
    if status.paused {
        return "no step is taken until it is resumed".to_owned();
    }
    if status.awaiting_confirm {
        return "the next step waits for an operator's approval".to_owned();
    }
    let state = |wanted: &str| -> Vec<&GateStatus> {
        status.gates.iter().filter(|gate| gate.state == wanted).collect()
    };
    let titles = |gates: &[&GateStatus]| {
        gates.iter().map(|gate| gate.title.as_str()).collect::<Vec<_>>().join("; ")
    };
    let (failing, undecided) = (state("fail"), state("inconclusive"));
    if !failing.is_empty() {
        return format!("it is held by {}", titles(&failing));
    }
    if undecided.is_empty() {
        return "all gates pass".to_owned();
    }
    let waits = format!("waiting for {}", titles(&undecided));
    format!("{waits}{}", until(status, &undecided))
}

/// When the last of these gates can decide, as far as that is foreseen.
fn until(status: &Status, undecided: &[&GateStatus]) -> String {
    let Some(forecast) = &status.forecast else { return String::new() };
    let waits: Vec<Option<f64>> = forecast
        .gates
        .iter()
        .filter(|wait| undecided.iter().any(|gate| gate.name == wait.gate))
        .map(|wait| wait.seconds)
        .collect();
    // A rate is known once some of the time is over.
    let known = forecast.requests_per_second.is_some() && 4.0 * status.stage_age_s >= status.bake_s;
    if waits.contains(&None) {
        if !known {
            return String::new();
        }
        return ", for which there is not enough traffic".to_owned();
    }
    match waits.into_iter().flatten().reduce(f64::max) {
        Some(seconds) => {
            let time = Duration::from_secs(seconds.clamp(0.0, 1e9).ceil() as u64);
            format!(", in {} at the earliest", humantime::format_duration(time))
        }
        None => String::new(),
    }
}

fn reason(status: &Status) -> String {
    let whole = status.reason.as_deref().unwrap_or("an operator wanted it");
    let first = whole.split(';').next().unwrap_or(whole).trim_end_matches('.');
    match first.char_indices().nth(REASON) {
        Some((end, _)) => format!("{} ...", &first[..end]),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::status;
    use super::*;
    use serde_json::{Value, json};

    fn said(change: Value) -> String {
        headline(&status(change))
    }

    #[test]
    fn the_sentence_says_who_serves_and_what_is_waited_for() {
        assert_eq!(
            said(json!({})),
            "tiny-v2 gets 25 % of the requests (24.0 % of the last 500 requests); waiting for time at this weight, in 11s at the earliest."
        );
        let paused = said(json!({"paused": true}));
        assert!(paused.starts_with("Paused: tiny-v2 gets 25 %"), "{paused}");
        assert!(said(json!({"awaiting_confirm": true})).contains("operator's approval"));
        let never = json!({"forecast": {
            "requests_per_second": null, "base_error_rate": 0.01, "detectable_error_ratio": null,
            "detectable_exceedance": null, "until_doubled_errors_s": null,
            "gates": [{"gate": "bake", "seconds": null}],
        }});
        let mut never = never;
        assert!(said(never.clone()).ends_with("weight."), "no rate is known");
        never["forecast"]["requests_per_second"] = json!([1.0, 0.0]);
        assert!(said(never).ends_with("not enough traffic."));
        assert!(!said(json!({"share_of": 10_000})).contains("last"), "of another weight");
        let back = said(json!({"weight": 100, "routed": 90}));
        assert!(back.contains("10 % are held back on stable"), "{back}");
        let by = said(json!({"phase": "rolled_back", "reason": "by ann: seen enough"}));
        assert_eq!(by, "Rolled back by ann: seen enough, tiny-v1 serves everything.");
        let loads = said(json!({"phase": "promoted", "loading": "v3"}));
        assert!(loads.ends_with("; v3 is being loaded."), "{loads}");
        let over = said(json!({"phase": "rolled_back", "reason": "errors ratio 3.2; evidence 80"}));
        assert_eq!(over, "Rolled back, tiny-v1 serves everything: errors ratio 3.2.");
        assert!(said(json!({"phase": "promoted", "previous": "old"})).contains("old is kept"));
        assert!(said(json!({"phase": "idle"})).contains("no rollout runs"));
    }

    #[test]
    fn a_reason_of_any_length_and_script_is_cut_between_characters() {
        let reason = "ü".repeat(1000);
        let text = said(json!({"phase": "rolled_back", "reason": reason}));
        assert!(text.len() < 500 && text.ends_with(" ...."), "{text}");
    }
}
