//! Collects the parts of a reply into one JSON object, for clients of chat and plain completions that do not stream.
//!
//! Pure, like `chunks`; its size is limited by the model's context.

use super::format::Gathered;
use super::parts::{Part, Parts};
use super::wire::Shape;
use super::wire::logprobs::TextLogprobs;
use super::wire::reply::{
    Answer, ChatChoice, FunctionCall, Head, Message, TextChoice, ToolCall, finish_reason,
};
use crate::serving::{Piece, PromptToken, Served, TokenLogprob, Usage};
use crate::text::reply::CallEnd;
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
    /// `None`: one that is broken, and given back as text.
    calls: Vec<Option<FunctionCall>>,
    /// Of the repeated prompt.
    prompt: Vec<PromptToken>,
    tokens: Vec<TokenLogprob>,
    finish: &'static str,
}

impl Gathered for Whole {
    fn take(&mut self, piece: Piece) {
        for part in self.parts.of(piece) {
            self.part(part);
        }
    }

    fn served(&self) -> &Served {
        &self.served
    }

    fn json(self: Box<Self>) -> Result<String, serde_json::Error> {
        Whole::json(*self).map(|json| json.to_string())
    }
}

impl Whole {
    /// Begins an answer; `routed` says who is expected to give it.
    pub fn new(head: Head, routed: Served) -> Whole {
        let parts = Parts::new(head.choices, head.look.clone(), head.one_call);
        let choice = |_| Choice { finish: "stop", ..Choice::default() };
        let choices = (0..head.choices).map(choice).collect();
        Whole { head, served: routed, parts, choices, usage: Usage::default() }
    }

    fn part(&mut self, part: Part) {
        match part {
            Part::Start(served, _) => self.served = served,
            Part::Count { .. } => {}
            Part::Echo { index, text, tokens } => {
                if let Some(choice) = self.choice(index) {
                    choice.text = text;
                    choice.prompt = tokens;
                }
            }
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
                    choice.calls.push(Some(call));
                }
            }
            Part::CallArguments { index, call, delta } => {
                let call = self.choice(index).and_then(|choice| choice.calls.get_mut(call));
                if let Some(Some(call)) = call {
                    call.arguments.push_str(&delta);
                }
            }
            Part::CallEnd { index, call, end: CallEnd::Broken(written) } => {
                if let Some(choice) = self.choice(index) {
                    choice.text.push_str(&written);
                    if let Some(call) = choice.calls.get_mut(call) {
                        *call = None;
                    }
                }
            }
            Part::CallEnd { .. } => {}
            Part::End { index, finish, calls } => {
                if let Some(choice) = self.choice(index) {
                    choice.finish = finish_reason(finish, calls.any);
                }
            }
            Part::Done(usage) => self.usage = usage,
            // Then there is no answer.
            Part::Failed(_) => {}
        }
    }

    fn choice(&mut self, index: u32) -> Option<&mut Choice> {
        self.choices.get_mut(index as usize)
    }

    /// The answer as JSON. Fails if it cannot be written as JSON.
    pub fn json(self) -> Result<Value, serde_json::Error> {
        let Whole { head, served, choices, usage, .. } = self;
        let numbered = (0u32..).zip(best(choices, head.n, head.kept));
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

/// The `kept` choices of every `n` whose tokens are likeliest on average, the best one first; all in their order if as
/// many are kept.
fn best(choices: Vec<Choice>, n: u32, kept: u32) -> Vec<Choice> {
    if kept >= n {
        return choices;
    }
    let mut choices = choices.into_iter();
    let mut best = Vec::new();
    loop {
        let mut of_prompt: Vec<Choice> = choices.by_ref().take(n as usize).collect();
        if of_prompt.is_empty() {
            return best;
        }
        of_prompt.sort_by(|a, b| b.likelihood().total_cmp(&a.likelihood()));
        of_prompt.truncate(kept as usize);
        best.extend(of_prompt);
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
    /// Mean log-probability of its tokens; of none, the lowest there is.
    fn likelihood(&self) -> f64 {
        let sum: f64 = self.tokens.iter().map(|token| f64::from(token.token.logprob)).sum();
        if self.tokens.is_empty() { f64::NEG_INFINITY } else { sum / self.tokens.len() as f64 }
    }

    fn chat(self, head: &Head, index: u32) -> ChatChoice {
        let call = |(place, function): (usize, Option<FunctionCall>)| {
            let id = Some(head.call_id(index, place));
            Some(ToolCall { index: None, id, kind: Some("function"), function: function? })
        };
        let calls: Vec<ToolCall> = self.calls.into_iter().enumerate().filter_map(call).collect();
        let silent = self.text.is_empty() && !calls.is_empty();
        ChatChoice {
            index,
            message: Message {
                role: "assistant",
                content: (!silent).then_some(self.text),
                reasoning_content: self.reasoning,
                refusal: None,
                tool_calls: calls,
            },
            logprobs: head.logprobs.then(|| self.tokens.into()),
            finish_reason: self.finish,
        }
    }

    fn plain(self, head: &Head, index: u32) -> TextChoice {
        let logprobs = head.logprobs.then(|| {
            let mut logprobs = TextLogprobs::of_prompt(self.prompt);
            logprobs.append(self.tokens.into());
            logprobs
        });
        TextChoice { text: self.text, index, logprobs, finish_reason: Some(self.finish) }
    }
}

#[cfg(test)]
mod tests;
