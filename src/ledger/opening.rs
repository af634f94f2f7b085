//! What a rollout begins with: the two models, by content, and the policy.

use crate::rollout::Policy;
use serde::{Deserialize, Serialize};

/// A model as it is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Where it was loaded from.
    pub path: String,
    /// The name that it is served under.
    pub version: String,
    /// What identifies its content: a digest of every file that it was read from.
    pub digest: String,
    /// Sampling defaults that it was told to inherit, as JSON; they are part of the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited: Option<String>,
}

/// How a rollout began: everything that is needed to replay it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    /// Its id.
    pub rollout: String,
    /// The complete policy.
    pub policy: Policy,
    /// The machine's stage epoch before the start.
    pub epoch: u64,
    /// The model in service.
    pub stable: Model,
    /// The model on trial.
    pub canary: Model,
}
