//! The one impure room around the rollout: clock in, outcomes in, actions out.
//!
//! [`Control`] owns the state machine and the routes. An outcome is stepped synchronously, and a change of
//! weight is in the routes before the call returns, so the very next request sees it. What takes time
//! (draining and unloading a model) goes to a task. Locks are taken in the order brain, routes; neither is
//! held across an await. The clock of the rollout is read here and nowhere else.

mod deploy;
mod feedback;
mod routes;
mod status;

pub use deploy::{DeployError, Deployment, Loader, folder_loader};
pub use routes::{Assignment, NoRoute};
pub use status::{ModelsView, Status, UnloadRecord};

use crate::engine::executor::LaneFault;
use crate::engine::{EngineHandle, UnloadReport};
use crate::metrics;
use crate::rollout::{
    Action, Arm, Class, Decision, Event, Operator, Outcome, Phase, Policy, Rollout, Weight,
};
use feedback::{Author, Authors, Vote};
use parking_lot::{Mutex, RwLock};
use routes::Routes;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// Decisions and unloads kept for display.
const KEPT: usize = 100;
/// How often time alone may move the rollout.
const TICK: Duration = Duration::from_millis(100);

/// Why an operator's wish was not granted. Texts are fit for operators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("no canary is loaded; load one first (serin canary load PATH)")]
    NoCanary,
    #[error(
        "canary {version} is already loaded; promote it or roll it back before loading another"
    )]
    CanaryPresent { version: String },
    #[error("a model is being loaded already; wait until it is ready")]
    Loading,
    #[error("stable is not loaded yet; wait until /readyz answers 200")]
    NoStable,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Load(String),
    #[error("no such completion, or it was too long ago; feedback takes the id of a recent reply")]
    UnknownCompletion,
    #[error("{0}")]
    BadFeedback(String),
    #[error("{0}")]
    Engine(String),
}

/// Settings that do not change while the server runs.
pub struct ControlConfig {
    /// Public model name.
    pub name: String,
    pub policy: Policy,
    pub drain: Duration,
}

/// The shared state of a server: who serves, and the rollout that decides it.
pub struct Control {
    name: Arc<str>,
    engine: EngineHandle,
    loader: Loader,
    drain: Duration,
    origin: Instant,
    brain: Mutex<Brain>,
    routes: RwLock<Routes>,
    authors: Mutex<Authors>,
    chores: UnboundedSender<Chore>,
    /// Counts finished unloads, so that waiting for one is possible.
    unloads: watch::Sender<u64>,
}

struct Brain {
    rollout: Rollout,
    decisions: VecDeque<Decision>,
    unloads: VecDeque<UnloadRecord>,
    loading: Option<String>,
}

/// A model to drain and unload.
struct Chore {
    deployment: Arc<Deployment>,
    reason: &'static str,
}

impl Control {
    /// Sets up the state and starts the tasks that tick, unload and listen for lane faults. Must be called
    /// within a tokio runtime.
    pub fn start(
        config: ControlConfig,
        engine: EngineHandle,
        loader: Loader,
        faults: UnboundedReceiver<LaneFault>,
    ) -> Arc<Control> {
        let (chores, inbox) = unbounded_channel();
        let control = Arc::new(Control {
            name: config.name.into(),
            engine,
            loader,
            drain: config.drain,
            origin: Instant::now(),
            brain: Mutex::new(Brain {
                rollout: Rollout::new(config.policy),
                decisions: VecDeque::new(),
                unloads: VecDeque::new(),
                loading: None,
            }),
            routes: RwLock::new(Routes::empty()),
            authors: Mutex::default(),
            chores,
            unloads: watch::channel(0).0,
        });
        tokio::spawn(tick(Arc::downgrade(&control)));
        tokio::spawn(unload_models(Arc::downgrade(&control), inbox));
        tokio::spawn(listen_for_faults(Arc::downgrade(&control), faults));
        control
    }

    /// The public model name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn engine(&self) -> &EngineHandle {
        &self.engine
    }

    /// Time since the server started, the rollout's clock.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Where a request goes. `draw` is uniform in [0, 1) and used when there is no key.
    pub fn route(
        &self,
        key: Option<&str>,
        pin: Option<Arm>,
        draw: f64,
    ) -> Result<Assignment, NoRoute> {
        self.routes.read().assign(key, pin, draw)
    }

    /// Stable, for a request that another model failed to serve. Never judged.
    pub fn fallback(&self) -> Result<Assignment, NoRoute> {
        self.routes.read().to(Arm::Stable, false)
    }

    /// Books one request's outcome and acts on what follows from it before returning.
    pub fn record(&self, outcome: Outcome) {
        self.feed(Event::Outcome(outcome));
    }

    /// Remembers who wrote a reply, for feedback.
    pub fn remember_author(&self, id: String, arm: Arm, stage: u64, judged: bool) {
        self.authors.lock().remember(id, Author { arm, stage, judged });
    }

    /// Takes a vote on a reply: -1 (bad) to 1 (good). Zero is no opinion and counts for neither.
    pub fn feedback(&self, id: &str, value: f64) -> Result<(), ControlError> {
        if !(-1.0..=1.0).contains(&value) {
            let text = format!("value is {value}; give true, false, or a number from -1 to 1");
            return Err(ControlError::BadFeedback(text));
        }
        let mut authors = self.authors.lock();
        let vote = if value == 0.0 { authors.abstain(id) } else { authors.vote(id) };
        drop(authors);
        match vote {
            Vote::Unknown => Err(ControlError::UnknownCompletion),
            Vote::Uncounted => Ok(()),
            Vote::Counted(author) => {
                metrics::feedback(author.arm, value > 0.0);
                if author.judged {
                    let (arm, stage) = (author.arm, author.stage);
                    self.feed(Event::Feedback { arm, stage, positive: value > 0.0 });
                }
                Ok(())
            }
        }
    }

    /// Loads the stable model; the server is ready afterwards.
    pub async fn load_stable(&self, path: &Path) -> Result<Arc<Deployment>, ControlError> {
        let deployment = self.load(path).await?;
        self.routes.write().stable = Some(deployment.clone());
        tracing::info!(version = %deployment.version, digest = %deployment.digest, "stable is ready");
        Ok(deployment)
    }

    /// Loads a canary and starts its rollout. Goes on to its end even if the caller stops waiting.
    pub async fn load_canary(
        self: &Arc<Self>,
        path: &Path,
    ) -> Result<Arc<Deployment>, ControlError> {
        let (control, path) = (self.clone(), path.to_owned());
        let task = tokio::spawn(async move { control.load_and_start(&path).await });
        task.await.map_err(|e| ControlError::Engine(e.to_string()))?
    }

    async fn load_and_start(&self, path: &Path) -> Result<Arc<Deployment>, ControlError> {
        {
            let routes = self.routes.read();
            if routes.stable.is_none() {
                return Err(ControlError::NoStable);
            }
            if let Some(canary) = &routes.canary {
                return Err(ControlError::CanaryPresent { version: canary.version.to_string() });
            }
        }
        let deployment = self.load(path).await?;
        let rollout = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
        let mut brain = self.brain.lock();
        let start = Event::Start { rollout: rollout.clone() };
        match brain.rollout.step(self.now(), start) {
            Ok(actions) => {
                {
                    let mut routes = self.routes.write();
                    routes.rollout = rollout.into();
                    routes.canary = Some(deployment.clone());
                }
                self.apply(&mut brain, actions);
                Ok(deployment)
            }
            Err(error) => {
                let _ = self.chores.send(Chore { deployment, reason: "refused" });
                Err(ControlError::Refused(error.to_string()))
            }
        }
    }

    async fn load(&self, path: &Path) -> Result<Arc<Deployment>, ControlError> {
        {
            let mut brain = self.brain.lock();
            if brain.loading.is_some() {
                return Err(ControlError::Loading);
            }
            brain.loading = Some(path.display().to_string());
        }
        let loaded = (self.loader)(path.to_owned()).await;
        self.brain.lock().loading = None;
        loaded.map(Arc::new).map_err(|e| ControlError::Load(e.to_string()))
    }

    pub fn pause(&self) -> Result<(), ControlError> {
        self.operate(Operator::Pause)
    }

    pub fn resume(&self) -> Result<(), ControlError> {
        self.operate(Operator::Resume)
    }

    pub fn set_weight(&self, weight: Weight) -> Result<(), ControlError> {
        self.operate(Operator::SetWeight(weight))
    }

    /// Promotes at once (`now`), or as soon as the gates of the present weight pass.
    pub fn promote(&self, now: bool) -> Result<(), ControlError> {
        self.operate(Operator::Promote { now })
    }

    /// Rolls back and waits until the canary's memory is back.
    pub async fn rollback(&self, reason: &str) -> Result<Option<UnloadReport>, ControlError> {
        let canary = self.routes.read().canary.clone().ok_or(ControlError::NoCanary)?;
        let mut unloads = self.unloads.subscribe();
        self.operate(Operator::Rollback { reason: reason.to_owned() })?;
        let wait = async {
            loop {
                let found = self.unload_of(&canary);
                if found.is_some() || unloads.changed().await.is_err() {
                    return found;
                }
            }
        };
        let limit = self.drain + Duration::from_secs(30);
        Ok(tokio::time::timeout(limit, wait).await.unwrap_or(None))
    }

    fn unload_of(&self, deployment: &Deployment) -> Option<UnloadReport> {
        let brain = self.brain.lock();
        brain.unloads.iter().map(|u| u.report).find(|report| report.lane == deployment.lane)
    }

    fn operate(&self, operator: Operator) -> Result<(), ControlError> {
        let mut brain = self.brain.lock();
        let actions = brain
            .rollout
            .step(self.now(), Event::Operator(operator))
            .map_err(|error| ControlError::Refused(error.to_string()))?;
        self.apply(&mut brain, actions);
        Ok(())
    }

    fn feed(&self, event: Event) {
        let mut brain = self.brain.lock();
        match brain.rollout.step(self.now(), event) {
            Ok(actions) => self.apply(&mut brain, actions),
            Err(error) => tracing::error!(%error, "the rollout refused an event"),
        }
    }

    fn apply(&self, brain: &mut Brain, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::SetWeight { weight, stage } => {
                    let mut routes = self.routes.write();
                    routes.weight = weight;
                    routes.stage = stage;
                }
                Action::Promote => self.swap(),
                Action::UnloadCanary => self.retire_canary("rolled back"),
                Action::Decision(decision) => {
                    announce(&decision);
                    keep(&mut brain.decisions, decision);
                }
            }
        }
    }

    /// The canary becomes stable: one pointer moves, no weights do. The former stable is unloaded.
    fn swap(&self) {
        let former = {
            let mut routes = self.routes.write();
            let Some(canary) = routes.canary.take() else { return };
            routes.stable.replace(canary)
        };
        if let Some(deployment) = former {
            let _ = self.chores.send(Chore { deployment, reason: "replaced" });
        }
    }

    fn retire_canary(&self, reason: &'static str) {
        let canary = self.routes.write().canary.take();
        if let Some(deployment) = canary {
            let _ = self.chores.send(Chore { deployment, reason });
        }
    }

    fn lane_failed(&self, fault: LaneFault) {
        let arm = {
            let routes = self.routes.read();
            let is = |d: &Option<Arc<Deployment>>| d.as_ref().is_some_and(|d| d.lane == fault.lane);
            match (is(&routes.canary), is(&routes.stable)) {
                (true, _) => Arm::Canary,
                (_, true) => Arm::Stable,
                // Already on its way out.
                (false, false) => return,
            }
        };
        self.feed(Event::Fault { arm, what: fault.what });
    }

    /// Whether requests can be served, or why not.
    pub fn ready(&self) -> Result<(), String> {
        match &self.routes.read().stable {
            Some(_) => Ok(()),
            None => Err("stable is still loading".to_owned()),
        }
    }

    /// Whether a rollout is under way.
    pub fn running(&self) -> bool {
        matches!(self.brain.lock().rollout.phase(), Phase::Running { .. })
    }
}

/// Whether a request of this class wrote something that a person could judge.
pub fn can_be_voted_on(class: Class) -> bool {
    class == Class::Ok
}

fn announce(decision: &Decision) {
    let kind = decision.kind.as_str();
    metrics::decision(kind);
    let (rollout, weight, text) = (&decision.rollout, decision.weight.percent(), &decision.text);
    if decision.kind.is_alert() {
        tracing::error!(alert = true, kind, %rollout, weight, "{text}");
    } else {
        tracing::info!(kind, %rollout, weight, "{text}");
    }
}

fn keep<T>(ring: &mut VecDeque<T>, item: T) {
    if ring.len() == KEPT {
        ring.pop_front();
    }
    ring.push_back(item);
}

async fn tick(control: std::sync::Weak<Control>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let Some(control) = control.upgrade() else { return };
        control.feed(Event::Tick);
    }
}

async fn listen_for_faults(
    control: std::sync::Weak<Control>,
    mut faults: UnboundedReceiver<LaneFault>,
) {
    while let Some(fault) = faults.recv().await {
        let Some(control) = control.upgrade() else { return };
        control.lane_failed(fault);
    }
}

async fn unload_models(control: std::sync::Weak<Control>, mut chores: UnboundedReceiver<Chore>) {
    while let Some(Chore { deployment, reason }) = chores.recv().await {
        let Some(control) = control.upgrade() else { return };
        let report = control.engine.unload(deployment.lane, control.drain).await;
        match report {
            Ok(report) => {
                let version = deployment.version.clone();
                log_unload(&version, reason, &report);
                let record = UnloadRecord { version, reason, report };
                keep(&mut control.brain.lock().unloads, record);
                control.unloads.send_modify(|n| *n += 1);
            }
            Err(error) => tracing::error!(version = %deployment.version, %error, "unload failed"),
        }
    }
}

fn log_unload(version: &str, reason: &str, report: &UnloadReport) {
    metrics::unloaded(report);
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let (used, reserved) = (report.after.used, report.after.reserved);
    let leaked = used > 0 || report.blocks_leaked > 0;
    let text = format!(
        "{version} unloaded ({reason}) in {:.0} ms: arena {:.1} MiB -> {used} B used, {reserved} B reserved; resident {:.1} MiB at load, {:.1} before, {:.1} after",
        report.took.as_secs_f64() * 1e3,
        mib(report.before.reserved as u64),
        mib(report.resident_at_load),
        mib(report.resident_before),
        mib(report.resident_after),
    );
    if leaked {
        tracing::error!(blocks_leaked = report.blocks_leaked, "MEMORY LEAKED: {text}");
    } else {
        tracing::info!("{text}");
    }
}
