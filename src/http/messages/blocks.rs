//! Converts messages made of content blocks to chat messages.
//!
//! A user's message may contain tool results, which are separate messages in a chat; the order is kept. Consecutive
//! messages of the same role are one message, as in Anthropic's API. Blocks that a text model cannot read (pictures,
//! documents) are refused by name.

use crate::http::wire::WireError;
use crate::http::wire::fields::{optional, required, typed, wrong};
use crate::http::wire::turns::Turns;
use serde_json::{Map, Value, json};

/// Whose blocks a place may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    User,
    Assistant,
    /// The system's text, and results of tools.
    TextOnly,
}

/// Adds a message to a chat; `index` is its place in the request. Fails if its role or its content is not valid or not
/// supported.
pub fn message(index: usize, message: Value, chat: &mut Turns) -> Result<(), WireError> {
    let param = format!("messages[{index}]");
    let mut message: Map<String, Value> = typed(message, &param)?;
    let role = required(&mut message, "role", &param)?;
    let content = message.remove("content");
    let at = format!("{param}.content");
    match role.as_str() {
        "user" => user(blocks(content, &at)?, &param, chat),
        "assistant" => assistant(blocks(content, &at)?, &param, chat),
        other => {
            let what = format!("'{other}' is neither user nor assistant; use the field 'system'");
            Err(WireError::bad(format!("{param}.role"), what))
        }
    }
}

/// Adds the system's text, a string or text blocks, if there is any. Fails if it is something else.
pub fn system(value: Value, chat: &mut Turns) -> Result<(), WireError> {
    let parts = texts(Some(value), "system")?;
    if parts.iter().any(|part| part["text"] != "") {
        chat.push(json!({"role": "system", "content": parts}), "system");
    }
    Ok(())
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
            let one = |(index, block)| typed(block, format_args!("{param}[{index}]"));
            blocks.into_iter().enumerate().map(one).collect()
        }
        Some(other) => Err(wrong(param, "a string or an array of blocks", &other)),
    }
}

/// Content that is text only, as parts of a chat message.
fn texts(content: Option<Value>, param: &str) -> Result<Vec<Value>, WireError> {
    let one = |(index, mut block): (usize, Map<String, Value>)| {
        let at = format!("{param}[{index}]");
        match required(&mut block, "type", &at)?.as_str() {
            "text" => text(&mut block, &at),
            other => Err(misplaced(other, &at, Holder::TextOnly)),
        }
    };
    blocks(content, param)?.into_iter().enumerate().map(one).collect()
}

fn user(blocks: Vec<Map<String, Value>>, param: &str, chat: &mut Turns) -> Result<(), WireError> {
    let (mut parts, mut results) = (Vec::new(), 0);
    for (index, mut block) in blocks.into_iter().enumerate() {
        let at = format!("{param}.content[{index}]");
        match required(&mut block, "type", &at)?.as_str() {
            "text" => parts.push(text(&mut block, &at)?),
            "tool_result" => {
                if !parts.is_empty() {
                    said(std::mem::take(&mut parts), param, chat);
                }
                chat.push(result(block, &at)?, param);
                results += 1;
            }
            other => return Err(misplaced(other, &at, Holder::User)),
        }
    }
    if !parts.is_empty() || results == 0 {
        said(parts, param, chat);
    }
    Ok(())
}

/// Adds what a user said, to the message before if that is the user's too.
fn said(parts: Vec<Value>, param: &str, chat: &mut Turns) {
    match last_of("user", chat) {
        Some(before) => extend(before, "content", parts),
        None => chat.push(json!({"role": "user", "content": parts}), param),
    }
}

fn last_of<'a>(role: &str, chat: &'a mut Turns) -> Option<&'a mut Map<String, Value>> {
    let last = chat.messages.last_mut().filter(|last| last["role"] == role);
    last.and_then(Value::as_object_mut)
}

fn extend(message: &mut Map<String, Value>, field: &str, more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    let list = message.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = list {
        list.extend(more);
    }
}

fn result(mut block: Map<String, Value>, param: &str) -> Result<Value, WireError> {
    let id = required(&mut block, "tool_use_id", param)?;
    let parts = match block.remove("content").filter(|content| !content.is_null()) {
        None => Vec::new(),
        content => texts(content, &format!("{param}.content"))?,
    };
    let mut message = json!({"role": "tool", "tool_call_id": id, "content": parts});
    if optional(&mut block, "is_error", param)?.unwrap_or(false) {
        message["is_error"] = Value::Bool(true);
    }
    Ok(message)
}

fn assistant(
    blocks: Vec<Map<String, Value>>,
    param: &str,
    chat: &mut Turns,
) -> Result<(), WireError> {
    let (mut parts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    for (index, mut block) in blocks.into_iter().enumerate() {
        let at = format!("{param}.content[{index}]");
        match required(&mut block, "type", &at)?.as_str() {
            "text" => parts.push(text(&mut block, &at)?),
            "thinking" => thoughts.push(required(&mut block, "thinking", &at)?),
            // Encrypted by another server; no model here can read it.
            "redacted_thinking" => {}
            "tool_use" => calls.push(call(block, &at)?),
            other => return Err(misplaced(other, &at, Holder::Assistant)),
        }
    }
    if last_of("assistant", chat).is_none() {
        chat.push(json!({"role": "assistant", "content": []}), param);
    }
    let Some(message) = last_of("assistant", chat) else { return Ok(()) };
    extend(message, "content", parts);
    extend(message, "tool_calls", calls);
    if !thoughts.is_empty() {
        let before = message.remove("reasoning_content");
        let before = before.as_ref().and_then(Value::as_str).map(str::to_owned);
        let all: Vec<String> = before.into_iter().chain(thoughts).collect();
        message.insert("reasoning_content".to_owned(), all.join("\n").into());
    }
    Ok(())
}

fn call(mut block: Map<String, Value>, param: &str) -> Result<Value, WireError> {
    let id = required(&mut block, "id", param)?;
    let name = required(&mut block, "name", param)?;
    let missing = || WireError::Missing { param: format!("{param}.input") };
    let input: Map<String, Value> = optional(&mut block, "input", param)?.ok_or_else(missing)?;
    let function = json!({"name": name, "arguments": Value::Object(input).to_string()});
    Ok(json!({"id": id, "type": "function", "function": function}))
}

fn text(block: &mut Map<String, Value>, param: &str) -> Result<Value, WireError> {
    Ok(json!({"type": "text", "text": required(block, "text", param)?}))
}

/// The error for a block that cannot be there.
fn misplaced(kind: &str, param: &str, holder: Holder) -> WireError {
    let at = format!("{param}.type");
    match (kind, holder) {
        ("tool_result", Holder::Assistant) => WireError::bad(
            at,
            "results of tools are for messages of the user, not of the assistant",
        ),
        ("tool_use" | "thinking" | "redacted_thinking", Holder::User) => {
            let what = format!("'{kind}' is for messages of the assistant, not of the user");
            WireError::bad(at, what)
        }
        ("tool_use" | "tool_result" | "thinking" | "redacted_thinking", Holder::TextOnly) => {
            WireError::bad(at, format!("this holds text only, not '{kind}'"))
        }
        _ => {
            let what = format!("this model reads text and tool blocks only, not '{kind}'");
            WireError::unsupported(at, what)
        }
    }
}
