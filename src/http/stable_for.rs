//! Marked requests, which stable answers and which count in no verdict: for requests that chat UIs send on their own,
//! such as for a chat's title.
//!
//! The marks are configured. A request that names an arm itself gets that arm.

use axum::http::{HeaderMap, HeaderName};
use serde_json::Value;
use std::sync::Arc;

/// The marks; by default, there are none.
#[derive(Debug, Clone, Default)]
pub struct StableFor(Arc<Marks>);

#[derive(Debug, Default)]
struct Marks {
    metadata: Vec<String>,
    headers: Vec<HeaderName>,
}

impl StableFor {
    /// Requests with one of these keys in `metadata`, or one of these headers. Texts that are no header names are
    /// ignored.
    pub fn new(metadata: &[String], headers: &[String]) -> StableFor {
        let headers = headers.iter().filter_map(|name| name.parse().ok()).collect();
        StableFor(Arc::new(Marks { metadata: metadata.to_vec(), headers }))
    }

    /// Whether a request is marked; an empty mark, `false` and `null` are none.
    pub fn covers(&self, headers: &HeaderMap, metadata: Option<&Value>) -> bool {
        let Marks { metadata: keys, headers: names } = &*self.0;
        let says =
            |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value != "";
        let by_key =
            |key: &String| metadata.and_then(|metadata| metadata.get(key)).is_some_and(says);
        let by_header =
            |name: &HeaderName| headers.get(name).is_some_and(|value| !value.is_empty());
        keys.iter().any(by_key) || names.iter().any(by_header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_covered_by_its_marks() {
        let texts =
            |list: &[&str]| -> Vec<String> { list.iter().map(|s| (*s).to_owned()).collect() };
        let some = StableFor::new(&texts(&["task"]), &texts(&["X-Task", "no header"]));
        let header = |name: &str, value: &str| {
            HeaderMap::from_iter([(name.parse::<HeaderName>().unwrap(), value.parse().unwrap())])
        };
        let none = HeaderMap::new();
        for metadata in [json!({"task": "title"}), json!({"task": 1}), json!({"a": 1, "task": {}})]
        {
            assert!(some.covers(&none, Some(&metadata)), "{metadata}");
            assert!(!StableFor::default().covers(&none, Some(&metadata)));
        }
        for metadata in [
            json!({"task": ""}),
            json!({"task": null}),
            json!({"task": false}),
            json!({}),
            json!("task"),
        ] {
            assert!(!some.covers(&none, Some(&metadata)), "{metadata}");
        }
        assert!(some.covers(&header("x-task", "title"), None));
        assert!(
            !some.covers(&header("x-task", ""), None)
                && !some.covers(&header("x-other", "title"), None)
        );
    }
}
