//! Tests of the document: every field's range matches the parser, every route is listed, and every reference resolves.

use super::fields::Kind;
use super::*;
use crate::http::wire::WireError;
use crate::http::wire::common::{Envelope, Rules};
use crate::http::wire::fields::Fields;
use crate::http::wire::table::Treatment;
use crate::serving::Limits;
use std::time::Instant;

fn parse(one: &Generates, name: &str, value: Value) -> Result<(), WireError> {
    let mut body = json!({"prompt": "Hi", "input": "Hi", "max_tokens": 5});
    match one.path {
        "/chat/completions" | "/messages" => {
            body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5});
        }
        "/responses" => body = json!({"input": "Hi"}),
        _ => {}
    }
    if name == "top_logprobs" && one.path == "/chat/completions" {
        body["logprobs"] = true.into();
    }
    match name.split_once('.') {
        Some(("tools[]", part)) => {
            body["tools"] = json!([{"type": "function", "name": "f", part: value}]);
            if one.path == "/messages" {
                body["tools"][0]["type"] = "custom".into();
            }
        }
        Some((holder, part)) => {
            body[holder] =
                if holder == "thinking" { json!({"type": "enabled"}) } else { json!({}) };
            body[holder][part] = value;
        }
        None => body[name] = value,
    }
    let (session, variant, party, client, key) = (None, None, None, 0, None);
    let (id, arrived) = ("id".to_owned(), Instant::now());
    let envelope = Envelope { id, arrived, session, variant, marked: false, party, client, key };
    let rules = Rules { served: "fake", limits: Limits { max_n: 4, max_stop: 4 } };
    let mut fields = Fields::parse(body.to_string().as_bytes()).unwrap();
    (one.endpoint.read)(&mut fields, envelope, rules, 0).map(|_| ())
}

fn refused(one: &Generates, name: &str, value: Value) -> bool {
    match parse(one, name, value) {
        Ok(()) => false,
        Err(WireError::BadValue { param, .. } | WireError::WrongType { param, .. }) => {
            param == name || param.replace("[0]", "[]") == name
        }
        Err(other) => panic!("{} {name}: {other}", one.path),
    }
}

#[test]
fn every_honoured_field_has_the_type_and_range_of_its_parser() {
    for one in generating() {
        for (name, treatment) in &one.rows {
            let Treatment::Honoured(_) = treatment else { continue };
            let kind = fields::kind(one.path, name);
            let kind = kind.unwrap_or_else(|| panic!("{} {name}: of no kind", one.path));
            let check = |good: &[Value], bad: &[Value]| {
                for value in good {
                    assert!(!refused(&one, name, value.clone()), "{} {name}: {value}", one.path);
                }
                for value in bad {
                    assert!(refused(&one, name, value.clone()), "{} {name}: {value}", one.path);
                }
            };
            let close = 1e-6;
            match kind {
                Kind::Flag => check(&[json!(false), json!(null)], &[json!(1), json!("x")]),
                // Names are checked against those that are served.
                Kind::Text if *name == "model" => check(&[], &[json!(1)]),
                Kind::Text => check(&[json!("x"), json!(null)], &[json!(1), json!([])]),
                // The options of a stream are for streams.
                Kind::Object if *name == "stream_options" => check(&[], &[json!(1), json!([])]),
                Kind::Object => check(&[json!({}), json!(null)], &[json!(1), json!([])]),
                Kind::Integer(least, most) => {
                    let zero_is_bad =
                        one.path == "/completions" || *name == "truncate_prompt_tokens";
                    let good: &[Value] = if most == i64::MAX { &[] } else { &[json!(most)] };
                    check(good, &[json!("1"), json!(0.5)]);
                    if *name == "seed" {
                        continue;
                    }
                    check(&[json!(least)], &[json!(least - 1)]);
                    if !zero_is_bad && least < 1 {
                        check(&[json!(0)], &[]);
                    }
                    if most < i64::MAX {
                        check(&[], &[json!(most + 1)]);
                    }
                }
                Kind::Number(least, most) => {
                    let bad = [json!(least - close), json!(most + close), json!("1")];
                    check(&[json!(least), json!(most)], &bad);
                }
                Kind::Above(least, most) => {
                    check(
                        &[json!(least + close), json!(most)],
                        &[json!(least), json!(most + close)],
                    );
                }
                Kind::Word(words) => {
                    let words: Vec<Value> = words.iter().map(|word| json!(word)).collect();
                    check(&words, &[json!("other"), json!(1)]);
                }
                Kind::Schema(_) => check(&[], &[json!(1.5)]),
            }
        }
    }
}

/// Every path that a router is built from is in the document.
#[test]
fn every_route_is_described() {
    let sources = [include_str!("../routes.rs"), include_str!("../missing.rs")];
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let mut found = 0;
    for line in sources.iter().flat_map(|text| text.lines()) {
        let line = line.trim_start();
        let route = line.starts_with(".route(\"/") || line.starts_with("(\"/");
        let Some(path) = route.then(|| line.split('"').nth(1).unwrap()) else { continue };
        let path = path.replace("{*", "{");
        let known = paths.contains_key(&path) || paths.contains_key(&format!("/v1{path}"));
        assert!(known, "{path} is not described");
        found += 1;
    }
    assert!(found > 25, "the routes were found: {found}");
}

/// All `$ref`s below a value.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| references(value, out));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let mut found = Vec::new();
    references(&DOCUMENT, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let place = reference.strip_prefix('#').expect("a reference within the document");
        assert!(DOCUMENT.pointer(place).is_some(), "{reference}");
    }
}

#[test]
fn every_status_of_an_error_is_listed() {
    let text = include_str!("../status_codes.rs");
    let control = text.find("impl From<ControlError>").unwrap();
    let clients = &text[..control];
    let mut seen = 0;
    for (at, _) in clients.match_indices("StatusCode::") {
        let name: String = clients[at + 12..]
            .chars()
            .take_while(|c| c.is_ascii_uppercase() || *c == '_')
            .collect();
        let status = (400..600)
            .filter_map(|code| axum::http::StatusCode::from_u16(code).ok())
            .find(|status| {
                let reason = status.canonical_reason().unwrap_or_default();
                reason.to_uppercase().replace([' ', '-'], "_") == name
            });
        let Some(status) = status.filter(|status| status.as_u16() != 501) else { continue };
        seen += 1;
        assert!(ERRORS.iter().any(|(code, _)| *code == status.as_u16()), "{status}");
    }
    assert!(seen > 10, "{seen}");
}
