//! All errors of the text layer, with the context needed to fix them.
//!
//! It does not know HTTP statuses. It only says who caused an error, because two things elsewhere depend on
//! that: the status that a client gets, and whether the error counts against a canary. An error that a client
//! can provoke must never count against a model.

use std::path::PathBuf;

/// An error of the text layer.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file of the model folder cannot be read.
    #[error("cannot read {}: {source}. {remedy}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
        /// The remedy.
        remedy: &'static str,
    },
    /// The content of a file in the model folder is not valid.
    #[error("{} is not usable: {what}. {remedy}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The tokenizer can produce an id for which the model's embedding has no row.
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
        "the chat template in {}, line {line}, does not parse: {what}. Fix the template, or remove it to \
         serve this model without chat",
        path.display()
    )]
    TemplateSyntax {
        /// The file that holds the template.
        path: PathBuf,
        /// The line inside the template, from 1.
        line: usize,
        /// The parser's message.
        what: String,
    },
    /// The chat template parses, but cannot render the simplest conversation, or exceeded a limit.
    #[error(
        "the chat template in {} is not usable: {what}. Fix the template, or remove it to serve this \
         model without chat",
        path.display()
    )]
    TemplateUnusable {
        /// The file that holds the template.
        path: PathBuf,
        /// What went wrong.
        what: String,
    },
    /// A chat request for a model without a chat template.
    #[error(
        "this model has no chat template; use plain completions, or add chat_template.jinja to its folder"
    )]
    NoChatTemplate,
    /// A message has a shape that no template supports.
    #[error("messages[{index}]: {what}")]
    BadMessage {
        /// The message's index in the list.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The request is invalid outside its messages.
    #[error("{what}")]
    BadChat {
        /// What is wrong with it.
        what: String,
    },
    /// The template itself rejected the conversation, by `raise_exception`.
    #[error("the model's chat template refuses this conversation: {0}")]
    TemplateRefused(String),
    /// The conversation has a shape that this model's template does not support.
    #[error("{place}this model's chat template does not support {what}{}", said(why))]
    Untaken {
        /// `messages[3]: `, or empty if no single message is at fault.
        place: String,
        /// The shape.
        what: String,
        /// The message of the template or its engine.
        why: String,
    },
    /// The template failed on a conversation with a shape that it supports.
    #[error("the chat template failed at line {line}: {what}")]
    TemplateFailed {
        /// The line inside the template, from 1; 0 when unknown.
        line: usize,
        /// What went wrong.
        what: String,
    },
    /// The template exceeded a limit on work, depth or output that no ordinary template needs.
    #[error("the chat template was stopped: {what}; shorten the conversation")]
    TemplateExhausted {
        /// The limit.
        what: String,
    },
    /// There was no process to render in, or it was killed from outside. Neither the request nor the model is
    /// at fault.
    #[error("chat templates cannot be rendered at the moment: {what}")]
    NoRenderer {
        /// What went wrong.
        what: String,
    },
    /// The tokenizer failed to encode or decode.
    #[error("the tokenizer failed to {action}: {what}")]
    Tokenizer {
        /// `encode` or `decode`.
        action: &'static str,
        /// Its message.
        what: String,
    },
}

impl TextError {
    /// Whether the request caused the error. All other errors are caused by the model's folder.
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

fn said(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(" ({why})") }
}
