//! Tests: ids from llama.cpp and transformers for the same vocabularies, and invalid vocabularies.

use super::*;
use crate::text::Codec;
use serde_json::Value;

/// A vocabulary from a fixture. The text module does not know files, so the test reads the container itself.
fn vocabulary(name: &str) -> GgufVocabulary {
    let path =
        PathBuf::from(format!("{}/tests/fixtures/gguf/{name}.gguf", env!("CARGO_MANIFEST_DIR")));
    let bytes = std::fs::read(&path).unwrap();
    let entries = super::reading::entries(&bytes);
    let texts = |key: &str| match &entries[key] {
        Value::Array(list) => list.iter().map(|v| v.as_str().unwrap().to_owned()).collect(),
        other => panic!("{key}: {other}"),
    };
    let numbers = |key: &str| -> Vec<f64> {
        let list = entries.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let id = |name: &str| {
        entries.get(&format!("tokenizer.ggml.{name}_token_id")).and_then(Value::as_u64)
    };
    GgufVocabulary {
        path,
        model: entries["tokenizer.ggml.model"].as_str().unwrap().to_owned(),
        pre: entries["tokenizer.ggml.pre"].as_str().map(str::to_owned),
        tokens: texts("tokenizer.ggml.tokens"),
        scores: numbers("tokenizer.ggml.scores").iter().map(|x| *x as f32).collect(),
        types: numbers("tokenizer.ggml.token_type").iter().map(|x| *x as u8).collect(),
        merges: if name == "bpe" { texts("tokenizer.ggml.merges") } else { Vec::new() },
        special: ["bos", "eos", "unk"].iter().filter_map(|n| Some((*n, id(n)? as u32))).collect(),
        add_bos: entries.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool),
        ..GgufVocabulary::default()
    }
}

fn goldens() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/gguf/tokenizer_goldens.json"))
        .unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn ids_are_those_of_llama_cpp_and_transformers() {
    let goldens = goldens();
    let texts: Vec<&str> =
        goldens["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert!(texts.len() >= 300);
    let mut wrong = Vec::new();
    for case in goldens["cases"].as_array().unwrap() {
        let mut from = vocabulary(case["file"].as_str().unwrap());
        from.pre = case["pre"].as_str().map(str::to_owned).or(from.pre);
        from.add_space_prefix = case["prefix"].as_bool();
        let tokenizer = tokenizer(&from).unwrap();
        for (text, expected) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let got = tokenizer.encode_fast(*text, false).unwrap().get_ids().to_vec();
            if got != ids(expected) {
                wrong.push(format!(
                    "{} {} {text:?}: {got:?}, not {expected}",
                    case["by"], case["pre"]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let goldens = goldens();
    for (name, size) in [("bpe", 905), ("spm", 903)] {
        let codec = Codec::from_gguf(&vocabulary(name), size).unwrap();
        for text in goldens["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()) {
            // A SentencePiece `▁` is a space, and special tokens swallow the space that is added before the
            // text after them.
            if name == "spm" && (text.contains('▁') || text.contains('<')) {
                continue;
            }
            let ids = codec.encode(text, false).unwrap();
            assert_eq!(codec.decode(&ids, false).unwrap(), text, "{name} {text:?}");
        }
    }
}

#[test]
fn special_tokens_frame_a_text_as_the_file_says() {
    let mut from = vocabulary("bpe");
    let framed = |from: &GgufVocabulary| {
        let codec = Codec::from_gguf(from, 905).unwrap();
        let ids = codec.encode("Hello", true).unwrap();
        (codec.token(ids[0]).unwrap(), codec.token(*ids.last().unwrap()).unwrap())
    };
    assert_eq!(from.add_bos, Some(false));
    assert_ne!(framed(&from).0, "<|begin_of_text|>");
    // llama-bpe begins texts unless the file says otherwise.
    from.add_bos = None;
    from.add_eos = Some(true);
    assert_eq!(framed(&from), ("<|begin_of_text|>".into(), "<|endoftext|>".into()));
    from.pre = Some("qwen2".into());
    assert_ne!(framed(&from).0, "<|begin_of_text|>");
}

#[test]
fn ends_of_turns_are_found_and_special_tokens_stay_hidden() {
    let mut from = vocabulary("bpe");
    from.chat_template = Some("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}".into());
    let codec = Codec::from_gguf(&from, 905).unwrap();
    let end = |token| codec.token_id(token).unwrap();
    assert_eq!(codec.eos_ids(), [end("<|endoftext|>"), end("<|im_end|>")]);
    let ids = codec.encode("a<|im_end|><tool_call>", false).unwrap();
    assert_eq!(codec.decode(&ids, true).unwrap(), "a<tool_call>");
    let messages = [serde_json::json!({"role": "user", "content": "x"})];
    let chat = crate::text::Chat { messages: &messages, ..Default::default() };
    assert_eq!(codec.render(&chat).unwrap(), "<|begin_of_text|>x<|endoftext|>");
}

/// Some files have padding or a word twice. The first id is the one that text becomes.
#[test]
fn a_token_that_is_there_twice_shows_the_same_text() {
    let mut from = vocabulary("bpe");
    let before = Codec::from_gguf(&from, 905).unwrap();
    let word = before.encode("hello", false).unwrap()[0];
    let last = from.tokens.len() as u32;
    from.tokens.extend([from.tokens[word as usize].clone(), "<|im_end|>".to_owned()]);
    from.types.extend([1, CONTROL]);
    let codec = Codec::from_gguf(&from, 907).unwrap();
    assert_eq!(codec.tokens() as u32, last + 2);
    assert_eq!(codec.encode("hello", false).unwrap(), before.encode("hello", false).unwrap());
    assert_eq!(codec.decode(&[last], true).unwrap(), codec.decode(&[word], true).unwrap());
    assert_eq!(codec.spelling(last), codec.spelling(word));
    assert!(codec.is_visible(last) && !codec.is_visible(last + 1));
    assert_eq!(
        codec.decode(&[word, last + 1], true).unwrap(),
        codec.decode(&[word], true).unwrap()
    );
}

/// Gemma 3's folders have one token more than rows.
#[test]
fn added_tokens_beyond_the_rows_are_left_out_unless_they_are_needed() {
    let mut from = vocabulary("bpe");
    from.tokens.push("<image_soft_token>".to_owned());
    from.types.push(USER_DEFINED);
    let codec = Codec::from_gguf(&from, 905).unwrap();
    assert_eq!((codec.tokens(), codec.token_id("<image_soft_token>")), (905, None));
    let text = "a<image_soft_token>b";
    let ids = codec.encode(text, false).unwrap();
    assert!(ids.len() > 3 && ids.iter().all(|id| *id < 905));
    assert_eq!(codec.decode(&ids, false).unwrap(), text);
    from.chat_template = Some("{{ messages[0].content }}<image_soft_token>".to_owned());
    let error = Codec::from_gguf(&from, 905).unwrap_err().to_string();
    assert!(error.contains("<image_soft_token>") && error.contains("905 rows"), "{error}");
    from.chat_template = None;
    from.types[905] = 1;
    assert!(Codec::from_gguf(&from, 905).is_err(), "an ordinary token");
}

#[test]
fn vocabularies_that_do_not_fit_are_refused_by_name() {
    let error = |change: &dyn Fn(&mut GgufVocabulary)| {
        let mut from = vocabulary("bpe");
        change(&mut from);
        let error = Codec::from_gguf(&from, 905).unwrap_err().to_string();
        assert!(error.contains("bpe.gguf"), "{error}");
        error
    };
    assert!(error(&|v| v.pre = Some("quokka".into())).contains("`quokka`"));
    assert!(error(&|v| v.model = "t5".into()).contains("`t5`"));
    assert!(error(&|v| v.types.truncate(3)).contains("3 token types"));
    assert!(error(&|v| v.special.push(("eot", 9999))).contains("9999"));
    assert!(error(&|v| v.merges.push("zq qz".into())).contains("inconsistent"));
    assert!(error(&|v| v.merges.push("zq".into())).contains("not a pair"));
    assert!(error(&|v| v.tokens.clear()).contains("no vocabulary"));
    let small = Codec::from_gguf(&vocabulary("bpe"), 100).unwrap_err().to_string();
    assert!(small.contains("only 100 rows"), "{small}");
}

#[test]
fn a_vocabulary_of_nothing_but_pairs_is_refused() {
    let mut from = vocabulary("spm");
    from.tokens = (1..=200).map(|len| "a".repeat(len)).collect();
    from.scores = vec![0.0; 200];
    from.types.clear();
    from.special.clear();
    let error = Codec::from_gguf(&from, 200).unwrap_err().to_string();
    assert!(error.contains("spm.gguf") && error.contains("more pairs"), "{error}");
}
