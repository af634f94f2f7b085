//! A model's tokens as bytes, in the form that llguidance needs.
//!
//! A special token is its text, prefixed with a byte that no text contains, so that the text of a grammar never allows
//! it. One additional token stands for the end of the reply. This file does not know which of the model's tokens end a
//! reply.

use crate::text::Codec;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use std::collections::HashSet;
use std::sync::Arc;

/// Texts that a tokenizer must spell as they are, for its tokens to be used for text that a grammar forces.
const SAMPLES: [&str; 4] = ["a", " b", "{\"name\": \"A b\", \"n\": [1, -2.5e3]}\n", "<x>é</x>"];

/// The tokens of a model with this tokenizer and so many token ids. The end of the reply has the id `vocab`.
pub(super) fn vocabulary(codec: Arc<Codec>, vocab: usize) -> TokEnv {
    let special: HashSet<u32> =
        codec.special_tokens().iter().filter_map(|token| codec.token_id(token)).collect();
    let ids = u32::try_from(vocab).unwrap_or(u32::MAX);
    let bytes = |id: u32| {
        let spelling = codec.spelling(id);
        match special.contains(&id) {
            true => marked(&spelling),
            // No text has this byte.
            false if spelling.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
            false => spelling,
        }
    };
    let mut tokens: Vec<Vec<u8>> = (0..ids).map(bytes).collect();
    tokens.push(marked(b"<end of the reply>"));
    let trie = TokTrie::from(&TokRxInfo::new(ids + 1, ids), &tokens);
    let mut own = Vocabulary { codec, trie, canonical: false };
    own.canonical = SAMPLES.iter().all(|text| own.spell(text).is_some());
    Arc::new(own)
}

fn marked(token: &[u8]) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], token].concat()
}

struct Vocabulary {
    codec: Arc<Codec>,
    trie: TokTrie,
    /// Whether the tokenizer's tokens of a text have just the bytes of that text.
    canonical: bool,
}

impl Vocabulary {
    /// The tokenizer's own tokens of a text, if they spell it: those of a tokenizer that adds a space to it do not, nor
    /// does a special token whose name is in it.
    fn spell(&self, text: &str) -> Option<Vec<u32>> {
        let ids = self.codec.encode(text, false).ok()?;
        (self.trie.decode_raw(&ids) == text.as_bytes()).then_some(ids)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let own = std::str::from_utf8(bytes).ok().and_then(|text| self.spell(text));
        own.unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::GgufVocabulary;
    use std::path::Path;

    #[test]
    fn every_token_has_its_bytes_and_special_ones_are_no_text() {
        let codec = Codec::load(Path::new("models/tiny-v1"), 4096).unwrap();
        let (tokens, special) = (codec.tokens(), codec.special_tokens());
        let codec = Arc::new(codec);
        let env = vocabulary(codec.clone(), 4096);
        let trie = env.tok_trie();
        assert_eq!(trie.vocab_size(), 4097);
        for id in 0..tokens as u32 {
            let is_special = codec.token(id).is_some_and(|token| special.contains(&token));
            assert_eq!(trie.is_special_token(id), is_special, "{id}");
            let spelling = codec.spelling(id);
            if !is_special && !spelling.contains(&0xff) {
                assert_eq!(trie.token(id), spelling, "{id}");
            }
        }
        assert!((tokens as u32..4096).all(|id| trie.token(id).is_empty()));
        assert!(env.tokenize_is_canonical());
        for text in [special.join(" and "), format!("a{}b", special[0])] {
            let ids = env.tokenize_bytes(text.as_bytes());
            assert_eq!(trie.decode_raw(&ids), text.as_bytes());
            assert!(!ids.iter().any(|id| trie.is_special_token(*id)), "{text}");
        }
    }

    #[test]
    fn a_vocabulary_of_bytes_spells_everything() {
        let codec = Codec::from_gguf(&GgufVocabulary::stand_in(Path::new("x"), 300), 300).unwrap();
        let env = vocabulary(Arc::new(codec), 300);
        let text = "{\"é\": [1, 2]}";
        assert_eq!(env.tok_trie().decode_raw(&env.tokenize(text)), text.as_bytes());
    }
}
