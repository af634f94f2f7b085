//! What it costs to know which tokens a grammar allows next, in a vocabulary of 151,936 tokens.
//!
//!     cargo bench --bench mask [-- TOKENIZER_FOLDER VOCAB]
//!
//! Texts that are valid by their schema are followed token by token; measured is each mask, on one thread. The first run
//! through a text fills the lexer's tables, as the first replies of a server do; both runs are shown. The vocabulary is
//! made: words of syllables with and without a space, numbers, white space, punctuation as in code, Cyrillic and Han
//! characters, in about the shares of a large multilingual one. A folder's own tokenizer can be measured instead.
//! Bars: a median below 100 us, a 99th percentile below 1 ms.

use serde_json::{Value, json};
use serin::grammar::{Constraint, Grammars};
use serin::text::Codec;
use serin::text::reply::reasoning::Opening;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const VOCAB: usize = 151_936;

/// Bytes as the letters of a byte-level vocabulary (the table of GPT-2).
fn letters(text: &str) -> String {
    text.bytes().map(letter).collect()
}

fn letter(byte: u8) -> char {
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=byte).filter(|byte| !plain(byte)).count() as u32;
    let other = char::from_u32(255 + others).unwrap_or(' ');
    if plain(&byte) { char::from(byte) } else { other }
}

struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

fn word(numbers: &mut Seeded) -> String {
    const HEADS: [&str; 24] = [
        "b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "st", "tr",
        "ch", "pl", "con", "pre", "re", "in",
    ];
    const MIDDLES: [&str; 10] = ["a", "e", "i", "o", "u", "ea", "io", "ou", "ai", "y"];
    const ENDS: [&str; 14] =
        ["", "n", "r", "s", "t", "l", "ng", "ed", "er", "ly", "tion", "ment", "ist", "able"];
    let mut word = String::new();
    for _ in 0..1 + numbers.below(3) {
        word += numbers.one(&HEADS);
        word += numbers.one(&MIDDLES);
    }
    word + numbers.one(&ENDS)
}

fn token(numbers: &mut Seeded) -> String {
    const MARKS: [&str; 24] = [
        "{", "}", "[", "]", "(", ")", "\"", "'", ":", ",", ".", ";", "=", "/", "\\", "-", "_", "<",
        ">", "*", "\n", " ", "\t", "#",
    ];
    let drawn = |numbers: &mut Seeded, first: u32, count: usize| {
        let letter = |numbers: &mut Seeded| {
            char::from_u32(first + numbers.below(count) as u32).unwrap_or('x')
        };
        (0..1 + numbers.below(4)).map(|_| letter(numbers)).collect::<String>()
    };
    match numbers.below(100) {
        0..40 => " ".to_owned() + &word(numbers),
        40..58 => word(numbers),
        58..68 => {
            let word = word(numbers);
            let space = if numbers.below(2) == 0 { " " } else { "" };
            space.to_owned() + &word[..1].to_uppercase() + &word[1..]
        }
        68..75 => drawn(numbers, 0x430, 32),
        75..90 => drawn(numbers, 0x4e00, 8000),
        90..92 => " ".repeat(1 + numbers.below(60)),
        92..95 => numbers.below(1000).to_string(),
        _ => (0..1 + numbers.below(5)).map(|_| numbers.one(&MARKS)).collect(),
    }
}

fn made(folder: &Path) {
    let mut numbers = Seeded(7);
    let bytes: Vec<String> = (0..=255u8).map(|byte| letter(byte).to_string()).collect();
    let mut all: BTreeSet<String> = BTreeSet::new();
    while all.len() + bytes.len() + 3 < VOCAB {
        let token = letters(&token(&mut numbers));
        if token.chars().count() > 1 {
            all.insert(token);
        }
    }
    let vocab: serde_json::Map<String, Value> =
        bytes.into_iter().chain(all).zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    let first = vocab.len();
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().enumerate();
    let special: Vec<Value> = special
        .map(|(at, token)| {
            json!({"id": first + at, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": special, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "ignore_merges": true},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("a file");
    std::fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "<|im_end|>"}"#)
        .expect("a file");
}

/// Schemas with a text that is valid by each.
fn cases() -> Vec<(&'static str, Constraint, String)> {
    let person = json!({"type": "object", "required": ["name", "age", "email", "tags"], "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4}}});
    let tree = json!({"type": "object", "required": ["value", "children"], "properties": {
        "value": {"type": "string", "maxLength": 40},
        "children": {"type": "array", "items": {"$ref": "#"}}}});
    let people = json!({"type": "array", "items": person});
    let one = r#"{"name": "Ada Lovelace of London", "age": 36, "email": "ada@example.org", "tags": ["red", "blue"]}"#;
    let node =
        |value: &str, inside: &str| format!("{{\"value\": \"{value}\", \"children\": [{inside}]}}");
    let leaf = node("a small leaf on the tree", "");
    let prose =
        "It was a bright cold day, and the clocks were striking thirteen; nobody said a word.";
    vec![
        ("an object", Constraint::Schema(person), one.to_owned()),
        ("a list of objects", Constraint::Schema(people), format!("[{one}, {one}, {one}]")),
        (
            "a tree",
            Constraint::Schema(tree),
            node("root", &format!("{leaf}, {}", node("b", &leaf))),
        ),
        (
            "any object",
            Constraint::Object,
            format!("{{\"a\": [1, 2.5e3, null], \"text\": \"{prose}\"}}"),
        ),
        (
            "a pattern",
            Constraint::Regex(r"[A-Z][a-z ,;]+\.( [A-Z][a-z ,;]+\.)*".into()),
            prose.replace(" nobody", " Nobody"),
        ),
    ]
}

/// The masks' times along a text.
fn follow(grammars: &Grammars, constraint: &Constraint, ids: &[u32]) -> Vec<Duration> {
    let compiled =
        grammars.compile(constraint, Opening::Answer).expect("a grammar").expect("a guide");
    let guide = compiled.guide();
    let mut times = Vec::new();
    for id in ids {
        let begun = Instant::now();
        let mask = guide.mask().expect("a mask").expect("a mask");
        times.push(begun.elapsed());
        if !mask.has(*id) || guide.take(*id).is_err() {
            break;
        }
    }
    times
}

fn row(what: &str, mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "| {what} | {} | {:.1} | {:.1} | {:.1} |",
        times.len(),
        at(0.5).as_secs_f64() * 1e6,
        at(0.99).as_secs_f64() * 1e6,
        at(1.0).as_secs_f64() * 1e6
    );
    (at(0.5), at(0.99))
}

fn main() {
    let own: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let made_folder = tempfile::tempdir().expect("a folder");
    let (folder, vocab) = match &own[..] {
        [folder, vocab] => (Path::new(folder), vocab.parse().expect("a number")),
        _ => {
            made(made_folder.path());
            (made_folder.path(), VOCAB)
        }
    };
    let codec = Arc::new(Codec::load(folder, vocab).expect("a tokenizer"));
    let begun = Instant::now();
    let grammars = Grammars::new(codec.clone(), vocab).expect("grammars");
    println!("vocabulary of {vocab} tokens: {:.2} s\n", begun.elapsed().as_secs_f64());
    println!("| masks | tokens | median us | p99 us | most us |\n|---|---|---|---|---|");
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for (what, constraint, text) in cases() {
        let ids = codec.encode(&text, false).expect("ids");
        let begun = Instant::now();
        drop(grammars.compile(&constraint, Opening::Answer));
        let compiled = begun.elapsed();
        let times = follow(&grammars, &constraint, &ids);
        row(
            &format!("{what}, first reply (compiled in {:.1} ms)", compiled.as_secs_f64() * 1e3),
            times.clone(),
        );
        first.extend(times);
        let times: Vec<Duration> =
            (0..20).flat_map(|_| follow(&grammars, &constraint, &ids)).collect();
        row(&format!("{what}, later"), times.clone());
        later.extend(times);
    }
    row("all first replies", first.clone());
    let (median, p99) = row("all later ones", later.clone());
    first.extend(later);
    let holds = median < Duration::from_micros(100) && p99 < Duration::from_millis(1);
    println!("\nbars, 100 us and 1 ms: {}", if holds { "hold" } else { "do not hold" });
}
