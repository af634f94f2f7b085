//! Tests: for each sign, replies that have it, replies that do not, and those in between.

use super::*;
use crate::text::Chat;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

static HERMES: LazyLock<Manner> = LazyLock::new(Manner::default);

/// In these tests a token is the code point of one character.
fn spell(ids: &[u32]) -> String {
    ids.iter().filter_map(|id| char::from_u32(*id)).collect()
}

fn ids(text: &str) -> Vec<u32> {
    text.chars().map(u32::from).collect()
}

fn reply<'a>(text: &'a str, ids: &'a [u32], end: End) -> Reply<'a> {
    Reply { text, whole: true, ids, end, manner: &HERMES, spell: &spell }
}

fn user(text: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": text})]
}

/// The signs of a reply to one user message.
fn signs(question: &str, text: &str, end: End) -> Signs {
    let messages = user(question);
    let request = Request::chat(&Chat { messages: &messages, ..Chat::default() }, None);
    assess(&request, &reply(text, &ids(text), end))
}

/// The signs of a reply that could call `f` or `look_up`.
fn with_tools(question: &str, text: &str, end: End) -> Signs {
    let messages = user(question);
    let tools =
        ["f", "look_up"].map(|name| json!({"type": "function", "function": {"name": name}}));
    let tools = json!(tools);
    let chat = Chat { messages: &messages, tools: Some(&tools), ..Chat::default() };
    assess(&Request::chat(&chat, None), &reply(text, &[], end))
}

#[test]
fn a_reply_is_empty_if_the_model_ended_it_without_text() {
    let cases = [
        ("", End::Token, true),
        (" \n", End::Token, true),
        ("x", End::Token, false),
        ("", End::StopString, false),
        ("", End::Length, false),
    ];
    for (text, end, empty) in cases {
        let expected = Signs { empty, length: end == End::Length, ..Signs::default() };
        assert_eq!(signs("Hi", text, end), expected, "{text:?} {end:?}");
    }
    let nothing = reply("", &[], End::Token);
    for (max_tokens, empty) in [(Some(0), false), (Some(1), false), (Some(2), true), (None, true)] {
        let messages = user("Hi");
        let chat = Chat { messages: &messages, ..Chat::default() };
        let found = assess(&Request::chat(&chat, max_tokens), &nothing);
        assert_eq!(found, Signs { empty, ..Signs::default() }, "{max_tokens:?}");
    }
    for raw in [Request::text("Hi", None), Request::tokens(&[7], None)] {
        assert_eq!(assess(&raw, &nothing), Signs::default());
    }
    let call = "<tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(with_tools("Hi", call, End::Token), Signs::default());
}

#[test]
fn the_maximum_length_counts_unless_it_is_one_token() {
    let cases = [
        (None, End::Length, true),
        (Some(2), End::Length, true),
        (Some(1), End::Length, false),
        (Some(0), End::Length, false),
        (None, End::Token, false),
        (None, End::StopString, false),
    ];
    for (max_tokens, end, length) in cases {
        let request = Request::text("Once upon a time", max_tokens);
        let found = assess(&request, &reply("there was", &ids("there was"), end));
        assert_eq!(found, Signs { length, ..Signs::default() }, "{max_tokens:?} {end:?}");
    }
}

#[test]
fn a_loop_counts_at_the_maximum_length_and_if_the_prompt_does_not_hold_it() {
    let looping = |question: &str, text: &str, end| signs(question, text, end).looping;
    let laughter = "ha ".repeat(20);
    let cases = [
        ("Tell me a joke.", laughter.clone(), End::Length, true),
        ("Tell me a joke.", laughter.clone(), End::Token, false),
        ("Tell me a joke.", laughter.clone(), End::StopString, false),
        ("Tell me a joke.", format!("{laughter}!"), End::Length, false),
        ("Go on: ha ha ha ha", laughter.clone(), End::Length, false),
        // Once is not a loop.
        ("What does ha mean?", laughter, End::Length, true),
        (
            "Tell me a joke.\n\nA good one.",
            "Well.".to_owned() + &"\n".repeat(40),
            End::Length,
            true,
        ),
        ("Draw a line: ==========", "=".repeat(40), End::Length, false),
        (
            "Tell me a joke.",
            "A finch walks into a bar and asks for seeds.".into(),
            End::Length,
            false,
        ),
        ("Tell me a joke.", String::new(), End::Length, false),
    ];
    for (question, text, end, expected) in cases {
        assert_eq!(looping(question, &text, end), expected, "{question:?} {text:?} {end:?}");
    }
}

#[test]
fn a_loop_of_tokens_without_text_is_a_loop() {
    let (messages, silent) = (user("Hi"), vec![0xD800; 64]);
    let request = Request::chat(&Chat { messages: &messages, ..Chat::default() }, None);
    assert!(assess(&request, &reply("", &silent, End::Length)).looping);
    assert!(!assess(&Request::tokens(&silent, None), &reply("", &silent, End::Length)).looping);
}

#[test]
fn json_that_was_asked_for_must_be_there() {
    let request = "Answer in JSON.";
    let cases = [
        (request, "{\"a\": 1}", End::Token, false),
        (request, "{\"a\": 1", End::Token, true),
        (request, "I don't know.", End::Token, true),
        (request, "<think>{Hm.</think>\n{\"a\": 1}", End::Token, false),
        (request, "<think>{\"a\": 1}</think>\nWell.", End::Token, true),
        // Cut by the client or by the length, it need not be complete.
        (request, "{\"a\": 1", End::StopString, false),
        (request, "{\"a\": 1", End::Length, false),
        ("Answer briefly.", "{\"a\": 1", End::Token, false),
    ];
    for (question, text, end, expected) in cases {
        assert_eq!(signs(question, text, end).structure, expected, "{question} {text} {end:?}");
    }
    let empty = signs(request, "", End::Token);
    assert_eq!(empty, Signs { empty: true, ..Signs::default() });
}

#[test]
fn a_reply_of_which_only_a_part_was_kept_has_no_structure() {
    let messages = user("Answer in JSON.");
    let request = Request::chat(&Chat { messages: &messages, ..Chat::default() }, None);
    let part = Reply { whole: false, ..reply("[1, 2, ", &[], End::Token) };
    assert_eq!(assess(&request, &part), Signs::default());
}

#[test]
fn tool_calls_must_parse_and_name_what_was_offered() {
    let call = |name: &str, rest: &str| {
        format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {rest}</tool_call>")
    };
    let cases = [
        // Reply, structure, unknown tool.
        (call("f", "{\"a\": 1}}"), false, false),
        (call("f", "[1]}"), true, false),
        (call("f", "{\"a\": 1"), true, false),
        (call("look_up", "{}}") + "\n" + &call("g", "{}}"), false, true),
        (call("F", "{}}"), false, true),
        (call("g", "[1]}"), true, false),
        ("Well. ".to_owned() + &call("f", "\"text\"}"), true, false),
        ("<tool_call>f(1)</tool_call>".to_owned(), true, false),
        ("I need no tool for that.".to_owned(), false, false),
    ];
    for (text, structure, unknown_tool) in cases {
        let expected = Signs { structure, unknown_tool, ..Signs::default() };
        assert_eq!(with_tools("Hi", &text, End::Token), expected, "{text}");
        // Without tools it is a text like any other.
        assert_eq!(signs("Hi", &text, End::Token), Signs::default(), "{text}");
    }
    let cut = with_tools("Hi", "<tool_call>{\"name\": \"f", End::Length);
    assert_eq!(cut, Signs { length: true, ..Signs::default() });
    assert!(!with_tools("In JSON.", &call("f", "{}}"), End::Token).structure);
}

#[test]
fn the_script_is_compared_with_that_of_the_question() {
    let (english, russian) =
        ("It eats the seeds of birch and alder.", "Он ест семена берёзы и ольхи.");
    let code = format!("Вот пример программы на Питоне:\n```\n{}\n```", "print(1)\n".repeat(40));
    let cases = [
        ("What does the serin eat in winter?", russian, true),
        ("What does the serin eat in winter?", english, false),
        ("Что ест канареечный вьюрок зимой?", english, true),
        ("Что ест канареечный вьюрок зимой?", russian, false),
        ("Напиши пример программы на Питоне", code.as_str(), false),
        ("Translate into Russian: it eats the seeds of birch.", russian, false),
        ("What does the serin eat in winter?", "Семена.", false),
        ("Seeds?", russian, false),
        (
            "What does the serin eat in winter?",
            "<think>Так, что же он ест зимой?</think>Seeds of birch and alder.",
            false,
        ),
    ];
    for (question, text, expected) in cases {
        assert_eq!(signs(question, text, End::Token).script, expected, "{question} {text}");
    }
}

#[test]
fn refusals_are_known_by_how_they_begin() {
    let cases = [
        ("I'm sorry, but I can't help with that.", true),
        ("I’m sorry, but I can’t help with that.", true),
        ("\n I cannot do that.", true),
        ("As an AI language model, I have no opinion.", true),
        ("I'M UNABLE TO SAY.", true),
        ("I can't assist", true),
        ("<think>They want it.</think>\n\nI must decline.", true),
        ("I can't wait to tell you!", false),
        ("As an aid to memory, write it down.", false),
        ("You may hear: I'm sorry, but I can't help with that.", false),
        ("I'm sorry for your loss.", false),
        ("I can", false),
        ("", false),
    ];
    for (text, expected) in cases {
        assert_eq!(signs("Hi", text, End::StopString).refusal, expected, "{text}");
    }
    let raw = assess(&Request::text("He said:", None), &reply("I cannot go.", &[], End::Token));
    assert_eq!(raw, Signs::default());
    for refusal in REFUSALS {
        assert!(refusal.chars().count() <= OPENING);
        assert_eq!(refusal, refusal.to_lowercase());
    }
}

#[test]
fn a_good_reply_has_no_sign() {
    let question = "What does the serin eat, and where does it live?";
    let text =
        "It eats seeds, mostly of birch, alder and herbs, and lives in gardens and orchards.";
    assert_eq!(signs(question, text, End::Token), Signs::default());
    assert_eq!(with_tools(question, text, End::Token), Signs::default());
}

fn texts() -> impl Strategy<Value = String> {
    let piece =
        "[<>/_a-z {}\"\\\\`é世я\n]{0,8}|<tool_call>|</tool_call>|```json\n|</think>|\\PC{0,4}";
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn ends() -> impl Strategy<Value = End> {
    prop::sample::select(vec![End::Token, End::StopString, End::Length])
}

proptest! {
    #[test]
    fn nothing_makes_it_panic_and_each_sign_has_its_ending(
        question in texts(),
        text in texts(),
        tokens in prop::collection::vec(0..4u32, 0..200),
        end in ends(),
        whole in any::<bool>(),
    ) {
        let messages = user(&question);
        let tools = json!([{"type": "function", "function": {"name": "f"}}]);
        let chat = Chat { messages: &messages, tools: Some(&tools), ..Chat::default() };
        let reply = Reply { whole, ..reply(&text, &tokens, end) };
        for request in [
            Request::chat(&chat, Some(5)),
            Request::text(&question, None),
            Request::tokens(&tokens, None),
        ] {
            let found = assess(&request, &reply);
            prop_assert!(!(found.empty || found.structure) || end == End::Token);
            prop_assert_eq!(found.length, end == End::Length);
            prop_assert!(!found.looping || end == End::Length);
        }
        // The prompt holds all of the reply.
        prop_assert!(!assess(&Request::tokens(&tokens, None), &reply).looping);
    }

    #[test]
    fn a_reply_that_repeats_itself_to_the_end_loops(
        before in "[a-z ]{0,40}", unit in "[a-zé世]{1,64}", times in 4..8usize, cut in 0..64usize,
    ) {
        let mut tokens = ids(&before);
        let length = (ids(&unit).len() * times).max(32) + cut;
        tokens.extend(ids(&unit).into_iter().cycle().take(length));
        let text = spell(&tokens);
        let request = Request::text("0123456789", None);
        prop_assert!(assess(&request, &reply(&text, &tokens, End::Length)).looping);
        prop_assert!(!assess(&request, &reply(&text, &tokens, End::Token)).looping);
        let request = Request::text(&text, None);
        prop_assert!(!assess(&request, &reply(&text, &tokens, End::Length)).looping);
    }
}

#[test]
fn reasoning_that_the_template_began_is_no_answer() {
    let messages = user("As JSON, please.");
    let request = Request::chat(&Chat { messages: &messages, ..Chat::default() }, None);
    let inside = Manner { thinking: Some("</think>"), ..Manner::default() };
    for (text, missing) in
        [("{Hm.</think>\n{\"a\": 1}", false), ("{\"a\": 1}</think>\nWell.", true)]
    {
        let ids = ids(text);
        let found = assess(&request, &Reply { manner: &inside, ..reply(text, &ids, End::Token) });
        assert_eq!(found.structure, missing, "{text}");
    }
}
