//! Log-probabilities in the formats of the two endpoints.
//!
//! The same data in two formats: a chat completion lists objects, a plain completion has parallel lists. A token that
//! is not a whole character has U+FFFD in its text. Its bytes are exact, if the format has a field for them.

use crate::serving::{LikelyToken, PromptToken, TokenLogprob};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// The log-probabilities of a chat's choice, or the part that a chunk adds.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    pub content: Vec<ChatToken>,
    pub refusal: Option<()>,
}

/// A token of a chat's reply.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatToken {
    #[serde(flatten)]
    pub likely: Likely,
    pub top_logprobs: Vec<Likely>,
}

/// A token and its log-probability.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Likely {
    pub token: String,
    pub logprob: f64,
    pub bytes: Vec<u8>,
}

/// The log-probabilities of a plain completion's choice, or the part that a chunk adds: one entry per token
/// in each list.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct TextLogprobs {
    pub tokens: Vec<String>,
    /// `null` for a prompt's first token.
    pub token_logprobs: Vec<Option<f64>>,
    /// By the token's text; always includes the token itself. `null` for a prompt's first token.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Characters of the text before the token.
    pub text_offset: Vec<usize>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The number with the fewest digits that is closest to this one. Clients compare a token's log-probability with
/// those of the most likely tokens, so that all of them must be written alike.
fn decimal(logprob: f32) -> f64 {
    logprob.to_string().parse().unwrap_or_else(|_| logprob.into())
}

impl From<LikelyToken> for Likely {
    fn from(token: LikelyToken) -> Likely {
        Likely { token: text(&token.bytes), logprob: decimal(token.logprob), bytes: token.bytes }
    }
}

impl From<TokenLogprob> for ChatToken {
    fn from(token: TokenLogprob) -> ChatToken {
        let top_logprobs = token.top.into_iter().map(Likely::from).collect();
        ChatToken { likely: token.token.into(), top_logprobs }
    }
}

impl From<Vec<TokenLogprob>> for ChatLogprobs {
    fn from(tokens: Vec<TokenLogprob>) -> ChatLogprobs {
        ChatLogprobs { content: tokens.into_iter().map(ChatToken::from).collect(), refusal: None }
    }
}

impl From<Vec<TokenLogprob>> for TextLogprobs {
    fn from(tokens: Vec<TokenLogprob>) -> TextLogprobs {
        let mut lists = TextLogprobs::default();
        for TokenLogprob { token, top, offset } in tokens {
            lists.tokens.push(text(&token.bytes));
            lists.token_logprobs.push(Some(decimal(token.logprob)));
            lists.top_logprobs.push(Some(by_text(&top, &token)));
            lists.text_offset.push(offset);
        }
        lists
    }
}

impl TextLogprobs {
    /// Those of a repeated prompt.
    pub fn of_prompt(tokens: Vec<PromptToken>) -> TextLogprobs {
        let mut lists = TextLogprobs::default();
        for PromptToken { bytes, logprob, top, offset } in tokens {
            lists.tokens.push(text(&bytes));
            lists.token_logprobs.push(logprob.map(decimal));
            let token = logprob.map(|logprob| LikelyToken { bytes, logprob });
            lists.top_logprobs.push(token.map(|token| by_text(&top, &token)));
            lists.text_offset.push(offset);
        }
        lists
    }

    /// Adds those of the tokens that follow.
    pub fn append(&mut self, more: TextLogprobs) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}

/// If two tokens have the same text, the more likely one is kept.
fn by_text(top: &[LikelyToken], token: &LikelyToken) -> Map<String, Value> {
    let mut likeliest = Map::new();
    for one in top.iter().chain([token]) {
        likeliest.entry(text(&one.bytes)).or_insert_with(|| decimal(one.logprob).into());
    }
    likeliest
}
