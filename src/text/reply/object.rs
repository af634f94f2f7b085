//! Reads one tool call, a JSON object with a name and arguments, while it is being generated.
//!
//! Models usually write the name first, so arguments can be passed on as they are generated. A call in another order is
//! passed on when it is complete. It does not know about the markers around a call.

use super::scan::{Scanner, Step};
use serde_json::Value;

const NAME: &str = "name";
/// Under which name models write the arguments.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];
/// Some models wrap the call, as the API does.
const WRAPPER: &str = "function";
/// A longer call is not one.
const MAX_CALL: usize = 1 << 20;

/// What a character of a call brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing yet.
    More,
    /// The call is certain; what of its arguments is there.
    Begin { name: String, arguments: String },
    /// More of the arguments: a character, and whether it is inside a string.
    Arguments(char, bool),
    /// The object is complete, and was begun.
    End,
    /// The object is complete, and only now certain.
    Whole { name: String, arguments: String },
    /// It is no call, or its JSON is broken.
    Broken,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Object {
    scanner: Scanner,
    text: String,
    /// The depth of the object that holds name and arguments.
    level: usize,
    /// The last key at that level.
    key: String,
    /// The string or container in progress at that level: where it starts in `text`.
    start: Option<usize>,
    name: Option<String>,
    arguments: Arguments,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Arguments {
    #[default]
    None,
    /// An object in progress that is kept: the name has not come yet.
    Kept,
    /// An object in progress that is passed on.
    Passed,
    /// An object that has been passed on.
    Done,
    Complete(String),
}

impl Object {
    pub(super) fn new() -> Object {
        Object { level: 1, ..Object::default() }
    }

    /// Whether a call has been passed on.
    pub(super) fn is_begun(&self) -> bool {
        matches!(self.arguments, Arguments::Passed | Arguments::Done)
    }

    /// Whether the arguments have been passed on to their end.
    pub(super) fn is_complete(&self) -> bool {
        self.arguments == Arguments::Done
    }

    pub(super) fn push(&mut self, c: char) -> Read {
        let (before, was_string) = (self.scanner.depth(), self.scanner.in_string());
        let (at_key, at_value) = (self.scanner.at_key(), self.scanner.at_value());
        let at = self.text.len();
        let step = self.scanner.push(c);
        self.text.push(c);
        if step == Step::Invalid || self.text.len() > MAX_CALL {
            return Read::Broken;
        }
        let after = self.scanner.depth();
        if self.arguments == Arguments::Passed {
            if after == self.level {
                self.start = None;
                self.arguments = Arguments::Done;
            }
            return Read::Arguments(c, was_string);
        }
        if before == self.level && at_value && self.is_arguments() && !can_be_arguments(c) {
            return Read::Broken;
        }
        if before == self.level && (at_key || at_value) && matches!(c, '"' | '{' | '[') {
            self.start = Some(at);
            if at_value && c == '{' {
                return self.container();
            }
        } else if after == self.level && self.start.is_some() {
            let string = was_string && !self.scanner.in_string();
            if string || before > self.level {
                return self.token(string);
            }
        } else if before == self.level && at_value && !c.is_ascii_whitespace() {
            // A number, or null.
            if self.is_arguments() && c == 'n' {
                self.arguments = Arguments::Complete("{}".into());
            }
        } else if after < self.level {
            if self.level > 1 && after > 0 {
                self.level = after;
                return Read::More;
            }
            return self.end();
        }
        Read::More
    }

    fn is_arguments(&self) -> bool {
        ARGUMENTS.contains(&self.key.as_str())
    }

    /// An object begins as a value.
    fn container(&mut self) -> Read {
        if self.key == WRAPPER && self.name.is_none() {
            self.level += 1;
            self.start = None;
        } else if self.is_arguments() && self.arguments == Arguments::None {
            if let Some(name) = self.name.clone() {
                self.arguments = Arguments::Passed;
                return Read::Begin { name, arguments: "{".into() };
            }
            self.arguments = Arguments::Kept;
        }
        Read::More
    }

    /// A string or a container has ended at the level.
    fn token(&mut self, string: bool) -> Read {
        let Some(start) = self.start.take() else { return Read::More };
        let raw = &self.text[start..];
        if !string {
            if self.arguments == Arguments::Kept && self.is_arguments() {
                self.arguments = Arguments::Complete(escaped(raw));
            }
            return Read::More;
        }
        let Ok(text) = serde_json::from_str::<String>(&escaped(raw)) else { return Read::Broken };
        if !self.scanner.is_past_value() {
            self.key = text;
        } else if self.key == NAME {
            self.name = Some(text).filter(|name| !name.is_empty());
        } else if self.is_arguments() && self.arguments == Arguments::None {
            // Some models write the arguments as a string, as in the API.
            let object = serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object());
            if !object {
                return Read::Broken;
            }
            self.arguments = Arguments::Complete(text);
        }
        Read::More
    }

    fn end(&mut self) -> Read {
        match (self.name.take(), std::mem::replace(&mut self.arguments, Arguments::None)) {
            (_, Arguments::Done) => Read::End,
            (Some(name), Arguments::Complete(arguments)) => Read::Whole { name, arguments },
            (Some(name), Arguments::None) => Read::Whole { name, arguments: "{}".into() },
            _ => Read::Broken,
        }
    }
}

/// Whether a value that begins like this, or white space before it, can be the arguments: an object, a string, or null.
fn can_be_arguments(c: char) -> bool {
    matches!(c, '{' | '"' | 'n') || c.is_ascii_whitespace()
}

/// JSON text with control characters inside strings written as JSON wants them.
pub(super) fn escaped(raw: &str) -> String {
    let (mut out, mut scanner) = (String::with_capacity(raw.len()), Scanner::default());
    // A text that is no container is a string.
    let bare = raw.starts_with('"');
    for c in raw.chars() {
        let inside = bare || scanner.in_string();
        if !bare {
            scanner.push(c);
        }
        escape(&mut out, c, inside);
    }
    out
}

/// Writes a character of JSON text; `inside` a string, control characters are escaped.
pub(super) fn escape(out: &mut String, c: char, inside: bool) {
    match c {
        '\n' if inside => out.push_str("\\n"),
        '\r' if inside => out.push_str("\\r"),
        '\t' if inside => out.push_str("\\t"),
        c if inside && c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    }
}
