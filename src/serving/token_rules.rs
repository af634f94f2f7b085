//! A request's constraints on single tokens, as token ids of the model that answers.

use super::error::{GatewayError, check_ids, invalid, text_error};
use super::types::{TokenConstraints, TokenName};
use crate::model::{TokenMask, TokenRules};
use crate::text::Codec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The rules for a model with this tokenizer and so many token ids; `stop_ids` end the reply. `None`: there are none.
pub(super) fn rules(
    constraints: &TokenConstraints,
    codec: &Codec,
    vocab: usize,
    stop_ids: &[u32],
) -> Result<Option<Arc<TokenRules>>, GatewayError> {
    let rules = TokenRules {
        bias: bias(&constraints.bias, codec, vocab)?,
        allowed: constraints.allowed.as_deref().map(|ids| allowed(ids, vocab)).transpose()?,
        bad_words: bad_words(&constraints.bad_words, codec)?,
        min_tokens: constraints.min_tokens,
        ends: stop_ids.to_vec(),
    };
    Ok((!rules.is_empty()).then(|| Arc::new(rules)))
}

/// Each token of a text gets the text's bias, as in llama-server. Of several biases of one token, the last counts.
fn bias(
    constraints: &[(TokenName, f32)],
    codec: &Codec,
    vocab: usize,
) -> Result<Vec<(u32, f32)>, GatewayError> {
    let mut all = BTreeMap::new();
    for (name, bias) in constraints {
        let ids = match name {
            TokenName::Id(id) => vec![*id],
            TokenName::Text(text) => encode(codec, text, "logit_bias")?,
        };
        check_ids(&ids, vocab, "logit_bias")?;
        all.extend(ids.into_iter().map(|id| (id, *bias)));
    }
    Ok(all.into_iter().collect())
}

fn allowed(ids: &[u32], vocab: usize) -> Result<Arc<TokenMask>, GatewayError> {
    check_ids(ids, vocab, "allowed_token_ids")?;
    Ok(Arc::new(TokenMask::of_ids(ids)))
}

/// The tokens of each word, at the beginning of a text and within it, where it follows a space.
fn bad_words(words: &[String], codec: &Codec) -> Result<Vec<Vec<u32>>, GatewayError> {
    let mut all = Vec::new();
    for word in words {
        for spelling in [word.clone(), format!(" {}", word.trim_start())] {
            let ids = encode(codec, &spelling, "bad_words")?;
            if ids.is_empty() {
                return Err(invalid(
                    "bad_words",
                    format!("{word:?} has no tokens in this model's vocabulary"),
                ));
            }
            if !all.contains(&ids) {
                all.push(ids);
            }
        }
    }
    Ok(all)
}

fn encode(codec: &Codec, text: &str, field: &'static str) -> Result<Vec<u32>, GatewayError> {
    codec.encode(text, false).map_err(|error| text_error(field, &error))
}
