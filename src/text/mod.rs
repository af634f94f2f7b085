//! Text: everything between a client's messages and the token ids that a model reads, and back.
//!
//! A [`Codec`] is one model's own tokenizer, chat template and special ids. Stable and canary each have their
//! own, because a new version may change its tokenizer or its template. Only text is shared between two
//! versions; ids never cross from one to the other.
//!
//! In reading order: `codec` (a model folder's text side, loaded and checked once), `folder` (the files it is
//! read from), `files` (reads them, and records which), `gguf` (the same from a GGUF file), `conversation`
//! with `message` (converts a client's messages to the canonical form), `abilities` (which shapes a template
//! supports), `renderer` with `template`, `json` and `date` (renders a conversation to a prompt, byte for byte
//! as Python's transformers does), `apart` (in a subprocess), `content` (text from clients is data), `stream`
//! (ids become text as they arrive), `spelling` (the bytes of one id), `stop` and [`mod@reply`] (two
//! readers of that text), [`quality`] (signs that a complete reply is poor).
//!
//! It does not know about HTTP, arms, models or devices, and reads no clock. Loading, and rendering in a
//! subprocess, block; everything else is computation in memory. Errors say who caused them:
//! [`TextError::is_client_fault`].

mod abilities;
pub mod apart;
mod beyond;
mod codec;
mod content;
mod conversation;
mod date;
mod encode;
mod error;
mod files;
mod folder;
mod gguf;
mod json;
mod message;
pub mod quality;
mod renderer;
pub mod reply;
mod spelling;
mod stop;
mod stream;
mod template;
#[cfg(test)]
pub(crate) mod testing;

pub use abilities::{Abilities, Outcome, Shape};
pub use codec::{Codec, TextOptions};
pub use content::ContentTokens;
pub use conversation::{Chat, Ending};
pub use error::TextError;
pub use files::FileRead;
pub use folder::GenerationDefaults;
pub use gguf::GgufVocabulary;
pub use renderer::{Templates, Tried, render_once};
pub use stop::{Emit, StopStrings};
pub use stream::{Shown, StreamDecoder};
