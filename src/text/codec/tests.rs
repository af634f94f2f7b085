//! Tests: valid contents of a model folder, and how each kind of damage is reported.

use super::*;
use crate::text::testing::{END_OF_TURN, byte_level, byte_level_size, folder, sentence_piece};
use serde_json::{Value, json};
use std::fs;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn load(files: &[(&str, Value)]) -> Result<Codec, TextError> {
    Codec::load(folder(files).path(), byte_level_size())
}

fn refusal(files: &[(&str, Value)]) -> String {
    let error = load(files).unwrap_err();
    assert!(!error.is_client_fault());
    error.to_string()
}

fn hello<'a>(messages: &'a [Value; 1]) -> Chat<'a> {
    Chat { messages, ..Chat::default() }
}

#[test]
fn a_chat_is_rendered_and_encoded_without_more_special_tokens() {
    let dir = folder(&[
        ("tokenizer.json", sentence_piece()),
        (
            "tokenizer_config.json",
            json!({"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}{{ messages[0].content }}"}),
        ),
    ]);
    let codec = Codec::load(dir.path(), 1000).unwrap();
    let messages = [json!({"role": "user", "content": "a"})];
    let ids = codec.encode_chat(&hello(&messages), false).unwrap().0;
    assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1, "{ids:?}");
    assert_eq!(codec.encode("a", true).unwrap()[0], 1);
    assert_eq!(codec.encode("a", false).unwrap().first(), codec.token_id("▁a").as_ref());
}

#[test]
fn special_tokens_in_a_chat_become_single_ids() {
    let codec = load(&[("tokenizer_config.json", json!({"chat_template": CHATML}))]).unwrap();
    let messages = [json!({"role": "user", "content": "hello"})];
    let ids = codec.encode_chat(&hello(&messages), false).unwrap().0;
    assert_eq!(ids[0], codec.token_id("<|im_start|>").unwrap());
    assert!(ids.contains(&codec.token_id(END_OF_TURN).unwrap()));
    let rendered = codec.render(&hello(&messages)).unwrap();
    assert_eq!(codec.decode(&ids, false).unwrap(), rendered);
    assert_eq!(codec.decode(&ids, true).unwrap(), "user\nhello\nassistant\n");
}

#[test]
fn the_template_comes_from_the_file_of_its_own_first() {
    let dir = folder(&[("tokenizer_config.json", json!({"chat_template": "from config"}))]);
    let messages = [json!({"role": "user", "content": "x"})];
    let render = || Codec::load(dir.path(), 1000).unwrap().render(&hello(&messages)).unwrap();
    assert_eq!(render(), "from config");
    fs::write(dir.path().join("chat_template.jinja"), "from file\n").unwrap();
    assert_eq!(render(), "from file");
}

#[test]
fn a_template_is_found_where_processors_keep_it_and_its_variant_beside_it() {
    let dir = folder(&[("chat_template.json", json!({"chat_template": "from processor"}))]);
    let messages = [json!({"role": "user", "content": "x"})];
    let tools = json!([{"type": "function"}]);
    let render = |tools| {
        let codec = Codec::load(dir.path(), 1000).unwrap();
        codec.render(&Chat { tools, ..hello(&messages) }).unwrap()
    };
    assert_eq!(render(None), "from processor");
    let config = json!({"chat_template": "from config"}).to_string();
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    assert_eq!(render(None), "from config");
    let more = dir.path().join("additional_chat_templates");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("tool_use.jinja"), "for tools").unwrap();
    fs::write(dir.path().join("chat_template.jinja"), "from file").unwrap();
    assert_eq!((render(None), render(Some(&tools))), ("from file".into(), "for tools".into()));
    fs::write(dir.path().join("chat_template.jinja"), b"\xFF").unwrap();
    let error = Codec::load(dir.path(), 1000).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_list_of_templates_is_read_by_name() {
    let list = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]);
    let codec = load(&[("tokenizer_config.json", json!({"chat_template": list}))]).unwrap();
    let messages = [json!({"role": "user", "content": "x"})];
    let tools = json!([{"type": "function"}]);
    assert_eq!(codec.render(&hello(&messages)).unwrap(), "plain");
    assert_eq!(codec.render(&Chat { tools: Some(&tools), ..hello(&messages) }).unwrap(), "tools");
    let list = json!([{"name": "rag", "template": "x"}]);
    assert!(
        refusal(&[("tokenizer_config.json", json!({"chat_template": list}))])
            .contains("\"default\"")
    );
}

#[test]
fn a_folder_without_template_serves_completions_only() {
    let codec = load(&[]).unwrap();
    assert!(!codec.has_chat_template());
    let messages = [json!({"role": "user", "content": "x"})];
    let error = codec.render(&hello(&messages)).unwrap_err();
    assert!(matches!(error, TextError::NoChatTemplate) && !error.is_client_fault());
}

#[test]
fn ends_of_sequence_are_gathered_from_all_files() {
    let end = byte_level().token_to_id(END_OF_TURN).unwrap();
    let config = ("tokenizer_config.json", json!({"eos_token": END_OF_TURN}));
    let object =
        ("tokenizer_config.json", json!({"eos_token": {"content": END_OF_TURN, "special": true}}));
    let one = ("generation_config.json", json!({"eos_token_id": 5}));
    let list = ("generation_config.json", json!({"eos_token_id": [7, 5, end]}));
    let fallback = ("config.json", json!({"eos_token_id": 9}));
    let nested =
        ("config.json", json!({"eos_token_id": null, "text_config": {"eos_token_id": [8]}}));
    let eos = |files: &[(&str, Value)]| load(files).unwrap().eos_ids().to_vec();
    assert_eq!(eos(&[]), Vec::<u32>::new());
    assert_eq!(eos(&[config.clone(), one.clone()]), [5, end]);
    assert_eq!(eos(&[object, list, fallback.clone()]), [5, 7, end]);
    assert_eq!(eos(&[config, fallback]), [9, end]);
    assert_eq!(eos(&[nested]), [8]);
}

#[test]
fn generation_defaults_are_what_the_file_says() {
    assert_eq!(load(&[]).unwrap().generation_defaults(), GenerationDefaults::default());
    let file = json!({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": null, "other": []});
    let defaults = load(&[("generation_config.json", file)]).unwrap().generation_defaults();
    let want = GenerationDefaults {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_p: Some(0.95),
        top_k: Some(20),
        ..GenerationDefaults::default()
    };
    assert_eq!(defaults, want);
}

#[test]
fn a_tokenizer_larger_than_the_model_is_refused() {
    let size = byte_level_size();
    let template = json!({"chat_template": "{{ messages[0].content }}<tool_call>"});
    let needed = folder(&[("tokenizer_config.json", template)]);
    let error = Codec::load(needed.path(), size - 1).unwrap_err();
    let TextError::TokenizerMismatch { max_id, vocab_size, token, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        (*max_id as usize, *vocab_size, token.as_str()),
        (size - 1, size - 1, "<tool_call>")
    );
    assert!(error.to_string().contains("tokenizer.json"));
    // An added token that nothing needs is left out: its text is ordinary text.
    let dir = folder(&[]);
    let without = Codec::load(dir.path(), size - 1).unwrap();
    assert_eq!((without.tokens(), without.token_id("<tool_call>")), (size - 1, None));
    let ids = without.encode("a<tool_call>", false).unwrap();
    assert!(ids.len() > 2 && ids.iter().all(|id| (*id as usize) < size - 1));
    assert_eq!(without.decode(&ids, false).unwrap(), "a<tool_call>");
    // One token of the ordinary vocabulary too many is another model's tokenizer.
    let other = Codec::load(dir.path(), 200).unwrap_err().to_string();
    assert!(other.contains("only 200 rows"), "{other}");
    assert!(Codec::load(dir.path(), size).is_ok());
    // Embeddings are often padded; ids without a token decode to nothing.
    let padded = Codec::load(dir.path(), size + 64).unwrap();
    assert_eq!(padded.decode(&[size as u32 + 3], true).unwrap(), "");
}

#[test]
fn a_missing_or_truncated_tokenizer_is_named() {
    let dir = folder(&[]);
    let path = dir.path().join("tokenizer.json");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let said = Codec::load(dir.path(), 1000).unwrap_err().to_string();
    assert!(
        said.contains(&path.display().to_string()) && said.contains("not a tokenizer"),
        "{said}"
    );
    assert!(said.contains("Put the tokenizer.json"), "{said}");
    fs::remove_file(&path).unwrap();
    let error = Codec::load(dir.path(), 1000).unwrap_err();
    assert!(matches!(error, TextError::Unreadable { .. }));
    let said = error.to_string();
    assert!(said.contains("tokenizer.json") && said.contains("Put the tokenizer.json"), "{said}");
}

#[test]
fn damage_in_the_other_files_is_named_too() {
    let cases = [
        ("generation_config.json", json!([1]), "not an object"),
        ("generation_config.json", json!({"eos_token_id": "</s>"}), "eos_token_id is neither"),
        ("generation_config.json", json!({"eos_token_id": [1, -1]}), "eos_token_id is neither"),
        ("generation_config.json", json!({"eos_token_id": 4000}), "can never be generated"),
        ("generation_config.json", json!({"temperature": "hot"}), "temperature is not a number"),
        ("generation_config.json", json!({"top_k": -1}), "top_k is not a whole number"),
        ("config.json", json!({"eos_token_id": {}}), "eos_token_id is neither"),
        ("tokenizer_config.json", json!({"chat_template": 7}), "neither a string nor a list"),
        ("tokenizer_config.json", json!({"chat_template": "{% if %}"}), "line 1"),
    ];
    for (file, content, what) in cases {
        let said = refusal(&[(file, content)]);
        assert!(said.contains(file) && said.contains(what), "{said}");
    }
    let dir = folder(&[]);
    fs::write(dir.path().join("config.json"), "{\"eos").unwrap();
    assert!(
        Codec::load(dir.path(), 1000)
            .unwrap_err()
            .to_string()
            .contains("config.json is not usable: it is not JSON")
    );
    fs::write(dir.path().join("chat_template.jinja"), b"\xFF").unwrap();
    assert!(Codec::load(dir.path(), 1000).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn truncation_and_padding_from_training_are_off() {
    let mut file: Value = serde_json::from_str(&byte_level().to_string(false).unwrap()).unwrap();
    file["truncation"] =
        json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    let codec = load(&[("tokenizer.json", file)]).unwrap();
    assert_eq!(codec.encode("abcdefgh", true).unwrap().len(), 8);
}
