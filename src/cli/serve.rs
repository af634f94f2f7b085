//! `serin serve`: puts engine, control, gateway and HTTP together and runs them until told to stop.
//!
//! The port is bound first, so that a wrong address is known before minutes of loading, and served while
//! models load. The demo starts the same server on a port of the system's choice.

use super::CliError;
use crate::config::Config;
use crate::control::{Control, ControlConfig, folder_loader};
use crate::engine::EngineHandle;
use crate::gateway::Gateway;
use crate::http::{AdminPolicy, AppState, Bounds, app};
use crate::metrics;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
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

/// A server whose port is open; models may still be loading.
pub struct Running {
    pub addr: SocketAddr,
    pub control: Arc<Control>,
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
        let loader = folder_loader(engine.clone(), config.engine);
        let settings = ControlConfig {
            name: config.model.clone(),
            policy: config.policy.clone(),
            drain: config.drain,
        };
        let control = Control::start(settings, engine, loader, faults);
        let state = AppState {
            gateway: Gateway::new(control.clone(), config.limits, config.timeouts),
            metrics: Some(recorder),
            body_limit: config.max_body,
            admin: AdminPolicy::Loopback,
        };
        let bounds = Bounds {
            connections: config.max_connections,
            grace: config.drain,
            ..Bounds::default()
        };
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            crate::http::serve(listener, app(state), bounds, stopped).await;
        });
        Ok(Running { addr, control, stop, server })
    }

    /// Loads stable, then the canary if there is one.
    pub async fn load(&self, config: &Config) -> Result<(), CliError> {
        self.control.load_stable(&config.stable).await.map_err(CliError::from_text)?;
        if let Some(canary) = &config.canary {
            self.control.load_canary(canary).await.map_err(CliError::from_text)?;
        }
        Ok(())
    }

    /// Accepts nothing more and waits for running requests, up to the drain time.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.server.await;
    }
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
    let running = Running::start(&config).await?;
    tokio::select! {
        loaded = running.load(&config) => loaded?,
        () = signal() => return Ok(()),
    }
    println!("serin serves {} on http://{}", config.model, running.addr);
    println!(
        "try: curl http://{}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\":\"{}\",\"messages\":[{{\"role\":\"user\",\"content\":\"What is 7 plus 5?\"}}]}}'",
        running.addr, config.model
    );
    signal().await;
    tracing::info!("stopping; running requests may finish");
    running.stop().await;
    Ok(())
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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if done.is_err() {
        eprintln!("serin: logging was already set up");
    }
}
