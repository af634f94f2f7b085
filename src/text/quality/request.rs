//! What a request asked for, as far as a reply can be checked against it.
//!
//! It borrows from the request, and is created when the reply is complete. Only the beginning and the end of a long
//! message are read. It does not know the reply, and sees the prompt only as the client sent it.

use super::script::{self, Script};
use crate::text::{Chat, Ending};
use serde_json::Value;
use std::borrow::Cow;

/// Bytes read at each end of a message.
const EDGE: usize = 4 << 10;
/// System messages read, the first ones.
const SYSTEMS: usize = 8;
/// Bytes of a prompt that are searched, the last ones.
const SEARCHED: usize = 256 << 10;

/// What a request asked for.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    prompt: Prompt<'a>,
    /// The prompt does not ask an assistant for a reply of its own: a plain completion, or the continuation of a
    /// message. What such a text should look like is unknown, and it may well be empty.
    pub(super) raw: bool,
    /// The word "JSON" is in the instructions.
    pub(super) json: bool,
    /// A grammar held the reply: it is broken unless it ended by itself.
    pub(super) structured: bool,
    /// Names of the tools that were offered.
    pub(super) tools: Vec<&'a str>,
    /// The script of the last user message; `None` if the reply may have any.
    pub(super) script: Option<Script>,
    /// Most tokens that the client wanted; `None` if it did not say.
    pub(super) max_tokens: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Prompt<'a> {
    Chat(&'a [Value]),
    Text(&'a str),
    Tokens(&'a [u32]),
}

impl<'a> Request<'a> {
    /// Reads a conversation. `max_tokens`: as the client gave it.
    pub fn chat(chat: &Chat<'a>, max_tokens: Option<usize>) -> Request<'a> {
        let prompt = Prompt::Chat(chat.messages);
        if chat.ending != Ending::Reply {
            return Request::raw(prompt, max_tokens);
        }
        let user = chat.messages.iter().rev().find(|message| role(message) == "user");
        let user = user.map(excerpt).unwrap_or_default();
        let systems = chat.messages.iter().filter(|m| ["system", "developer"].contains(&role(m)));
        let json = has_word(&user, "json")
            || systems.take(SYSTEMS).any(|system| has_word(&excerpt(system), "json"));
        // The keys of JSON are in Latin letters whatever the question was.
        let any_script = json || script::may_change(&user);
        let tools = chat.tools.and_then(Value::as_array).into_iter().flatten();
        Request {
            prompt,
            raw: false,
            json,
            structured: false,
            tools: tools.filter_map(name).collect(),
            script: if any_script { None } else { script::dominant(&user) },
            max_tokens,
        }
    }

    /// A text to be continued by at most `max_tokens` tokens.
    pub fn text(text: &'a str, max_tokens: Option<usize>) -> Request<'a> {
        Request::raw(Prompt::Text(text), max_tokens)
    }

    /// Token ids to be continued by at most `max_tokens` tokens.
    pub fn tokens(ids: &'a [u32], max_tokens: Option<usize>) -> Request<'a> {
        Request::raw(Prompt::Tokens(ids), max_tokens)
    }

    /// The same request; `structured`: a grammar holds its reply.
    pub fn structured(self, structured: bool) -> Request<'a> {
        Request { structured, ..self }
    }

    fn raw(prompt: Prompt<'a>, max_tokens: Option<usize>) -> Request<'a> {
        Request {
            prompt,
            raw: true,
            json: false,
            structured: false,
            tools: Vec::new(),
            script: None,
            max_tokens,
        }
    }

    /// Whether the client wanted one token or none, as for scoring or a warm-up.
    pub(super) fn tiny(&self) -> bool {
        self.max_tokens.is_some_and(|most| most <= 1)
    }

    /// Whether these tokens, or the text that they spell, are in the prompt already; searches its end.
    pub(super) fn holds(&self, ids: &[u32], text: &str) -> bool {
        let mut left = SEARCHED;
        let mut found = |given: &str| {
            let given = &given[character(given, given.len().saturating_sub(left))..];
            left -= given.len().min(left);
            !text.is_empty() && given.contains(text)
        };
        match self.prompt {
            Prompt::Chat(messages) => messages.iter().rev().flat_map(texts).any(found),
            Prompt::Text(given) => found(given),
            Prompt::Tokens(given) => {
                let given = &given[given.len().saturating_sub(SEARCHED / size_of::<u32>())..];
                !ids.is_empty() && given.windows(ids.len()).any(|window| window == ids)
            }
        }
    }
}

fn role(message: &Value) -> &str {
    message["role"].as_str().unwrap_or_default()
}

/// The name of a tool; some clients leave out the object around the function.
fn name(tool: &Value) -> Option<&str> {
    tool.get("function").unwrap_or(tool).get("name")?.as_str()
}

/// The texts of a message: its content, or the text parts of it.
fn texts(message: &Value) -> impl Iterator<Item = &str> {
    let content = &message["content"];
    let parts = content.as_array().into_iter().flatten();
    let parts = parts.filter_map(|part| part["text"].as_str());
    content.as_str().into_iter().chain(parts)
}

/// The beginning and the end of what a message says.
fn excerpt(message: &Value) -> String {
    let mut whole = String::new();
    for text in texts(message) {
        if !whole.is_empty() {
            whole.push('\n');
        }
        whole.push_str(&edges(text));
    }
    edges(&whole).into_owned()
}

/// Both ends of a long text, all of a short one.
fn edges(text: &str) -> Cow<'_, str> {
    if text.len() <= 2 * EDGE {
        return Cow::Borrowed(text);
    }
    let (head, tail) = (character(text, EDGE), character(text, text.len() - EDGE));
    Cow::Owned(format!("{}\n{}", &text[..head], &text[tail..]))
}

/// Where the character begins that byte `at` belongs to.
fn character(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Whether a text has this word of lower-case ASCII letters, in any case. A file name's ending is no word.
fn has_word(text: &str, word: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].bytes().next_back();
        let after = text[at + word.len()..].bytes().next();
        !before.is_some_and(|byte| letter(byte) || byte == b'.') && !after.is_some_and(letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn request(messages: &[Value]) -> Request<'_> {
        Request::chat(&Chat { messages, ..Chat::default() }, None)
    }

    #[test]
    fn json_is_asked_for_in_the_last_user_message_or_a_system_message() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let cases = [
            (vec![user("Answer in JSON.")], true),
            (vec![user("用JSON格式回答")], true),
            (vec![user("json")], true),
            (vec![user("(JSON)")], true),
            (vec![user("Explain JSONP and my_json and package.json")], false),
            (vec![user("Answer briefly.")], false),
            (vec![json!({"role": "system", "content": "Always write Json"}), user("Hi")], true),
            (vec![json!({"role": "developer", "content": "json only"}), user("Hi")], true),
            (vec![user("In JSON, please."), json!({"role": "assistant"}), user("Thanks")], false),
            (vec![user("Hi"), json!({"role": "assistant", "content": "JSON?"})], false),
            (vec![json!({"role": "user", "content": [{"text": "as"}, {"text": "JSON"}]})], true),
            (vec![user("JSON"), json!({"role": "tool", "content": "7"})], true),
            (vec![json!({"content": 7}), json!(7), json!(null)], false),
            (vec![], false),
        ];
        for (messages, expected) in cases {
            assert_eq!(request(&messages).json, expected, "{messages:?}");
        }
    }

    #[test]
    fn only_both_ends_of_a_message_are_read() {
        let long = "é".repeat(EDGE);
        let messages = |text: String| [json!({"role": "user", "content": text})];
        assert!(request(&messages(format!("JSON {long}{long}"))).json);
        assert!(request(&messages(format!("{long}{long} JSON"))).json);
        assert!(!request(&messages(format!("{long} JSON {long}"))).json);
    }

    #[test]
    fn tools_are_known_by_name() {
        let tools = json!([
            {"type": "function", "function": {"name": "f"}}, {"name": "g"}, {"function": {}}, 7,
        ]);
        let messages = [json!({"role": "user", "content": "Hi"})];
        let chat = Chat { messages: &messages, tools: Some(&tools), ..Chat::default() };
        assert_eq!(Request::chat(&chat, None).tools, ["f", "g"]);
        for ending in [Ending::Continue, Ending::Closed] {
            let raw = Request::chat(&Chat { ending, ..chat }, None);
            assert!(raw.raw && raw.tools.is_empty(), "{ending:?}");
        }
    }

    #[test]
    fn the_script_is_that_of_the_last_user_message() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let (latin, cyrillic) = ("Tell me all about finches.", "Расскажи мне всё о птицах.");
        assert_eq!(request(&[user(latin)]).script, Some(Script::Latin));
        assert_eq!(request(&[user(latin), user(cyrillic)]).script, Some(Script::Cyrillic));
        for free in ["Translate: ", "JSON! ", "In Korean: "] {
            assert_eq!(request(&[user(&format!("{free}{latin}"))]).script, None);
        }
        assert_eq!(request(&[user("Hi")]).script, None);
    }

    #[test]
    fn the_end_of_the_prompt_is_searched() {
        let long = "x".repeat(SEARCHED);
        let user = |text: &str| json!({"role": "user", "content": text});
        let cases = [
            (vec![user("ha ha ha"), json!({"role": "assistant", "content": "?"})], true),
            (vec![json!({"role": "tool", "content": [{"text": "no"}, {"text": "ha ha"}]})], true),
            (vec![user("ha"), user("ha")], false),
            (vec![user("ha ha"), user(&long)], false),
            (vec![user(&format!("ha ha{long}"))], false),
            (vec![user(&format!("{long}ha ha"))], true),
        ];
        for (messages, expected) in cases {
            assert_eq!(request(&messages).holds(&[7, 7], "ha ha"), expected);
            assert!(!request(&messages).holds(&[7, 7], ""));
        }
        assert!(Request::text("ha ha ha", None).holds(&[], "ha ha"));
        assert!(!Request::text("ha", None).holds(&[], "ha ha"));
        assert!(Request::tokens(&[1, 7, 7], None).holds(&[7, 7], ""));
        assert!(!Request::tokens(&[7, 1, 7], None).holds(&[7, 7], "ha ha"));
        assert!(!Request::tokens(&[], None).holds(&[], ""));
    }

    #[test]
    fn one_token_or_none_is_tiny() {
        for (most, tiny) in [(None, false), (Some(0), true), (Some(1), true), (Some(2), false)] {
            assert_eq!(Request::text("", most).tiny(), tiny, "{most:?}");
        }
    }

    proptest! {
        #[test]
        fn both_ends_are_kept_and_no_character_is_cut(text in "[aé世👍]{0,4000}") {
            let kept = edges(&text);
            prop_assert!(kept.len() <= 2 * EDGE + 5);
            if text.len() > 2 * EDGE {
                let (head, tail) = kept.split_once('\n').unwrap();
                prop_assert!(text.starts_with(head) && text.ends_with(tail));
                prop_assert!(head.len() > EDGE - 4 && tail.len() >= EDGE);
            } else {
                prop_assert_eq!(&*kept, text.as_str());
            }
        }
    }
}
