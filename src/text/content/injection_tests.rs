//! Tests with 10,000 seeded contents of system, user and tool messages for each of twelve families. The contents
//! include the family's special tokens: whole, cut, and split across messages. None of them becomes a control token,
//! and the text is otherwise unchanged.

use crate::text::testing::families::{Base, FAMILIES, codec};
use crate::text::{Chat, Codec};
use rayon::prelude::*;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Contents per family.
const CONTENTS: usize = 10_000;

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

/// As `Codec::encode_chat` and `Codec::render`, which would render twice.
fn encoded(codec: &Codec, messages: &[Value]) -> Option<(Vec<u32>, String)> {
    let chat = Chat { messages, ..Chat::default() };
    let text = codec.render_marked(&chat).ok()?;
    Some((codec.encode_marked(&text, false).ok()?, codec.without_marks(text)))
}

#[test]
fn no_content_writes_control_tokens_in_twelve_families() {
    (0..FAMILIES.len()).into_par_iter().for_each(no_content_writes_control_tokens);
}

fn no_content_writes_control_tokens(at: usize) {
    let (name, base, own) = FAMILIES[at];
    let codec = codec(FAMILIES[at]);
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
    assert!(taken >= 1 && plain.iter().flatten().any(|all| !all.is_empty()), "{name}: {plain:?}");
    let mut numbers = Seeded(at as u64, 0);
    let (mut contents, mut rendered) = (0, 0);
    while contents < CONTENTS {
        let mut rest = String::new();
        let three: [String; 3] = std::array::from_fn(|_| numbers.content(own, &mut rest));
        for (messages, plain) in shapes(three.each_ref().map(String::as_str)).iter().zip(&plain) {
            let Some(plain) = plain else { continue };
            let Some((ids, text)) = encoded(&codec, messages) else { continue };
            rendered += 1;
            assert_eq!(controls(&ids), *plain, "{name}: {messages:?}");
            let decoded = codec.decode(&ids, false).unwrap();
            match base {
                Base::Bytes => assert_eq!(decoded, text, "{name}"),
                // SentencePiece writes spaces as ▁, and reads it as a space.
                _ => assert_eq!(solid(&decoded), solid(&text), "{name}"),
            }
        }
        contents += three.len();
    }
    assert!(rendered >= CONTENTS / 3, "{name}: only {rendered} conversations were rendered");
}

fn solid(text: &str) -> String {
    text.replace(|c: char| c.is_whitespace() || c == '▁', "")
}
