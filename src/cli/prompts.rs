//! Prompts for the commands that query models themselves, from a file or built in.
//!
//! A file has one prompt per line, or is JSON: a list, or one value per line. A value is a text, or an object with
//! `prompt`, `question` or `messages`. The right answer is `answer` or `expected`, and the maximum length of the reply
//! is `max_tokens`. It does not know which model gets which prompt.

use super::CliError;
use crate::bench::prompts::Entry;
use serde_json::Value;
use std::path::Path;

/// Prompts that any chat model can answer, one a line.
const PROMPTS: &str = include_str!("compare/prompts.txt");

pub(super) fn temperature(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    match (0.0..=2.0).contains(&value) {
        true => Ok(value),
        false => Err(format!("{value} is not from 0 to 2")),
    }
}

/// The prompts of a file, at least one; those built in without a file.
pub(super) fn read(path: Option<&Path>) -> Result<Vec<Entry>, CliError> {
    let Some(path) = path else { return Ok(lines(PROMPTS)) };
    let bad = |why: String| CliError(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    let json = |error: serde_json::Error| bad(error.to_string());
    let found = match text.chars().next() {
        Some('{' | '[') => {
            let list: Vec<Value> = match text.starts_with('[') {
                true => serde_json::from_str(text).map_err(json)?,
                // One object a line.
                false => {
                    let all = serde_json::Deserializer::from_str(text).into_iter();
                    all.collect::<Result<_, _>>().map_err(json)?
                }
            };
            let entries = list.iter().enumerate().map(|(at, one)| {
                let why = "is neither a text nor an object with prompt, question or messages";
                entry(one).ok_or_else(|| bad(format!("entry {} {why}", at + 1)))
            });
            entries.collect::<Result<_, _>>()?
        }
        _ => lines(text),
    };
    if found.is_empty() { Err(bad("it has no prompts".to_owned())) } else { Ok(found) }
}

fn lines(text: &str) -> Vec<Entry> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(Entry::user).collect()
}

fn entry(one: &Value) -> Option<Entry> {
    let text = [Some(one), one.get("prompt"), one.get("question")];
    let text = text.into_iter().flatten().find_map(Value::as_str).map(Entry::user);
    let chat = || {
        let messages = one.get("messages")?.as_array().cloned()?;
        Some(Entry { messages, expected: None, max_tokens: None })
    };
    let expected = [one.get("answer"), one.get("expected")].into_iter().flatten();
    let expected = expected.into_iter().find_map(Value::as_str).map(str::to_owned);
    let max_tokens = one.get("max_tokens").and_then(Value::as_u64).filter(|most| *most > 0);
    let max_tokens = max_tokens.and_then(|most| usize::try_from(most).ok());
    text.or_else(chat).map(|entry| Entry { expected, max_tokens, ..entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_lines_or_a_list() {
        assert!(read(None).unwrap().len() >= 20);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts");
        for (text, count) in [
            ("one\n\ntwo\n", 2),
            ("\u{feff}{\"prompt\": \"a\"}\n{\"question\": \"b\"}\n", 2),
            (
                r#"["a", {"prompt": "b"}, {"question": "c"}, {"messages": [{"role": "user", "content": "d"}]}]"#,
                4,
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(Some(&path)).unwrap().len(), count, "{text}");
        }
        for (text, why) in [
            ("[1]", "entry 1"),
            (r#"{"prompts": []}"#, "entry 1"),
            ("[", "EOF"),
            ("\n", "no prompts"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_right_answer_is_read_where_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts");
        let text = r#"{"prompt": "a", "answer": "1"} {"prompt": "b", "expected": "2"}
            {"prompt": "c", "max_tokens": 7}"#;
        std::fs::write(&path, text).unwrap();
        let found = read(Some(&path)).unwrap();
        let expected: Vec<Option<&str>> = found.iter().map(|one| one.expected.as_deref()).collect();
        assert_eq!(expected, [Some("1"), Some("2"), None]);
        assert_eq!(
            found.iter().map(|one| one.max_tokens).collect::<Vec<_>>(),
            [None, None, Some(7)]
        );
    }
}
