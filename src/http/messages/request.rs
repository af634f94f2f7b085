//! The body of a request to `/v1/messages`.

use super::blocks;
use crate::http::wire::chat::{Kwargs, reasoning, template_kwargs};
use crate::http::wire::common::{Envelope, Rules, check_stops, client_of, parse_request, stop};
use crate::http::wire::constraint::{Constrained, format, one_of};
use crate::http::wire::fields::{Fields, Range, optional, required, wrong};
use crate::http::wire::table::{
    OwnRow, Treatment, Type, any, is_filled, is_not_false, is_not_true, is_not_zero, is_text,
    refuse_by,
};
use crate::http::wire::tools::{ToolChoice, declared, function, offered, tool_choice_of};
use crate::http::wire::turns::Turns;
use crate::http::wire::{ParsedRequest, WireError};
use crate::serving::Prompt;
use crate::text::Ending;
use crate::text::reply::{Look, Reasoning};
use serde_json::{Map, Value, json};

use Treatment::{Honoured, Neutral, Refused};

const NO_LOGPROBS: &str = "this API has no log-probabilities; use another one";
const STATELESS: &str = "nothing is stored here; send the whole conversation";
const USE_MAX_TOKENS: &str = "use max_tokens";
const USE_MESSAGES: &str = "use messages";
const ONE_PLACE: &str = "there is one place";
/// The longest `metadata.user_id`, in bytes.
const MAX_USER: usize = 512;

/// The fields of this route beside those that all routes share.
pub const FIELDS: &[OwnRow] = &[
    ("anthropic_beta", Neutral(Type::Texts, "there are no betas")),
    ("background", Refused(is_not_false, "wait for the answer, or stream it")),
    ("betas", Neutral(Type::Texts, "there are no betas")),
    ("billing_policy", Neutral(Type::Object, "nothing is billed")),
    ("cache_control", Neutral(Type::Object, "the server's prefix cache decides")),
    ("compaction", Refused(is_filled, "shorten the conversation yourself")),
    ("container", Refused(any, "there is no code execution")),
    ("context_management", Neutral(Type::Object, "the conversation is read as it is sent")),
    ("conversation", Refused(any, STATELESS)),
    ("diagnostics", Neutral(Type::Object, "there are none")),
    ("fallback_credit_token", Neutral(Type::Text, "nothing is billed")),
    ("fallbacks", Neutral(Type::Any, "no request is declined for what it says")),
    ("include", Refused(is_filled, "leave it out")),
    ("inference_geo", Neutral(Type::Text, ONE_PLACE)),
    ("input", Refused(any, USE_MESSAGES)),
    ("instructions", Refused(is_text, "use system")),
    ("logprobs", Refused(is_not_false, NO_LOGPROBS)),
    ("max_completion_tokens", Refused(any, USE_MAX_TOKENS)),
    ("max_output_tokens", Refused(any, USE_MAX_TOKENS)),
    ("max_tokens", Honoured("required, at least 1; cut to what the context leaves")),
    ("mcp_servers", Refused(is_filled, "call them yourself, as tools")),
    (
        "messages",
        Honoured(
            "text, thinking, tool_use and tool_result blocks; neighbours of one role are one message; a last one of the \
             assistant is continued",
        ),
    ),
    ("metadata", Honoured("user_id tells clients apart")),
    ("moderation", Refused(any, "there is no moderation model")),
    ("n_predict", Refused(any, USE_MAX_TOKENS)),
    ("output_config", Honoured("")),
    ("output_config.effort", Honoured("handed to the chat template")),
    ("output_config.format", Honoured("of type json_schema")),
    ("output_config.task_budget", Refused(any, USE_MAX_TOKENS)),
    ("output_format", Honoured("as output_config.format")),
    ("parallel_tool_calls", Refused(is_not_true, "use tool_choice.disable_parallel_tool_use")),
    ("previous_response_id", Refused(is_text, STATELESS)),
    ("prompt", Refused(any, USE_MESSAGES)),
    ("reasoning", Refused(is_filled, "use thinking and output_config.effort")),
    ("speed", Neutral(Type::Text, "there is one speed")),
    ("stop_sequences", Honoured("with stop, up to server.max_stop; empty ones are ignored")),
    ("store", Neutral(Type::Flag, "nothing is stored")),
    ("system", Honoured("a text or text blocks")),
    ("temperature", Honoured("0 to 1; 0 is greedy")),
    ("text", Refused(is_filled, "use output_config")),
    ("thinking", Honoured("on or off, handed to the chat template")),
    (
        "thinking.budget_tokens",
        Neutral(Type::Integer, "max_tokens bounds thinking and answer together"),
    ),
    ("thinking.display", Honoured("omitted leaves thinking out; it is never summarized")),
    ("thread", Refused(any, STATELESS)),
    ("tool_choice", Honoured("auto, any, tool or none")),
    ("tools", Honoured("the client's own; tools of Anthropic's are refused")),
    ("tools[].allowed_callers", Neutral(Type::Texts, "there is no code execution")),
    ("tools[].cache_control", Neutral(Type::Object, "the server's prefix cache decides")),
    ("tools[].defer_loading", Neutral(Type::Flag, "all tools are shown")),
    ("tools[].eager_input_streaming", Neutral(Type::Flag, "a call is sent when it is whole")),
    ("tools[].input_examples", Neutral(Type::List, "put them into the description")),
    ("tools[].strict", Honoured("schemas are enforced; if false, as far as that can be done")),
    ("top_logprobs", Refused(is_not_zero, NO_LOGPROBS)),
    ("truncation", Refused(is_auto, "shorten the conversation yourself")),
    ("user_profile_id", Neutral(Type::Text, "use metadata.user_id")),
    ("workspace_id", Neutral(Type::Text, ONE_PLACE)),
];

fn is_auto(value: &Value) -> bool {
    value != "disabled"
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
    /// Whether a reply may contain only one tool call.
    pub one_call: bool,
    shows_thinking: bool,
}

/// Parses a body. Also returns where each message of the chat stands in it. Fails if a field is missing, not valid or
/// not supported.
pub fn read(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
) -> Result<(ParsedRequest, Vec<String>), WireError> {
    let Conversation { prompt, places, format, choice, one_call, shows_thinking } = prompt(fields)?;
    let most = fields.integer("max_tokens", 1, i64::MAX)?;
    let most = most.ok_or_else(|| WireError::Missing { param: "max_tokens".into() })?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    check_temperature(fields)?;
    let user = user(fields)?;
    let stops = stop(fields, "stop_sequences", rules.limits)?;
    let reasoning = match shows_thinking {
        true => reasoning(fields)?,
        false => reasoning(fields).map(|_| Reasoning::LeftOut)?,
    };
    let look = Look { tools: offered(&prompt), declared: declared(&prompt), reasoning };
    let mut parsed = parse_request(fields, envelope, rules, vec![prompt], Some(most))?
        .formatted(format)?
        .choosing(&choice, one_call)?;
    for request in &mut parsed.requests {
        request.stop.extend(stops.iter().cloned());
        check_stops("stop_sequences", request.stop.len(), rules.limits)?;
        if let Some(user) = &user {
            request.client = client_of(user, request.client);
        }
    }
    Ok((ParsedRequest { look, one_call, ..parsed }, places))
}

/// Parses what both this route and the count of its tokens need. Fails if a field is missing, not valid or not
/// supported.
pub fn prompt(fields: &mut Fields) -> Result<Conversation, WireError> {
    refuse_by(fields, FIELDS)?;
    let mut turns = Turns::default();
    if let Some(system) = fields.take("system") {
        blocks::system(system, &mut turns)?;
    }
    let given = fields.array("messages")?;
    let given = given.ok_or_else(|| WireError::Missing { param: "messages".into() })?;
    if given.is_empty() {
        return Err(WireError::bad("messages", "there must be at least one message"));
    }
    for (index, message) in given.into_iter().enumerate() {
        blocks::message(index, message, &mut turns)?;
    }
    let offered = tools(fields)?;
    let choice = fields.object("tool_choice")?.map(tool_choice_of).transpose()?;
    let (choice, one_call) = choice.unwrap_or((ToolChoice::Auto(None), false));
    let shown = choice != ToolChoice::None && !offered.is_empty();
    let tools = shown.then_some(Value::Array(offered));
    let config = fields.object("output_config")?.unwrap_or_default();
    let format = one_of(
        format(config.get("format").cloned(), "output_config.format")?,
        format(fields.take("output_format"), "output_format")?,
    )?;
    let (template_kwargs, shows_thinking) = kwargs(fields, config)?;
    let Turns { messages, places } = turns;
    let ending = ending(&messages);
    let prompt = Prompt::Chat { messages, tools, template_kwargs, ending };
    Ok(Conversation { prompt, places, format, choice, one_call, shows_thinking })
}

/// A last message of the assistant is the beginning of the reply.
fn ending(messages: &[Value]) -> Ending {
    let begun = messages.last().is_some_and(|last| {
        last["role"] == "assistant"
            && last.get("tool_calls").is_none()
            && last["content"].as_array().is_some_and(|parts| !parts.is_empty())
    });
    if begun { Ending::Continue } else { Ending::Reply }
}

/// The tools as a chat template reads them.
fn tools(fields: &mut Fields) -> Result<Vec<Value>, WireError> {
    let tools = fields.array("tools")?.unwrap_or_default().into_iter().enumerate();
    tools.map(|(index, tool)| one_tool(tool, &format!("tools[{index}]"))).collect()
}

fn one_tool(tool: Value, param: &str) -> Result<Value, WireError> {
    let Value::Object(mut tool) = tool else { return Err(wrong(param, "an object", &tool)) };
    match optional::<String>(&mut tool, "type", param)?.as_deref() {
        None | Some("custom") => {}
        Some(kind) => {
            let what = format!("'{kind}' is a tool of Anthropic's; use tools of your own");
            return Err(WireError::unsupported(format!("{param}.type"), what));
        }
    }
    Ok(json!({"type": "function", "function": function(tool, "input_schema", param)?}))
}

/// What the template is given besides the conversation, and whether the reply shows what the model thinks.
fn kwargs(
    fields: &mut Fields,
    mut config: Map<String, Value>,
) -> Result<(Kwargs, bool), WireError> {
    let mut kwargs = template_kwargs(fields)?;
    let mut wish = |name: &str, value: Value| {
        kwargs.get_or_insert_default().entry(name).or_insert(value);
    };
    let (thinks, shown) = thinking(fields)?;
    if let Some(thinks) = thinks {
        wish("enable_thinking", thinks.into());
    }
    if let Some(effort) = optional::<String>(&mut config, "effort", "output_config")? {
        wish("reasoning_effort", effort.into());
    }
    Ok((kwargs, shown))
}

/// Whether the model is to think (`None`: as it decides), and whether that is shown.
fn thinking(fields: &mut Fields) -> Result<(Option<bool>, bool), WireError> {
    let Some(mut thinking) = fields.object("thinking")? else { return Ok((None, true)) };
    let shown = match optional::<String>(&mut thinking, "display", "thinking")?.as_deref() {
        None | Some("summarized") => true,
        Some("omitted") => false,
        Some(other) => {
            let what = format!("'{other}' is neither summarized nor omitted");
            return Err(WireError::bad("thinking.display", what));
        }
    };
    let thinks = match required(&mut thinking, "type", "thinking")?.as_str() {
        "enabled" => Some(true),
        "disabled" => Some(false),
        "adaptive" | "between_tools" => None,
        other => {
            let what = format!("'{other}' is none of enabled, disabled, adaptive, between_tools");
            return Err(WireError::bad("thinking.type", what));
        }
    };
    Ok((thinks, shown))
}

/// Temperatures go to 1 in this API. The field is left for the settings that all routes share.
fn check_temperature(fields: &Fields) -> Result<(), WireError> {
    let range = Range::closed(0.0, 1.0);
    match fields.peek("temperature").and_then(Value::as_f64) {
        Some(given) if !(0.0..=1.0).contains(&given) => {
            Err(WireError::bad("temperature", format!("it must be {range}, this is {given}")))
        }
        _ => Ok(()),
    }
}

fn user(fields: &mut Fields) -> Result<Option<String>, WireError> {
    let mut metadata: Map<String, Value> = fields.object("metadata")?.unwrap_or_default();
    match optional::<String>(&mut metadata, "user_id", "metadata")? {
        Some(user) if user.len() > MAX_USER => {
            let what = format!("it is longer than {MAX_USER} bytes");
            Err(WireError::bad("metadata.user_id", what))
        }
        user => Ok(user.filter(|user| !user.is_empty())),
    }
}
