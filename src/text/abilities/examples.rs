//! The conversations with which a chat template is tested, one for each shape, and the texts that must appear in the
//! prompt.
//!
//! It does not know about particular templates.

use super::Shape;
use crate::text::conversation::{Chat, Ending};
use crate::text::message::REASONING;
use serde_json::{Value, json};
use std::time::SystemTime;

const USER: &str = "What does the serin eat?";
const SYSTEM: &str = "Speak as a finch would.";
const ASSISTANT: &str = "Seeds of birch and alder.";
const THOUGHT: &str = "It is a small bird.";
const RESULT: &str = "seeds-of-thistle";
pub(super) const NAME: &str = "probe";
const TOOL: &str = "looks-things-up";
pub(super) const ARGUMENT: &str = "topic";
pub(super) const VALUE: &str = "finches-and-kin";

/// A conversation for trying a template.
pub(super) struct Example {
    pub(super) messages: Vec<Value>,
    tools: Option<Value>,
    pub(super) ending: Ending,
    pub(super) needles: &'static [&'static str],
}

impl Example {
    /// One with this shape.
    pub(super) fn of(shape: Shape) -> Example {
        let (user, again) = (say("user", USER), say("user", "And now?"));
        let (system, assistant) = (say("system", SYSTEM), say("assistant", ASSISTANT));
        let one = || calls(&[(NAME, json!({ARGUMENT: VALUE}))], "");
        let result = say("tool", RESULT);
        let messages = match shape {
            Shape::User | Shape::Closed | Shape::ToolsOffered | Shape::TypeLists => vec![user],
            Shape::SystemFirst | Shape::ToolsBesideSystem => vec![system, user],
            Shape::SystemLater => vec![user, assistant, system, again],
            Shape::SystemOnly => vec![system],
            Shape::Developer => vec![say("developer", SYSTEM), user],
            Shape::UsersInARow => vec![user, again],
            Shape::AssistantFirst => vec![assistant, user],
            Shape::AssistantsInARow => {
                vec![user, assistant, say("assistant", "More."), again]
            }
            Shape::Turns => vec![user, assistant, again],
            Shape::AssistantLast | Shape::Continued => vec![user, assistant],
            Shape::EmptyContent => vec![say("user", "")],
            Shape::Reasoning => {
                let thought =
                    json!({"role": "assistant", "content": ASSISTANT, REASONING[0]: THOUGHT});
                vec![user, thought, again]
            }
            Shape::ToolCall => vec![user, one(), result, assistant, again],
            Shape::ToolCallWithContent => {
                let call = calls(&[(NAME, json!({ARGUMENT: VALUE}))], "One moment.");
                vec![user, call, result, assistant, again]
            }
            Shape::ToolCallWithReasoning => {
                let mut call = one();
                call[REASONING[0]] = THOUGHT.into();
                vec![user, call, result, assistant, again]
            }
            Shape::SeveralToolCalls => {
                let both = [(NAME, json!({ARGUMENT: VALUE})), (NAME, json!({}))];
                vec![user, calls(&both, ""), result, say("tool", "second"), assistant, again]
            }
            Shape::ToolCallLast => vec![user, one()],
            Shape::ToolResult => vec![user, one(), result],
            Shape::ToolResultWithoutCall => vec![user, result],
            Shape::TextArguments => {
                vec![user, calls(&[(NAME, json!("not an object"))], ""), result]
            }
        };
        let ending = match shape {
            Shape::Closed | Shape::ToolCallLast => Ending::Closed,
            Shape::Continued => Ending::Continue,
            _ => Ending::Reply,
        };
        let typed = json!(["string", "null"]);
        let tools = match shape {
            Shape::ToolsOffered | Shape::ToolsBesideSystem => Some(tools(&json!("string"))),
            Shape::TypeLists => Some(tools(&typed)),
            Shape::ToolCall
            | Shape::ToolCallWithContent
            | Shape::ToolCallWithReasoning
            | Shape::SeveralToolCalls
            | Shape::ToolCallLast
            | Shape::ToolResult
            | Shape::TextArguments => Some(tools(&json!("string"))),
            _ => None,
        };
        Example { messages, tools, ending, needles: needles(shape) }
    }

    /// Three that end with a text, with one call of [`NAME`], and with two.
    pub(super) fn of_calls() -> [Example; 3] {
        let call = (NAME, json!({ARGUMENT: VALUE}));
        let ends = [
            say("assistant", ASSISTANT),
            calls(std::slice::from_ref(&call), ""),
            calls(&[call.clone(), call], ""),
        ];
        ends.map(|end| Example {
            messages: vec![say("user", USER), end],
            tools: Some(tools(&json!("string"))),
            ending: Ending::Closed,
            needles: &[],
        })
    }

    pub(super) fn chat(&self) -> Chat<'_> {
        Chat {
            messages: &self.messages,
            tools: self.tools.as_ref(),
            ending: self.ending,
            extra: None,
            today: Some(SystemTime::UNIX_EPOCH),
        }
    }
}

/// Texts of the example that must appear in the rendered prompt; if none does, the template ignores the shape.
fn needles(shape: Shape) -> &'static [&'static str] {
    match shape {
        Shape::SystemFirst | Shape::SystemLater | Shape::SystemOnly | Shape::Developer => &[SYSTEM],
        Shape::Turns
        | Shape::AssistantFirst
        | Shape::AssistantsInARow
        | Shape::AssistantLast
        | Shape::Continued => &[ASSISTANT],
        Shape::ToolsOffered | Shape::ToolsBesideSystem | Shape::TypeLists => &[TOOL],
        Shape::ToolCall
        | Shape::ToolCallWithContent
        | Shape::ToolCallWithReasoning
        | Shape::SeveralToolCalls
        | Shape::ToolCallLast => &[VALUE],
        Shape::ToolResult | Shape::ToolResultWithoutCall => &[RESULT],
        Shape::TextArguments => &["not an object"],
        Shape::Reasoning => &[],
        Shape::EmptyContent => &[],
        Shape::User | Shape::UsersInARow | Shape::Closed => &[USER],
    }
}

pub(super) fn say(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn calls(functions: &[(&str, Value)], content: &str) -> Value {
    let calls = functions.iter().enumerate().map(|(i, (name, arguments))| {
        json!({"id": format!("call_{i:020}"), "type": "function",
               "function": {"name": name, "arguments": arguments}})
    });
    json!({"role": "assistant", "content": content, "tool_calls": calls.collect::<Value>()})
}

fn tools(kind: &Value) -> Value {
    json!([{"type": "function", "function": {"name": NAME, "description": TOOL, "parameters": {
        "type": "object", "required": [ARGUMENT],
        "properties": {ARGUMENT: {"type": kind, "description": "of what"}}}}}])
}
