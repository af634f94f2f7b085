//! Which tokens of a reply belong to its text.
//!
//! Log-probabilities are listed next to the text, so the tokens of reasoning, tool calls and markers are left out. The
//! reply is parsed character by character, because only this tells which characters are in the text. A token belongs to
//! the text if any of its characters does. The parser knows the markers; this file does not.

use crate::serving::TokenLogprob;
use crate::text::reply::{ReplyParser, ReplyPiece};
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Characters taken so far.
    seen: usize,
    /// The characters at the end of them that may become text.
    held: String,
    /// Where the text ended last; 0: there was none.
    said: usize,
    /// Whether the request asked for log-probabilities.
    on: bool,
    /// Tokens that are not known to be of the text or not.
    waiting: VecDeque<TokenLogprob>,
}

/// Text with its tokens, or another piece without any.
pub(super) type Owned = (ReplyPiece, Vec<TokenLogprob>);

impl Listed {
    /// Takes more text, and the tokens that begin in it.
    pub fn push(
        &mut self,
        parser: &mut ReplyParser,
        text: &str,
        tokens: Vec<TokenLogprob>,
    ) -> Vec<Owned> {
        self.on |= !tokens.is_empty();
        self.waiting.extend(tokens);
        if !self.on {
            self.seen += text.chars().count();
            return parser.push(text).into_iter().map(|piece| (piece, Vec::new())).collect();
        }
        let mut out = Vec::new();
        for c in text.chars() {
            self.seen += 1;
            self.held.push(c);
            let pieces = parser.push(c.encode_utf8(&mut [0; 4]));
            self.own(pieces, parser.held(), &mut out);
        }
        out
    }

    /// Ends the reply; also returns the tokens that show no text at its end.
    pub fn finish(&mut self, parser: &mut ReplyParser) -> (Vec<Owned>, Vec<TokenLogprob>) {
        let mut out = Vec::new();
        let pieces = parser.finish();
        self.own(pieces, 0, &mut out);
        let rest = std::mem::take(&mut self.waiting).into_iter();
        let silent = |token: &TokenLogprob| token.offset >= self.seen && self.said == self.seen;
        (out, rest.filter(silent).collect())
    }

    /// Gives pieces of text their tokens; after them, the last `held` characters may still become text.
    fn own(&mut self, pieces: Vec<ReplyPiece>, held: usize, out: &mut Vec<Owned>) {
        let decided = self.held.chars().count().saturating_sub(held);
        let cut = self.held.char_indices().nth(decided).map_or(self.held.len(), |(at, _)| at);
        let rest = self.held.split_off(cut);
        let decided = std::mem::replace(&mut self.held, rest);
        let first = self.seen - held - decided.chars().count();
        let said: Option<String> = pieces.iter().map(ReplyPiece::text).collect();
        // What is not said is before it: markers, and white space next to them. At a reply's end, white space is after it.
        let mut from = said.and_then(|said| decided.rfind(&said)).unwrap_or(0);
        for piece in pieces {
            let mut tokens = Vec::new();
            if let Some(text) = piece.text() {
                let at = decided.get(from..).and_then(|rest| rest.find(text));
                from += at.unwrap_or(0);
                let begin = first + decided.get(..from).map_or(0, |before| before.chars().count());
                tokens = self.of(begin, text.chars().count());
                from += text.len();
            }
            out.push((piece, tokens));
        }
    }

    /// The tokens of so many characters of text. Those before them are not of the text.
    fn of(&mut self, begin: usize, chars: usize) -> Vec<TokenLogprob> {
        let end = begin + chars;
        self.said = end;
        let until = self.waiting.partition_point(|token| token.offset < end);
        let starts = self.waiting.iter().take(until).map(|token| token.offset);
        // The token that holds the first character, with those before it that show no text by themselves.
        let owner = starts.take_while(|start| *start <= begin).last().unwrap_or(begin);
        self.waiting.drain(..until).filter(|token| token.offset >= owner).collect()
    }
}
