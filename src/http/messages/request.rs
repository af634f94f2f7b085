//! The body of a request to `/v1/messages`.

use super::blocks;
use crate::http::wire::chat::offered;
use crate::http::wire::common::{Envelope, Rules, ask, client_of, stop};
use crate::http::wire::fields::{Fields, Range, wrong};
use crate::http::wire::table::{OwnRow, Treatment, any, is_filled, is_not_one, refuse_by};
use crate::http::wire::{Ask, WireError};
use crate::serving::Prompt;
use crate::text::Ending;
use crate::text::reply::{Look, Reasoning};
use serde_json::{Map, Value, json};

use Treatment::{Honoured, Neutral, Refused};

const CONSTRAINED: &str = "constrained output is not available";
/// The longest `metadata.user_id`, in bytes.
const MAX_USER: usize = 512;

/// The fields of this route beside those that all routes share.
pub const FIELDS: &[OwnRow] = &[
    ("anthropic_beta", Neutral("there are no betas")),
    ("chat_template_kwargs", Honoured("an addition of vLLM's")),
    ("container", Refused(any, "there is no code execution")),
    ("context_management", Neutral("the conversation is read as it is sent")),
    ("inference_geo", Neutral("there is one place")),
    ("max_tokens", Honoured("required, at least 1; cut to what the context leaves")),
    ("mcp_servers", Refused(is_filled, "call them yourself, as tools")),
    (
        "messages",
        Honoured(
            "text, thinking, tool_use and tool_result blocks; a last one of the assistant is continued",
        ),
    ),
    ("metadata", Honoured("user_id tells clients apart")),
    ("n", Refused(is_not_one, "send the request several times")),
    ("output_config", Honoured("the effort, handed to the chat template; a format is refused")),
    ("output_format", Refused(any, CONSTRAINED)),
    ("response_format", Refused(any, CONSTRAINED)),
    ("speed", Neutral("there is one speed")),
    ("stop_sequences", Honoured("up to server.max_stop; empty ones are ignored")),
    ("system", Honoured("a text or text blocks")),
    ("temperature", Honoured("0 to 1; 0 is greedy")),
    ("thinking", Honoured("on or off, handed to the chat template; no budget is enforced")),
    ("tool_choice", Honoured("auto or none; the others are refused")),
    ("tools", Honoured("the client's own; tools of Anthropic's servers are refused")),
];

/// What a request asks about, without how.
#[derive(Debug)]
pub struct Conversation {
    /// The conversation with its tools.
    pub prompt: Prompt,
    /// Whether a reply may contain only one tool call.
    pub one_call: bool,
}

/// Parses a body.
pub fn read(fields: &mut Fields, envelope: Envelope, rules: Rules<'_>) -> Result<Ask, WireError> {
    refuse_by(fields, FIELDS)?;
    let Conversation { prompt, one_call } = prompt(fields)?;
    let most = fields.integer("max_tokens", 1, i64::MAX)?;
    let most = most.ok_or_else(|| WireError::Missing { param: "max_tokens".into() })?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    check_temperature(fields)?;
    let user = user(fields)?;
    let stops = stop(fields, "stop_sequences", rules.limits)?;
    let look = Look { tools: offered(&prompt), reasoning: Reasoning::Apart };
    let mut ask = ask(fields, envelope, rules, vec![prompt], Some(most))?;
    for request in &mut ask.requests {
        request.stop.extend(stops.iter().cloned());
        if let Some(user) = &user {
            request.client = client_of(user, request.client);
        }
    }
    Ok(Ask { look, one_call, ..ask })
}

/// Parses what both this route and the count of its tokens need.
pub fn prompt(fields: &mut Fields) -> Result<Conversation, WireError> {
    let system = fields.take("system").map(blocks::system).transpose()?;
    let given = fields.array("messages")?;
    let given = given.ok_or_else(|| WireError::Missing { param: "messages".into() })?;
    if given.is_empty() {
        return Err(WireError::bad("messages", "there must be at least one message"));
    }
    let mut messages: Vec<Value> = system.into_iter().collect();
    for (index, message) in given.into_iter().enumerate() {
        blocks::message(index, message, &mut messages)?;
    }
    let offered = tools(fields)?;
    let (chosen, one_call) = tool_choice(fields)?;
    let tools = (chosen && !offered.is_empty()).then_some(Value::Array(offered));
    let template_kwargs = template_kwargs(fields)?;
    let ending = ending(&messages);
    Ok(Conversation { prompt: Prompt::Chat { messages, tools, template_kwargs, ending }, one_call })
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
    match tool.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == "custom" => {}
        Some(Value::String(kind)) => {
            let what = format!("'{kind}' runs on Anthropic's servers; use tools of your own");
            return Err(WireError::unsupported(format!("{param}.type"), what));
        }
        Some(other) => return Err(wrong(format!("{param}.type"), "a string", other)),
    }
    let name = match tool.remove("name") {
        Some(Value::String(name)) if name.is_empty() => {
            return Err(WireError::bad(format!("{param}.name"), "it is empty"));
        }
        Some(Value::String(name)) => name,
        None | Some(Value::Null) => {
            return Err(WireError::Missing { param: format!("{param}.name") });
        }
        Some(other) => return Err(wrong(format!("{param}.name"), "a string", &other)),
    };
    let mut function = Map::from_iter([("name".to_owned(), Value::from(name))]);
    for (from, to) in [("description", "description"), ("input_schema", "parameters")] {
        if let Some(value) = tool.remove(from).filter(|value| !value.is_null()) {
            function.insert(to.to_owned(), value);
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

/// Whether the model may call tools, and only one at a time. It cannot be forced to.
fn tool_choice(fields: &mut Fields) -> Result<(bool, bool), WireError> {
    let Some(choice) = fields.object("tool_choice")? else { return Ok((true, false)) };
    let one = choice.get("disable_parallel_tool_use") == Some(&Value::Bool(true));
    match choice.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "auto" => Ok((true, one)),
            "none" => Ok((false, one)),
            "any" | "tool" => {
                let instead = "a model cannot be made to call a tool; use 'auto' or 'none'";
                Err(WireError::unsupported("tool_choice", instead))
            }
            other => {
                let what = format!("'{other}' is none of auto, any, tool, none");
                Err(WireError::bad("tool_choice.type", what))
            }
        },
        None => Err(WireError::Missing { param: "tool_choice.type".into() }),
        Some(other) => Err(wrong("tool_choice.type", "a string", other)),
    }
}

/// What the template is given besides the conversation.
fn template_kwargs(fields: &mut Fields) -> Result<Option<Map<String, Value>>, WireError> {
    let mut given = fields.object("chat_template_kwargs")?;
    if let Some(thinking) = thinking(fields)? {
        let kwargs = given.get_or_insert_default();
        kwargs.entry("enable_thinking").or_insert(Value::Bool(thinking));
    }
    let Some(config) = fields.object("output_config")? else { return Ok(given) };
    if config.get("format").is_some_and(|format| !format.is_null()) {
        return Err(WireError::unsupported("output_config.format", CONSTRAINED));
    }
    match config.get("effort") {
        None | Some(Value::Null) => {}
        Some(effort @ Value::String(_)) => {
            let kwargs = given.get_or_insert_default();
            kwargs.entry("reasoning_effort").or_insert_with(|| effort.clone());
        }
        Some(other) => return Err(wrong("output_config.effort", "a string", other)),
    }
    Ok(given)
}

/// Whether the model is to think; `None`: as it decides.
fn thinking(fields: &mut Fields) -> Result<Option<bool>, WireError> {
    let Some(thinking) = fields.object("thinking")? else { return Ok(None) };
    match thinking.get("type") {
        Some(Value::String(kind)) => match kind.as_str() {
            "enabled" => Ok(Some(true)),
            "disabled" => Ok(Some(false)),
            "adaptive" => Ok(None),
            other => {
                let what = format!("'{other}' is none of enabled, disabled, adaptive");
                Err(WireError::bad("thinking.type", what))
            }
        },
        None => Err(WireError::Missing { param: "thinking.type".into() }),
        Some(other) => Err(wrong("thinking.type", "a string", other)),
    }
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
    let Some(mut metadata) = fields.object("metadata")? else { return Ok(None) };
    match metadata.remove("user_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(user)) if user.len() > MAX_USER => {
            let what = format!("it is longer than {MAX_USER} bytes");
            Err(WireError::bad("metadata.user_id", what))
        }
        Some(Value::String(user)) => Ok(Some(user).filter(|user| !user.is_empty())),
        Some(other) => Err(wrong("metadata.user_id", "a string", &other)),
    }
}
