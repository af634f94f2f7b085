//! Parses a model's reply while it is being generated: reasoning, tool calls, and text.
//!
//! Reading order: [`reasoning`] (separates reasoning from the answer), [`syntax`] (a family's call syntax, derived from
//! its chat template), [`form`] (the exact form in which the template writes calls), [`calls`] (the parser), [`tagged`]
//! (the parser for arguments between tags), `object` (one call's JSON), `scan` (JSON, character by character). It does
//! not know about wire formats or tokens.

mod calls;
mod form;
mod object;
pub mod reasoning;
mod samples;
mod scan;
mod syntax;
mod tagged;

pub use calls::{CallEnd, ReplyPiece};
pub use form::{CallForm, Part as FormPart, Tags};
pub(super) use samples::Samples;
pub use syntax::CallSyntax;

use calls::CallParser;
use reasoning::{Part, Splitter};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use tagged::TaggedParser;

/// What to look for in a reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// The tools on offer; `None`: no tools, and no calls.
    pub tools: Option<Arc<[String]>>,
    /// The same as they were declared, in the form of chat completions: by their schemas it is known which arguments are
    /// texts where a family does not write them as JSON.
    pub declared: Option<Arc<Value>>,
    /// What becomes of reasoning.
    pub reasoning: Reasoning,
}

/// What becomes of a model's reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reasoning {
    /// It is part of the text, as the model wrote it.
    #[default]
    InText,
    /// It is told from the answer.
    Apart,
    /// It is left out.
    LeftOut,
}

/// How the model that answers writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manner {
    /// Its tool calls.
    pub calls: Arc<CallSyntax>,
    /// The prompt ends inside of reasoning, which this marker ends.
    pub thinking: Option<&'static str>,
}

/// Parses one reply.
#[derive(Debug)]
pub struct ReplyParser {
    splitter: Option<Splitter>,
    left_out: bool,
    calls: Option<Box<dyn Calls>>,
}

/// Parses calls as the model's family writes them.
trait Calls: fmt::Debug + Send + Sync {
    /// Whether something began as a call and was none.
    fn broken(&self) -> bool;
    /// How many characters of what was taken last may still become text.
    fn held(&self) -> usize;
    /// Takes more text.
    fn push(&mut self, text: &str, out: &mut Vec<ReplyPiece>);
    /// Ends the answer: a call that lacks only its closing marker is accepted; anything else is text.
    fn finish(&mut self, out: &mut Vec<ReplyPiece>);
}

impl ReplyParser {
    /// Starts at the beginning of a reply.
    pub fn new(look: &Look, manner: &Manner) -> ReplyParser {
        let calls = look.tools.as_ref();
        ReplyParser {
            splitter: (look.reasoning != Reasoning::InText).then(|| Splitter::new(manner.thinking)),
            left_out: look.reasoning == Reasoning::LeftOut,
            calls: calls.map(|names| -> Box<dyn Calls> {
                match manner.calls.tags() {
                    Some((form, tags)) => {
                        Box::new(TaggedParser::new(form, tags, look.declared.clone()))
                    }
                    None => Box::new(CallParser::new((*manner.calls).clone(), names.clone())),
                }
            }),
        }
    }

    /// Whether something began as a call and was none.
    pub fn broken(&self) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.broken())
    }

    /// How many characters of what was taken last may still become text for the reader.
    pub fn held(&self) -> usize {
        let held = self.splitter.as_ref().map_or(0, Splitter::held);
        held + self.calls.as_ref().map_or(0, |calls| calls.held())
    }

    /// Takes more text and returns what is now certain.
    pub fn push(&mut self, text: &str) -> Vec<ReplyPiece> {
        let mut out = Vec::new();
        let parts = match &mut self.splitter {
            Some(splitter) => splitter.push(text),
            None => vec![Part::Answer(text.to_owned())],
        };
        parts.into_iter().for_each(|part| self.part(part, &mut out));
        out
    }

    /// Ends the reply and returns what was held back.
    pub fn finish(&mut self) -> Vec<ReplyPiece> {
        let mut out = Vec::new();
        if let Some(part) = self.splitter.as_mut().and_then(Splitter::finish) {
            self.part(part, &mut out);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(&mut out);
        }
        out
    }

    fn part(&mut self, part: Part, out: &mut Vec<ReplyPiece>) {
        match (part, &mut self.calls) {
            (Part::Reasoning(_), _) if self.left_out => {}
            (Part::Reasoning(text), _) => out.push(ReplyPiece::Reasoning(text)),
            (Part::Answer(text), Some(calls)) => calls.push(&text, out),
            (Part::Answer(text), None) if text.is_empty() => {}
            (Part::Answer(text), None) => out.push(ReplyPiece::Text(text)),
        }
    }
}

#[cfg(test)]
mod tests;
