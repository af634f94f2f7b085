//! Renders chat templates for `scripts/check_templates.py`. Reads one JSON object per line, with a template
//! and conversations; writes one per line, with the template's input and its output.
//!
//! With `--bench`, measures the rendering time instead: in this process, and in a subprocess if `--serin
//! PATH` names the program for it.

use serde_json::{Map, Value, json};
use serin::text::{Chat, Ending, Outcome, Templates, Tried};
use std::io::BufRead;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

const FUEL: u64 = 2_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--bench") {
        let at = arguments.iter().position(|argument| argument == "--serin");
        let serin = at.and_then(|at| arguments.get(at + 1));
        return bench(serin.map(String::as_str));
    }
    for line in std::io::stdin().lock().lines() {
        println!("{}", answer(&serde_json::from_str(&line?)?));
    }
    Ok(())
}

fn answer(asked: &Value) -> Value {
    let special: Vec<(String, String)> = asked["special"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, token)| (name.clone(), token.as_str().unwrap_or_default().to_owned()))
        .collect();
    let template = asked["template"].as_str().unwrap_or_default();
    let tried = match Tried::new(template, &special, FUEL, Templates::Here) {
        Ok(tried) => tried,
        Err(error) => return json!({"unusable": error.to_string()}),
    };
    let today = asked["today"].as_u64().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
    let chats = asked["chats"].as_array().into_iter().flatten();
    let results: Vec<Value> = chats.map(|chat| one(&tried, chat, today)).collect();
    let abilities: Map<String, Value> = tried
        .abilities()
        .iter()
        .map(|(shape, outcome)| (shape.words().to_owned(), in_words(outcome).into()))
        .collect();
    let calls = format!("{:?}", tried.calls());
    json!({"abilities": abilities, "calls": calls, "results": results})
}

fn one(tried: &Tried, asked: &Value, today: Option<SystemTime>) -> Value {
    let none = Vec::new();
    let chat = Chat {
        messages: asked["messages"].as_array().unwrap_or(&none),
        tools: asked.get("tools"),
        ending: match asked["ending"].as_str() {
            Some("closed") => Ending::Closed,
            Some("continue") => Ending::Continue,
            _ => Ending::Reply,
        },
        extra: asked["extra"].as_object(),
        today,
    };
    let canonical = tried.canonical(&chat).unwrap_or_default();
    match tried.render(&chat) {
        Ok(text) => json!({"canonical": canonical, "text": text}),
        Err(error) => json!({"canonical": canonical, "error": error.to_string(),
            "status": if error.is_client_fault() { 400 } else { 500 }}),
    }
}

fn in_words(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Taken => "taken",
        Outcome::LeftOut => "left out",
        Outcome::Refused(_) => "refused",
        Outcome::Failed(_) => "failed",
    }
}

/// Median times for rendering a short and a long conversation.
fn bench(serin: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let template = std::fs::read_to_string("tests/fixtures/text/templates/qwen25.jinja")?;
    let mut places = vec![("in this process", Templates::Here)];
    if let Some(serin) = serin {
        let serin: &'static Path = Box::leak(Path::new(serin).to_owned().into_boxed_path());
        places.push(("in a process of its own", Templates::Apart(serin)));
    }
    for (place, templates) in places {
        let tried = Tried::new(&template, &[], FUEL, templates)?;
        for messages in [2, 200] {
            let messages: Vec<Value> = (0..messages)
                .map(|i| {
                    let role = if i % 2 == 0 { "user" } else { "assistant" };
                    json!({"role": role, "content": "The serin is a small finch. ".repeat(8)})
                })
                .collect();
            let chat = Chat { messages: &messages, ..Chat::default() };
            let mut took: Vec<Duration> = Vec::new();
            for _ in 0..2000 {
                let begun = Instant::now();
                tried.render(&chat)?;
                took.push(begun.elapsed());
            }
            took.sort_unstable();
            let (median, worst) = (took[1000].as_micros(), took[1980].as_micros());
            println!("{place}, {} messages: median {median} us, p99 {worst} us", messages.len());
        }
    }
    Ok(())
}
