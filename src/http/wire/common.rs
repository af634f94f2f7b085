//! The fields that chat and plain completions share: model name, arm, session, sampling, stops.
//!
//! Ranges are those of the public API. If the sampler would divide by a number close to zero, a slightly larger number
//! with the same effect is used. Otherwise a client could make logits overflow, and the model would be blamed.

use super::constraint::{Constrained, constraint, one_of};
use super::fields::{Fields, Range, optional, token_ids, whole, wrong};
use super::token_constraints::token_constraints;
use super::tools::ToolChoice;
use super::{ParsedRequest, WireError};
use crate::rollout::Arm;
use crate::serving::{GenerateRequest, Limits, Prompt, SamplingPatch};
use crate::text::reply::Look;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Temperatures below this are greedy: no two logits are that close.
const COLDEST: f64 = 1e-3;
/// The smallest repetition penalty that is distinguished from none.
const LEAST_PENALTY: f64 = 1e-2;
/// Maximum length of a session key in bytes.
const MAX_KEY: usize = 512;

/// The parts of a request outside its body.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The completion's id.
    pub id: String,
    /// When the request arrived.
    pub arrived: Instant,
    /// The session key from the header.
    pub session: Option<String>,
    /// The arm from the header.
    pub variant: Option<Arm>,
    /// Whether stable answers it if it asks for no arm itself.
    pub marked: bool,
    /// Hash of the verified key's id; without one, of the address: an IPv4 address, or an IPv6 one's /64 network.
    pub party: Option<u64>,
    /// Hash of the verified key's id, or of what is shown as a key and the address: it distinguishes clients that
    /// send no session key.
    pub client: u64,
    /// The id of the verified key.
    pub key: Option<Arc<str>>,
}

/// The model that this server serves, and its limits.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The public name of the model.
    pub served: &'a str,
    /// Limits on one request.
    pub limits: Limits,
}

/// Whether and how a reply is streamed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streaming {
    /// As server-sent events.
    pub on: bool,
    /// With a usage chunk before the end.
    pub include_usage: bool,
    /// With the usage so far in every other chunk.
    pub continuous_usage: bool,
}

/// Everything in common, with one [`GenerateRequest`] per prompt. Fails if a field is not valid, or if the model is not
/// served.
pub fn parse_request(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    prompts: Vec<Prompt>,
    max_tokens: Option<usize>,
) -> Result<ParsedRequest, WireError> {
    let (model, by_name) = model(fields, rules.served)?;
    let n = replies(fields, rules.limits)?;
    let streaming = streaming(fields)?;
    let batch = prompts.len() > 1;
    let request = GenerateRequest {
        prompt: Prompt::Text(String::new()),
        sampling: sampling(fields)?,
        n,
        max_tokens,
        stop: stop(fields, "stop", rules.limits)?,
        stop_token_ids: stop_token_ids(fields)?,
        include_stop: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
        show_special: fields.boolean("skip_special_tokens")? == Some(false),
        add_special: fields.boolean("add_special_tokens")?,
        truncate_prompt: truncate(fields)?,
        token_constraints: token_constraints(fields, max_tokens)?,
        constraint: constraint(fields)?,
        echo: false,
        count: streaming.on && streaming.continuous_usage,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        key: key(fields, envelope.session, batch.then_some(&envelope.id))?,
        pin: pin(by_name, envelope.variant)?.or(envelope.marked.then_some(Arm::Stable)),
        party: envelope.party,
        client: client(fields, envelope.client)?,
        cache_salt: cache_salt(envelope.key.as_deref(), short(fields, "cache_salt")?.as_deref()),
        meter: None,
        arrived: envelope.arrived,
        id: envelope.id,
    };
    let requests = each(&request, prompts);
    let (look, one_call, logprobs) = (Look::default(), false, false);
    Ok(ParsedRequest {
        model,
        requests,
        n,
        kept: n,
        streaming,
        look,
        one_call,
        logprobs,
        store: false,
    })
}

impl ParsedRequest {
    /// With the format that each reply must have. Fails if a request has another constraint.
    pub fn formatted(mut self, format: Constrained) -> Result<ParsedRequest, WireError> {
        for request in &mut self.requests {
            request.constraint = one_of(format.clone(), request.constraint.take())?;
        }
        Ok(self)
    }

    /// With what the model is to do with the tools on offer; `one`: it may make only one call. Fails if the choice does
    /// not fit the tools, or if a request has another constraint.
    pub fn choosing(mut self, choice: &ToolChoice, one: bool) -> Result<ParsedRequest, WireError> {
        for request in &mut self.requests {
            let Prompt::Chat { tools, .. } = &request.prompt else { continue };
            request.constraint =
                choice.constraint(tools.as_ref(), one, request.constraint.take())?;
        }
        Ok(self)
    }
}

/// Copies of `request`, one for each prompt; the first keeps the id, and the others get a numbered one.
fn each(request: &GenerateRequest, prompts: Vec<Prompt>) -> Vec<GenerateRequest> {
    let copy = |(index, prompt): (usize, Prompt)| {
        let id = if index == 0 { request.id.clone() } else { format!("{}-{index}", request.id) };
        GenerateRequest { id, prompt, ..request.clone() }
    };
    prompts.into_iter().enumerate().map(copy).collect()
}

/// The model name as requested, and the arm that the name pins.
/// Without one, it is the one that is served. Fails if another one is asked for.
pub fn model(fields: &mut Fields, served: &str) -> Result<(String, Option<Arm>), WireError> {
    let asked = fields.string("model")?.filter(|asked| !asked.is_empty());
    let asked = asked.unwrap_or_else(|| served.to_owned());
    let pin = model_arm(&asked, served)?;
    Ok((asked, pin))
}

/// `NAME` for either arm, `NAME@stable` and `NAME@canary` for one. Fails for any other name.
pub fn model_arm(asked: &str, served: &str) -> Result<Option<Arm>, WireError> {
    if asked == served {
        return Ok(None);
    }
    let variant = asked.strip_prefix(served).and_then(|rest| rest.strip_prefix('@'));
    if let Some(arm) = variant.and_then(arm_named) {
        return Ok(Some(arm));
    }
    let variants = Arm::BOTH.map(|arm| format!("{served}@{arm}"));
    let served = std::iter::once(served.to_owned()).chain(variants).collect();
    Err(WireError::UnknownModel { asked: asked.to_owned(), served })
}

/// The arm of that name.
pub fn arm_named(name: &str) -> Option<Arm> {
    Arm::BOTH.into_iter().find(|arm| arm.as_str() == name)
}

fn pin(by_name: Option<Arm>, by_header: Option<Arm>) -> Result<Option<Arm>, WireError> {
    match (by_name, by_header) {
        (Some(name), Some(header)) if name != header => {
            let what = format!("it names the {name}, but the header x-serin-variant the {header}");
            Err(WireError::bad("model", what))
        }
        _ => Ok(by_name.or(by_header)),
    }
}

/// The session key: from the header, then from the body's fields, then the fallback for a batch, so that all
/// of its prompts go to the same model.
fn key(
    fields: &mut Fields,
    header: Option<String>,
    batch: Option<&String>,
) -> Result<Option<String>, WireError> {
    let mut key = header;
    key = key.or(short(fields, "prompt_cache_key")?);
    Ok(key.or_else(|| batch.cloned()))
}

/// The hash of a client, told apart by the user that it names. A user is no session: who counts once at each
/// weight says little, and some clients name the same user in every request.
fn client(fields: &mut Fields, client: u64) -> Result<u64, WireError> {
    let safety = short(fields, "safety_identifier")?;
    let user = short(fields, "user")?;
    Ok(safety.or(user).map_or(client, |user| client_of(&user, client)))
}

/// The hash of a client that names its user: of the name and the hash `client`.
pub fn client_of(user: &str, client: u64) -> u64 {
    xxh3_64_with_seed(user.as_bytes(), client)
}

/// Prefixes are shared only between requests of one key that name the same salt; 0 without both. Clients choose what
/// they name, so the hash must be one for which nobody can find another with the same value.
fn cache_salt(key: Option<&str>, named: Option<&str>) -> u64 {
    if key.is_none() && named.is_none() {
        return 0;
    }
    let mut hash = Sha256::new();
    for part in [key, named] {
        hash.update((part.map_or(u64::MAX, |part| part.len() as u64)).to_le_bytes());
        hash.update(part.unwrap_or_default());
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash.iter().take(8).fold(0, |salt, byte| salt << 8 | u64::from(*byte))
}

/// A text of limited length; an empty one counts as absent.
fn short(fields: &mut Fields, name: &'static str) -> Result<Option<String>, WireError> {
    let given = fields.string(name)?.filter(|given| !given.is_empty());
    if given.as_ref().is_some_and(|given| given.len() > MAX_KEY) {
        return Err(WireError::bad(name, format!("it is longer than {MAX_KEY} bytes")));
    }
    Ok(given)
}

fn replies(fields: &mut Fields, limits: Limits) -> Result<u32, WireError> {
    let n = fields.integer("n", 1, i64::from(limits.max_n))?;
    Ok(n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1))
}

fn sampling(fields: &mut Fields) -> Result<SamplingPatch, WireError> {
    let penalty = Range::closed(-2.0, 2.0);
    let temperature = fields.number("temperature", Range::closed(0.0, 2.0))?;
    let llama = fields.number("repeat_penalty", Range::above(0.0, 2.0))?;
    let repetition = fields.number("repetition_penalty", Range::above(0.0, 2.0))?.or(llama);
    let top_p = fields.number("top_p", Range::closed(0.0, 1.0))?;
    let narrow = |value: Option<f64>| value.map(|value| value as f32);
    Ok(SamplingPatch {
        temperature: narrow(temperature.map(|t| if t < COLDEST { 0.0 } else { t })),
        top_k: top_k(fields)?,
        top_p: narrow(top_p).map(|p| p.max(f32::MIN_POSITIVE)),
        min_p: narrow(fields.number("min_p", Range::closed(0.0, 1.0))?),
        repetition_penalty: narrow(repetition.map(|p| p.max(LEAST_PENALTY))),
        frequency_penalty: narrow(fields.number("frequency_penalty", penalty)?),
        presence_penalty: narrow(fields.number("presence_penalty", penalty)?),
        seed: seed(fields)?,
        logprobs: None,
    })
}

/// -1 and 0 switch it off, whatever the model's own default is.
fn top_k(fields: &mut Fields) -> Result<Option<u32>, WireError> {
    let top_k = fields.integer("top_k", -1, i64::from(u32::MAX))?;
    Ok(top_k.map(|k| u32::try_from(k).unwrap_or(0)))
}

/// -1 asks for a random one, as on other servers.
fn seed(fields: &mut Fields) -> Result<Option<u64>, WireError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    let seed = whole(&value).ok_or_else(|| wrong("seed", "a 64-bit integer", &value))?;
    if seed == -1 {
        return Ok(None);
    }
    let bits = i64::try_from(seed).map(|seed| seed as u64).or_else(|_| u64::try_from(seed));
    bits.map(Some).map_err(|_| wrong("seed", "a 64-bit integer", &value))
}

/// What a longest reply of 0 tokens is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// As -1: there is no limit.
    Unlimited,
    /// An error.
    Refused,
    /// A limit: nothing is generated.
    Nothing,
}

/// The longest reply in tokens, by the newest of its names. `Some(None)` is no limit, `None` not said. Fails if it is
/// no integer from -1 on, or 0 where `zero` refuses that.
pub fn max_tokens(fields: &mut Fields, zero: Zero) -> Result<Option<Option<usize>>, WireError> {
    let mut said = None;
    for name in ["n_predict", "max_tokens", "max_completion_tokens"] {
        let most = fields.integer(name, -1, i64::MAX)?;
        if most == Some(0) && zero == Zero::Refused {
            let what = "it must be at least 1, or -1 for no limit; 0 is for a prompt with echo";
            return Err(WireError::bad(name, what));
        }
        said = most.or(said);
    }
    let limit = |most: usize| most > 0 || zero == Zero::Nothing;
    Ok(said.map(|most| usize::try_from(most).ok().filter(|most| limit(*most))))
}

/// Tokens of the prompt to keep, from its end; -1: as many as the context holds.
fn truncate(fields: &mut Fields) -> Result<Option<usize>, WireError> {
    let name = "truncate_prompt_tokens";
    match fields.integer(name, -1, i64::MAX)? {
        Some(0) => Err(WireError::bad(name, "it must be at least 1, or -1 for as many as fit")),
        most => Ok(most.map(|most| usize::try_from(most).unwrap_or(usize::MAX))),
    }
}

/// The most stop ids of a request.
const MAX_STOP_IDS: usize = 256;

fn stop_token_ids(fields: &mut Fields) -> Result<Vec<u32>, WireError> {
    let list = fields.array("stop_token_ids")?.unwrap_or_default();
    if list.len() > MAX_STOP_IDS {
        let what = format!("at most {MAX_STOP_IDS} are allowed, not {}", list.len());
        return Err(WireError::bad("stop_token_ids", what));
    }
    token_ids(&list, "stop_token_ids")
}

/// Fails if `count` stop strings, in the field `name`, are more than the limits allow.
pub fn check_stops(name: &'static str, count: usize, limits: Limits) -> Result<(), WireError> {
    let most = limits.max_stop;
    match count > most {
        true => Err(WireError::bad(name, format!("at most {most} are allowed, not {count}"))),
        false => Ok(()),
    }
}

/// The stop strings in the field `name`. Fails if one is no string, or if there are too many.
pub fn stop(
    fields: &mut Fields,
    name: &'static str,
    limits: Limits,
) -> Result<Vec<String>, WireError> {
    let stops = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(stops)) => stops,
        Some(text @ Value::String(_)) => vec![text],
        Some(other) => return Err(wrong(name, "a string or an array of strings", &other)),
    };
    check_stops(name, stops.len(), limits)?;
    let one = |(index, stop): (usize, Value)| match stop {
        // Empty fields of forms.
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(Ok(text)),
        other => Some(Err(wrong(format!("{name}[{index}]"), "a string", &other))),
    };
    stops.into_iter().enumerate().filter_map(one).collect()
}

fn streaming(fields: &mut Fields) -> Result<Streaming, WireError> {
    let on = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(Streaming { on, ..Streaming::default() });
    };
    if !on {
        return Err(WireError::bad("stream_options", "it is only allowed when stream is true"));
    }
    let mut flag = |name: &str| {
        optional(&mut options, name, "stream_options").map(|flag| flag.unwrap_or(false))
    };
    let include_usage = flag("include_usage")?;
    let continuous_usage = flag("continuous_usage_stats")? && include_usage;
    Ok(Streaming { on, include_usage, continuous_usage })
}
