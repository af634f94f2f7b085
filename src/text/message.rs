//! Converts messages and tools from the forms that clients send to the form that templates expect.
//!
//! There is one form for every template, so that no template meets a shape that its author did not think of:
//! content is always present and is text, keys without a value are removed, arguments are an object, every
//! tool has a description and parameters, and reasoning is present under every name that templates read. It
//! is the form that vLLM passes to transformers, and a little more where templates would otherwise fail.
//!
//! Some templates need a variation: content as a list of parts, arguments as text, short call ids. This is
//! found by probing them ([`Wants`]). Shapes that no template could handle are refused with the message's
//! index, as client errors. Unknown fields are passed on unchanged, because a template may read them.

use super::TextError;
use serde_json::{Map, Value, json};

/// Names under which reasoning is passed; most templates read the first.
pub(super) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The form that a template needs, where templates differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wants {
    /// Keep the `developer` role; other templates get `system`.
    pub(super) developer: bool,
    /// Content as a list of parts.
    pub(super) parts: bool,
    /// Arguments as JSON text.
    pub(super) text_arguments: bool,
    /// Call ids of nine letters and digits.
    pub(super) short_ids: bool,
    /// No `null` among a schema's types.
    pub(super) one_type: bool,
}

/// Checks one message and converts it to the form that templates expect.
pub(super) fn normalise(index: usize, message: &Value, wants: Wants) -> Result<Value, TextError> {
    let bad = |what: String| TextError::BadMessage { index, what };
    let Value::Object(message) = message else {
        return Err(bad(format!("a message is an object, this is {}", kind(message))));
    };
    let mut message = message.clone();
    message.retain(|_, value| !value.is_null());
    match message.get("role") {
        Some(Value::String(role)) if role == "developer" && !wants.developer => {
            message.insert("role".into(), "system".into());
        }
        Some(Value::String(_)) => {}
        Some(other) => return Err(bad(format!("role must be a string, this is {}", kind(other)))),
        None => return Err(bad("role is missing".into())),
    }
    let content = joined(message.get_mut("content").map(Value::take)).map_err(bad)?;
    let content = match wants.parts {
        true => json!([{"type": "text", "text": content}]),
        false => Value::String(content),
    };
    message.insert("content".into(), content);
    match message.get_mut("tool_calls") {
        None => {}
        Some(Value::Array(calls)) if calls.is_empty() => {
            message.shift_remove("tool_calls");
        }
        Some(Value::Array(calls)) => {
            calls.iter_mut().try_for_each(|call| normalise_call(call, wants)).map_err(bad)?;
        }
        Some(other) => {
            return Err(bad(format!("tool_calls must be a list, this is {}", kind(other))));
        }
    }
    name_reasoning(&mut message);
    Ok(Value::Object(message))
}

/// A tool with everything that templates read: a description, and parameters with an object schema.
pub(super) fn normalise_tool(tool: &Value, wants: Wants) -> Value {
    let mut tool = tool.clone();
    // Some clients omit the wrapper.
    let function = match tool.get_mut("function") {
        Some(Value::Object(function)) => function,
        _ => return tool,
    };
    function.retain(|_, value| !value.is_null());
    function.entry("description").or_insert_with(|| "".into());
    let parameters = function.entry("parameters").or_insert_with(|| json!({}));
    if let Value::Object(schema) = parameters {
        schema.entry("type").or_insert_with(|| "object".into());
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    if wants.one_type {
        choose_types(parameters);
    }
    tool
}

/// The kind of JSON value, for an error message.
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

/// Content as one string: text parts are joined by line breaks; missing content is an empty string.
fn joined(content: Option<Value>) -> Result<String, String> {
    let parts = match content {
        Some(Value::String(text)) => return Ok(text),
        None => return Ok(String::new()),
        Some(Value::Array(parts)) => parts,
        Some(other) => {
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
    Ok(texts.collect::<Result<Vec<&str>, String>>()?.join("\n"))
}

fn normalise_call(call: &mut Value, wants: Wants) -> Result<(), String> {
    let Value::Object(call) = call else {
        return Err(format!("a tool call is an object, this is {}", kind(call)));
    };
    call.retain(|_, value| !value.is_null());
    call.entry("type").or_insert_with(|| "function".into());
    let function = match call.get_mut("function") {
        Some(Value::Object(function)) => function,
        Some(other) => {
            return Err(format!("a tool call's function is an object, this is {}", kind(other)));
        }
        None => return Ok(()),
    };
    function.retain(|_, value| !value.is_null());
    let arguments = function.entry("arguments").or_insert(Value::Null);
    let written = arguments.as_str().is_some_and(|text| !text.trim().is_empty());
    if wants.text_arguments && written {
        return Ok(());
    }
    open_arguments(arguments);
    if wants.text_arguments {
        *arguments = Value::String(super::json::python(arguments));
    }
    Ok(())
}

/// Parses a call's arguments from a JSON string to an object; missing arguments are an empty object. Text
/// that is not an object is kept: the model itself may have written it, and must be able to see it.
fn open_arguments(arguments: &mut Value) {
    match arguments {
        Value::Null => *arguments = Value::Object(Map::new()),
        Value::String(text) if text.trim().is_empty() => *arguments = Value::Object(Map::new()),
        Value::String(text) => {
            if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                *arguments = object;
            }
        }
        _ => {}
    }
}

/// In schemas, `"type": ["string", "null"]` becomes `"type": "string"` with `"nullable": true`. Lists of
/// other types cannot be expressed as one type, and are kept.
fn choose_types(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get("type") {
                let others: Vec<Value> = types.iter().filter(|t| *t != "null").cloned().collect();
                let nullable = others.len() < types.len();
                match <[Value; 1]>::try_from(others) {
                    Ok([one]) => map.insert("type".into(), one),
                    Err(several) if several.is_empty() => map.insert("type".into(), "null".into()),
                    Err(several) => map.insert("type".into(), several.into()),
                };
                if nullable {
                    map.entry("nullable").or_insert(Value::Bool(true));
                }
            }
            map.values_mut().for_each(choose_types);
        }
        Value::Array(list) => list.iter_mut().for_each(choose_types),
        _ => {}
    }
}

/// Reasoning is passed to the template under every name that templates read, whichever name the client used.
fn name_reasoning(message: &mut Map<String, Value>) {
    let named = REASONING.iter().find_map(|name| message.get(*name));
    if let Some(reasoning) = named.cloned() {
        for name in REASONING {
            message.entry(name).or_insert_with(|| reasoning.clone());
        }
    }
}

#[cfg(test)]
mod tests;
