//! Codecs of twelve families: small tokenizers with each family's special tokens and its chat template.

use super::{byte_level, sentence_piece};
use crate::text::Codec;
use serde_json::json;
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Base {
    Bytes,
    /// SentencePiece: spaces around special tokens come and go.
    Pieces,
    /// The same, with special tokens that take the white space after them.
    Stripping,
}
use Base::{Bytes, Pieces, Stripping};

/// Name of the template, tokenizer, special tokens in the order of the family's own.
pub(crate) type Family = (&'static str, Base, &'static [&'static str]);

/// The families.
pub(crate) const FAMILIES: [Family; 12] = [
    ("llama2", Pieces, &["<s>", "</s>", "<unk>"]),
    (
        "llama3",
        Bytes,
        &[
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
            "<|python_tag|>",
            "<|finetune_right_pad_id|>",
            "<|reserved_special_token_0|>",
            "<|reserved_special_token_1|>",
        ],
    ),
    ("chatml", Bytes, &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    (
        "qwen25",
        Bytes,
        &[
            "<|endoftext|>",
            "<|im_start|>",
            "<|im_end|>",
            "<|object_ref_start|>",
            "<|object_ref_end|>",
            "<|box_start|>",
            "<|box_end|>",
            "<|quad_start|>",
            "<|quad_end|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|vision_pad|>",
            "<|image_pad|>",
            "<|video_pad|>",
        ],
    ),
    (
        "hermes",
        Bytes,
        &[
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|im_start|>",
            "<|im_end|>",
            "<tool_call>",
            "</tool_call>",
        ],
    ),
    (
        "mistral_tools",
        Pieces,
        &[
            "<s>",
            "</s>",
            "<unk>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ],
    ),
    ("gemma", Pieces, &["<bos>", "<eos>", "<pad>", "<mask>", "<start_of_turn>", "<end_of_turn>"]),
    (
        "gemma3",
        Bytes,
        &[
            "<bos>",
            "<eos>",
            "<pad>",
            "<start_of_turn>",
            "<end_of_turn>",
            "<start_of_image>",
            "<end_of_image>",
        ],
    ),
    (
        "phi3",
        Stripping,
        &[
            "<s>",
            "<|endoftext|>",
            "<|assistant|>",
            "<|end|>",
            "<|user|>",
            "<|system|>",
            "<|placeholder1|>",
        ],
    ),
    (
        "phi4_mini",
        Bytes,
        &[
            "<|endoftext|>",
            "<|end|>",
            "<|user|>",
            "<|assistant|>",
            "<|system|>",
            "<|tool|>",
            "<|/tool|>",
            "<|tool_call|>",
            "<|/tool_call|>",
            "<|tool_response|>",
        ],
    ),
    (
        "deepseek_r1",
        Bytes,
        &[
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜User｜>",
            "<｜Assistant｜>",
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁outputs▁begin｜>",
            "<｜tool▁outputs▁end｜>",
            "<｜tool▁output▁begin｜>",
            "<｜tool▁output▁end｜>",
        ],
    ),
    (
        "command_r",
        Bytes,
        &[
            "<BOS_TOKEN>",
            "<EOS_TOKEN>",
            "<PAD>",
            "<UNK>",
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
        ],
    ),
];

/// A family's codec; its vocabulary has fewer than 2000 ids.
pub(crate) fn codec((name, base, special): Family) -> Codec {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/templates");
    let template = std::fs::read_to_string(root.join(format!("{name}.jinja"))).unwrap();
    let mut tokenizer: Tokenizer = match base {
        Bytes => byte_level(),
        Pieces | Stripping => sentence_piece().to_string().parse().unwrap(),
    };
    let added =
        special.iter().map(|token| AddedToken::from(*token, true).rstrip(base == Stripping));
    tokenizer.add_special_tokens(added).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path().join("tokenizer.json"), false).unwrap();
    let config =
        json!({"chat_template": template, "bos_token": special[0], "eos_token": special[1]});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Codec::load(dir.path(), 2000).unwrap()
}
