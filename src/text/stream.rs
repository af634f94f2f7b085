//! Converts ids to text as they arrive.
//!
//! A character may be spread over several tokens, and a token's text can depend on its neighbours (a leading space
//! that only shows in the middle). So a small window of recent tokens is decoded. Its first part is only context, and
//! the text beyond what was already returned is new. The window advances whenever the text ends in a whole character.
//! If this takes too long, the window is cut, so that a token costs no more for garbage than for prose.
//!
//! It does not know about stop strings, tools or transport.

use super::{Codec, TextError};
use std::sync::Arc;

/// The decoded form of broken or incomplete UTF-8.
const REPLACEMENT: char = '\u{FFFD}';
/// How many replacement characters at the end may still become something else. At most three bytes of a
/// character wait for the fourth. Decoders that treat a run of bytes as a whole and strip a leading space may
/// show one more.
const MAX_PENDING: usize = 4;
/// The window is cut when it has reached this length without a clean end.
const MAX_WINDOW: usize = 32;
/// Number of tokens kept then: more than the bytes of an incomplete character, plus some context.
const KEPT_WINDOW: usize = 8;

/// Which special tokens are shown as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shown {
    /// None.
    #[default]
    Text,
    /// Those that mark parts of a reply: reasoning and, with `tools`, tool calls.
    Markers {
        /// Whether the reply may call tools.
        tools: bool,
    },
    /// All.
    Special,
}

/// Decodes one generation, token by token.
///
/// All outputs joined equal [`Codec::decode`] of all ids, if those ids spell valid text.
#[derive(Debug)]
pub struct StreamDecoder {
    codec: Arc<Codec>,
    shown: Shown,
    /// Tokens still needed: context first, then those whose text may be incomplete.
    window: Vec<u32>,
    /// How many tokens of the window are context.
    context: usize,
    /// The beginning of the window's text that has been returned.
    given: String,
}

impl StreamDecoder {
    /// Starts at the beginning of a generation.
    pub fn new(codec: Arc<Codec>) -> Self {
        Self::showing(codec, Shown::Text)
    }

    /// [`StreamDecoder::new`], with these special tokens as text.
    pub fn showing(codec: Arc<Codec>, shown: Shown) -> Self {
        Self { codec, shown, window: Vec::new(), context: 0, given: String::new() }
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        self.codec.decode(ids, self.shown != Shown::Special)
    }

    /// Processes the next token and returns the text that is now certain, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer's decoder fails; that token is then lost, but the stream can continue.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if self.shown != Shown::Special && !self.codec.is_visible(id) {
            return Ok(match self.shown {
                Shown::Markers { tools } if self.codec.is_marker(id, tools) => {
                    self.finish() + &self.codec.token(id).unwrap_or_default()
                }
                _ => String::new(),
            });
        }
        self.window.push(id);
        let text = match self.decode(&self.window) {
            Ok(text) => text,
            Err(e) => {
                self.window.pop();
                return Err(e);
            }
        };
        let certain = certain_part(&text);
        let clean = certain.len() == text.len();
        let full = self.window.len() >= MAX_WINDOW;
        let new = match certain.strip_prefix(self.given.as_str()) {
            Some(new) => new.to_owned(),
            // Returned text cannot be changed: the new tokens are decoded by themselves.
            None if clean || full => {
                certain_part(&self.decode(&self.window[self.context..])?).to_owned()
            }
            None => String::new(),
        };
        if clean && !new.is_empty() {
            self.slide()?;
        } else if full {
            self.cut()?;
        } else {
            self.given.push_str(&new);
        }
        Ok(new)
    }

    /// Ends the generation and returns what was held back, with broken characters as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = self.decode(&self.window).unwrap_or_default();
        let rest = match text.strip_prefix(self.given.as_str()) {
            Some(rest) => rest.to_owned(),
            None => self.decode(&self.window[self.context..]).unwrap_or_default(),
        };
        self.window.clear();
        self.context = 0;
        self.given.clear();
        rest
    }

    /// The text ends in a whole character: the new tokens become the context.
    fn slide(&mut self) -> Result<(), TextError> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.given = self.decode(&self.window)?;
        Ok(())
    }

    /// The text has not ended cleanly for too long, so the oldest tokens are dropped. A cut inside a
    /// character changes only the beginning of the window, which has already been returned.
    fn cut(&mut self) -> Result<(), TextError> {
        self.window.drain(..self.window.len() - KEPT_WINDOW);
        self.context = self.window.len();
        let text = self.decode(&self.window)?;
        self.given = certain_part(&text).to_owned();
        Ok(())
    }
}

/// `text` without the replacement characters at its end that later tokens may complete.
fn certain_part(text: &str) -> &str {
    let mut certain = text;
    for _ in 0..MAX_PENDING {
        match certain.strip_suffix(REPLACEMENT) {
            Some(shorter) => certain = shorter,
            None => break,
        }
    }
    certain
}

#[cfg(test)]
mod tests;
