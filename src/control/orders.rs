//! Operators' orders: load a canary, control its rollout, roll back or undo.
//!
//! Every order names its author, and is recorded whether or not it is granted. An order that could raise the weight
//! names the revision that its author last saw: if two operators act at once, the second order is refused instead of
//! overriding the first. Pause and rollback need no revision, so stopping is never refused because of an outdated view.
//! This file decides nothing about rollouts; the state machine does.

use super::act::Done;
use super::deploy::Candidate;
use super::identity;
use super::ledger_handle::{self, model};
use super::life::Trial;
use super::{
    Control, ControlError, ControlState, Deployment, LoadCheck, Objection, Offer, Unload, losses,
};
use crate::engine::LaneId;
use crate::ledger::{Entry, Model, Opening, Rejection};
use crate::rollout::{Arm, Event, Expect, Operator, Order, Rollout, Weight};
use crate::text::GenerationDefaults;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long an order waits for the ledger before its giver is told that it still waits.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);

/// An order and the revision of the status that it is conditional on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionalOrder {
    /// The command, with its author and reason.
    pub order: Order,
    /// The revision that the status had when the order was thought of.
    pub expect: Option<u64>,
}

/// A canary to load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOrder {
    /// A model folder, a GGUF file or an `hf:` reference.
    pub path: PathBuf,
    /// The author, as written to the ledger.
    pub by: String,
    /// In the operator's words; `None` if no reason was given.
    pub reason: Option<String>,
    /// Also if its content was rejected before.
    pub retry: bool,
    /// Also if it can do less than stable.
    pub allow: bool,
    /// What kind of change it is; `None` as configured.
    pub expect: Option<Expect>,
    /// It takes stable's sampling defaults instead of its own.
    pub inherit: bool,
}

impl LoadOrder {
    /// A load as configured, which overrides nothing.
    pub fn of(path: impl Into<PathBuf>, by: impl Into<String>) -> LoadOrder {
        LoadOrder { path: path.into(), by: by.into(), ..LoadOrder::default() }
    }
}

impl Control {
    /// Loads a canary and starts its rollout. Goes on to its end even if the caller stops waiting. Fails if another
    /// canary is loaded or loading, if there is no stable model, or if the model cannot be loaded, was rejected before,
    /// or can do less than stable; `order` may allow the latter two.
    pub async fn load_canary(
        self: &Arc<Self>,
        order: LoadOrder,
    ) -> Result<Arc<Deployment>, ControlError> {
        let control = self.clone();
        let task = tokio::spawn(async move { control.load_and_start(order, false).await });
        task.await.map_err(|e| ControlError::Engine(e.to_string()))?
    }

    /// Loads stable a second time and judges it against itself: what this machine's noise alone does. Fails as
    /// [`Control::load_canary`] does.
    pub async fn self_test(
        self: &Arc<Self>,
        by: String,
        reason: Option<String>,
    ) -> Result<Arc<Deployment>, ControlError> {
        let stable = self.routes.read().stable.clone().ok_or(ControlError::NoStable)?;
        let order = LoadOrder {
            path: stable.path.clone(),
            by,
            reason,
            retry: true,
            allow: true,
            expect: Some(Expect::Same),
            inherit: stable.inherited,
        };
        let control = self.clone();
        let task = tokio::spawn(async move { control.load_and_start(order, true).await });
        task.await.map_err(|e| ControlError::Engine(e.to_string()))?
    }

    async fn load_and_start(
        self: Arc<Self>,
        order: LoadOrder,
        self_test: bool,
    ) -> Result<Arc<Deployment>, ControlError> {
        match self.load_and_begin(&order, self_test).await {
            Ok((deployment, done)) => {
                self.wait(done).await?;
                Ok(deployment)
            }
            Err(error) => {
                self.publish_load(&order, self_test, Err(&error));
                let entry = load_ordered(&order, self_test, Err(&error));
                self.ledger.note(self.now(), entry);
                Err(error)
            }
        }
    }

    async fn load_and_begin(
        self: &Arc<Self>,
        order: &LoadOrder,
        self_test: bool,
    ) -> Result<(Arc<Deployment>, Done), ControlError> {
        {
            let state = self.state.lock();
            if state.resuming.is_some() {
                return Err(ControlError::Resuming);
            }
            let routes = self.routes.read();
            if routes.stable.is_none() {
                return Err(ControlError::NoStable);
            }
            if let Some(canary) = &routes.canary {
                return Err(ControlError::CanaryPresent { version: canary.version.to_string() });
            }
        }
        if order.expect.is_some() && !self_test && !self.policy.reads() {
            return Err(ControlError::NothingRead);
        }
        let place = ledger_handle::unread(&order.path);
        if let Some(rejection) = self.ledger.rejection(&place).filter(|_| !order.retry) {
            return Err(ControlError::Load(rejected_before(&rejection)));
        }
        let stable = self.routes.read().stable.clone();
        let inherit = stable.filter(|_| order.inherit).map(|stable| stable.defaults.clone());
        let check = self.load_check(order, self_test, inherit.clone());
        let deployment = match self.load(&order.path, check, inherit).await {
            Ok(deployment) => deployment,
            Err(error) => {
                if error != ControlError::Loading {
                    self.life.on_trial(None);
                }
                return Err(error);
            }
        };
        self.publish_loaded(Arm::Canary, &deployment);
        let less = self.less(&deployment);
        let begun = match less.is_empty() || order.allow {
            true => self.begin(&deployment, order, self_test, less),
            false => Err(ControlError::Less(less)),
        };
        match begun {
            Ok(done) => Ok((deployment, done)),
            Err(error) => {
                self.life.on_trial(None);
                self.retire(deployment, "refused", Duration::ZERO);
                Err(error)
            }
        }
    }

    /// What a loaded canary can do less than stable.
    pub(super) fn less(&self, canary: &Deployment) -> Vec<String> {
        let stable = self.routes.read().stable.clone();
        stable.map_or_else(Vec::new, |stable| losses(&Offer::of(&stable), &Offer::of(canary)))
    }

    /// `outcome`: what was allowed, or why it was refused.
    fn publish_load(
        &self,
        order: &LoadOrder,
        self_test: bool,
        outcome: Result<&[String], &ControlError>,
    ) {
        let LoadOrder { path, by, reason, retry, allow, expect, inherit } = order;
        let command = if self_test { "self_test" } else { "canary_load" };
        let body = json!({
            "command": command, "path": path, "retry": retry, "allow": allow, "expect": expect, "inherit_defaults": inherit, "by": by,
            "reason": reason, "less": outcome.unwrap_or_default(),
            "refused": outcome.err().map(ToString::to_string),
        });
        self.notes.publish("order", false, body);
    }

    /// A former stable that is still kept makes room for the next canary.
    async fn make_room(&self) {
        let previous = self.state.lock().previous.take();
        if let Some(previous) = previous {
            let lane = previous.deployment.lane;
            self.retire(previous.deployment, "replaced", self.deployments.drain);
            self.unload_of(lane).await;
        }
    }

    /// Refuses content that was rejected before and what can do less than stable, before it takes any memory,
    /// and makes room for any other: a model that cannot be loaded at all costs nobody the former stable. What
    /// is let in is known from then on to be what is being loaded.
    fn load_check(
        self: &Arc<Self>,
        order: &LoadOrder,
        self_test: bool,
        inherit: Option<GenerationDefaults>,
    ) -> LoadCheck {
        let (control, order) = (self.clone(), order.clone());
        Arc::new(move |candidate| {
            let digest = match &inherit {
                Some(defaults) => identity::inheriting(candidate.digest, defaults),
                None => candidate.digest.to_owned(),
            };
            let objection = control.objection(&order, Candidate { digest: &digest, ..candidate });
            let control = control.clone();
            let model = unloaded(&order.path, &digest);
            Box::pin(async move {
                if let Some(objection) = objection {
                    return Err(objection);
                }
                control.life.on_trial(Some(Trial { model, loading: true }));
                if !self_test {
                    control.state.lock().candidate = Some(digest);
                }
                control.make_room().await;
                Ok(())
            })
        })
    }

    /// What speaks against an opened canary that the order does not override.
    fn objection(&self, order: &LoadOrder, candidate: Candidate<'_>) -> Option<Objection> {
        let rejection = self.ledger.rejection(candidate.digest).filter(|_| !order.retry);
        if let Some(rejection) = rejection {
            return Some(Objection::Rejected(rejected_before(&rejection)));
        }
        let stable = self.routes.read().stable.clone().filter(|_| !order.allow)?;
        let less = losses(&Offer::of(&stable), &candidate.offer);
        (!less.is_empty()).then_some(Objection::Less(less))
    }

    fn begin(
        &self,
        deployment: &Arc<Deployment>,
        order: &LoadOrder,
        self_test: bool,
        less: Vec<String>,
    ) -> Result<Done, ControlError> {
        let stable = self.routes.read().stable.clone().ok_or(ControlError::NoStable)?;
        let rollout = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let mut state = self.state.lock();
        if let Some(fault) = self.device_fault() {
            return Err(ControlError::Load(fault.to_owned()));
        }
        let epoch = state.rollout.stage();
        let mut policy = self.policy.clone();
        policy.cross_read.expect = order.expect.unwrap_or(policy.cross_read.expect);
        let mut machine = Rollout::after_epoch(policy.clone(), epoch);
        let event = Event::Start { rollout: rollout.clone(), self_test };
        let now = self.now();
        let actions = machine
            .step(now, event.clone())
            .map_err(|error| ControlError::Refused(error.to_string()))?;
        state.rollout = machine;
        state.trial = Some(model(deployment));
        state.remark = None;
        state.candidate = None;
        self.life.on_trial(Some(Trial { model: model(deployment), loading: false }));
        {
            let mut routes = self.routes.write();
            routes.rollout = rollout.as_str().into();
            routes.canary = Some(deployment.clone());
        }
        self.share_turns();
        let mut entries = vec![Entry::RolloutOpened(Box::new(Opening {
            rollout,
            policy,
            epoch,
            stable: model(&stable),
            canary: model(deployment),
        }))];
        self.publish_load(order, self_test, Ok(&less));
        entries.push(load_ordered(order, self_test, Ok(&less)));
        state.less = less;
        entries.push(Entry::ModelLoaded { arm: Arm::Canary, model: model(deployment) });
        if order.retry && !self_test {
            entries.extend(self.pardon(&deployment.digest, order));
        }
        Ok(self.act(&mut state, now, Some(&event), actions, entries))
    }

    /// What was held against a version and its place is forgotten, if it was rejected.
    fn pardon(&self, digest: &str, order: &LoadOrder) -> Vec<Entry> {
        let both = [digest.to_owned(), ledger_handle::unread(&order.path)];
        if both.iter().all(|one| self.ledger.rejection(one).is_none()) {
            return Vec::new();
        }
        let pardoned = |digest: String| Entry::Pardoned {
            digest,
            by: order.by.clone(),
            reason: order.reason.clone().unwrap_or_default(),
        };
        both.iter().flat_map(|one| self.ledger.held_against(one)).map(pardoned).collect()
    }

    /// Carries out an order; returns when it is in force and written down. Fails if the order does not apply
    /// now, if its revision is missing or not the present one, or if the ledger does not write it in time.
    pub async fn order(&self, order: ConditionalOrder) -> Result<(), ControlError> {
        let done = self.give(order)?;
        self.wait(done).await
    }

    /// Rolls back and waits until the canary's memory is back. Fails as [`Control::order`] does, and if there is no
    /// canary.
    pub async fn rollback(
        &self,
        by: String,
        reason: Option<String>,
        expect: Option<u64>,
    ) -> Result<Option<Unload>, ControlError> {
        let resuming = self.state.lock().resuming.is_some();
        let canary = self.routes.read().canary.clone();
        let order = Order { command: Operator::Rollback, by, reason };
        let Some(canary) = canary else {
            if !resuming {
                return Err(ControlError::NoCanary);
            }
            self.order(ConditionalOrder { order, expect }).await?;
            return Ok(None);
        };
        let done = self.give(ConditionalOrder { order, expect })?;
        let unload = self.unload_of(canary.lane).await;
        self.wait(done).await?;
        Ok(unload)
    }

    /// The unload of a lane that is on its way out; `None` if it takes too long.
    async fn unload_of(&self, lane: LaneId) -> Option<Unload> {
        let mut unloads = self.unloads.subscribe();
        let find = || {
            let state = self.state.lock();
            state.unloads.iter().find(|one| one.0 == lane).map(|one| one.1.clone())
        };
        let wait = async {
            loop {
                let found = find();
                if found.is_some() || unloads.changed().await.is_err() {
                    return found;
                }
            }
        };
        let limit = self.deployments.drain + Duration::from_secs(30);
        tokio::time::timeout(limit, wait).await.unwrap_or(None)
    }

    async fn wait(&self, done: Done) -> Result<(), ControlError> {
        if tokio::time::timeout(DURABLE_WITHIN, done).await.is_ok() {
            return Ok(());
        }
        let failing = self.ledger.health().and_then(|(_, health)| health.failing);
        let why = failing.unwrap_or_else(|| "it is slow".to_owned());
        Err(ControlError::NotDurable { seconds: DURABLE_WITHIN.as_secs(), why })
    }

    fn give(
        &self,
        ConditionalOrder { order, expect }: ConditionalOrder,
    ) -> Result<Done, ControlError> {
        let mut state = self.state.lock();
        let now = self.now();
        let event = Event::Operator(order.clone());
        let stepped = self.check(&state, order.command, expect).and_then(|()| {
            if !state.has_machine() {
                return Ok(Vec::new());
            }
            let stepped = state.rollout.step(now, event.clone());
            stepped.map_err(|error| ControlError::Refused(error.to_string()))
        });
        let refused = stepped.as_ref().err().map(ToString::to_string);
        let body = json!({
            "command": order.command.as_str(), "percent": order.command.percent(),
            "by": order.by, "reason": order.reason, "refused": refused,
        });
        self.notes.publish("order", false, body);
        let rejected = rejected_by(&state, &order).filter(|_| stepped.is_ok());
        let entry = Entry::Order { order, refused: refused.clone() };
        match stepped {
            Ok(actions) => {
                let entries = std::iter::once(entry).chain(rejected).collect();
                Ok(self.act(&mut state, now, Some(&event), actions, entries))
            }
            Err(error) => {
                self.ledger.note(now, entry);
                Err(error)
            }
        }
    }

    /// Whether an order fits what stands now; the machine has not been asked yet.
    pub(super) fn check(
        &self,
        state: &ControlState,
        command: Operator,
        expect: Option<u64>,
    ) -> Result<(), ControlError> {
        if state.resuming.is_some() && could_raise(command, state.rollout.weight()) {
            return Err(ControlError::Resuming);
        }
        let now = state.revision;
        match (command, expect) {
            (_, Some(expected)) if expected != now => {
                return Err(ControlError::Stale { expected, now });
            }
            (_, Some(_)) | (Operator::Pause | Operator::Rollback, None) => {}
            _ => return Err(ControlError::NoRevision { now }),
        }
        if command == Operator::Undo && state.previous.is_none() {
            return Err(ControlError::NoPrevious);
        }
        Ok(())
    }
}

impl ControlState {
    /// A rollout that cannot go on has no machine for orders: it will be given up in any case.
    pub(super) fn has_machine(&self) -> bool {
        !self.resuming.as_ref().is_some_and(|resuming| resuming.broken)
    }
}

fn rejected_before(rejection: &Rejection) -> String {
    format!(
        "this version was rejected before ({}); say --retry (\"retry\": true) to try it again",
        rejection.reason
    )
}

/// Whether an order could lead to more than what is in force.
fn could_raise(command: Operator, weight: Weight) -> bool {
    match command {
        Operator::Pause | Operator::Rollback => false,
        Operator::SetWeight(to) => to > weight,
        Operator::Resume
        | Operator::Promote
        | Operator::PromoteNow
        | Operator::Undo
        | Operator::Confirm => true,
    }
}

/// A rollback of a rollout that has no machine any more: what the machine's decision would have said.
fn rejected_by(state: &ControlState, order: &Order) -> Option<Entry> {
    let broken = state.resuming.as_ref().filter(|resuming| resuming.broken)?;
    let digest = broken.running.opening.canary.digest.clone();
    let stops = order.command == Operator::Rollback;
    stops.then(|| Entry::Rejected { digest, reason: format!("rolled back {}", order.signature()) })
}

pub(super) fn unloaded(path: &Path, digest: &str) -> Model {
    let version = super::intake::name(path);
    Model { path: path.display().to_string(), version, digest: digest.to_owned(), inherited: None }
}

/// For the ledger: who asked for a canary, and what was allowed or why it was not granted.
fn load_ordered(
    order: &LoadOrder,
    self_test: bool,
    outcome: Result<&[String], &ControlError>,
) -> Entry {
    let LoadOrder { path, by, reason, retry, .. } = order.clone();
    let (path, refused) = (path.display().to_string(), outcome.err().map(ToString::to_string));
    let allowed = outcome.unwrap_or_default().to_vec();
    Entry::LoadOrdered { path, by, reason, retry, self_test, allowed, refused }
}

/// The same file or folder, however it is spelt.
pub fn same_place(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}
