//! The scopes of a key. It does not know which route needs which scope.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

named! {
    /// One thing that a key may be for. None includes another.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Scope {
        /// The routes for clients: replies, models, tokens, feedback.
        Inference = "inference",
        /// The metrics of the server.
        Metrics = "metrics",
        /// The operators' routes.
        Admin = "admin",
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        Scope::from_name(text)
            .ok_or_else(|| format!("\"{text}\" is not a scope: inference, metrics or admin"))
    }
}
