//! One reply that may contain tool calls: text is free, and a call follows its grammar from its marker on.
//!
//! A marker inside reasoning is text. If the rest of the token after a marker cannot be part of a call, the marker is
//! text too.

use super::guide::GrammarGuide;
use crate::model::{Guide, GuideFailed, Taken, TokenMask};
use crate::text::Codec;
use crate::text::reply::reasoning::{Opening, Progress};
use std::fmt;
use std::sync::Arc;

/// A reply between two tokens.
pub(super) struct CallGuide {
    begin: Box<dyn Fn() -> GrammarGuide + Send>,
    opener: String,
    codec: Arc<Codec>,
    reasoning: Progress,
    /// The last bytes of the text outside calls, and the tokens that end there, with where they begin.
    text: Vec<u8>,
    tokens: Vec<(u32, usize)>,
    /// Inside of a call.
    call: Option<GrammarGuide>,
}

impl fmt::Debug for CallGuide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallGuide").field("inside", &self.call.is_some()).finish_non_exhaustive()
    }
}

impl CallGuide {
    pub(super) fn new(
        begin: Box<dyn Fn() -> GrammarGuide + Send>,
        opener: String,
        opening: Opening,
        codec: Arc<Codec>,
    ) -> CallGuide {
        let (text, tokens) = (Vec::new(), Vec::new());
        let reasoning = Progress::new(opening);
        CallGuide { begin, opener, codec, reasoning, text, tokens, call: None }
    }

    /// Takes a token of text, and begins a call if it ends with a marker.
    fn outside(&mut self, id: u32) {
        let spelling = self.codec.spelling(id);
        self.reasoning.push(&String::from_utf8_lossy(&spelling));
        self.tokens.push((id, self.text.len()));
        self.text.extend_from_slice(&spelling);
        let opener = self.opener.as_bytes();
        let from = self.text.len().saturating_sub(spelling.len() + opener.len() - 1);
        let found = self.text[from..].windows(opener.len()).position(|window| window == opener);
        match found.filter(|_| !self.reasoning.is_inside()) {
            Some(at) => self.enter(from + at),
            None => self.forget(opener.len()),
        }
    }

    /// Begins a call whose marker begins at this byte of the text.
    fn enter(&mut self, at: usize) {
        let mut guide = (self.begin)();
        let ends = self.tokens.iter().skip(1).map(|(_, begin)| *begin).chain([self.text.len()]);
        let within: Vec<u32> = self
            .tokens
            .iter()
            .zip(ends)
            .filter(|(_, end)| *end > at)
            .map(|((id, _), _)| *id)
            .collect();
        let follows = within.iter().all(|id| guide.follows(*id));
        self.call = (follows && !guide.is_complete()).then_some(guide);
        self.text.clear();
        self.tokens.clear();
    }

    /// Keeps only what may be the beginning of a marker.
    fn forget(&mut self, marker: usize) {
        let keep = self.text.len().saturating_sub(marker);
        let first = self.tokens.iter().rposition(|(_, begin)| *begin <= keep).unwrap_or(0);
        let from = self.tokens.get(first).map_or(0, |(_, begin)| *begin);
        self.tokens.drain(..first);
        self.tokens.iter_mut().for_each(|(_, begin)| *begin -= from);
        self.text.drain(..from);
    }
}

impl Guide for CallGuide {
    fn mask(&mut self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        let Some(call) = &mut self.call else { return Ok(None) };
        // A call that cannot go on is no reason for a reply to fail.
        let mask = call.mask().unwrap_or(None);
        if mask.is_none() {
            self.call = None;
        }
        Ok(mask)
    }

    fn take(&mut self, id: u32) -> Result<Taken, GuideFailed> {
        match &mut self.call {
            None => self.outside(id),
            Some(call) => {
                if call.take(id) != Ok(Taken::GoesOn) || call.is_complete() {
                    self.call = None;
                }
            }
        }
        Ok(Taken::GoesOn)
    }

    /// The model began the call itself, and goes on in its own spelling.
    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
}
