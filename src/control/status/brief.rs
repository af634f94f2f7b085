//! Short texts for gates, short enough to read aloud; `Gate::text` has all the figures.
//!
//! A pure function of the gate. The texts are for display only: no verdict and no record depends on them.

use crate::rollout::{Decision, Gate, GateName, GateState};
use std::time::Duration;

/// What the gate judges, as a title of at most 24 characters.
pub fn title(name: GateName) -> &'static str {
    match name {
        GateName::Bake => "time at this weight",
        GateName::Requests => "canary requests",
        GateName::Errors => "errors",
        GateName::Ttft => "TTFT p99, without queue",
        GateName::Tpot => "time per token, p99",
        GateName::Throughput => "tokens/s, median",
        GateName::Feedback => "thumbs down",
        GateName::Retries => "regenerated replies",
        GateName::CrossRead => "read by both models",
        GateName::Quality(flag) => flag.title(),
    }
}

/// The figure, and what it is held against.
pub fn brief(gate: &Gate) -> String {
    if let GateState::NotJudged(why) = &gate.state {
        return first_clause(why).to_owned();
    }
    let Some(value) = gate.value else { return without_figure(gate) };
    match (gate.name, gate.threshold) {
        (GateName::Bake, Some(whole)) => format!("{} of {}", span(value), span(whole)),
        (GateName::Requests, Some(least)) => format!("{value:.0} of {least:.0}"),
        (GateName::Throughput, Some(least)) => {
            format!("{value:.2} x stable's, at least {least:.2}")
        }
        (GateName::CrossRead, _) => format!("KL {value:.3} nats per token"),
        (_, Some(limit)) if value > limit && gate.state == GateState::Pass => {
            format!("{value:.2} x stable's, over {limit:.2} but not proved")
        }
        (_, Some(limit)) => format!("{value:.2} x stable's, limit {limit:.2}"),
        (_, None) => format!("{value:.2} x stable's"),
    }
}

/// Gates whose figure cannot be formed.
fn without_figure(gate: &Gate) -> String {
    match &gate.state {
        GateState::Fail(_) if gate.name == GateName::CrossRead => "the models disagree",
        GateState::Fail(_) => "none on stable",
        GateState::Pass if gate.name == GateName::CrossRead => "nothing found",
        GateState::Pass => "none on either",
        GateState::Noted(_) => "noted",
        _ => "not enough samples yet",
    }
    .to_owned()
}

/// A decision in a few words: what was decided, without the figures.
pub fn of_decision(decision: &Decision) -> String {
    first_clause(&decision.text).to_owned()
}

fn first_clause(text: &str) -> &str {
    text.split([';', ':']).next().unwrap_or(text)
}

/// Seconds, rounded so that two units are shown at most.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).floor() as u64;
    let unit = match whole {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    humantime::format_duration(Duration::from_secs(whole - whole % unit)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(name: GateName, value: Option<f64>, threshold: Option<f64>, state: GateState) -> Gate {
        Gate { value, threshold, ..Gate::bare(name, state) }
    }

    #[test]
    fn every_gate_has_a_title_of_its_own_that_fits() {
        let titles: Vec<&str> = GateName::all().map(title).collect();
        for (at, one) in titles.iter().enumerate() {
            assert!((3..=24).contains(&one.len()), "{one}");
            assert!(!titles[..at].contains(one), "{one} stands for two gates");
        }
    }

    #[test]
    fn a_brief_is_the_figure_and_what_it_is_held_against() {
        use GateState::{Fail, Inconclusive, NotJudged, Pass};
        let why = String::new;
        for (name, value, threshold, state, text) in [
            (GateName::Bake, Some(64.9), Some(900.0), Inconclusive(why()), "1m 4s of 15m"),
            (GateName::Requests, Some(20.0), Some(50.0), Inconclusive(why()), "20 of 50"),
            (GateName::Errors, Some(1.234), Some(1.5), Pass, "1.23 x stable's, limit 1.50"),
            (GateName::Throughput, Some(0.8), Some(0.9), Pass, "0.80 x stable's, at least 0.90"),
            (GateName::Retries, Some(2.0), None, Pass, "2.00 x stable's"),
            (GateName::CrossRead, Some(0.0123), None, Pass, "KL 0.012 nats per token"),
            (GateName::Errors, None, Some(1.5), Fail(why()), "none on stable"),
            (GateName::Errors, None, Some(1.5), Pass, "none on either"),
            (
                GateName::Ttft,
                Some(1.2),
                Some(1.1),
                Pass,
                "1.20 x stable's, over 1.10 but not proved",
            ),
            (GateName::Ttft, None, Some(1.1), Inconclusive(why()), "not enough samples yet"),
            (GateName::Feedback, None, None, NotJudged("no feedback; later".into()), "no feedback"),
        ] {
            assert_eq!(brief(&gate(name, value, threshold, state)), text, "{name}");
        }
        let long = brief(&gate(GateName::Bake, Some(180_000.0), Some(200_000.0), Pass));
        assert_eq!(long, "2days 2h of 2days 7h");
    }
}
