//! Why a request cannot be served, in the terms of the request. It does not know what the request asks for.

use super::error::GatewayError;
use crate::text::TextError;

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
