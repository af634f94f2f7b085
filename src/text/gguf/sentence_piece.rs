//! SentencePiece from a GGUF file: `tokenizer.ggml.model = llama`.
//!
//! llama.cpp repeatedly joins the two neighbours whose union has the best score. That is BPE with implicit
//! merges. Here the merges are written out, each token with every pair of tokens that it splits into, best
//! score first. Spaces become `▁`; characters without a token become bytes.

use super::{BYTE, CONTROL, GgufVocabulary, TextError, UNKNOWN, UNUSED, USER_DEFINED, index, part};
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::{DecoderWrapper, NormalizerWrapper, Tokenizer};

const SPACE: &str = "▁";
/// Longer tokens are not split: merging would never reach such a pair.
const LONGEST: usize = 256;
/// Maximum pairs per token, on average. Real vocabularies have two to three. Artificial ones could have
/// hundreds, and would need far more memory than their file.
const MOST_PAIRS: usize = 8;

pub(super) fn build(from: &GgufVocabulary) -> Result<Tokenizer, TextError> {
    if from.scores.is_empty() {
        return Err(from.invalid("it has no token scores"));
    }
    if let Some(id) = from.scores.iter().position(|score| score.is_nan()) {
        return Err(from.invalid(format!("the score of token {id} is not a number")));
    }
    let bytes = index(from, |kind| kind == BYTE);
    let has_bytes = (0..=255u8).all(|byte| bytes.contains_key(format!("<0x{byte:02X}>").as_str()));
    let mut builder = BPE::builder()
        .vocab_and_merges(from.vocab()?, pairs(from)?)
        .byte_fallback(has_bytes)
        .fuse_unk(true);
    if let Some(unknown) = from.tokens.get(from.id("unk").unwrap_or(0) as usize) {
        builder = builder.unk_token(unknown.clone());
    }
    let model = builder
        .build()
        .map_err(|e| from.invalid(format!("its vocabulary is inconsistent ({e})")))?;
    let mut tokenizer = Tokenizer::new(model);
    let prefix = from.add_space_prefix.unwrap_or(true);
    let bad = |e: String| from.invalid(e);
    let normalizer: NormalizerWrapper = part(normalizer(prefix)).map_err(bad)?;
    tokenizer.with_normalizer(Some(normalizer)).map_err(|e| from.invalid(e.to_string()))?;
    let decoder: DecoderWrapper = part(decoder(prefix)).map_err(bad)?;
    tokenizer.with_decoder(Some(decoder));
    Ok(tokenizer)
}

/// All ways to split a token into two tokens, best score first; for one token, longest left part first.
fn pairs(from: &GgufVocabulary) -> Result<Vec<(String, String)>, TextError> {
    let known =
        index(from, |kind| !matches!(kind, UNKNOWN | CONTROL | USER_DEFINED | UNUSED | BYTE));
    let mut found: Vec<(f32, &str, &str)> = Vec::new();
    for (token, id) in &known {
        if token.len() > LONGEST {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if known.contains_key(left) && known.contains_key(right) {
                found.push((from.scores[*id], left, right));
            }
        }
        if found.len() > MOST_PAIRS * from.tokens.len() {
            return Err(
                from.invalid("its tokens fall into more pairs than those of any vocabulary")
            );
        }
    }
    let order = |(score, left, right): &(f32, &str, &str)| {
        (left.chars().count(), right.chars().count(), *score)
    };
    found.sort_by(|a, b| {
        let (a_left, a_right, a_score) = order(a);
        let (b_left, b_right, b_score) = order(b);
        b_score
            .total_cmp(&a_score)
            .then(b_left.cmp(&a_left))
            .then(b_right.cmp(&a_right))
            .then_with(|| (known[a.1], known[a.2]).cmp(&(known[b.1], known[b.2])))
    });
    Ok(found.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect())
}

fn normalizer(prefix: bool) -> Value {
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let steps: Vec<Value> = prefix.then_some(prepend).into_iter().chain([spaces]).collect();
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(prefix: bool) -> Value {
    let steps = [
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let steps: Vec<Value> = steps.into_iter().chain(prefix.then_some(strip)).collect();
    json!({"type": "Sequence", "decoders": steps})
}
