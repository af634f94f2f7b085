//! Collects the parts of a reply into one JSON object, for clients of chat and plain completions that do not stream.
//!
//! Pure, like `chunks`; its size is limited by the model's context.

use super::parts::{Part, Parts};
use super::wire::Shape;
use super::wire::reply::{
    Answer, ChatChoice, FunctionCall, Head, Message, TextChoice, ToolCall, finish_reason,
};
use crate::serving::{GatewayError, Piece, Served, TokenLogprob, Usage};
use serde_json::Value;

/// An answer in progress.
#[derive(Debug)]
pub struct Whole {
    head: Head,
    served: Served,
    parts: Parts,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Debug, Default)]
struct Choice {
    text: String,
    reasoning: Option<String>,
    calls: Vec<FunctionCall>,
    tokens: Vec<TokenLogprob>,
    finish: &'static str,
}

impl Whole {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(head: Head, routed: Served) -> Whole {
        let parts = Parts::new(head.choices, head.look.clone(), head.one_call);
        let choice = |_| Choice { finish: "stop", ..Choice::default() };
        let choices = (0..head.choices).map(choice).collect();
        Whole { head, served: routed, parts, choices, usage: Usage::default() }
    }

    /// Processes the next piece; a failure is returned.
    pub fn take(&mut self, piece: Piece) -> Result<(), GatewayError> {
        self.parts.of(piece).into_iter().try_for_each(|part| self.part(part))
    }

    fn part(&mut self, part: Part) -> Result<(), GatewayError> {
        match part {
            Part::Start(served, _) => self.served = served,
            Part::Text { index, text, tokens } => {
                if let Some(choice) = self.choice(index) {
                    choice.text.push_str(&text);
                    choice.tokens.extend(tokens);
                }
            }
            Part::Reasoning { index, text } => {
                if let Some(choice) = self.choice(index) {
                    choice.reasoning.get_or_insert_default().push_str(&text);
                }
            }
            Part::CallBegin { index, name, .. } => {
                if let Some(choice) = self.choice(index) {
                    let call = FunctionCall { name: Some(name), arguments: String::new() };
                    choice.calls.push(call);
                }
            }
            Part::CallArguments { index, call, delta } => {
                if let Some(call) = self.choice(index).and_then(|c| c.calls.get_mut(call)) {
                    call.arguments.push_str(&delta);
                }
            }
            Part::End { index, finish, calls } => {
                if let Some(choice) = self.choice(index) {
                    choice.finish = finish_reason(finish, calls);
                }
            }
            Part::Done(usage) => self.usage = usage,
            Part::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn choice(&mut self, index: u32) -> Option<&mut Choice> {
        self.choices.get_mut(index as usize)
    }

    /// Who answered, as far as is known.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// The answer as JSON.
    pub fn json(self) -> Result<Value, serde_json::Error> {
        let Whole { head, served, choices, usage, .. } = self;
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
    fn chat(self, head: &Head, index: u32) -> ChatChoice {
        let silent = self.text.is_empty() && !self.calls.is_empty();
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
                reasoning_content: self.reasoning,
                refusal: None,
                tool_calls: self.calls.into_iter().enumerate().map(call).collect(),
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
