//! Log-probabilities of tokens whose text is still on its way.
//!
//! Text is held back while a character is incomplete or a stop string may begin in it. Its tokens are held back with
//! it: a piece carries the tokens whose text begins in it. A token without text of its own (a part of a character)
//! begins where the next token begins. This file only counts text; the decoder and the stop strings decide what is held
//! back.

use super::types::{LikelyToken, TokenLogprob};
use crate::model::Logprobs;
use crate::text::Codec;
use std::collections::VecDeque;

/// The tokens of one reply that wait for their text.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Bytes and characters decoded so far.
    bytes: usize,
    chars: usize,
    /// Bytes sent so far.
    sent: usize,
    /// Tokens with the byte at which their text begins.
    tokens: VecDeque<(usize, TokenLogprob)>,
}

/// A token with its log-probability, spelt out.
pub(super) fn likely(codec: &Codec, (id, logprob): (u32, f32)) -> LikelyToken {
    LikelyToken { bytes: codec.spelling(id), logprob }
}

impl Waiting {
    /// The log-probabilities of a reply that begins after `chars` characters.
    pub fn after(chars: usize) -> Waiting {
        Waiting { chars, ..Waiting::default() }
    }

    /// A token has come; its text, if any, comes next.
    pub fn token(&mut self, codec: &Codec, id: u32, logprobs: &Logprobs) {
        let token = likely(codec, (id, logprobs.token));
        let top = logprobs.top.iter().map(|one| likely(codec, *one)).collect();
        self.tokens.push_back((self.bytes, TokenLogprob { token, top, offset: self.chars }));
    }

    /// Text has been decoded.
    pub fn decoded(&mut self, text: &str) {
        self.bytes += text.len();
        self.chars += text.chars().count();
    }

    /// Text is being sent: the tokens that begin in it.
    pub fn sent(&mut self, text: &str) -> Vec<TokenLogprob> {
        self.sent += text.len();
        let count = self.tokens.partition_point(|(start, _)| *start < self.sent);
        self.tokens.drain(..count).map(|(_, token)| token).collect()
    }

    /// The reply has ended and all of its text is being sent: all tokens that are left.
    pub fn rest(&mut self) -> Vec<TokenLogprob> {
        self.tokens.drain(..).map(|(_, token)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::GgufVocabulary;
    use std::path::Path;

    fn codec() -> Codec {
        Codec::from_gguf(&GgufVocabulary::stand_in(Path::new("x"), 300), 300).unwrap()
    }

    fn at(tokens: &[TokenLogprob]) -> Vec<usize> {
        tokens.iter().map(|token| token.offset).collect()
    }

    #[test]
    fn tokens_wait_for_the_text_in_which_they_begin() {
        let (codec, mut waiting) = (codec(), Waiting::default());
        let logprobs = Logprobs { token: -0.5, top: vec![(1, -0.5), (2, -1.5)] };
        let token = |waiting: &mut Waiting, text: &str| {
            waiting.token(&codec, 1, &logprobs);
            waiting.decoded(text);
        };
        token(&mut waiting, "é");
        assert_eq!(at(&waiting.sent("é")), [0]);
        // Two tokens make one character; the second brings some text of its own.
        token(&mut waiting, "");
        assert_eq!(at(&waiting.sent("")), [0; 0]);
        token(&mut waiting, "世x");
        // A stop string may begin with the x.
        assert_eq!(at(&waiting.sent("世")), [1, 1]);
        token(&mut waiting, "yz");
        assert_eq!(at(&waiting.sent("")), [0; 0]);
        assert_eq!(at(&waiting.sent("xy")), [3]);
        // A token without text at the end.
        token(&mut waiting, "");
        assert_eq!(at(&waiting.sent("z")), [0; 0]);
        let rest = waiting.rest();
        assert_eq!((at(&rest), rest[0].top.len(), rest[0].token.logprob), (vec![5], 2, -0.5));
    }
}
