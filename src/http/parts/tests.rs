//! From pieces of a generation to the parts of an answer.

use super::*;
use crate::serving::LikelyToken;

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
    let end = |calls| Part::End { index: 0, finish: Finish::Stop, calls };
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
            Some(&Part::End { index: 0, finish: Finish::Length, calls: true })
        );
    }
}

#[test]
fn tokens_are_passed_on_even_while_their_text_is_held_back() {
    let token = TokenLogprob {
        token: LikelyToken { bytes: b"<".to_vec(), logprob: -0.5 },
        top: Vec::new(),
        offset: 0,
    };
    let piece = Piece::Text { index: 0, text: "<tool".to_owned(), tokens: vec![token.clone()] };
    let held = Part::Text { index: 0, text: String::new(), tokens: vec![token] };
    assert_eq!(all(Parts::new(1, calling(true), false), [piece]), [held]);
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
