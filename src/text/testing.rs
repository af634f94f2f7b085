//! Small tokenizers and model folders for the tests of this module.
//!
//! The byte-level one has all 256 bytes as tokens and a few merges, so any text can be encoded and characters
//! are split into several tokens. The other one mimics SentencePiece: `▁` for spaces, a stripped leading
//! space, and bytes as `<0xNN>` for characters without a token.

#[path = "testing/families_tests.rs"]
pub(crate) mod families;

use super::Codec;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// The first special token of every fixture.
pub(super) const END_OF_TURN: &str = "<|im_end|>";

/// A byte-level BPE tokenizer: 256 bytes, some merges, two special tokens and one added token that is
/// visible.
pub(super) fn byte_level() -> Tokenizer {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut vocab: Vec<String> = alphabet.into_iter().map(String::from).collect();
    // The last one joins a comma with the first byte of most emoji.
    let merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), (",", "ð")];
    vocab.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocab: Vec<(String, u32)> = vocab.into_iter().zip(0..).collect();
    let merges = merges.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
    let vocab: [(String, u32); 256 + 6] = vocab.try_into().unwrap();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, false)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = ["<|im_start|>", END_OF_TURN].map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer.add_tokens([AddedToken::from("<tool_call>", false)]).unwrap();
    tokenizer
}

/// A SentencePiece-like tokenizer, as a `tokenizer.json`.
pub(super) fn sentence_piece() -> Value {
    let words =
        ["<unk>", "<s>", "</s>", "▁", "▁hello", "▁world", "hello", "a", "b", "é", "▁a", ","];
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let vocab = words.into_iter().map(String::from).chain(bytes);
    let vocab =
        vocab.enumerate().map(|(id, token)| (token, json!(id))).collect::<serde_json::Map<_, _>>();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": true,
            "vocab": vocab, "merges": []}
    })
}

/// Number of embedding rows for [`byte_level`].
pub(super) fn byte_level_size() -> usize {
    byte_level().get_vocab_size(true)
}

/// A model folder with the byte-level tokenizer and the given JSON files.
pub(super) fn folder(files: &[(&str, Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    byte_level().save(dir.path().join("tokenizer.json"), false).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

/// The byte-level tokenizer as a codec without a template.
pub(super) fn byte_level_codec() -> Arc<Codec> {
    Arc::new(Codec::load(folder(&[]).path(), byte_level_size()).unwrap())
}

/// The SentencePiece-like tokenizer as a codec without a template.
pub(super) fn sentence_piece_codec() -> Arc<Codec> {
    let dir = folder(&[("tokenizer.json", sentence_piece())]);
    Arc::new(Codec::load(dir.path(), 1000).unwrap())
}
