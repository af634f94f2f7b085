//! From pieces of a generation to the parts of an answer.

use super::*;
use crate::serving::LikelyToken;
use crate::text::reply::Reasoning;
use proptest::prelude::*;

const CALL: &str = r#"<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>"#;

fn calling(tools: bool) -> Look {
    Look { tools: tools.then(|| Vec::new().into()), ..Look::default() }
}

fn text(text: &str) -> Piece {
    Piece::Text { index: 0, text: text.to_owned(), tokens: Vec::new() }
}

fn all(mut parts: Parts, pieces: impl IntoIterator<Item = Piece>) -> Vec<Part> {
    pieces.into_iter().flat_map(|piece| parts.of(piece)).collect()
}

/// All text of the parts, and the calls with their arguments.
fn said(parts: &[Part]) -> (String, Vec<(String, String)>) {
    let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for part in parts {
        match part {
            Part::Text { text, .. } => said.push_str(text),
            Part::CallBegin { call, name, .. } => {
                assert_eq!(*call, calls.len());
                calls.push((name.clone(), String::new()));
            }
            Part::CallArguments { call, delta, .. } => calls[*call].1.push_str(delta),
            _ => {}
        }
    }
    (said, calls)
}

#[test]
fn a_call_is_text_unless_tools_may_be_called() {
    let calls = |any| Calls { any, broken: false };
    let end = |any| Part::End { index: 0, finish: Finish::Stop, calls: calls(any) };
    for tools in [false, true] {
        let pieces = [text("So: "), text(CALL), Piece::End { index: 0, finish: Finish::Stop }];
        let parts = all(Parts::new(1, calling(tools), false), pieces);
        assert_eq!(parts.last(), Some(&end(tools)));
        let call = ("add".to_owned(), r#"{"a": 1}"#.to_owned());
        match tools {
            true => assert_eq!(said(&parts), ("So: ".to_owned(), vec![call])),
            false => assert_eq!(said(&parts), (format!("So: {CALL}"), Vec::new())),
        }
    }
}

#[test]
fn calls_after_the_first_are_left_out_if_one_is_wanted() {
    for (one_call, count) in [(false, 2), (true, 1)] {
        let pieces = [text(CALL), text(CALL), Piece::End { index: 0, finish: Finish::Length }];
        let parts = all(Parts::new(1, calling(true), one_call), pieces);
        assert_eq!(said(&parts).1.len(), count);
        assert_eq!(
            parts.last(),
            Some(&Part::End {
                index: 0,
                finish: Finish::Length,
                calls: Calls { any: true, broken: false }
            })
        );
    }
}

#[test]
fn a_model_that_stops_inside_a_call_has_broken_it_and_a_limit_has_cut_it() {
    let written = r#"<tool_call>{"name": "add", "arguments": {"a": "#;
    let broken = CallEnd::Broken(written.to_owned());
    for (finish, end, any) in [
        (Finish::Stop, broken.clone(), false),
        (Finish::StopString(0), broken, false),
        (Finish::Length, CallEnd::Cut(written.to_owned()), true),
    ] {
        let pieces = [text(written), Piece::End { index: 0, finish }];
        let parts = all(Parts::new(1, calling(true), false), pieces);
        let calls = Calls { any, broken: !any };
        let ends =
            [Part::CallEnd { index: 0, call: 0, end }, Part::End { index: 0, finish, calls }];
        assert_eq!(parts[parts.len() - 2..], ends, "{finish:?}");
    }
}

/// A piece for each of these tokens; what each spells is its text.
fn spelled(tokens: &[String]) -> Vec<Piece> {
    let mut offset = 0;
    let one = |spelling: &String| {
        let (bytes, logprob) = (spelling.clone().into_bytes(), -0.5);
        let token = LikelyToken { bytes, logprob };
        let tokens = vec![TokenLogprob { token, top: Vec::new(), offset }];
        offset += spelling.chars().count();
        Piece::Text { index: 0, text: spelling.clone(), tokens }
    };
    tokens.iter().map(one).collect()
}

/// What the tokens that come with text spell.
fn listed(parts: &[Part]) -> String {
    let tokens = parts.iter().flat_map(|part| match part {
        Part::Text { tokens, .. } => tokens.as_slice(),
        _ => &[],
    });
    tokens.map(|token| String::from_utf8_lossy(&token.token.bytes)).collect()
}

fn apart() -> Parts {
    let tools = Some(vec!["f".to_owned()].into());
    Parts::new(1, Look { tools, reasoning: Reasoning::Apart, ..Look::default() }, false)
}

#[test]
fn tokens_of_reasoning_and_calls_are_not_those_of_the_text() {
    let reply =
        ["<think>", "hm", "</", "think", ">So", " it", " is", "<tool_call>", "{\"name\": \"f\"}"];
    let more = ["</tool_call>", " Done", " <", "<tool", "x", ""];
    let tokens: Vec<String> = reply.iter().chain(&more).map(|token| (*token).to_owned()).collect();
    let mut pieces = spelled(&tokens);
    pieces.push(Piece::End { index: 0, finish: Finish::Stop });
    let parts = all(apart(), pieces);
    assert_eq!(said(&parts).0, "So it isDone <<toolx");
    assert_eq!(listed(&parts), ">So it is Done <<toolx", "whole tokens");
    let last = &parts[parts.len() - 2];
    assert!(
        matches!(last, Part::Text { text, tokens, .. } if text.is_empty() && tokens.len() == 1)
    );
}

proptest! {
    /// If each token is one character, the tokens that come with the text spell it, whatever the model writes.
    #[test]
    fn tokens_belong_to_the_text_that_they_come_with(pieces in prop::collection::vec("[a-c <\n]{0,4}|<think>|</think>|<tool_call>|</tool_call>|\\{\"name\": \"f\"(, \"arguments\": \\{\"a\": (1|x))?|\\}", 0..12), cut: bool) {
        let letters: Vec<String> = pieces.concat().chars().map(String::from).collect();
        let finish = if cut { Finish::Length } else { Finish::Stop };
        let mut pieces = spelled(&letters);
        pieces.push(Piece::End { index: 0, finish });
        let parts = all(apart(), pieces.clone());
        prop_assert_eq!(listed(&parts), said(&parts).0);
        // And the same text and calls come out as without log-probabilities.
        let silent = pieces.into_iter().map(|piece| match piece {
            Piece::Text { index, text, .. } => Piece::Text { index, text, tokens: Vec::new() },
            piece => piece,
        });
        prop_assert_eq!(said(&parts), said(&all(apart(), silent)));
    }
}

#[test]
fn each_reply_is_parsed_for_itself() {
    let half = |index, text: &str| Piece::Text { index, text: text.to_owned(), tokens: Vec::new() };
    let (first, second) = CALL.split_at(20);
    let pieces = [half(0, first), half(1, "Hi"), half(0, second)];
    let parts = all(Parts::new(2, calling(true), false), pieces);
    assert_eq!(parts[0], Part::Text { index: 1, text: "Hi".to_owned(), tokens: Vec::new() });
    assert!(matches!(&parts[1], Part::CallBegin { index: 0, call: 0, name } if name == "add"));
}
