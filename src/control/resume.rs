//! Resuming after a restart.
//!
//! A rollout continues at its last committed weight with exactly the counts it had, if the files of its two models are
//! unchanged. Otherwise stable serves alone, and this is reported. Time during which no server ran, or stable served
//! alone, does not count as bake time. First, the cause of the previous process's death is judged
//! (`ledger::after_crash`).
//!
//! Until the rollout is resumed, rollback and pause work as usual, and orders that could raise the weight are refused.
//! A canary that is rolled back meanwhile is not loaded, or is unloaded at once.

use super::act::Done;
use super::alerting::ResumedAt;
use super::ledger_handle::{model, unread};
use super::life::{Life, PreviousExit, Trial};
use super::orders::same_place;
use super::{Control, ControlState, Deployment, alerting, identity};
use crate::alerts::Alerts;
use crate::ledger::{
    CrashPolicy, Entry, HowEnded, Interrupted, Ledger, Model, Resume, Running, State, after_crash,
};
use crate::rollout::{Phase, Rollout, Weight};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long stable waits until what the last end means is written down.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);

/// What a control room begins with.
#[derive(Default)]
pub struct Start {
    /// Where decisions are recorded; `None` if none is kept.
    pub ledger: Option<Ledger>,
    /// As the ledger has it.
    pub state: State,
    /// The rollout that was under way, if it can go on.
    pub machine: Option<Rollout>,
    /// What its clock showed.
    pub clock: Duration,
    /// Sends alerts to the operators' webhooks; with `None`, none are sent.
    pub alerts: Option<Alerts>,
    /// What the next process will know of how this one ended.
    pub life: Life,
    /// The rollout that was under way, until it is taken up.
    pub resuming: Option<Resuming>,
}

/// A rollout of the process before that is not taken up yet.
#[derive(Debug, Clone)]
pub struct Resuming {
    /// The rollout as of its last committed decision.
    pub running: Running,
    /// It has no machine: it will be given up.
    pub broken: bool,
    /// What is to be said of it.
    pub remark: Option<String>,
}

impl Start {
    /// From an opened ledger; the second part is for [`Control::take_up`].
    pub fn from_ledger(
        ledger: Ledger,
        resume: Resume,
        alerts: Option<Alerts>,
    ) -> (Start, ResumePlan) {
        let Resume { state, interrupted, promoted } = resume;
        let under_way = interrupted.is_some();
        let found = interrupted.or(promoted);
        let mut start = Start { ledger: Some(ledger), state, alerts, ..Start::default() };
        let mut take_up = ResumePlan::default();
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
            start.resuming = under_way.then(|| Resuming {
                running: running.clone(),
                broken: why.is_some(),
                remark: None,
            });
            take_up.running = under_way.then_some((running, why));
        }
        (start, take_up)
    }
}

/// The rollout that was under way when the last server stopped.
#[derive(Debug, Default)]
pub struct ResumePlan {
    /// With why its machine cannot go on, if it cannot.
    running: Option<(Running, Option<String>)>,
    events: u64,
}

impl ResumePlan {
    /// Lets a rollout that was under way go, for a reason.
    pub fn abandon(&mut self, reason: &str) {
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
    /// Draws the consequence of how the process before ended, before anything is loaded. Returns the version
    /// that is refused from now on, if one is; by then that is written down, unless the disk is slow: stable
    /// must not wait for it.
    pub async fn settle_previous_exit(&self, last: Option<PreviousExit>) -> Option<Model> {
        let last = last?;
        if self.ledger.knows_end(&last.id) {
            self.life.settle();
            return None;
        }
        let (refused, done) = self.draw(last);
        match tokio::time::timeout(SETTLED_WITHIN, done).await {
            Ok(_) => self.life.settle(),
            Err(_) => tracing::warn!("how the last server ended is not written down yet"),
        }
        refused
    }

    fn draw(&self, PreviousExit { id, how, trial }: PreviousExit) -> (Option<Model>, Done) {
        let mut state = self.state.lock();
        let running = state.resuming.as_ref().map(|resuming| &resuming.running);
        let weighs = |trial: &Trial| {
            let same = |one: &&Running| one.opening.canary.digest == trial.model.digest;
            running.filter(same).is_some_and(|running| running.weight > Weight::ZERO)
        };
        let canary = trial.filter(|trial| trial.loading || weighs(trial)).map(|trial| trial.model);
        let earlier = canary.as_ref().map_or(0, |one| self.earlier_ends(one));
        let forgiving = self.deployments.well_after.is_zero();
        let course = after_crash(how, canary.is_some(), earlier, forgiving);
        let body = json!({
            "how": how.to_string(), "canary": canary.as_ref().map(|one| &one.version),
            "refused": course == CrashPolicy::Refuse,
        });
        self.notes.publish("unclean_end", course != CrashPolicy::GoOn, body);
        let entry = Entry::UncleanEnd { id, how, canary: canary.clone() };
        match (course, canary) {
            (CrashPolicy::Refuse, Some(canary)) => {
                let done = self.refuse(&mut state, &canary, how, earlier, entry);
                (Some(canary), done)
            }
            (course, _) => {
                let now = self.now();
                let done = self.act(&mut state, now, None, Vec::new(), vec![entry]);
                if let (CrashPolicy::Count, Some(resuming)) = (course, &mut state.resuming) {
                    let remark =
                        format!("{how}; once more before it is well, and this version is refused");
                    resuming.remark = Some(remark);
                }
                (None, done)
            }
        }
    }

    /// Kills that count against a version: with its content known, and while it was being opened.
    fn earlier_ends(&self, canary: &Model) -> u32 {
        let place = unread(Path::new(&canary.path));
        let opening = if canary.digest == place { 0 } else { self.ledger.unexplained_ends(&place) };
        self.ledger.unexplained_ends(&canary.digest) + opening
    }

    /// The version under which the process before died is not loaded again: its rollout is rolled back, or,
    /// where none had begun or none can go on, it is rejected outright.
    fn refuse(
        &self,
        state: &mut ControlState,
        canary: &Model,
        how: HowEnded,
        earlier: u32,
        end: Entry,
    ) -> Done {
        let times = if earlier > 0 { format!(" ({} times)", earlier + 1) } else { String::new() };
        let why =
            format!("the server died while version {} was in force{times}: {how}", canary.version);
        let now = self.now();
        state.trial = Some(canary.clone());
        state.remark = Some(format!("{why}; it is refused"));
        let done = if matches!(state.rollout.phase(), Phase::Running { .. }) {
            self.roll_back_for(state, now, why, vec![end])
        } else {
            let mut entries = vec![end];
            if let Some(resuming) = &state.resuming {
                state.rollout = Rollout::after_epoch(self.policy.clone(), resuming.running.stage);
                entries.push(Entry::RolloutAbandoned { why: why.clone() });
            }
            if !self.ledger.is_stable(&canary.digest) {
                let (digest, reason) = (canary.digest.clone(), why.clone());
                entries.push(Entry::Rejected { digest, reason });
            }
            alerting::refused(self, canary, &why);
            self.act(state, now, None, Vec::new(), entries)
        };
        self.taken_up(state);
        self.life.dropped();
        done
    }

    /// From now on orders are as ever, and the rollout's clock runs.
    fn taken_up(&self, state: &mut ControlState) {
        state.resuming = None;
        // Set already where there was nothing to take up.
        let _ = self.idle.set(self.origin.elapsed());
    }

    /// Goes on with a rollout after a restart; stable is loaded already.
    pub async fn take_up(&self, take_up: ResumePlan) {
        let Some((running, broken)) = take_up.running else { return };
        if self.state.lock().resuming.is_none() {
            return;
        }
        let outcome = match broken {
            Some(why) => Err(why),
            None => self.load_again(&running, take_up.events).await,
        };
        if let Err(why) = outcome {
            self.abandon(&running, why);
        }
    }

    async fn load_again(&self, running: &Running, events: u64) -> Result<(), String> {
        let stable = self.routes.read().stable.clone();
        let opening = &running.opening;
        is_still("stable", stable.as_deref(), &opening.stable)?;
        if self.ended_meanwhile() {
            return Ok(());
        }
        let path = Path::new(&opening.canary.path);
        self.life.on_trial(Some(Trial { model: opening.canary.clone(), loading: true }));
        let check = super::deploy::any_model();
        let inherit = super::inherited(&opening.canary);
        let canary = self.load(path, check, inherit).await.map_err(|error| error.to_string())?;
        if let Err(why) = is_still("canary", Some(&canary), &opening.canary) {
            self.retire(canary, "changed", Duration::ZERO);
            return Err(why);
        }
        let less = self.less(&canary);
        let mut state = self.state.lock();
        if !matches!(state.rollout.phase(), Phase::Running { .. }) {
            self.life.on_trial(None);
            self.retire(canary, "rolled back", Duration::ZERO);
            self.taken_up(&mut state);
            return Ok(());
        }
        state.trial = Some(opening.canary.clone());
        state.less = less;
        {
            let mut routes = self.routes.write();
            routes.rollout = opening.rollout.as_str().into();
            routes.weight = state.rollout.weight();
            routes.routed = state.rollout.routed();
            routes.stage = state.rollout.stage();
            routes.canary = Some(canary);
        }
        self.life.on_trial(Some(Trial { model: opening.canary.clone(), loading: false }));
        self.share_turns();
        self.went_on(&mut state, running, events);
        Ok(())
    }

    /// Whether an order has ended the rollout before it was taken up; if so, there is nothing more to do.
    fn ended_meanwhile(&self) -> bool {
        let mut state = self.state.lock();
        let ended = !matches!(state.rollout.phase(), Phase::Running { .. });
        if ended {
            self.taken_up(&mut state);
        }
        ended
    }

    /// Says at which weight it goes on: the one in force, which an order may have lowered meanwhile.
    fn went_on(&self, state: &mut ControlState, running: &Running, events: u64) {
        let (weight, stage) = (state.rollout.weight(), state.rollout.stage());
        self.ledger.note(self.now(), Entry::RolloutResumed { weight, stage, events });
        let body = json!({
            "rollout": running.opening.rollout, "weight": weight.percent(), "stage": stage,
            "events": events,
        });
        self.notes.publish("resumed", true, body);
        let remark = state.resuming.as_ref().and_then(|resuming| resuming.remark.clone());
        let remark = remark.as_deref();
        alerting::resumed(self, running, ResumedAt { weight, stage, remark, why_not: None });
        state.revision += 1;
        self.taken_up(state);
    }

    fn abandon(&self, running: &Running, why: String) {
        let mut state = self.state.lock();
        self.life.on_trial(None);
        let broken = state.resuming.as_ref().is_some_and(|resuming| resuming.broken);
        self.taken_up(&mut state);
        if !broken && !matches!(state.rollout.phase(), Phase::Running { .. }) {
            return;
        }
        self.ledger.note(self.now(), Entry::RolloutAbandoned { why: why.clone() });
        state.rollout = Rollout::after_epoch(self.policy.clone(), running.stage);
        state.revision += 1;
        let body = json!({"rollout": running.opening.rollout, "why": why});
        self.notes.publish("abandoned", true, body);
        let (weight, stage) = (running.weight, running.stage);
        alerting::resumed(
            self,
            running,
            ResumedAt { weight, stage, remark: None, why_not: Some(&why) },
        );
    }

    /// A canary that has been in force for long enough is well: kills before do not count against it any more.
    pub(super) fn record_healthy(&self) {
        let mut state = self.state.lock();
        let in_force = {
            let routes = self.routes.read();
            routes.canary.as_ref().filter(|_| routes.weight > Weight::ZERO).map(|one| model(one))
        };
        let Some(canary) = in_force else {
            state.in_force = None;
            return;
        };
        let now = self.origin.elapsed();
        let begun = state.in_force.as_ref().filter(|(one, _, _)| *one == canary).cloned();
        let (_, since, told) = begun.unwrap_or((canary.clone(), now, false));
        let well = !told && now.saturating_sub(since) >= self.deployments.well_after;
        if well && !self.deployments.well_after.is_zero() {
            self.record_canary_well(&canary);
        }
        state.in_force = Some((canary, since, told || well));
    }

    fn record_canary_well(&self, canary: &Model) {
        let place = unread(Path::new(&canary.path));
        let others = [&canary.digest, &place].map(|one| self.ledger.held_against(one)).concat();
        let others = others.into_iter().filter(|one| *one != canary.digest);
        for digest in std::iter::once(canary.digest.clone()).chain(others) {
            self.ledger.note(self.now(), Entry::CanaryWell { digest });
        }
    }

    /// The process ends in order: the next one has nothing to draw from it.
    pub fn end_in_order(&self) {
        self.life.end();
    }
}

/// Whether what is loaded is what the ledger says was loaded then, or how it differs.
fn is_still(what: &str, found: Option<&Deployment>, recorded: &Model) -> Result<(), String> {
    let why = match found {
        Some(found) => identity::differs(&recorded.digest, &found.digest),
        None => Some("it is not loaded"),
    };
    let Model { version, path, .. } = recorded;
    why.map_or(Ok(()), |why| Err(format!("{what} {version} ({path}) has changed: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(configured: &str, stable: &str) -> State {
        let model = |path: &str| Model {
            path: path.to_owned(),
            version: "v".to_owned(),
            digest: "d".to_owned(),
            inherited: None,
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
