//! The control plane around the pure rollout: clock and outcomes go in, actions come out.
//!
//! [`Control`] owns the state machine and the routes. An outcome is processed synchronously: a lower weight is in the
//! routes before the call returns, so the very next request uses it. A higher weight or a promotion waits until the
//! ledger has it (`act`). Draining and unloading a model take time, so they run in a task (`unload`). Locks are taken
//! in the order state, routes; neither is held across an await. The clock of the rollout is read only here.
//!
//! Reading order: `settings`, `source`, `intake`, `identity`, `comparison` and `deploy` (how a model is loaded),
//! `orders` (operators' orders), `preview` (what an order would do), `act` (carries out the rollout's actions), `loss`
//! (a failed device), `unload`, `ledger_handle`, `alerting` and `notes` (alerts and notifications), `resume` (after a
//! restart), `life` (tells the next process how this one ended), `feedback` and `regenerations` (which arm wrote which
//! reply), `readings` (the device's state), `status`.

mod act;
mod alerting;
mod comparison;
mod deploy;
mod error;
mod feedback;
mod identity;
mod intake;
mod ledger_handle;
pub mod life;
mod loss;
mod notes;
mod orders;
mod preview;
mod readings;
mod regenerations;
mod resume;
mod settings;
mod source;
mod status;
mod unload;

pub use comparison::{Offer, losses};
pub use deploy::{Candidate, LoadCheck, Loader, any_model, folder_loader};
pub use error::ControlError;
pub use intake::{DeployError, Objection, OpenedModel, look, look_with};
pub use life::{Life, PreviousExit, Trial};
pub use notes::{Listener, Note};
pub use orders::{ConditionalOrder, LoadOrder, same_place};
pub use preview::{ArmPreview, Preview};
pub use readings::ReadDevice;
pub use resume::{ResumePlan, Resuming, Start, effective_stable};
pub use settings::EngineConfig;
pub use source::Source;
pub use status::{
    ArmFigures, ArmStatus, CrossReadStatus, DecisionStatus, DeviceStatus, ForecastStatus,
    GateStatus, GateWait, InFlightStatus, KeysStatus, LaneStatus, LedgerStatus, ModelsView,
    ShadowStatus, Status, TrafficStatus, Unload,
};

use crate::alerts::Alerts;
use crate::engine::{EngineFault, EngineHandle, LaneId};
use crate::ledger::{Entry, Model};
use crate::metrics;
use crate::rollout::{Arm, Decision, Event, Outcome, Phase, Policy, Reading, Rollout, Weight};
use crate::routing::{Assignment, Deployment, NoRoute, Recent, Routes, Withdrawn, session_hash};
use crate::text::GenerationDefaults;
use act::Commit;
use feedback::{Author, Authors, Vote};
use ledger_handle::LedgerHandle;
use loss::DeviceFailure;
use notes::Notes;
use parking_lot::{Mutex, RwLock};
use readings::DeviceMonitor;
use regenerations::Retries;
use serde_json::json;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use unload::{Previous, UnloadTask};

/// Decisions and unloads kept for display.
const KEPT: usize = 100;
/// How often time alone may move the rollout.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two looks at what the kernel says of the memory cgroup.
const REFRESH: u64 = 50;
/// Longest comment or list of tags that is passed on with a vote, in bytes.
const MAX_COMMENT: usize = 2048;

/// How models come and go around a rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeploymentPolicy {
    /// How long running requests may finish before an unloaded model is dropped.
    pub drain: Duration,
    /// How long running requests of a former stable may finish, which nothing forces to leave.
    pub finish: Duration,
    /// How long the former stable stays loaded after a promotion, so that it can be undone.
    pub keep_previous: Duration,
    /// A reply regenerated within this time counts against the arm that gave it.
    pub retry_window: Duration,
    /// A canary that has had traffic for this long is healthy: kills before no longer count against it. Zero:
    /// kills never do.
    pub well_after: Duration,
    /// The share of stable's requests that are copied to an idle canary, 0 to 1.
    pub shadow: f64,
    /// Turns that the canary gets on the device for each one of stable's while both have work, up to 1.
    pub canary_priority: f64,
}

/// Settings that do not change while the server runs.
pub struct ControlConfig {
    /// Public model name.
    pub name: String,
    /// The rules of every rollout that begins here.
    pub policy: Policy,
    /// How models are kept, drained and unloaded around a rollout.
    pub deployments: DeploymentPolicy,
}

/// The shared state of a server: who serves, and the rollout that decides it.
pub struct Control {
    name: Arc<str>,
    engine: EngineHandle,
    loader: Loader,
    deployments: DeploymentPolicy,
    policy: Policy,
    origin: Instant,
    /// What the rollout's clock showed at `origin`; more than zero after a restart.
    clock: Duration,
    /// How long after `origin` that clock began to run: once a rollout of the process before was taken up.
    idle: OnceLock<Duration>,
    state: Mutex<ControlState>,
    routes: RwLock<Routes>,
    authors: Mutex<Authors>,
    recent: Mutex<Recent>,
    /// Whether the canary's real share is far from what was set.
    skewed: AtomicBool,
    retries: Mutex<Retries>,
    ledger: LedgerHandle,
    notes: Notes,
    alerts: Option<Alerts>,
    unload_queue: UnboundedSender<UnloadTask>,
    commits: UnboundedSender<Commit>,
    /// Counts finished unloads, so that waiting for one is possible.
    unloads: watch::Sender<u64>,
    loss: DeviceFailure,
    life: Life,
    watched: Mutex<DeviceMonitor>,
}

struct ControlState {
    rollout: Rollout,
    /// Rises with everything that changes what an operator may have seen.
    revision: u64,
    decisions: VecDeque<Decision>,
    unloads: VecDeque<(LaneId, Unload)>,
    loading: Option<String>,
    /// Digest of the canary that is being loaded, until its rollout has begun.
    candidate: Option<String>,
    previous: Option<Previous>,
    /// The canary of the rollout that runs or ran last, for those who are told of it.
    trial: Option<Model>,
    /// What it can do less than stable, one line each.
    less: Vec<String>,
    /// A rollout of the process before, until it is taken up.
    resuming: Option<Resuming>,
    /// The canary that has a weight, since when, and whether it was noted that it is well.
    in_force: Option<(Model, Duration, bool)>,
    /// What waits because the ledger has refused it.
    held: Option<String>,
    /// What else a status has to say: why a version was refused at the start.
    remark: Option<String>,
}

/// A vote on a reply.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VoteGiven {
    /// The completion's id.
    pub id: String,
    /// -1 (bad) to 1 (good); zero is no opinion and counts for neither.
    pub value: f64,
    /// The voter's own words; passed on to listeners, not judged.
    pub comment: Option<String>,
    /// Labels that the voter chose; passed on like the comment. At most 2048 bytes together with it.
    pub tags: Vec<String>,
}

impl Control {
    /// Sets up the state and starts the tasks that tick, commit, unload and listen for faults. Must be
    /// called within a tokio runtime.
    pub fn start(
        config: ControlConfig,
        engine: EngineHandle,
        loader: Loader,
        faults: UnboundedReceiver<EngineFault>,
        start: Start,
    ) -> Arc<Control> {
        let (unload_queue, unload_inbox) = unbounded_channel();
        let (commits, commit_inbox) = unbounded_channel();
        let Start { ledger, state, machine, clock, alerts, life, resuming } = start;
        let idle = OnceLock::new();
        if resuming.is_none() {
            let _ = idle.set(Duration::ZERO);
        }
        let control = Arc::new(Control {
            name: config.name.into(),
            engine,
            loader,
            deployments: config.deployments,
            origin: Instant::now(),
            clock,
            idle,
            state: Mutex::new(ControlState {
                rollout: machine.unwrap_or_else(|| Rollout::new(config.policy.clone())),
                revision: 1,
                decisions: VecDeque::new(),
                unloads: VecDeque::new(),
                loading: None,
                candidate: None,
                previous: None,
                trial: None,
                less: Vec::new(),
                resuming,
                in_force: None,
                held: None,
                remark: None,
            }),
            policy: config.policy,
            routes: RwLock::default(),
            authors: Mutex::default(),
            recent: Mutex::default(),
            skewed: AtomicBool::new(false),
            retries: Mutex::default(),
            ledger: LedgerHandle::new(ledger, state),
            notes: Notes::new(),
            alerts,
            unload_queue,
            commits,
            unloads: watch::channel(0).0,
            loss: DeviceFailure::default(),
            life,
            watched: Mutex::default(),
        });
        tokio::spawn(tick(Arc::downgrade(&control)));
        tokio::spawn(act::commit(Arc::downgrade(&control), commit_inbox));
        tokio::spawn(unload::unload_models(Arc::downgrade(&control), unload_inbox));
        tokio::spawn(listen_for_faults(Arc::downgrade(&control), faults));
        if let Some(health) = control.ledger.watch() {
            tokio::spawn(alerting::watch_ledger(Arc::downgrade(&control), health));
        }
        control
    }

    /// The public model name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How models come and go around a rollout.
    pub fn deployments(&self) -> DeploymentPolicy {
        self.deployments
    }

    /// The engine that runs both arms' models.
    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// The rollout's clock: time during which a server ran, and the rollout with it.
    pub fn now(&self) -> Duration {
        let lived = self.origin.elapsed();
        self.clock + lived.saturating_sub(self.idle.get().copied().unwrap_or(lived))
    }

    /// Where a request goes. `draw` is uniform in [0, 1) and used when there is no key. Fails if the arm that is pinned
    /// is not loaded, or if none is.
    pub fn route(
        &self,
        key: Option<&str>,
        pin: Option<Arm>,
        draw: f64,
    ) -> Result<Assignment, NoRoute> {
        let cluster = key.map(session_hash);
        let mut recent = self.recent.lock();
        let alone = cluster.is_some_and(|cluster| recent.dominates(cluster));
        let assignment = self.routes.read().assign(key.filter(|_| !alone), pin, draw)?;
        if assignment.judged {
            let w = assignment.origin.routed.map_or(0.0, Weight::fraction);
            recent.note(cluster, assignment.arm, w, alone);
        }
        Ok(assignment)
    }

    /// Stable, for a request that another model failed to serve. Never judged. Fails if stable is not loaded.
    pub fn fallback(&self) -> Result<Assignment, NoRoute> {
        self.routes.read().to(Arm::Stable, false)
    }

    /// The share of the replies that both models read.
    pub fn read_share(&self) -> f64 {
        if self.policy.reads() { self.policy.cross_read.share } else { 0.0 }
    }

    /// Records what both models have read.
    pub fn read(&self, reading: Reading) {
        self.feed(Event::Reading(reading));
    }

    /// The version that left service last of those that took longer sequences than stable.
    pub fn withdrawn(&self) -> Option<Withdrawn> {
        self.routes.read().withdrawn.clone()
    }

    /// Records one request's outcome and acts on what follows from it before returning.
    pub fn record(&self, outcome: Outcome) {
        self.feed(Event::Outcome(outcome));
    }

    /// Everything after note `seen`, as far as it is kept, and all that follows.
    pub fn listen(&self, seen: u64) -> Listener {
        self.notes.listen(seen)
    }

    /// Remembers who wrote a reply, for votes on it and for its conversation (the hash) being regenerated.
    pub fn remember_author(&self, id: String, conversation: u64, assignment: &Assignment) {
        let Assignment { arm, stage, judged, origin, .. } = *assignment;
        let author = Author { arm, stage, judged, origin };
        self.authors.lock().remember(id, author);
        self.retries.lock().answered(conversation, author, self.now());
    }

    /// Charges the answer to a conversation (its hash) that is regenerated so soon.
    pub fn regenerated(&self, conversation: u64) {
        let now = self.now();
        let again =
            self.retries.lock().regenerated(conversation, self.deployments.retry_window, now);
        if let Some(Author { arm, stage, judged, origin }) = again {
            metrics::retry(arm);
            if judged {
                self.feed(Event::Retry { arm, stage, origin });
            }
        }
    }

    /// Takes a vote on a reply. Fails if its value is not from -1 to 1, if its comment is too long, or if no reply with
    /// that id is remembered.
    pub fn feedback(&self, vote: &VoteGiven) -> Result<(), ControlError> {
        let value = vote.value;
        if !(-1.0..=1.0).contains(&value) {
            let text = format!("value is {value}; give true, false, or a number from -1 to 1");
            return Err(ControlError::BadFeedback(text));
        }
        let said = vote.comment.as_ref().map_or(0, String::len);
        if said + vote.tags.iter().map(String::len).sum::<usize>() > MAX_COMMENT {
            let text = format!("comment and tags are longer than {MAX_COMMENT} bytes together");
            return Err(ControlError::BadFeedback(text));
        }
        let mut authors = self.authors.lock();
        let counted = match value == 0.0 {
            true => authors.abstain(&vote.id),
            false => authors.vote(&vote.id),
        };
        drop(authors);
        let author = match counted {
            Vote::Unknown => return Err(ControlError::UnknownCompletion),
            Vote::Uncounted => return Ok(()),
            Vote::Counted(author) => author,
        };
        let Author { arm, stage, judged, origin } = author;
        metrics::feedback(arm, value > 0.0);
        if vote.comment.is_some() || !vote.tags.is_empty() {
            let VoteGiven { id, comment, tags, .. } = vote;
            let body = json!({"id": id, "arm": arm.as_str(), "value": value, "comment": comment, "tags": tags});
            self.notes.publish("feedback", false, body);
        }
        if judged {
            self.feed(Event::Feedback { arm, stage, positive: value > 0.0, origin });
        }
        Ok(())
    }

    /// Loads the stable model; the server is ready afterwards. Fails if the model cannot be opened or loaded.
    pub async fn load_stable(&self, path: &Path) -> Result<Arc<Deployment>, ControlError> {
        let recorded =
            self.ledger.stable().filter(|model| same_place(Path::new(&model.path), path));
        let inherit = recorded.and_then(|model| inherited(&model));
        let deployment = self.load(path, deploy::any_model(), inherit).await?;
        self.routes.write().stable = Some(deployment.clone());
        let model = ledger_handle::model(&deployment);
        self.ledger.note(self.now(), Entry::ModelLoaded { arm: Arm::Stable, model });
        self.publish_loaded(Arm::Stable, &deployment);
        Ok(deployment)
    }

    fn publish_loaded(&self, arm: Arm, deployment: &Deployment) {
        let Deployment { version, digest, path, .. } = deployment;
        let body =
            json!({"arm": arm.as_str(), "version": &**version, "digest": digest, "path": path});
        self.notes.publish("loaded", false, body);
    }

    /// Loads a model that `check` has nothing against, with other sampling defaults than its own if any are given. One
    /// at a time.
    async fn load(
        &self,
        path: &Path,
        check: LoadCheck,
        inherit: Option<GenerationDefaults>,
    ) -> Result<Arc<Deployment>, ControlError> {
        if let Some(fault) = self.device_fault() {
            return Err(ControlError::Load(fault.to_owned()));
        }
        {
            let mut state = self.state.lock();
            if state.loading.is_some() {
                return Err(ControlError::Loading);
            }
            state.loading = Some(path.display().to_string());
            state.candidate = None;
            if state.resuming.is_none() && self.routes.read().stable.is_some() {
                // Opening it may be what ends the process.
                let model = orders::unloaded(path, &ledger_handle::unread(path));
                self.life.on_trial(Some(Trial { model, loading: true }));
            }
        }
        let loaded = (self.loader)(path.to_owned(), check).await;
        {
            let mut state = self.state.lock();
            state.loading = None;
            if loaded.as_ref().is_err_and(|error| !error.is_device_lost()) {
                state.candidate = None;
            }
        }
        let loaded = loaded.map(|own| Arc::new(with_defaults(own, inherit)));
        loaded.map_err(|error| match error {
            DeployError::NotAllowed { why: Objection::Less(less), .. } => ControlError::Less(less),
            error => ControlError::Load(error.to_string()),
        })
    }

    /// Steps the machine. Nothing that an outcome or a tick leads to needs anybody to wait for it.
    fn feed(&self, event: Event) {
        let mut state = self.state.lock();
        if state.resuming.is_some() && !matches!(event, Event::Fault { .. }) {
            // Nothing is on trial yet, and time must not raise what is not there.
            return;
        }
        let now = self.now();
        match state.rollout.step(now, event.clone()) {
            Ok(actions) if actions.is_empty() => {
                // An idle tick changes nothing and would fill the journal.
                if event != Event::Tick {
                    self.ledger.record(now, &event);
                }
            }
            Ok(actions) => drop(self.act(&mut state, now, Some(&event), actions, Vec::new())),
            Err(error) => tracing::error!(%error, "the rollout refused an event"),
        }
    }

    /// Which arm a lane serves, if it is not on its way out.
    fn arm_of(&self, lane: LaneId) -> Option<Arm> {
        let routes = self.routes.read();
        let is = |d: &Option<Arc<Deployment>>| d.as_ref().is_some_and(|d| d.lane == lane);
        match (is(&routes.canary), is(&routes.stable)) {
            (true, _) => Some(Arm::Canary),
            (_, true) => Some(Arm::Stable),
            (false, false) => None,
        }
    }

    fn lane_failed(&self, lane: LaneId, what: String) {
        let Some(arm) = self.arm_of(lane) else { return };
        self.ledger.note(self.now(), Entry::Fault { arm, what: what.clone() });
        self.notes.publish("fault", true, json!({"arm": arm.as_str(), "what": what}));
        self.feed(Event::Fault { arm, what });
    }

    /// Whether requests can be served. Fails with the reason if not.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(fault) = self.device_fault() {
            return Err(fault.to_owned());
        }
        if !self.engine.is_alive() {
            return Err("the engine has stopped".to_owned());
        }
        match &self.routes.read().stable {
            Some(stable) if stable.stats.read().failed => {
                Err("stable has failed and was given up".to_owned())
            }
            Some(_) => Ok(()),
            None => Err("stable is still loading".to_owned()),
        }
    }

    /// Where decisions are kept; `None` if they are not.
    pub fn ledger_path(&self) -> Option<PathBuf> {
        self.ledger.health().map(|(path, _)| path.into())
    }

    /// Whether a rollout is under way.
    pub fn running(&self) -> bool {
        matches!(self.state.lock().rollout.phase(), Phase::Running { .. })
    }

    /// Lets alerts that are on their way arrive.
    pub async fn flush_alerts(&self, limit: Duration) {
        if let Some(alerts) = &self.alerts {
            alerts.flush(limit).await;
        }
    }
}

/// The version with other sampling defaults than its own, which makes it another one.
fn with_defaults(own: Deployment, inherit: Option<GenerationDefaults>) -> Deployment {
    let Some(defaults) = inherit else { return own };
    let digest = identity::inheriting(&own.digest, &defaults);
    let fingerprint = format!("{}-{}", own.version, identity::short(&digest)).into();
    Deployment { digest, fingerprint, defaults, inherited: true, ..own }
}

/// The sampling defaults that a recorded version was told to inherit.
fn inherited(model: &Model) -> Option<GenerationDefaults> {
    serde_json::from_str(model.inherited.as_ref()?).ok()
}

/// A status for tests, with changes to its JSON.
#[cfg(test)]
pub use status::testing::status as status_for_tests;

fn keep<T>(ring: &mut VecDeque<T>, item: T) {
    if ring.len() == KEPT {
        ring.pop_front();
    }
    ring.push_back(item);
}

async fn tick(control: Weak<Control>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut ticks = 0u64;
    loop {
        interval.tick().await;
        let Some(control) = control.upgrade() else { return };
        control.feed(Event::Tick);
        alerting::watch_share(&control);
        control.forget_previous();
        control.record_healthy();
        if ticks.is_multiple_of(REFRESH) {
            control.life.refresh();
        }
        ticks += 1;
    }
}

async fn listen_for_faults(control: Weak<Control>, mut faults: UnboundedReceiver<EngineFault>) {
    while let Some(fault) = faults.recv().await {
        let Some(control) = control.upgrade() else { return };
        match fault {
            EngineFault::Lane { lane, what } => control.lane_failed(lane, what),
            EngineFault::Device { lane, what } => control.lose_device(lane, &what).await,
        }
    }
}
