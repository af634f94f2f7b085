//! The rollout policy: the steps, the thresholds, the minimums.
//!
//! The fields are plain and public, so that the config layer can fill them one by one. [`Policy::validate`]
//! reports values that make no sense; a machine with an invalid policy refuses to start. This file does not know
//! about config files or how a value was typed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Weight;
use super::quality::Flag;
use super::reading::Expect;

/// How events become a rollback or a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceRule {
    /// Ratio and e-value by the exact probability of each event: errors, votes, retries, quality and latency. At
    /// most [`Policy::alpha`] of equally good canaries are ever rolled back, whatever one session or party does.
    Exact,
    /// The rule of earlier versions, by which their rollouts are replayed. Ratio and e-value of errors by the
    /// weight of the stage: at most [`Policy::alpha`] of equally good canaries are ever rolled back.
    EValue,
    /// The plain ratio with minimums of requests and errors. It often rolls back canaries that are as good as
    /// stable.
    None,
}

/// What a gate requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No evidence against the canary.
    BestEffort,
    /// Evidence that the canary is within the limits; takes many more requests.
    Strict,
}

/// Who raises the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advance {
    /// The gates.
    Auto,
    /// An operator. The gates are still judged, report once per stage that they pass, and roll back.
    Manual,
    /// Nobody: decisions are only reported. Only faults and operators act.
    DryRun,
}

/// What follows when a quality flag is more frequent on the canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalAction {
    /// Roll back, as for errors.
    Rollback,
    /// Hold the weight.
    Hold,
    /// Report it.
    Notify,
    /// Nothing.
    Off,
}

/// What follows from each quality flag; see [`Flag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QualityActions {
    /// [`Flag::Empty`].
    pub empty: SignalAction,
    /// [`Flag::Length`].
    pub length: SignalAction,
    /// [`Flag::Loop`].
    #[serde(rename = "loop")]
    pub looping: SignalAction,
    /// [`Flag::Structure`].
    pub structure: SignalAction,
    /// [`Flag::UnknownTool`].
    pub unknown_tool: SignalAction,
    /// [`Flag::Script`].
    pub script: SignalAction,
    /// [`Flag::Refusal`].
    pub refusal: SignalAction,
    /// [`Flag::Cancelled`].
    pub cancelled: SignalAction,
    /// [`Flag::Rescued`].
    pub rescued: SignalAction,
}

impl Default for QualityActions {
    fn default() -> QualityActions {
        QualityActions {
            empty: SignalAction::Rollback,
            length: SignalAction::Hold,
            looping: SignalAction::Rollback,
            structure: SignalAction::Rollback,
            unknown_tool: SignalAction::Notify,
            script: SignalAction::Hold,
            refusal: SignalAction::Notify,
            cancelled: SignalAction::Hold,
            rescued: SignalAction::Hold,
        }
    }
}

impl QualityActions {
    /// What follows from this flag.
    pub fn action(&self, flag: Flag) -> SignalAction {
        match flag {
            Flag::Empty => self.empty,
            Flag::Length => self.length,
            Flag::Loop => self.looping,
            Flag::Structure => self.structure,
            Flag::UnknownTool => self.unknown_tool,
            Flag::Script => self.script,
            Flag::Refusal => self.refusal,
            Flag::Cancelled => self.cancelled,
            Flag::Rescued => self.rescued,
        }
    }
}

/// How replies are read by both models, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossRead {
    /// The share of the replies that are read, 0 to 1; 0 switches it off.
    pub share: f64,
    /// What kind of change the canary is.
    pub expect: Expect,
    /// What follows if it is another.
    pub action: SignalAction,
    /// Of the same model: the largest mean KL divergence, in nats.
    pub max_kl: f64,
    /// Of the same model: the largest share of places where the most likely token differs.
    pub max_differing: f64,
    /// Of a similar one: how many more nats per byte stable may find in the canary's replies than in its own.
    pub max_excess: f64,
    /// Of a similar one: by how much the share of implausible tokens may be higher.
    pub max_implausible: f64,
}

impl Default for CrossRead {
    fn default() -> CrossRead {
        CrossRead {
            share: 0.1,
            expect: Expect::Different,
            action: SignalAction::Hold,
            max_kl: 0.1,
            max_differing: 0.15,
            max_excess: 0.3,
            max_implausible: 0.1,
        }
    }
}

impl CrossRead {
    fn none() -> CrossRead {
        CrossRead { share: 0.0, ..CrossRead::default() }
    }

    fn validate(&self) -> Result<(), PolicyError> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(PolicyError::OutOfRange {
                field: "cross_read",
                value: self.share,
                most: 1.0,
            });
        }
        let limits = [
            ("max_kl", self.max_kl, f64::MAX),
            ("max_differing", self.max_differing, 1.0),
            ("max_excess", self.max_excess, f64::MAX),
            ("max_implausible", self.max_implausible, 1.0),
        ];
        let bad = limits.into_iter().find(|(_, value, most)| !(*value > 0.0 && value <= most));
        bad.map_or(Ok(()), |(field, value, most)| match most {
            1.0 => Err(PolicyError::ShareOutOfRange { field, value, most }),
            _ => Err(PolicyError::NotAboveZero { field, value }),
        })
    }
}

/// A point at which a person has to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<Weight>", into = "Option<Weight>")]
pub enum ConfirmAt {
    /// Before the weight rises to this one.
    Before(Weight),
    /// Before promotion.
    Promote,
}

impl From<Option<Weight>> for ConfirmAt {
    fn from(before: Option<Weight>) -> ConfirmAt {
        before.map_or(ConfirmAt::Promote, ConfirmAt::Before)
    }
}

impl From<ConfirmAt> for Option<Weight> {
    fn from(at: ConfirmAt) -> Option<Weight> {
        match at {
            ConfirmAt::Before(weight) => Some(weight),
            ConfirmAt::Promote => None,
        }
    }
}

/// How a canary is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The canary's weights in order; strictly rising, at least one below 100 %, the last 100 %.
    pub steps: Vec<Weight>,
    /// Minimum time at each weight before it is raised, and at 100 % before promotion.
    pub bake: Duration,
    /// Minimum number of counted canary requests at each weight before it is raised.
    pub min_requests: u64,
    /// Who raises the weight.
    pub advance: Advance,
    /// Where a person has to confirm before the rollout continues.
    pub confirm: Vec<ConfirmAt>,
    /// What the gates require.
    pub mode: Mode,
    /// How events become a rollback or a hold.
    pub evidence: EvidenceRule,
    /// The share of equally good canaries that may ever be rolled back, and the level of every other test;
    /// e-values are compared with 1/alpha.
    pub alpha: f64,
    /// The share of the traffic that stays on stable while the last step bakes, so that the canary is still
    /// compared with it; 0 % sends it everything. Only with [`EvidenceRule::Exact`].
    pub holdback: Weight,
    /// What follows from each quality flag. Only with [`EvidenceRule::Exact`].
    pub quality: QualityActions,
    /// How replies are read by both models. Only with [`EvidenceRule::Exact`]. A recorded policy that does not
    /// say so had none read.
    #[serde(default = "CrossRead::none")]
    pub cross_read: CrossRead,
    /// At 100 %: the canary's error rate may be this multiple of an upper bound of stable's earlier rate.
    pub alone_allowance: f64,
    /// The largest share of an arm's sample that one party may have while others are active. With
    /// [`EvidenceRule::EValue`] and below 1, a rollback must also hold without any one party.
    pub max_key_share: f64,
    /// Only with [`EvidenceRule::None`]: minimum counted canary requests at a weight before errors can roll
    /// back.
    pub rollback_min_requests: u64,
    /// Only with [`EvidenceRule::None`]: minimum counted canary errors at a weight before errors can roll
    /// back.
    pub rollback_min_errors: u64,
    /// Roll back when the canary's error rate reaches this multiple of stable's.
    pub max_error_ratio: f64,
    /// Hold when the canary's p99 TTFT or time per token exceeds this multiple of stable's.
    pub max_latency_ratio: f64,
    /// A TTFT that is longer by less than this is not slower, whatever the ratio: a model that is seldom run begins
    /// with cold caches. Only with [`EvidenceRule::Exact`]. A recorded policy that does not say so had none.
    #[serde(default)]
    pub ttft_floor: Duration,
    /// Hold when the canary's median tokens/s falls below this share of stable's.
    pub min_throughput_ratio: f64,
    /// Number of first requests of a freshly loaded canary whose latency is not judged. With other rules of evidence than
    /// [`EvidenceRule::Exact`], nothing of them is.
    pub warmup_requests: u64,
    /// This many canary errors in a row while stable succeeds count as a fault.
    pub fault_streak: u32,
    /// Within this time after a counted error, further errors of the same session and class are duplicates. Not
    /// with [`EvidenceRule::Exact`], which counts each session once at each weight.
    pub dedup_window: Duration,
    /// Held this long past the bake time: one alert per stage.
    pub stall_after: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            steps: vec![Weight(5), Weight(25), Weight(50), Weight(100)],
            bake: Duration::from_secs(15 * 60),
            min_requests: 300,
            advance: Advance::Auto,
            confirm: Vec::new(),
            mode: Mode::BestEffort,
            evidence: EvidenceRule::Exact,
            holdback: Weight(10),
            quality: QualityActions::default(),
            cross_read: CrossRead::default(),
            alpha: 0.05,
            alone_allowance: 4.0,
            max_key_share: 0.5,
            rollback_min_requests: 50,
            rollback_min_errors: 3,
            max_error_ratio: 1.5,
            max_latency_ratio: 1.10,
            ttft_floor: Duration::from_micros(200),
            min_throughput_ratio: 0.9,
            warmup_requests: 10,
            fault_streak: 10,
            dedup_window: Duration::from_secs(60),
            stall_after: Duration::from_secs(60 * 60),
        }
    }
}

impl Policy {
    /// Checks the fields against each other and against their ranges. Fails if one is not valid; the error names the
    /// first.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.validate_steps()?;
        self.cross_read.validate()?;
        for (field, value) in [
            ("min_requests", self.min_requests),
            ("rollback_min_requests", self.rollback_min_requests),
            ("rollback_min_errors", self.rollback_min_errors),
            ("fault_streak", u64::from(self.fault_streak)),
        ] {
            if value == 0 {
                return Err(PolicyError::Zero { field });
            }
        }
        for (field, value) in [
            ("max_error_ratio", self.max_error_ratio),
            ("max_latency_ratio", self.max_latency_ratio),
            ("alone_allowance", self.alone_allowance),
        ] {
            if !(value.is_finite() && value >= 1.0) {
                return Err(PolicyError::RatioBelowOne { field, value });
            }
        }
        for (field, value, most) in [
            ("min_throughput_ratio", self.min_throughput_ratio, 1.0),
            ("max_key_share", self.max_key_share, 1.0),
            ("alpha", self.alpha, 0.5),
        ] {
            if !(value > 0.0 && value <= most) {
                return Err(PolicyError::ShareOutOfRange { field, value, most });
            }
        }
        if self.holdback > Weight(50) {
            return Err(PolicyError::Holdback { weight: self.holdback });
        }
        let unknown = self.confirm.iter().find_map(|at| match at {
            ConfirmAt::Before(weight) if !self.steps.contains(weight) => Some(*weight),
            ConfirmAt::Before(_) | ConfirmAt::Promote => None,
        });
        unknown.map_or(Ok(()), |weight| Err(PolicyError::ConfirmNoStep { weight }))
    }

    fn validate_steps(&self) -> Result<(), PolicyError> {
        if self.steps.first().is_none_or(|first| *first == Weight::ZERO) {
            return Err(PolicyError::FirstStepZero);
        }
        if let Some(pair) = self.steps.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(PolicyError::StepsNotRising { before: pair[0], after: pair[1] });
        }
        if self.steps.last() != Some(&Weight::FULL) {
            return Err(PolicyError::LastStepNotFull);
        }
        if self.steps.len() < 2 {
            return Err(PolicyError::NoStepToCompare);
        }
        Ok(())
    }

    /// The steps that `"double"` stands for: 5, 10, 20, 40, 80, 100 %.
    pub fn double_steps() -> Vec<Weight> {
        [5, 10, 20, 40, 80, 100].map(Weight).to_vec()
    }

    /// What e-values are compared with: ln(1/alpha).
    pub(crate) fn log_limit(&self) -> f64 {
        -self.alpha.ln()
    }

    /// Whether a person has to confirm before the weight rises to `to`, or before promotion.
    pub(crate) fn asks_before(&self, to: Option<Weight>) -> bool {
        self.confirm.contains(&to.into())
    }

    /// Whether replies are read by both models.
    pub fn reads(&self) -> bool {
        let CrossRead { share, action, .. } = self.cross_read;
        self.evidence == EvidenceRule::Exact && action != SignalAction::Off && share > 0.0
    }

    /// The share that is routed to the canary at this weight.
    pub(crate) fn routed(&self, weight: Weight) -> Weight {
        match (self.evidence, weight) {
            (EvidenceRule::Exact, Weight::FULL) => Weight(100 - self.holdback.0.min(100)),
            _ => weight,
        }
    }

    /// The first step above `weight`, if any.
    pub(crate) fn next_step(&self, weight: Weight) -> Option<Weight> {
        self.steps.iter().copied().find(|step| *step > weight)
    }
}

/// Why a policy is invalid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PolicyError {
    /// There is no step, or the first is 0 %.
    FirstStepZero,
    /// A step does not exceed the one before it.
    StepsNotRising {
        /// The earlier step.
        before: Weight,
        /// The later one.
        after: Weight,
    },
    /// The last step is not 100 %.
    LastStepNotFull,
    /// 100 % is the only step: stable would never be measured next to the canary.
    NoStepToCompare,
    /// A count that must be at least one is zero.
    Zero {
        /// The field's name.
        field: &'static str,
    },
    /// A ratio that must be finite and at least one is not.
    RatioBelowOne {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// A share that must be above zero and at most `most` is not.
    ShareOutOfRange {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The most allowed.
        most: f64,
    },
    /// A number that must be above zero is not.
    NotAboveZero {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// A share that must be at least zero and at most `most` is not.
    OutOfRange {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The most allowed.
        most: f64,
    },
    /// More than half of the traffic would be held back at 100 %.
    Holdback {
        /// That share.
        weight: Weight,
    },
    /// A confirmation is configured for a weight that is not a step.
    ConfirmNoStep {
        /// That weight.
        weight: Weight,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::FirstStepZero => f.write_str("steps: the first must be above 0 %"),
            PolicyError::StepsNotRising { before, after } => {
                write!(f, "steps: they must rise, but {after} follows {before}")
            }
            PolicyError::LastStepNotFull => f.write_str("steps: the last must be 100 %"),
            PolicyError::NoStepToCompare => f.write_str(
                "steps: at least one below 100 % is needed to compare the canary with stable",
            ),
            PolicyError::Zero { field } => write!(f, "{field}: must be at least 1"),
            PolicyError::RatioBelowOne { field, value } => {
                write!(f, "{field}: must be a number of at least 1, not {value}")
            }
            PolicyError::ShareOutOfRange { field, value, most } => {
                write!(f, "{field}: must be above 0 and at most {most}, not {value}")
            }
            PolicyError::NotAboveZero { field, value } => {
                write!(f, "{field}: must be a number above 0, not {value}")
            }
            PolicyError::OutOfRange { field, value, most } => {
                write!(f, "{field}: must be from 0 to {most}, not {value}")
            }
            PolicyError::Holdback { weight } => {
                write!(f, "holdback: must be at most 50 %, not {weight}")
            }
            PolicyError::ConfirmNoStep { weight } => {
                write!(f, "confirm: {weight} is none of the steps")
            }
        }
    }
}

impl std::error::Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Policy)) -> Result<(), PolicyError> {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.validate()
    }

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn bad_steps_are_named() {
        let steps = |s: &[u8]| {
            let steps = s.iter().map(|p| Weight(*p)).collect();
            with(|p| p.steps = steps)
        };
        assert_eq!(steps(&[]), Err(PolicyError::FirstStepZero));
        assert_eq!(steps(&[0, 100]), Err(PolicyError::FirstStepZero));
        assert_eq!(steps(&[5, 50]), Err(PolicyError::LastStepNotFull));
        assert_eq!(steps(&[100]), Err(PolicyError::NoStepToCompare));
        let twice = PolicyError::StepsNotRising { before: Weight(5), after: Weight(5) };
        assert_eq!(steps(&[5, 5, 100]), Err(twice));
    }

    #[test]
    fn bad_numbers_are_named() {
        assert_eq!(
            with(|p| p.rollback_min_errors = 0),
            Err(PolicyError::Zero { field: "rollback_min_errors" })
        );
        for bad in [f64::NAN, f64::INFINITY, 0.9] {
            assert!(with(|p| p.max_error_ratio = bad).is_err(), "{bad}");
        }
        for bad in [f64::NAN, 0.0, 1.1] {
            assert!(with(|p| p.min_throughput_ratio = bad).is_err(), "{bad}");
            assert!(with(|p| p.max_key_share = bad).is_err(), "{bad}");
            assert!(with(|p| p.alpha = bad).is_err(), "{bad}");
        }
        assert!(with(|p| p.alpha = 0.6).is_err());
    }

    #[test]
    fn a_confirmation_belongs_to_a_step() {
        assert_eq!(with(|p| p.confirm = vec![ConfirmAt::Before(Weight(50))]), Ok(()));
        let bad = with(|p| p.confirm = vec![ConfirmAt::Before(Weight(40))]);
        assert_eq!(bad, Err(PolicyError::ConfirmNoStep { weight: Weight(40) }));
    }

    #[test]
    fn doubling_is_a_valid_plan() {
        assert_eq!(with(|p| p.steps = Policy::double_steps()), Ok(()));
    }

    #[test]
    fn the_next_step_is_the_first_above() {
        let policy = Policy::default();
        let next = |percent| policy.next_step(Weight(percent)).map(Weight::percent);
        assert_eq!(next(0), Some(5));
        assert_eq!(next(5), Some(25));
        assert_eq!(next(30), Some(50));
        assert_eq!(next(100), None);
    }
}
