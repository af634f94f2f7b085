//! What every format of an answer is made of: text, reasoning, tool calls, ends.
//!
//! Pure: a piece of a generation goes in, and parts come out. Replies that may call tools are parsed here, so
//! no format knows how a model writes a call. It does not know any format of requests or responses. The
//! parser holds back text that may become a tool call, so a piece may lead to no part.

use crate::serving::{Finish, GatewayError, Piece, Served, TokenLogprob, Usage};
use crate::text::reply::{Look, Manner, ReplyParser, ReplyPiece};

/// A part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The first token was generated; says who answers, and the token counts so far: those of the prompt, of
    /// several prompts the first to begin.
    Start(Served, Usage),
    /// Text for the reader. It may be empty if `tokens` is not: their text is held back, or part of a call.
    Text {
        /// Number of the reply, from 0.
        index: u32,
        /// Text to append.
        text: String,
        /// Tokens with their log-probabilities, if the request asked for them.
        tokens: Vec<TokenLogprob>,
    },
    /// What the model thinks before it answers.
    Reasoning {
        /// Number of the reply.
        index: u32,
        /// Text to append.
        text: String,
    },
    /// A tool call begins.
    CallBegin {
        /// Number of the reply.
        index: u32,
        /// Number of the call among those of this reply, from 0.
        call: usize,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments.
    CallArguments {
        /// Number of the reply.
        index: u32,
        /// Number of the call.
        call: usize,
        /// The next part of the arguments' JSON text.
        delta: String,
    },
    /// One of the replies is complete.
    End {
        /// Number of the reply.
        index: u32,
        /// Why it ended.
        finish: Finish,
        /// Whether it has tool calls.
        calls: bool,
    },
    /// All replies are complete; token counts over all of them.
    Done(Usage),
    /// The generation failed.
    Failed(GatewayError),
}

/// Turns the pieces of one answer into parts.
#[derive(Debug)]
pub struct Parts {
    look: Look,
    /// One per reply; none if there is nothing to look for.
    parsers: Vec<ReplyParser>,
    replies: u32,
    /// Whether tool calls after the first one of a reply are left out.
    one_call: bool,
}

impl Parts {
    /// Begins an answer of so many replies; `look` says what they are parsed for.
    pub fn new(replies: u32, look: Look, one_call: bool) -> Parts {
        let mut parts = Parts { look, parsers: Vec::new(), replies, one_call };
        parts.begin(&Manner::default());
        parts
    }

    /// Begins to parse what a model writes in this manner.
    fn begin(&mut self, manner: &Manner) {
        if self.look != Look::default() {
            let parser = |_| ReplyParser::new(&self.look, manner);
            self.parsers = (0..self.replies).map(parser).collect();
        }
    }

    /// The parts that follow from a piece, in order; possibly none.
    pub fn of(&mut self, piece: Piece) -> Vec<Part> {
        match piece {
            Piece::Start(served, usage) => {
                self.begin(&served.manner);
                vec![Part::Start(served, usage)]
            }
            Piece::Text { index, text, tokens } => self.text(index, text, tokens),
            Piece::End { index, finish } => self.end(index, finish),
            Piece::Done(usage) => vec![Part::Done(usage)],
            Piece::Failed(error) => vec![Part::Failed(error)],
        }
    }

    fn text(&mut self, index: u32, text: String, tokens: Vec<TokenLogprob>) -> Vec<Part> {
        let Some(parser) = self.parsers.get_mut(index as usize) else {
            return vec![Part::Text { index, text, tokens }];
        };
        let pieces = parser.push(&text);
        let mut parts = Vec::with_capacity(pieces.len() + 1);
        if !tokens.is_empty() {
            parts.push(Part::Text { index, text: String::new(), tokens });
        }
        parts.extend(pieces.into_iter().filter_map(|piece| self.part(index, piece)));
        parts
    }

    fn end(&mut self, index: u32, finish: Finish) -> Vec<Part> {
        let (mut parts, mut calls) = (Vec::new(), false);
        if let Some(parser) = self.parsers.get_mut(index as usize) {
            let rest = parser.finish();
            calls = parser.calls() > 0;
            parts.extend(rest.into_iter().filter_map(|piece| self.part(index, piece)));
        }
        parts.push(Part::End { index, finish, calls });
        parts
    }

    fn part(&self, index: u32, piece: ReplyPiece) -> Option<Part> {
        let passes = |call: usize| call == 0 || !self.one_call;
        match piece {
            ReplyPiece::Text(text) => Some(Part::Text { index, text, tokens: Vec::new() }),
            ReplyPiece::Reasoning(text) => Some(Part::Reasoning { index, text }),
            ReplyPiece::Begin { index: call, name } => {
                passes(call).then_some(Part::CallBegin { index, call, name })
            }
            ReplyPiece::Arguments { index: call, delta } => {
                passes(call).then_some(Part::CallArguments { index, call, delta })
            }
        }
    }
}

#[cfg(test)]
mod tests;
