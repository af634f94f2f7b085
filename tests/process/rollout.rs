//! A rollout in a real process with real models: failures of a canary, the notifications about them, and the
//! metrics.

use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn serve(dir: &Path, more: &str) -> Process {
    let stable = models().join("tiny-v1");
    let text = format!(
        "[model]\nname = \"tiny\"\nstable = {stable:?}\n[engine]\nkv_memory = \"16MiB\"\n\
         [server]\ndrain = \"5s\"\n{more}\n"
    );
    let path = dir.join("serin.toml");
    fs::write(&path, text).expect("written");
    Process::serve(&["--config", path.to_str().expect("text")])
}

fn load(server: &Process, canary: &Path) {
    load_with(server, canary, &[]);
}

fn load_with(server: &Process, canary: &Path, more: &[&str]) {
    let load = ["canary", "load", canary.to_str().expect("text")];
    server.operate(&[&load, more].concat());
    server.operate(&["weight", "50"]);
}

/// A canary whose template fails on every request is charged for it, and no client notices.
#[test]
fn a_canary_that_cannot_even_begin_is_rescued_charged_and_rolled_back() {
    let dir = TempDir::new().expect("a folder");
    let canary = dir.path().join("canary");
    copy_model(&models().join("tiny-v2"), &canary);
    let path = canary.join("tokenizer_config.json");
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
    let template = config["chat_template"].as_str().expect("a template");
    // Fails only on system messages, which stable supports.
    let template =
        format!("{{% if messages[0].role == 'system' %}}{{{{ 1 // 0 }}}}{{% endif %}}{template}");
    config["chat_template"] = json!(template);
    fs::write(&path, config.to_string()).expect("written");
    let server = serve(dir.path(), "");
    load_with(&server, &canary, &["--allow"]);
    let lost = server.status()["less"][0].as_str().expect("a line").to_owned();
    assert!(lost.starts_with("its chat template no longer takes a system message"), "{lost}");
    assert!(server.operate(&["status"]).contains(&lost), "operators see it");
    let mut body = chat("What is 7 plus 5?", false, 24);
    let system = json!({"role": "system", "content": "You are a bird."});
    body["messages"].as_array_mut().expect("messages").insert(0, system);
    for number in 0..120 {
        // Each is a conversation of its own.
        body["messages"][1]["content"] = json!(format!("What is {number} plus 5?"));
        let (code, text) = server.http("POST", "/v1/chat/completions", Some(&body));
        assert_eq!(code, 200, "{text}");
    }
    let status = server.until("rolled back and unloaded", |s| {
        s["phase"] == "rolled_back" && s["unloads"].as_array().is_some_and(|u| u.len() == 1)
    });
    let reason = status["reason"].as_str().expect("a reason");
    assert!(reason.contains("canary errors in a row"), "{reason}");
    assert_eq!(status["arms"][0]["figures"]["total_errors"], 0, "{status:#}");
}

/// tiny-v3 yields NaN on some birds. It is rolled back, and the configured webhook gets a signed alert.
#[test]
fn a_bad_canary_is_rolled_back_and_the_webhook_says_why() {
    let dir = TempDir::new().expect("a folder");
    let (url, inbox) = endpoint();
    let alerts = format!(
        "[[alerts.webhooks]]\nurl = \"{url}\"\n\
         secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\nkinds = [\"rolled_back\", \"fault\"]\n"
    );
    let server = serve(dir.path(), &alerts);
    load(&server, &models().join("tiny-v3"));
    for number in 0..200 {
        let bird = ["heron", "wren", "puffin", "jay"][number % 4];
        let mut ask = chat(&format!("What does the {bird} eat?"), false, 24);
        // Each is a session of its own.
        ask["prompt_cache_key"] = json!(number.to_string());
        let (code, text) = server.http("POST", "/v1/chat/completions", Some(&ask));
        assert_eq!(code, 200, "{text}");
    }
    let (head, alert) = inbox.recv_timeout(LONG).expect("an alert");
    for header in ["webhook-id: msg_", "webhook-timestamp: ", "webhook-signature: v1,"] {
        assert!(head.to_lowercase().contains(header), "no {header} in {head}");
    }
    let kind = alert["type"].as_str().expect("a type");
    assert!(["serin.rolled_back", "serin.fault"].contains(&kind), "{alert:#}");
    let text = alert.to_string();
    for told in ["tiny-v3", "errors", "being unloaded"] {
        assert!(text.contains(told), "no {told:?} in {alert:#}");
    }
    let status = server
        .until("unloaded", |s| s["unloads"].as_array().is_some_and(|unloads| unloads.len() == 1));
    let unload = &status["unloads"][0];
    println!(
        "from the decision to the memory being back: {:.1} ms",
        unload["since_decision_ms"].as_f64().expect("a time")
    );
    assert_eq!((&unload["used_after"], &unload["reserved_after"]), (&json!(0), &json!(0)));
}

#[test]
fn metrics_show_both_arms_the_weight_and_the_gates() {
    let dir = TempDir::new().expect("a folder");
    let server = serve(dir.path(), "");
    load(&server, &models().join("tiny-v2"));
    let mut body = chat("What is 7 plus 5?", false, 24);
    body["stop"] = json!([" plus", "."]);
    for number in 0..20 {
        body["messages"][0]["content"] = json!(format!("What is {number} plus 5?"));
        server.http("POST", "/v1/chat/completions", Some(&body));
    }
    // A reply that ended at a stop string is removed in the following step.
    server.until("idle", |status| {
        let arms = status["arms"].as_array().expect("arms");
        arms.iter().all(|arm| arm["lane"]["running"] == 0)
    });
    let (code, text) = server.http("GET", "/metrics", None);
    assert_eq!(code, 200);
    let line = |start: &str, label: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(start));
        let found = lines.find(|line| line.contains(label));
        let found = found.unwrap_or_else(|| panic!("no {start} with {label} in\n{text}"));
        found.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")
    };
    for arm in ["arm=\"stable\"", "arm=\"canary\""] {
        assert!(line("serin_arena_used_bytes", arm) > 1e6);
        assert_eq!(line("vllm:num_requests_running", arm), 0.0);
        assert!(line("vllm:request_prefill_time_seconds_sum", arm) > 0.0, "also when stopped");
    }
    assert_eq!(line("serin_canary_weight", ""), 0.5);
    assert_eq!(line("serin_rollout_gate{", "gate=\"bake\""), 0.0);
    assert!(line("serin_rollout_gate_decides_in_seconds", "gate=\"bake\"") > 60.0);
    assert!(line("serin_resident_bytes", "") > 1e6);
    server.operate(&["rollback"]);
    let (_, text) = server.http("GET", "/metrics", None);
    let gone = text
        .lines()
        .find(|line| line.starts_with("serin_arena_used_bytes") && line.contains("arm=\"canary\""));
    assert!(gone.is_some_and(|line| line.ends_with(" 0")), "{gone:?}");
}

/// If the configured canary cannot be loaded, stable still serves.
#[test]
fn a_canary_that_cannot_be_loaded_leaves_stable_serving() {
    let dir = TempDir::new().expect("a folder");
    let canary = dir.path().join("canary");
    copy_model(&models().join("tiny-v2"), &canary);
    fs::write(canary.join("model.safetensors"), b"not weights").expect("written");
    let stable = models().join("tiny-v1");
    let config = dir.path().join("serin.toml");
    let text = format!("[model]\nname = \"tiny\"\nstable = {stable:?}\ncanary = {canary:?}\n");
    fs::write(&config, text).expect("written");
    let server = Process::serve(&["--config", config.to_str().expect("text")]);
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
    assert_eq!(server.status()["phase"], "idle");
}
