//! The bytes of a token.
//!
//! Decoding a token by itself would lose information: part of a character becomes U+FFFD, and a leading space
//! may be stripped. A vocabulary contains the exact bytes, in one of two spellings: GPT-2's, where each byte
//! is a printable character, or SentencePiece's, where `▁` is a space and `<0xNN>` a byte.
//!
//! This file knows the two spellings; a tokenizer's decoder tells which one applies.

use tokenizers::{DecoderWrapper, Tokenizer};

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    ByteLevel,
    SentencePiece,
}

impl Spelling {
    pub(super) fn of(tokenizer: &Tokenizer) -> Spelling {
        let byte_level = |decoder: &DecoderWrapper| matches!(decoder, DecoderWrapper::ByteLevel(_));
        let found = match tokenizer.get_decoder() {
            Some(DecoderWrapper::Sequence(steps)) => steps.get_decoders().iter().any(byte_level),
            Some(decoder) => byte_level(decoder),
            None => false,
        };
        if found { Spelling::ByteLevel } else { Spelling::SentencePiece }
    }

    /// The bytes of a token of the vocabulary.
    pub(super) fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            Spelling::ByteLevel => {
                let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
                bytes.unwrap_or_else(|| token.into())
            }
            Spelling::SentencePiece => {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.filter(|hex| hex.len() == 2).map(|hex| u8::from_str_radix(hex, 16)) {
                    Some(Ok(byte)) => vec![byte],
                    _ => token.replace('▁', " ").into(),
                }
            }
        }
    }
}

/// The inverse of GPT-2's alphabet: printable bytes are themselves, and the other 68 start at U+0100.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::{byte_level_codec, sentence_piece_codec};

    #[test]
    fn the_bytes_of_a_texts_tokens_are_the_texts() {
        let text = "hello wörld,👍\u{0}\u{7f}\u{ad}\u{a0}\n世";
        let codec = byte_level_codec();
        let ids = codec.encode(text, false).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| codec.spelling(*id)).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        let codec = sentence_piece_codec();
        let ids = codec.encode("hello worldé👍", false).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|id| codec.spelling(*id)).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), " hello worldé👍");
    }

    #[test]
    fn the_alphabet_is_gpt2s() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn special_tokens_are_their_own_text() {
        let codec = byte_level_codec();
        let id = codec.token_id("<|im_end|>").unwrap();
        assert_eq!(codec.spelling(id), b"<|im_end|>");
        assert_eq!(codec.spelling(1_000_000), b"");
    }
}
