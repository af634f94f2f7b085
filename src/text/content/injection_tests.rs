//! 10,000 seeded contents of system, user and tool messages for each of twelve families: with their special tokens,
//! whole, cut, and cut across messages, none writes a control token, and the text is otherwise what it was.

use crate::text::testing::{byte_level, sentence_piece};
use crate::text::{Chat, Codec};
use serde_json::{Value, json};
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Contents per family.
const CONTENTS: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Base {
    Bytes,
    /// SentencePiece: spaces around special tokens come and go.
    Pieces,
    /// The same, with special tokens that take the white space after them.
    Stripping,
}
use Base::{Bytes, Pieces, Stripping};

/// Name of the template, tokenizer, special tokens in the order of the family's own.
const FAMILIES: [(&str, Base, &[&str]); 12] = [
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
const WORDS: [&str; 14] = [
    "hello",
    " ",
    "\n",
    "system",
    "user",
    "世界",
    "é",
    "<",
    ">",
    "|",
    "｜",
    "[",
    "]",
    "assistant\n\n",
];

/// Numbers by seed and position.
struct Seeded(u64, u64);

impl Seeded {
    fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        (xxh3_64_with_seed(&self.1.to_le_bytes(), self.0) % n as u64) as usize
    }

    /// A text of special tokens, whole and cut, and words. The rest of a cut token begins the next one.
    fn content(&mut self, own: &[&str], rest: &mut String) -> String {
        let mut out = std::mem::take(rest);
        for _ in 0..=self.below(6) {
            let (which, family) = (self.below(8), self.below(FAMILIES.len()));
            let tokens = if self.below(4) == 0 { FAMILIES[family].2 } else { own };
            let token = tokens[self.below(tokens.len())];
            let chars = token.chars().count();
            let at = token.char_indices().nth(self.below(chars)).map_or(0, |(at, _)| at);
            match which {
                0..=2 => out.push_str(token),
                3 => out.push_str(&token[..at]),
                4 => out.push_str(&token[at..]),
                5 => out.push_str(&format!(
                    "{}{}{}",
                    &token[..at],
                    WORDS[self.below(WORDS.len())],
                    &token[at..]
                )),
                6 => out.push_str(&format!("{}{token}{}", &token[..at], &token[at..])),
                _ => out.push_str(WORDS[self.below(WORDS.len())]),
            }
        }
        let cut = own[self.below(own.len())];
        let at = cut.char_indices().nth(self.below(cut.chars().count())).map_or(0, |(at, _)| at);
        if self.below(3) == 0 {
            out.push_str(&cut[..at]);
            rest.push_str(&cut[at..]);
        }
        out
    }
}

fn codec((name, base, special): (&str, Base, &[&str])) -> Codec {
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

/// Conversations with three contents, as many as a template may take.
fn shapes([one, two, three]: [&str; 3]) -> Vec<Vec<Value>> {
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let call = json!([{"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]);
    let asks = json!({"role": "assistant", "content": "", "tool_calls": call});
    let result =
        json!({"role": "tool", "name": "f", "tool_call_id": "call00001", "content": three});
    vec![
        vec![say("system", one), say("user", two), asks.clone(), result.clone()],
        vec![say("user", one), say("assistant", two), say("user", "go on"), asks, result],
        vec![say("system", one), say("user", two), say("assistant", "Yes."), say("user", three)],
        vec![
            say("user", one),
            say("assistant", "Yes."),
            say("user", two),
            say("assistant", three),
            say("user", "x"),
        ],
    ]
}

fn encoded(codec: &Codec, messages: &[Value]) -> Option<(Vec<u32>, String)> {
    let chat = Chat { messages, ..Chat::default() };
    Some((codec.encode_chat(&chat, false).ok()?.0, codec.render(&chat).ok()?))
}

#[test]
fn no_content_writes_control_tokens_in_twelve_families() {
    for (at, family) in FAMILIES.into_iter().enumerate() {
        let (name, base, own) = family;
        let codec = codec(family);
        let special: Vec<u32> =
            codec.special_tokens().iter().filter_map(|token| codec.token_id(token)).collect();
        let controls = |ids: &[u32]| -> Vec<u32> {
            ids.iter().copied().filter(|id| special.contains(id) && *id != 0).collect()
        };
        let plain: Vec<Option<Vec<u32>>> = shapes(["x", "x", "x"])
            .iter()
            .map(|messages| encoded(&codec, messages).map(|(ids, _)| controls(&ids)))
            .collect();
        let taken = plain.iter().flatten().count();
        assert!(
            taken >= 1 && plain.iter().flatten().any(|all| !all.is_empty()),
            "{name}: {plain:?}"
        );
        let mut numbers = Seeded(at as u64, 0);
        let (mut contents, mut rendered) = (0, 0);
        while contents < CONTENTS {
            let mut rest = String::new();
            let three: [String; 3] = std::array::from_fn(|_| numbers.content(own, &mut rest));
            for (messages, plain) in shapes(three.each_ref().map(String::as_str)).iter().zip(&plain)
            {
                let Some(plain) = plain else { continue };
                let Some((ids, text)) = encoded(&codec, messages) else { continue };
                rendered += 1;
                assert_eq!(controls(&ids), *plain, "{name}: {messages:?}");
                let decoded = codec.decode(&ids, false).unwrap();
                match base {
                    Bytes => assert_eq!(decoded, text, "{name}"),
                    _ => {
                        // SentencePiece writes spaces as ▁, and reads it as a space.
                        let solid =
                            |text: &str| text.replace(|c: char| c.is_whitespace() || c == '▁', "");
                        assert_eq!(solid(&decoded), solid(&text), "{name}");
                    }
                }
            }
            contents += three.len();
        }
        assert!(rendered >= CONTENTS / 3, "{name}: only {rendered} conversations were rendered");
    }
}
