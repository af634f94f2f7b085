//! Converts a request's conversation to the canonical form that every template gets.
//!
//! Limits on the client's input are checked first, before any work. Then each message and tool is converted
//! (see `message`), and what spans several messages is completed: every call gets an id, and every result
//! names its call. If a template wants ids in its own form, the same id is converted in the same way in call
//! and result. Pure: what a template wants is an argument.

use super::TextError;
use super::message::{self, Wants};
use super::template::Job;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

/// Maximum bytes of a conversation, including tools and extra variables.
pub(super) const MAX_INPUT: usize = 8 << 20;
pub(super) const MAX_MESSAGES: usize = 8192;
/// Names that are not allowed in `extra`.
const RESERVED: [&str; 5] =
    ["messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"];
/// Placed after the last message's content during rendering, to find where it ends.
pub(super) const END_OF_CONTENT: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// How a prompt ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// With the beginning of the assistant's turn (`add_generation_prompt`).
    #[default]
    Reply,
    /// With the end of the last message's turn.
    Closed,
    /// Inside the last message, so that the reply continues it (`continue_final_message`).
    Continue,
}

/// A conversation to be rendered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chat<'a> {
    /// The messages, as the client sent them.
    pub messages: &'a [Value],
    /// The list of tools, as the client sent it.
    pub tools: Option<&'a Value>,
    /// How the prompt ends.
    pub ending: Ending,
    /// More variables for the template (`chat_template_kwargs`).
    pub extra: Option<&'a Map<String, Value>>,
    /// The time for `strftime_now`, read as UTC; without it, the template does not have that function.
    pub today: Option<SystemTime>,
}

/// The canonical form of `chat` for a template that wants `wants`.
pub(super) fn canonical(chat: &Chat<'_>, wants: Wants) -> Result<Job, TextError> {
    check(chat)?;
    let messages = chat.messages.iter().enumerate();
    let messages = messages.map(|(i, m)| message::normalise(i, m, wants));
    let mut messages = messages.collect::<Result<Vec<Value>, TextError>>()?;
    settle_ids(&mut messages, wants.short_ids);
    if chat.ending == Ending::Continue {
        mark_end(&mut messages)?;
    }
    let tools = chat.tools.and_then(Value::as_array).filter(|tools| !tools.is_empty());
    let tools = tools.map(|tools| {
        tools.iter().map(|tool| message::normalise_tool(tool, wants)).collect::<Value>()
    });
    let since = |now: SystemTime| now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(Job {
        messages,
        tools,
        add_generation_prompt: chat.ending == Ending::Reply,
        extra: chat.extra.cloned().unwrap_or_default(),
        today: chat.today.map(since),
    })
}

/// Limits on the client's input, and shapes that never make sense.
fn check(chat: &Chat<'_>) -> Result<(), TextError> {
    let bad = |what: String| Err(TextError::BadChat { what });
    if chat.messages.is_empty() {
        return bad("messages must not be empty".into());
    }
    if chat.messages.len() > MAX_MESSAGES {
        return bad(format!(
            "{} messages are more than the {MAX_MESSAGES} allowed",
            chat.messages.len()
        ));
    }
    if let Some(tools) = chat.tools
        && !tools.is_array()
        && !tools.is_null()
    {
        return bad(format!("tools must be a list, this is {}", message::kind(tools)));
    }
    let extra = chat.extra.into_iter().flatten();
    if let Some((name, _)) = extra.clone().find(|(name, _)| RESERVED.contains(&name.as_str())) {
        return bad(format!("chat_template_kwargs may not set {name}"));
    }
    let values = chat.messages.iter().chain(chat.tools).chain(extra.map(|(_, value)| value));
    if values.map(size).sum::<usize>() > MAX_INPUT {
        return bad(format!("the conversation holds more than {} MiB", MAX_INPUT >> 20));
    }
    Ok(())
}

/// The approximate size of a value as JSON, in bytes.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(|item| size(item) + 2).sum::<usize>() + 2,
        Value::Object(map) => {
            map.iter().map(|(key, item)| key.len() + size(item) + 6).sum::<usize>() + 2
        }
        _ => 5,
    }
}

/// Gives ids to calls without one, and to results that do not name a call: such a result belongs to the first
/// unanswered call.
fn settle_ids(messages: &mut [Value], short: bool) {
    let form = |id: &str| if short { nine(id) } else { id.to_owned() };
    let mut open: VecDeque<String> = VecDeque::new();
    for (index, message) in messages.iter_mut().enumerate() {
        let Value::Object(message) = message else { continue };
        if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
            open.clear();
            for (place, call) in calls.iter_mut().enumerate() {
                let Value::Object(call) = call else { continue };
                let given = call.get("id").and_then(Value::as_str).map(form);
                let id = given.unwrap_or_else(|| form(&format!("call_{index}_{place}")));
                open.push_back(id.clone());
                call.insert("id".into(), id.into());
            }
        }
        if message.get("role").is_some_and(|role| role == "tool") {
            let given = message.get("tool_call_id").and_then(Value::as_str).map(form);
            if let Some(id) = given.or_else(|| open.front().cloned()) {
                open.retain(|waiting| *waiting != id);
                message.insert("tool_call_id".into(), id.into());
            }
        }
    }
}

/// An id of nine letters and digits: the id itself if it has that form, else a hash in base 62 with 53 bits.
fn nine(id: &str) -> String {
    if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut hash = xxhash_rust::xxh3::xxh3_64(id.as_bytes());
    let mut digit = || {
        let digit = DIGITS[(hash % 62) as usize];
        hash /= 62;
        char::from(digit)
    };
    (0..9).map(|_| digit()).collect()
}

/// Puts [`END_OF_CONTENT`] after the content of the last message.
fn mark_end(messages: &mut [Value]) -> Result<(), TextError> {
    let index = messages.len() - 1;
    let last = &mut messages[index];
    if last["role"] != "assistant" {
        let what = "continue_final_message continues an assistant message, and the last is none";
        return Err(TextError::BadMessage { index, what: what.into() });
    }
    let content = match &mut last["content"] {
        Value::Array(parts) => parts.last_mut().and_then(|part| part.get_mut("text")),
        content => Some(content),
    };
    if let Some(Value::String(text)) = content {
        text.push_str(END_OF_CONTENT);
    }
    Ok(())
}

/// The rendered text up to the end of the last message's content; `None` if the template left it out.
pub(super) fn cut_at_end(rendered: &str) -> Option<&str> {
    let at = rendered.rfind(END_OF_CONTENT.trim_end())?;
    match rendered[at..].starts_with(END_OF_CONTENT) {
        true => Some(&rendered[..at]),
        // The template trims its input.
        false => Some(rendered[..at].trim_end()),
    }
}

#[cfg(test)]
mod tests;
