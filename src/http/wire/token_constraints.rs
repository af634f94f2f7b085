//! The fields about single tokens: `logit_bias`, `allowed_token_ids`, `bad_words`, `min_tokens`.

use super::WireError;
use super::fields::{Fields, token_ids, wrong};
use crate::serving::{TokenConstraints, TokenName};
use serde_json::Value;

/// Most tokens of `logit_bias`.
const MAX_BIASES: usize = 1024;
/// The largest bias, up or down.
const MAX_BIAS: f64 = 100.0;
const MAX_BAD_WORDS: usize = 128;
/// Longest bad word in bytes.
const MAX_BAD_WORD: usize = 256;

/// Reads the fields; `max_tokens` is the longest reply that the request asks for. Fails if one of them is not valid.
pub fn token_constraints(
    fields: &mut Fields,
    max_tokens: Option<usize>,
) -> Result<TokenConstraints, WireError> {
    Ok(TokenConstraints {
        bias: bias(fields)?,
        allowed: allowed(fields)?,
        bad_words: bad_words(fields)?,
        min_tokens: min_tokens(fields, max_tokens)?,
    })
}

/// `{"id or text": bias}`, or, as llama-server also has it, `[[id or text, bias]]`. A bias of `false` is a ban.
fn bias(fields: &mut Fields) -> Result<Vec<(TokenName, f32)>, WireError> {
    const FORM: &str = "an object of biases by token id";
    let pairs: Vec<(Value, Value)> = match fields.take("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map.into_iter().map(|(k, v)| (Value::String(k), v)).collect(),
        Some(Value::Array(list)) => list.into_iter().map(pair).collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong("logit_bias", FORM, &other)),
    };
    if pairs.len() > MAX_BIASES {
        let what = format!("at most {MAX_BIASES} tokens are allowed, not {}", pairs.len());
        return Err(WireError::bad("logit_bias", what));
    }
    pairs.into_iter().map(|(name, bias)| one_bias(name, &bias)).collect()
}

fn pair(item: Value) -> Result<(Value, Value), WireError> {
    match item {
        Value::Array(mut two) if two.len() == 2 => {
            let bias = two.pop().unwrap_or_default();
            Ok((two.pop().unwrap_or_default(), bias))
        }
        other => Err(wrong("logit_bias", "pairs of a token and its bias", &other)),
    }
}

fn one_bias(name: Value, bias: &Value) -> Result<(TokenName, f32), WireError> {
    let id = |number: Option<u32>| number.map(TokenName::Id);
    let token = match name {
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            id(text.parse().ok())
                .ok_or_else(|| WireError::bad("logit_bias", format!("{text:?} is no token id")))
        }
        Value::String(text) => Ok(TokenName::Text(text)),
        Value::Number(number) => id(number.as_u64().and_then(|n| u32::try_from(n).ok()))
            .ok_or_else(|| WireError::bad("logit_bias", format!("{number} is no token id"))),
        other => Err(wrong("logit_bias", "a token id or a text", &other)),
    }?;
    match bias {
        Value::Bool(false) => Ok((token, f32::NEG_INFINITY)),
        Value::Number(number) => match number.as_f64() {
            Some(bias) if bias.abs() <= MAX_BIAS => Ok((token, bias as f32)),
            _ => {
                let what = format!("a bias must be -{MAX_BIAS} to {MAX_BIAS}, this is {number}");
                Err(WireError::bad("logit_bias", what))
            }
        },
        other => Err(wrong("logit_bias", "numbers as biases", other)),
    }
}

fn allowed(fields: &mut Fields) -> Result<Option<Vec<u32>>, WireError> {
    let Some(list) = fields.array("allowed_token_ids")? else { return Ok(None) };
    if list.is_empty() {
        return Err(WireError::bad("allowed_token_ids", "there must be at least one token id"));
    }
    token_ids(&list, "allowed_token_ids").map(Some)
}

fn bad_words(fields: &mut Fields) -> Result<Vec<String>, WireError> {
    let list = fields.array("bad_words")?.unwrap_or_default();
    if list.len() > MAX_BAD_WORDS {
        let what = format!("at most {MAX_BAD_WORDS} are allowed, not {}", list.len());
        return Err(WireError::bad("bad_words", what));
    }
    let one = |(index, word): (usize, Value)| match word {
        Value::String(word) if word.len() > MAX_BAD_WORD => {
            let what = format!("it is longer than {MAX_BAD_WORD} bytes");
            Some(Err(WireError::bad(format!("bad_words[{index}]"), what)))
        }
        // Empty fields of forms.
        Value::String(word) if word.trim().is_empty() => None,
        Value::String(word) => Some(Ok(word)),
        other => Some(Err(wrong(format!("bad_words[{index}]"), "a string", &other))),
    };
    list.into_iter().enumerate().filter_map(one).collect()
}

fn min_tokens(fields: &mut Fields, max_tokens: Option<usize>) -> Result<usize, WireError> {
    let least = fields.integer("min_tokens", 0, i64::MAX)?.unwrap_or(0);
    let least = usize::try_from(least).unwrap_or(usize::MAX);
    match max_tokens.filter(|most| least > *most) {
        None => Ok(least),
        Some(most) => Err(WireError::bad(
            "min_tokens",
            format!("it must be at most max_tokens, {most}, this is {least}"),
        )),
    }
}
