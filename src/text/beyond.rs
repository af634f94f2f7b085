//! Added tokens without a row in the model's embedding. Some published model folders have them (Gemma 3's image token).
//!
//! Such a token can be neither input nor output, so it is left out, and its text is ordinary text. Only tokens that the
//! model itself needs must have a row: its special tokens, and those that its chat template writes. It does not know
//! where the tokenizer comes from.

use super::TextError;
use super::folder::Folder;
use serde_json::Value;
use std::path::Path;
use tokenizers::Tokenizer;

/// The tokenizer of a `tokenizer.json` without the added tokens from id `rows` on, or `tokenizer` as it is.
///
/// # Errors
/// If the model needs one of those tokens.
pub(super) fn without(
    tokenizer: Tokenizer,
    bytes: &[u8],
    rows: usize,
    folder: &Folder,
    path: &Path,
) -> Result<Tokenizer, TextError> {
    let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    let beyond: Vec<(u32, &str)> = added
        .iter()
        .filter(|(id, _)| **id as usize >= rows)
        .map(|(id, token)| (*id, token.content.as_str()))
        .collect();
    if beyond.is_empty() {
        return Ok(tokenizer);
    }
    needed(&beyond, rows, folder, path)?;
    let Some(kept) = kept(bytes, rows) else { return Ok(tokenizer) };
    let texts: Vec<&str> = beyond.iter().map(|(_, text)| *text).collect();
    tracing::info!(
        tokenizer = %path.display(), tokens = ?texts,
        "added tokens beyond the model's {rows} rows are left out; their texts are ordinary text"
    );
    Ok(kept)
}

/// More tokens beyond the rows are those of another model.
const MOST: usize = 1024;

/// Fails if the model needs one of these tokens, or if they are so many that they are another model's.
pub(super) fn needed(
    beyond: &[(u32, &str)],
    rows: usize,
    folder: &Folder,
    path: &Path,
) -> Result<(), TextError> {
    let named = |text: &str| folder.special.iter().any(|(_, special)| special == text);
    let written = |text: &str| {
        let templates = folder.template.iter();
        let mut sources = templates.flat_map(|t| [Some(&t.text), t.with_tools.as_ref()]).flatten();
        sources.any(|source| source.contains(text))
    };
    let many = beyond.len() > MOST.min(rows / 8);
    match beyond.iter().find(|(_, text)| many || named(text) || written(text)) {
        None => Ok(()),
        Some((id, text)) => Err(TextError::TokenizerMismatch {
            path: path.into(),
            max_id: *id,
            vocab_size: rows,
            token: (*text).to_owned(),
        }),
    }
}

fn kept(bytes: &[u8], rows: usize) -> Option<Tokenizer> {
    let mut file: Value = serde_json::from_slice(bytes).ok()?;
    let added = file.get_mut("added_tokens")?.as_array_mut()?;
    added.retain(|token| token["id"].as_u64().is_some_and(|id| id < rows as u64));
    Tokenizer::from_bytes(serde_json::to_vec(&file).ok()?).ok()
}
