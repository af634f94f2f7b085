//! Converts the input of a response, a list of items, to chat messages.
//!
//! One chat message corresponds to several items of a response: the model's reasoning, text and tool calls of one turn
//! become one assistant message. Items of kinds that only OpenAI's own servers can read are refused by name.

use crate::http::wire::WireError;
use crate::http::wire::fields::{optional, required, typed, wrong};
use crate::http::wire::turns::Turns;
use serde_json::{Map, Value, json};

/// The chat of an `input`, after the message of `instructions`. Fails if an item is not valid or not supported, or if
/// there is no message.
pub fn chat(input: Value, instructions: Option<String>) -> Result<Turns, WireError> {
    let mut items = Items::default();
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        items.chat.push(json!({"role": "system", "content": text}), "instructions");
    }
    match input {
        Value::String(text) => {
            items.chat.push(json!({"role": "user", "content": text}), "input");
        }
        Value::Array(list) if list.is_empty() => {
            return Err(WireError::bad("input", "there must be at least one item"));
        }
        Value::Array(list) => {
            for (index, item) in list.into_iter().enumerate() {
                items.item(item, &format!("input[{index}]"))?;
            }
        }
        other => return Err(wrong("input", "a string or an array of items", &other)),
    }
    items.close();
    if items.chat.messages.is_empty() {
        return Err(WireError::bad("input", "it holds no message"));
    }
    Ok(items.chat)
}

/// The chat so far, and the assistant's turn that further items may belong to.
#[derive(Debug, Default)]
struct Items {
    chat: Turns,
    open: Option<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// The item that it begins with.
    place: String,
    reasoning: Option<String>,
    content: Vec<Value>,
    calls: Vec<Value>,
}

impl Items {
    fn item(&mut self, item: Value, param: &str) -> Result<(), WireError> {
        let mut item: Map<String, Value> = typed(item, param)?;
        let kind = match optional(&mut item, "type", param)? {
            Some(kind) => kind,
            None if item.contains_key("role") => "message".to_owned(),
            None => return Err(WireError::Missing { param: format!("{param}.type") }),
        };
        match kind.as_str() {
            "message" => self.message(item, param),
            "function_call" => self.call(item, param),
            "function_call_output" => self.output(item, param),
            "reasoning" => self.reasoning(item, param),
            "item_reference" => Err(WireError::unsupported(
                format!("{param}.type"),
                "nothing is stored here; send the item itself",
            )),
            other => Err(WireError::unsupported(
                format!("{param}.type"),
                format!(
                    "items are message, function_call, function_call_output or reasoning, this is '{other}'"
                ),
            )),
        }
    }

    fn message(&mut self, mut item: Map<String, Value>, param: &str) -> Result<(), WireError> {
        let role = required(&mut item, "role", param)?;
        let content = parts(item.remove("content"), &format!("{param}.content"))?;
        match role.as_str() {
            "user" | "system" | "developer" => {
                self.close();
                self.chat.push(json!({"role": role, "content": content}), param);
            }
            "assistant" => {
                // Text after text is a message of its own, unless calls between them make it one turn.
                if self.open.as_ref().is_some_and(|t| !t.content.is_empty() && t.calls.is_empty()) {
                    self.close();
                }
                self.open(param).content.extend(content);
            }
            other => {
                let what = format!("'{other}' is none of user, assistant, system, developer");
                return Err(WireError::bad(format!("{param}.role"), what));
            }
        }
        Ok(())
    }

    fn call(&mut self, mut item: Map<String, Value>, param: &str) -> Result<(), WireError> {
        let id = required(&mut item, "call_id", param)?;
        let name = required(&mut item, "name", param)?;
        let arguments = required(&mut item, "arguments", param)?;
        let function = json!({"name": name, "arguments": arguments});
        let call = json!({"id": id, "type": "function", "function": function});
        self.open(param).calls.push(call);
        Ok(())
    }

    fn output(&mut self, mut item: Map<String, Value>, param: &str) -> Result<(), WireError> {
        self.close();
        let id = required(&mut item, "call_id", param)?;
        let content = parts(item.remove("output"), &format!("{param}.output"))?;
        self.chat.push(json!({"role": "tool", "tool_call_id": id, "content": content}), param);
        Ok(())
    }

    /// What the model thought in an earlier turn. Its text is in `content`; a summary stands in for it.
    fn reasoning(&mut self, mut item: Map<String, Value>, param: &str) -> Result<(), WireError> {
        let content = said(item.remove("content"), &format!("{param}.content"))?;
        let summary = said(item.remove("summary"), &format!("{param}.summary"))?;
        let said = if content.is_empty() { summary } else { content };
        if !self.open.as_ref().is_none_or(|t| t.content.is_empty() && t.calls.is_empty()) {
            self.close();
        }
        if !said.is_empty() {
            let reasoning = &mut self.open(param).reasoning;
            reasoning.get_or_insert_default().push_str(&said.join("\n"));
        }
        Ok(())
    }

    /// The assistant's turn; if there is none, it begins with this item.
    fn open(&mut self, param: &str) -> &mut Turn {
        self.open.get_or_insert_with(|| Turn { place: param.to_owned(), ..Turn::default() })
    }

    fn close(&mut self) {
        let Some(Turn { place, reasoning, content, calls }) = self.open.take() else { return };
        let mut message = Map::new();
        message.insert("role".to_owned(), "assistant".into());
        message.insert("content".to_owned(), content.into());
        if let Some(reasoning) = reasoning {
            message.insert("reasoning_content".to_owned(), reasoning.into());
        }
        if !calls.is_empty() {
            message.insert("tool_calls".to_owned(), calls.into());
        }
        self.chat.push(message.into(), &place);
    }
}

/// Content as parts of a chat message.
fn parts(content: Option<Value>, param: &str) -> Result<Vec<Value>, WireError> {
    match content {
        None | Some(Value::Null) => Err(WireError::Missing { param: param.to_owned() }),
        Some(Value::String(text)) => Ok(vec![json!({"type": "text", "text": text})]),
        Some(Value::Array(parts)) => {
            let parts = parts.into_iter().enumerate();
            parts.map(|(index, content)| part(content, &format!("{param}[{index}]"))).collect()
        }
        Some(other) => Err(wrong(param, "a string or an array of parts", &other)),
    }
}

fn part(part: Value, param: &str) -> Result<Value, WireError> {
    let Value::Object(mut part) = part else { return Err(wrong(param, "an object", &part)) };
    let kind = required(&mut part, "type", param)?;
    let field = match kind.as_str() {
        "input_text" | "output_text" | "text" => "text",
        "refusal" => "refusal",
        other => {
            let what = format!("this model takes text parts only, not '{other}'");
            return Err(WireError::unsupported(format!("{param}.type"), what));
        }
    };
    Ok(json!({"type": "text", "text": required(&mut part, field, param)?}))
}

/// The texts of reasoning, or of its summary.
fn said(list: Option<Value>, param: &str) -> Result<Vec<String>, WireError> {
    let Some(list) = list.filter(|list| !list.is_null()) else { return Ok(Vec::new()) };
    let list: Vec<Value> = typed(list, param)?;
    let one = |(index, part): (usize, Value)| match part {
        Value::Object(mut part) => required(&mut part, "text", &format!("{param}[{index}]")),
        other => Err(wrong(format!("{param}[{index}]"), "an object", &other)),
    };
    list.into_iter().enumerate().map(one).collect()
}
