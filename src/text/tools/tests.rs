//! Tests: calls that are whole, split anywhere, broken or unclosed; everything that is not a call is kept.

use super::*;
use proptest::prelude::*;

fn text(text: &str) -> ToolPiece {
    ToolPiece::Text(text.into())
}

fn call(index: usize, name: &str, arguments: &str) -> [ToolPiece; 2] {
    let (name, delta) = (name.into(), arguments.into());
    [ToolPiece::Begin { index, name }, ToolPiece::Arguments { index, delta }]
}

/// Parses pieces to the end, with neighbouring text joined.
fn read<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Vec<ToolPiece> {
    let mut parser = ToolCallParser::new();
    let mut all: Vec<ToolPiece> = pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    all.extend(parser.finish());
    let mut joined: Vec<ToolPiece> = Vec::new();
    for piece in all {
        match (joined.last_mut(), piece) {
            (Some(ToolPiece::Text(before)), ToolPiece::Text(more)) => before.push_str(&more),
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

const TWO: &str = "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1.0, \"a\": [\"é\", null]}}\n</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>\n";

#[test]
fn calls_come_with_index_name_and_arguments_in_their_order() {
    let mut want = vec![text("Let me see.\n")];
    want.extend(call(0, "f", r#"{"b":1.0,"a":["é",null]}"#));
    want.extend(call(1, "g", "{}"));
    assert_eq!(read([TWO]), want);
}

#[test]
fn text_flows_until_a_tag_may_begin() {
    let mut parser = ToolCallParser::new();
    assert_eq!(parser.push("a <to"), [text("a ")]);
    assert_eq!(parser.push("y> <tool_call"), [text("<toy> ")]);
    assert_eq!(parser.push(">{\"name\": \"f\"}"), []);
    assert_eq!(parser.push("</tool_call>"), call(0, "f", "{}"));
    assert_eq!(parser.calls(), 1);
    assert_eq!(parser.push("\n "), []);
    assert_eq!(parser.push("after"), [text("\n after")]);
}

#[test]
fn a_call_that_lacks_only_its_closing_tag_counts() {
    assert_eq!(
        read(["<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n"]),
        call(0, "f", r#"{"x":1}"#)
    );
}

#[test]
fn a_closing_tag_inside_a_string_belongs_to_the_arguments() {
    let arguments = r#"{"code":"print(\"</tool_call>\\\")"}"#;
    let whole = format!("<tool_call>{{\"name\": \"f\", \"arguments\": {arguments}}}</tool_call>!");
    let mut want = call(0, "f", arguments).to_vec();
    want.push(text("!"));
    assert_eq!(read([whole.as_str()]), want);
}

#[test]
fn what_is_not_a_call_is_given_back_as_it_is() {
    let broken = [
        "<tool_call>not json</tool_call>",
        "<tool_call>{\"name\": 7, \"arguments\": {}}</tool_call> then",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": \"text\"}</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>{\"name\": \"f\", \"argu",
        "<tool_call>",
        "<tool_call></tool_call>",
        "</tool_call> alone",
        "a < b <tool",
    ];
    for whole in broken {
        assert_eq!(read([whole]), [text(whole)], "{whole}");
    }
}

#[test]
fn a_call_after_a_broken_one_is_still_found() {
    let broken = "<tool_call>{\"name\": \"never closed</tool_call>";
    let good = "<tool_call>{\"name\": \"g\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    let mut want = vec![text(broken)];
    want.extend(call(0, "g", r#"{"a": 1}"#));
    assert_eq!(read([broken, good]), want);
}

#[test]
fn a_call_without_end_is_bounded() {
    let mut parser = ToolCallParser::new();
    parser.push("<tool_call>");
    let mut given = 0;
    for _ in 0..40 {
        for piece in parser.push(&"x".repeat(MAX_CALL / 16)) {
            let ToolPiece::Text(text) = piece else { panic!("not a call") };
            given += text.len();
        }
    }
    assert!(given > MAX_CALL);
}

proptest! {
    #[test]
    fn cutting_changes_nothing(cuts in prop::collection::vec(0..400usize, 0..20), which in 0..3usize) {
        let broken = "x <tool_call>{\"name\": \"é</tool_call> \n<tool_call>{\"name\": \"g\"}</tool_call> \n y <";
        let whole = [TWO, broken, "<tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call></tool_call>"][which];
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&at| at <= whole.len() && whole.is_char_boundary(at)).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        prop_assert_eq!(read(cuts.windows(2).map(|w| &whole[w[0]..w[1]])), read([whole]));
    }

    #[test]
    fn text_without_calls_is_never_changed(pieces in prop::collection::vec("[<>/_a-z {}\"\\\\]{0,8}|<tool_call>|</tool_call>", 0..12)) {
        let whole = pieces.concat();
        let want = if whole.is_empty() { vec![] } else { vec![text(&whole)] };
        prop_assert_eq!(read(pieces.iter().map(String::as_str)), want);
    }
}
