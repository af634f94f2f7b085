//! Text: everything between what a client writes and the token ids that a model reads, and back.
//!
//! A [`Codec`] is one model's own tokenizer, chat template and special ids. Stable and canary each
//! bring theirs, because a new version may well change its tokenizer or its template: text is the
//! only thing that two versions share, ids never cross from one to the other.
//!
//! In reading order: `codec` (what a model folder says, loaded and checked once), `folder` (the
//! files it is read from), `gguf` (the same out of a GGUF file), `template` with `message`, `json` and `date` (a conversation
//! becomes a prompt, byte for byte as Python's transformers renders it), `stream` (ids become text
//! while they arrive), `spelling` (what one id spells), `stop` and [`tools`] (two readers of that text).
//!
//! It does not know HTTP, arms, models or devices; no clock is read here. All of it is plain
//! computation over memory, so handlers may call it without a thread of their own. Errors say whose
//! doing they are: [`TextError::is_client_fault`].

mod codec;
mod date;
mod error;
mod folder;
mod gguf;
mod json;
mod message;
mod spelling;
mod stop;
mod stream;
mod template;
#[cfg(test)]
mod testing;
pub mod tools;

pub use codec::Codec;
pub use error::TextError;
pub use folder::GenerationDefaults;
pub use gguf::GgufVocabulary;
pub use stop::{Emit, StopStrings};
pub use stream::StreamDecoder;
pub use template::{Chat, render_once};
