//! Every way in which text can go wrong, with the context needed to mend it.
//!
//! Knows no HTTP status; it only says whose doing an error is, because that decides two things
//! elsewhere: which status a client sees, and whether a canary is blamed for it. What a client can
//! provoke by itself must never count against a model.

use std::path::PathBuf;

/// An error of the text layer.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file of the model folder cannot be read.
    #[error("cannot read {}: {source}. {remedy}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file of the model folder does not hold what it should.
    #[error("{} is not usable: {what}. {remedy}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The tokenizer can produce an id that the model's embedding has no row for.
    #[error(
        "{} does not belong to this model: token {token:?} has id {max_id}, but the model's embedding \
         has only {vocab_size} rows. Use the tokenizer that came with these weights",
        path.display()
    )]
    TokenizerMismatch {
        /// The tokenizer's file.
        path: PathBuf,
        /// The largest id that the tokenizer knows.
        max_id: u32,
        /// How many rows the model's embedding has.
        vocab_size: usize,
        /// The token with that id.
        token: String,
    },
    /// The chat template does not parse.
    #[error(
        "the chat template in {}, line {line}, does not parse: {what}. Mend the template, or remove it to \
         serve this model without chat",
        path.display()
    )]
    TemplateSyntax {
        /// The file that holds the template.
        path: PathBuf,
        /// The line inside the template, from 1.
        line: usize,
        /// What the parser said.
        what: String,
    },
    /// The chat template parses, but cannot render the simplest conversation, or ran into a bound.
    #[error(
        "the chat template in {} is not usable: {what}. Mend the template, or remove it to serve this \
         model without chat",
        path.display()
    )]
    TemplateUnusable {
        /// The file that holds the template.
        path: PathBuf,
        /// What went wrong.
        what: String,
    },
    /// A chat was asked of a model that has no chat template.
    #[error(
        "this model has no chat template; use plain completions, or add chat_template.jinja to its folder"
    )]
    NoChatTemplate,
    /// One message has a shape that no template can be given.
    #[error("messages[{index}]: {what}")]
    BadMessage {
        /// The message's place in the list.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The request around the messages is at fault.
    #[error("{what}")]
    BadChat {
        /// What is wrong with it.
        what: String,
    },
    /// The template itself refused the conversation, by `raise_exception`.
    #[error("the model's chat template refuses this conversation: {0}")]
    TemplateRefused(String),
    /// The conversation has a shape that this model's template does not take.
    #[error("{place}this model's chat template does not take {what}{}", said(why))]
    Untaken {
        /// `messages[3]: `, or nothing where no one message is at fault.
        place: String,
        /// The shape.
        what: String,
        /// What the template or its engine says.
        why: String,
    },
    /// The template failed on a conversation of a shape that it takes.
    #[error("the chat template failed at line {line}: {what}")]
    TemplateFailed {
        /// The line inside the template, from 1; 0 when unknown.
        line: usize,
        /// What went wrong.
        what: String,
    },
    /// The template wanted more work, depth or output than any honest template needs.
    #[error("the chat template was stopped: {what}")]
    TemplateExhausted {
        /// Which bound it ran into.
        what: String,
    },
    /// There was no process to render in, or it was ended from outside. Nobody's doing in the request or the
    /// model.
    #[error("no chat template can be rendered just now: {what}")]
    NoRenderer {
        /// What went wrong.
        what: String,
    },
    /// The tokenizer failed to turn text into ids, or ids into text.
    #[error("the tokenizer failed to {action}: {what}")]
    Tokenizer {
        /// `encode` or `decode`.
        action: &'static str,
        /// What it said.
        what: String,
    },
}

impl TextError {
    /// Whether the request is to blame. Everything else is the doing of the model's folder.
    pub fn is_client_fault(&self) -> bool {
        matches!(
            self,
            Self::BadMessage { .. }
                | Self::BadChat { .. }
                | Self::TemplateRefused(_)
                | Self::Untaken { .. }
        )
    }
}

/// What was said, in brackets, if anything was.
fn said(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}
