//! Telling people what the rollout did: a log line, and webhooks that are tried until they take it.
//!
//! What it is: [`Alerts::send`] takes an [`Alert`] - what happened, why with figures, what was done about
//! it - writes it to the log and hands it to a queue for each webhook. It never waits and never fails; the
//! rollout must not depend on somebody's chat server. What it does not know: rollouts, engines, config
//! files, metrics. The caller builds the alert, and reads [`Alerts::counts`] for its gauges.
//!
//! Why a queue and a task for each webhook and not one list with a pool: an endpoint that is slow or gone
//! then delays nobody but itself, and its bound, its back-off and its end are its own.
//!
//! Reading order: [`Alert`] (what is said), `config` (to whom), `payload` and `signature` (in which
//! words), `dedup` (what is not said twice), `queue` and `backoff` (what is tried when) - all of these are
//! pure, time and chance are arguments - then `wire` (one POST), `deliver` (the task of one webhook) and
//! `send` (all of them together).

mod backoff;
mod config;
mod dedup;
mod deliver;
mod payload;
mod queue;
mod send;
mod signature;
mod wire;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;

pub use backoff::Schedule;
pub use config::{AlertsConfig, Format, RawWebhook, WebhookConfig};
pub use deliver::WebhookCounts;
pub use send::{Alerts, Counts};

/// Why alerts cannot be set up. Texts are fit for operators and never show a secret or a whole URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertsError {
    /// A value in a webhook's table is not usable.
    #[error("alerts.webhooks[{index}].{key}: {what}")]
    Webhook {
        /// The webhook's place in the list, from 0.
        index: usize,
        /// The key within its table.
        key: &'static str,
        /// What is wrong and what to give instead.
        what: String,
    },
    /// More webhooks than are served.
    #[error("alerts.webhooks: {given} webhooks are given, at most {most} are served")]
    TooMany {
        /// How many were given.
        given: usize,
        /// How many may be.
        most: usize,
    },
    /// An https webhook is given and no certificate authority is trusted here.
    #[error(
        "alerts.webhooks: https needs trusted certificates and none were found ({what}); install the \
         package ca-certificates, or let SSL_CERT_FILE name a PEM bundle"
    )]
    NoRoots {
        /// What the search for certificates met.
        what: String,
    },
    /// The TLS library refused its settings.
    #[error("alerts: TLS cannot be set up: {0}")]
    Tls(String),
}

/// An alert's name, `msg_` and 32 hexadecimal digits: the same on every try and at every webhook, so that
/// a receiver can tell a repeated delivery from a new alert.
///
/// Why a type: the Standard Webhooks specification wants ids without a full stop ("Signature scheme"), and
/// they travel in a header; from bits there is no other kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AlertId(String);

impl AlertId {
    /// The id of these bits: random ones, or a digest of the event if a later run must say the same id.
    pub fn from_bits(bits: u128) -> AlertId {
        AlertId(format!("msg_{bits:032x}"))
    }

    /// The id as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The canary was taken out.
    RolledBack,
    /// The canary became stable.
    Promoted,
    /// The rollout is held for longer than it should be.
    Stalled,
    /// The canary's engine or device failed.
    Fault,
    /// Stable's engine or device failed.
    StableFault,
    /// The process came back after a crash and took up what it had committed.
    ResumedAfterCrash,
    /// A decision could not be written down.
    LedgerFailed,
    /// The rollout waits for a person's word.
    AwaitingConfirmation,
    /// An earlier step was taken back.
    Undone,
}

impl Kind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Kind; 9] = [
        Kind::RolledBack,
        Kind::Promoted,
        Kind::Stalled,
        Kind::Fault,
        Kind::StableFault,
        Kind::ResumedAfterCrash,
        Kind::LedgerFailed,
        Kind::AwaitingConfirmation,
        Kind::Undone,
    ];

    /// The name in config files, payloads and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::RolledBack => "rolled_back",
            Kind::Promoted => "promoted",
            Kind::Stalled => "stalled",
            Kind::Fault => "fault",
            Kind::StableFault => "stable_fault",
            Kind::ResumedAfterCrash => "resumed_after_crash",
            Kind::LedgerFailed => "ledger_failed",
            Kind::AwaitingConfirmation => "awaiting_confirmation",
            Kind::Undone => "undone",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// How much it matters, unless the caller knows better.
    pub const fn severity(self) -> Severity {
        match self {
            Kind::Promoted | Kind::Undone => Severity::Info,
            Kind::Stalled | Kind::ResumedAfterCrash | Kind::AwaitingConfirmation => {
                Severity::Warning
            }
            Kind::RolledBack | Kind::Fault | Kind::StableFault | Kind::LedgerFailed => {
                Severity::Critical
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much an alert matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look today.
    Warning,
    /// Somebody should look now.
    Critical,
}

impl Severity {
    /// The name in payloads and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// One version of a model, as people tell versions apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelVersion {
    /// Its name.
    pub version: String,
    /// The first digits of its weights' digest.
    pub digest: String,
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.version, self.digest)
    }
}

/// The canary's share of the traffic in percent, before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightChange {
    /// Before what the alert tells of.
    pub before: u8,
    /// After it.
    pub after: u8,
}

/// Something that people should be told. A plain value, built by whoever saw it happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Its name, for good.
    pub id: AlertId,
    /// When it happened, in seconds since 1970 UTC.
    pub at_unix: u64,
    /// What it is about.
    pub kind: Kind,
    /// How much it matters; see [`Kind::severity`].
    pub severity: Severity,
    /// The public model name.
    pub model: String,
    /// The rollout's id, if there is one.
    pub rollout: Option<String>,
    /// The stage epoch: kind, rollout and stage together tell a repetition from something new.
    pub stage: u64,
    /// The version in service.
    pub stable: Option<ModelVersion>,
    /// The version on trial.
    pub canary: Option<ModelVersion>,
    /// What became of the canary's share.
    pub weight: Option<WeightChange>,
    /// What happened, in one line.
    pub what: String,
    /// Why, with the figures it rests on.
    pub why: String,
    /// What was done about it, or what a person has to do.
    pub done: String,
}
