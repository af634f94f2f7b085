//! The A/A self-test: a rollout of stable against a second copy of itself.
//!
//! Everything is judged as usual, but no decision is carried out; the decisions are only counted. This tells
//! an operator how noisy this machine and its traffic are, before a real canary is judged on them. It does
//! not know how the second copy was loaded.

use super::quality::Flag;
use super::verdict::{GateName, GateState, Verdict};
use super::window::ArmWindow;
use super::{Policy, latency_gate};

/// Gates of a verdict, at most.
const GATES: usize = GateName::PLAIN.len() + Flag::ALL.len();

/// Canary over stable: p50 and p99 of TTFT, p50 and p99 of time per token.
pub(crate) type Noise = [Option<f64>; 4];
const MEASURES: [&str; 4] = ["ttft p50", "ttft p99", "tpot p50", "tpot p99"];

/// The results so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct SelfTest {
    stages: u32,
    /// Number of stages at which each gate failed, and at which it was inconclusive, in the gates' order.
    failed: [u32; GATES],
    lacked: [u32; GATES],
    /// The errors would have caused a rollback: a real rollout would have ended there.
    pub(crate) rolled_back: bool,
    /// The smallest and the largest ratio of each measure.
    noise: [Option<(f64, f64)>; 4],
}

/// The ratios of one stage.
pub(crate) fn noise(policy: &Policy, stable: &ArmWindow, canary: &ArmWindow) -> Noise {
    let matched = canary.by_matched(stable, latency_gate::least(policy));
    let (stable, canary) = (stable.latencies(matched), canary.latencies(matched));
    let ratio = |q, stable: &super::histogram::Histogram, canary: &super::histogram::Histogram| {
        let (stable, canary) = (stable.quantile(q)?, canary.quantile(q)?);
        Some(canary.as_secs_f64() / stable.as_secs_f64())
    };
    [
        ratio(0.5, stable.0, canary.0),
        ratio(0.99, stable.0, canary.0),
        ratio(0.5, stable.1, canary.1),
        ratio(0.99, stable.1, canary.1),
    ]
}

impl SelfTest {
    /// Records one judged stage.
    pub(crate) fn note(&mut self, verdict: &Verdict, noise: Noise) {
        self.stages += 1;
        for gate in &verdict.gates {
            let Some(at) = GateName::all().position(|name| name == gate.name) else { continue };
            match gate.state {
                GateState::Fail(_) => self.failed[at] += 1,
                GateState::Inconclusive(_) => self.lacked[at] += 1,
                GateState::Pass | GateState::NotJudged(_) | GateState::Noted(_) => {}
            }
        }
        for (range, ratio) in self.noise.iter_mut().zip(noise) {
            let Some(ratio) = ratio else { continue };
            let (low, high) = range.unwrap_or((ratio, ratio));
            *range = Some((low.min(ratio), high.max(ratio)));
        }
    }

    /// The report in words and figures.
    pub(crate) fn report(&self) -> String {
        let alarms: Vec<String> = GateName::all()
            .zip(self.failed.iter().zip(self.lacked))
            .filter(|(_, (failed, lacked))| **failed + lacked > 0)
            .map(|(name, (failed, lacked))| {
                format!("{name} failed {failed} and held {lacked} times")
            })
            .collect();
        let alarms = match alarms.is_empty() {
            true => "no gate would have raised an alarm".to_string(),
            false => alarms.join(", "),
        };
        let noise: Vec<String> = MEASURES
            .iter()
            .zip(self.noise)
            .filter_map(|(name, range)| {
                range.map(|(low, high)| format!("{name} {low:.2} to {high:.2}"))
            })
            .collect();
        let noise = match noise.is_empty() {
            true => "none measured".to_string(),
            false => noise.join(", "),
        };
        let errors = if self.rolled_back { "would" } else { "would not" };
        format!(
            "self-test over {} stages: {alarms}; errors {errors} have rolled back; canary over \
             stable, equal models: {noise}",
            self.stages
        )
    }
}
