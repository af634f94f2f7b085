//! Tests: compared with finding stop strings in the whole text, however the text is split.

use super::*;
use proptest::prelude::*;

/// Processes the whole text at once: the text to send and the stop string found.
fn oracle(text: &str, stops: &[String]) -> (String, Option<usize>) {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    for end in ends {
        let complete = stops
            .iter()
            .enumerate()
            .filter(|(_, s)| !s.is_empty() && text[..end].ends_with(s.as_str()));
        if let Some((index, stop)) = complete.max_by_key(|(i, s)| (s.len(), std::cmp::Reverse(*i)))
        {
            return (text[..end - stop.len()].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

/// Whether some stop string could still begin at `at`.
fn may_begin(text: &str, at: usize, stops: &[String]) -> bool {
    stops.iter().any(|stop| stop.len() > text.len() - at && stop.starts_with(&text[at..]))
}

#[test]
fn text_flows_until_a_stop_string_may_begin() {
    let mut stops = StopStrings::new(vec!["\n\nUser:".into()]);
    assert_eq!(stops.push("Hello.\n"), Emit { text: "Hello.".into(), hit: None });
    assert_eq!(stops.push("More\n\nUse").text, "\nMore");
    assert_eq!(stops.push("r: next"), Emit { text: String::new(), hit: Some(0) });
    assert_eq!(stops.push("ignored"), Emit { text: String::new(), hit: Some(0) });
    assert_eq!(stops.finish(), "");
}

#[test]
fn what_only_looked_like_a_stop_string_is_given_at_the_end() {
    let mut stops = StopStrings::new(vec!["</end>".into(), String::new()]);
    assert_eq!(stops.push("a</en").text, "a");
    assert_eq!(stops.finish(), "</en");
    assert_eq!(stops.hit(), None);
}

#[test]
fn characters_are_never_cut() {
    // Both begin with the same three bytes.
    let mut stops = StopStrings::new(vec!["👍👍".into()]);
    assert_eq!(stops.push("👎").text, "👎");
    assert_eq!(stops.push("👍").text, "");
    assert_eq!(stops.push("👎").text, "👍👎");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cutting_changes_nothing(
        pieces in prop::collection::vec("[ab<é👍]{0,4}", 0..12),
        stops in prop::collection::vec("[ab<é👍]{0,4}", 0..4),
    ) {
        let mut watch = StopStrings::new(stops.clone());
        let (mut sent, mut seen) = (String::new(), String::new());
        for piece in &pieces {
            seen.push_str(piece);
            sent.push_str(&watch.push(piece).text);
            if watch.hit().is_none() {
                // No more is held back than the longest suffix that may begin a stop string.
                let starts = seen.char_indices().map(|(at, _)| at).chain([seen.len()]);
                let expected = starts.into_iter().find(|&at| at == seen.len() || may_begin(&seen, at, &stops));
                prop_assert_eq!(sent.len(), expected.unwrap());
            }
        }
        sent.push_str(&watch.finish());
        let (text, hit) = oracle(&pieces.concat(), &stops);
        prop_assert_eq!((sent, watch.hit()), (text, hit));
    }
}
