//! What clients would lose with this canary compared with stable: context, vocabulary, tokens, chat template. And
//! settings that make its replies differ from stable's.
//!
//! The gates measure the canary's replies. They do not see a request that it cannot take at all, because nobody has
//! sent one yet. So the two are compared at load, and a canary that can do less is loaded only if a person allows it. A
//! canary that can do more is not refused.
//!
//! It compares two opened models, and does not know about arms or orders.

use super::Deployment;
use crate::text::{Codec, GenerationDefaults};

/// Names and reasons that are shown at most.
const MOST_NAMES: usize = 8;
const LONGEST_REASON: usize = 120;

/// What a model offers.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Longest sequence of the model itself, in tokens.
    pub max_len: usize,
    /// Tokens that its KV cache holds; `None` if that is not known yet.
    pub kv_tokens: Option<usize>,
    /// Its tokenizer and chat template.
    pub codec: &'a Codec,
}

impl Offer<'_> {
    pub(super) fn of(deployment: &Deployment) -> Offer<'_> {
        let capacity = &deployment.capacity;
        Offer {
            max_len: capacity.max_len,
            kv_tokens: Some(capacity.blocks * capacity.block_size),
            codec: &deployment.codec,
        }
    }

    fn context(&self) -> usize {
        self.kv_tokens.map_or(self.max_len, |tokens| tokens.min(self.max_len))
    }
}

/// What `canary` can do less than `stable`, one line each; empty if it can do everything.
pub fn losses(stable: &Offer<'_>, canary: &Offer<'_>) -> Vec<String> {
    let (here, there) = (stable.codec, canary.codec);
    let mut lost = Vec::new();
    lost.extend(context(stable, canary));
    lost.extend(vocabulary(here, there));
    lost.extend(ends(here, there));
    lost.extend(special_tokens(here, there));
    lost.extend(template(here, there));
    lost
}

/// What shapes replies and is not the same, better or worse, one line each: context, vocabulary, tokens that end a
/// reply.
pub fn differences(stable: &Offer<'_>, canary: &Offer<'_>) -> Vec<String> {
    let (here, there) = (stable.codec, canary.codec);
    let mut found = Vec::new();
    let (from, to) = (stable.context(), canary.context());
    found.extend((from != to).then(|| format!("context: {from} tokens on stable, {to} here")));
    let (from, to) = (here.tokens(), there.tokens());
    found.extend((from != to).then(|| format!("vocabulary: {from} tokens on stable, {to} here")));
    let ends = |codec: &Codec| {
        let texts = codec.eos_ids().iter().filter_map(|id| codec.token(*id));
        let texts = texts.take(MOST_NAMES).collect::<Vec<_>>().join(" ");
        if texts.is_empty() { "no token".to_owned() } else { texts }
    };
    let (from, to) = (ends(here), ends(there));
    found.extend((from != to).then(|| format!("a reply ends at: {from} on stable, {to} here")));
    found
}

/// Sampling defaults that are not the same, one line each.
pub fn sampling(here: &GenerationDefaults, there: &GenerationDefaults) -> Vec<String> {
    fn shown<T: std::fmt::Display>(value: &Option<T>) -> String {
        value.as_ref().map_or("none".to_owned(), T::to_string)
    }
    let table = [
        ("do_sample", shown(&here.do_sample), shown(&there.do_sample)),
        ("temperature", shown(&here.temperature), shown(&there.temperature)),
        ("top_p", shown(&here.top_p), shown(&there.top_p)),
        ("top_k", shown(&here.top_k), shown(&there.top_k)),
        ("min_p", shown(&here.min_p), shown(&there.min_p)),
        ("repetition_penalty", shown(&here.repetition_penalty), shown(&there.repetition_penalty)),
    ];
    let differ = table.into_iter().filter(|(_, here, there)| here != there);
    differ.map(|(name, here, there)| format!("{name}: {here} on stable, {there} here")).collect()
}

fn context(stable: &Offer<'_>, canary: &Offer<'_>) -> Option<String> {
    let (here, there) = (stable.context(), canary.context());
    let why = if there < canary.max_len { " (its KV cache holds no more)" } else { "" };
    (there < here).then(|| format!("its context is {there} tokens{why}, stable's {here}"))
}

fn vocabulary(here: &Codec, there: &Codec) -> Option<String> {
    let (here, there) = (here.tokens(), there.tokens());
    (there < here).then(|| format!("its vocabulary has {there} tokens, stable's {here}"))
}

/// Tokens that end a reply. Another tokenizer has other ones; the mistake is one that it has and does not end at.
fn ends(here: &Codec, there: &Codec) -> Option<String> {
    if there.eos_ids().is_empty() && !here.eos_ids().is_empty() {
        return Some("no token ends its replies: only length limits do".to_owned());
    }
    let text = |id: &u32| here.token(*id);
    let passed = |text: &String| {
        there.token_id(text).is_some_and(|id| there.eos_ids().binary_search(&id).is_err())
    };
    let texts: Vec<String> = here.eos_ids().iter().filter_map(text).filter(passed).collect();
    named("its replies do not end at", texts)
}

fn special_tokens(here: &Codec, there: &Codec) -> Vec<String> {
    let special = here.special_tokens();
    let (has, lacks): (Vec<String>, Vec<String>) =
        special.into_iter().partition(|text| there.token_id(text).is_some());
    let plain = has.into_iter().filter(|text| !there.is_special(text)).collect();
    let lacks = named("it lacks stable's special tokens", lacks);
    lacks.into_iter().chain(named("it treats as ordinary text", plain)).collect()
}

fn template(here: &Codec, there: &Codec) -> Vec<String> {
    match (here.abilities(), there.abilities()) {
        (Some(here), Some(there)) => {
            let lost = here.losses(there).into_iter();
            lost.map(|what| format!("its chat template {}", short(&what))).collect()
        }
        (Some(_), None) => {
            vec!["it has no chat template: chat requests are refused".to_owned()]
        }
        (None, _) => Vec::new(),
    }
}

fn named(what: &str, texts: Vec<String>) -> Option<String> {
    let more = texts.len().saturating_sub(MOST_NAMES);
    let shown: Vec<String> =
        texts.into_iter().take(MOST_NAMES).map(|text| format!("`{text}`")).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!shown.is_empty()).then(|| format!("{what} {}{more}", shown.join(", ")))
}

/// One line of limited length: it may hold what a template says.
fn short(what: &str) -> String {
    let line = what.lines().next().unwrap_or_default();
    match line.char_indices().nth(LONGEST_REASON) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

    /// The codec of the demo model with another configuration, and with `change` made to its tokenizer.
    fn codec(template: Option<&str>, eos: Option<&str>, change: fn(&mut Value)) -> Codec {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-v1/tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(from).unwrap()).unwrap();
        change(&mut tokenizer);
        let config = json!({"chat_template": template, "eos_token": eos});
        for (name, content) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)] {
            std::fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        Codec::load(dir.path(), 4096).unwrap()
    }

    fn same(_: &mut Value) {}

    fn first_added(tokenizer: &mut Value) -> &mut Value {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        added.iter_mut().find(|token| token["special"] == true).unwrap()
    }

    fn losses_of(stable: &Codec, canary: &Codec) -> Vec<String> {
        let offer = |codec| Offer { max_len: 512, kv_tokens: None, codec };
        losses(&offer(stable), &offer(canary))
    }

    #[test]
    fn each_loss_is_named_and_a_gain_is_not() {
        let end = Some("<|im_end|>");
        let stable = codec(Some(TEMPLATE), end, same);
        let no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
        let users_only = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}{% endfor %}";
        let with_tools = [TEMPLATE, "{% if tools %}{{ tools | tojson }}{% endif %}"].concat();
        let other_end = stable
            .special_tokens()
            .into_iter()
            .find(|text| text != "<|im_end|>")
            .expect("another special token");
        let table: [(&str, Codec, &[&str]); 8] = [
            ("the same", codec(Some(TEMPLATE), end, same), &[]),
            ("it reads tools", codec(Some(&with_tools), end, same), &[]),
            ("no template", codec(None, end, same), &["it has no chat template"]),
            ("no end", codec(Some(TEMPLATE), None, same), &["no token ends its replies"]),
            (
                "another end",
                codec(Some(TEMPLATE), Some(&other_end), same),
                &["its replies do not end at `<|im_end|>`"],
            ),
            (
                "a token that is not special",
                codec(Some(TEMPLATE), end, |tokenizer| {
                    first_added(tokenizer)["special"] = false.into();
                }),
                &["it treats as ordinary text `"],
            ),
            (
                "a system message is refused",
                codec(Some(no_system), end, same),
                &["its chat template no longer takes a system message: refuses it (no system)"],
            ),
            (
                "a system message is left out",
                codec(Some(users_only), end, same),
                &["its chat template leaves out a system message"],
            ),
        ];
        for (name, canary, expected) in table {
            let found = losses_of(&stable, &canary);
            assert_eq!(found.is_empty(), expected.is_empty(), "{name}: {found:?}");
            for text in expected {
                assert!(found.iter().any(|line| line.starts_with(text)), "{name}: {found:?}");
            }
        }
        let reads_tools = codec(Some(&with_tools), end, same);
        let found = losses_of(&reads_tools, &stable);
        assert!(found.contains(&"its chat template leaves out tools".to_owned()), "{found:?}");
    }

    #[test]
    fn differences_that_shape_replies_are_listed() {
        let defaults = |json: Value| -> GenerationDefaults {
            let number = |name: &str| json[name].as_f64().map(|x| x as f32);
            GenerationDefaults {
                temperature: number("temperature"),
                repetition_penalty: number("repetition_penalty"),
                ..GenerationDefaults::default()
            }
        };
        let stable = defaults(json!({"temperature": 0.5}));
        assert!(sampling(&stable, &stable).is_empty());
        let penalty = defaults(json!({"temperature": 0.5, "repetition_penalty": 1.3}));
        assert_eq!(sampling(&stable, &penalty), ["repetition_penalty: none on stable, 1.3 here"]);
        let end = Some("<|im_end|>");
        let (whole, endless) =
            (codec(Some(TEMPLATE), end, same), codec(Some(TEMPLATE), None, same));
        let offer = |max_len, codec| Offer { max_len, kv_tokens: None, codec };
        let found = differences(&offer(512, &whole), &offer(1024, &endless));
        let want = [
            "context: 512 tokens on stable, 1024 here",
            "a reply ends at: <|im_end|> on stable, no token here",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn a_smaller_vocabulary_and_its_missing_tokens_are_named() {
        let stable = codec(Some(TEMPLATE), None, |tokenizer| {
            let added = tokenizer["added_tokens"].as_array_mut().unwrap();
            let mut token = added[0].clone();
            for id in 2000..2010 {
                (token["id"], token["content"]) = (id.into(), format!("<|{id}|>").into());
                token["special"] = true.into();
                added.push(token.clone());
            }
        });
        let found = losses_of(&stable, &codec(Some(TEMPLATE), None, same));
        assert!(found[0].starts_with("its vocabulary has "), "{found:?}");
        let names = "it lacks stable's special tokens `<|2000|>`, ";
        assert!(found[1].starts_with(names) && found[1].ends_with(" and 2 more"), "{found:?}");
        assert_eq!(losses_of(&codec(Some(TEMPLATE), None, same), &stable), [""; 0]);
    }

    #[test]
    fn the_context_is_what_model_and_kv_cache_allow() {
        let codec = codec(None, None, same);
        let offer = |max_len, kv_tokens| Offer { max_len, kv_tokens, codec: &codec };
        let stable = offer(512, Some(4096));
        for (canary, expected) in [
            (offer(512, Some(512)), None),
            (offer(1024, None), None),
            (offer(256, Some(4096)), Some("its context is 256 tokens, stable's 512")),
            (
                offer(1024, Some(128)),
                Some("its context is 128 tokens (its KV cache holds no more), stable's 512"),
            ),
        ] {
            let found = losses(&stable, &canary);
            assert_eq!(found.first().map(String::as_str), expected, "{found:?}");
        }
        assert!(losses(&offer(512, Some(128)), &offer(128, None)).is_empty());
    }
}
