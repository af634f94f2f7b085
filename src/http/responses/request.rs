//! The body of a request to `/v1/responses`.

use super::items;
use crate::http::wire::chat::{Kwargs, reasoning, template_kwargs};
use crate::http::wire::common::{Envelope, Rules, parse_request};
use crate::http::wire::constraint::{Constrained, format};
use crate::http::wire::fields::{Fields, optional, required, wrong};
use crate::http::wire::table::{
    OwnRow, Treatment, Type, any, is_filled, is_not_false, is_text, refuse_by,
};
use crate::http::wire::tools::{ToolChoice, declared, function, offered, tool_choice};
use crate::http::wire::turns::Turns;
use crate::http::wire::{ParsedRequest, WireError};
use crate::serving::{MOST_TOP_LOGPROBS as MOST_TOP, Prompt};
use crate::text::Ending;
use crate::text::reply::Look;
use serde_json::{Map, Value, json};

use Treatment::{Honoured, Neutral, Refused};

const STATELESS: &str = "nothing is stored here; send the whole conversation as input";
const SHORTEN: &str = "shorten the conversation yourself";
const NOT_SUMMARIZED: &str = "reasoning is shown as it is";
const USE_MAX_OUTPUT_TOKENS: &str = "use max_output_tokens";
/// What `include` adds to an answer.
pub const LOGPROBS: &str = "message.output_text.logprobs";
/// What else may be included: data of tools and of storage that are not here.
pub const INCLUDES: [&str; 7] = [
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];
/// Bounds of that API on `metadata`: pairs, and characters of a name and of a value.
const MAX_METADATA: (usize, usize, usize) = (16, 64, 512);

/// The fields of this route beside those that all routes share.
pub const FIELDS: &[OwnRow] = &[
    ("background", Refused(is_not_false, "wait for the answer, or stream it")),
    ("compaction", Refused(is_filled, SHORTEN)),
    ("container", Refused(any, "there is no code execution")),
    ("context_management", Refused(is_filled, SHORTEN)),
    ("conversation", Refused(any, STATELESS)),
    (
        "include",
        Honoured("message.output_text.logprobs; there is nothing of the others to include"),
    ),
    ("input", Honoured("a text, or messages, function calls, their outputs and reasoning")),
    ("instructions", Honoured("the first message, from the system")),
    ("logprobs", Refused(is_not_false, "use include and top_logprobs")),
    ("max_completion_tokens", Refused(any, USE_MAX_OUTPUT_TOKENS)),
    ("max_output_tokens", Honoured("at least 1; cut to what the context leaves")),
    ("max_tokens", Refused(any, USE_MAX_OUTPUT_TOKENS)),
    (
        "max_tool_calls",
        Neutral(Type::Integer, "it bounds calls of hosted tools, and there are none"),
    ),
    ("mcp_servers", Refused(is_filled, "call them yourself, as tools")),
    ("messages", Refused(any, "use input")),
    ("metadata", Honoured("up to 16 texts, repeated in the answer")),
    ("moderation", Refused(any, "there is no moderation model")),
    ("n_predict", Refused(any, USE_MAX_OUTPUT_TOKENS)),
    ("output_config", Refused(is_filled, "use reasoning and text")),
    ("output_format", Refused(any, "use text.format")),
    ("parallel_tool_calls", Honoured("")),
    ("previous_response_id", Refused(is_text, STATELESS)),
    ("prompt", Refused(any, "use instructions and input")),
    ("prompt_cache_options", Neutral(Type::Object, "the server's prefix cache decides")),
    ("reasoning", Honoured("")),
    ("reasoning.context", Neutral(Type::Text, "the reasoning that the input holds is read")),
    ("reasoning.effort", Honoured("handed to the chat template; none: no thinking")),
    ("reasoning.generate_summary", Neutral(Type::Text, NOT_SUMMARIZED)),
    ("reasoning.mode", Neutral(Type::Text, "there is one mode")),
    ("reasoning.summary", Neutral(Type::Text, NOT_SUMMARIZED)),
    ("stop_sequences", Refused(is_filled, "use stop")),
    ("store", Neutral(Type::Flag, "nothing is stored, as the answer says")),
    ("system", Refused(is_filled, "use instructions")),
    ("temperature", Honoured("0 to 2; 0 is greedy")),
    ("text", Honoured("")),
    ("text.format", Honoured("text, json_object or json_schema; a schema is always enforced")),
    ("text.verbosity", Neutral(Type::Text, "a hint that only some models know")),
    ("thinking", Refused(any, "use reasoning")),
    ("thread", Refused(any, STATELESS)),
    ("tool_choice", Honoured("auto, none, required, a function or allowed_tools")),
    ("tools", Honoured("functions; hosted tools are refused")),
    ("tools[].allowed_callers", Neutral(Type::Texts, "there is no code execution")),
    ("tools[].defer_loading", Neutral(Type::Flag, "all tools are shown")),
    ("tools[].output_schema", Neutral(Type::Object, "put it into the description")),
    ("tools[].strict", Honoured("schemas are enforced; if false, as far as that can be done")),
    ("top_logprobs", Honoured("0 to 20")),
    (
        "truncation",
        Honoured(
            "auto or disabled; a conversation that is too long is refused, so the answer says disabled",
        ),
    ),
];

/// What the answer repeats of the request.
#[derive(Debug, Clone, Default)]
pub struct Echo {
    pub instructions: Option<String>,
    pub max_output_tokens: Option<usize>,
    pub metadata: Map<String, Value>,
    pub parallel: bool,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub effort: Option<String>,
    pub tools: Vec<Value>,
    /// The format of the reply; empty: text.
    pub format: Map<String, Value>,
    pub tool_choice: &'static str,
    pub top_logprobs: u8,
    pub user: Option<String>,
    pub prompt_cache_key: Option<String>,
    pub safety_identifier: Option<String>,
}

/// Parses a body. Also returns what the answer repeats of it, and where each message of the chat stands in it. Fails if
/// a field is missing, not valid or not supported.
pub fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
) -> Result<(ParsedRequest, Echo, Vec<String>), WireError> {
    let Conversation { prompt, places, format, choice, mut echo } = prompt(fields)?;
    echo.parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    echo.metadata = metadata(fields)?;
    truncation(fields)?;
    let logprobs = logprobs(fields)?;
    echo.top_logprobs = logprobs.unwrap_or(0);
    let most = fields.integer("max_output_tokens", 1, i64::MAX)?;
    echo.max_output_tokens = most.and_then(|most| usize::try_from(most).ok());
    let number = |name: &str| fields.peek(name).and_then(Value::as_f64);
    (echo.temperature, echo.top_p) = (number("temperature"), number("top_p"));
    let word = |name: &str| fields.peek(name).and_then(Value::as_str).map(str::to_owned);
    echo.user = word("user");
    echo.prompt_cache_key = word("prompt_cache_key");
    echo.safety_identifier = word("safety_identifier");
    let (tools, declared) = (offered(&prompt), declared(&prompt));
    let look = Look { tools, declared, reasoning: reasoning(fields)? };
    let parsed = parse_request(fields, envelope, rules, vec![prompt], echo.max_output_tokens)?
        .reporting(logprobs)
        .formatted(format)?
        .choosing(&choice, !echo.parallel)?;
    let parsed = ParsedRequest { look, one_call: !echo.parallel, ..parsed };
    Ok((parsed, echo, places))
}

/// What a request asks about, without how.
#[derive(Debug)]
pub struct Conversation {
    /// The conversation with its tools.
    pub prompt: Prompt,
    /// Where each of its messages stands in the request.
    pub places: Vec<String>,
    /// What the reply must be.
    pub format: Constrained,
    /// What the model is to do with the tools.
    pub choice: ToolChoice,
    /// The beginning of what the answer repeats.
    pub echo: Echo,
}

/// Parses what both this route and the count of its tokens need. Fails if a field is missing, not valid or not
/// supported.
pub fn prompt(fields: &mut Fields) -> Result<Conversation, WireError> {
    refuse_by(fields, FIELDS)?;
    let instructions = fields.string("instructions")?;
    let input = fields.take("input").ok_or_else(|| WireError::Missing { param: "input".into() })?;
    let Turns { messages, places } = items::chat(input, instructions.clone())?;
    let text = fields.object("text")?;
    let asked = text.and_then(|mut text| text.remove("format"));
    let format = format(asked.clone(), "text.format")?;
    let (written, offered) = tools(fields)?;
    let choice = tool_choice(fields.take("tool_choice"))?;
    let shown = choice != ToolChoice::None && !offered.is_empty();
    let tools = shown.then_some(Value::Array(offered));
    let (template_kwargs, effort) = kwargs(fields)?;
    let echo = Echo {
        instructions,
        tools: written,
        format: asked.as_ref().and_then(Value::as_object).cloned().unwrap_or_default(),
        tool_choice: choice.word(),
        effort,
        ..Echo::default()
    };
    let prompt = Prompt::Chat { messages, tools, template_kwargs, ending: Ending::Reply };
    Ok(Conversation { prompt, places, format, choice, echo })
}

/// The tools as written, and as a chat template reads them.
fn tools(fields: &mut Fields) -> Result<(Vec<Value>, Vec<Value>), WireError> {
    let written = fields.array("tools")?.unwrap_or_default();
    let chat = written.iter().enumerate().map(|(index, tool)| {
        let param = format!("tools[{index}]");
        let Value::Object(tool) = tool else { return Err(wrong(param, "an object", tool)) };
        let mut tool = tool.clone();
        match required(&mut tool, "type", &param)?.as_str() {
            "function" => {}
            kind => {
                let what = format!("only tools of type 'function' can be used, not '{kind}'");
                return Err(WireError::unsupported(format!("{param}.type"), what));
            }
        }
        Ok(json!({"type": "function", "function": function(tool, "parameters", &param)?}))
    });
    let chat = chat.collect::<Result<Vec<Value>, WireError>>()?;
    Ok((written, chat))
}

/// What the template is given besides the conversation, and the effort that was asked for.
fn kwargs(fields: &mut Fields) -> Result<(Kwargs, Option<String>), WireError> {
    let mut given = template_kwargs(fields)?;
    let mut reasoning = fields.object("reasoning")?.unwrap_or_default();
    let effort = optional::<String>(&mut reasoning, "effort", "reasoning")?;
    if let Some(effort) = &effort {
        let kwargs = given.get_or_insert_default();
        kwargs.entry("reasoning_effort").or_insert_with(|| effort.as_str().into());
        if effort == "none" {
            kwargs.entry("enable_thinking").or_insert(Value::Bool(false));
        }
    }
    Ok((given, effort))
}

fn metadata(fields: &mut Fields) -> Result<Map<String, Value>, WireError> {
    let metadata = fields.object("metadata")?.unwrap_or_default();
    let (most, longest_name, longest) = MAX_METADATA;
    if metadata.len() > most {
        let what = format!("at most {most} pairs are allowed, not {}", metadata.len());
        return Err(WireError::bad("metadata", what));
    }
    for (name, value) in &metadata {
        if name.chars().count() > longest_name {
            let what = format!("a name is longer than {longest_name} characters");
            return Err(WireError::bad("metadata", what));
        }
        match value {
            Value::String(text) if text.chars().count() > longest => {
                let what = format!("it is longer than {longest} characters");
                return Err(WireError::bad(format!("metadata.{name}"), what));
            }
            Value::String(_) => {}
            other => return Err(wrong(format!("metadata.{name}"), "a string", other)),
        }
    }
    Ok(metadata)
}

/// Only checked: no conversation is shortened here.
fn truncation(fields: &mut Fields) -> Result<(), WireError> {
    match fields.string("truncation")?.as_deref() {
        None | Some("disabled" | "auto") => Ok(()),
        Some(other) => {
            Err(WireError::bad("truncation", format!("'{other}' is neither auto nor disabled")))
        }
    }
}

/// How many most likely tokens to report log-probabilities for; `None`: report none.
fn logprobs(fields: &mut Fields) -> Result<Option<u8>, WireError> {
    let include = fields.array("include")?.unwrap_or_default();
    for (index, one) in include.iter().enumerate() {
        let at = format!("include[{index}]");
        match one.as_str() {
            Some(known) if known == LOGPROBS || INCLUDES.contains(&known) => {}
            Some(other) => {
                let known = INCLUDES.join(", ");
                let what = format!("'{other}' is none of {LOGPROBS}, {known}");
                return Err(WireError::bad(at, what));
            }
            None => return Err(wrong(at, "a string", one)),
        }
    }
    let top = fields.integer("top_logprobs", 0, MOST_TOP as i64)?;
    let wanted = include.iter().any(|one| one == LOGPROBS) || top.is_some_and(|top| top > 0);
    Ok(wanted.then(|| top.and_then(|top| u8::try_from(top).ok()).unwrap_or(0)))
}
