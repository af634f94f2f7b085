//! The prompt as the beginning of its replies (`echo`): its text, and the log-probabilities of its tokens if requested.

use super::logprobs::likely;
use super::types::{GenerateRequest, Prompt, PromptToken};
use crate::model::Score;
use crate::text::{Codec, Shown, StreamDecoder, TextError};
use std::sync::Arc;

/// What is repeated of one prompt.
#[derive(Debug, Clone)]
pub struct Echo {
    /// A text as the client wrote it, unless it was cut; ids as they are decoded.
    pub text: String,
    ids: Vec<u32>,
    /// Characters of the text before each token.
    offsets: Vec<usize>,
}

impl Echo {
    /// The echo of a prompt with these ids; `None` if the request asks for none. Fails if the tokenizer cannot decode
    /// them.
    pub fn of(
        request: &GenerateRequest,
        ids: &[u32],
        codec: &Arc<Codec>,
    ) -> Result<Option<Echo>, TextError> {
        if !request.echo {
            return Ok(None);
        }
        let shown = match &request.prompt {
            Prompt::Tokens(_) => Shown::Special,
            _ => Shown::Text,
        };
        let mut decoder = StreamDecoder::showing(codec.clone(), shown);
        let (mut text, mut chars, mut offsets) = (String::new(), 0, Vec::with_capacity(ids.len()));
        for id in ids {
            offsets.push(chars);
            let more = decoder.push(*id)?;
            chars += more.chars().count();
            text.push_str(&more);
        }
        text.push_str(&decoder.finish());
        if let (Prompt::Text(whole), None) = (&request.prompt, request.truncate_prompt) {
            text.clone_from(whole);
        }
        Ok(Some(Echo { text, ids: ids.to_vec(), offsets }))
    }

    /// How many characters the text has.
    pub fn chars(&self) -> usize {
        self.text.chars().count()
    }

    /// The tokens with the scores of all but the first, before which there is nothing.
    pub fn tokens(&self, codec: &Codec, scores: Vec<Score>) -> Vec<PromptToken> {
        let scores = std::iter::once(None).chain(scores.into_iter().map(Some));
        let places = self.ids.iter().zip(&self.offsets).zip(scores);
        let one = |((id, offset), score): ((&u32, &usize), Option<Score>)| PromptToken {
            bytes: codec.spelling(*id),
            logprob: score.as_ref().map(|score| score.logprob),
            top: score
                .iter()
                .flat_map(|score| &score.likeliest)
                .map(|one| likely(codec, *one))
                .collect(),
            offset: *offset,
        };
        places.map(one).collect()
    }
}
