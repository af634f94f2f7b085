//! Text: everything between what a client writes and the token ids that a model reads, and back.
//!
//! A [`Codec`] is one model's own tokenizer, chat template and special ids. Stable and canary each
//! bring theirs, because a new version may well change its tokenizer or its template: text is the
//! only thing that two versions share, ids never cross from one to the other.
//!
//! In reading order: `codec` (what a model folder says, loaded and checked once), `folder` (the
//! files it is read from), `gguf` (the same out of a GGUF file), `conversation` with `message` (what a client
//! sent becomes the one form that templates are given), `abilities` (which shapes a template takes), `renderer`
//! with `template`, `json` and `date` (a conversation becomes a prompt, byte for byte as Python's transformers
//! renders it), `apart` (in a process of its own), `content` (what clients say is data), `stream` (ids become text
//! while they arrive), `spelling` (what one id spells), `stop` and [`tools`] (two readers of that text).
//!
//! It does not know HTTP, arms, models or devices; no clock is read here. Loading, and chats whose templates
//! run apart, block; the rest is plain computation over memory. Errors say whose
//! doing they are: [`TextError::is_client_fault`].

mod abilities;
pub mod apart;
mod codec;
mod content;
mod conversation;
mod date;
mod encode;
mod error;
mod folder;
mod gguf;
mod json;
mod message;
mod renderer;
mod spelling;
mod stop;
mod stream;
mod template;
#[cfg(test)]
mod testing;
pub mod tools;

pub use abilities::{Abilities, Outcome, Shape};
pub use codec::{Codec, TextOptions};
pub use content::ContentTokens;
pub use conversation::{Chat, Ending};
pub use error::TextError;
pub use folder::GenerationDefaults;
pub use gguf::GgufVocabulary;
pub use renderer::{Templates, Tried, render_once};
pub use stop::{Emit, StopStrings};
pub use stream::StreamDecoder;
