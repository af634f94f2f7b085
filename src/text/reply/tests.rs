//! Tests: replies in every family's syntax, whole, split anywhere, broken or unclosed; text that is not a call is kept.

use super::reasoning::Opening;
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn text(text: &str) -> ReplyPiece {
    ReplyPiece::Text(text.into())
}

fn thought(text: &str) -> ReplyPiece {
    ReplyPiece::Reasoning(text.into())
}

fn begun(index: usize, name: &str, arguments: &str) -> [ReplyPiece; 2] {
    let (name, delta) = (name.into(), arguments.into());
    [ReplyPiece::Begin { index, name }, ReplyPiece::Arguments { index, delta }]
}

fn whole(index: usize) -> ReplyPiece {
    ReplyPiece::End { index, end: CallEnd::Whole }
}

fn call(index: usize, name: &str, arguments: &str) -> [ReplyPiece; 3] {
    let [name, arguments] = begun(index, name, arguments);
    [name, arguments, whole(index)]
}

fn look() -> Look {
    let names: Vec<String> = ["f", "g"].map(String::from).to_vec();
    Look { tools: Some(names.into()), reasoning: Reasoning::Apart, ..Look::default() }
}

/// Parses pieces to the end, with neighbours joined.
fn parsed<'a>(manner: &Manner, pieces: impl IntoIterator<Item = &'a str>) -> Vec<ReplyPiece> {
    let mut parser = ReplyParser::new(&look(), manner);
    let mut all: Vec<ReplyPiece> =
        pieces.into_iter().flat_map(|piece| parser.push(piece)).collect();
    all.extend(parser.finish());
    let mut joined: Vec<ReplyPiece> = Vec::new();
    for piece in all {
        match (joined.last_mut(), piece) {
            (Some(ReplyPiece::Text(before)), ReplyPiece::Text(more)) => before.push_str(&more),
            (Some(ReplyPiece::Reasoning(before)), ReplyPiece::Reasoning(more)) => {
                before.push_str(&more)
            }
            (
                Some(ReplyPiece::Arguments { index, delta }),
                ReplyPiece::Arguments { index: other, delta: more },
            ) if *index == other => delta.push_str(&more),
            (_, piece) => joined.push(piece),
        }
    }
    joined
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Vec<ReplyPiece> {
    parsed(&Manner::default(), pieces)
}

/// A family: how its template renders an assistant's turn with a text, one call of f with `{"a": 1}`, and two.
struct Family {
    name: &'static str,
    said: &'static str,
    one: &'static str,
    two: Option<&'static str>,
    /// Replies with a call of f, and then one of g if the family can.
    replies: &'static [&'static str],
}

const FAMILIES: [Family; 10] = [
    Family {
        name: "Hermes, Qwen",
        said: "<|im_start|>assistant\nSeeds.<|im_end|>\n",
        one: "<|im_start|>assistant\n<tool_call>\n{\"name\": \"probe\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>\n",
        two: Some(
            "<|im_start|>assistant\n<tool_call>\n{\"name\": \"probe\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"probe\", \"arguments\": {\"a\": 1}}\n</tool_call><|im_end|>\n",
        ),
        replies: &[
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
        ],
    },
    Family {
        name: "Mistral, a list",
        said: "[INST] x[/INST] Seeds.</s>",
        one: "[INST] x[/INST] [TOOL_CALLS] [{\"name\": \"probe\", \"arguments\": {\"a\": 1}, \"id\": \"000000000\"}]</s>",
        two: Some(
            "[INST] x[/INST] [TOOL_CALLS] [{\"name\": \"probe\", \"arguments\": {\"a\": 1}, \"id\": \"000000000\"}, {\"name\": \"probe\", \"arguments\": {\"a\": 1}, \"id\": \"000000001\"}]</s>",
        ),
        replies: &[
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abc\"}, {\"name\": \"g\", \"arguments\": {}}]",
        ],
    },
    Family {
        name: "Mistral, name before arguments",
        said: "[INST]x[/INST]Seeds.</s>",
        one: "[INST]x[/INST][TOOL_CALLS]probe[ARGS]{\"a\": 1}</s>",
        two: Some(
            "[INST]x[/INST][TOOL_CALLS]probe[ARGS]{\"a\": 1}[TOOL_CALLS]probe[ARGS]{\"a\": 1}</s>",
        ),
        replies: &["[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}"],
    },
    Family {
        name: "Llama 3",
        said: "<|start_header_id|>assistant<|end_header_id|>\n\nSeeds.<|eot_id|>",
        one: "<|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"probe\", \"parameters\": {\"a\": 1}}<|eot_id|>",
        two: None,
        replies: &[
            "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}",
            "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}\n{\"name\": \"g\"}",
            "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"a\": 1}}}, {\"name\": \"g\"}",
        ],
    },
    Family {
        name: "Phi-4-mini",
        said: "<|assistant|>Seeds.<|end|>",
        one: "<|assistant|><|tool_call|>[{\"name\": \"probe\", \"arguments\": {\"a\": 1}}]<|/tool_call|><|end|>",
        two: Some(
            "<|assistant|><|tool_call|>[{\"name\": \"probe\", \"arguments\": {\"a\": 1}}, {\"name\": \"probe\", \"arguments\": {\"a\": 1}}]<|/tool_call|><|end|>",
        ),
        replies: &[
            "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]<|/tool_call|>",
        ],
    },
    Family {
        name: "DeepSeek",
        said: "<｜Assistant｜>Seeds.<｜end▁of▁sentence｜>",
        one: "<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>probe\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        two: Some(
            "<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>probe\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>probe\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
        ),
        replies: &[
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ],
    },
    Family {
        name: "Mistral, with ids",
        said: "[INST]x[/INST]Seeds.</s>",
        one: "[INST]x[/INST][TOOL_CALLS]probe[CALL_ID]92xxtPcKQ[ARGS]{\"a\": 1}</s>",
        two: Some(
            "[INST]x[/INST][TOOL_CALLS]probe[CALL_ID]92xxtPcKQ[ARGS]{\"a\": 1}[TOOL_CALLS]probe[CALL_ID]00xxtPcKQ[ARGS]{\"a\": 1}</s>",
        ),
        replies: &["[TOOL_CALLS]f[CALL_ID]abc[ARGS]{\"a\": 1}[TOOL_CALLS]g[CALL_ID]abd[ARGS]{}"],
    },
    Family {
        name: "Command R7B: markers of text and calls begin and end alike",
        said: "<|CHATBOT|><|START_RESPONSE|>Seeds.<|END_RESPONSE|><|END_OF_TURN|>",
        one: "<|CHATBOT|><|START_ACTION|>[\n  {\"id\": \"0\", \"name\": \"probe\", \"parameters\": {\"a\": 1}}\n]<|END_ACTION|><|END_OF_TURN|>",
        two: Some(
            "<|CHATBOT|><|START_ACTION|>[\n  {\"id\": \"0\", \"name\": \"probe\", \"parameters\": {\"a\": 1}},\n  {\"id\": \"1\", \"name\": \"probe\", \"parameters\": {\"a\": 1}}\n]<|END_ACTION|><|END_OF_TURN|>",
        ),
        replies: &[
            "<|START_ACTION|>[\n  {\"id\": \"0\", \"name\": \"f\", \"parameters\": {\"a\": 1}},\n  {\"name\": \"g\", \"parameters\": {}}\n]<|END_ACTION|>",
        ],
    },
    Family {
        name: "Kimi K2",
        said: "<|im_assistant|>assistant<|im_middle|>Seeds.<|im_end|>",
        one: "<|im_assistant|>assistant<|im_middle|><|tool_calls_section_begin|><|tool_call_begin|>functions.probe:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_calls_section_end|><|im_end|>",
        two: Some(
            "<|im_assistant|>assistant<|im_middle|><|tool_calls_section_begin|><|tool_call_begin|>functions.probe:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.probe:1<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_calls_section_end|><|im_end|>",
        ),
        replies: &[
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        ],
    },
    Family {
        name: "one marker, nothing after a call",
        said: "A: Seeds.$",
        one: "A: <call> {\"name\": \"probe\", \"arguments\": {\"a\": 1}}$",
        two: Some(
            "A: <call> {\"name\": \"probe\", \"arguments\": {\"a\": 1}} <call> {\"name\": \"probe\", \"arguments\": {\"a\": 1}}$",
        ),
        replies: &[
            "<call> {\"name\": \"f\", \"arguments\": {\"a\": 1}}<call>{\"name\": \"g\", \"arguments\": {}}",
        ],
    },
];

impl Family {
    fn manner(&self) -> Manner {
        let Family { said, one, two, .. } = *self;
        let found = CallSyntax::of(Samples {
            said,
            one,
            two,
            name: "probe",
            argument: "topic",
            value: "finches-and-kin",
            source: "",
        });
        let calls = found.unwrap_or_else(|| panic!("{}: no syntax", self.name));
        Manner { calls: calls.into(), thinking: None }
    }
}

#[test]
fn every_familys_calls_are_found_by_what_its_template_writes() {
    for family in FAMILIES {
        let manner = family.manner();
        let mut want = call(0, "f", r#"{"a": 1}"#).to_vec();
        want.extend(call(1, "g", "{}"));
        for reply in family.replies {
            assert_eq!(parsed(&manner, [*reply]), want, "{}: {reply} by {manner:?}", family.name);
            let letters: Vec<String> = reply.chars().map(String::from).collect();
            let letters = letters.iter().map(String::as_str);
            assert_eq!(parsed(&manner, letters), want, "{}: letter by letter", family.name);
        }
    }
}

#[test]
fn plain_text_is_plain_text_in_every_family() {
    let plain = [
        "Seeds of birch.",
        "{\"name\": \"h\", \"parameters\": {}}",
        "{\"a\": [1, 2]}",
        "{ not json }",
        "[1, 2]",
        "Use {\"name\": \"f\", \"parameters\": {}} for it.",
        "a < b, [TOOL, ```json\n{}\n```",
        " \n",
        "{\"name\": \"f\", \"para",
    ];
    for family in FAMILIES {
        for plain in plain {
            assert_eq!(
                parsed(&family.manner(), [plain]),
                [text(plain)],
                "{}: {plain}",
                family.name
            );
        }
    }
}

const TWO: &str = "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1.0, \"a\": [\"é\", null]}}\n</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>\n";

#[test]
fn calls_come_with_index_name_and_arguments_in_their_order() {
    let mut want = vec![text("Let me see.\n")];
    want.extend(call(0, "f", r#"{"b": 1.0, "a": ["é", null]}"#));
    want.extend(call(1, "g", "{}"));
    assert_eq!(read([TWO]), want);
}

#[test]
fn text_and_arguments_flow_as_they_come() {
    let mut parser = ReplyParser::new(&look(), &Manner::default());
    assert_eq!(parser.push("a <to"), [text("a ")]);
    assert_eq!(parser.push("y> <tool_call"), [text("<toy> ")]);
    assert_eq!(parser.push(">{\"name\": \"f\", \"arguments\": "), []);
    assert_eq!(parser.push("{\"a\": \"x"), begun(0, "f", "{\"a\": \"x"));
    assert_eq!(parser.push("\ny"), [ReplyPiece::Arguments { index: 0, delta: "\\ny".into() }]);
    let rest = ReplyPiece::Arguments { index: 0, delta: "\"}".into() };
    assert_eq!(parser.push("\"}}"), [rest, whole(0)]);
    assert_eq!(parser.push("</tool_call>\n"), []);
    assert!(!parser.broken());
    assert_eq!(parser.push("after"), [text("after")]);
}

#[test]
fn a_name_may_come_last_and_arguments_as_text() {
    let late = "<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>";
    assert_eq!(read([late]), call(0, "f", r#"{"a": 1}"#));
    let quoted = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    assert_eq!(read([quoted]), call(0, "f", r#"{"a": 1}"#));
    for none in
        ["<tool_call>{\"name\": \"f\"}", "<tool_call>{\"name\": \"f\", \"arguments\": null}"]
    {
        assert_eq!(read([none]), call(0, "f", "{}"));
    }
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
fn a_call_that_breaks_after_it_was_begun_ends_there() {
    let so_far = [
        ("{\"a\": oops}", "{\"a\": "),
        ("{\"a\": tru}", "{\"a\": tru}"),
        ("{\"a\": \"\\q\"}", "{\"a\": \"\\q\"}"),
    ];
    for (arguments, passed_on) in so_far {
        let written =
            format!("<tool_call>{{\"name\": \"f\", \"arguments\": {arguments}}}</tool_call>");
        let mut want = begun(0, "f", passed_on).to_vec();
        want.push(ReplyPiece::End { index: 0, end: CallEnd::Broken(written.clone()) });
        want.push(text("so"));
        let broken = written + "so";
        assert_eq!(read([broken.as_str()]), want);
        let mut parser = ReplyParser::new(&look(), &Manner::default());
        parser.push(&broken);
        assert!(parser.broken());
    }
}

#[test]
fn a_reply_that_ends_inside_a_call_cuts_it() {
    for (written, passed_on) in [
        ("<tool_call>{\"name\": \"f\", \"arguments\": {", "{"),
        ("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"Par", "{\"a\": \"Par"),
    ] {
        let mut want = begun(0, "f", passed_on).to_vec();
        want.push(ReplyPiece::End { index: 0, end: CallEnd::Cut(written.into()) });
        assert_eq!(read([written]), want);
    }
    let closed = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}";
    assert_eq!(read([closed]), call(0, "f", r#"{"a": 1}"#), "only its closing is missing");
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
    let mut parser = ReplyParser::new(&look(), &Manner::default());
    parser.push("<tool_call>{\"name\": \"");
    let mut given = 0;
    for _ in 0..20 {
        for piece in parser.push(&"x".repeat(1 << 16)) {
            let ReplyPiece::Text(text) = piece else { panic!("not a call") };
            given += text.len();
        }
    }
    assert!(given > 1 << 20);
}

#[test]
fn reasoning_is_told_from_the_answer() {
    let cases: [(&str, Option<&'static str>, Vec<ReplyPiece>); 9] = [
        ("<think>\nSmall.\n</think>\n\nBig.", None, vec![thought("Small."), text("Big.")]),
        ("\n<think></think>Big.", None, vec![text("Big.")]),
        ("[THINK]Small.[/THINK]Big.", None, vec![thought("Small."), text("Big.")]),
        ("Small.</think>Big.", Some("</think>"), vec![thought("Small."), text("Big.")]),
        ("Small.</think>Big.", None, vec![text("Small.</think>Big.")]),
        ("Big. <think>no</think>", None, vec![text("Big. <think>no</think>")]),
        ("<think>never ends </th", None, vec![thought("never ends </th")]),
        ("<thin", None, vec![text("<thin")]),
        ("<think>a < b\n\nc</think>", None, vec![thought("a < b\n\nc")]),
    ];
    for (reply, thinking, want) in cases {
        let manner = Manner { thinking, ..Manner::default() };
        assert_eq!(parsed(&manner, [reply]), want, "{reply}");
    }
    let opening = |prompt| Opening::after(prompt);
    assert_eq!(opening("<|assistant|>\n<think>\n"), Opening::Inside("</think>"));
    assert_eq!(opening("<|assistant|>\n<think>\n\n</think>\n\n"), Opening::Answer);
    assert_eq!(opening("<think></think><|assistant|>\n"), Opening::Free);
}

#[test]
fn a_call_in_reasoning_is_none() {
    let inner = "<tool_call>{\"name\": \"f\"}</tool_call>";
    let reply = format!("<think>{inner}</think>{inner}");
    let mut want = vec![thought(inner)];
    want.extend(call(0, "f", "{}"));
    assert_eq!(read([reply.as_str()]), want);
}

#[test]
fn text_after_a_call_keeps_its_white_space() {
    let inner = "<tool_call>{\"name\": \"f\"}</tool_call>";
    let reply = format!("Well. {inner}\n Done now.\n\nYes. \n{inner} \n");
    let mut want = vec![text("Well. ")];
    want.extend(call(0, "f", "{}"));
    want.push(text("Done now.\n\nYes."));
    want.extend(call(1, "f", "{}"));
    assert_eq!(read([reply.as_str()]), want);
    assert_eq!(read(reply.split_inclusive(|_| true)), want);
}

proptest! {
    /// Whatever a model writes, each call ends once, and as a whole one exactly if its arguments are an object.
    #[test]
    fn a_call_is_whole_if_its_arguments_are(pieces in prop::collection::vec("[<>/_a-z {}\"\\\\:,0-9]{0,3}|<tool_call>|</tool_call>|\\{\"name\": \"f\", \"arguments\": \\{|\"a\": (1|tru|\"x|\"y\")|\\}\\}", 0..16), family in 0..10usize) {
        let (mut open, mut calls) = (None::<String>, 0);
        for piece in parsed(&FAMILIES[family].manner(), pieces.iter().map(String::as_str)) {
            match piece {
                ReplyPiece::Begin { index, .. } => {
                    prop_assert_eq!((index, open.replace(String::new())), (calls, None));
                    calls += 1;
                }
                ReplyPiece::Arguments { delta, .. } => open.as_mut().unwrap().push_str(&delta),
                ReplyPiece::End { index, end } => {
                    prop_assert_eq!(index + 1, calls);
                    let value = serde_json::from_str::<serde_json::Value>(&open.take().unwrap());
                    prop_assert_eq!(end == CallEnd::Whole, value.is_ok_and(|value| value.is_object()));
                }
                ReplyPiece::Text(_) | ReplyPiece::Reasoning(_) => {}
            }
        }
        prop_assert_eq!(open, None);
    }

    #[test]
    fn cutting_changes_nothing(cuts in prop::collection::vec(0..400usize, 0..20), which in 0..5usize, family in 0..10usize) {
        let broken = "x <tool_call>{\"name\": \"é</tool_call> \n<tool_call>{\"name\": \"g\"}</tool_call> \n y <";
        let thinking = "<think>\n a <b \n</thin </think>\n\n [TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": \"\n\"}} z";
        let whole = [TWO, broken, "<tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call></tool_call>", thinking, FAMILIES[family].replies[0]][which];
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|&at| at <= whole.len() && whole.is_char_boundary(at)).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let manner = FAMILIES[family].manner();
        prop_assert_eq!(parsed(&manner, cuts.windows(2).map(|w| &whole[w[0]..w[1]])), parsed(&manner, [whole]));
    }

    #[test]
    fn text_without_calls_is_never_changed(pieces in prop::collection::vec("[<>/_a-z {}\"\\\\]{0,8}|<tool_call>|</tool_call>", 0..12)) {
        let whole = pieces.concat();
        let want = if whole.is_empty() { vec![] } else { vec![text(&whole)] };
        prop_assert_eq!(read(pieces.iter().map(String::as_str)), want);
    }
}

/// How four families show one call and two calls of `probe`.
fn tagged_samples() -> [(&'static str, String, String); 4] {
    let qwen = "<tool_call>\n<function=probe>\n<parameter=topic>\nfinches-and-kin\n</parameter>\n</function>\n</tool_call>";
    let glm = "<tool_call>probe\n<arg_key>topic</arg_key>\n<arg_value>finches-and-kin</arg_value>\n</tool_call>";
    let minimax = "<minimax:tool_call>\n<invoke name=\"probe\">\n<parameter name=\"topic\">finches-and-kin</parameter>\n</invoke>\n</minimax:tool_call>";
    let seed = "<seed:tool_call>\n<function=probe>\n<parameter=topic>finches-and-kin</parameter>\n</function>\n</seed:tool_call>";
    [("qwen", qwen), ("glm", glm), ("minimax", minimax), ("seed", seed)].map(|(name, call)| {
        let turn = |text: &str| format!("<|user|>Hi<|end|><|assistant|>{text}<|end|>\n");
        (name, turn(call), turn(&format!("{call}\n{call}")))
    })
}

#[test]
fn calls_between_tags_are_found_and_read() {
    for (family, one, two) in tagged_samples() {
        let said = "<|user|>Hi<|end|><|assistant|>Said so.<|end|>\n";
        let samples = Samples {
            said,
            one: &one,
            two: Some(&two),
            name: "probe",
            argument: "topic",
            value: "finches-and-kin",
            source: "",
        };
        let syntax = CallSyntax::of(samples).unwrap_or_else(|| panic!("{family}"));
        let written = |text: &str, number: &str| {
            let call = one
                .trim_start_matches("<|user|>Hi<|end|><|assistant|>")
                .trim_end_matches("<|end|>\n");
            let argument = &call[call.find("probe").unwrap() + 5..];
            let open = argument[..argument.find("topic").unwrap()].rfind('<').unwrap();
            let close = argument.find("</").unwrap();
            let close = if family == "glm" {
                argument.rfind("</arg_value>").unwrap() + 12
            } else {
                close + argument[close..].find('>').unwrap() + 1
            };
            let argument = &argument[open..close];
            let second = argument.replace("topic", "count").replace("finches-and-kin", number);
            call.replace("finches-and-kin", text).replacen(
                &argument.replace("finches-and-kin", text),
                &format!("{}\n{second}", argument.replace("finches-and-kin", text)),
                1,
            )
        };
        let reply =
            format!("Let me see.\n\n{}\n{}\nDone.", written("a < b", "5"), written("7", "[1, 2]"));
        let names: Arc<[String]> = vec!["probe".to_owned()].into();
        let declared = json!([{"function": {"name": "probe", "parameters": {"properties": {"topic": {"type": "string"}, "count": {}}}}}]);
        let look =
            Look { tools: Some(names), declared: Some(Arc::new(declared)), ..Look::default() };
        for cut in [1, 3, 7, usize::MAX] {
            let mut parser = ReplyParser::new(
                &look,
                &Manner { calls: Arc::new(syntax.clone()), thinking: None },
            );
            let (mut calls, mut text, mut ends) = (Vec::new(), String::new(), 0);
            let pieces: Vec<char> = reply.chars().collect();
            let mut out: Vec<ReplyPiece> = pieces
                .chunks(cut.min(pieces.len()))
                .flat_map(|part| parser.push(&part.iter().collect::<String>()))
                .collect();
            out.extend(parser.finish());
            for piece in out {
                match piece {
                    ReplyPiece::Begin { name, .. } => calls.push((name, String::new())),
                    ReplyPiece::Arguments { delta, .. } => {
                        calls.last_mut().unwrap().1.push_str(&delta)
                    }
                    ReplyPiece::Text(more) => text.push_str(&more),
                    ReplyPiece::End { end, .. } => ends += usize::from(end == CallEnd::Whole),
                    ReplyPiece::Reasoning(_) => {}
                }
            }
            let call = |arguments: &str| ("probe".to_owned(), arguments.to_owned());
            let expected = [
                call(r#"{"topic": "a < b", "count": 5}"#),
                call(r#"{"topic": "7", "count": [1,2]}"#),
            ];
            assert_eq!(
                (calls.as_slice(), text.as_str(), ends),
                (&expected[..], "Let me see.Done.", 2),
                "{family} by {cut}: {reply}"
            );
        }
    }
}

#[test]
fn calls_between_tags_that_break_are_text_or_broken() {
    let (_, one, two) = &tagged_samples()[0];
    let said = "<|user|>Hi<|end|><|assistant|>Said so.<|end|>\n";
    let samples = Samples {
        said,
        one,
        two: Some(two),
        name: "probe",
        argument: "topic",
        value: "finches-and-kin",
        source: "",
    };
    let syntax = CallSyntax::of(samples).unwrap();
    let read = |reply: &str| {
        let names: Arc<[String]> = vec!["probe".to_owned()].into();
        let look = Look { tools: Some(names), ..Look::default() };
        let mut parser =
            ReplyParser::new(&look, &Manner { calls: Arc::new(syntax.clone()), thinking: None });
        let mut pieces = parser.push(reply);
        pieces.extend(parser.finish());
        (pieces, parser.broken())
    };
    assert_eq!(
        read("<tool_call> is a tag"),
        (vec![ReplyPiece::Text("<tool_call> is a tag".to_owned())], true)
    );
    let (pieces, broken) = read("a <tool_cal");
    let text: String = pieces.iter().filter_map(ReplyPiece::text).collect();
    assert_eq!((text.as_str(), broken), ("a <tool_cal", false));
    let cut = read("<tool_call>\n<function=probe>\n<parameter=a>\n1").0;
    assert!(matches!(cut.last(), Some(ReplyPiece::End { end: CallEnd::Cut(_), .. })), "{cut:?}");
    let broken = read("<tool_call>\n<function=probe>\nwhat?\n</function>\n</tool_call> after").0;
    assert!(
        broken.iter().any(|piece| matches!(piece, ReplyPiece::End { end: CallEnd::Broken(_), .. })),
        "{broken:?}"
    );
}
