//! Ids become text while they arrive.
//!
//! One token is not one piece of text: a character may be spread over several tokens, and how a token
//! reads can depend on its neighbours (a leading space that only shows in the middle). Decoding every
//! time from the start would be right and quadratic. Decoding each token alone would be fast and
//! wrong. So a small window of recent tokens is decoded, its first part being there for context only,
//! and what goes beyond the text already given out is new. The window moves on whenever the text ends
//! in a whole character, and is cut by force when it will not, so that a token costs the same on
//! garbage as on prose.
//!
//! Knows nothing of stop strings, tools or transport.

use super::{Codec, TextError};
use std::sync::Arc;

/// What broken or incomplete UTF-8 decodes to.
const REPLACEMENT: char = '\u{FFFD}';
/// How many replacement characters at the end may still turn into something else. At most three bytes
/// of a character wait for its fourth; decoders that judge a run of bytes as a whole, and strip a
/// leading space from the text, may show one more.
const MAX_PENDING: usize = 4;
/// The window is cut back when it has grown this long without a clean end.
const MAX_WINDOW: usize = 32;
/// What is kept of it then: more tokens than a pending character has bytes, and some context.
const KEPT_WINDOW: usize = 8;

/// Decodes one generation, token by token; special tokens are skipped.
///
/// All outputs joined equal [`Codec::decode`] of all ids, where those ids spell valid text.
#[derive(Debug)]
pub struct StreamDecoder {
    codec: Arc<Codec>,
    /// Tokens still needed: context first, then those whose text may be incomplete.
    window: Vec<u32>,
    /// How many tokens of the window are context.
    context: usize,
    /// How the window's text begins, as far as it was given out.
    given: String,
}

impl StreamDecoder {
    /// Starts at the beginning of a generation.
    pub fn new(codec: Arc<Codec>) -> Self {
        Self { codec, window: Vec::new(), context: 0, given: String::new() }
    }

    /// Takes the next token and returns the text that is now certain, which may be none.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails; the token is then lost, the stream can go on.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if !self.codec.is_visible(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        let text = match self.codec.decode(&self.window, true) {
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
            // What was given out cannot be taken back: the new tokens speak for themselves.
            None if clean || full => {
                certain_part(&self.codec.decode(&self.window[self.context..], true)?).to_owned()
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

    /// Ends the generation and returns what was held back, broken characters as U+FFFD.
    pub fn finish(&mut self) -> String {
        let text = self.codec.decode(&self.window, true).unwrap_or_default();
        let rest = match text.strip_prefix(self.given.as_str()) {
            Some(rest) => rest.to_owned(),
            None => self.codec.decode(&self.window[self.context..], true).unwrap_or_default(),
        };
        self.window.clear();
        self.context = 0;
        self.given.clear();
        rest
    }

    /// The text ends in a whole character: what was new becomes the context of what comes.
    fn slide(&mut self) -> Result<(), TextError> {
        self.window.drain(..self.context);
        self.context = self.window.len();
        self.given = self.codec.decode(&self.window, true)?;
        Ok(())
    }

    /// The text has not ended cleanly for long: drop the oldest tokens all the same. A cut inside a
    /// character only changes how the window begins, and that part was given out before.
    fn cut(&mut self) -> Result<(), TextError> {
        self.window.drain(..self.window.len() - KEPT_WINDOW);
        self.context = self.window.len();
        let text = self.codec.decode(&self.window, true)?;
        self.given = certain_part(&text).to_owned();
        Ok(())
    }
}

/// `text` without the replacement characters at its end that later tokens may still mend.
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
