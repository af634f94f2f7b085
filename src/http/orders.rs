//! The JSON of operators' orders, and of responses other than the status: for the server and the command line.
//!
//! Both ends use these types, so they derive both `Serialize` and `Deserialize`.

use crate::control::Unload;
use crate::rollout::Expect;
use crate::routing::Deployment;
use serde::{Deserialize, Serialize};

/// `POST /admin/canary/load`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// Folder of the model, as the server sees it.
    pub path: String,
    /// Also if this content was rejected before.
    #[serde(default)]
    pub retry: bool,
    /// Also if it can do less than stable.
    #[serde(default)]
    pub allow: bool,
    /// What kind of change it is: `same`, `similar` or `different`; as configured if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// It takes stable's sampling defaults instead of its own.
    #[serde(default)]
    pub inherit_defaults: bool,
    /// Who gives the order, kept in the ledger; `operator` if absent.
    pub by: Option<String>,
    /// Why, kept in the ledger.
    pub reason: Option<String>,
}

/// Answer to [`LoadRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Version name of the canary: the name of its folder or file.
    pub version: String,
    /// What identifies its content: a digest of every file that it was read from.
    pub digest: String,
    /// Folder or file it was loaded from, as the server sees it.
    pub path: String,
    /// Longest sequence, prompt and reply together, in tokens.
    pub max_model_len: usize,
}

/// Answer to `POST /admin/rollback`, unless it is a dry run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The canary that was rolled back; `null` if none was loaded yet.
    pub version: Option<String>,
    /// `null` when the memory was not back in time; see the status later.
    pub unload: Option<Unload>,
}

/// `POST /admin/promote`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteRequest {
    /// At once, whatever the gates say; otherwise as soon as they pass.
    #[serde(default)]
    pub now: bool,
    /// Answer with what would happen, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Who gives the order, kept in the ledger; `operator` if absent.
    pub by: Option<String>,
    /// Why, kept in the ledger.
    pub reason: Option<String>,
    /// The revision of the status that the order is based on; refused without it, or if it is outdated.
    pub expect: Option<u64>,
}

/// `POST /admin/weight`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// 0 to 100.
    pub percent: u8,
    /// Answer with what would happen, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Who gives the order, kept in the ledger; `operator` if absent.
    pub by: Option<String>,
    /// Why, kept in the ledger.
    pub reason: Option<String>,
    /// The revision of the status that the order is based on; refused without it, or if it is outdated.
    pub expect: Option<u64>,
}

/// `POST /admin/{pause,resume,confirm,undo,rollback,self-test}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    /// Answer with what would happen, and change nothing. A self-test cannot be previewed.
    #[serde(default)]
    pub dry_run: bool,
    /// Who gives the order; kept in the ledger.
    pub by: Option<String>,
    /// Why; kept in the ledger.
    pub reason: Option<String>,
    /// The revision of the status that the order is based on. Needed by every order that could raise
    /// something; the order is refused if things have changed since.
    pub expect: Option<u64>,
}

impl From<&Deployment> for Loaded {
    fn from(deployment: &Deployment) -> Loaded {
        Loaded {
            version: deployment.version.to_string(),
            digest: deployment.digest.clone(),
            path: deployment.path.display().to_string(),
            max_model_len: deployment.max_len(),
        }
    }
}
