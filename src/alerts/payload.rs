//! An alert in the receiver's format: the body of a Standard Webhooks delivery, or Slack's.
//!
//! Pure and bounded: texts come from engines and operators, and are cut to what receivers accept. Slack's `text`
//! contains the whole message, and so do its `blocks`: compatible services, and Slack's own notifications, show only
//! the text.

use super::{Alert, ModelVersion};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// The longest text in a standard body, in bytes; the specification recommends bodies below 20 kB.
const LONGEST: usize = 2000;
/// The longest escaped text in a Slack body, in bytes; Slack accepts 3000 characters in a section.
const LONGEST_SLACK: usize = 700;

/// The body by the Standard Webhooks specification 1.0.0 ("Payload structure"). `repeats` alerts like it were
/// suppressed since the last one.
pub(super) fn standard(alert: &Alert, repeats: u64) -> Value {
    let cut = |text: &str| shortened(text, LONGEST, push_plain);
    let version = |v: &ModelVersion| json!({"version": cut(&v.version), "digest": cut(&v.digest)});
    json!({
        "type": format!("serin.{}", alert.kind),
        "timestamp": rfc3339(alert.at_unix),
        "data": {
            "id": alert.id.as_str(),
            "kind": alert.kind.as_str(),
            "severity": alert.severity.as_str(),
            "model": cut(&alert.model),
            "rollout": alert.rollout.as_deref().map(cut),
            "stage": alert.stage,
            "stable": alert.stable.as_ref().map(version),
            "canary": alert.canary.as_ref().map(version),
            "weight_before": alert.weight.map(|w| w.before),
            "weight_after": alert.weight.map(|w| w.after),
            "what": cut(&alert.what),
            "why": cut(&alert.why),
            "done": cut(&alert.done),
            "repeats": repeats,
        }
    })
}

/// The body of a Slack incoming webhook: `text` for receivers that show only that, `blocks` for the others.
pub(super) fn slack(alert: &Alert, repeats: u64) -> Value {
    let escape = |text: &str| shortened(text, LONGEST_SLACK, push_escaped);
    let severity = alert.severity.as_str();
    let head = format!("*[{severity}] {}*: {}", escape(&alert.model), escape(&alert.what));
    let mut message = head;
    for (title, text) in [("Why", &alert.why), ("Done", &alert.done)] {
        if !text.is_empty() {
            let _ = write!(message, "\n*{title}:* {}", escape(text));
        }
    }
    let details = escape(&details(alert, repeats));
    json!({
        "text": format!("{message}\n{details}"),
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": message}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": details}]},
        ]
    })
}

/// The rollout and its versions, in one line.
fn details(alert: &Alert, repeats: u64) -> String {
    let mut parts = vec![alert.kind.to_string()];
    parts.extend(alert.rollout.as_ref().map(|rollout| format!("rollout {rollout}")));
    parts.extend(alert.stable.as_ref().map(|version| format!("stable {version}")));
    parts.extend(alert.canary.as_ref().map(|version| format!("canary {version}")));
    parts.extend(alert.weight.map(|w| format!("weight {} % -> {} %", w.before, w.after)));
    if repeats > 0 {
        parts.push(format!("{repeats} like it not sent since the last"));
    }
    parts.push(rfc3339(alert.at_unix));
    parts.join(", ")
}

/// Seconds since 1970 as RFC 3339 in UTC; later times give the last second of the year 9999.
fn rfc3339(unix: u64) -> String {
    const LAST: u64 = 253_402_300_799;
    let at = UNIX_EPOCH + Duration::from_secs(unix.min(LAST));
    humantime::format_rfc3339_seconds(at).to_string()
}

/// `text`, each character written by `push`, cut before it exceeds `most` bytes.
fn shortened(text: &str, most: usize, push: fn(&mut String, char)) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let whole = out.len();
        push(&mut out, c);
        if out.len() > most {
            out.truncate(whole);
            out.push('…');
            break;
        }
    }
    out
}

fn push_plain(out: &mut String, c: char) {
    out.push(c);
}

/// Escapes Slack's three control characters as entities; nothing else needs escaping
/// (<https://docs.slack.dev/messaging/formatting-message-text#escaping>).
fn push_escaped(out: &mut String, c: char) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::alert;
    use super::super::{Kind, Severity};
    use super::*;

    #[test]
    fn a_standard_body_says_it_all() {
        let expected = json!({
            "type": "serin.rolled_back",
            "timestamp": "2023-11-14T22:13:20Z",
            "data": {
                "id": "msg_0000000000000000000000000000002a",
                "kind": "rolled_back",
                "severity": "critical",
                "model": "tiny",
                "rollout": "c367a70a325c",
                "stage": 2,
                "stable": {"version": "tiny-v1", "digest": "8f3a"},
                "canary": {"version": "tiny-v3", "digest": "77b0"},
                "weight_before": 5,
                "weight_after": 0,
                "what": "canary rolled back from 5 %",
                "why": "errors 12.00 % (3 of 25) against stable's 0.00 % (0 of 690), limit 1.50",
                "done": "weight set to 0 %, canary is being unloaded",
                "repeats": 3,
            }
        });
        assert_eq!(standard(&alert(Kind::RolledBack), 3), expected);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let bare = Alert { rollout: None, stable: None, weight: None, ..alert(Kind::LedgerFailed) };
        let data = &standard(&bare, 0)["data"];
        for key in ["rollout", "stable", "weight_before", "weight_after"] {
            assert_eq!(data[key], Value::Null, "{key}");
        }
    }

    #[test]
    fn a_slack_body_holds_the_message_twice() {
        let body = slack(&alert(Kind::RolledBack), 0);
        let text = body["text"].as_str().unwrap();
        let section = body["blocks"][0]["text"]["text"].as_str().unwrap();
        let context = body["blocks"][1]["elements"][0]["text"].as_str().unwrap();
        assert_eq!(text, format!("{section}\n{context}"));
        assert_eq!(
            section,
            "*[critical] tiny*: canary rolled back from 5 %\n\
             *Why:* errors 12.00 % (3 of 25) against stable's 0.00 % (0 of 690), limit 1.50\n\
             *Done:* weight set to 0 %, canary is being unloaded"
        );
        assert_eq!(
            context,
            "rolled_back, rollout c367a70a325c, stable tiny-v1 (8f3a), canary tiny-v3 (77b0), \
             weight 5 % -&gt; 0 %, 2023-11-14T22:13:20Z"
        );
    }

    #[test]
    fn slack_text_cannot_call_people_or_make_links() {
        let version = ModelVersion { version: "<@U1>".to_owned(), digest: "&".to_owned() };
        let nasty = Alert {
            model: "a&b".to_owned(),
            what: "<!channel> a > b".to_owned(),
            why: "<https://x|y> &amp;".to_owned(),
            canary: Some(version),
            severity: Severity::Info,
            ..alert(Kind::Fault)
        };
        let text = slack(&nasty, 0)["text"].as_str().unwrap().to_owned();
        assert!(!text.contains('<') && !text.contains('>'), "{text}");
        assert!(text.contains("*[info] a&amp;b*: &lt;!channel&gt; a &gt; b"), "{text}");
        assert!(text.contains("&lt;https://x|y&gt; &amp;amp;"), "{text}");
        assert!(text.contains("canary &lt;@U1&gt; (&amp;)"), "{text}");
    }

    #[test]
    fn empty_words_take_no_line_and_repeats_are_told() {
        let short = Alert { why: String::new(), done: String::new(), ..alert(Kind::Promoted) };
        let body = slack(&short, 4);
        assert_eq!(body["blocks"][0]["text"]["text"].as_str().unwrap().lines().count(), 1);
        assert!(body["text"].as_str().unwrap().contains("4 like it not sent since the last"));
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_entities() {
        let long = |c: &str| Alert {
            what: c.repeat(9000),
            why: c.repeat(9000),
            done: c.repeat(9000),
            ..alert(Kind::Fault)
        };
        for c in ["x", "é", "<", "\u{1F6A8}"] {
            let alert = long(c);
            let size = standard(&alert, 0).to_string().len();
            assert!((5000..20_000).contains(&size), "{c}: {size}");
            let body = slack(&alert, 0);
            let section = body["blocks"][0]["text"]["text"].as_str().unwrap();
            assert!((2000..3000).contains(&section.len()), "{c}: {}", section.len());
            assert!(section.ends_with('…'));
        }
        assert!(slack(&long("<"), 0)["text"].as_str().unwrap().contains("&lt;…"));
        assert_eq!(shortened("abc", 3, push_plain), "abc");
        assert_eq!(shortened("abcd", 3, push_plain), "abc…");
    }

    #[test]
    fn times_beyond_the_calendar_do_not_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
