//! A real process whose models are on an emulated GPU, prompt and pessimistic. It chats, loads a canary next
//! to stable, frees the canary's memory to the last byte while stable keeps serving, and refuses a model that
//! does not fit.

use crate::support::*;
use serde_json::json;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Small steps: the GPU is emulated on the processor.
const SMALL: &str = "max_running = 4\nmax_batch_tokens = 64\nkv_memory = \"4MiB\"\n";

fn config(dir: &Path, device: &str, engine: &str) -> String {
    let stable = models().join("tiny-v1");
    let text = format!(
        "[model]\nname = \"tiny\"\nstable = {stable:?}\n\
         [engine]\ndevice = \"{device}\"\n{engine}\
         [server]\ndrain = \"5s\"\n[rollout]\nbake = \"10m\"\n"
    );
    let path = dir.join("serin.toml");
    fs::write(&path, text).expect("written");
    path.to_str().expect("text").to_owned()
}

fn right(server: &Process, variant: &str) {
    let mut body = chat("What is 7 plus 5?", false, 24);
    body["model"] = json!(format!("tiny@{variant}"));
    body["temperature"] = json!(0);
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&body));
    assert!(code == 200 && text.contains("7 plus 5 is 12."), "{variant}: {code}: {text}");
}

#[test]
fn models_on_a_card_chat_and_give_their_memory_back() {
    ["emulated", "pessimistic"].into_iter().for_each(chat_and_give_back);
}

fn chat_and_give_back(device: &str) {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve(&["--config", &config(dir.path(), device, SMALL)]);
    right(&server, "stable");
    let lane = |arm: &str| {
        let status = server.status();
        let arms = status["arms"].as_array().expect("arms");
        arms.iter().find(|wire| wire["arm"] == arm).expect("an arm")["lane"].clone()
    };
    let stable_used = lane("stable")["card_used"].as_u64().expect("bytes");
    assert!(stable_used > 1 << 20, "stable lies on the GPU");
    let canary = models().join("tiny-v2");
    server.operate(&["canary", "load", canary.to_str().expect("text")]);
    right(&server, "canary");
    right(&server, "stable");
    assert!(lane("canary")["card_used"].as_u64() > Some(1 << 20));
    let shown = server.operate(&["status"]);
    assert_eq!(shown.matches("in its pool on the GPU").count(), 2, "{shown}");
    server.operate(&["rollback", "--reason", "a test"]);
    let status = server.until("an unload", |status| status["unloads"][0].is_object());
    let card = &status["unloads"][0]["card"];
    println!("the canary's pool: {card}");
    assert!(card["used_before"].as_u64() > Some(1 << 20));
    assert_eq!((&card["used_after"], &card["reserved_after"]), (&json!(0), &json!(0)));
    assert_eq!(card["free_after"], card["free_at_load"], "every byte is back");
    assert_eq!(lane("stable")["card_used"], json!(stable_used), "stable's is as it was");
    right(&server, "stable");
}

#[test]
fn a_canary_that_does_not_fit_is_refused_with_the_plan() {
    let dir = TempDir::new().expect("a folder");
    // Stable's cache takes all of the GPU's memory except the reserve.
    let engine = "max_running = 512\nmax_batch_tokens = 512\nkv_memory = \"1GiB\"\n";
    let server = Process::serve(&["--config", &config(dir.path(), "emulated", engine)]);
    let canary = models().join("tiny-v2");
    let load =
        serin(&["canary", "load", canary.to_str().expect("text"), "--server", &server.server()]);
    let said = String::from_utf8_lossy(&load.stderr).into_owned();
    assert!(!load.status.success(), "{said}");
    for part in ["does not fit on the GPU", "weights", "MiB free", "max_running"] {
        assert!(said.contains(part), "{said}");
    }
    right(&server, "stable");
}
