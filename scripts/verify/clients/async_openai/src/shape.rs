//! What the rows `schema` and `forced` ask for: small bounded types, and checks of what came back; see ../shape.py.
//! It knows nothing of the library.

use crate::Outcome;
use serde::Deserialize;
use serde_json::{Value, json};

/// The words that lead the scripted model to a text instead of a call.
pub const TEXT: &str = "say-lines";
pub const TWICE: &str = "say-twice";
pub const ENOUGH: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Mood {
    Calm,
    Glad,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Home {
    city: String,
    zip: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Person {
    name: String,
    age: u32,
    mood: Mood,
    tags: Vec<Mood>,
    home: Home,
    nick: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weather {
    city: String,
    unit: Mood,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clock {
    zone: Mood,
}

fn object(properties: Value) -> Value {
    let names: Vec<&String> =
        properties.as_object().into_iter().flat_map(|map| map.keys()).collect();
    json!({"type": "object", "properties": properties, "required": names, "additionalProperties": false})
}

fn text() -> Value {
    json!({"type": "string", "maxLength": 12})
}

fn whole(maximum: u32) -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": maximum})
}

fn mood() -> Value {
    json!({"type": "string", "enum": ["calm", "glad"]})
}

/// The schema of a person.
pub fn person() -> Value {
    object(json!({
        "name": text(),
        "age": whole(150),
        "mood": mood(),
        "tags": {"type": "array", "items": mood(), "maxItems": 3},
        "home": object(json!({"city": text(), "zip": whole(99999)})),
        "nick": {"anyOf": [text(), {"type": "null"}]},
    }))
}

/// The tools by name, each with the schema of its arguments.
pub fn tools() -> [(&'static str, Value); 2] {
    let weather = object(json!({"city": text(), "unit": mood()}));
    [("get_weather", weather), ("get_time", object(json!({"zone": mood()})))]
}

fn bounded(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(format!("out of bounds: {what}").into()) }
}

fn short(text: &str) -> bool {
    text.chars().count() <= 12
}

/// Checks the JSON of a person.
pub fn is_person(text: &str) -> Outcome {
    let found: Person = serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))?;
    let texts = [Some(&found.name), Some(&found.home.city), found.nick.as_ref()];
    let numbers = found.age <= 150 && found.home.zip <= 99999;
    let _ = (found.mood, &found.tags);
    bounded(texts.into_iter().flatten().all(|t| short(t)) && numbers && found.tags.len() <= 3, text)
}

/// Checks calls, as objects with `name` and `arguments`: at least one, each of an allowed tool and with arguments that
/// fit it. Returns their number.
pub fn called(calls: &[Value], allowed: &[&str]) -> Result<usize, Box<dyn std::error::Error>> {
    for call in calls {
        let name = call["name"].as_str().unwrap_or("");
        let arguments = call["arguments"].as_str().ok_or("arguments are not a text")?;
        if !allowed.contains(&name) {
            return Err(format!("{name} was called").into());
        }
        match name {
            "get_time" => drop(serde_json::from_str::<Clock>(arguments)?.zone),
            _ => {
                let found: Weather = serde_json::from_str(arguments)?;
                bounded(short(&found.city), arguments)?;
                let _ = found.unit;
            }
        }
    }
    if calls.is_empty() { Err("there was no call".into()) } else { Ok(calls.len()) }
}
