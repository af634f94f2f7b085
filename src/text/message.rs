//! Messages as clients send them become messages as templates expect them.
//!
//! The two differ in a few places, all handled here and nowhere else: content may come as a list of
//! parts, tool-call arguments come as a JSON string where templates expect the object, the
//! `developer` role is younger than most templates, reasoning goes by several names. Shapes that no
//! template could make sense of are refused with the message's index, as the client's doing; fields
//! that are not known here pass through untouched, because a template may well read them.
//!
//! Of templates it knows only what they ask for by name ([`Knows`]).

use super::TextError;
use serde_json::{Map, Value};

/// Names under which reasoning is passed; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a template asks for of its own accord, and can therefore be given as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Knows {
    /// The `developer` role.
    pub(super) developer: bool,
    /// Content that is `none`, as a message of tool calls has it.
    pub(super) no_content: bool,
}

impl Knows {
    pub(super) fn of(template: &str) -> Knows {
        let tests = ["is none", "is not none"];
        let names = ["content ", "content'] ", "content\"] "];
        let asks =
            |name: &str| tests.iter().any(|test| template.contains(&format!("{name}{test}")));
        Knows { developer: template.contains("developer"), no_content: names.into_iter().any(asks) }
    }
}

/// Checks one message and brings it into the form that templates expect.
pub(super) fn normalise(index: usize, message: &Value, knows: Knows) -> Result<Value, TextError> {
    let bad = |what: String| TextError::BadMessage { index, what };
    let Value::Object(message) = message else {
        return Err(bad(format!("a message is an object, this is {}", kind(message))));
    };
    let mut message = message.clone();
    match message.get("role") {
        Some(Value::String(role)) if role == "developer" && !knows.developer => {
            message.insert("role".into(), "system".into());
        }
        Some(Value::String(_)) => {}
        Some(other) => return Err(bad(format!("role must be a string, this is {}", kind(other)))),
        None => return Err(bad("role is missing".into())),
    }
    if let Some(content) = message.get_mut("content")
        && !(content.is_null() && knows.no_content)
    {
        *content = joined(content.take()).map_err(bad)?;
    }
    match message.get_mut("tool_calls") {
        None | Some(Value::Null) => {}
        Some(Value::Array(calls)) => calls.iter_mut().try_for_each(open_arguments).map_err(bad)?,
        Some(other) => {
            return Err(bad(format!("tool_calls must be a list, this is {}", kind(other))));
        }
    }
    name_reasoning(&mut message);
    Ok(Value::Object(message))
}

/// What kind of JSON value this is, in words for an error message.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Content as one string: a list of text parts is joined without separators. None at all, which is what
/// a message of tool calls has, is an empty string: templates that join strings would fail on `none`. Those that ask for it get it.
fn joined(content: Value) -> Result<Value, String> {
    let parts = match content {
        Value::String(_) => return Ok(content),
        Value::Null => return Ok(Value::String(String::new())),
        Value::Array(parts) => parts,
        other => {
            return Err(format!(
                "content must be a string or a list of parts, this is {}",
                kind(&other)
            ));
        }
    };
    let texts =
        parts.iter().enumerate().map(|(i, part)| match part.get("type").and_then(Value::as_str) {
            Some("text") => {
                let text = part.get("text").and_then(Value::as_str);
                text.ok_or_else(|| {
                    format!("content[{i}] is of type \"text\" but has no text string")
                })
            }
            Some(other) => {
                Err(format!("content[{i}] is of type {other:?}; this model takes text parts only"))
            }
            None => Err(format!(
                "content[{i}] has no type; a part is {{\"type\": \"text\", \"text\": ..}}"
            )),
        });
    Ok(Value::String(texts.collect::<Result<String, String>>()?))
}

/// Turns a call's `arguments` from a JSON string into the object it spells. Text that is not an
/// object stays as it is: it may be what the model itself wrote, and it must be able to see it.
fn open_arguments(call: &mut Value) -> Result<(), String> {
    let Value::Object(call) = call else {
        return Err(format!("a tool call is an object, this is {}", kind(call)));
    };
    let function = match call.get_mut("function") {
        Some(Value::Object(function)) => function,
        Some(other) => {
            return Err(format!("a tool call's function is an object, this is {}", kind(other)));
        }
        None => return Ok(()),
    };
    if let Some(arguments) = function.get_mut("arguments")
        && let Value::String(text) = arguments
    {
        if text.trim().is_empty() {
            *arguments = Value::Object(Map::new());
        } else if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
            *arguments = object;
        }
    }
    Ok(())
}

/// Reasoning reaches the template under the name it reads, and under `thinking` for those that read
/// that, whichever name the client used.
fn name_reasoning(message: &mut Map<String, Value>) {
    let named =
        REASONING.iter().find_map(|name| message.get(*name).filter(|value| !value.is_null()));
    if let Some(reasoning) = named.cloned() {
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert(REASONING[0].into(), reasoning);
    }
}

#[cfg(test)]
mod tests;
