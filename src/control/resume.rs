//! After a restart: where things stood, and going on from there.
//!
//! A rollout goes on at its last committed weight with the very counts it had, if its two models are what
//! they were. If not, stable serves alone, and that is said. The time during which nobody served does not
//! count as baking.

use super::orders::{is_still, same_place};
use super::{Control, alerting, deploy};
use crate::alerts::Alerts;
use crate::ledger::{Entry, Interrupted, Ledger, Model, Resume, Running, State};
use crate::rollout::Rollout;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a control room begins with.
#[derive(Default)]
pub struct Start {
    pub ledger: Option<Ledger>,
    /// As the ledger has it.
    pub state: State,
    /// The rollout that was under way, if it can go on.
    pub machine: Option<Rollout>,
    /// What its clock showed.
    pub clock: Duration,
    pub alerts: Option<Alerts>,
}

impl Start {
    /// From an opened ledger; the second part is for [`Control::take_up`].
    pub fn from_ledger(ledger: Ledger, resume: Resume, alerts: Option<Alerts>) -> (Start, TakeUp) {
        let Resume { state, interrupted, promoted } = resume;
        let under_way = interrupted.is_some();
        let found = interrupted.or(promoted);
        let mut start = Start { ledger: Some(ledger), state, alerts, ..Start::default() };
        let mut take_up = TakeUp::default();
        if let Some(Interrupted { running, machine }) = found {
            let why = match machine {
                Ok(continued) => {
                    start.clock = continued.clock;
                    start.machine = Some(continued.rollout);
                    take_up.events = continued.events;
                    None
                }
                Err(why) => Some(why.to_string()),
            };
            take_up.running = under_way.then_some((running, why));
        }
        (start, take_up)
    }
}

/// The rollout that was under way when the last server stopped.
#[derive(Debug, Default)]
pub struct TakeUp {
    /// With why its machine cannot go on, if it cannot.
    running: Option<(Running, Option<String>)>,
    events: u64,
}

impl TakeUp {
    /// Lets a rollout that was under way go, for a reason.
    pub fn forgo(&mut self, reason: &str) {
        if let Some((_, why)) = &mut self.running {
            why.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Whether there is anything to take up.
    pub fn is_some(&self) -> bool {
        self.running.is_some()
    }
}

/// The model to serve as stable: the one that the ledger has promoted, as long as the configuration still
/// names the one that it named then.
pub fn effective_stable(state: &State, configured: &Path) -> PathBuf {
    match (&state.configured, &state.stable) {
        (Some(then), Some(stable))
            if same_place(Path::new(then), configured) && Path::new(&stable.path).exists() =>
        {
            PathBuf::from(&stable.path)
        }
        _ => configured.to_owned(),
    }
}

impl Control {
    /// Goes on with a rollout after a restart; stable is loaded already.
    pub async fn take_up(&self, take_up: TakeUp) {
        let Some((running, broken)) = take_up.running else { return };
        let outcome = match broken {
            Some(why) => Err(why),
            None => self.load_again(&running).await,
        };
        match outcome {
            Ok(()) => self.went_on(&running, take_up.events),
            Err(why) => self.abandon(&running, why),
        }
    }

    async fn load_again(&self, running: &Running) -> Result<(), String> {
        let changed = |what: &str, model: &Model| {
            format!("{what} {} ({}) is not what it was", model.version, model.path)
        };
        let stable = self.routes.read().stable.clone();
        let opening = &running.opening;
        if !stable.is_some_and(|stable| is_still(&stable, &opening.stable)) {
            return Err(changed("stable", &opening.stable));
        }
        let path = Path::new(&opening.canary.path);
        let canary =
            self.load(path, deploy::any_digest()).await.map_err(|error| error.to_string())?;
        if !is_still(&canary, &opening.canary) {
            self.retire(canary, "changed", Duration::ZERO);
            return Err(changed("canary", &opening.canary));
        }
        let mut brain = self.brain.lock();
        brain.trial = Some(canary.clone());
        let mut routes = self.routes.write();
        routes.rollout = opening.rollout.as_str().into();
        routes.weight = brain.rollout.weight();
        routes.stage = brain.rollout.stage();
        routes.canary = Some(canary);
        drop((routes, brain));
        self.share_turns();
        Ok(())
    }

    fn went_on(&self, running: &Running, events: u64) {
        let (weight, stage) = (running.weight, running.stage);
        self.book.note(self.now(), Entry::RolloutResumed { weight, stage, events });
        let body = json!({
            "rollout": running.opening.rollout, "weight": weight.percent(), "stage": stage,
            "events": events,
        });
        self.notes.tell("resumed", true, body);
        alerting::resumed(self, running, None);
    }

    fn abandon(&self, running: &Running, why: String) {
        self.book.note(self.now(), Entry::RolloutAbandoned { why: why.clone() });
        {
            let mut brain = self.brain.lock();
            brain.rollout = Rollout::after_epoch(self.policy.clone(), running.stage);
        }
        let body = json!({"rollout": running.opening.rollout, "why": why});
        self.notes.tell("abandoned", true, body);
        alerting::resumed(self, running, Some(&why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(configured: &str, stable: &str) -> State {
        let model = |path: &str| Model {
            path: path.to_owned(),
            version: "v".to_owned(),
            digest: "d".to_owned(),
        };
        State {
            configured: Some(configured.to_owned()),
            stable: Some(model(stable)),
            ..State::default()
        }
    }

    #[test]
    fn a_promotion_outlives_a_restart_until_the_configuration_changes() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (v1, v2, v3) = (place("v1"), place("v2"), place("v3"));
        let promoted = state(v1.to_str().unwrap(), v2.to_str().unwrap());
        assert_eq!(effective_stable(&promoted, &v1), v2);
        assert_eq!(effective_stable(&promoted, &v3), v3, "the configuration has changed");
        assert_eq!(effective_stable(&State::default(), &v1), v1);
        let gone = state(v1.to_str().unwrap(), "/nowhere");
        assert_eq!(effective_stable(&gone, &v1), v1);
    }
}
