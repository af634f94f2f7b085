//! The rollout's plain types as they are written: JSON that people can read and floats that return
//! exactly.
//!
//! The one place to extend when a policy, an order or a decision gains a field: each mirror takes its
//! original apart by name, so a new field does not compile until it is written here too. Why mirrors
//! and not derives on the originals: the rollout is std only, and what is on disk must not change
//! because somebody renames a field. A policy field that an old ledger lacks reads as its default.

use std::time::Duration;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rollout::{
    Advance, Arm, Cause, ConfirmAt, Counts, Decision, DecisionKind, EvidenceRule, Gate, GateName,
    GateState, Mode, Operator, Order, Policy, Verdict, Weight,
};

/// A type of the rollout and how it is written.
pub(super) trait Mirrored: Sized {
    /// What is written.
    type Wire: Serialize + DeserializeOwned;

    /// To be written.
    fn to_wire(&self) -> Self::Wire;

    /// As read; the text says what is wrong.
    fn from_wire(wire: Self::Wire) -> Result<Self, String>;
}

/// For `#[serde(with = "wire::mirror")]`.
pub(super) mod mirror {
    use super::*;

    pub(in crate::ledger) fn serialize<T: Mirrored, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.to_wire().serialize(serializer)
    }

    pub(in crate::ledger) fn deserialize<'de, T: Mirrored, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        T::from_wire(T::Wire::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<T: Mirrored> Mirrored for Box<T> {
    type Wire = T::Wire;

    fn to_wire(&self) -> T::Wire {
        T::to_wire(self)
    }

    fn from_wire(wire: T::Wire) -> Result<Box<T>, String> {
        T::from_wire(wire).map(Box::new)
    }
}

/// Types that are written as they are.
macro_rules! written_as_they_are {
    ($($type:ty),*) => {
        $(impl Mirrored for $type {
            type Wire = $type;

            fn to_wire(&self) -> $type {
                *self
            }

            fn from_wire(wire: $type) -> Result<$type, String> {
                Ok(wire)
            }
        })*
    };
}

written_as_they_are!(u32, u64, f64, bool, Duration);

impl<T: Mirrored> Mirrored for Vec<T> {
    type Wire = Vec<T::Wire>;

    fn to_wire(&self) -> Vec<T::Wire> {
        self.iter().map(T::to_wire).collect()
    }

    fn from_wire(wire: Vec<T::Wire>) -> Result<Vec<T>, String> {
        wire.into_iter().map(T::from_wire).collect()
    }
}

impl<T: Mirrored> Mirrored for Option<T> {
    type Wire = Option<T::Wire>;

    fn to_wire(&self) -> Option<T::Wire> {
        self.as_ref().map(T::to_wire)
    }

    fn from_wire(wire: Option<T::Wire>) -> Result<Option<T>, String> {
        wire.map(T::from_wire).transpose()
    }
}

impl Mirrored for Weight {
    type Wire = u8;

    fn to_wire(&self) -> u8 {
        self.percent()
    }

    fn from_wire(wire: u8) -> Result<Weight, String> {
        Weight::new(wire).ok_or_else(|| format!("a weight of {wire} %"))
    }
}

impl Mirrored for Arm {
    type Wire = String;

    fn to_wire(&self) -> String {
        self.as_str().to_owned()
    }

    fn from_wire(wire: String) -> Result<Arm, String> {
        named(&Arm::BOTH, |arm| arm.as_str(), &wire)
    }
}

/// Enums that are written as one of a list of names.
macro_rules! written_by_name {
    ($($type:ty: [$($name:literal => $item:expr),*]),* $(,)?) => {
        $(impl Mirrored for $type {
            type Wire = String;

            fn to_wire(&self) -> String {
                let all = [$(($name, $item)),*];
                let found = all.iter().find(|(_, item)| item == self);
                found.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }

            fn from_wire(wire: String) -> Result<$type, String> {
                let all = [$(($name, $item)),*];
                let found = all.iter().find(|(name, _)| *name == wire);
                let unknown = || format!("the name {wire:?} is not known to this build");
                found.map(|(_, item)| *item).ok_or_else(unknown)
            }
        })*
    };
}

written_by_name! {
    Advance: ["auto" => Advance::Auto, "manual" => Advance::Manual, "dry_run" => Advance::DryRun],
    Mode: ["best_effort" => Mode::BestEffort, "strict" => Mode::Strict],
    EvidenceRule: ["e_value" => EvidenceRule::EValue, "none" => EvidenceRule::None],
}

/// The weight before which to confirm; none for the promotion.
impl Mirrored for ConfirmAt {
    type Wire = Option<u8>;

    fn to_wire(&self) -> Option<u8> {
        match self {
            ConfirmAt::Before(weight) => Some(weight.percent()),
            ConfirmAt::Promote => None,
        }
    }

    fn from_wire(wire: Option<u8>) -> Result<ConfirmAt, String> {
        let weight = Option::<Weight>::from_wire(wire)?;
        Ok(weight.map_or(ConfirmAt::Promote, ConfirmAt::Before))
    }
}

/// The item of that name.
fn named<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, wire: &str) -> Result<T, String> {
    let found = all.iter().find(|item| name(**item) == wire);
    found.copied().ok_or_else(|| format!("the name {wire:?} is not known to this build"))
}

/// Writes a struct's mirror from one list of its fields. A field of a new type needs a [`Mirrored`].
macro_rules! mirror_struct {
    ($of:ident as $wire:ident { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $wire {
            $($field: <$type as Mirrored>::Wire),*
        }

        impl Mirrored for $of {
            type Wire = $wire;

            fn to_wire(&self) -> $wire {
                let $of { $($field),* } = self;
                $wire { $($field: $field.to_wire()),* }
            }

            fn from_wire(wire: $wire) -> Result<$of, String> {
                let $wire { $($field),* } = wire;
                Ok($of { $($field: Mirrored::from_wire($field)?),* })
            }
        }

        impl Default for $wire {
            fn default() -> $wire {
                $of::default().to_wire()
            }
        }
    };
}

mirror_struct! {
    Policy as PolicyWire {
        steps: Vec<Weight>,
        bake: Duration,
        min_requests: u64,
        advance: Advance,
        confirm: Vec<ConfirmAt>,
        mode: Mode,
        evidence: EvidenceRule,
        alpha: f64,
        alone_allowance: f64,
        max_key_share: f64,
        rollback_min_requests: u64,
        rollback_min_errors: u64,
        max_error_ratio: f64,
        max_latency_ratio: f64,
        min_throughput_ratio: f64,
        warmup_requests: u64,
        fault_streak: u32,
        dedup_window: Duration,
        stall_after: Duration,
    }
}

mirror_struct! {
    Counts as CountsWire {
        requests: u64,
        errors: u64,
        deduplicated: u64,
        cancels: u64,
        rejected: u64,
        invalid: u64,
        other_stage: u64,
        unjudged: u64,
        warmup: u64,
        over_share: u64,
        retries: u64,
        output_tokens: u64,
        votes_up: u64,
        votes_down: u64,
    }
}

/// An order as written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderWire {
    command: CommandWire,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CommandWire {
    Pause,
    Resume,
    SetWeight(u8),
    Promote,
    PromoteNow,
    Rollback,
    Undo,
    Confirm,
}

impl Mirrored for Order {
    type Wire = OrderWire;

    fn to_wire(&self) -> OrderWire {
        let Order { command, by, reason } = self.clone();
        let command = match command {
            Operator::Pause => CommandWire::Pause,
            Operator::Resume => CommandWire::Resume,
            Operator::SetWeight(weight) => CommandWire::SetWeight(weight.percent()),
            Operator::Promote { now: false } => CommandWire::Promote,
            Operator::Promote { now: true } => CommandWire::PromoteNow,
            Operator::Rollback => CommandWire::Rollback,
            Operator::Undo => CommandWire::Undo,
            Operator::Confirm => CommandWire::Confirm,
        };
        OrderWire { command, by, reason }
    }

    fn from_wire(wire: OrderWire) -> Result<Order, String> {
        let command = match wire.command {
            CommandWire::Pause => Operator::Pause,
            CommandWire::Resume => Operator::Resume,
            CommandWire::SetWeight(percent) => Operator::SetWeight(Weight::from_wire(percent)?),
            CommandWire::Promote => Operator::Promote { now: false },
            CommandWire::PromoteNow => Operator::Promote { now: true },
            CommandWire::Rollback => Operator::Rollback,
            CommandWire::Undo => Operator::Undo,
            CommandWire::Confirm => Operator::Confirm,
        };
        Ok(Order { command, by: wire.by, reason: wire.reason })
    }
}

/// A decision as written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionWire {
    decided: KindWire,
    text: String,
    weight: u8,
    stage: u64,
    at: Duration,
    rollout: String,
    gates: Vec<GateWire>,
    /// Stable's, the canary's.
    counts: [CountsWire; 2],
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindWire {
    Started,
    Raised { from: u8, to: u8 },
    RolledBack { cause: String },
    Promoted,
    Held,
    Stalled,
    Paused,
    Resumed,
    WeightSet { from: u8, to: u8 },
    PromotionOrdered,
    StableFault,
    Ready { to: Option<u8> },
    AwaitingConfirm { to: Option<u8> },
    Confirmed,
    WouldRaise { from: u8, to: u8 },
    WouldPromote,
    WouldRollBack,
    Undone,
    SelfTestDone,
}

impl Mirrored for Decision {
    type Wire = DecisionWire;

    fn to_wire(&self) -> DecisionWire {
        let Decision { at, rollout, kind, weight, stage, text, verdict } = self.clone();
        let Verdict { gates, counts } = verdict;
        let gates = gates.into_iter().map(gate_to_wire).collect();
        let counts = counts.map(|counts| counts.to_wire());
        let decided = kind_to_wire(kind);
        DecisionWire { decided, text, weight: weight.percent(), stage, at, rollout, gates, counts }
    }

    fn from_wire(wire: DecisionWire) -> Result<Decision, String> {
        let gates = wire.gates.into_iter().map(gate_from_wire).collect::<Result<_, _>>()?;
        let [stable, canary] = wire.counts;
        let counts = Box::new([Counts::from_wire(stable)?, Counts::from_wire(canary)?]);
        Ok(Decision {
            at: wire.at,
            rollout: wire.rollout,
            kind: kind_from_wire(wire.decided)?,
            weight: Weight::from_wire(wire.weight)?,
            stage: wire.stage,
            text: wire.text,
            verdict: Verdict { gates, counts },
        })
    }
}

fn kind_to_wire(kind: DecisionKind) -> KindWire {
    match kind {
        DecisionKind::Started => KindWire::Started,
        DecisionKind::Raised { from, to } => {
            KindWire::Raised { from: from.percent(), to: to.percent() }
        }
        DecisionKind::RolledBack { cause } => {
            KindWire::RolledBack { cause: cause.as_str().to_owned() }
        }
        DecisionKind::Promoted => KindWire::Promoted,
        DecisionKind::Held => KindWire::Held,
        DecisionKind::Stalled => KindWire::Stalled,
        DecisionKind::Paused => KindWire::Paused,
        DecisionKind::Resumed => KindWire::Resumed,
        DecisionKind::WeightSet { from, to } => {
            KindWire::WeightSet { from: from.percent(), to: to.percent() }
        }
        DecisionKind::PromotionOrdered => KindWire::PromotionOrdered,
        DecisionKind::StableFault => KindWire::StableFault,
        DecisionKind::Ready { to } => KindWire::Ready { to: to.to_wire() },
        DecisionKind::AwaitingConfirm { to } => KindWire::AwaitingConfirm { to: to.to_wire() },
        DecisionKind::Confirmed => KindWire::Confirmed,
        DecisionKind::WouldRaise { from, to } => {
            KindWire::WouldRaise { from: from.percent(), to: to.percent() }
        }
        DecisionKind::WouldPromote => KindWire::WouldPromote,
        DecisionKind::WouldRollBack => KindWire::WouldRollBack,
        DecisionKind::Undone => KindWire::Undone,
        DecisionKind::SelfTestDone => KindWire::SelfTestDone,
    }
}

fn kind_from_wire(wire: KindWire) -> Result<DecisionKind, String> {
    const CAUSES: [Cause; 3] = [Cause::Errors, Cause::Fault, Cause::Operator];
    Ok(match wire {
        KindWire::Started => DecisionKind::Started,
        KindWire::Raised { from, to } => {
            DecisionKind::Raised { from: Weight::from_wire(from)?, to: Weight::from_wire(to)? }
        }
        KindWire::RolledBack { cause } => {
            DecisionKind::RolledBack { cause: named(&CAUSES, |cause| cause.as_str(), &cause)? }
        }
        KindWire::Promoted => DecisionKind::Promoted,
        KindWire::Held => DecisionKind::Held,
        KindWire::Stalled => DecisionKind::Stalled,
        KindWire::Paused => DecisionKind::Paused,
        KindWire::Resumed => DecisionKind::Resumed,
        KindWire::WeightSet { from, to } => {
            DecisionKind::WeightSet { from: Weight::from_wire(from)?, to: Weight::from_wire(to)? }
        }
        KindWire::PromotionOrdered => DecisionKind::PromotionOrdered,
        KindWire::StableFault => DecisionKind::StableFault,
        KindWire::Ready { to } => DecisionKind::Ready { to: Option::from_wire(to)? },
        KindWire::AwaitingConfirm { to } => {
            DecisionKind::AwaitingConfirm { to: Option::from_wire(to)? }
        }
        KindWire::Confirmed => DecisionKind::Confirmed,
        KindWire::WouldRaise { from, to } => {
            DecisionKind::WouldRaise { from: Weight::from_wire(from)?, to: Weight::from_wire(to)? }
        }
        KindWire::WouldPromote => DecisionKind::WouldPromote,
        KindWire::WouldRollBack => DecisionKind::WouldRollBack,
        KindWire::Undone => DecisionKind::Undone,
        KindWire::SelfTestDone => DecisionKind::SelfTestDone,
    })
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GateWire {
    gate: String,
    state: StateWire,
    text: String,
    value: Option<f64>,
    threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    interval: Option<(f64, f64)>,
    samples: (u64, u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateWire {
    Pass,
    Fail(String),
    Inconclusive(String),
    NotJudged(String),
}

fn gate_to_wire(gate: Gate) -> GateWire {
    let Gate { name, state, value, threshold, evidence, interval, text, samples } = gate;
    let state = match state {
        GateState::Pass => StateWire::Pass,
        GateState::Fail { reason } => StateWire::Fail(reason),
        GateState::Inconclusive { missing } => StateWire::Inconclusive(missing),
        GateState::NotJudged { why } => StateWire::NotJudged(why),
    };
    let gate = name.as_str().to_owned();
    GateWire { gate, state, text, value, threshold, evidence, interval, samples }
}

fn gate_from_wire(wire: GateWire) -> Result<Gate, String> {
    const NAMES: [GateName; 8] = [
        GateName::Bake,
        GateName::Requests,
        GateName::Errors,
        GateName::Ttft,
        GateName::Tpot,
        GateName::Throughput,
        GateName::Feedback,
        GateName::Retries,
    ];
    let state = match wire.state {
        StateWire::Pass => GateState::Pass,
        StateWire::Fail(reason) => GateState::Fail { reason },
        StateWire::Inconclusive(missing) => GateState::Inconclusive { missing },
        StateWire::NotJudged(why) => GateState::NotJudged { why },
    };
    let name = named(&NAMES, |name| name.as_str(), &wire.gate)?;
    let GateWire { value, threshold, evidence, interval, text, samples, .. } = wire;
    Ok(Gate { name, state, value, threshold, evidence, interval, text, samples })
}

/// A decision as JSON, the form in which two are compared to the last bit.
pub(super) fn exact(decision: &Decision) -> Result<String, serde_json::Error> {
    serde_json::to_string(&decision.to_wire())
}
