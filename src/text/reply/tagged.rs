//! Parses tool calls whose arguments stand between tags, one by one, as Qwen3-Coder, GLM, MiniMax and Seed-OSS write them.
//!
//! A call is returned when its name is known, and each argument when its closing tag has come. Strings are written as
//! they are and other values as JSON; the function's schema tells which is which. It does not know the wire format.

use super::Calls;
use super::calls::{CallEnd, ReplyPiece};
use super::form::{CallForm, Part, Tags};
use crate::text::stop::beginning_at_end;
use serde_json::Value;
use std::sync::Arc;

/// The longest name of a function or an argument.
const MAX_NAME: usize = 256;

/// The tags of a family, without white space around them.
#[derive(Debug, Default)]
struct Markers {
    /// What begins a call, and what stands between that and the name; may be empty.
    opener: String,
    inner: String,
    /// After a name; empty: white space, or the next tag.
    name_end: String,
    open: String,
    key_end: String,
    close: String,
    /// The tags after the last argument.
    tail: Vec<String>,
    /// Whether a value stands on lines of its own.
    lines: bool,
}

impl Markers {
    fn of(form: &CallForm, tags: &Tags) -> Markers {
        let head = text(&form.head);
        let (opener, inner) = head.split_once(char::is_whitespace).unwrap_or((&head, ""));
        Markers {
            opener: opener.trim().to_owned(),
            inner: inner.trim().to_owned(),
            name_end: text(&form.before_arguments).trim().to_owned(),
            open: tags.open.trim().to_owned(),
            key_end: tags.key_end.trim().to_owned(),
            close: tags.close.trim().to_owned(),
            tail: text(&form.tail).split_whitespace().map(str::to_owned).collect(),
            lines: tags.close.starts_with('\n'),
        }
    }
}

fn text(parts: &[Part]) -> String {
    let one = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Id(_) => String::new(),
    };
    parts.iter().map(one).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Text,
    Name,
    Arguments,
    /// After the arguments: closing tags.
    Tail,
}

#[derive(Debug, Default)]
pub(super) struct TaggedParser {
    markers: Markers,
    /// The tools on offer, in the form of chat completions.
    tools: Option<Arc<Value>>,
    phase: Phase,
    /// What has not been used yet.
    held: String,
    /// What has been read since a call's beginning.
    raw: String,
    name: String,
    /// Arguments of the call so far.
    arguments: usize,
    calls: usize,
    /// Whether text has been returned since the last call.
    said: bool,
    broken: bool,
}

enum Next {
    Again,
    /// More text is needed.
    Wait,
}

impl TaggedParser {
    pub(super) fn new(form: &CallForm, tags: &Tags, tools: Option<Arc<Value>>) -> TaggedParser {
        TaggedParser { markers: Markers::of(form, tags), tools, ..TaggedParser::default() }
    }
}

impl Calls for TaggedParser {
    fn broken(&self) -> bool {
        self.broken
    }

    fn held(&self) -> usize {
        match self.phase {
            Phase::Text | Phase::Tail => self.held.chars().count(),
            Phase::Name => self.raw.chars().count() + self.held.chars().count(),
            Phase::Arguments => 0,
        }
    }

    fn push(&mut self, text: &str, out: &mut Vec<ReplyPiece>) {
        self.held.push_str(text);
        loop {
            let next = match self.phase {
                Phase::Text => self.text(out),
                Phase::Name => self.name(out),
                Phase::Arguments => self.arguments(out),
                Phase::Tail => self.tail(),
            };
            if matches!(next, Next::Wait) {
                return;
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<ReplyPiece>) {
        match self.phase {
            Phase::Text => {
                let rest = std::mem::take(&mut self.held);
                self.say(&rest, out);
            }
            Phase::Tail => {}
            Phase::Name => self.give_back(out),
            Phase::Arguments => {
                self.raw.push_str(&self.held);
                self.end(CallEnd::Cut, out);
            }
        }
    }
}

impl TaggedParser {
    fn text(&mut self, out: &mut Vec<ReplyPiece>) -> Next {
        if let Some(at) = self.held.find(&self.markers.opener) {
            let before = self.held[..at].to_owned();
            self.say(before.trim_end(), out);
            self.raw = self.markers.opener.clone();
            self.held.drain(..at + self.markers.opener.len());
            self.phase = Phase::Name;
            return Next::Again;
        }
        // White space before a call is no text.
        let marker = beginning_at_end(&self.held, &self.markers.opener);
        let certain = self.held[..self.held.len() - marker].trim_end().len();
        let said: String = self.held.drain(..certain).collect();
        self.say(&said, out);
        Next::Wait
    }

    fn name(&mut self, out: &mut Vec<ReplyPiece>) -> Next {
        let rest = self.held.trim_start();
        let skipped = self.held.len() - rest.len();
        let Some(rest) = rest.strip_prefix(&self.markers.inner) else {
            if self.markers.inner.starts_with(rest) {
                return Next::Wait;
            }
            self.give_back(out);
            return Next::Again;
        };
        let end = match self.markers.name_end.as_str() {
            "" => rest.find(|c: char| c.is_whitespace() || c == '<'),
            end => rest.find(end),
        };
        let Some(end) = end else {
            if rest.len() > MAX_NAME {
                self.give_back(out);
                return Next::Again;
            }
            return Next::Wait;
        };
        let name = rest[..end].trim().to_owned();
        if name.is_empty() || name.contains(['<', '\n']) {
            self.give_back(out);
            return Next::Again;
        }
        self.take(skipped + self.markers.inner.len() + end + self.markers.name_end.len());
        (self.phase, self.arguments) = (Phase::Arguments, 0);
        let index = self.calls;
        self.calls += 1;
        out.push(ReplyPiece::Begin { index, name: name.clone() });
        out.push(ReplyPiece::Arguments { index, delta: "{".to_owned() });
        self.name = name;
        Next::Again
    }

    fn arguments(&mut self, out: &mut Vec<ReplyPiece>) -> Next {
        let white = self.held.len() - self.held.trim_start().len();
        self.take(white);
        let Markers { open, key_end, close, lines, .. } = &self.markers;
        if let Some(rest) = self.held.strip_prefix(open.as_str()) {
            let Some(key) = rest.find(key_end.as_str()) else { return Next::Wait };
            let Some(value) = rest[key + key_end.len()..].find(close.as_str()) else {
                return Next::Wait;
            };
            let from = key + key_end.len();
            let written = &rest[from..from + value];
            let written = if *lines { without_lines(written) } else { written };
            let delta = self.argument(rest[..key].trim(), written);
            let used = open.len() + from + value + close.len();
            self.take(used);
            self.arguments += 1;
            out.push(ReplyPiece::Arguments { index: self.calls - 1, delta });
            return Next::Again;
        }
        let begins = |tag: &str| tag.starts_with(&self.held) && tag.len() > self.held.len();
        if self.held.is_empty() || begins(open) {
            return Next::Wait;
        }
        let ends = self.markers.tail.first().is_some_and(|tag| self.held.starts_with(tag));
        if ends {
            let index = self.calls - 1;
            out.push(ReplyPiece::Arguments { index, delta: "}".to_owned() });
            out.push(ReplyPiece::End { index, end: CallEnd::Whole });
            (self.phase, self.said) = (Phase::Tail, false);
            return Next::Again;
        }
        if self.markers.tail.first().is_some_and(|tag| begins(tag)) {
            return Next::Wait;
        }
        // Neither an argument nor the end: nothing up to the last tag is of use.
        let last = self.markers.tail.last().cloned().unwrap_or_default();
        let Some(at) = self.held.find(&last) else { return Next::Wait };
        self.take(at + last.len());
        self.end(CallEnd::Broken, out);
        self.phase = Phase::Text;
        Next::Again
    }

    fn tail(&mut self) -> Next {
        let rest = self.held.trim_start();
        let tag = self.markers.tail.iter().find(|tag| rest.starts_with(tag.as_str()));
        if let Some(tag) = tag {
            self.held = rest[tag.len()..].to_owned();
            return Next::Again;
        }
        let may_come = |tag: &String| tag.starts_with(rest);
        if rest.is_empty() || self.markers.tail.iter().any(may_come) {
            return Next::Wait;
        }
        self.held = rest.to_owned();
        self.phase = Phase::Text;
        Next::Again
    }

    /// An argument as a member of a JSON object.
    fn argument(&self, key: &str, written: &str) -> String {
        let value = match self.is_text(key) {
            true => Value::from(written),
            false => serde_json::from_str(written.trim()).unwrap_or_else(|_| Value::from(written)),
        };
        let comma = if self.arguments > 0 { ", " } else { "" };
        format!("{comma}{}: {value}", Value::from(key))
    }

    /// Whether an argument is a text by the function's schema. What is not known is JSON if it can be read as such.
    fn is_text(&self, key: &str) -> bool {
        let tools = self.tools.as_deref().and_then(Value::as_array).into_iter().flatten();
        let mut functions = tools.map(|tool| &tool["function"]);
        let Some(function) = functions.find(|function| function["name"] == self.name.as_str())
        else {
            return false;
        };
        let schema = &function["parameters"]["properties"][key];
        let texts = schema["enum"].as_array().is_some_and(|all| all.iter().all(Value::is_string));
        texts || schema["const"].is_string() || schema["type"] == "string"
    }

    /// Moves what has been read of a call.
    fn take(&mut self, bytes: usize) {
        self.raw.extend(self.held.drain(..bytes));
    }

    fn end(&mut self, how: fn(String) -> CallEnd, out: &mut Vec<ReplyPiece>) {
        self.broken = true;
        let (index, raw) = (self.calls - 1, std::mem::take(&mut self.raw));
        out.push(ReplyPiece::End { index, end: how(raw) });
    }

    /// What began as a call and is none is text.
    fn give_back(&mut self, out: &mut Vec<ReplyPiece>) {
        self.broken = true;
        let raw = std::mem::take(&mut self.raw);
        self.say(&raw, out);
        self.phase = Phase::Text;
    }

    /// Returns text; white space around calls is left out.
    fn say(&mut self, text: &str, out: &mut Vec<ReplyPiece>) {
        let text = match self.calls > 0 && !self.said {
            true => text.trim_start(),
            false => text,
        };
        if text.is_empty() {
            return;
        }
        self.said = true;
        match out.last_mut() {
            Some(ReplyPiece::Text(last)) => last.push_str(text),
            _ => out.push(ReplyPiece::Text(text.to_owned())),
        }
    }
}

/// A value without the line breaks around it.
fn without_lines(written: &str) -> &str {
    let written = written.strip_prefix('\n').unwrap_or(written);
    written.strip_suffix('\n').unwrap_or(written)
}
