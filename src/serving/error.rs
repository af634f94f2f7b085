//! Why a request has no reply, as a message for the client: caused by the model, the server, or the client.
//!
//! It does not know HTTP: `http/status_codes.rs` maps each variant to a status.

use crate::routing::Withdrawn;
use crate::text::TextError;
use std::time::Duration;

/// Why there is no (further) reply. The front end maps these to statuses; texts are fit for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// The client's doing. `param` names the field.
    #[error("{message}")]
    Invalid {
        /// The request's field that is wrong, e.g. `n`.
        param: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The conversation has a shape that the model's chat template does not take; another's may.
    #[error("{0}")]
    Untaken(String),
    /// Prompt and reply do not fit into the model's context together. All counts are in tokens.
    #[error(
        "this model's maximum context length is {max} tokens, but {asked} were requested ({prompt} in the prompt, {reply} in the reply); shorten the prompt{}",
        longer(withdrawn.as_ref())
    )]
    ContextLength {
        /// Longest sequence that the model takes, prompt and reply together.
        max: usize,
        /// `prompt` and `reply` together.
        asked: usize,
        /// Length of the prompt, or a lower bound where it was refused by its bytes.
        prompt: usize,
        /// `max_tokens`, or 1 if there is none or the prompt was refused by its bytes.
        reply: usize,
        /// A version that took it, and is no longer in service.
        withdrawn: Option<Withdrawn>,
    },
    /// Asked for by name or header, but no canary is loaded.
    #[error("no canary is loaded; drop the variant from the request, or load one")]
    NoCanary,
    /// The queue is full, or the canary has its share of requests while stable's queue is long.
    #[error("the server is busy: {waiting} requests are waiting; retry shortly")]
    Busy {
        /// Requests in that queue.
        waiting: usize,
    },
    /// Loading, draining or failed.
    #[error("the model is not ready: {0}")]
    Unavailable(String),
    /// The model's doing: NaN, memory, panic.
    #[error("the model failed on this request ({0})")]
    Model(String),
    /// One of the server's own deadlines passed.
    #[error("the {what} took longer than {} s", limit.as_secs_f64())]
    Timeout {
        /// Which one: `first token`, `next token` or `whole reply`.
        what: &'static str,
        /// Its length.
        limit: Duration,
    },
}

impl GatewayError {
    /// The same refusal; if it is for a length that `version` took, it says so.
    pub(super) fn or_withdrawn(mut self, version: impl FnOnce() -> Option<Withdrawn>) -> Self {
        if let GatewayError::ContextLength { asked, withdrawn, .. } = &mut self {
            *withdrawn = version().filter(|version| *asked <= version.max);
        }
        self
    }
}

/// What a refusal for length adds if a version took longer sequences.
fn longer(withdrawn: Option<&Withdrawn>) -> String {
    withdrawn.map_or_else(String::new, |Withdrawn { version, max }| {
        format!("; {version}, which took up to {max} tokens, is no longer in service")
    })
}

/// What an error of the text layer means for a request whose field `param` led to it.
pub(super) fn text_error(param: &'static str, error: &TextError) -> GatewayError {
    match error {
        // A template that runs out of its budget took shorter conversations when it was loaded.
        TextError::Untaken { .. }
        | TextError::TemplateRefused(_)
        | TextError::TemplateExhausted { .. } => GatewayError::Untaken(error.to_string()),
        error if error.is_client_fault() => invalid(param, error.to_string()),
        TextError::NoRenderer { .. } => GatewayError::Unavailable(error.to_string()),
        error => GatewayError::Model(error.to_string()),
    }
}

pub(super) fn invalid(param: &'static str, message: impl Into<String>) -> GatewayError {
    GatewayError::Invalid { param, message: message.into() }
}

/// An error if one of the ids is beyond the model's vocabulary.
pub(super) fn check_ids(
    ids: &[u32],
    vocab: usize,
    field: &'static str,
) -> Result<(), GatewayError> {
    match ids.iter().find(|&&id| id as usize >= vocab) {
        None => Ok(()),
        Some(id) => {
            let text = format!("token id {id} is outside the model's vocabulary of {vocab}");
            Err(invalid(field, text))
        }
    }
}
