//! Judging a recorded rollout again: by its own policy, or by another.
//!
//! By its own policy, and with exactly the recorded events, a replay must reach the recorded decisions, bit
//! for bit. The same code resumes a rollout after a restart.
//!
//! With another policy, the events are the recorded ones, but ticks are generated on a grid, because only
//! ticks with a consequence were recorded. Such a what-if shows how the same traffic would have been judged.
//! The canary's share of the traffic is the recorded one; other weights would have led to other traffic.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::error::LedgerError;
use super::read::{Reader, Recorded};
use crate::rollout::{Action, Decision, Event, Outcome, Phase, Policy, Reading, Rollout};

/// A machine after all events, and the decisions that it took.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The machine.
    pub rollout: Rollout,
    /// Its decisions in order.
    pub decisions: Vec<Decision>,
    /// The time of the last event.
    pub clock: Duration,
    /// Number of events processed.
    pub events: u64,
    /// Number of events that the machine refused: orders that do not apply in its state.
    pub refused: u64,
}

/// Recorded decisions compared with replayed ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Number of recorded decisions.
    pub recorded: usize,
    /// Number of replayed decisions.
    pub replayed: usize,
    /// The first pair that differs; `None` if all agree bit for bit.
    pub difference: Option<Difference>,
}

/// Two decisions that differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Their index, from 0.
    pub index: usize,
    /// As recorded, if there is one.
    pub recorded: Option<Box<Decision>>,
    /// As replayed, if there is one.
    pub replayed: Option<Box<Decision>>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |decision: &Option<Box<Decision>>| match decision {
            Some(one) => format!("{} at {:?}: {}", one.kind.as_str(), one.at, one.text),
            None => "nothing".to_owned(),
        };
        let (recorded, replayed) = (text(&self.recorded), text(&self.replayed));
        write!(f, "decision {}: recorded {recorded}; replayed {replayed}", self.index + 1)
    }
}

/// Feeds the events to the machine, each at its own time. Fails at the first event that is an error.
pub fn replay(
    mut rollout: Rollout,
    events: impl Iterator<Item = Result<(Duration, Event), LedgerError>>,
) -> Result<Replayed, LedgerError> {
    let mut decisions = Vec::new();
    let (mut clock, mut count, mut refused) = (Duration::ZERO, 0, 0);
    for event in events {
        let (at, event) = event?;
        match rollout.step(at, event) {
            Ok(actions) => decisions.extend(actions.into_iter().filter_map(decision)),
            Err(_) => refused += 1,
        }
        clock = at;
        count += 1;
    }
    Ok(Replayed { rollout, decisions, clock, events: count, refused })
}

fn decision(action: Action) -> Option<Decision> {
    match action {
        Action::Decision(decision) => Some(decision),
        _ => None,
    }
}

/// A decision as JSON, for a bitwise comparison: -0.0 is not 0.0.
fn exact(decision: &Decision) -> Option<String> {
    serde_json::to_string(decision).ok()
}

/// Compares decisions one by one.
pub fn compare(recorded: &[Decision], replayed: &[Decision]) -> Comparison {
    let longest = recorded.len().max(replayed.len());
    let same = |at: usize| match (recorded.get(at), replayed.get(at)) {
        (Some(one), Some(other)) => {
            matches!((exact(one), exact(other)), (Some(one), Some(other)) if one == other)
        }
        _ => false,
    };
    let difference = (0..longest).find(|at| !same(*at)).map(|index| Difference {
        index,
        recorded: recorded.get(index).cloned().map(Box::new),
        replayed: replayed.get(index).cloned().map(Box::new),
    });
    Comparison { recorded: recorded.len(), replayed: replayed.len(), difference }
}

impl Reader {
    /// Replays a rollout by its own policy, and compares the decisions. Fails if the journal cannot be read or is
    /// damaged.
    pub fn replay(&self, of: &Recorded) -> Result<(Replayed, Comparison), LedgerError> {
        let machine = Rollout::after_epoch(of.opening.policy.clone(), of.opening.epoch);
        let replayed = replay(machine, self.journal(of))?;
        let comparison = compare(&of.decisions, &replayed.decisions);
        Ok((replayed, comparison))
    }

    /// Judges a rollout's traffic by another policy, with a tick every `grid`. What kind of change the canary is, is
    /// what its operator said then. Fails if the journal cannot be read or is damaged.
    pub fn rejudge(
        &self,
        of: &Recorded,
        mut policy: Policy,
        grid: Duration,
    ) -> Result<Replayed, LedgerError> {
        policy.cross_read.expect = of.opening.policy.cross_read.expect;
        let recorded = Rollout::after_epoch(of.opening.policy.clone(), of.opening.epoch);
        let judged = Rollout::after_epoch(policy, of.opening.epoch);
        rejudge(recorded, judged, grid, self.journal(of))
    }
}

/// Feeds the recorded events to a machine with another policy. A second machine with the recorded policy runs
/// along, to tell which stage was current. Fails at the first event that is an error.
pub fn rejudge(
    recorded: Rollout,
    judged: Rollout,
    grid: Duration,
    events: impl Iterator<Item = Result<(Duration, Event), LedgerError>>,
) -> Result<Replayed, LedgerError> {
    let grid = grid.max(Duration::from_millis(1));
    let mut what_if = WhatIf::new(recorded, judged);
    for event in events {
        let (at, event) = event?;
        what_if.tick_up_to(at, grid);
        what_if.event(at, event);
    }
    Ok(what_if.judged)
}

/// Number of stages that are remembered: a reply may begin in one stage and end in a later one.
const STAGES: usize = 64;

struct WhatIf {
    /// The rollout as it was recorded; tells which stage was current.
    recorded: Rollout,
    judged: Replayed,
    /// When each of the judged machine's recent stages began.
    stages: VecDeque<(Duration, u64)>,
    ticked: Option<Duration>,
}

impl WhatIf {
    fn new(recorded: Rollout, judged: Rollout) -> WhatIf {
        let stages = VecDeque::from([(Duration::ZERO, judged.stage())]);
        let judged = Replayed {
            rollout: judged,
            decisions: Vec::new(),
            clock: Duration::ZERO,
            events: 0,
            refused: 0,
        };
        WhatIf { recorded, judged, stages, ticked: None }
    }

    /// Ticks on the grid, counted from the first event, up to the event at `at`.
    fn tick_up_to(&mut self, at: Duration, grid: Duration) {
        let Some(mut due) = self.ticked else {
            self.ticked = Some(at);
            return;
        };
        while let Some(next) = due.checked_add(grid).filter(|next| *next < at) {
            if !matches!(self.judged.rollout.phase(), Phase::Running { .. }) {
                // Nothing can change any more; the grid continues from here.
                due = at;
                break;
            }
            self.feed(next, Event::Tick);
            due = next;
        }
        self.ticked = Some(due);
    }

    fn event(&mut self, at: Duration, event: Event) {
        let in_force = self.recorded.stage();
        // An order that the recorded machine refused was not recorded, so nothing is refused here.
        let _ = self.recorded.step(at, event.clone());
        let translated = |stage: u64| match stage == in_force {
            true => self.judged.rollout.stage(),
            false => u64::MAX,
        };
        let event = match event {
            Event::Tick => return,
            Event::Outcome(outcome) => {
                let stage = self.stage_at(at.saturating_sub(outcome.e2e));
                Event::Outcome(Outcome { stage, ..outcome })
            }
            Event::Feedback { arm, stage, positive, origin } => {
                Event::Feedback { arm, stage: translated(stage), positive, origin }
            }
            Event::Retry { arm, stage, origin } => {
                Event::Retry { arm, stage: translated(stage), origin }
            }
            Event::Reading(reading) => {
                Event::Reading(Reading { stage: translated(reading.stage), ..reading })
            }
            other @ (Event::Fault { .. }
            | Event::Start { .. }
            | Event::Operator(_)
            | Event::Throttled { .. }) => other,
        };
        self.judged.events += 1;
        self.feed(at, event);
    }

    fn feed(&mut self, at: Duration, event: Event) {
        let judged = &mut self.judged;
        match judged.rollout.step(at, event) {
            Ok(actions) => judged.decisions.extend(actions.into_iter().filter_map(decision)),
            Err(_) => judged.refused += 1,
        }
        judged.clock = at;
        let stage = judged.rollout.stage();
        if self.stages.back().is_none_or(|(_, last)| *last != stage) {
            self.stages.push_back((at, stage));
            if self.stages.len() > STAGES {
                self.stages.pop_front();
            }
        }
    }

    /// The judged machine's stage at a given time; a request routed at that time belongs to it.
    fn stage_at(&self, at: Duration) -> u64 {
        let begun = self.stages.iter().rev().find(|(since, _)| *since <= at);
        begun.map_or(u64::MAX, |(_, stage)| *stage)
    }
}
