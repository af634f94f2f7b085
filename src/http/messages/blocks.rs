//! Messages made of content blocks, as the messages of a chat.
//!
//! A user's message may hold results of tools, which a chat has as messages of their own; the order is kept. Blocks that
//! a text model cannot read (pictures, documents) are refused by name.

use crate::http::wire::WireError;
use crate::http::wire::fields::wrong;
use serde_json::{Map, Value, json};

/// The messages of a chat, in order; `index` is the place of the message in the request.
pub fn message(index: usize, message: Value, chat: &mut Vec<Value>) -> Result<(), WireError> {
    let param = format!("messages[{index}]");
    let Value::Object(mut message) = message else {
        return Err(wrong(param, "an object", &message));
    };
    let role = required(&mut message, "role", &param)?;
    let content = message.remove("content");
    let at = format!("{param}.content");
    match role.as_str() {
        "user" => user(blocks(content, &at)?, &at, chat),
        "assistant" => assistant(blocks(content, &at)?, &at, chat),
        other => {
            let what = format!("'{other}' is neither user nor assistant; use the field 'system'");
            Err(WireError::bad(format!("{param}.role"), what))
        }
    }
}

/// The system's text: a string or text blocks.
pub fn system(value: Value) -> Result<Value, WireError> {
    let texts = blocks(Some(value), "system")?.into_iter().enumerate();
    let one = |(index, mut block): (usize, Map<String, Value>)| {
        text_block(&mut block, &format!("system[{index}]"))
    };
    let parts = texts.map(one).collect::<Result<Vec<Value>, WireError>>()?;
    Ok(json!({"role": "system", "content": parts}))
}

fn blocks(content: Option<Value>, param: &str) -> Result<Vec<Map<String, Value>>, WireError> {
    let text = |text: String| {
        let block = [("type".to_owned(), "text".into()), ("text".to_owned(), text.into())];
        vec![block.into_iter().collect()]
    };
    match content {
        None | Some(Value::Null) => Err(WireError::Missing { param: param.to_owned() }),
        Some(Value::String(written)) => Ok(text(written)),
        Some(Value::Array(blocks)) => {
            let one = |(index, block): (usize, Value)| match block {
                Value::Object(block) => Ok(block),
                other => Err(wrong(format!("{param}[{index}]"), "an object", &other)),
            };
            blocks.into_iter().enumerate().map(one).collect()
        }
        Some(other) => Err(wrong(param, "a string or an array of blocks", &other)),
    }
}

fn user(
    blocks: Vec<Map<String, Value>>,
    param: &str,
    chat: &mut Vec<Value>,
) -> Result<(), WireError> {
    let (mut texts, mut results) = (Vec::new(), 0);
    for (index, mut block) in blocks.into_iter().enumerate() {
        let at = format!("{param}[{index}]");
        match kind(&block, &at)? {
            "text" => texts.push(text_block(&mut block, &at)?),
            "tool_result" => {
                if !texts.is_empty() {
                    chat.push(json!({"role": "user", "content": std::mem::take(&mut texts)}));
                }
                chat.push(result(block, &at)?);
                results += 1;
            }
            other => return Err(unreadable(other, &at)),
        }
    }
    if !texts.is_empty() || results == 0 {
        chat.push(json!({"role": "user", "content": texts}));
    }
    Ok(())
}

fn result(mut block: Map<String, Value>, param: &str) -> Result<Value, WireError> {
    let id = required(&mut block, "tool_use_id", param)?;
    let at = format!("{param}.content");
    let parts = match block.remove("content").filter(|content| !content.is_null()) {
        None => Vec::new(),
        content => {
            let one = |(index, mut block): (usize, Map<String, Value>)| {
                text_block(&mut block, &format!("{at}[{index}]"))
            };
            blocks(content, &at)?.into_iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
    };
    let mut message = json!({"role": "tool", "tool_call_id": id, "content": parts});
    if block.get("is_error") == Some(&Value::Bool(true)) {
        message["is_error"] = Value::Bool(true);
    }
    Ok(message)
}

fn assistant(
    blocks: Vec<Map<String, Value>>,
    param: &str,
    chat: &mut Vec<Value>,
) -> Result<(), WireError> {
    let (mut texts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    for (index, mut block) in blocks.into_iter().enumerate() {
        let at = format!("{param}[{index}]");
        match kind(&block, &at)? {
            "text" => texts.push(text_block(&mut block, &at)?),
            "thinking" => thoughts.push(required(&mut block, "thinking", &at)?),
            // Encrypted by another server; no model here can read it.
            "redacted_thinking" => {}
            "tool_use" => calls.push(call(block, &at)?),
            other => return Err(unreadable(other, &at)),
        }
    }
    let mut message = json!({"role": "assistant", "content": texts});
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.join("\n").into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    chat.push(message);
    Ok(())
}

fn call(mut block: Map<String, Value>, param: &str) -> Result<Value, WireError> {
    let id = required(&mut block, "id", param)?;
    let name = required(&mut block, "name", param)?;
    let input = match block.remove("input") {
        Some(input @ Value::Object(_)) => input,
        None | Some(Value::Null) => {
            return Err(WireError::Missing { param: format!("{param}.input") });
        }
        Some(other) => return Err(wrong(format!("{param}.input"), "an object", &other)),
    };
    let function = json!({"name": name, "arguments": input.to_string()});
    Ok(json!({"id": id, "type": "function", "function": function}))
}

fn kind<'a>(block: &'a Map<String, Value>, param: &str) -> Result<&'a str, WireError> {
    match block.get("type") {
        Some(Value::String(kind)) => Ok(kind),
        None | Some(Value::Null) => Err(WireError::Missing { param: format!("{param}.type") }),
        Some(other) => Err(wrong(format!("{param}.type"), "a string", other)),
    }
}

fn unreadable(kind: &str, param: &str) -> WireError {
    let what = format!("this model reads text and tool blocks only, not '{kind}'");
    WireError::unsupported(format!("{param}.type"), what)
}

fn text_block(block: &mut Map<String, Value>, param: &str) -> Result<Value, WireError> {
    match kind(block, param)? {
        "text" => Ok(json!({"type": "text", "text": required(block, "text", param)?})),
        other => Err(unreadable(other, param)),
    }
}

fn required(holder: &mut Map<String, Value>, name: &str, param: &str) -> Result<String, WireError> {
    match holder.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(WireError::Missing { param: format!("{param}.{name}") }),
        Some(other) => Err(wrong(format!("{param}.{name}"), "a string", &other)),
    }
}
