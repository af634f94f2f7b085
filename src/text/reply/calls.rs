//! Parses tool calls in a model's output, in its family's syntax, while it is being generated.
//!
//! Text outside calls is returned as text; only white space around calls is dropped. A call is returned as soon as it
//! is certain to be one: when its name is known and its arguments begin. Its arguments follow as they are generated.
//! Text that begins like a call but is not one is returned as text, up to the first closing marker. The end of each
//! returned call says whether its arguments are complete.
//!
//! It does not know about the wire format: ids for calls are made where responses are built.

use super::Calls;
use super::object::{Object, Read, escape};
use super::scan::{Scanner, Step};
use super::syntax::CallSyntax;
use serde_json::{Map, Value};
use std::sync::Arc;

const MAX_NAME: usize = 256;

/// A piece of a model's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyPiece {
    /// Text for the reader.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
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
    /// A call ends; each that begins does.
    End {
        /// The call's index among the calls of this answer.
        index: usize,
        /// How.
        end: CallEnd,
    },
}

impl ReplyPiece {
    /// The text, if it is a piece of text for the reader.
    pub fn text(&self) -> Option<&str> {
        match self {
            ReplyPiece::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// Its arguments are a JSON object.
    Whole,
    /// The reply ended inside its arguments: what the model wrote of the call.
    Cut(String),
    /// Its arguments are no JSON object: what the model wrote, up to the first closing marker.
    Broken(String),
}

#[derive(Debug)]
pub(super) struct CallParser {
    syntax: CallSyntax,
    /// The tools on offer: without a marker, only they can be called.
    names: Arc<[String]>,
    state: State,
    /// What has been read since a call's opening, to be given back if it is none.
    raw: String,
    /// Whether the call was opened without a marker, and whether inside a list.
    bare: bool,
    list: bool,
    /// Whether text has been returned.
    said: bool,
    /// After a call: no text has followed it yet.
    after_call: bool,
    /// White space between two texts, or before a call.
    space: String,
    calls: usize,
    /// The last call's arguments so far, until it ends.
    arguments: Option<String>,
    broken: bool,
}

#[derive(Debug)]
enum State {
    /// Outside calls; the held text may begin a marker, or be white space next to a call.
    Text(String),
    /// After a marker.
    Opened,
    /// A name stands before the arguments.
    Name(String),
    Object(Box<Object>),
    /// Arguments after a name.
    Arguments(Scanner),
    /// After a call: a marker may follow.
    After(String),
    /// A call broke after it was begun: nothing up to its closing marker is of use.
    Broken(String),
}

impl CallParser {
    pub(super) fn new(syntax: CallSyntax, names: Arc<[String]>) -> CallParser {
        CallParser {
            syntax,
            names,
            state: State::Text(String::new()),
            raw: String::new(),
            bare: false,
            list: false,
            said: false,
            after_call: false,
            space: String::new(),
            calls: 0,
            arguments: None,
            broken: false,
        }
    }
}

impl Calls for CallParser {
    fn held(&self) -> usize {
        let held = match &self.state {
            State::Text(held) | State::After(held) => held.as_str(),
            State::Opened | State::Name(_) => &self.raw,
            State::Object(object) if !object.is_begun() => &self.raw,
            State::Object(_) | State::Arguments(_) | State::Broken(_) => "",
        };
        self.space.chars().count() + held.chars().count()
    }

    fn broken(&self) -> bool {
        self.broken
    }

    fn push(&mut self, text: &str, out: &mut Vec<ReplyPiece>) {
        let mut todo = vec![text.to_owned()];
        while let Some(text) = todo.pop() {
            for (at, c) in text.char_indices() {
                if let Some(again) = self.step(c, out) {
                    todo.push(text[at + c.len_utf8()..].to_owned());
                    todo.push(again);
                    break;
                }
            }
        }
    }

    fn finish(&mut self, out: &mut Vec<ReplyPiece>) {
        loop {
            match std::mem::replace(&mut self.state, State::Text(String::new())) {
                State::Text(held) => return self.say(&held, out),
                State::Broken(_) => return self.end(CallEnd::Broken, out),
                State::Arguments(_) => return self.end(CallEnd::Cut, out),
                State::Object(object) if object.is_begun() => {
                    return self.end(CallEnd::Cut, out);
                }
                State::After(held) => {
                    let marker = self.syntax.after().any(|marker| marker.starts_with(&held));
                    if !marker {
                        self.say(&held, out);
                    }
                    return;
                }
                State::Opened | State::Name(_) | State::Object(_) => {
                    let rest = self.give_back(out);
                    self.push(&rest, out);
                }
            }
        }
    }
}

impl CallParser {
    /// Takes a character; returns text that is to be taken again.
    fn step(&mut self, c: char, out: &mut Vec<ReplyPiece>) -> Option<String> {
        match std::mem::replace(&mut self.state, State::Opened) {
            State::Text(held) => self.outside(held, c, out),
            State::Opened => return self.opened(c, out),
            State::Name(name) => return self.name(name, c, out),
            State::Object(object) => return self.object(object, c, out),
            State::Arguments(scanner) => self.arguments(scanner, c, out),
            State::After(held) => return self.after(held, c),
            State::Broken(held) => self.skip(held, c, out),
        }
        None
    }

    fn outside(&mut self, mut held: String, c: char, out: &mut Vec<ReplyPiece>) {
        held.push(c);
        if c == '{' && self.syntax.bare && !self.said && self.calls == 0 && held.trim() == "{" {
            self.open(true);
            return self.begin_object();
        }
        // White space between calls and before anything else is held.
        loop {
            let from = held.len() - held.trim_start().len();
            let word = &held[from..];
            if word.is_empty() && !self.said {
                break;
            }
            let opened = self.syntax.openers().find(|marker| *marker == word).map(str::to_owned);
            if let Some(marker) = opened {
                self.say(&held[..from], out);
                self.open(false);
                self.raw = marker;
                return;
            }
            if !word.is_empty() && self.syntax.openers().any(|marker| marker.starts_with(word)) {
                break;
            }
            if held.is_empty() {
                break;
            }
            // The first character, and white space before it, cannot begin a marker.
            let first = word.chars().next().map_or(held.len(), |c| from + c.len_utf8());
            let rest = held.split_off(first);
            self.say(&held, out);
            held = rest;
        }
        self.state = State::Text(held);
    }

    fn open(&mut self, bare: bool) {
        (self.bare, self.list) = (bare, false);
        self.raw.clear();
        self.state = State::Opened;
    }

    fn begin_object(&mut self) {
        let mut object = Object::new();
        object.push('{');
        self.raw.push('{');
        self.state = State::Object(Box::new(object));
    }

    fn opened(&mut self, c: char, out: &mut Vec<ReplyPiece>) -> Option<String> {
        match c {
            '{' => {
                self.begin_object();
                return None;
            }
            '[' if !self.list => self.list = true,
            c if c.is_whitespace() => {}
            c if is_of_name(c) && self.syntax.named && !self.list => {
                self.raw.push(c);
                self.state = State::Name(c.to_string());
                return None;
            }
            _ => {
                self.raw.push(c);
                return Some(self.give_back(out));
            }
        }
        self.raw.push(c);
        None
    }

    fn name(&mut self, mut name: String, c: char, out: &mut Vec<ReplyPiece>) -> Option<String> {
        self.raw.push(c);
        let separator = &self.syntax.separator;
        if c == '{' {
            let end = name.find(|c| !is_of_name(c)).unwrap_or(name.len());
            // Before the separator may stand a call's id.
            if !name[end..].trim().ends_with(separator) {
                return Some(self.give_back(out));
            }
            let word = &name[..end];
            let mut scanner = Scanner::default();
            scanner.push('{');
            self.begin(word.to_owned(), "{", out);
            self.state = State::Arguments(scanner);
            return None;
        }
        name.push(c);
        let between = name.trim_start_matches(is_of_name).trim();
        if name.len() > MAX_NAME || separator.is_empty() && !between.is_empty() {
            return Some(self.give_back(out));
        }
        self.state = State::Name(name);
        None
    }

    fn object(
        &mut self,
        mut object: Box<Object>,
        c: char,
        out: &mut Vec<ReplyPiece>,
    ) -> Option<String> {
        self.raw.push(c);
        match object.push(c) {
            Read::More => {}
            Read::Begin { name, arguments } if self.may_call(&name) => {
                self.begin(name, &arguments, out);
            }
            Read::Whole { name, arguments } if self.may_call(&name) => {
                self.begin(name, &arguments, out);
                self.complete(State::After(String::new()), out);
                return None;
            }
            Read::Arguments(c, inside) => {
                self.more(c, inside, out);
                if object.is_complete() {
                    self.complete(State::Object(object), out);
                    return None;
                }
            }
            Read::End => {
                self.state = State::After(String::new());
                return None;
            }
            Read::Broken if object.is_begun() => {
                self.broken = true;
                self.state = State::Broken(c.to_string());
                return None;
            }
            Read::Broken | Read::Begin { .. } | Read::Whole { .. } => {
                return Some(self.give_back(out));
            }
        }
        self.state = State::Object(object);
        None
    }

    fn may_call(&self, name: &str) -> bool {
        !self.bare || self.names.iter().any(|known| known == name)
    }

    fn arguments(&mut self, mut scanner: Scanner, c: char, out: &mut Vec<ReplyPiece>) {
        self.raw.push(c);
        let inside = scanner.in_string();
        match scanner.push(c) {
            Step::Invalid => {
                self.broken = true;
                self.state = State::Broken(c.to_string());
            }
            step => {
                self.more(c, inside, out);
                match step {
                    Step::Done => self.complete(State::After(String::new()), out),
                    _ => self.state = State::Arguments(scanner),
                }
            }
        }
    }

    fn after(&mut self, mut held: String, c: char) -> Option<String> {
        let loose = self.list || self.bare;
        if held.is_empty() && loose && c == '{' {
            self.raw.clear();
            self.begin_object();
            return None;
        }
        let closes = c == ']' && self.list;
        if held.is_empty() && (closes || c.is_whitespace() || loose && matches!(c, ',' | ';')) {
            self.list &= !closes;
            self.state = State::After(held);
            return None;
        }
        held.push(c);
        if self.syntax.after().any(|marker| marker.len() > held.len() && marker.starts_with(&held))
        {
            self.state = State::After(held);
            return None;
        }
        let mut markers: Vec<&str> = self.syntax.after().filter(|m| held.starts_with(m)).collect();
        markers.sort_by_key(|marker| marker.len());
        let Some(marker) = markers.pop().map(str::to_owned) else {
            self.state = State::Text(String::new());
            return Some(held);
        };
        let rest = held.split_off(marker.len());
        if self.syntax.openers().any(|opener| opener == marker) {
            self.open(false);
            self.raw = marker;
        } else {
            self.state = State::After(String::new());
        }
        Some(rest)
    }

    fn skip(&mut self, mut held: String, c: char, out: &mut Vec<ReplyPiece>) {
        self.raw.push(c);
        held.push(c);
        let closed = self.syntax.closers().any(|closer| held.ends_with(closer));
        self.state = State::Broken(held);
        if closed {
            self.end(CallEnd::Broken, out);
            self.state = State::Text(String::new());
        }
    }

    fn begin(&mut self, name: String, arguments: &str, out: &mut Vec<ReplyPiece>) {
        let index = self.calls;
        self.calls += 1;
        self.after_call = true;
        self.space.clear();
        self.arguments = Some(arguments.to_owned());
        out.push(ReplyPiece::Begin { index, name });
        out.push(ReplyPiece::Arguments { index, delta: arguments.to_owned() });
    }

    /// The arguments have come to their end: `next`, if they are an object. What follows them inside a call is of
    /// no use.
    fn complete(&mut self, next: State, out: &mut Vec<ReplyPiece>) {
        let arguments = self.arguments.as_deref().unwrap_or_default();
        if serde_json::from_str::<Map<String, Value>>(arguments).is_err() {
            self.broken = true;
            self.state = State::Broken(String::new());
            return;
        }
        self.arguments = None;
        self.state = next;
        let index = self.calls.saturating_sub(1);
        out.push(ReplyPiece::End { index, end: CallEnd::Whole });
    }

    /// A call that is not whole has ended, unless its arguments were complete before.
    fn end(&mut self, how: fn(String) -> CallEnd, out: &mut Vec<ReplyPiece>) {
        self.broken = true;
        if self.arguments.take().is_some() {
            let (index, raw) = (self.calls.saturating_sub(1), std::mem::take(&mut self.raw));
            out.push(ReplyPiece::End { index, end: how(raw) });
        }
    }

    fn more(&mut self, c: char, inside: bool, out: &mut Vec<ReplyPiece>) {
        let index = self.calls.saturating_sub(1);
        escape(self.arguments.get_or_insert_default(), c, inside);
        match out.last_mut() {
            Some(ReplyPiece::Arguments { index: last, delta }) if *last == index => {
                escape(delta, c, inside);
            }
            _ => {
                let mut delta = String::new();
                escape(&mut delta, c, inside);
                out.push(ReplyPiece::Arguments { index, delta });
            }
        }
    }

    /// Returns what was no call as text, up to its first closing marker; the rest is to be taken again.
    fn give_back(&mut self, out: &mut Vec<ReplyPiece>) -> String {
        self.broken |= !self.bare;
        let raw = std::mem::take(&mut self.raw);
        let end =
            self.syntax.closers().filter_map(|closer| raw.find(closer).map(|at| at + closer.len()));
        let end = end.min().unwrap_or(raw.len());
        self.say(&raw[..end], out);
        self.said = true;
        self.state = State::Text(String::new());
        raw[end..].to_owned()
    }

    /// Returns text. From the first call on, white space next to a call or at the end of the reply is left out; it
    /// waits here for what comes after it.
    fn say(&mut self, text: &str, out: &mut Vec<ReplyPiece>) {
        self.said |= !text.trim().is_empty();
        let mut whole = std::mem::take(&mut self.space);
        whole.push_str(text);
        let said = match self.calls {
            0 => &whole[..],
            _ if self.after_call => whole.trim(),
            _ => whole.trim_end(),
        };
        if self.calls > 0 && !said.is_empty() {
            self.after_call = false;
        }
        if self.calls > 0 && !self.after_call {
            self.space = whole[whole.trim_end().len()..].to_owned();
        }
        match out.last_mut() {
            _ if said.is_empty() => {}
            Some(ReplyPiece::Text(last)) => last.push_str(said),
            _ => out.push(ReplyPiece::Text(said.to_owned())),
        }
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}
