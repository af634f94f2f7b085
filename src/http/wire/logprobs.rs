//! Log-probabilities in the formats of the two endpoints.
//!
//! The same data in two formats: a chat lists objects, a plain completion has parallel lists. A token that is
//! not a whole character has U+FFFD in its text; its bytes are exact, where the format has room for them.

use crate::serving::{LikelyToken, TokenLogprob};
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
    pub logprob: f32,
    pub bytes: Vec<u8>,
}

/// The log-probabilities of a plain completion's choice, or the part that a chunk adds: one entry per token
/// in each list.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct TextLogprobs {
    pub tokens: Vec<String>,
    pub token_logprobs: Vec<f32>,
    /// By the token's text; always includes the chosen token.
    pub top_logprobs: Vec<Map<String, Value>>,
    /// Characters of the reply before the token.
    pub text_offset: Vec<usize>,
}

fn text(token: &LikelyToken) -> String {
    String::from_utf8_lossy(&token.bytes).into_owned()
}

impl From<LikelyToken> for Likely {
    fn from(token: LikelyToken) -> Likely {
        Likely { token: text(&token), logprob: token.logprob, bytes: token.bytes }
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
            let mut likeliest = Map::new();
            // If two tokens have the same text, the more likely one is kept.
            for one in top.iter().chain([&token]) {
                likeliest.entry(text(one)).or_insert_with(|| one.logprob.into());
            }
            lists.tokens.push(text(&token));
            lists.token_logprobs.push(token.logprob);
            lists.top_logprobs.push(likeliest);
            lists.text_offset.push(offset);
        }
        lists
    }
}
