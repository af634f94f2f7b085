//! What a chat template supports: each shape of conversation is tried once at load.
//!
//! The supported shapes are known before there is traffic, as a plain value stored with the template. So the error for
//! an unsupported shape can name the message and the shape, and counts as a client error. And two versions can be
//! compared before one replaces the other ([`Abilities::losses`]).
//!
//! Some templates need the same thing in another form, and probing also finds that form ([`Wants`]): the
//! standard form is tried first, and another is chosen only if it works where the standard form does not.
//!
//! Pure: the renderer is an argument.

mod examples;

use super::conversation::{Chat, Ending, canonical, cut_at_end};
use super::message::{REASONING, Wants};
use super::reply::{CallSyntax, Samples};
use super::template::{Job, Stop};
use examples::{ARGUMENT, Example, NAME, VALUE};
use serde_json::Value;

named! {
    /// A shape of conversation.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Shape {
        /// A single user message; a template that fails on it is not loaded.
        User = "a user message",
        /// A system message as the first message.
        SystemFirst = "a system message",
        /// A system message that is not the first message.
        SystemLater = "a system message that is not the first",
        /// No user message; the example has only a system message.
        SystemOnly = "a conversation without a user message",
        /// A message with the role `developer`.
        Developer = "a developer message",
        /// Two adjacent user messages.
        UsersInARow = "two user messages in a row",
        /// An assistant message before any user message.
        AssistantFirst = "an assistant message before any user message",
        /// Two adjacent assistant messages.
        AssistantsInARow = "two assistant messages in a row",
        /// An assistant message; in the example, it is between two user messages.
        Turns = "an assistant message",
        /// An assistant message comes last, and a new reply is requested.
        AssistantLast = "an assistant message as the last",
        /// Rendered without the opening of a reply (`add_generation_prompt` is false).
        Closed = "add_generation_prompt = false",
        /// The last message is continued instead of answered (`continue_final_message`).
        Continued = "continue_final_message",
        /// A user message whose content is empty.
        EmptyContent = "a message without content",
        /// An assistant message with reasoning and without a tool call.
        Reasoning = "an assistant's reasoning",
        /// Tools are offered in the request.
        ToolsOffered = "tools",
        /// Tools are offered, and there is a system or developer message.
        ToolsBesideSystem = "tools together with a system message",
        /// A parameter of an offered tool has a list of types, such as `["string", "null"]`.
        TypeLists = "a tool parameter of more than one type",
        /// An assistant message with a tool call; in the example, the tool's result follows.
        ToolCall = "a tool call",
        /// A tool call in a message that also has content.
        ToolCallWithContent = "a tool call together with content",
        /// A tool call in a message that also has reasoning.
        ToolCallWithReasoning = "a tool call together with reasoning",
        /// More than one tool call in the same assistant message.
        SeveralToolCalls = "several tool calls in one message",
        /// The conversation ends with a tool call that has no result yet.
        ToolCallLast = "a tool call as the last message",
        /// A tool's result after a tool call.
        ToolResult = "a tool's result",
        /// A tool's result without any tool call before it.
        ToolResultWithoutCall = "a tool's result without a call before it",
        /// A tool call whose arguments are text that does not parse as a JSON object.
        TextArguments = "a tool call whose arguments are not a JSON object",
    }
}

impl Shape {
    /// Its name in messages for people.
    pub fn words(self) -> &'static str {
        self.as_str()
    }
}

/// The result of trying a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is rendered.
    Taken,
    /// It is rendered, but the part that makes up the shape is missing.
    LeftOut,
    /// The template rejects it, with this message.
    Refused(String),
    /// The template fails on it, with this error.
    Failed(String),
}

/// The result of every shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    outcomes: Vec<(Shape, Outcome)>,
}

impl Abilities {
    /// The result of one shape; [`Outcome::Taken`] for a shape that was not tried.
    pub fn of(&self, shape: Shape) -> &Outcome {
        let found = self.outcomes.iter().find(|(s, _)| *s == shape);
        found.map_or(&Outcome::Taken, |(_, outcome)| outcome)
    }

    /// Each shape with its result.
    pub fn iter(&self) -> impl Iterator<Item = (Shape, &Outcome)> {
        self.outcomes.iter().map(|(shape, outcome)| (*shape, outcome))
    }

    /// Whether the template leaves out the tools that it is given. Then the model cannot call them.
    pub fn hides_tools(&self) -> bool {
        *self.of(Shape::ToolsOffered) == Outcome::LeftOut
    }

    /// The shapes that only one of the two templates supports, in plain words; empty if they are alike. Meant
    /// for stable (`self`) and canary (`other`).
    pub fn differences(&self, other: &Abilities) -> Vec<String> {
        self.compared(other).map(|(_, words)| words).collect()
    }

    /// Those of [`Abilities::differences`] in which `other` does less.
    pub fn losses(&self, other: &Abilities) -> Vec<String> {
        self.compared(other).filter(|(less, _)| *less).map(|(_, words)| words).collect()
    }

    /// Each difference, and whether `other` does less.
    fn compared(&self, other: &Abilities) -> impl Iterator<Item = (bool, String)> {
        Shape::ALL.into_iter().filter_map(|shape| {
            let words = shape.words();
            match (self.of(shape), other.of(shape)) {
                (Outcome::Taken | Outcome::LeftOut, Outcome::Refused(why)) => {
                    Some((true, format!("no longer takes {words}: refuses it ({why})")))
                }
                (Outcome::Taken | Outcome::LeftOut, Outcome::Failed(why)) => {
                    Some((true, format!("no longer takes {words}: fails on it ({why})")))
                }
                (Outcome::Taken, Outcome::LeftOut) => Some((true, format!("leaves out {words}"))),
                (Outcome::Refused(_) | Outcome::Failed(_), Outcome::Taken) => {
                    Some((false, format!("newly takes {words}")))
                }
                (Outcome::LeftOut, Outcome::Taken) => {
                    Some((false, format!("no longer leaves out {words}")))
                }
                (Outcome::Refused(_) | Outcome::Failed(_), Outcome::LeftOut) => {
                    Some((false, format!("leaves out {words} instead of refusing it")))
                }
                _ => None,
            }
        })
    }

    /// The first thing in a conversation that the template does not support: the message, if one is at fault,
    /// the shape, and the template's error.
    pub(super) fn obstacle(&self, chat: &Chat<'_>) -> Option<(Option<usize>, Shape, &str)> {
        shapes_of(chat).into_iter().find_map(|(index, shape)| match self.of(shape) {
            Outcome::Refused(why) | Outcome::Failed(why) => Some((index, shape, why.as_str())),
            Outcome::Taken | Outcome::LeftOut => None,
        })
    }
}

/// The shapes of a conversation, with the first message of each. More specific shapes come later, so that an
/// error is as specific as possible.
fn shapes_of(chat: &Chat<'_>) -> Vec<(Option<usize>, Shape)> {
    let mut found: Vec<(Option<usize>, Shape)> = Vec::new();
    let mut add = |index: Option<usize>, shape: Shape| {
        if !found.iter().any(|(_, known)| *known == shape) {
            found.push((index, shape));
        }
    };
    let role = |i: usize| chat.messages[i].get("role").and_then(Value::as_str).unwrap_or("");
    let has_system =
        chat.messages.iter().any(|m| m["role"] == "system" || m["role"] == "developer");
    if chat.tools.and_then(Value::as_array).is_some_and(|tools| !tools.is_empty()) {
        add(None, Shape::ToolsOffered);
        if has_system {
            add(None, Shape::ToolsBesideSystem);
        }
        if chat.tools.is_some_and(has_type_list) {
            add(None, Shape::TypeLists);
        }
    }
    let users: Vec<usize> = (0..chat.messages.len()).filter(|i| role(*i) == "user").collect();
    if users.is_empty() {
        add(None, Shape::SystemOnly);
    }
    for index in 0..chat.messages.len() {
        let at = Some(index);
        let same = index > 0 && role(index) == role(index - 1);
        let before_users = users.first().is_none_or(|first| index < *first);
        match role(index) {
            "system" if index == 0 => add(at, Shape::SystemFirst),
            "system" => add(at, Shape::SystemLater),
            "developer" => add(at, Shape::Developer),
            "user" if same => add(at, Shape::UsersInARow),
            "tool" => {
                let called = chat.messages[..index].iter().any(|m| is_filled(&m["tool_calls"]));
                add(at, if called { Shape::ToolResult } else { Shape::ToolResultWithoutCall });
            }
            "assistant" => {
                add(at, Shape::Turns);
                if same {
                    add(at, Shape::AssistantsInARow);
                }
                if before_users {
                    add(at, Shape::AssistantFirst);
                }
                shapes_of_assistant(&chat.messages[index], &mut |shape| add(at, shape));
            }
            _ => {}
        }
        if !is_filled(&chat.messages[index]["content"]) && role(index) == "user" {
            add(at, Shape::EmptyContent);
        }
    }
    let last = chat.messages.len().checked_sub(1);
    if let Some(last) = last.filter(|last| role(*last) == "assistant") {
        match is_filled(&chat.messages[last]["tool_calls"]) {
            true => add(Some(last), Shape::ToolCallLast),
            false if chat.ending == Ending::Reply => add(Some(last), Shape::AssistantLast),
            false => {}
        }
    }
    match chat.ending {
        Ending::Reply => {}
        Ending::Closed => add(None, Shape::Closed),
        Ending::Continue => add(last, Shape::Continued),
    }
    found
}

fn shapes_of_assistant(message: &Value, add: &mut dyn FnMut(Shape)) {
    let reasons = REASONING.iter().any(|name| is_filled(&message[*name]));
    let calls = message["tool_calls"].as_array().filter(|calls| !calls.is_empty());
    let Some(calls) = calls else {
        if reasons {
            add(Shape::Reasoning);
        }
        return;
    };
    add(Shape::ToolCall);
    if is_filled(&message["content"]) {
        add(Shape::ToolCallWithContent);
    }
    if reasons {
        add(Shape::ToolCallWithReasoning);
    }
    if calls.len() > 1 {
        add(Shape::SeveralToolCalls);
    }
    let opaque = |call: &Value| {
        let text = call["function"]["arguments"].as_str().filter(|text| !text.trim().is_empty());
        text.is_some_and(|text| {
            !serde_json::from_str::<Value>(text).is_ok_and(|arguments| arguments.is_object())
        })
    };
    if calls.iter().any(opaque) {
        add(Shape::TextArguments);
    }
}

fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

fn has_type_list(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.get("type").is_some_and(Value::is_array) || map.values().any(has_type_list)
        }
        Value::Array(list) => list.iter().any(has_type_list),
        _ => false,
    }
}

/// Renders jobs in order, up to the first that exceeds a limit.
pub(super) type Render<'a> = dyn FnMut(&[Job]) -> Vec<Result<String, Stop>> + 'a;

/// Adds one thing that the template wants.
type Change = fn(&mut Wants);

/// What a template wants and supports. `text` is its source.
///
/// # Errors
/// The limit that it exceeded, or why it could not be tried.
pub(super) fn probe(text: &str, render: &mut Render<'_>) -> Result<(Wants, Abilities), Stop> {
    let mut wants = Wants { developer: text.contains("developer"), ..Wants::default() };
    let forms: [(Shape, Change); 5] = [
        (Shape::User, |wants| wants.parts = true),
        (Shape::ToolCall, |wants| wants.short_ids = true),
        (Shape::ToolCall, |wants| wants.text_arguments = true),
        (Shape::ToolCall, |wants| (wants.short_ids, wants.text_arguments) = (true, true)),
        (Shape::TypeLists, |wants| wants.one_type = true),
    ];
    for (shape, change) in forms {
        if attempt(&[shape], wants, render)?[0].1 == Outcome::Taken {
            continue;
        }
        let mut other = wants;
        change(&mut other);
        if attempt(&[shape], other, render)?[0].1 == Outcome::Taken {
            wants = other;
        }
    }
    let outcomes = attempt(&Shape::ALL, wants, render)?;
    Ok((wants, Abilities { outcomes }))
}

/// How calls are written, from conversations that end with a text, with one call and with two; the usual syntax if
/// the template shows no call. `source` is the template's.
pub(super) fn call_syntax(source: &str, wants: Wants, render: &mut Render<'_>) -> CallSyntax {
    let examples = Example::of_calls();
    let jobs = examples.iter().map(|example| canonical(&example.chat(), wants));
    let Ok(jobs) = jobs.collect::<Result<Vec<Job>, _>>() else { return CallSyntax::default() };
    let rendered: Vec<_> = render(&jobs).into_iter().map(Result::ok).collect();
    let [Some(said), Some(one), two] = &rendered[..] else { return CallSyntax::default() };
    let samples = Samples {
        said,
        one,
        two: two.as_deref(),
        name: NAME,
        argument: ARGUMENT,
        value: VALUE,
        source,
    };
    CallSyntax::of(samples).unwrap_or_default()
}

fn attempt(
    shapes: &[Shape],
    wants: Wants,
    render: &mut Render<'_>,
) -> Result<Vec<(Shape, Outcome)>, Stop> {
    let examples: Vec<Example> = shapes.iter().map(|shape| Example::of(*shape)).collect();
    let jobs = examples.iter().map(|example| canonical(&example.chat(), wants));
    let jobs = jobs.collect::<Result<Vec<Job>, _>>();
    let jobs = jobs.map_err(|e| Stop::Failed { line: 0, what: e.to_string() })?;
    let rendered = render(&jobs);
    let mut outcomes = Vec::with_capacity(shapes.len());
    for ((shape, example), result) in shapes.iter().zip(&examples).zip(rendered) {
        outcomes.push((*shape, outcome(example, result)?));
    }
    if outcomes.len() < shapes.len() {
        return Err(Stop::NoRoom("the trial was interrupted".into()));
    }
    Ok(outcomes)
}

fn outcome(example: &Example, result: Result<String, Stop>) -> Result<Outcome, Stop> {
    let text = match result {
        Ok(text) => text,
        Err(Stop::Refused(why)) => return Ok(Outcome::Refused(why)),
        Err(Stop::Failed { line, what }) => {
            return Ok(Outcome::Failed(format!("line {line}: {what}")));
        }
        Err(stop @ (Stop::Syntax { .. } | Stop::Exhausted(_) | Stop::NoRoom(_))) => {
            return Err(stop);
        }
    };
    if example.ending == Ending::Continue && cut_at_end(&text).is_none() {
        let why = "it leaves the last message's content out";
        return Ok(Outcome::Refused(why.into()));
    }
    // Even a template that trims or wraps content shows its words.
    let shown = example.needles.iter().all(|needle| text.contains(needle));
    Ok(if shown { Outcome::Taken } else { Outcome::LeftOut })
}

#[cfg(test)]
mod tests;
