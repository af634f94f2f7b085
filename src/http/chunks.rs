//! Converts the parts of a reply to the text of an event stream, for chat and plain completions.
//!
//! Pure: a piece goes in, and complete events come out, ready to be written. A piece may lead to no event;
//! meanwhile, the stream's writer keeps the connection alive.

use super::format::Streamed;
use super::parts::{Calls, Part, Parts};
use super::sse;
use super::status_codes::ApiError;
use super::wire::Shape;
use super::wire::logprobs::TextLogprobs;
use super::wire::reply::{
    Answer, ChatDelta, Delta, FunctionCall, Head, TextChoice, ToolCall, UsageWire, finish_reason,
};
use crate::serving::{Finish, GatewayError, Piece, Served, TokenLogprob, Usage};
use serde::Serialize;

/// Writes the events of one answer.
#[derive(Debug)]
pub struct Chunks {
    head: Head,
    /// What every event begins with: the fields before the choices, which only the start changes.
    opening: String,
    parts: Parts,
    /// What each choice has used so far, where it is counted.
    used: Vec<Usage>,
    /// For each choice, log-probabilities to send with the choice's next event.
    tokens: Vec<Vec<TokenLogprob>>,
}

impl Streamed for Chunks {
    fn events(&mut self, piece: Piece) -> String {
        let mut out = String::new();
        for part in self.parts.of(piece) {
            self.part(&mut out, part);
        }
        out
    }

    fn error(&mut self, error: &ApiError) -> String {
        let mut out = String::new();
        sse::write(&mut out, None, &error.body());
        out
    }
}

impl Chunks {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(head: Head, routed: &Served) -> Chunks {
        Chunks {
            opening: opening(&head, &routed.fingerprint),
            parts: Parts::new(head.choices, head.look.clone(), head.one_call),
            used: vec![Usage::default(); head.choices as usize],
            tokens: (0..head.choices).map(|_| Vec::new()).collect(),
            head,
        }
    }

    fn part(&mut self, out: &mut String, part: Part) {
        match part {
            Part::Start(served, _) => self.start(out, &served),
            Part::Echo { index, text, tokens } => {
                let logprobs = self.head.logprobs.then(|| TextLogprobs::of_prompt(tokens));
                self.choice(out, TextChoice { text, index, logprobs, finish_reason: None });
            }
            Part::Count { index, usage } => {
                if let Some(used) = self.used.get_mut(index as usize) {
                    *used = usage;
                }
            }
            Part::Text { index, text, tokens } => self.text(out, index, text, tokens),
            Part::Reasoning { index, text } => {
                let delta = Delta { reasoning_content: Some(text), ..Delta::default() };
                self.delta(out, index, delta, None);
            }
            Part::CallBegin { index, call, name } => {
                let call = ToolCall {
                    index: Some(call),
                    id: Some(self.head.call_id(index, call)),
                    kind: Some("function"),
                    function: FunctionCall { name: Some(name), arguments: String::new() },
                };
                self.call(out, index, call);
            }
            Part::CallArguments { index, call, delta } => {
                let call = ToolCall {
                    index: Some(call),
                    id: None,
                    kind: None,
                    function: FunctionCall { name: None, arguments: delta },
                };
                self.call(out, index, call);
            }
            // It has been sent, whole or not; the reply's end says that one is broken.
            Part::CallEnd { .. } => {}
            Part::End { index, finish, calls } => self.end(out, index, finish, calls),
            Part::Done(usage) => self.done(out, usage),
            Part::Failed(error) => self.failed(out, &error),
        }
    }

    fn start(&mut self, out: &mut String, served: &Served) {
        self.opening = opening(&self.head, &served.fingerprint);
        if self.head.shape == Shape::Chat {
            for index in 0..self.head.choices {
                let (role, content) = (Some("assistant"), Some(String::new()));
                self.delta(out, index, Delta { role, content, ..Delta::default() }, None);
            }
        }
    }

    /// Tokens without text are sent with the choice's next event: there is one more, its end.
    fn text(&mut self, out: &mut String, index: u32, text: String, tokens: Vec<TokenLogprob>) {
        if let Some(waiting) = self.tokens.get_mut(index as usize) {
            waiting.extend(tokens);
        }
        if !text.is_empty() {
            self.plain(out, index, text, None);
        }
    }

    fn call(&mut self, out: &mut String, index: u32, call: ToolCall) {
        self.delta(out, index, Delta { tool_calls: vec![call], ..Delta::default() }, None);
    }

    fn end(&mut self, out: &mut String, index: u32, finish: Finish, calls: Calls) {
        // A client runs the calls of a reply that ends with them, and one that is broken cannot be taken back.
        let reason = finish_reason(finish, calls.any && !calls.broken);
        match self.head.shape {
            Shape::Chat => self.delta(out, index, Delta::default(), Some(reason)),
            Shape::Text => self.plain(out, index, String::new(), Some(reason)),
        }
    }

    fn done(&self, out: &mut String, usage: Usage) {
        if self.head.include_usage {
            self.event::<()>(out, Vec::new(), Some(Some(usage.into())));
        }
        out.push_str("data: [DONE]\n\n");
    }

    fn failed(&self, out: &mut String, error: &GatewayError) {
        let error = ApiError::gateway(error, self.head.shape.prompt_field());
        sse::write(out, None, &error.body());
    }

    /// The log-probabilities to send with an event of this choice.
    fn logprobs<T: From<Vec<TokenLogprob>>>(&mut self, index: u32) -> Option<T> {
        let waiting = self.tokens.get_mut(index as usize).filter(|tokens| !tokens.is_empty())?;
        self.head.logprobs.then(|| std::mem::take(waiting).into())
    }

    /// Text in the endpoint's format.
    fn plain(&mut self, out: &mut String, index: u32, text: String, finish: Option<&'static str>) {
        match self.head.shape {
            Shape::Chat => {
                let delta = Delta { content: Some(text), ..Delta::default() };
                self.delta(out, index, delta, finish);
            }
            Shape::Text => {
                let logprobs = self.logprobs(index);
                self.choice(out, TextChoice { text, index, logprobs, finish_reason: finish });
            }
        }
    }

    fn delta(&mut self, out: &mut String, index: u32, delta: Delta, finish: Option<&'static str>) {
        let logprobs = self.logprobs(index);
        let choice = ChatDelta { index, delta, logprobs, finish_reason: finish };
        self.event(out, vec![choice], self.usage(index));
    }

    fn choice(&self, out: &mut String, choice: TextChoice) {
        let usage = self.usage(choice.index);
        self.event(out, vec![choice], usage);
    }

    /// The usage of a choice so far, if it is to be in every chunk. If a usage chunk will follow, every other chunk has
    /// at least an empty usage field.
    fn usage(&self, index: u32) -> Option<Option<UsageWire>> {
        match (self.head.include_usage, self.head.continuous_usage) {
            (false, _) => None,
            (true, false) => Some(None),
            (true, true) => Some(self.used.get(index as usize).map(|usage| (*usage).into())),
        }
    }

    fn event<C: Serialize>(
        &self,
        out: &mut String,
        choices: Vec<C>,
        usage: Option<Option<UsageWire>>,
    ) {
        match serde_json::to_string(&Rest { choices, usage }) {
            // Without its first bracket: the opening has that.
            Ok(rest) => out.extend([&self.opening, &rest[1..], "\n\n"]),
            Err(error) => sse::unwritten(&error),
        }
    }
}

/// What differs from one event to the next.
#[derive(Serialize)]
struct Rest<C> {
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<UsageWire>>,
}

/// The beginning of an event: the fields before the choices.
fn opening(head: &Head, fingerprint: &str) -> String {
    let mut out = String::new();
    let answer: Answer<'_, ()> = Answer {
        id: &head.id,
        object: head.object(true),
        created: head.created,
        model: &head.model,
        system_fingerprint: fingerprint,
        choices: Vec::new(),
        usage: None,
    };
    sse::write(&mut out, None, &answer);
    let end = out.rfind("\"choices\"").unwrap_or(out.len());
    out.truncate(end);
    out
}

#[cfg(test)]
mod tests;
