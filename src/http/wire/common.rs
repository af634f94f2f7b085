//! The fields that chat and plain completions share: model name, arm, session, sampling, stops.
//!
//! Ranges are those of the public API. Where the sampler would divide by a number close to zero, the number
//! is raised to one with the same effect. Otherwise a client could make logits overflow, and the model would
//! be blamed.

use super::fields::{Fields, Range, wrong};
use super::{Ask, WireError};
use crate::rollout::Arm;
use crate::serving::{GenerateRequest, Limits, Prompt, SamplingPatch};
use serde_json::Value;
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
    /// Hash of the address: an IPv4 address, or the /64 network of an IPv6 one.
    pub party: Option<u64>,
    /// Hash of the API key and address: it distinguishes clients that send no session key.
    pub client: u64,
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
}

/// Fields for which the request is refused unless they have their neutral value.
type Refused = (&'static str, fn(&Value) -> bool, &'static str);

const REFUSED: [Refused; 10] = [
    ("logit_bias", is_filled, "leave it out"),
    ("structured_outputs", |_| true, "constrained output is not available"),
    ("guided_json", |_| true, "constrained output is not available"),
    ("guided_regex", |_| true, "constrained output is not available"),
    ("guided_choice", |_| true, "constrained output is not available"),
    ("guided_grammar", |_| true, "constrained output is not available"),
    ("functions", is_filled, "use tools instead"),
    ("audio", |_| true, "this model writes text only"),
    ("use_beam_search", is_true, "leave it out"),
    ("prompt_logprobs", |value| *value != Value::Bool(false), "leave it out"),
];

/// Everything in common, with one [`GenerateRequest`] per prompt.
pub fn ask(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
    prompts: Vec<Prompt>,
    max_tokens: Option<usize>,
) -> Result<Ask, WireError> {
    refuse(fields, &REFUSED)?;
    let (model, by_name) = model(fields, rules.served)?;
    let n = replies(fields, rules.limits)?;
    let streaming = streaming(fields)?;
    let batch = prompts.len() > 1;
    let request = GenerateRequest {
        prompt: Prompt::Text(String::new()),
        sampling: sampling(fields)?,
        n,
        max_tokens,
        stop: stop(fields, rules.limits)?,
        ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
        key: key(fields, envelope.session, batch.then_some(&envelope.id))?,
        pin: pin(by_name, envelope.variant)?,
        party: envelope.party,
        client: client(fields, envelope.client)?,
        arrived: envelope.arrived,
        id: envelope.id,
    };
    let requests = each(&request, prompts);
    let (tools, one_call, logprobs) = (false, false, false);
    Ok(Ask { model, requests, n, streaming, tools, one_call, logprobs })
}

/// Copies of `request`, one for each prompt; the first keeps the id, and the others get a numbered one.
fn each(request: &GenerateRequest, prompts: Vec<Prompt>) -> Vec<GenerateRequest> {
    let copy = |(index, prompt): (usize, Prompt)| {
        let id = if index == 0 { request.id.clone() } else { format!("{}-{index}", request.id) };
        GenerateRequest { id, prompt, ..request.clone() }
    };
    prompts.into_iter().enumerate().map(copy).collect()
}

/// Refuses the first field of `table` that has a value other than the neutral one.
pub fn refuse(fields: &Fields, table: &[Refused]) -> Result<(), WireError> {
    let set = |(name, matters, _): &&Refused| fields.peek(name).is_some_and(matters);
    match table.iter().find(set) {
        Some((name, _, what)) => Err(WireError::unsupported(*name, *what)),
        None => Ok(()),
    }
}

/// Whether a value is `true`.
pub fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

/// Whether a list or object is non-empty; any other value counts as non-empty.
pub fn is_filled(value: &Value) -> bool {
    match value {
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// The model name as requested, and the arm that the name pins.
pub fn model(fields: &mut Fields, served: &str) -> Result<(String, Option<Arm>), WireError> {
    let asked = fields.string("model")?;
    let asked = asked.ok_or_else(|| WireError::Missing { param: "model".into() })?;
    let pin = model_arm(&asked, served)?;
    Ok((asked, pin))
}

/// `NAME` for either arm, `NAME@stable` and `NAME@canary` for one.
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
    Ok(safety.or(user).map_or(client, |user| xxh3_64_with_seed(user.as_bytes(), client)))
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
    let repetition = fields.number("repetition_penalty", Range::above(0.0, 2.0))?;
    let top_p = fields.number("top_p", Range::above(0.0, 1.0))?;
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

fn seed(fields: &mut Fields) -> Result<Option<u64>, WireError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    match (value.as_i64(), value.as_u64()) {
        (_, Some(seed)) => Ok(Some(seed)),
        (Some(seed), None) => Ok(Some(seed as u64)),
        (None, None) => Err(wrong("seed", "a 64-bit integer", &value)),
    }
}

fn stop(fields: &mut Fields, limits: Limits) -> Result<Vec<String>, WireError> {
    let stops = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(stops)) => stops,
        Some(text @ Value::String(_)) => vec![text],
        Some(other) => return Err(wrong("stop", "a string or an array of strings", &other)),
    };
    if stops.len() > limits.max_stop {
        let (most, got) = (limits.max_stop, stops.len());
        return Err(WireError::bad("stop", format!("at most {most} are allowed, not {got}")));
    }
    stops.into_iter().enumerate().map(|(index, stop)| one_stop(index, stop)).collect()
}

fn one_stop(index: usize, stop: Value) -> Result<String, WireError> {
    match stop {
        Value::String(text) if text.is_empty() => Err(WireError::bad("stop", "it is empty")),
        Value::String(text) => Ok(text),
        other => Err(wrong(format!("stop[{index}]"), "a string", &other)),
    }
}

fn streaming(fields: &mut Fields) -> Result<Streaming, WireError> {
    let on = fields.boolean("stream")?.unwrap_or(false);
    let Some(options) = fields.object("stream_options")? else {
        return Ok(Streaming { on, include_usage: false });
    };
    if !on {
        return Err(WireError::bad("stream_options", "it is only allowed when stream is true"));
    }
    let include_usage = match options.get("include_usage") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(other) => return Err(wrong("stream_options.include_usage", "a boolean", other)),
    };
    Ok(Streaming { on, include_usage })
}
