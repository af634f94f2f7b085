//! Collects the pieces of a reply into one JSON object, for clients that do not stream.
//!
//! Pure, like `chunks`; its size is limited by the model's context.

use super::wire::Shape;
use super::wire::reply::{
    Answer, ChatChoice, FunctionCall, Head, Message, TextChoice, ToolCall, finish_reason,
};
use crate::serving::{Finish, GatewayError, Piece, Served, TokenLogprob, Usage};
use crate::text::tools::{ToolCallParser, ToolPiece};
use serde_json::Value;

/// An answer in progress.
#[derive(Debug)]
pub struct Whole {
    head: Head,
    served: Served,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Choice {
    text: String,
    parser: Option<ToolCallParser>,
    calls: Vec<FunctionCall>,
    tokens: Vec<TokenLogprob>,
    finish: &'static str,
}

impl Whole {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(head: Head, routed: Served) -> Whole {
        let choice = |_| {
            let parser = head.tools.then(ToolCallParser::new);
            Choice { parser, finish: "stop", ..Choice::default() }
        };
        let choices = (0..head.choices).map(choice).collect();
        Whole { head, served: routed, choices, usage: Usage::default() }
    }

    /// Processes the next piece; a failure is returned.
    pub fn take(&mut self, piece: Piece) -> Result<(), GatewayError> {
        match piece {
            Piece::Start(served) => self.served = served,
            Piece::Text { index, text, tokens } => {
                if let Some(choice) = self.choices.get_mut(index as usize) {
                    choice.text(text);
                    choice.tokens.extend(tokens);
                }
            }
            Piece::End { index, finish } => {
                if let Some(choice) = self.choices.get_mut(index as usize) {
                    choice.end(finish);
                }
            }
            Piece::Done(usage) => self.usage = usage,
            Piece::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Who answered, as far as is known.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// The answer as JSON.
    pub fn json(self) -> Result<Value, serde_json::Error> {
        let Whole { head, served, choices, usage } = self;
        let numbered = (0u32..).zip(choices);
        match head.shape {
            Shape::Chat => {
                let choices = numbered.map(|(index, choice)| choice.chat(&head, index)).collect();
                answer::<ChatChoice>(&head, &served, choices, usage)
            }
            Shape::Text => {
                let choices = numbered.map(|(index, choice)| choice.plain(&head, index)).collect();
                answer::<TextChoice>(&head, &served, choices, usage)
            }
        }
    }
}

fn answer<C: serde::Serialize>(
    head: &Head,
    served: &Served,
    choices: Vec<C>,
    usage: Usage,
) -> Result<Value, serde_json::Error> {
    serde_json::to_value(Answer {
        id: &head.id,
        object: head.object(false),
        created: head.created,
        model: &head.model,
        system_fingerprint: &served.fingerprint,
        choices,
        usage: Some(Some(usage.into())),
    })
}

impl Choice {
    fn text(&mut self, text: String) {
        match self.parser.as_mut().map(|parser| parser.push(&text)) {
            Some(pieces) => self.pieces(pieces),
            None => self.text.push_str(&text),
        }
    }

    fn end(&mut self, finish: Finish) {
        if let Some(rest) = self.parser.as_mut().map(ToolCallParser::finish) {
            self.pieces(rest);
        }
        self.finish = finish_reason(finish, !self.calls.is_empty());
    }

    fn pieces(&mut self, pieces: Vec<ToolPiece>) {
        for piece in pieces {
            match piece {
                ToolPiece::Text(text) => self.text.push_str(&text),
                ToolPiece::Begin { name, .. } => {
                    self.calls.push(FunctionCall { name: Some(name), arguments: String::new() });
                }
                ToolPiece::Arguments { index, delta } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.arguments.push_str(&delta);
                    }
                }
            }
        }
    }

    fn chat(self, head: &Head, index: u32) -> ChatChoice {
        let silent = self.text.is_empty() && !self.calls.is_empty();
        let passed = self.calls.into_iter().enumerate().filter(|(place, _)| head.passes(*place));
        let call = |(place, function): (usize, FunctionCall)| ToolCall {
            index: None,
            id: Some(head.call_id(index, place)),
            kind: Some("function"),
            function,
        };
        ChatChoice {
            index,
            message: Message {
                role: "assistant",
                content: (!silent).then_some(self.text),
                refusal: None,
                tool_calls: passed.map(call).collect(),
            },
            logprobs: head.logprobs.then(|| self.tokens.into()),
            finish_reason: self.finish,
        }
    }

    fn plain(self, head: &Head, index: u32) -> TextChoice {
        let logprobs = head.logprobs.then(|| self.tokens.into());
        TextChoice { text: self.text, index, logprobs, finish_reason: Some(self.finish) }
    }
}

#[cfg(test)]
mod tests;
