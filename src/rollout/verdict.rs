//! The data of a verdict: the gates, their state (one of five), and every figure with its threshold.
//!
//! Plain data, and the rule that combines the gates; `gates` computes each of them. There is a third result besides
//! pass and fail, because "not enough data yet" must neither promote the canary nor count against it. A gate that has
//! nothing to judge says so (`NotJudged`) and does not block.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Counts;
use super::quality::Flag;

named! {
    /// The combined result of all gates.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Overall {
        /// Every gate that is judged passes.
        Pass = "pass",
        /// At least one gate fails.
        Fail = "fail",
        /// No gate fails, but at least one lacks data; or no gate is judged.
        Inconclusive = "inconclusive",
    }
}

/// The judgement of one stage at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// One entry per gate, in the order of [`GateName`]; empty when no rollout runs.
    pub gates: Vec<Gate>,
    /// What the stage counted on each arm, and what it excluded and why; by
    /// [`Arm::index`](super::Arm::index).
    pub counts: Box<[Counts; 2]>,
}

impl Verdict {
    /// The gates combined: any failure fails, any gate without enough data is inconclusive, no gates are
    /// inconclusive.
    pub fn overall(&self) -> Overall {
        let has = |test: fn(&GateState) -> bool| self.gates.iter().any(|gate| test(&gate.state));
        if has(|state| matches!(state, GateState::Fail(_))) {
            Overall::Fail
        } else if has(|state| matches!(state, GateState::Inconclusive(_))) {
            Overall::Inconclusive
        } else if has(|state| matches!(state, GateState::Pass)) {
            Overall::Pass
        } else {
            Overall::Inconclusive
        }
    }

    /// The gate of that name.
    pub fn gate(&self, name: GateName) -> Option<&Gate> {
        self.gates.iter().find(|gate| gate.name == name)
    }

    /// What blocks a raise: one text per gate that fails or lacks data, joined by `; `.
    pub fn blocking(&self) -> String {
        let texts: Vec<String> = self.gates.iter().filter_map(Gate::blocking).collect();
        texts.join("; ")
    }

    /// The gates' figures on one line, joined by `; `; without quality flags that nobody has seen.
    pub fn figures(&self) -> String {
        let shown = |gate: &&Gate| {
            !matches!((gate.name, &gate.state), (GateName::Quality(_), GateState::NotJudged(_)))
        };
        let text = |gate: &Gate| format!("{}: {}", gate.name, gate.text);
        self.gates.iter().filter(shown).map(text).collect::<Vec<_>>().join("; ")
    }
}

/// The gates. The weight rises when all that are judged pass: one with nothing to judge holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateName {
    /// Time at this weight.
    Bake,
    /// Counted canary requests at this weight.
    Requests,
    /// Error rate against stable's.
    Errors,
    /// p99 time to first token against stable's.
    Ttft,
    /// p99 time per output token against stable's.
    Tpot,
    /// Median tokens/s against stable's.
    Throughput,
    /// Thumbs-down rate against stable's.
    Feedback,
    /// How often users regenerate an answer, compared with stable.
    Retries,
    /// What each model finds in replies of the other, against what was expected.
    CrossRead,
    /// How often a reply has this quality flag, compared with stable.
    #[serde(untagged)]
    Quality(Flag),
}

impl GateName {
    /// The gates that are no quality flags, in the order of a verdict; those of the flags follow.
    pub const PLAIN: [GateName; 9] = [
        GateName::Bake,
        GateName::Requests,
        GateName::Errors,
        GateName::Ttft,
        GateName::Tpot,
        GateName::Throughput,
        GateName::Feedback,
        GateName::Retries,
        GateName::CrossRead,
    ];

    /// Every gate, in the order of a verdict.
    pub fn all() -> impl Iterator<Item = GateName> {
        let flags = Flag::ALL.into_iter().map(GateName::Quality);
        GateName::PLAIN.into_iter().chain(flags)
    }

    /// A short name from a bounded set.
    pub const fn as_str(self) -> &'static str {
        match self {
            GateName::Bake => "bake",
            GateName::Requests => "requests",
            GateName::Errors => "errors",
            GateName::Ttft => "ttft",
            GateName::Tpot => "tpot",
            GateName::Throughput => "throughput",
            GateName::Feedback => "feedback",
            GateName::Retries => "retries",
            GateName::CrossRead => "cross_read",
            GateName::Quality(flag) => flag.as_str(),
        }
    }
}

impl fmt::Display for GateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

named! {
    /// The result of one gate.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum GateState {
        /// Met.
        Pass = "pass",
        /// Not met: the reason, with figures.
        Fail(String) = "fail",
        /// Not known yet, which holds the weight: what is missing.
        Inconclusive(String) = "inconclusive",
        /// Nothing to judge, which does not hold the weight: the reason.
        NotJudged(String) = "not_judged",
        /// Not met, but the policy only wants it reported: the figures.
        Noted(String) = "noted",
    }
}

/// One gate with its figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Its name.
    #[serde(rename = "gate")]
    pub name: GateName,
    /// Its result.
    pub state: GateState,
    /// The figure judged: seconds for `bake`, a count for `requests`, otherwise the ratio canary /
    /// stable. `None` when it cannot be formed or is infinite (the text says which); never NaN.
    pub value: Option<f64>,
    /// The limit for the figure, in the same unit.
    pub threshold: Option<f64>,
    /// The e-value behind the state, compared with 1/alpha; `None` for gates without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<f64>,
    /// The range of values that the data do not contradict, in the unit of `value`: lower and upper end.
    /// `None` if an end is unknown or infinite (the text says which).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// One line for people, with figures and units.
    pub text: String,
    /// The samples behind the figure: (stable, canary). Zeros for `bake`.
    pub samples: (u64, u64),
}

impl Gate {
    /// A gate with a state but no figures.
    pub(crate) fn bare(name: GateName, state: GateState) -> Gate {
        let text = match &state {
            GateState::Pass => String::new(),
            GateState::Fail(text)
            | GateState::Inconclusive(text)
            | GateState::NotJudged(text)
            | GateState::Noted(text) => text.clone(),
        };
        Gate {
            name,
            state,
            value: None,
            threshold: None,
            evidence: None,
            interval: None,
            text,
            samples: (0, 0),
        }
    }

    fn blocking(&self) -> Option<String> {
        match &self.state {
            GateState::Fail(what) | GateState::Inconclusive(what) => {
                Some(format!("{}: {what}", self.name))
            }
            GateState::Pass | GateState::NotJudged(_) | GateState::Noted(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(states: &[GateState]) -> Verdict {
        let gate = |state: &GateState| Gate::bare(GateName::Ttft, state.clone());
        Verdict { gates: states.iter().map(gate).collect(), ..Verdict::default() }
    }

    #[test]
    fn failure_outranks_lack_outranks_pass() {
        let fail = GateState::Fail("slow".into());
        let lack = GateState::Inconclusive("more".into());
        let not = GateState::NotJudged("none".into());
        let pass = GateState::Pass;
        let overall = |states: &[GateState]| verdict(states).overall();
        assert_eq!(overall(&[pass.clone(), lack.clone(), fail.clone()]), Overall::Fail);
        assert_eq!(overall(&[pass.clone(), lack.clone()]), Overall::Inconclusive);
        assert_eq!(overall(&[pass, not.clone()]), Overall::Pass);
        assert_eq!(overall(&[not]), Overall::Inconclusive);
        assert_eq!(overall(&[]), Overall::Inconclusive);
        assert_eq!(verdict(&[fail, lack]).blocking(), "ttft: slow; ttft: more");
    }
}
