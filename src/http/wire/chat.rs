//! The body of a chat completion.
//!
//! It checks the form of messages only as far as every template needs it. Messages are passed on as the client wrote
//! them, because the template of the arm that answers decides which of their fields matter.

use super::common::{Envelope, Rules, Zero, max_tokens, parse_request};
use super::constraint::format;
use super::fields::{Fields, wrong};
use super::table::refuse;
use super::tools::{ToolChoice, declared, function, offered, tool_choice};
use super::{ParsedRequest, Shape, WireError};
use crate::serving::{MOST_TOP_LOGPROBS as MOST_TOP, Prompt};
use crate::text::Ending;
use crate::text::reply::{Look, Reasoning};
use serde_json::{Map, Value};

/// Variables for the chat template.
pub type Kwargs = Option<Map<String, Value>>;

const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Parses a chat completion's body. Fails if a field is missing, not valid or not supported.
pub fn chat(
    fields: &mut Fields,
    envelope: Envelope,
    rules: Rules<'_>,
) -> Result<ParsedRequest, WireError> {
    refuse(fields, Shape::Chat)?;
    let format = format(fields.take("response_format"), "response_format")?;
    let logprobs = logprobs(fields)?;
    let (prompt, choice) = prompt_and_choice(fields)?;
    let (tools, declared) = (offered(&prompt), declared(&prompt));
    let look = Look { tools, declared, reasoning: reasoning(fields)? };
    let one_call = fields.boolean("parallel_tool_calls")? == Some(false);
    let store = fields.boolean("store")? == Some(true);
    let max_tokens = max_tokens(fields, Zero::Unlimited)?.flatten();
    let parsed = parse_request(fields, envelope, rules, vec![prompt], max_tokens)?
        .reporting(logprobs)
        .formatted(format)?
        .choosing(&choice, one_call)?;
    Ok(ParsedRequest { look, one_call, store, ..parsed })
}

/// What becomes of the model's reasoning. By default it is told from the answer. Fails if a field is not valid.
pub fn reasoning(fields: &mut Fields) -> Result<Reasoning, WireError> {
    let apart = match fields.string("reasoning_format")?.as_deref() {
        None | Some("auto" | "deepseek") => true,
        Some("none") => false,
        Some(other) => {
            let what = format!("it must be auto, deepseek or none, this is {other}");
            return Err(WireError::bad("reasoning_format", what));
        }
    };
    Ok(match fields.boolean("include_reasoning")? {
        Some(false) => Reasoning::LeftOut,
        _ if apart => Reasoning::Apart,
        _ => Reasoning::InText,
    })
}

/// The conversation with its tools. Fails if a field is missing, not valid or not supported.
pub fn prompt(fields: &mut Fields) -> Result<Prompt, WireError> {
    prompt_and_choice(fields).map(|(prompt, _)| prompt)
}

fn prompt_and_choice(fields: &mut Fields) -> Result<(Prompt, ToolChoice), WireError> {
    let messages = fields.array("messages")?;
    let messages = messages.ok_or_else(|| WireError::Missing { param: "messages".into() })?;
    if messages.is_empty() {
        return Err(WireError::bad("messages", "there must be at least one message"));
    }
    messages.iter().enumerate().try_for_each(|(index, message)| check(index, message))?;
    let (tools, choice) = tools(fields)?;
    let template_kwargs = template_kwargs(fields)?;
    let ending = ending(fields)?;
    Ok((Prompt::Chat { messages, tools, template_kwargs, ending }, choice))
}

/// What the template is given besides the conversation. Two of these have names of their own in some APIs; a template
/// that does not read them is not changed by them. Fails if a field is of the wrong type.
pub fn template_kwargs(fields: &mut Fields) -> Result<Kwargs, WireError> {
    let mut given = fields.object("chat_template_kwargs")?;
    let thinking = fields.boolean("enable_thinking")?.map(Value::Bool);
    let effort = fields.string("reasoning_effort")?.map(Value::String);
    for (name, value) in [("enable_thinking", thinking), ("reasoning_effort", effort)] {
        if let Some(value) = value {
            given.get_or_insert_default().entry(name).or_insert(value);
        }
    }
    Ok(given)
}

/// How the prompt ends. A reply that continues the last message does not open a new one, so it is an error
/// only if the client explicitly asks for both.
fn ending(fields: &mut Fields) -> Result<Ending, WireError> {
    let goes_on = fields.boolean("continue_final_message")?.unwrap_or(false);
    match (goes_on, fields.boolean("add_generation_prompt")?) {
        (true, Some(true)) => Err(WireError::bad(
            "continue_final_message",
            "it cannot be true together with add_generation_prompt",
        )),
        (true, _) => Ok(Ending::Continue),
        (false, Some(false)) => Ok(Ending::Closed),
        (false, _) => Ok(Ending::Reply),
    }
}

/// How many most likely tokens to report log-probabilities for; `None`: report none.
fn logprobs(fields: &mut Fields) -> Result<Option<u8>, WireError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, MOST_TOP as i64)?.unwrap_or(0);
    if top > 0 && !wanted {
        return Err(WireError::bad("top_logprobs", "it is only allowed if logprobs is true"));
    }
    Ok(wanted.then_some(top as u8))
}

fn check(index: usize, message: &Value) -> Result<(), WireError> {
    let at = |field: &str| format!("messages[{index}]{field}");
    let Value::Object(fields) = message else {
        return Err(wrong(at(""), "an object", message));
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) => role.as_str(),
        None | Some(Value::Null) => return Err(WireError::Missing { param: at(".role") }),
        Some(other) => return Err(wrong(at(".role"), "a string", other)),
    };
    if !ROLES.contains(&role) {
        let what = format!("'{role}' is none of {}", ROLES.join(", "));
        return Err(WireError::bad(at(".role"), what));
    }
    calls(fields.get("tool_calls"), &at(".tool_calls"))?;
    match fields.get("content") {
        Some(Value::String(_)) => Ok(()),
        Some(Value::Array(parts)) => check_parts(parts, &at(".content")),
        // An empty reply, a call, or a tool without a result: treated as empty content.
        None | Some(Value::Null) if ["assistant", "tool", "function"].contains(&role) => Ok(()),
        None => Err(WireError::Missing { param: at(".content") }),
        Some(other) => Err(wrong(at(".content"), "a string or an array of parts", other)),
    }
}

fn calls(value: Option<&Value>, param: &str) -> Result<(), WireError> {
    let calls = match value {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong(param, "an array", other)),
    };
    for (index, call) in calls.iter().enumerate() {
        function_name(call, &format!("{param}[{index}]"))?;
    }
    Ok(())
}

fn check_parts(parts: &[Value], param: &str) -> Result<(), WireError> {
    for (index, part) in parts.iter().enumerate() {
        let at = |field: &str| format!("{param}[{index}]{field}");
        if !part.is_object() {
            return Err(wrong(at(""), "an object", part));
        }
        match part.get("type") {
            Some(Value::String(kind)) if kind == "text" => {}
            Some(Value::String(kind)) => {
                let what = format!("this model takes text parts only, not '{kind}'");
                return Err(WireError::unsupported(at(".type"), what));
            }
            None => return Err(WireError::Missing { param: at(".type") }),
            Some(other) => return Err(wrong(at(".type"), "a string", other)),
        }
        match part.get("text") {
            Some(Value::String(_)) => {}
            None => return Err(WireError::Missing { param: at(".text") }),
            Some(other) => return Err(wrong(at(".text"), "a string", other)),
        }
    }
    Ok(())
}

/// The tools that the model may use, `None` if there are none or none may be chosen, and what it is to do with them.
fn tools(fields: &mut Fields) -> Result<(Option<Value>, ToolChoice), WireError> {
    let tools = fields.array("tools")?.unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        let param = format!("tools[{index}]");
        if !tool.is_object() {
            return Err(wrong(param, "an object", tool));
        }
        if tool.get("type").is_some_and(|kind| kind != "function") {
            let what = "only tools of type 'function' can be used";
            return Err(WireError::unsupported(param + ".type", what));
        }
        let of_tool = tool.get("function").filter(|function| !function.is_null());
        match of_tool {
            Some(Value::Object(given)) => {
                function(given.clone(), "parameters", &format!("{param}.function"))?;
            }
            None => return Err(WireError::Missing { param: param + ".function" }),
            Some(other) => return Err(wrong(param + ".function", "an object", other)),
        }
    }
    let choice = tool_choice(fields.take("tool_choice"))?;
    let shown = choice != ToolChoice::None && !tools.is_empty();
    Ok((shown.then_some(Value::Array(tools)), choice))
}

/// A tool call has a function, and that a name.
fn function_name(holder: &Value, param: &str) -> Result<(), WireError> {
    let function = holder.get("function").filter(|function| !function.is_null());
    let Some(function) = function else {
        return Err(WireError::Missing { param: format!("{param}.function") });
    };
    let at = format!("{param}.function.name");
    match function.get("name") {
        Some(Value::String(name)) if name.is_empty() => Err(WireError::bad(at, "it is empty")),
        Some(Value::String(_)) => Ok(()),
        None => Err(WireError::Missing { param: at }),
        Some(other) => Err(wrong(at, "a string", other)),
    }
}
