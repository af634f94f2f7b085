//! Notifies people of what the rollout did: a log line, and webhooks that are retried until they succeed.
//!
//! [`Alerts::send`] takes an [`Alert`] (what happened, why with figures, what was done about it), writes it
//! to the log and adds it to a queue for each webhook. It never blocks and never fails, because the rollout
//! must not depend on a chat server. It does not know about rollouts, engines, config files or metrics. The
//! caller builds the alert, and reads [`Alerts::counts`] for its gauges.
//!
//! There is one queue and one task per webhook: a slow or dead endpoint delays only itself.
//!
//! Reading order: [`Alert`] (the content), `config` (the receivers), `payload` and `signature` (the format),
//! `dedup` (suppressing repeats), `queue` and `backoff` (the schedule). All of these are pure; time and
//! randomness are arguments. Then `wire` (one POST), `deliver` (the task of one webhook) and `send` (all of
//! them together).

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

/// Why alerts cannot be set up. The texts are meant for operators and never show a secret or a whole URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertsError {
    /// An unusable value in a webhook's table.
    #[error("alerts.webhooks[{index}].{key}: {what}")]
    Webhook {
        /// The webhook's index in the list, from 0.
        index: usize,
        /// The key within its table.
        key: &'static str,
        /// What is wrong and what to write instead.
        what: String,
    },
    /// Too many webhooks.
    #[error("alerts.webhooks: {given} webhooks are given, at most {most} are served")]
    TooMany {
        /// How many were given.
        given: usize,
        /// The maximum.
        most: usize,
    },
    /// There is an https webhook, but this system trusts no certificate authority.
    #[error(
        "alerts.webhooks: https needs trusted certificates and none were found ({what}); install the \
         package ca-certificates, or let SSL_CERT_FILE name a PEM bundle"
    )]
    NoRoots {
        /// The error when loading certificates.
        what: String,
    },
    /// The TLS library rejected its settings.
    #[error("alerts: TLS cannot be set up: {0}")]
    Tls(String),
}

/// An alert's id, `msg_` and 32 hexadecimal digits. It is the same on every attempt and at every webhook, so
/// that a receiver can tell a repeated delivery from a new alert.
///
/// An id made from bits is always valid: the Standard Webhooks specification forbids a full stop in ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AlertId(String);

impl AlertId {
    /// The id of these bits: random ones, or a digest of the event if a later run must use the same id.
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

named! {
    /// What an alert is about.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Kind {
        /// The canary was rolled back.
        RolledBack = "rolled_back",
        /// The canary became stable.
        Promoted = "promoted",
        /// The rollout has been held for too long.
        Stalled = "stalled",
        /// The canary's engine or device failed.
        Fault = "fault",
        /// Stable's engine or device failed.
        StableFault = "stable_fault",
        /// The process was restarted after a crash and resumed what it had committed.
        ResumedAfterCrash = "resumed_after_crash",
        /// A decision could not be written to the ledger.
        LedgerFailed = "ledger_failed",
        /// The rollout waits for a person's confirmation.
        AwaitingConfirmation = "awaiting_confirmation",
        /// A promotion was undone.
        Undone = "undone",
        /// Something that the policy only wants reported is more frequent on the canary.
        Noticed = "noticed",
        /// The canary's real share of the traffic is far from what was set.
        TrafficSkew = "traffic_skew",
    }
}

impl Kind {
    /// The severity, unless the caller sets another.
    pub const fn severity(self) -> Severity {
        match self {
            Kind::Promoted | Kind::Undone => Severity::Info,
            Kind::Stalled
            | Kind::ResumedAfterCrash
            | Kind::AwaitingConfirmation
            | Kind::Noticed
            | Kind::TrafficSkew => Severity::Warning,
            Kind::RolledBack | Kind::Fault | Kind::StableFault | Kind::LedgerFailed => {
                Severity::Critical
            }
        }
    }
}

named! {
    /// How serious an alert is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Severity {
        /// Good to know.
        Info = "info",
        /// Someone should look today.
        Warning = "warning",
        /// Someone should look now.
        Critical = "critical",
    }
}

/// One version of a model, as shown to people.
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
    /// Before the event.
    pub before: u8,
    /// After the event.
    pub after: u8,
}

/// A notification for people. A plain value, built by the code that detected the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Its permanent id.
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
    /// The stage epoch: kind, rollout and stage together distinguish a repetition from something new.
    pub stage: u64,
    /// The version in service.
    pub stable: Option<ModelVersion>,
    /// The version on trial.
    pub canary: Option<ModelVersion>,
    /// The change of the canary's share.
    pub weight: Option<WeightChange>,
    /// What happened, in one line.
    pub what: String,
    /// Why, with the figures.
    pub why: String,
    /// What was done about it, or what a person has to do.
    pub done: String,
}
