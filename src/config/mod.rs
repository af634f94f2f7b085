//! Configuration in two stages: `raw` is the config as typed, [`Config`] is the resolved config.
//!
//! [`Config`] is validated once and never changes. Functions get only the fields that they need. An unknown key is an
//! error that names the key. This module reads files, but starts nothing.

mod raw;
mod rollout;
mod values;

use crate::alerts::AlertsConfig;
use crate::control::{DeploymentPolicy, EngineConfig};
use crate::device::DeviceChoice;
use crate::ledger::Retention;
use crate::rollout::Policy;
use crate::serving::{Limits, Timeouts};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that `serin serve` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address and port of the clients' listener; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where operators and probes have a listener of their own.
    pub operator: OperatorListen,
    /// Who may use the server.
    pub access: AccessConfig,
    /// Time limits and bounds of connections.
    pub sockets: SocketConfig,
    /// What is logged, in the form of `RUST_LOG`, which goes before it.
    pub log: Option<String>,
    /// Whether the log has a line for each request.
    pub log_requests: bool,
    /// Which requests stable answers because of how they are marked.
    pub stable_for: StableForConfig,
    /// Where prompts are recorded whose clients agree to it, and the largest size of that file in bytes.
    pub record_prompts: Option<(PathBuf, u64)>,
    /// Largest request body in bytes.
    pub max_body: usize,
    /// Maximum number of open client connections, at least 1; a low limit on file descriptors reduces it.
    pub max_connections: usize,
    /// Origins whose web pages may call the API; `*` means any.
    pub cors_origins: Vec<String>,
    /// Bounds on one request: replies and stop strings.
    pub limits: Limits,
    /// Deadlines for the first token, the next token and the whole reply.
    pub timeouts: Timeouts,
    /// The public model name; it stays when versions change.
    pub model: String,
    /// Path or hub reference of the model that starts as stable.
    pub stable: PathBuf,
    /// Loaded as canary right after stable, which starts a rollout.
    pub canary: Option<PathBuf>,
    /// Whether the configured canary is loaded even if it can do less than stable.
    pub allow_less: bool,
    /// How models are run: batch sizes, KV cache, format of weights.
    pub engine: EngineConfig,
    /// What models are loaded onto.
    pub device: DeviceChoice,
    /// How a canary is judged and when its weight is raised.
    pub policy: Policy,
    /// How long models stay loaded, drain and finish around a rollout.
    pub deployments: DeploymentPolicy,
    /// `None`: decisions are not kept.
    pub ledger: Option<LedgerConfig>,
    /// The webhooks that alerts go to.
    pub alerts: AlertsConfig,
}

/// The marks of requests that stable answers and that count in no verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StableForConfig {
    /// Keys of `metadata`.
    pub metadata: Vec<String>,
    /// Names of headers.
    pub headers: Vec<String>,
}

/// Where operators and probes have a listener of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorListen {
    /// On loopback, at the port after the clients' (8081), or at any other if that is taken.
    Default,
    /// At this address: on loopback, or anywhere if there are keys.
    At(SocketAddr),
    /// Nowhere: there is no such listener.
    Off,
}

/// Who may use the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// The keys file; `None`: nobody is asked for a key.
    pub keys: Option<PathBuf>,
    /// Whether the clients' listener may be open to other machines without keys.
    pub allow_open: bool,
}

/// What connections may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// How long new requests are still taken, with readiness already false, after SIGTERM.
    pub lame_duck: Duration,
    /// Connections without a complete request that one client may hold.
    pub max_pending_per_client: usize,
    /// Addresses that stand for many clients: the bound per client is not for them.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where decisions are kept, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// How many bytes and finished rollouts are kept.
    pub retention: Retention,
}

/// Why a configuration cannot be used. One line each.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The text is not TOML, or has an unknown key or a value of the wrong type.
    #[error("{}: {what}", path.display())]
    Syntax {
        /// The file; `config` if the text came from elsewhere.
        path: PathBuf,
        /// What is wrong, after the line number if it is known.
        what: String,
    },
    /// A value is out of range or does not fit the others.
    #[error("{key}: {what}")]
    Value {
        /// The key in full, e.g. `server.max_body`.
        key: &'static str,
        /// What is wrong, and what is allowed.
        what: String,
    },
    /// A webhook is invalid; contains the message.
    #[error("{0}")]
    Alerts(String),
    /// No stable model is named, and no folder contains the demo models.
    #[error(
        "the demo models were not found (looked in {looked}); name a model in a config file: `model.stable = \"PATH\"`"
    )]
    NoDemoModels {
        /// The folders that were tried, separated by commas.
        looked: String,
    },
}

impl Config {
    /// Reads a TOML file. Relative model paths are relative to the file's folder. Fails if the file cannot be read, is
    /// not TOML, or has a key or value that is not valid.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        // Whole paths, so that they mean the same to whoever reads them elsewhere.
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = whole.parent().unwrap_or(Path::new("."));
        Config::parse(&text, base).map_err(|error| match error {
            ConfigError::Syntax { what, .. } => ConfigError::Syntax { path: path.to_owned(), what },
            other => other,
        })
    }

    /// Parses TOML text; `base` is what relative model paths are relative to. Fails if it is not TOML, or has a key or
    /// value that is not valid.
    pub fn parse(text: &str, base: &Path) -> Result<Config, ConfigError> {
        raw::parse(text)?.resolve(base)
    }

    /// Refuses a listener that anybody could use: open to other machines, and no keys.
    pub fn check_exposure(&self) -> Result<(), ConfigError> {
        let AccessConfig { keys, allow_open } = &self.access;
        if self.listen.ip().is_loopback() || keys.is_some() || *allow_open {
            return Ok(());
        }
        let what = format!(
            "other machines can reach {}, and no keys are required; make keys (`serin key new --keys keys.toml \
             --name NAME --scope inference`, and [access] keys = \"keys.toml\"), or set [access] allow_open = true \
             if something in front of serin controls access",
            self.listen
        );
        Err(ConfigError::Value { key: "server.listen", what })
    }

    /// The demo: `tiny-v1` as stable, everything else at its default, and nothing kept on disk. Fails if no folder has
    /// the demo's models.
    pub fn demo() -> Result<Config, ConfigError> {
        let config = raw::Raw::default().resolve(Path::new("."))?;
        Ok(Config { ledger: None, ..config })
    }
}

/// The folder with the demo models: `models/` here, beside the program, or in the source tree it was built
/// from. Fails if none of them has the models.
pub fn demo_models() -> Result<PathBuf, ConfigError> {
    let exe = std::env::current_exe().ok();
    let folder = exe.as_deref().and_then(Path::parent);
    let beside = folder.map(|folder| folder.join("models"));
    let shared = folder.map(|folder| folder.join("../share/serin/models"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let places: Vec<PathBuf> = std::iter::once(PathBuf::from("models"))
        .chain(beside)
        .chain(shared)
        .chain([source])
        .collect();
    let found = places.iter().find(|place| place.join("tiny-v1/config.json").is_file());
    found.cloned().ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        ConfigError::NoDemoModels { looked: looked.join(", ") }
    })
}

#[cfg(test)]
mod tests;
