//! `serin.toml` as it is typed: every key optional, times as "15m", sizes as "512MiB".
//!
//! [`Raw::resolve`] turns it into a [`Config`], and contains all defaults and checks.

use super::rollout::RawRollout;
use super::values::{Bytes, Time, positive, time, value};
use super::{
    AccessConfig, Config, ConfigError, LedgerConfig, OperatorListen, SocketConfig, StableForConfig,
    demo_models,
};
use crate::alerts::{AlertsConfig, RawWebhook, WebhookConfig};
use crate::compat;
use crate::control::{DeploymentPolicy, EngineConfig};
use crate::device::DeviceChoice;
use crate::engine::{LEAST_SHARE, SchedulerConfig};
use crate::hub::{self, Reference};
use crate::ledger::Retention;
use crate::model::{KvChoice, LoadFormat};

use crate::serving::{Limits, Timeouts};
use crate::text::{ContentTokens, TextOptions};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    server: RawServer,
    model: RawModel,
    engine: RawEngine,
    rollout: RawRollout,
    ledger: RawLedger,
    alerts: RawAlerts,
    operator: RawOperator,
    access: AccessConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawOperator {
    listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawServer {
    listen: Option<String>,
    max_body: Option<Bytes>,
    max_connections: Option<usize>,
    max_n: Option<u32>,
    max_stop: Option<usize>,
    first_token_timeout: Option<Time>,
    next_token_timeout: Option<Time>,
    request_timeout: Option<Time>,
    drain: Option<Time>,
    cors_origins: Vec<String>,
    keep_alive: Option<Time>,
    lame_duck: Option<Time>,
    max_pending_per_client: Option<usize>,
    trusted_proxies: Vec<String>,
    log: Option<String>,
    log_requests: bool,
    record_prompts: Option<PathBuf>,
    record_prompts_max: Option<Bytes>,
    stable_for: StableForConfig,
}

impl StableForConfig {
    fn checked(self) -> Result<StableForConfig, ConfigError> {
        let sound = |name: &&String| !name.is_empty() && name.bytes().all(is_of_header_name);
        if let Some(bad) = self.headers.iter().find(|name| !sound(name)) {
            return Err(value(
                "server.stable_for.headers",
                format!("\"{bad}\" is not a valid header name"),
            ));
        }
        if self.metadata.iter().any(String::is_empty) {
            return Err(value("server.stable_for.metadata", "a key must not be empty"));
        }
        Ok(self)
    }
}

/// RFC 9110, section 5.6.2.
fn is_of_header_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawModel {
    name: Option<String>,
    stable: Option<PathBuf>,
    canary: Option<PathBuf>,
    load_format: Option<String>,
    content_tokens: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawEngine {
    max_running: Option<usize>,
    max_batch_tokens: Option<usize>,
    max_waiting: Option<usize>,
    block_size: Option<usize>,
    device: Option<String>,
    kv_memory: Option<Bytes>,
    kv_cache: Option<String>,
    prefix_cache: Option<bool>,
    canary_priority: Option<f64>,
    compat_slots: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLedger {
    enabled: Option<bool>,
    path: Option<PathBuf>,
    max_bytes: Option<Bytes>,
    keep_rollouts: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAlerts {
    webhooks: Vec<RawWebhook>,
    repeat_window: Option<Time>,
}

/// Webhooks hold secrets; none of it is shown.
impl std::fmt::Debug for RawAlerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} webhooks", self.webhooks.len())
    }
}

pub(super) fn parse(text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map(|before| before.matches('\n').count() + 1);
        let at = line.map(|n| format!("line {n}: ")).unwrap_or_default();
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        ConfigError::Syntax { path: PathBuf::from("config"), what: format!("{at}{message}") }
    })
}

/// Longest prompt and reply that both models read, in tokens.
const READ_TOKENS: usize = 4096;
const MAX_BODY: u64 = 1 << 30;

impl Raw {
    /// Fills in defaults and checks every value.
    pub(super) fn resolve(self, base: &Path) -> Result<Config, ConfigError> {
        let server = self.server;
        let (listen, timeouts) = (server.listen()?, server.timeouts()?);
        let stable = match self.model.stable {
            Some(path) => place("model.stable", base, path)?,
            None => demo_models()?.join("tiny-v1"),
        };
        let canary = self.model.canary.map(|path| place("model.canary", base, path));
        let load_format = LoadFormat::parse(self.model.load_format.as_deref().unwrap_or("auto"));
        let load_format = load_format.map_err(|e| value("model.load_format", e))?;
        let tokens = self.model.content_tokens.as_deref().unwrap_or("text");
        let tokens = ContentTokens::parse(tokens).map_err(|e| value("model.content_tokens", e))?;
        let text = TextOptions { content_tokens: tokens, ..TextOptions::default() };
        let secs = Duration::from_secs;
        let deployments = DeploymentPolicy {
            finish: timeouts.request,
            drain: server.drain.map_or(secs(30), |t| t.0),
            keep_previous: self.rollout.keep_previous.map_or(secs(600), |t| t.0),
            retry_window: self.rollout.retry_window.map_or(secs(120), |t| t.0),
            well_after: self.rollout.well_after.map_or(secs(600), |t| t.0),
            shadow: shadow(self.rollout.shadow)?,
            canary_priority: canary_priority(self.engine.canary_priority)?,
        };
        let allow_less = self.rollout.allow_less.unwrap_or(false);
        let (policy, device) = (self.rollout.resolve()?, self.engine.device()?);
        let mut engine = self.engine.resolve(load_format, text)?;
        engine.scheduler.reserved_tokens = if policy.reads() { READ_TOKENS } else { 0 };
        Ok(Config {
            listen,
            max_body: match server.max_body.map_or(4 << 20, |b| b.0) {
                bytes @ 1024..=MAX_BODY => bytes as usize,
                _ => return Err(value("server.max_body", "must be from 1 KiB to 1 GiB")),
            },
            max_connections: positive("server.max_connections", server.max_connections, 1024)?,
            operator: self.operator.resolve(self.access.keys.is_some())?,
            access: AccessConfig {
                keys: self.access.keys.map(|path| base.join(path)),
                ..self.access
            },
            sockets: server.sockets()?,
            record_prompts: server.record_prompts(base)?,
            log: server.log,
            log_requests: server.log_requests,
            stable_for: server.stable_for.checked()?,
            cors_origins: server.cors_origins.into_iter().map(origin).collect::<Result<_, _>>()?,
            limits: Limits {
                max_n: positive("server.max_n", server.max_n.map(|n| n as usize), 8)? as u32,
                max_stop: server.max_stop.unwrap_or(16),
            },
            timeouts,
            model: model_name(self.model.name, &stable)?,
            stable,
            canary: canary.transpose()?,
            allow_less,
            device,
            engine,
            deployments,
            policy,
            ledger: self.ledger.resolve(base)?,
            alerts: self.alerts.resolve()?,
        })
    }
}

impl RawServer {
    fn listen(&self) -> Result<SocketAddr, ConfigError> {
        let text = self.listen.as_deref().unwrap_or("127.0.0.1:8080");
        let what = || format!("\"{text}\" is not ADDRESS:PORT, such as 127.0.0.1:8080");
        text.parse().map_err(|_| value("server.listen", what()))
    }

    fn record_prompts(&self, base: &Path) -> Result<Option<(PathBuf, u64)>, ConfigError> {
        let key = "server.record_prompts_max";
        match (&self.record_prompts, self.record_prompts_max.map(|bytes| bytes.0)) {
            (None, Some(_)) => Err(value(key, "there is no server.record_prompts")),
            (_, Some(0)) => Err(value(key, "must be at least 1 byte")),
            (path, most) => {
                Ok(path.as_ref().map(|path| (base.join(path), most.unwrap_or(64 << 20))))
            }
        }
    }

    fn timeouts(&self) -> Result<Timeouts, ConfigError> {
        let secs = Duration::from_secs;
        let (first, next) = (self.first_token_timeout, self.next_token_timeout);
        Ok(Timeouts {
            first_token: time("server.first_token_timeout", first, secs(120))?,
            next_token: time("server.next_token_timeout", next, secs(30))?,
            request: time("server.request_timeout", self.request_timeout, secs(1800))?,
        })
    }

    fn sockets(&self) -> Result<SocketConfig, ConfigError> {
        let pending = ("server.max_pending_per_client", self.max_pending_per_client);
        let trusted_proxies = self.trusted_proxies.iter().map(|text| network(text));
        Ok(SocketConfig {
            keep_alive: time("server.keep_alive", self.keep_alive, Duration::from_secs(75))?,
            lame_duck: self.lame_duck.map_or(Duration::from_secs(2), |t| t.0),
            max_pending_per_client: positive(pending.0, pending.1, 256)?,
            trusted_proxies: trusted_proxies.collect::<Result<_, _>>()?,
        })
    }
}

/// An address, or a network such as `10.0.0.0/8`.
fn network(text: &str) -> Result<IpNet, ConfigError> {
    let address = |text: &str| text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(|| address(text).ok()).ok_or_else(|| {
        let what = format!("\"{text}\" is neither an address nor a network such as 10.0.0.0/8");
        value("server.trusted_proxies", what)
    })
}

impl RawOperator {
    /// Without keys, the address of the sender decides, so the listener must be on loopback.
    fn resolve(self, keys: bool) -> Result<OperatorListen, ConfigError> {
        let Some(text) = self.listen else { return Ok(OperatorListen::Default) };
        if text == "off" {
            return Ok(OperatorListen::Off);
        }
        match text.parse::<SocketAddr>() {
            Ok(at) if at.ip().is_loopback() || keys => Ok(OperatorListen::At(at)),
            Ok(_) => {
                let what =
                    format!("\"{text}\" is not on loopback; that needs keys ([access] keys)");
                Err(value("operator.listen", what))
            }
            Err(_) => {
                let what =
                    format!("\"{text}\" is no ADDRESS:PORT such as 127.0.0.1:8081, nor \"off\"");
                Err(value("operator.listen", what))
            }
        }
    }
}

/// An origin as browsers send it: a scheme and a host, maybe a port, and nothing behind; or `*`.
fn origin(text: String) -> Result<String, ConfigError> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '@' | '*' | '"');
    if text == "*" || host.is_some_and(|host| !host.is_empty() && host.chars().all(plain)) {
        return Ok(text);
    }
    let what = format!("\"{text}\" is no origin, such as \"https://chat.example.com\", nor \"*\"");
    Err(value("server.cors_origins", what))
}

/// A path relative to `base`; a reference stays what it is.
fn place(key: &'static str, base: &Path, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if !hub::is_reference(&path) {
        return Ok(base.join(path));
    }
    Reference::parse(&path.to_string_lossy()).map_err(|e| value(key, e.to_string()))?;
    Ok(path)
}

/// The public name: as given, else "tiny" for the demo models, else the stable folder's name.
fn model_name(given: Option<String>, stable: &Path) -> Result<String, ConfigError> {
    let folder = match Reference::parse(&stable.to_string_lossy()) {
        Ok(reference) => reference.repo.rsplit('/').next().map(str::to_owned),
        Err(_) => stable.file_name().map(|n| n.to_string_lossy().into_owned()),
    };
    let folder = folder.map(|name| name.trim_end_matches(".gguf").to_owned());
    let name = given.or_else(|| match folder.as_deref() {
        Some("tiny-v1") => Some("tiny".to_owned()),
        _ => folder.clone(),
    });
    match name {
        Some(name) if !name.is_empty() && !name.contains('@') => Ok(name),
        _ => Err(value("model.name", "give a name without `@` (which separates the variant)")),
    }
}

impl RawEngine {
    fn device(&self) -> Result<DeviceChoice, ConfigError> {
        let text = self.device.as_deref().unwrap_or("auto");
        DeviceChoice::parse(text).map_err(|what| value("engine.device", what))
    }

    fn resolve(
        self,
        load_format: LoadFormat,
        text: TextOptions,
    ) -> Result<EngineConfig, ConfigError> {
        let default = SchedulerConfig::default();
        let scheduler = SchedulerConfig {
            max_running: positive("engine.max_running", self.max_running, default.max_running)?,
            max_batch_tokens: positive(
                "engine.max_batch_tokens",
                self.max_batch_tokens,
                default.max_batch_tokens,
            )?,
            max_waiting: positive("engine.max_waiting", self.max_waiting, default.max_waiting)?,
            prefix_cache: self.prefix_cache.unwrap_or(default.prefix_cache),
            reserved_tokens: default.reserved_tokens,
        };
        let SchedulerConfig { max_running, max_batch_tokens, .. } = scheduler;
        if max_batch_tokens < max_running {
            let what = format!(
                "{max_batch_tokens} is less than engine.max_running ({max_running}): every running sequence needs a token in each step"
            );
            return Err(value("engine.max_batch_tokens", what));
        }
        let kv_memory = self.kv_memory.map_or(1 << 30, |b| b.0);
        if kv_memory == 0 {
            return Err(value("engine.kv_memory", "must be at least one sequence's worth"));
        }
        let block_size = positive("engine.block_size", self.block_size, 16)?;
        let kv_cache = self.kv_cache.as_deref().unwrap_or("auto");
        let kv_cache = KvChoice::parse(kv_cache).map_err(|what| value("engine.kv_cache", what))?;
        let (compat_slots, most) = (self.compat_slots.unwrap_or(compat::SLOTS), compat::SLOTS_MOST);
        if !(1..=most).contains(&compat_slots) {
            let what = format!("must be from 1 to {most}, not {compat_slots}");
            return Err(value("engine.compat_slots", what));
        }
        Ok(EngineConfig {
            scheduler,
            block_size,
            kv_memory,
            kv_cache,
            compat_slots,
            load_format,
            text,
        })
    }
}

/// Turns of the canary for each one of stable's.
fn canary_priority(given: Option<f64>) -> Result<f64, ConfigError> {
    let priority = given.unwrap_or(1.0);
    match (LEAST_SHARE..=1.0).contains(&priority) {
        true => Ok(priority),
        false => Err(value(
            "engine.canary_priority",
            format!("must be from {LEAST_SHARE} to 1 (turns for each of stable's), not {priority}"),
        )),
    }
}

/// The share of stable's requests that are copied to the canary.
fn shadow(given: Option<f64>) -> Result<f64, ConfigError> {
    let share = given.unwrap_or(0.0);
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(value("rollout.shadow", format!("{share} is not a share from 0 to 1"))),
    }
}

impl RawLedger {
    fn resolve(self, base: &Path) -> Result<Option<LedgerConfig>, ConfigError> {
        if self.enabled == Some(false) {
            return Ok(None);
        }
        let default = Retention::default();
        let retention = Retention {
            max_bytes: self.max_bytes.map_or(default.max_bytes, |b| b.0),
            keep_rollouts: positive(
                "ledger.keep_rollouts",
                self.keep_rollouts,
                default.keep_rollouts,
            )?,
        };
        let path = base.join(self.path.unwrap_or_else(|| PathBuf::from("serin.ledger")));
        Ok(Some(LedgerConfig { path, retention }))
    }
}

impl RawAlerts {
    fn resolve(self) -> Result<AlertsConfig, ConfigError> {
        let default = AlertsConfig::default();
        let webhooks = WebhookConfig::parse_all(self.webhooks);
        Ok(AlertsConfig {
            webhooks: webhooks.map_err(|error| ConfigError::Alerts(error.to_string()))?,
            repeat_window: self.repeat_window.map_or(default.repeat_window, |t| t.0),
            ..default
        })
    }
}
