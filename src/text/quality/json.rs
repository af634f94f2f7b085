//! Whether a reply contains the JSON that was requested.
//!
//! Values are skipped and not built, which takes no memory and no recursion. It does not know schemas.

use serde::de::IgnoredAny;
use serde_json::Deserializer;

/// Places at which a value is looked for in prose.
const STARTS: usize = 32;
const FENCE: &str = "```";

/// Whether an answer fails to be JSON. One that begins as JSON, or as a block that is marked as such, must be
/// JSON to its end, as one value or several. In any other, one value somewhere is enough.
pub(super) fn is_missing(answer: &str) -> bool {
    let answer = answer.trim();
    let (label, content) = fenced(answer).unwrap_or(("", answer));
    let labelled = label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("json"));
    match labelled || content.starts_with(['{', '[']) {
        true => !is_json(content),
        false => !holds_value(answer),
    }
}

/// The label and the content of the code block that a text begins with; a block that is not closed reaches to
/// the end. A string in JSON holds no line break, so the first closing fence is the block's own.
fn fenced(text: &str) -> Option<(&str, &str)> {
    let (label, rest) = text.strip_prefix(FENCE)?.split_once('\n')?;
    let mut fences = rest.match_indices(FENCE).map(|(at, _)| at);
    let close = fences.find(|&at| {
        let before = rest[..at].trim_end_matches(' ');
        before.is_empty() || before.ends_with('\n')
    });
    Some((label.trim(), rest[..close.unwrap_or(rest.len())].trim()))
}

fn is_json(text: &str) -> bool {
    let mut values = Deserializer::from_str(text).into_iter::<IgnoredAny>().peekable();
    values.peek().is_some() && values.all(|value| value.is_ok())
}

/// Whether an object or a list begins somewhere in a text and is complete.
fn holds_value(text: &str) -> bool {
    text.match_indices(['{', '[']).take(STARTS).any(|(at, _)| {
        let mut values = Deserializer::from_str(&text[at..]).into_iter::<IgnoredAny>();
        values.next().is_some_and(|value| value.is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_are_json_or_hold_some() {
        let cases = [
            // The whole answer.
            (r#"{"a": 1}"#, false),
            ("\n [1, 2]\n", false),
            (r#"{"a": [1, {"b": null}], "c": "é \" }"}"#, false),
            ("{\"a\": 1}\n{\"a\": 2}\n", false),
            (r#"{"a": 1"#, true),
            (r#"{"a": 1,}"#, true),
            ("{'a': 1}", true),
            ("{\"a\": \"one\ntwo\"}", true),
            (r#"{"a": 1} That is all."#, true),
            ("[see the list below]", true),
            ("{}", false),
            // A code block.
            ("```json\n{\"a\": 1}\n```", false),
            ("```JSON\n{\"a\": 1}\n```\nThat is all.", false),
            ("```\n[1]\n```", false),
            ("``` json \n7\n```", false),
            ("```json\n{\"a\": \"``` is a fence\"}\n```", false),
            ("```json\n{\"a\": 1}", false),
            ("```json\n{\"a\": 1", true),
            ("```json\n```", true),
            ("```json\nno\n```", true),
            ("```json\n{\"a\": 1} // one\n```", true),
            ("```\n[1\n```", true),
            // Prose.
            ("Here it is: {\"a\": 1}. Anything else?", false),
            ("As {this} and [that] say:\n```json\n{\"a\": 1}\n```", false),
            ("```python\nprint({})\n```", false),
            ("I don't know.", true),
            ("Here it is: {\"a\": 1", true),
            ("The set {1, 2} is not JSON, and [neither] is that.", true),
            ("\"text\"", true),
            ("7", true),
            ("```", true),
        ];
        for (answer, missing) in cases {
            assert_eq!(is_missing(answer), missing, "{answer}");
        }
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_takes_long() {
        let deep = "[".repeat(200_000);
        assert!(is_missing(&deep));
        assert!(is_missing(&format!("No: {deep}")));
        assert!(!is_missing(&format!("{deep}{}", "]".repeat(200_000))));
        assert!(is_missing(&"{ ".repeat(100_000)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(
            pieces in prop::collection::vec("[{}\\[\\]\",:0-9`é \n]{0,8}|```json\n|```|\\PC{0,4}", 0..24),
        ) {
            is_missing(&pieces.concat());
        }

        #[test]
        fn what_was_written_as_json_is_found(
            key in "\\PC{0,8}", text in any::<String>(), number in any::<i64>(), indent in any::<bool>(),
        ) {
            let value = serde_json::json!({key: [text, number, {"x": null}]});
            let json = match indent {
                true => serde_json::to_string_pretty(&value).unwrap(),
                false => value.to_string(),
            };
            prop_assert!(!is_missing(&json));
            let fenced = format!("```json\n{json}\n```");
            prop_assert!(!is_missing(&fenced));
            let framed = format!("Here it is:\n{json}\nDone.");
            prop_assert!(!is_missing(&framed));
        }
    }
}
