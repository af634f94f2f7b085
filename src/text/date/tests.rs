//! Tests: compared with the output of Python's `strftime`.

use super::*;
use std::time::{Duration, UNIX_EPOCH};

#[test]
fn writes_what_python_writes() {
    let goldens: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/text/template_goldens.json"))
            .unwrap();
    for case in goldens["dates"].as_array().unwrap() {
        let at = case["at"].as_i64().unwrap();
        let offset = Duration::from_secs(at.unsigned_abs());
        let now = if at < 0 { UNIX_EPOCH - offset } else { UNIX_EPOCH + offset };
        let format = case["format"].as_str().unwrap();
        assert_eq!(strftime(format, now), case["text"].as_str().unwrap(), "{format} at {at}");
    }
}

#[test]
fn what_is_not_a_directive_stays() {
    assert_eq!(strftime("100%", UNIX_EPOCH), "100%");
    assert_eq!(strftime("%Q %-", UNIX_EPOCH), "%Q %-");
}
