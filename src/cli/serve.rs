//! `serin serve`: puts engine, control, gateway and HTTP together and runs them until told to stop.
//!
//! The port is bound first, so that a wrong address is known before minutes of loading, and served while
//! models load. The demo starts the same server on a port of the system's choice.

use super::CliError;
use crate::alerts::Alerts;
use crate::config::{Config, LedgerConfig};
use crate::control::{
    Control, ControlConfig, LoadAsked, Start, TakeUp, effective_stable, folder_loader, same_place,
};
use crate::device::{Device, DeviceChoice};
use crate::engine::EngineHandle;
use crate::gateway::Gateway;
use crate::http::{AdminPolicy, AppState, Bounds, app_for_pages};
use crate::ledger::{Ledger, Options, Stamp};
use crate::metrics;
use crate::model::LoadFormat;
use clap::Args;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Config file (TOML); without it, the demo models.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Overrides server.listen.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Overrides model.canary: load this folder as canary once stable is ready.
    #[arg(long)]
    canary: Option<PathBuf>,
    /// Overrides model.load_format: `auto`, or `dummy:FORM` for random weights at the real shape.
    #[arg(long, value_parser = LoadFormat::parse)]
    load_format: Option<LoadFormat>,
    /// Overrides engine.device: `auto`, `cpu`, `cuda`, `cuda:N`.
    #[arg(long, value_parser = DeviceChoice::parse)]
    device: Option<DeviceChoice>,
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// How often the recorder folds its samples.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long the end waits for alerts that are on their way.
const ALERTS_WITHIN: Duration = Duration::from_secs(5);

/// A server whose port is open; models may still be loading.
pub struct Running {
    pub addr: SocketAddr,
    pub control: Arc<Control>,
    stable: PathBuf,
    take_up: TakeUp,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Running {
    /// Binds and serves; loads nothing yet.
    pub async fn start(config: &Config) -> Result<Running, CliError> {
        let listener = bind(config.listen).await?;
        let addr = listener.local_addr().map_err(CliError::from_text)?;
        let recorder = metrics::install().map_err(CliError::from_text)?;
        let upkeep = recorder.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        });
        let (engine, faults) = EngineHandle::start().map_err(CliError::from_text)?;
        let device = open_device(&config.device).await?;
        let loader = folder_loader(engine.clone(), config.engine, device);
        let settings = ControlConfig {
            name: config.model.clone(),
            policy: config.policy.clone(),
            care: config.care,
        };
        let alerts = Alerts::start(config.alerts.clone()).map_err(CliError::from_text)?;
        let (start, take_up) = open_ledger(config, alerts)?;
        let stable = effective_stable(&start.state, &config.stable);
        let control = Control::start(settings, engine, loader, faults, start);
        let state = AppState {
            gateway: Gateway::new(control.clone(), config.limits, config.timeouts),
            metrics: Some(recorder),
            body_limit: config.max_body,
            admin: AdminPolicy::Loopback,
        };
        let bounds = Bounds {
            connections: config.max_connections,
            grace: config.care.drain,
            ..Bounds::default()
        };
        let app = app_for_pages(state, &config.cors_origins);
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            crate::http::serve(listener, app, bounds, stopped).await;
        });
        Ok(Running { addr, control, stable, take_up, stop, server })
    }

    /// Loads stable, goes on with the rollout that a restart interrupted, or else loads the canary if the
    /// configuration names one. Stable serves on if the canary cannot be loaded.
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
        let Some(path) = config.canary.clone().filter(|path| !same_place(path, &self.stable))
        else {
            return Ok(());
        };
        let by = "configuration".to_owned();
        let asked = LoadAsked { path, by, reason: None, retry: false };
        if let Err(error) = self.control.load_canary(asked).await {
            tracing::error!(alert = true, %error, "the canary is not loaded; stable serves alone");
        }
        Ok(())
    }

    /// Resolves when the server has ended by itself, which it should not.
    pub async fn ended(&mut self) -> CliError {
        let why = match (&mut self.server).await {
            Ok(()) => "it was told to".to_owned(),
            Err(error) => error.to_string(),
        };
        CliError(format!("the server has stopped: {why}"))
    }

    /// Accepts nothing more and waits for running requests, up to the drain time, and for alerts.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.server.await;
        self.control.flush_alerts(ALERTS_WITHIN).await;
    }
}

/// Opens the device that was asked for. It may take seconds to prove itself.
async fn open_device(choice: &DeviceChoice) -> Result<Device, CliError> {
    let choice = choice.clone();
    let opened = tokio::task::spawn_blocking(move || choice.open()).await;
    opened.map_err(CliError::from_text)?.map_err(CliError::from_text)
}

/// Opens the ledger, if decisions are to be kept.
fn open_ledger(config: &Config, alerts: Alerts) -> Result<(Start, TakeUp), CliError> {
    let Some(LedgerConfig { path, retention }) = &config.ledger else {
        let start = Start { alerts: Some(alerts), ..Start::default() };
        return Ok((start, TakeUp::default()));
    };
    let options = Options::keeping(*retention);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let at = Stamp { unix_ms: i64::try_from(at).unwrap_or(i64::MAX), rollout: Duration::ZERO };
    let configured = config.stable.display().to_string();
    let opened = Ledger::open(path, options, at, env!("CARGO_PKG_VERSION"), &configured);
    let (ledger, resume) = opened.map_err(CliError::from_text)?;
    Ok(Start::from_ledger(ledger, resume, Some(alerts)))
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, CliError> {
    TcpListener::bind(addr).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => CliError(format!(
            "port {} is in use on {}; stop the other program or choose another with --listen",
            addr.port(),
            addr.ip()
        )),
        _ => CliError(format!("cannot listen on {addr}: {error}; choose another with --listen")),
    })
}

pub(super) async fn run(args: ServeArgs) -> Result<(), CliError> {
    init_logging(args.log_format);
    let mut config = match &args.config {
        Some(path) => Config::read(path),
        None => Config::demo(),
    }
    .map_err(CliError::from_text)?;
    config.listen = args.listen.unwrap_or(config.listen);
    config.canary = args.canary.or(config.canary);
    config.device = args.device.unwrap_or(config.device);
    config.engine.load_format = args.load_format.unwrap_or(config.engine.load_format);
    let mut running = Running::start(&config).await?;
    let loaded = tokio::select! {
        loaded = running.load(&config) => Some(loaded),
        () = signal() => None,
    };
    let Some(loaded) = loaded else {
        running.stop().await;
        return Ok(());
    };
    loaded?;
    greet(&config.model, running.addr);
    tokio::select! {
        () = signal() => {}
        error = running.ended() => return Err(error),
    }
    tracing::info!("stopping; running requests may finish");
    running.stop().await;
    Ok(())
}

/// Says where the server is and how to try it. Nobody may be reading, which is no reason to stop.
fn greet(model: &str, addr: SocketAddr) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "serin serves {model} on http://{addr}");
    let _ = writeln!(
        out,
        "try: curl http://{addr}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is 7 plus 5?\"}}]}}'",
    );
}

/// Resolves on SIGINT or SIGTERM.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = interrupt.await;
        }
    }
}

fn init_logging(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let done = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if done.is_err() {
        eprintln!("serin: logging was already set up");
    }
}
