//! What a key is for. It does not know which route needs what.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One thing that a key may be for. None includes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The routes for clients: replies, models, tokens, feedback.
    Inference,
    /// The metrics of the server.
    Metrics,
    /// The operators' routes.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Scope; 3] = [Scope::Inference, Scope::Metrics, Scope::Admin];

    /// As it is written in the keys file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Inference => "inference",
            Scope::Metrics => "metrics",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        let found = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| format!("\"{text}\" is not a scope: inference, metrics or admin"))
    }
}
