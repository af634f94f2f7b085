//! Prepares the JSON schema of a request for llguidance.
//!
//! The changes only narrow what the schema allows. White space between the parts of a value is short, because a model
//! could otherwise continue it forever. An object has only the listed properties, unless the schema says otherwise,
//! because a schema lists what is wanted. Dates are real calendar dates, and times have no leap seconds. Integers are
//! limited to those that a float represents exactly. An unknown `format` is an annotation, as JSON Schema says. A
//! keyword that can be enforced only in part is refused by name.
//!
//! Reading order: this file (limits), `narrow` (keywords), `pattern` (regular expressions).

mod narrow;
mod pattern;

use super::GrammarError;
use serde_json::{Map, Value, json};

/// Largest schema in bytes.
const MAX_BYTES: usize = 128 << 10;
/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 64;
/// White space between the parts of a value: a space, or a new line with what is before its first part.
const WHITE_SPACE: &str = r"\x20|\x0A[\x20\x09]{0,32}";

/// Keywords that combine schemas: what one part does not list, another may.
const COMBINING: [&str; 14] = [
    "$ref",
    "$dynamicRef",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "patternProperties",
    "dependentSchemas",
    "unevaluatedProperties",
    "propertyNames",
    "minProperties",
];

/// The schema for llguidance.
pub(super) fn prepared(schema: &Value) -> Result<Value, GrammarError> {
    with(schema, json!({"whitespace_pattern": WHITE_SPACE}))
}

/// The schema for JSON without white space between the parts of a value.
pub(super) fn compact(schema: &Value) -> Result<Value, GrammarError> {
    with(schema, json!({"whitespace_flexible": false}))
}

fn with(schema: &Value, options: Value) -> Result<Value, GrammarError> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        let what = format!("the schema has {bytes} bytes, at most {MAX_BYTES} are allowed");
        return Err(GrammarError(what));
    }
    if depth(schema) > MAX_DEPTH {
        let what = format!("the schema is nested deeper than {MAX_DEPTH} levels");
        return Err(GrammarError(what));
    }
    let mut schema = match schema {
        Value::Bool(true) => Value::Object(Map::new()),
        Value::Object(_) => schema.clone(),
        _ => return Err(GrammarError("a JSON schema is an object".to_owned())),
    };
    combinations(&schema)?;
    let closes = !combines_anywhere(&schema);
    narrow::narrow(&mut schema, closes, true)?;
    schema["x-guidance"] = options;
    Ok(schema)
}

/// Most properties named by patterns: each is compared with all others.
const MAX_PATTERNS: usize = 32;
/// Most patterns that one text must match: they are compiled to one.
const MAX_ALL: usize = 4;

/// Refuses what is small as a text, and large when all of it must hold at once.
fn combinations(schema: &Value) -> Result<(), GrammarError> {
    let mut todo = vec![schema];
    while let Some(value) = todo.pop() {
        todo.extend(children(value));
        let Value::Object(map) = value else { continue };
        if map.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len)
            > MAX_PATTERNS
        {
            return Err(GrammarError(format!(
                "patternProperties: at most {MAX_PATTERNS} are allowed"
            )));
        }
        let Some(all) = map.get("allOf").filter(|all| all.is_array()) else { continue };
        for (keyword, most) in [("pattern", MAX_ALL), ("multipleOf", 1)] {
            if count(all, keyword) + usize::from(map.contains_key(keyword)) > most {
                let what = format!("{keyword}: at most {most} within allOf are allowed");
                return Err(GrammarError(what));
            }
        }
    }
    Ok(())
}

/// How often a keyword comes in a value.
fn count(value: &Value, keyword: &str) -> usize {
    let (mut todo, mut found) = (vec![value], 0);
    while let Some(value) = todo.pop() {
        todo.extend(children(value));
        found += usize::from(value.get(keyword).is_some());
    }
    found
}

/// Levels of nesting; stops one beyond the limit.
fn depth(value: &Value) -> usize {
    let mut level: Vec<&Value> = vec![value];
    for depth in 0..=MAX_DEPTH {
        let next: Vec<&Value> = level.iter().flat_map(|value| children(value)).collect();
        if next.is_empty() {
            return depth;
        }
        level = next;
    }
    MAX_DEPTH + 1
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(list) => list.iter().collect(),
        _ => Vec::new(),
    }
}

/// Whether a part of the schema may be read together with another of the same object. References to whole definitions
/// are not, nor are alternatives that say all about their value.
fn combines_anywhere(schema: &Value) -> bool {
    let Value::Object(map) = schema else { return false };
    let combines = map.keys().any(|key| COMBINING.contains(&key.as_str()));
    let says_more = ["properties", "required", "additionalProperties"];
    let both = combines && says_more.iter().any(|key| map.contains_key(*key));
    let within = map.iter().flat_map(|(key, value)| schemas_of(key, value));
    both || map.contains_key("allOf") || within.into_iter().any(combines_anywhere)
}

/// The schemas that a keyword of a schema holds.
fn schemas_of<'a>(keyword: &str, value: &'a Value) -> Vec<&'a Value> {
    match (keyword, value) {
        ("properties" | "$defs" | "definitions", Value::Object(named)) => named.values().collect(),
        ("items" | "prefixItems" | "anyOf" | "oneOf", Value::Array(list)) => list.iter().collect(),
        ("items" | "additionalProperties" | "contains" | "not", one) => vec![one],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_the_properties_that_are_listed() {
        let object = |more: Value| {
            let mut schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
            schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            schema
        };
        let closed = |schema: &Value| schema["additionalProperties"] == json!(false);
        let outer = prepared(&object(json!({"required": ["a"]}))).unwrap();
        assert!(closed(&outer));
        let nested = json!({"$defs": {"d": object(json!({}))}, "type": "array", "items": {"$ref": "#/$defs/d"}});
        assert!(closed(&prepared(&nested).unwrap()["$defs"]["d"]));
        for open in [
            json!({"required": ["a", "b"]}),
            json!({"additionalProperties": {"type": "string"}}),
            json!({"additionalProperties": true}),
            json!({"anyOf": [{"required": ["a"]}, {"properties": {"b": true}}]}),
            json!({"allOf": [{"properties": {"b": true}}]}),
            json!({"patternProperties": {"^b": true}}),
        ] {
            assert!(!closed(&prepared(&object(open.clone())).unwrap()), "{open}");
        }
        let data = json!({"const": {"properties": {"a": {}}}});
        assert_eq!(prepared(&data).unwrap()["const"], data["const"]);
    }

    #[test]
    fn what_is_enforced_only_in_part_is_narrowed_or_refused() {
        let of = |schema: Value| prepared(&schema);
        let refused = |schema: Value, word: &str| {
            let error = of(schema).unwrap_err().0;
            assert!(error.contains(word), "{error}");
        };
        refused(json!({"minProperties": 2, "required": ["a"]}), "minProperties");
        refused(json!({"properties": {"a": {"$id": "x"}}}), "$id");
        refused(json!({"const": 123456789012345678901234567890f64}), "not exact");
        refused(json!({"enum": [9007199254740993i64]}), "not exact");
        refused(json!({"minimum": 1e30}), "minimum");
        refused(json!({"exclusiveMinimum": true}), "exclusiveMinimum");
        let narrowed = of(json!({"minProperties": 1, "required": ["a"]})).unwrap();
        assert_eq!(narrowed.get("minProperties"), None);
        let narrowed =
            of(json!({"type": "number", "exclusiveMinimum": 0, "maximum": 1e300})).unwrap();
        assert_eq!(
            (&narrowed["minimum"], &narrowed["maximum"]),
            (&json!(0.000001), &json!(9007199254740991i64))
        );
        let narrowed = of(json!({"type": "integer", "minimum": 5})).unwrap();
        assert_eq!(narrowed["maximum"], json!(9007199254740991i64));
        assert_eq!(
            of(json!({"maxLength": 2.0, "uniqueItems": false})).unwrap()["maxLength"],
            json!(2)
        );
    }

    #[test]
    fn formats_are_exact_or_annotations() {
        let of = |schema: Value| prepared(&schema).unwrap();
        assert!(of(json!({"format": "date"}))["pattern"].is_string());
        let both = of(json!({"format": "date", "pattern": "^1"}));
        assert_eq!(both["pattern"], json!("^1"));
        assert!(both["allOf"][0]["pattern"].is_string());
        assert_eq!(of(json!({"items": {"format": "path"}}))["items"], json!({}));
        assert_eq!(of(json!({"format": "uuid"}))["format"], json!("uuid"));
        assert_eq!(of(json!({"not": {"format": "path"}}))["not"]["format"], json!("path"));
    }

    #[test]
    fn what_is_too_large_or_no_schema_is_refused() {
        let mut deep = json!({"type": "string"});
        for _ in 0..MAX_DEPTH + 1 {
            deep = json!({"items": deep});
        }
        assert!(prepared(&deep).unwrap_err().0.contains("nested deeper"));
        let large = json!({"enum": ["x".repeat(MAX_BYTES)]});
        assert!(prepared(&large).unwrap_err().0.contains("bytes"));
        for none in [json!([]), json!("x"), json!(1), json!(null), json!(false)] {
            assert!(prepared(&none).unwrap_err().0.contains("an object"), "{none}");
        }
        assert!(prepared(&json!(true)).is_ok());
    }
}
