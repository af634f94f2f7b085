//! What an order would do, without doing it.
//!
//! The order is given to a copy of the state machine, so a preview always shows exactly what the order would decide at
//! this moment. Nothing is recorded and nobody is notified. It decides nothing itself.

use super::{ConditionalOrder, Control, ControlError, ControlState, Deployment, DeploymentPolicy};
use crate::rollout::{Action, Arm, Event, Operator};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// What an order would do now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// The revision that this is true for; the order itself can name it.
    pub revision: u64,
    /// What would be decided, in one line; it says so if nothing would change.
    pub text: String,
    /// The canary's share of the requests now, in percent.
    pub weight: u8,
    /// Its share afterwards; without a canary, 0.
    pub weight_after: u8,
    /// The version that would be stable afterwards; `null` if stable is not loaded.
    pub stable_after: Option<String>,
    /// The loaded versions: stable, then canary.
    pub arms: Vec<ArmPreview>,
    /// What shapes replies and is not the same on both, one line each.
    #[serde(default)]
    pub differences: Vec<String>,
    /// Bytes that would come back once everything that leaves is unloaded.
    pub memory_back: u64,
}

/// What an order would do to one loaded version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmPreview {
    /// `stable` or `canary`, as of now.
    pub arm: String,
    /// Name of the model's folder or file.
    pub version: String,
    /// What becomes of it: `stays`, `becomes_stable`, `kept` (until it is unloaded, it can be put back) or
    /// `unloaded`.
    pub becomes: String,
    /// Sequences that are running on it now.
    pub running: u64,
    /// Sequences that wait for it now.
    pub waiting: u64,
    /// Bytes that it holds, in main memory and on a card.
    pub memory: u64,
    /// For what leaves: seconds after which its running requests are cut off at the latest. A version that is
    /// kept is kept for a part of them.
    pub leaves_within_s: Option<f64>,
}

impl Control {
    /// What an order would do now. A revision is not needed. Fails if the order would be refused, or if it names a
    /// revision that is not the present one.
    pub fn preview(
        &self,
        ConditionalOrder { order, expect }: ConditionalOrder,
    ) -> Result<Preview, ControlError> {
        let state = self.state.lock();
        let no_canary = self.routes.read().canary.is_none() && state.resuming.is_none();
        if order.command == Operator::Rollback && no_canary {
            return Err(ControlError::NoCanary);
        }
        self.check(&state, order.command, expect.or(Some(state.revision)))?;
        let actions = match state.has_machine() {
            true => {
                let stepped = state.rollout.clone().step(self.now(), Event::Operator(order));
                stepped.map_err(|error| ControlError::Refused(error.to_string()))?
            }
            false => Vec::new(),
        };
        Ok(self.foreseen(&state, &actions))
    }

    fn foreseen(&self, state: &ControlState, actions: &[Action]) -> Preview {
        let models = self.models();
        let weight = self.weights().0.percent();
        let promoted = actions.contains(&Action::Promote);
        let undone = actions.contains(&Action::Undo);
        let becomes = |arm: Arm| match arm {
            Arm::Stable if promoted && self.deployments.keep_previous.is_zero() => {
                ("unloaded", Some(self.deployments.finish))
            }
            Arm::Stable if promoted => {
                let DeploymentPolicy { keep_previous, finish, .. } = self.deployments;
                ("kept", Some(keep_previous + finish))
            }
            Arm::Canary if promoted => ("becomes_stable", None),
            Arm::Stable if undone => ("unloaded", Some(self.deployments.drain)),
            Arm::Canary if actions.contains(&Action::UnloadCanary) => {
                ("unloaded", Some(self.deployments.drain))
            }
            Arm::Stable | Arm::Canary => ("stays", None),
        };
        let loaded = [(Arm::Stable, &models.stable), (Arm::Canary, &models.canary)];
        let foreseen = |(arm, loaded): (Arm, &Option<Arc<Deployment>>)| {
            Some(ArmPreview::new(arm, loaded.as_deref()?, becomes(arm)))
        };
        let arms: Vec<ArmPreview> = loaded.into_iter().filter_map(foreseen).collect();
        let leaving = arms.iter().filter(|arm| arm.leaves_within_s.is_some());
        let former = state.previous.as_ref().map(|previous| &previous.deployment);
        let after = match (promoted, undone) {
            (true, _) => models.canary.as_ref(),
            (_, true) => former,
            _ => models.stable.as_ref(),
        };
        Preview {
            revision: state.revision,
            text: text(actions),
            weight,
            weight_after: weight_after(actions).unwrap_or(weight),
            stable_after: after.map(|model| model.version.to_string()),
            differences: models.differences(),
            memory_back: leaving.map(|arm| arm.memory).sum(),
            arms,
        }
    }
}

impl ArmPreview {
    fn new(arm: Arm, loaded: &Deployment, becomes: (&str, Option<Duration>)) -> ArmPreview {
        let now = loaded.stats.read();
        ArmPreview {
            arm: arm.as_str().to_owned(),
            version: loaded.version.to_string(),
            becomes: becomes.0.to_owned(),
            running: now.running,
            waiting: now.waiting,
            memory: now.arena_reserved + now.card_reserved,
            leaves_within_s: becomes.1.map(|time| time.as_secs_f64()),
        }
    }
}

fn text(actions: &[Action]) -> String {
    let decision = actions.iter().find_map(|action| match action {
        Action::Decision(decision) => Some(decision.text.clone()),
        _ => None,
    });
    decision.unwrap_or_else(|| "nothing would change".to_owned())
}

fn weight_after(actions: &[Action]) -> Option<u8> {
    actions.iter().find_map(|action| match action {
        Action::SetWeight { weight, .. } => Some(weight.percent()),
        _ => None,
    })
}
