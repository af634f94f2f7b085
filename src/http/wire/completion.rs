//! The body of a plain completion: a prompt as text or token ids, or several prompts.

use super::common::{Envelope, Rules, Zero, max_tokens, parse_request};
use super::constraint::format;
use super::fields::{Fields, token_ids, wrong};
use super::table::refuse;
use super::{ParsedRequest, Shape, WireError};
use crate::serving::{MOST_TOP_LOGPROBS as MOST_TOP, Prompt};
use serde_json::Value;

/// Maximum number of prompts per request.
pub const MAX_PROMPTS: usize = 128;
/// The public API's default.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Parses a plain completion's body. Fails if a field is missing, not valid or not supported.
pub fn completion(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
) -> Result<ParsedRequest, WireError> {
    refuse(fields, Shape::Text)?;
    let format = format(fields.take("response_format"), "response_format")?;
    let prompts = prompts(fields.take("prompt"))?;
    let echo = fields.boolean("echo")?.unwrap_or(false);
    let zero = if echo { Zero::Nothing } else { Zero::Refused };
    let most = max_tokens(fields, zero)?.unwrap_or(Some(DEFAULT_MAX_TOKENS));
    let logprobs = logprobs(fields)?;
    let best_of = fields.integer("best_of", 1, rules.limits.max_n.into())?;
    let parsed = parse_request(fields, envelope, rules, prompts, most)?.reporting(logprobs);
    let mut parsed = parsed.formatted(format)?;
    parsed.requests.iter_mut().for_each(|request| request.echo = echo);
    match best_of.and_then(|best_of| u32::try_from(best_of).ok()) {
        Some(best_of) => parsed.best_of(best_of),
        None => Ok(parsed),
    }
}

impl ParsedRequest {
    /// Makes so many replies to each prompt, to return the best ones.
    fn best_of(mut self, best_of: u32) -> Result<ParsedRequest, WireError> {
        if best_of < self.n {
            let what = format!("it must be at least n, {}, this is {best_of}", self.n);
            return Err(WireError::bad("best_of", what));
        }
        if best_of > self.n && self.streaming.on {
            let what = "the best reply is known when all are complete; leave out stream or best_of";
            return Err(WireError::bad("best_of", what));
        }
        self.n = best_of;
        for request in &mut self.requests {
            request.n = best_of;
            // By them it is known which one is the best.
            request.sampling.logprobs = request.sampling.logprobs.or(Some(0));
        }
        Ok(self)
    }
}

/// How many most likely tokens to report log-probabilities for; `None`: report none.
fn logprobs(fields: &mut Fields) -> Result<Option<u8>, WireError> {
    if fields.peek("logprobs") == Some(&Value::Bool(false)) {
        return Ok(None);
    }
    let top = fields.integer("logprobs", 0, MOST_TOP as i64)?;
    Ok(top.and_then(|top| u8::try_from(top).ok()))
}

/// A string, an array of ids, or an array of both.
fn prompts(value: Option<Value>) -> Result<Vec<Prompt>, WireError> {
    let list = match value {
        None => return Err(WireError::Missing { param: "prompt".into() }),
        Some(Value::String(text)) => return Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("prompt", "a string or an array", &other)),
    };
    if list.first().is_some_and(Value::is_number) {
        return Ok(vec![Prompt::Tokens(ids(&list, "prompt")?)]);
    }
    if list.is_empty() || list.len() > MAX_PROMPTS {
        let what = format!("there must be 1 to {MAX_PROMPTS} prompts, these are {}", list.len());
        return Err(WireError::bad("prompt", what));
    }
    let one = |(index, item): (usize, Value)| match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(list) => Ok(Prompt::Tokens(ids(&list, &format!("prompt[{index}]"))?)),
        other => {
            Err(wrong(format!("prompt[{index}]"), "a string or an array of token ids", &other))
        }
    };
    list.into_iter().enumerate().map(one).collect()
}

/// Token ids; the arm checks whether its model has them. Fails if there is none, or if one is no token id.
pub fn ids(list: &[Value], param: &str) -> Result<Vec<u32>, WireError> {
    if list.is_empty() {
        return Err(WireError::bad(param, "there must be at least one token id"));
    }
    token_ids(list, param)
}
