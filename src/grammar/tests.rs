//! Tests: replies sampled at random from what a grammar allows, checked by an independent validator.

use super::*;
use crate::model::Taken;
use crate::text::reply::reasoning::Opening;
use crate::text::{Codec, GgufVocabulary};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, LazyLock};

static TINY: LazyLock<Grammars> = LazyLock::new(|| {
    let codec = Codec::load(Path::new("models/tiny-v1"), 4096).unwrap();
    Grammars::new(Arc::new(codec), 4096).unwrap()
});
static BYTES: LazyLock<Grammars> = LazyLock::new(|| {
    let codec = Codec::from_gguf(&GgufVocabulary::stand_in(Path::new("x"), 300), 300).unwrap();
    Grammars::new(Arc::new(codec), 300).unwrap()
});

/// A reply of at most `most` tokens, and whether it is complete. Half of the tokens are short ones, so that replies end.
fn draw(grammars: &Grammars, guided: &Guided, seed: u64, most: usize) -> (String, bool) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut guide, mut ids) = (guided.unshared(), Vec::new());
    let text = |ids: &[u32]| grammars.codec.decode(ids, false).unwrap();
    while ids.len() < most {
        let mask = guide.mask().unwrap().unwrap();
        let allowed: Vec<u32> = mask.ids(grammars.vocab()).collect();
        let short = |id: &&u32| grammars.codec.spelling(**id).iter().all(u8::is_ascii_punctuation);
        let few: Vec<u32> = allowed.iter().filter(short).copied().collect();
        let from = if rng.random_bool(0.5) && !few.is_empty() { few } else { allowed };
        let id = from[rng.random_range(0..from.len())];
        let mut next = vec![id];
        while let Some(id) = (!next.is_empty()).then(|| next.remove(0)) {
            match guide.take(id).unwrap() {
                Taken::Ends => return (text(&ids), true),
                Taken::Completes => {
                    ids.push(id);
                    return (text(&ids), true);
                }
                Taken::GoesOn => ids.push(id),
            }
            if next.is_empty() {
                next = guide.forced();
            }
        }
    }
    (text(&ids), false)
}

fn schemas() -> Vec<Value> {
    let person = json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120}}, "required": ["name", "age"]});
    vec![
        person.clone(),
        json!({"type": "array", "items": person, "minItems": 1, "maxItems": 3}),
        json!({"enum": ["a", 1, null, {"b": [true]}]}),
        json!({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[a-c]{2,4}$"}]}),
        json!({"type": "object", "properties": {"kind": {"const": "x\"\\ü"}, "more": {"$ref": "#/$defs/node"}},
            "required": ["kind"], "$defs": {"node": {"type": "object", "properties": {
                "value": {"type": "number", "minimum": -1000, "maximum": 1000}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["value", "next"]}}}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": false}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}], "maxProperties": 3}),
        json!(true),
    ]
}

#[test]
fn every_complete_reply_is_valid() {
    for grammars in [&*TINY, &*BYTES] {
        for schema in schemas() {
            let valid = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
            let guided = grammars
                .compile(&Constraint::Schema(schema.clone()), Opening::Answer)
                .unwrap()
                .unwrap();
            let mut complete = 0;
            for seed in 0..25 {
                let (text, whole) = draw(grammars, &guided, seed, 300);
                if whole {
                    // JSON has numbers that floats have not.
                    let value: Value = match serde_json::from_str(&text) {
                        Ok(value) => value,
                        Err(error) if error.to_string().contains("out of range") => continue,
                        Err(error) => panic!("{text}: {error}"),
                    };
                    assert!(valid.is_valid(&value), "{schema}: {text}");
                    complete += 1;
                }
            }
            assert!(complete >= 5, "{schema}: {complete} of 25 replies ended");
        }
    }
}

#[test]
fn other_constraints_hold() {
    let cases = [
        (Constraint::Regex("[a-f]{2,5}-[0-9]+|é".to_owned()), "^([a-f]{2,5}-[0-9]+|é)$"),
        (Constraint::Choice(vec!["yes".into(), "no \"way\"".into()]), "^(yes|no \"way\")$"),
        (
            Constraint::Lark("start: sum\nsum: NUM (\"+\" NUM)*\nNUM: /[0-9]/".into()),
            r"^[0-9](\+[0-9])*$",
        ),
        (Constraint::Object, r"^\{[\s\S]*\}$"),
    ];
    for grammars in [&*TINY, &*BYTES] {
        for (constraint, regex) in &cases {
            let valid = jsonschema::validator_for(&json!({"pattern": regex})).unwrap();
            let guided = grammars.compile(constraint, Opening::Answer).unwrap().unwrap();
            let replies: Vec<_> = (0..20).map(|seed| draw(grammars, &guided, seed, 200)).collect();
            let whole: Vec<_> = replies.iter().filter(|(_, whole)| *whole).collect();
            assert!(!whole.is_empty(), "{constraint:?}");
            for (text, _) in whole {
                assert!(valid.is_valid(&json!(text)), "{constraint:?}: {text:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_enforced_says_why() {
    let says = |constraint: Constraint, words: &str| {
        let error = TINY.compile(&constraint, Opening::Answer).unwrap_err().0;
        assert!(error.contains(words), "{constraint:?}: {error}");
    };
    says(Constraint::Schema(json!({"type": "strang"})), "strang");
    says(Constraint::Schema(json!({"$ref": "#/$defs/none"})), "none");
    says(Constraint::Schema(json!({"type": "array", "uniqueItems": true})), "uniqueItems");
    says(Constraint::Regex("(a".into()), "");
    says(Constraint::Regex("(?=a)b".into()), "");
    says(Constraint::Regex(String::new()), "empty");
    says(Constraint::Choice(vec![]), "1 to");
    says(Constraint::Lark("begin: \"a\"".into()), "start");
    says(Constraint::Lark("start: b".into()), "grammar, line 1, column 8");
    says(Constraint::Schema(json!({"$ref": "#"})), "no text can fulfil");
    says(Constraint::Schema(json!({"pattern": r"\bfoo"})), "pattern");
}

#[test]
fn reasoning_may_stand_before_the_constrained_part() {
    let constraint = Constraint::Choice(vec!["yes".into(), "no".into()]);
    let guided = BYTES.compile(&constraint, Opening::Inside("</think>")).unwrap().unwrap();
    let follows = |text: &str| {
        let mut guide = guided.unshared();
        let mut taken = Taken::GoesOn;
        for id in BYTES.codec.encode(text, false).unwrap() {
            if taken != Taken::GoesOn || !guide.mask().unwrap().unwrap().has(id) {
                return None;
            }
            taken = guide.take(id).unwrap();
        }
        Some(taken)
    };
    assert_eq!(follows("{} < </thin\n</think>\n\nyes"), Some(Taken::Completes));
    assert_eq!(follows("</think>no"), Some(Taken::Completes));
    assert_eq!(follows("hm</think>maybe"), None);
    assert_eq!(follows("yes"), Some(Taken::GoesOn));
}

#[test]
fn a_grammar_that_was_compiled_is_found_again() {
    let constraint = Constraint::Regex("kept{1,2}".into());
    let compile = || TINY.compile(&constraint, Opening::Answer).unwrap().unwrap();
    assert!(Arc::ptr_eq(&compile().matcher, &compile().matcher));
}

fn functions() -> Vec<Function> {
    let weather = json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}}});
    let function =
        |name: &str, parameters| Function { place: 0, name: name.into(), parameters, strict: true };
    vec![function("get_weather", Some(weather)), function("now", None)]
}

/// The calls in a reply, read as they are when it is sent.
fn read(codec: &Codec, reply: &str) -> (Vec<(String, String)>, String) {
    use crate::text::reply::{Look, Manner, ReplyParser, ReplyPiece};
    let names: Arc<[String]> = functions().into_iter().map(|function| function.name).collect();
    let declared = functions()
        .into_iter()
        .map(|f| json!({"function": {"name": f.name, "parameters": f.parameters}}));
    let declared = Some(Arc::new(declared.collect()));
    let look = Look { tools: Some(names), declared, ..Look::default() };
    let mut parser =
        ReplyParser::new(&look, &Manner { calls: codec.calls().clone(), thinking: None });
    let mut pieces = parser.push(reply);
    pieces.extend(parser.finish());
    assert!(!parser.broken(), "{reply}");
    let (mut calls, mut text) = (Vec::new(), String::new());
    for piece in pieces {
        match piece {
            ReplyPiece::Begin { name, .. } => calls.push((name, String::new())),
            ReplyPiece::Arguments { delta, .. } => calls.last_mut().unwrap().1.push_str(&delta),
            ReplyPiece::Text(said) => text.push_str(&said),
            ReplyPiece::Reasoning(_) | ReplyPiece::End { .. } => {}
        }
    }
    (calls, text)
}

fn assert_calls(name: &str, codec: &Codec, reply: &str, one: bool) {
    let (calls, text) = read(codec, reply);
    assert!(!calls.is_empty() && text.trim().is_empty(), "{name}: {reply:?}");
    assert!(!one || calls.len() == 1, "{name}: {reply:?}");
    for (called, arguments) in calls {
        let value: Value = serde_json::from_str(&arguments).unwrap();
        match called.as_str() {
            "get_weather" => assert!(value["city"].is_string(), "{name}: {arguments}"),
            "now" => assert_eq!(value, json!({}), "{name}"),
            other => panic!("{name}: {other}"),
        }
    }
}

/// A model of each family that must call a tool calls one, in a form that is read as a call.
#[test]
fn forced_calls_are_read_as_calls_in_every_family() {
    use crate::text::testing::families;
    let mut without_form = Vec::new();
    let tagged = ("tagged", families::Base::Bytes, families::FAMILIES[2].2);
    for family in families::FAMILIES.into_iter().chain([tagged]) {
        let (name, codec) = (family.0, Arc::new(families::codec(family)));
        let grammars = Grammars::new(codec.clone(), 2000).unwrap();
        for one in [true, false] {
            let constraint = Constraint::Calls(Calls { functions: functions(), one });
            let Ok(guided) = grammars.compile(&constraint, Opening::Free) else {
                without_form.push(name);
                continue;
            };
            let replies = (0..12).map(|seed| draw(&grammars, &guided.clone().unwrap(), seed, 600));
            let whole: Vec<String> =
                replies.filter_map(|(text, whole)| whole.then_some(text)).collect();
            assert!(whole.len() >= 3, "{name}: {} of 12 ended", whole.len());
            whole.iter().for_each(|reply| assert_calls(name, &codec, reply, one));
        }
    }
    assert!(without_form.is_empty(), "{without_form:?}");
}

/// Where calls have a marker, text stays free, and what follows the marker is a call.
#[test]
fn calls_are_well_formed_from_their_marker_on() {
    use crate::text::testing::families;
    let mut marked = Vec::new();
    let tagged = ("tagged", families::Base::Bytes, families::FAMILIES[2].2);
    for family in families::FAMILIES.into_iter().chain([tagged]) {
        let (name, codec) = (family.0, Arc::new(families::codec(family)));
        let grammars = Grammars::new(codec.clone(), 2000).unwrap();
        let constraint = Constraint::Auto(Calls { functions: functions(), one: false });
        let Some(guided) = grammars.compile(&constraint, Opening::Free).unwrap() else { continue };
        marked.push(name);
        let opener = codec.calls().opener().unwrap().to_owned();
        for seed in 0..8 {
            let mut guide = guided.unshared();
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut ids = codec.encode(&format!("Let me see.\n{opener}"), false).unwrap();
            let mut free = 0;
            for id in ids.clone() {
                free += usize::from(guide.mask().unwrap().is_none());
                assert_eq!(guide.take(id), Ok(Taken::GoesOn));
            }
            assert_eq!(free, ids.len(), "{name}: text is free");
            while let Some(mask) = guide.mask().unwrap() {
                let allowed: Vec<u32> = mask.ids(2000).collect();
                let id = allowed[rng.random_range(0..allowed.len())];
                if codec.eos_ids().contains(&id) || ids.len() > 900 {
                    break;
                }
                guide.take(id).unwrap();
                ids.push(id);
            }
            let reply = codec.decode(&ids, false).unwrap();
            if ids.len() <= 900 {
                let (calls, text) = read(&codec, &reply);
                assert!(!calls.is_empty() && text.starts_with("Let me see."), "{name}: {reply:?}");
            }
        }
    }
    assert!(marked.len() >= 7 && marked.contains(&"tagged"), "{marked:?}");
}

#[test]
fn a_marker_in_the_reasoning_is_text() {
    let constraint = Constraint::Auto(Calls { functions: functions(), one: false });
    let inside = |opening, text: &str| {
        let mut guide = BYTES.compile(&constraint, opening).unwrap().unwrap().unshared();
        let ids = BYTES.codec.encode(text, false).unwrap();
        ids.into_iter().for_each(|id| assert_eq!(guide.take(id), Ok(Taken::GoesOn)));
        guide.mask().unwrap().is_some()
    };
    assert!(!inside(Opening::Inside("</think>"), "hm <tool_call>"));
    assert!(inside(Opening::Inside("</think>"), "hm </think>\n<tool_call>"));
    assert!(!inside(Opening::Free, "<think>hm <tool_call>"));
    assert!(inside(Opening::Free, "<think>hm</think> so: <tool_call>"));
    assert!(inside(Opening::Answer, "<tool_call>"));
    assert!(!inside(Opening::Answer, "<tool_call"));
    assert!(!inside(Opening::Answer, "<tool_call>x"), "what is no call is text");
}

#[test]
fn a_schema_that_cannot_be_enforced_is_an_error_only_where_it_must_be() {
    let unique =
        json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let compile = |strict| {
        let function =
            Function { place: 0, name: "f".into(), parameters: Some(unique.clone()), strict };
        TINY.compile(
            &Constraint::Calls(Calls { functions: vec![function], one: true }),
            Opening::Answer,
        )
    };
    assert!(compile(false).is_ok());
    assert!(compile(true).unwrap_err().0.contains("uniqueItems"));
}
