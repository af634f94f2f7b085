//! `serin serve`: assembles engine, control, gateway and HTTP, and runs them until it is told to stop.
//!
//! The port is bound first, so that a wrong address is reported before the models load, which may take minutes.
//! Requests are accepted while models load. The demo starts the same server on a port chosen by the system.

use super::ended::Ended;
use super::listeners::{self, Listeners};
use super::logging::{self, LogFormat};
use super::signals::{self, Signals, StopSignal};
use super::{CliError, keys, notify, supervise};
use crate::alerts::Alerts;
use crate::config::{Config, LedgerConfig};
use crate::control::{
    Control, ControlConfig, Life, LoadOrder, PreviousExit, ResumePlan, Start, effective_stable,
    folder_loader, same_place,
};
use crate::device::{Device, DeviceChoice, arena, fatal_signals};
use crate::engine::EngineHandle;
use crate::http::{
    AppState, Intake, Lifecycle, Live, Operators, Phase, Recorder, StableFor, client_app,
    operator_app,
};
use crate::ledger::{Ledger, Options, Stamp};
use crate::metrics;
use crate::model::LoadFormat;
use crate::serving::Gateway;
use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// The arguments of `serin serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Config file (TOML); default: the demo models.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Overrides server.listen.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Overrides model.canary: load this model as canary once stable is ready.
    #[arg(long)]
    canary: Option<PathBuf>,
    /// Overrides model.load_format: `auto`, or `dummy:FORM` for random weights of the real shape.
    #[arg(long, value_parser = LoadFormat::parse)]
    load_format: Option<LoadFormat>,
    /// Overrides engine.device: `auto`, `cpu`, `cuda`, `cuda:N`.
    #[arg(long, value_parser = DeviceChoice::parse)]
    device: Option<DeviceChoice>,
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Serve stable alone: load no canary, even if one is configured, and abandon a rollout that the last
    /// process left unfinished. `serin canary load` still works.
    #[arg(long)]
    no_canary: bool,
    /// Run the server as a child process and restart it whenever it dies; after a device failure, with
    /// --no-canary.
    #[arg(long)]
    supervise: bool,
    /// Set by a supervisor for its child.
    #[arg(long, hide = true, conflicts_with = "supervise")]
    supervised: bool,
}

/// How often the heap is trimmed while large bodies arrive.
const TRIM: Duration = Duration::from_millis(250);
/// How often the metrics recorder aggregates its samples.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the shutdown waits for alerts that are being sent.
const ALERTS_WITHIN: Duration = Duration::from_secs(5);
/// How long replies that a device failure has ended may take to reach their clients.
const ENDINGS_WITHIN: Duration = Duration::from_secs(1);
/// Memory for request bodies while they arrive: the minimum, and as a number of maximum-size bodies.
const BODIES: usize = 16 << 20;
const LONGEST_BODIES: usize = 2;

/// Where prompts are recorded, if anywhere.
fn record_prompts(config: &Config) -> Result<Option<Recorder>, CliError> {
    let Some((path, most)) = &config.record_prompts else { return Ok(None) };
    let at = path.display();
    let opened = Recorder::open(path, *most);
    let opened = opened.map_err(|error| format!("server.record_prompts: {at}: {error}"));
    opened.map(Some).map_err(CliError::from_text)
}

/// A server whose port is open; models may still be loading.
pub struct Running {
    /// The clients' listener, with the port that the system chose if 0 was asked for.
    pub addr: SocketAddr,
    /// The operators' listener, if there is one.
    pub operators: Option<SocketAddr>,
    /// Who serves, and the rollout that decides it.
    pub control: Arc<Control>,
    stable: PathBuf,
    take_up: ResumePlan,
    /// The version that killed the previous process; it is not loaded automatically.
    refused: Option<PathBuf>,
    lifecycle: Lifecycle,
    server: JoinHandle<()>,
    operator: Option<JoinHandle<()>>,
    /// What a page has to send to the operators' listener; new at every start.
    token: String,
}

impl Running {
    /// Binds and serves; loads no model yet. Fails if the config would expose the operators' routes, an address cannot
    /// be bound, or the keys, the device or the ledger cannot be opened.
    pub async fn start(config: &Config) -> Result<Running, CliError> {
        config.check_exposure().map_err(CliError::from_text)?;
        let access = keys::open(&config.access)?;
        let listeners = Listeners::bind(config).await?;
        let (addr, operators) = (listeners.addr, listeners.operators);
        let recorder = record_prompts(config)?;
        let exporter = metrics::install().map_err(CliError::from_text)?;
        let intake = Intake::new(BODIES.max(LONGEST_BODIES * config.max_body));
        tokio::spawn(upkeep(exporter.clone()));
        tokio::spawn(trim_after_large(intake.clone()));
        let (engine, faults) = EngineHandle::start().map_err(CliError::from_text)?;
        let device = open_device(&config.device).await?;
        let loader = folder_loader(engine.clone(), config.engine, device.clone());
        let settings = ControlConfig {
            name: config.model.clone(),
            policy: config.policy.clone(),
            deployments: config.deployments,
        };
        let alerts = Alerts::start(config.alerts.clone()).map_err(CliError::from_text)?;
        let (start, take_up, last) = open_ledger(config, alerts)?;
        let stable = effective_stable(&start.state, &config.stable);
        let control = Control::start(settings, engine, loader, faults, start);
        let refused =
            control.settle_previous_exit(last).await.map(|canary| PathBuf::from(canary.path));
        if let Device::Card(card) = device {
            let watched = control.watch_device(Box::new(move || card.readings()));
            watched.map_err(CliError::from_text)?;
        }
        let gateway = Gateway::new(control.clone(), config.limits, config.timeouts);
        let (token, live) = (uuid::Uuid::new_v4().simple().to_string(), Live::default());
        live.watch(gateway.clone());
        let state = AppState {
            gateway,
            metrics: Some(exporter),
            body_limit: config.max_body,
            intake,
            operators: Operators::with_token(&token),
            live,
            access,
            log_requests: config.log_requests,
            stable_for: StableFor::new(&config.stable_for.metadata, &config.stable_for.headers),
            recorder,
        };
        let lifecycle = Lifecycle::new();
        let apps = (client_app(state.clone(), &config.cors_origins), operator_app(state));
        let (server, operator) = listeners.serve(config, apps, &lifecycle);
        let running = Running {
            addr,
            operators,
            control,
            stable,
            take_up,
            refused,
            lifecycle,
            server,
            operator,
            token,
        };
        Ok(running)
    }

    /// The address of the operators' page, with its token; `None` without an operators' listener.
    pub fn page(&self) -> Option<String> {
        self.operators.map(|at| page_address(&format!("http://{at}"), &self.token))
    }

    /// Loads stable. Then continues the rollout that a restart interrupted, or otherwise loads the configured
    /// canary, if any. If the canary cannot be loaded, stable still serves. Fails if stable cannot be loaded.
    pub async fn load(&mut self, config: &Config) -> Result<(), CliError> {
        if self.stable != config.stable {
            let (stable, configured) = (self.stable.display(), config.stable.display());
            tracing::warn!(%stable, %configured, "serving the version that was promoted");
        }
        self.control.load_stable(&self.stable).await.map_err(CliError::from_text)?;
        let take_up = std::mem::take(&mut self.take_up);
        if take_up.is_some() {
            self.control.take_up(take_up).await;
            return Ok(());
        }
        let taken = [Some(&self.stable), self.refused.as_ref()];
        let free = |path: &PathBuf| !taken.iter().flatten().any(|one| same_place(path, one));
        let Some(path) = config.canary.clone().filter(free) else { return Ok(()) };
        let by = "configuration".to_owned();
        let allow = config.allow_less;
        let order = LoadOrder { allow, ..LoadOrder::of(path, by) };
        if let Err(error) = self.control.load_canary(order).await {
            tracing::error!(alert = true, %error, "the canary is not loaded; stable serves alone");
        }
        Ok(())
    }

    /// Serves stable alone: abandons a rollout that the last process left unfinished.
    pub fn abandon_canary(&mut self) {
        self.take_up.abandon("the server was started without a canary (--no-canary)");
    }

    /// Loads the models, prints the addresses, and serves until told to stop or until that is no longer possible. Fails
    /// if the server cannot start.
    pub async fn run(self, config: &Config) -> Result<Ended, CliError> {
        let signals = Signals::listen().map_err(CliError::from_text)?;
        self.run_until(signals, config).await
    }

    async fn run_until(mut self, mut signals: Signals, config: &Config) -> Result<Ended, CliError> {
        let control = self.control.clone();
        let ended = tokio::select! {
            ended = self.serve(config) => ended,
            told = signals.next() => {
                notify::stopping();
                let ended = control.clone();
                signals.end_at_next(move || ended.end_in_order());
                // With SIGINT from a terminal, there is no load balancer to wait for.
                let lame_duck = if told == StopSignal::Terminate { config.sockets.lame_duck } else { Duration::ZERO };
                self.wind_down(lame_duck, config.deployments.drain).await;
                return Ok(Ended::BySignal);
            }
            fault = control.device_lost() => {
                tracing::error!("{fault}; the process ends");
                self.give_up().await;
                Ok(Ended::DeviceLost)
            }
        };
        control.end_in_order();
        ended
    }

    async fn serve(&mut self, config: &Config) -> Result<Ended, CliError> {
        self.load(config).await?;
        greet(&config.model, self.addr, self.operators, self.page().as_deref());
        notify::ready();
        let ended = (&mut self.server).await;
        tracing::error!(?ended, "the server has stopped");
        Ok(Ended::ByItself)
    }

    /// The shutdown in order. First readiness fails while requests are still accepted, so that load balancers
    /// choose other servers. Then no new requests are accepted and running ones may finish. Then the rest is
    /// cut off.
    async fn wind_down(self, lame_duck: Duration, drain: Duration) {
        // A server that was not ready gets no traffic from a load balancer.
        if !lame_duck.is_zero() && self.control.ready().is_ok() {
            tracing::info!(
                "stopping; no longer ready, requests are still accepted for {lame_duck:?}"
            );
            self.lifecycle.enter(Phase::Leaving);
            tokio::time::sleep(lame_duck).await;
        }
        tracing::info!("stopping; running requests may finish");
        self.stop(drain).await;
    }

    /// Accepts nothing more, waits for running requests and alerts within limits, and cuts off the rest.
    pub async fn stop(mut self, drain: Duration) {
        self.lifecycle.enter(Phase::Draining);
        if tokio::time::timeout(drain, &mut self.server).await.is_err() {
            tracing::warn!("running requests are cut off after {drain:?}");
            self.lifecycle.enter(Phase::CutOff);
            let _ = self.server.await;
        }
        self.control.flush_alerts(ALERTS_WITHIN).await;
        self.control.end_in_order();
        self.lifecycle.enter(Phase::CutOff);
        if let Some(operator) = self.operator {
            let _ = operator.await;
        }
    }

    /// The exit after a device failure: alerts are sent and replies end with an error, both within limits. It
    /// never waits for the device.
    async fn give_up(self) {
        self.control.flush_alerts(ALERTS_WITHIN).await;
        self.lifecycle.enter(Phase::Draining);
        let _ = tokio::time::timeout(ENDINGS_WITHIN, self.server).await;
    }
}

/// Periodic tasks.
async fn upkeep(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        recorder.run_upkeep();
        metrics::log_lines_dropped(logging::dropped());
    }
}

/// Returns the memory of large bodies to the system, which the allocator would keep.
async fn trim_after_large(intake: Intake) {
    loop {
        tokio::time::sleep(TRIM).await;
        if intake.had_large() {
            // It takes a while and blocks allocations on other threads.
            let _ = tokio::task::spawn_blocking(arena::trim_heap).await;
        }
    }
}

/// Opens the requested device. Its self-check may take seconds.
pub(super) async fn open_device(choice: &DeviceChoice) -> Result<Device, CliError> {
    let choice = choice.clone();
    let opened = tokio::task::spawn_blocking(move || choice.open()).await;
    opened.map_err(CliError::from_text)?.map_err(CliError::from_text)
}

/// Opens the ledger, if configured; also returns how the previous process ended, if it was not an orderly
/// shutdown.
fn open_ledger(
    config: &Config,
    alerts: Alerts,
) -> Result<(Start, ResumePlan, Option<PreviousExit>), CliError> {
    let Some(LedgerConfig { path, retention }) = &config.ledger else {
        let start = Start { alerts: Some(alerts), ..Start::default() };
        return Ok((start, ResumePlan::default(), None));
    };
    let options = Options::keeping(*retention);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let at = Stamp { unix_ms: i64::try_from(at).unwrap_or(i64::MAX), rollout: Duration::ZERO };
    let configured = config.stable.display().to_string();
    let opened = Ledger::open(path, options, at, env!("CARGO_PKG_VERSION"), &configured);
    let (ledger, resume) = opened.map_err(CliError::from_text)?;
    // If kills never count, a canary could kill one server after another; so the supervisor counts them as
    // the server's own failures.
    let watched = !config.deployments.well_after.is_zero();
    let supervisor = watched.then(supervise::supervisor).flatten();
    let (life, last) = Life::begin(path, supervisor);
    let (start, take_up) = Start::from_ledger(ledger, resume, Some(alerts));
    Ok((Start { life, ..start }, take_up, last))
}

pub(super) async fn run(args: ServeArgs) -> Result<ExitCode, CliError> {
    logging::init(args.log_format);
    if args.supervise {
        return supervise::run().await;
    }
    signals::reread_on_hangup(args.config.clone()).map_err(CliError::from_text)?;
    if args.supervised {
        supervise::end_with_parent();
        supervise::tell_parent();
    }
    let mut config = match &args.config {
        Some(path) => Config::read(path),
        None => Config::demo(),
    }
    .map_err(CliError::from_text)?;
    logging::apply(config.log.as_deref())
        .map_err(|error| CliError(format!("server.log: {error}")))?;
    config.listen = args.listen.unwrap_or(config.listen);
    config.canary = args.canary.or(config.canary).filter(|_| !args.no_canary);
    config.device = args.device.unwrap_or(config.device);
    config.engine.load_format = args.load_format.unwrap_or(config.engine.load_format);
    config.engine.text.templates = super::templates_apart();
    // From here on, a signal waits until the server can shut down in an orderly way.
    let signals = Signals::listen().map_err(CliError::from_text)?;
    let mut running = Running::start(&config).await?;
    if args.no_canary {
        running.abandon_canary();
    }
    let ended = running.run_until(signals, &config).await?;
    if ended == Ended::DeviceLost {
        logging::finish();
        fatal_signals::exit_now(ended.code());
    }
    Ok(ExitCode::from(ended.code()))
}

/// The page of the operators' listener at `base`. Browsers keep what follows `#` to themselves: it is in no request
/// and in no log.
pub(super) fn page_address(base: &str, token: &str) -> String {
    format!("{base}/#token={token}")
}

/// Prints the server's address and how to try it. If nobody reads the output, the server runs anyway.
fn greet(model: &str, addr: SocketAddr, operators: Option<SocketAddr>, page: Option<&str>) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "serin serves {model} on http://{addr}");
    let _ = match operators {
        Some(at) if at == listeners::USUAL => {
            writeln!(out, "operators: http://{at} (`serin status`)")
        }
        Some(at) => writeln!(out, "operators: http://{at} (`serin status --server {at}`)"),
        None => writeln!(out, "operators: none (operator.listen is \"off\")"),
    };
    if let Some(page) = page {
        let _ = writeln!(out, "page: {page}");
    }
    let _ = writeln!(
        out,
        "try: curl http://{addr}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is 7 plus 5?\"}}]}}'",
    );
}
