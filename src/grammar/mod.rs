//! Constrained replies: a reply must match a JSON schema or a regular expression, be one of several texts, or follow a
//! grammar.
//!
//! Reading order: [`Constraint`] (what a request asks for), `schema` (a JSON schema as requests mean it), `limits`, `gbnf`
//! (grammars of llama.cpp), `terms` and `calls` (parts of grammars; tool calls), `lark` (a constraint as one grammar, with the reasoning before it),
//! `vocabulary` (a model's tokens as bytes), [`Grammars`] (a model's compiled grammars), `guide` (one reply being
//! generated), `call_guide` (one in which calls may come), `watchdog`. llguidance parses grammars and computes which
//! tokens they allow. This module does not know about requests, engines or logits.

mod call_guide;
mod calls;
mod compiled;
mod gbnf;
mod guide;
mod lark;
mod limits;
mod schema;
mod terms;
mod vocabulary;
mod watchdog;

pub use calls::{Calls, Function};
pub use compiled::{GrammarError, Grammars, Guided};

use serde_json::Value;

/// What a reply must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// A JSON object.
    Object,
    /// JSON that is valid by this JSON schema.
    Schema(Value),
    /// The same, without white space between the parts of a value.
    Compact(Value),
    /// A text that a regular expression matches as a whole, in the syntax of the crate `regex`.
    Regex(String),
    /// One of these texts; at least one.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
    /// A text of this grammar, in llama.cpp's GBNF.
    Gbnf(String),
    /// Calls of tools, and no text.
    Calls(Calls),
    /// Calls of tools, or what the other constraint says.
    Either(Calls, Box<Constraint>),
    /// Text and calls of tools: calls are well formed, text is free.
    Auto(Calls),
}

impl Constraint {
    /// Whether a reply is broken if it does not end by itself.
    pub fn is_structure(&self) -> bool {
        !matches!(self, Constraint::Auto(_))
    }
}

#[cfg(test)]
mod tests;
