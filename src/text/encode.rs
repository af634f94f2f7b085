//! Encodes text to token ids with the tokenizer, and returns this crate's errors.

use super::TextError;
use tokenizers::Tokenizer;

pub(super) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    add_special_tokens: bool,
) -> Result<Vec<u32>, TextError> {
    let encoding = tokenizer.encode_fast(text, add_special_tokens);
    encoding.map(|e| e.get_ids().to_vec()).map_err(|e| failed("encode", &*e))
}

/// What the tokenizer says of a failure.
pub(super) fn failed(
    action: &'static str,
    error: &(dyn std::error::Error + Send + Sync),
) -> TextError {
    TextError::Tokenizer { action, what: error.to_string() }
}
