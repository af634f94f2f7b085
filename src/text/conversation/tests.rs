//! Tests: ids across messages, how prompts end, and the limits on a client's input.

use super::*;
use serde_json::json;

fn form(messages: &[Value], wants: Wants) -> Job {
    canonical(&Chat { messages, ..Chat::default() }, wants).unwrap()
}

fn call(id: Option<&str>) -> Value {
    let mut call = json!({"type": "function", "function": {"name": "f", "arguments": {}}});
    if let Some(id) = id {
        call["id"] = id.into();
    }
    call
}

#[test]
fn calls_and_results_are_joined_by_ids() {
    let messages = [
        json!({"role": "user", "content": "x"}),
        json!({"role": "assistant", "tool_calls": [call(None), call(Some("b")), call(None)]}),
        json!({"role": "tool", "tool_call_id": "b"}),
        json!({"role": "tool"}),
        json!({"role": "tool", "tool_call_id": null}),
        json!({"role": "tool"}),
    ];
    let job = form(&messages, Wants::default());
    let ids: Vec<&Value> =
        job.messages[1]["tool_calls"].as_array().unwrap().iter().map(|c| &c["id"]).collect();
    assert_eq!(ids, ["call_1_0", "b", "call_1_2"]);
    let answers: Vec<&Value> = job.messages[2..].iter().map(|m| &m["tool_call_id"]).collect();
    assert_eq!(answers, [&json!("b"), &json!("call_1_0"), &json!("call_1_2"), &Value::Null]);
}

#[test]
fn short_ids_are_the_same_in_call_and_result() {
    let wants = Wants { short_ids: true, ..Wants::default() };
    for id in ["call_x1Y2z3A4b5C6d7E8f9", "", "a", "ABCDEFGH9", "ABC-EFGH9", "ünïcödé99"] {
        let messages = [
            json!({"role": "assistant", "tool_calls": [call(Some(id))]}),
            json!({"role": "tool", "tool_call_id": id, "content": "r"}),
        ];
        let job = form(&messages, wants);
        let short = job.messages[0]["tool_calls"][0]["id"].as_str().unwrap();
        assert!(short.len() == 9 && short.bytes().all(|b| b.is_ascii_alphanumeric()), "{short}");
        assert_eq!(job.messages[1]["tool_call_id"], short);
        assert_eq!(short == id, id == "ABCDEFGH9");
    }
    assert_ne!(nine("call_1"), nine("call_2"));
}

#[test]
fn a_prompt_ends_as_it_was_asked_to() {
    let messages =
        [json!({"role": "user", "content": "x"}), json!({"role": "assistant", "content": "So "})];
    let with = |ending| {
        canonical(&Chat { messages: &messages, ending, ..Chat::default() }, Wants::default())
    };
    assert!(with(Ending::Reply).unwrap().add_generation_prompt);
    let closed = with(Ending::Closed).unwrap();
    assert!(!closed.add_generation_prompt && closed.messages[1]["content"] == "So ");
    let job = with(Ending::Continue).unwrap();
    assert_eq!(job.messages[1]["content"], format!("So {END_OF_CONTENT}"));
    assert!(!job.add_generation_prompt);
    let alone = Chat { messages: &messages[..1], ending: Ending::Continue, ..Chat::default() };
    let said = canonical(&alone, Wants::default()).unwrap_err().to_string();
    assert!(said.starts_with("messages[0]: continue_final_message"), "{said}");
}

#[test]
fn what_is_continued_ends_where_its_content_ends() {
    let tag = END_OF_CONTENT;
    for (rendered, want) in [
        (format!("<a>So {tag}</a>"), Some("<a>So ")),
        (format!("<a>So{}</a>", tag.trim_end()), Some("<a>So")),
        (format!("<a>So \n{}</a>", tag.trim_end()), Some("<a>So")),
        (format!("{tag}<a>{tag}</a>"), Some("CONTINUE_FINAL_MESSAGE_TAG <a>")),
        ("<a></a>".into(), None),
    ] {
        assert_eq!(cut_at_end(&rendered), want, "{rendered}");
    }
}
