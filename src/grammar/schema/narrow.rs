//! Narrows each schema of a document to what is wanted and can be enforced exactly.

use super::{COMBINING, GrammarError, pattern};
use serde_json::{Map, Number, Value, json};

/// The largest integer up to which floats have all integers.
const MAX_INTEGER: f64 = 9_007_199_254_740_991.0;
/// Bounds of `multipleOf`: a remainder is a state of the lexer.
const LEAST_STEP: f64 = 0.0001;
const MAX_STEP: f64 = 10_000.0;
/// The least distance from an excluded bound of 0.
const NEAR_ZERO: f64 = 0.000_001;

/// Narrows a schema and those in it; `closes`: objects get `additionalProperties: false`; `root`: it is the whole
/// document. What `not` holds stays as it is: there, less is more.
pub(super) fn narrow(schema: &mut Value, closes: bool, root: bool) -> Result<(), GrammarError> {
    let Value::Object(map) = schema else { return Ok(()) };
    if !root && map.contains_key("$id") {
        return Err(GrammarError("$id is supported only at the top of a schema".to_owned()));
    }
    if closes && lists_all(map) {
        map.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    map.remove("deprecated");
    if map.get("uniqueItems") == Some(&Value::Bool(false)) {
        map.remove("uniqueItems");
    }
    counts(map);
    properties(map)?;
    numbers(map)?;
    format(map)?;
    for (keyword, value) in map.iter_mut() {
        match (keyword.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(named),
            ) => {
                for schema in named.values_mut() {
                    narrow(schema, closes, false)?;
                }
            }
            ("items" | "prefixItems" | "allOf" | "anyOf" | "oneOf", Value::Array(list)) => {
                for schema in list {
                    narrow(schema, closes, false)?;
                }
            }
            ("items" | "additionalProperties" | "contains", one) => narrow(one, closes, false)?,
            ("const" | "enum", data) => exact(data)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether these are the keywords of an object with all properties that it needs, and it does not say what others are.
fn lists_all(map: &Map<String, Value>) -> bool {
    let Some(Value::Object(properties)) = map.get("properties") else { return false };
    let mut required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    let listed = |name: &Value| name.as_str().is_some_and(|name| properties.contains_key(name));
    let said = map.contains_key("additionalProperties");
    let combines = map.keys().any(|key| COMBINING.contains(&key.as_str()));
    !said && !combines && required.all(listed)
}

/// A count may be written as a float.
fn counts(map: &mut Map<String, Value>) {
    const COUNTS: [&str; 6] =
        ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];
    for keyword in COUNTS {
        let Some(count) = map.get(keyword).and_then(Value::as_f64) else { continue };
        if count.fract() == 0.0 && (0.0..=MAX_INTEGER).contains(&count) {
            map.insert(keyword.to_owned(), json!(count as u64));
        }
    }
}

/// A key may come twice in a text, so that nothing but required ones count. Names that are given by patterns are as exact
/// as other patterns.
fn properties(map: &mut Map<String, Value>) -> Result<(), GrammarError> {
    if let Some(least) = map.get("minProperties").and_then(Value::as_u64) {
        let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len);
        if (required as u64) < least {
            let what = "minProperties is supported only if so many properties are required";
            return Err(GrammarError(what.to_owned()));
        }
        map.remove("minProperties");
    }
    if let Some(Value::Object(named)) = map.get_mut("patternProperties") {
        let translated: Result<Map<String, Value>, GrammarError> = std::mem::take(named)
            .into_iter()
            .map(|(name, schema)| Ok((pattern::translated(&name)?, schema)))
            .collect();
        *named = translated?;
    }
    Ok(())
}

/// Bounds are those that floats have exactly, and integers have some.
fn numbers(map: &mut Map<String, Value>) -> Result<(), GrammarError> {
    for keyword in ["exclusiveMinimum", "exclusiveMaximum", "minimum", "maximum"] {
        if map.get(keyword).is_some_and(|bound| !bound.is_number()) {
            return Err(GrammarError(format!("{keyword} must be a number")));
        }
        let Some(bound) = map.get(keyword).and_then(Value::as_f64) else { continue };
        if bound.abs() <= MAX_INTEGER {
            continue;
        }
        let lower = keyword.ends_with("inimum");
        if lower != (bound < 0.0) {
            return Err(GrammarError(format!(
                "{keyword} is beyond 2^53, where numbers are not exact"
            )));
        }
        // All that is left is within it.
        map.insert(keyword.to_owned(), number(MAX_INTEGER.copysign(bound)));
    }
    if let Some(step) = map.get("multipleOf") {
        let step = step.as_f64().filter(|step| (LEAST_STEP..=MAX_STEP).contains(step));
        if step.is_none() {
            let what = format!("multipleOf must be {LEAST_STEP} to {MAX_STEP}");
            return Err(GrammarError(what));
        }
    }
    let is_integer = map.get("type") == Some(&json!("integer"));
    let bounded = |map: &Map<String, Value>, names: [&str; 2]| {
        names.iter().any(|name| map.contains_key(*name))
    };
    if is_integer && !bounded(map, ["minimum", "exclusiveMinimum"]) {
        map.insert("minimum".to_owned(), number(-MAX_INTEGER));
    }
    if is_integer && !bounded(map, ["maximum", "exclusiveMaximum"]) {
        map.insert("maximum".to_owned(), number(MAX_INTEGER));
    }
    if !is_integer {
        above_zero(map, "exclusiveMinimum", "minimum", 1.0);
        above_zero(map, "exclusiveMaximum", "maximum", -1.0);
    }
    Ok(())
}

/// An excluded bound of 0 as one that is included and close to it.
fn above_zero(map: &mut Map<String, Value>, excluded: &str, included: &str, sign: f64) {
    if map.get(excluded).and_then(Value::as_f64) == Some(0.0) {
        let least = map.get(included).and_then(Value::as_f64);
        let bound = least.filter(|least| least * sign > NEAR_ZERO).unwrap_or(NEAR_ZERO * sign);
        map.remove(excluded);
        map.insert(included.to_owned(), json!(bound));
    }
}

fn number(value: f64) -> Value {
    Value::Number(Number::from(value as i64))
}

/// Refuses numbers that are rounded on the way.
fn exact(data: &Value) -> Result<(), GrammarError> {
    let rounded = |number: &Number| number.as_f64().is_some_and(|n| n.abs() > MAX_INTEGER);
    match data {
        Value::Number(number) if rounded(number) => {
            let what =
                format!("the number {number} in const or enum is beyond 2^53, and not exact");
            Err(GrammarError(what))
        }
        Value::Array(list) => list.iter().try_for_each(exact),
        Value::Object(map) => map.values().try_for_each(exact),
        _ => Ok(()),
    }
}

const DATE: &str = concat!(
    "[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])",
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))",
    "|(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)-02-29"
);
const TIME: &str = concat!(
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,9})?",
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
);
/// Formats that llguidance knows.
const FORMATS: [&str; 7] = ["duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// A format as a pattern, where it is known more exactly; without one that is not known. A pattern in the other syntax.
fn format(map: &mut Map<String, Value>) -> Result<(), GrammarError> {
    if let Some(given) = map.get("pattern").and_then(Value::as_str) {
        let given = pattern::translated(given)?;
        map.insert("pattern".to_owned(), given.into());
    }
    let Some(format) = map.get("format").and_then(Value::as_str) else { return Ok(()) };
    let own = match format {
        "date" => format!("^(?:{DATE})$"),
        "time" => format!("^{TIME}$"),
        "date-time" => format!("^(?:{DATE})T{TIME}$"),
        known if FORMATS.contains(&known) => return Ok(()),
        _ => {
            map.remove("format");
            return Ok(());
        }
    };
    map.remove("format");
    if map.contains_key("pattern") {
        let both = map.entry("allOf").or_insert_with(|| json!([]));
        if let Value::Array(both) = both {
            both.push(json!({"type": "string", "pattern": own}));
        }
    } else {
        map.insert("pattern".to_owned(), own.into());
    }
    Ok(())
}
