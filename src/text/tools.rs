//! Parses tool calls in a model's output, Hermes style, while it is being generated.
//!
//! Qwen, Hermes and similar models write `<tool_call>`, a JSON object with `name` and `arguments`, and
//! `</tool_call>`. A call is returned when it is complete: only at the end is it known whether its JSON is
//! valid, and half a call is of no use to a client. Everything that is not a call is returned as text; only
//! white space around calls is dropped.
//!
//! A closing tag inside a JSON string is part of the arguments (code about tool calls exists), so a small
//! scanner follows the quotes. If a broken call leaves a quote open, this shows at the end of the generation:
//! the call is returned as text, and parsing continues after it.
//!
//! It does not know about the wire format: ids for calls are made where responses are built.

use super::stop::beginning_at_end;
use serde_json::Value;

/// The tag that opens a call. A call that cannot be parsed comes back as one piece of text that starts with it.
pub(super) const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// A longer call is returned as text.
const MAX_CALL: usize = 1 << 20;

/// A piece of a model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolPiece {
    /// Text for the reader.
    Text(String),
    /// A call begins.
    Begin {
        /// Its index among the calls of this answer, from 0.
        index: usize,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call's index among the calls of this answer.
        index: usize,
        /// The next part of the arguments' JSON text.
        delta: String,
    },
}

/// Parses one answer for tool calls.
#[derive(Debug, Default)]
pub struct ToolCallParser {
    state: State,
    calls: usize,
}

#[derive(Debug)]
enum State {
    /// Outside calls; the held text may begin a call, or be white space next to one.
    Text(String),
    /// Inside a call.
    Call(Body),
}

impl Default for State {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

/// The text after an opening tag, and how far it has been scanned.
#[derive(Debug, Default)]
struct Body {
    text: String,
    scanned: usize,
    in_string: bool,
}

impl ToolCallParser {
    /// Starts at the beginning of an answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of calls returned so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Processes the next piece of text and returns what is now certain.
    pub fn push(&mut self, text: &str) -> Vec<ToolPiece> {
        let mut pieces = Vec::new();
        match &mut self.state {
            State::Text(held) => held.push_str(text),
            State::Call(body) => body.text.push_str(text),
        }
        while self.step(&mut pieces) {}
        pieces
    }

    /// Ends the answer: a call that lacks only its closing tag is accepted; anything else is text.
    pub fn finish(&mut self) -> Vec<ToolPiece> {
        let mut pieces = Vec::new();
        loop {
            match std::mem::take(&mut self.state) {
                State::Text(held) => {
                    self.text(&mut pieces, held);
                    return pieces;
                }
                State::Call(body) => self.settle(&mut pieces, &body.text),
            }
            while self.step(&mut pieces) {}
        }
    }

    /// Moves past one boundary if it has been found.
    fn step(&mut self, pieces: &mut Vec<ToolPiece>) -> bool {
        match std::mem::take(&mut self.state) {
            State::Text(held) => self.step_text(pieces, held),
            State::Call(body) => self.step_call(pieces, body),
        }
    }

    fn step_text(&mut self, pieces: &mut Vec<ToolPiece>, mut held: String) -> bool {
        if let Some(at) = held.find(OPEN) {
            let text = held[at + OPEN.len()..].to_owned();
            held.truncate(at);
            self.text(pieces, held);
            self.state = State::Call(Body { text, ..Body::default() });
            return true;
        }
        let mut certain = held.len() - beginning_at_end(&held, OPEN);
        if self.calls > 0 && held[..certain].trim().is_empty() {
            certain = 0;
        }
        self.state = State::Text(held.split_off(certain));
        self.text(pieces, held);
        false
    }

    fn step_call(&mut self, pieces: &mut Vec<ToolPiece>, mut body: Body) -> bool {
        if let Some(end) = body.find_close() {
            if self.call(pieces, &body.text[..end]) {
                self.state = State::Text(body.text.split_off(end + CLOSE.len()));
            } else {
                self.give_back(pieces, &body.text);
            }
            return true;
        }
        if body.text.len() > MAX_CALL {
            self.settle(pieces, &body.text);
            return true;
        }
        self.state = State::Call(body);
        false
    }

    /// Handles a call that was not properly closed.
    fn settle(&mut self, pieces: &mut Vec<ToolPiece>, body: &str) {
        if self.call(pieces, body) {
            self.state = State::default();
        } else {
            self.give_back(pieces, body);
        }
    }

    /// Returns a broken call as text, up to its first closing tag, and continues after that.
    fn give_back(&mut self, pieces: &mut Vec<ToolPiece>, body: &str) {
        let end = body.find(CLOSE).map_or(body.len(), |at| at + CLOSE.len());
        pieces.push(ToolPiece::Text(format!("{OPEN}{}", &body[..end])));
        self.state = State::Text(body[end..].to_owned());
    }

    /// Returns text, unless it is only white space around calls.
    fn text(&self, pieces: &mut Vec<ToolPiece>, text: String) {
        if !(text.is_empty() || self.calls > 0 && text.trim().is_empty()) {
            pieces.push(ToolPiece::Text(text));
        }
    }

    /// Returns a call if `body` is one.
    fn call(&mut self, pieces: &mut Vec<ToolPiece>, body: &str) -> bool {
        let Some((name, arguments)) = parse(body) else { return false };
        let index = self.calls;
        self.calls += 1;
        pieces.push(ToolPiece::Begin { index, name });
        pieces.push(ToolPiece::Arguments { index, delta: arguments });
        true
    }
}

impl Body {
    /// Where the closing tag starts, if it has been found outside a JSON string.
    fn find_close(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.scanned) {
            match byte {
                b'\\' if self.in_string && self.scanned + 1 == bytes.len() => return None,
                b'\\' if self.in_string => self.scanned += 1,
                b'"' => self.in_string = !self.in_string,
                b'<' if !self.in_string => {
                    let rest = &bytes[self.scanned..];
                    if rest.starts_with(CLOSE.as_bytes()) {
                        return Some(self.scanned);
                    }
                    if CLOSE.as_bytes().starts_with(rest) {
                        return None;
                    }
                }
                _ => {}
            }
            self.scanned += 1;
        }
        None
    }
}

/// The name of a call and its arguments as JSON text.
fn parse(body: &str) -> Option<(String, String)> {
    let call: Value = serde_json::from_str(body.trim()).ok()?;
    let name = call.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let arguments = match call.get("arguments").or_else(|| call.get("parameters")) {
        None | Some(Value::Null) => "{}".to_owned(),
        // Some models write the arguments as a string, as in the API.
        Some(Value::String(text))
            if serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object()) =>
        {
            text.clone()
        }
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    Some((name.to_owned(), arguments))
}

#[cfg(test)]
mod tests;
