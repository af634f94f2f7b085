//! The parts of every response format: text, reasoning, tool calls, ends.
//!
//! Pure: a piece of a generation goes in, and parts come out. Replies that may contain tool calls are parsed here, so
//! no format needs to know a model's call syntax. It does not know the formats of requests or responses. The parser
//! holds back text that may become a tool call, so a piece may lead to no part. `listed` determines which tokens belong
//! to the text.

mod listed;

use crate::serving::{Finish, GatewayError, Piece, PromptToken, Served, TokenLogprob, Usage};
use crate::text::reply::{CallEnd, Look, Manner, ReplyParser, ReplyPiece};
use listed::{Listed, Owned};

/// A part of an answer. `index` is the number of the reply, `call` that of a call among those of the reply, both from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// The first token was generated; says who answers, and how long the prompt is.
    Start(Served, Usage),
    /// The prompt, as the beginning of a reply; its tokens, if the request asked for log-probabilities.
    Echo { index: u32, text: String, tokens: Vec<PromptToken> },
    /// What a reply has used so far, with the parts that follow.
    Count { index: u32, usage: Usage },
    /// Text to append; its tokens, if the request asked for log-probabilities. It may be empty if they are not: they
    /// show none.
    Text { index: u32, text: String, tokens: Vec<TokenLogprob> },
    /// What the model thinks before it answers; text to append.
    Reasoning { index: u32, text: String },
    /// A call of the function `name` begins.
    CallBegin { index: u32, call: usize, name: String },
    /// The next part of the JSON text of a call's arguments.
    CallArguments { index: u32, call: usize, delta: String },
    /// A tool call ends; each that begins does. A call that the end of the reply cut is only called so if the reply was
    /// cut too: a model that stops inside a call has broken it.
    CallEnd { index: u32, call: usize, end: CallEnd },
    /// One of the replies is complete.
    End { index: u32, finish: Finish, calls: Calls },
    /// All replies are complete; token counts over all of them.
    Done(Usage),
    /// The generation failed.
    Failed(GatewayError),
}

/// Which kinds of tool calls a reply has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls that are whole, or cut with the reply.
    pub any: bool,
    /// Calls that are none, since their arguments are no JSON object.
    pub broken: bool,
}

#[derive(Debug)]
struct Reply {
    parser: ReplyParser,
    listed: Listed,
    calls: Calls,
}

/// Turns the pieces of one answer into parts.
#[derive(Debug)]
pub struct Parts {
    look: Look,
    /// One per reply; none if there is nothing to look for.
    parsed: Vec<Reply>,
    replies: u32,
    /// Whether tool calls after the first one of a reply are left out.
    one_call: bool,
}

impl Parts {
    /// Begins an answer of `replies` replies; `look` says what they are parsed for.
    pub fn new(replies: u32, look: Look, one_call: bool) -> Parts {
        let mut parts = Parts { look, parsed: Vec::new(), replies, one_call };
        parts.begin(&Manner::default());
        parts
    }

    /// Begins to parse what a model writes in this manner.
    fn begin(&mut self, manner: &Manner) {
        if self.look != Look::default() {
            let reply = |_| Reply {
                parser: ReplyParser::new(&self.look, manner),
                listed: Listed::default(),
                calls: Calls::default(),
            };
            self.parsed = (0..self.replies).map(reply).collect();
        }
    }

    /// The parts that follow from a piece, in order; possibly none.
    pub fn of(&mut self, piece: Piece) -> Vec<Part> {
        match piece {
            Piece::Start(served, usage) => {
                self.begin(&served.manner);
                vec![Part::Start(served, usage)]
            }
            Piece::Echo { index, text, tokens } => vec![Part::Echo { index, text, tokens }],
            Piece::Count { index, usage } => vec![Part::Count { index, usage }],
            Piece::Text { index, text, tokens } => self.text(index, text, tokens),
            Piece::End { index, finish } => self.end(index, finish),
            Piece::Done(usage) => vec![Part::Done(usage)],
            Piece::Failed(error) => vec![Part::Failed(error)],
        }
    }

    fn text(&mut self, index: u32, text: String, tokens: Vec<TokenLogprob>) -> Vec<Part> {
        let Some(Reply { parser, listed, .. }) = self.parsed.get_mut(index as usize) else {
            return vec![Part::Text { index, text, tokens }];
        };
        let pieces = listed.push(parser, &text, tokens);
        self.parts(index, pieces, None)
    }

    fn end(&mut self, index: u32, finish: Finish) -> Vec<Part> {
        let (mut parts, mut calls) = (Vec::new(), Calls::default());
        if let Some(Reply { parser, listed, .. }) = self.parsed.get_mut(index as usize) {
            let (pieces, tokens) = listed.finish(parser);
            parts = self.parts(index, pieces, Some(finish));
            if !tokens.is_empty() {
                parts.push(Part::Text { index, text: String::new(), tokens });
            }
            calls = self.parsed.get(index as usize).map_or(calls, |reply| reply.calls);
        }
        parts.push(Part::End { index, finish, calls });
        parts
    }

    /// What pieces of a reply are for a format, with neighbours of a kind joined; `finish`: the reply ends with them.
    fn parts(&mut self, index: u32, pieces: Vec<Owned>, finish: Option<Finish>) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (piece, tokens) in pieces {
            let Some(part) = self.part(index, piece, tokens, finish) else { continue };
            match (parts.last_mut(), part) {
                (
                    Some(Part::Text { text, tokens, .. }),
                    Part::Text { text: more, tokens: others, .. },
                ) => {
                    text.push_str(&more);
                    tokens.extend(others);
                }
                (Some(Part::Reasoning { text, .. }), Part::Reasoning { text: more, .. }) => {
                    text.push_str(&more);
                }
                (
                    Some(Part::CallArguments { call, delta, .. }),
                    Part::CallArguments { call: same, delta: more, .. },
                ) if *call == same => delta.push_str(&more),
                (_, part) => parts.push(part),
            }
        }
        parts
    }

    fn part(
        &mut self,
        index: u32,
        piece: ReplyPiece,
        tokens: Vec<TokenLogprob>,
        finish: Option<Finish>,
    ) -> Option<Part> {
        let passes = |call: usize| call == 0 || !self.one_call;
        match piece {
            ReplyPiece::Text(text) => Some(Part::Text { index, text, tokens }),
            ReplyPiece::Reasoning(text) => Some(Part::Reasoning { index, text }),
            ReplyPiece::Begin { index: call, name } => {
                passes(call).then_some(Part::CallBegin { index, call, name })
            }
            ReplyPiece::Arguments { index: call, delta } => {
                passes(call).then_some(Part::CallArguments { index, call, delta })
            }
            ReplyPiece::End { index: call, end } => {
                let end = match end {
                    CallEnd::Cut(written) if finish != Some(Finish::Length) => {
                        CallEnd::Broken(written)
                    }
                    end => end,
                };
                let passes = passes(call);
                let reply = self.parsed.get_mut(index as usize).filter(|_| passes)?;
                match end {
                    CallEnd::Broken(_) => reply.calls.broken = true,
                    CallEnd::Whole | CallEnd::Cut(_) => reply.calls.any = true,
                }
                Some(Part::CallEnd { index, call, end })
            }
        }
    }
}

#[cfg(test)]
mod tests;
