//! The table of the fields that clients may send: which are honoured, which change nothing, which are refused.
//!
//! Its rows are request fields of OpenAI's API, of vLLM and of llama-server (as of 2026), for chat and plain
//! completions: those that shape a reply, and those that clients are known to send. `/v1/responses` and
//! `/v1/messages` have tables of their own, with the other fields of their APIs. A field that would change the reply is
//! honoured or refused by name; none is silently ignored. A field without effect must still have the type that its API
//! defines. Fields outside the table are accepted, because clients send more than any one server knows.
//! `docs/api-fields.md` is generated from it.
//!
//! A name may be a path: `reasoning.summary`, `tools[].strict`. This file does not know the meaning of honoured fields.

use super::fields::{Fields, whole, wrong};
use super::{Shape, WireError};
use serde_json::Value;

/// What happens to a field. The notes are for people: only documents show them.
#[derive(Debug, Clone, Copy)]
pub enum Treatment {
    /// It does what its API says; how, if that needs to be said.
    Honoured(&'static str),
    /// It changes nothing here, and no reply is worse for it: its type, and why.
    Neutral(Type, &'static str),
    /// The request is refused, unless the value asks for nothing; and what to do instead.
    Refused(fn(&Value) -> bool, &'static str),
}

named! {
    /// The type of a field that changes nothing.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Type {
        /// Servers differ, or it is not looked at.
        Any = "a value",
        Flag = "a boolean",
        Integer = "an integer",
        Text = "a string",
        Texts = "an array of strings",
        List = "an array",
        Object = "an object",
    }
}

impl Type {
    /// Whether a value is of this type.
    pub fn holds(self, value: &Value) -> bool {
        match self {
            Type::Any => true,
            Type::Flag => value.is_boolean(),
            Type::Integer => whole(value).is_some(),
            Type::Text => value.is_string(),
            Type::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
            Type::List => value.is_array(),
            Type::Object => value.is_object(),
        }
    }
}

/// The routes that a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
    /// Both.
    Both,
    /// These, and `/v1/responses` and `/v1/messages`, whose other fields have tables of their own.
    All,
    /// All of these but `/v1/completions`.
    AllChats,
    /// `/v1/responses` and `/v1/messages`.
    Others,
}

impl On {
    /// Whether the row is about this route.
    pub fn covers(self, shape: Shape) -> bool {
        match self {
            On::Both | On::All => true,
            On::Chat | On::AllChats => shape == Shape::Chat,
            On::Text => shape == Shape::Text,
            On::Others => false,
        }
    }

    /// Whether the row is about the routes that have tables of their own.
    pub fn covers_others(self) -> bool {
        matches!(self, On::All | On::AllChats | On::Others)
    }
}

/// A row: the field's name, its routes, and what happens to it.
pub type Row = (&'static str, On, Treatment);

/// A row of a table for one route.
pub type OwnRow = (&'static str, Treatment);

use On::{All, AllChats, Both, Chat, Others, Text};
use Treatment::{Honoured, Neutral, Refused};

const UNUSED_SAMPLER: &str = "only used by a sampler that is refused";
const OWN_SAMPLER: &str = "use temperature, top_k, top_p, min_p and the penalties";
const NO_PLACE: &str = "the server decides where a request runs";

/// All rows, by name.
pub const TABLE: &[Row] = &[
    ("adapters", All, Refused(is_filled, "load the adapted model as a version of its own")),
    ("add_generation_prompt", Chat, Honoured("")),
    ("add_generation_prompt", Others, Refused(is_not_true, "the prompt always opens a reply")),
    ("add_special_tokens", All, Honoured("default: true for a prompt, false for messages")),
    ("allowed_token_ids", All, Honoured("no other token is drawn")),
    ("audio", AllChats, Refused(any, "this model writes text only")),
    ("bad_words", All, Honoured("up to 128; matched at the beginning of a text and after a space")),
    ("best_of", AllChats, Refused(is_not_one, "use n to get several replies")),
    (
        "best_of",
        Text,
        Honoured("n to server.max_n; returns the replies with the highest mean log-probability"),
    ),
    ("cache_prompt", All, Neutral(Type::Any, "the server's prefix cache is on or off for all")),
    (
        "cache_salt",
        All,
        Honoured("prefixes are reused only for requests with the same salt and key"),
    ),
    ("chat_template", AllChats, Refused(is_filled, "the model's own template is used")),
    ("chat_template_kwargs", AllChats, Honoured("")),
    ("continue_final_message", Chat, Honoured("")),
    (
        "continue_final_message",
        Others,
        Refused(is_not_false, "end with the message to continue, if the API supports that"),
    ),
    ("documents", AllChats, Refused(is_filled, "put them into a message")),
    ("dry_allowed_length", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("dry_base", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("dry_multiplier", All, Refused(is_not_zero, OWN_SAMPLER)),
    ("dry_penalty_last_n", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("dry_sequence_breakers", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("dynatemp_exponent", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("dynatemp_range", All, Refused(is_not_zero, OWN_SAMPLER)),
    ("echo", AllChats, Refused(is_not_false, "put the prompt before the reply yourself")),
    (
        "echo",
        Text,
        Honoured(
            "with logprobs, also for the prompt's tokens; with max_tokens 0, nothing is generated",
        ),
    ),
    ("enable_thinking", AllChats, Honoured("handed to the chat template")),
    ("frequency_penalty", All, Honoured("-2 to 2")),
    ("function_call", AllChats, Refused(is_call, "use tool_choice instead")),
    ("functions", AllChats, Refused(is_filled, "use tools instead")),
    ("grammar", All, Honoured("GBNF, or llguidance's variant of Lark")),
    ("guided_choice", All, Honoured("1 to 1024 texts")),
    (
        "guided_decoding_backend",
        All,
        Neutral(Type::Any, "there is one engine, and white space is short"),
    ),
    ("guided_grammar", All, Honoured("GBNF, or llguidance's variant of Lark")),
    ("guided_json", All, Honoured("a JSON schema, as an object or a text")),
    ("guided_regex", All, Honoured("in the syntax of the Rust crate regex, for the whole reply")),
    (
        "guided_whitespace_pattern",
        All,
        Neutral(Type::Any, "there is one engine, and white space is short"),
    ),
    ("id_slot", All, Neutral(Type::Any, NO_PLACE)),
    ("ignore_eos", All, Honoured("")),
    ("image_data", All, Refused(is_filled, "this model reads text only")),
    ("include_reasoning", AllChats, Honoured("false leaves reasoning out")),
    ("include_stop_str_in_output", All, Honoured("for stop strings")),
    ("input_extra", All, Refused(is_filled, "infilling is not available")),
    ("input_prefix", All, Refused(is_filled, "infilling is not available")),
    ("input_suffix", All, Refused(is_filled, "infilling is not available")),
    ("json_schema", All, Honoured("a JSON schema, as an object or a text")),
    ("kv_transfer_params", All, Refused(is_filled, "there is one server")),
    ("length_penalty", All, Neutral(Type::Any, "only used by beam search, which is refused")),
    (
        "logit_bias",
        All,
        Honoured("-100 to 100 by token id or text; false: never sample it; up to 1024 tokens"),
    ),
    ("logits_processors", All, Refused(is_filled, "leave it out")),
    ("logprobs", Both, Honoured("true for chat; 0 to 20 for a prompt")),
    ("lora", All, Refused(is_filled, "load the adapted model as a version of its own")),
    ("max_completion_tokens", Both, Honoured("takes precedence over max_tokens")),
    ("max_tokens", Both, Honoured("reduced to fit the context; -1, and 0 for chat: no limit")),
    ("media_io_kwargs", AllChats, Neutral(Type::Any, "not used for text")),
    ("messages", Chat, Honoured("")),
    (
        "metadata",
        Both,
        Neutral(
            Type::Object,
            "nothing is stored; server.stable_for may name keys that ask for stable",
        ),
    ),
    ("min_keep", All, Refused(is_not_zero, OWN_SAMPLER)),
    ("min_p", All, Honoured("0 to 1")),
    ("min_tokens", All, Honoured("until then, no stop token or stop string ends a reply")),
    ("mirostat", All, Refused(is_not_zero, OWN_SAMPLER)),
    ("mirostat_eta", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("mirostat_tau", All, Neutral(Type::Any, UNUSED_SAMPLER)),
    ("mm_processor_kwargs", AllChats, Neutral(Type::Any, "not used for text")),
    ("modalities", AllChats, Refused(is_more_than_text, "this model writes text only")),
    ("model", All, Honoured("may be left out; NAME@stable or NAME@canary pins a model")),
    ("n", Both, Honoured("up to server.max_n")),
    ("n", Others, Refused(is_not_one, "send the request several times")),
    ("n_discard", All, Neutral(Type::Any, "a prompt that is too long is refused, not shifted")),
    ("n_indent", All, Refused(is_not_zero, "infilling is not available")),
    ("n_keep", All, Neutral(Type::Any, "a prompt that is too long is refused, not shifted")),
    ("n_predict", Both, Honoured("same as max_tokens, if that is not given")),
    ("n_probs", All, Refused(is_not_zero, "use logprobs instead")),
    ("parallel_tool_calls", Chat, Honoured("")),
    ("post_sampling_probs", All, Refused(is_not_false, "use logprobs instead")),
    ("prediction", AllChats, Neutral(Type::Object, "a hint for speed; it changes no reply")),
    ("presence_penalty", All, Honoured("-2 to 2")),
    ("priority", All, Neutral(Type::Any, "requests are served in the order of their arrival")),
    ("prompt", Text, Honoured("a text, token ids, or several of either")),
    ("prompt_cache_key", All, Honoured("the session key, if no header gives one")),
    ("prompt_cache_retention", All, Neutral(Type::Text, "the server's prefix cache decides")),
    ("prompt_embeds", All, Refused(is_filled, "send text or token ids")),
    ("prompt_logprobs", All, Refused(is_not_false, "leave it out")),
    ("reasoning_effort", AllChats, Honoured("handed to the chat template")),
    (
        "reasoning_format",
        AllChats,
        Honoured("auto or deepseek: reasoning_content; none: in the text"),
    ),
    ("repeat_last_n", All, Neutral(Type::Any, "the penalty covers prompt and reply")),
    ("repeat_penalty", All, Honoured("same as repetition_penalty, if that is not given")),
    ("repetition_detection", All, Refused(is_filled, "leave it out")),
    ("repetition_penalty", All, Honoured("above 0, up to 2")),
    ("request_id", All, Neutral(Type::Any, "the server assigns the id")),
    ("response_fields", All, Refused(is_filled, "leave it out")),
    (
        "response_format",
        Both,
        Honoured("text, json_object or json_schema; a schema is always enforced"),
    ),
    ("response_format", Others, Refused(any, "leave it out; a reply is text")),
    ("return_progress", All, Neutral(Type::Any, "the stream begins with the first token")),
    ("return_token_ids", All, Refused(is_not_false, "use /tokenize")),
    ("return_tokens", All, Refused(is_not_false, "use /tokenize")),
    ("return_tokens_as_token_ids", All, Refused(is_not_false, "leave it out")),
    ("safety_identifier", All, Honoured("tells clients apart")),
    ("samplers", All, Refused(is_filled, OWN_SAMPLER)),
    ("seed", All, Honoured("-1: a random one")),
    ("service_tier", All, Neutral(Type::Text, "there is one tier")),
    ("skip_special_tokens", All, Honoured("")),
    (
        "spaces_between_special_tokens",
        All,
        Neutral(Type::Any, "texts are decoded as the tokenizer says"),
    ),
    ("speculative.n_max", All, Neutral(Type::Any, "a hint for speed; it changes no reply")),
    ("speculative.n_min", All, Neutral(Type::Any, "a hint for speed; it changes no reply")),
    ("speculative.p_min", All, Neutral(Type::Any, "a hint for speed; it changes no reply")),
    ("stop", All, Honoured("up to server.max_stop; empty ones are ignored")),
    ("stop_token_ids", All, Honoured("")),
    (
        "store",
        Chat,
        Honoured(
            "true: the messages may be recorded, where the server has server.record_prompts; nothing else is stored",
        ),
    ),
    ("store", Text, Neutral(Type::Flag, "nothing is stored")),
    ("stream", All, Honoured("")),
    (
        "stream_options",
        All,
        Honoured(
            "include_usage: the usage at the end; with continuous_usage_stats, in every chunk",
        ),
    ),
    ("structural_tag", All, Refused(is_filled, "use tools, or a grammar")),
    ("structured_outputs", All, Honoured("json, regex, choice, grammar or json_object")),
    ("suffix", All, Refused(is_text, "infilling is not available")),
    ("t_max_predict_ms", All, Refused(is_positive, "close the connection to end a reply")),
    ("temperature", Both, Honoured("0 to 2; 0 is greedy")),
    ("thinking_forced_open", AllChats, Refused(is_not_false, "use chat_template_kwargs")),
    ("thinking_token_budget", AllChats, Refused(any, "leave it out")),
    ("timings_per_token", All, Neutral(Type::Any, "times are in the metrics and the status")),
    ("tool_choice", Chat, Honoured("auto, none, required, a function or allowed_tools")),
    ("tools", Chat, Honoured("")),
    ("top_k", All, Honoured("-1 or 0: all tokens")),
    ("top_logprobs", Chat, Honoured("0 to 20")),
    ("top_n_sigma", All, Refused(is_positive, OWN_SAMPLER)),
    ("top_p", All, Honoured("0 to 1; 0 is greedy")),
    ("truncate_prompt_tokens", All, Honoured("keeps the last tokens; -1: as many as fit")),
    ("typical_p", All, Refused(is_not_one, OWN_SAMPLER)),
    ("use_beam_search", All, Refused(is_not_false, "leave it out")),
    ("user", All, Honoured("tells clients apart")),
    ("verbosity", AllChats, Neutral(Type::Text, "a hint that only some models know")),
    ("vllm_xargs", All, Refused(is_filled, "leave it out")),
    ("web_search_options", AllChats, Refused(any, "put the results into a message")),
    ("xtc_probability", All, Refused(is_not_zero, OWN_SAMPLER)),
    ("xtc_threshold", All, Neutral(Type::Any, UNUSED_SAMPLER)),
];

/// The fields of a route, and what happens to them.
pub fn rows(shape: Shape) -> Vec<OwnRow> {
    let rows = TABLE.iter().filter(|(_, on, _)| on.covers(shape));
    rows.map(|(name, _, treatment)| (*name, *treatment)).collect()
}

/// As [`rows`], for a route with a table of its own.
pub fn rows_by(own: &[OwnRow]) -> Vec<OwnRow> {
    let shared = TABLE.iter().filter(|(_, on, _)| on.covers_others());
    let shared = shared.map(|(name, _, treatment)| (*name, *treatment));
    own.iter().copied().chain(shared).collect()
}

/// Refuses the first field that asks for something this server cannot do, or that changes nothing and is not of its
/// type.
pub fn refuse(fields: &Fields, shape: Shape) -> Result<(), WireError> {
    check(fields, &rows(shape))
}

/// Refuses fields as [`refuse`] does, for a route with a table of its own.
pub fn refuse_by(fields: &Fields, own: &[OwnRow]) -> Result<(), WireError> {
    check(fields, &rows_by(own))
}

fn check(fields: &Fields, rows: &[OwnRow]) -> Result<(), WireError> {
    for (name, treatment) in rows {
        let mut values = Vec::new();
        at(fields, name, &mut values);
        for (place, value) in values {
            match treatment {
                Refused(asks, instead) if asks(value) => {
                    return Err(WireError::unsupported(place, *instead));
                }
                Neutral(kind, _) if !kind.holds(value) => {
                    return Err(wrong(place, kind.as_str(), value));
                }
                Honoured(_) | Neutral(..) | Refused(..) => {}
            }
        }
    }
    Ok(())
}

/// The values at a path, each with its place in the request; those that are missing or null are not among them.
fn at<'a>(fields: &'a Fields, path: &str, out: &mut Vec<(String, &'a Value)>) {
    if let Some(value) = fields.peek(path) {
        return out.push((path.to_owned(), value));
    }
    let Some((first, rest)) = path.split_once('.') else { return };
    let name = first.trim_end_matches("[]");
    match fields.peek(name) {
        Some(Value::Array(list)) if first.ends_with("[]") => {
            for (index, one) in list.iter().enumerate() {
                below(one, &format!("{name}[{index}]"), rest, out);
            }
        }
        Some(one) if name == first => below(one, name, rest, out),
        _ => {}
    }
}

fn below<'a>(holder: &'a Value, place: &str, name: &str, out: &mut Vec<(String, &'a Value)>) {
    if let Some(value) = holder.get(name).filter(|value| !value.is_null()) {
        out.push((format!("{place}.{name}"), value));
    }
}

/// True for any value.
pub fn any(_: &Value) -> bool {
    true
}

/// True for anything but `false`.
pub fn is_not_false(value: &Value) -> bool {
    *value != Value::Bool(false)
}

/// True for anything but `true`.
pub fn is_not_true(value: &Value) -> bool {
    *value != Value::Bool(true)
}

/// A list, an object or a text that is not empty; any other value counts as not empty.
pub fn is_filled(value: &Value) -> bool {
    match value {
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// Anything but an empty text.
pub fn is_text(value: &Value) -> bool {
    value.as_str() != Some("")
}

/// True for anything but 0.
pub fn is_not_zero(value: &Value) -> bool {
    value.as_f64() != Some(0.0)
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_none_or(|value| value > 0.0)
}

/// True for anything but 1.
pub fn is_not_one(value: &Value) -> bool {
    whole(value) != Some(1)
}

fn is_more_than_text(value: &Value) -> bool {
    value.as_array().is_none_or(|list| list.iter().any(|one| one != "text"))
}

/// A function call other than the model's own choice, or none.
fn is_call(value: &Value) -> bool {
    !matches!(value.as_str(), Some("auto" | "none"))
}

#[cfg(test)]
mod tests;
