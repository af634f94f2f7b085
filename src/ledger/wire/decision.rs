//! Orders and decisions as they are written.

use super::{CountsWire, Mirrored, named};
use crate::rollout::{
    Cause, Counts, Decision, DecisionKind, Gate, GateName, GateState, Operator, Order, Verdict,
    Weight,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An order as written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::ledger) struct OrderWire {
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
pub(in crate::ledger) struct DecisionWire {
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
pub(in crate::ledger) fn exact(decision: &Decision) -> Result<String, serde_json::Error> {
    serde_json::to_string(&decision.to_wire())
}
