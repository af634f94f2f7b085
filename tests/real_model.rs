//! A real chat model, as people download it, compared with llama.cpp on the same file.
//!
//! The golden is tests/fixtures/real-model.json (`scripts/make_real_golden.py`), the model is what `scripts/real_model`
//! fetches: 98 MB, so it is not part of the repository. `.ci/run real` fetches it and names it in SERIN_REAL_MODEL.
//! Without that, the test says that it is skipped. `scripts/verify/run real_model` compares more, in every kind.

mod gguf_support;
#[path = "process/support.rs"]
mod process_support;

use gguf_support::{Said, on_cpu};
use process_support::Process;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Golden {
    sha256: String,
    said: Said,
    text: Text,
    lines: Vec<(String, Vec<u32>)>,
    conversations: Vec<Conversation>,
}

#[derive(Deserialize)]
struct Text {
    ids: Vec<u32>,
    perplexity: f64,
}

#[derive(Deserialize)]
struct Conversation {
    messages: Value,
    prompt: String,
    ids: Vec<u32>,
}

/// The golden and the file that it is about; `None` where the file is not at hand.
fn real_model() -> Option<(Golden, PathBuf)> {
    let Some(path) = std::env::var_os("SERIN_REAL_MODEL").map(PathBuf::from) else {
        eprintln!("SKIPPED: no real model. SERIN_REAL_MODEL=$(scripts/real_model) has one.");
        return None;
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/real-model.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let digest = Sha256::digest(std::fs::read(&path).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, golden.sha256, "{} is not the model of the golden", path.display());
    Some((golden, path))
}

/// What a server answers to this.
fn asked(server: &Process, path: &str, body: &Value) -> Value {
    let (status, answer) = server.http("POST", path, Some(body));
    assert_eq!(status, 200, "{path}: {answer}");
    serde_json::from_str(&answer).unwrap()
}

fn ids(answer: &Value) -> Vec<u32> {
    serde_json::from_value(answer["tokens"].clone()).unwrap()
}

/// Every position of llama.cpp's replies, then serin's own replies.
#[tokio::test]
async fn says_what_llama_cpp_says() {
    let Some((golden, path)) = real_model() else { return };
    on_cpu::check(&path, "SmolLM2-135M-Instruct Q4_1", &golden.said).await;
}

#[test]
fn reads_text_as_llama_cpp_does() {
    let Some((golden, path)) = real_model() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("serin.toml");
    std::fs::write(&config, format!("[model]\nname = \"real\"\nstable = {path:?}\n")).unwrap();
    let server = Process::serve(&["--config", config.to_str().unwrap()]);

    for (line, expected) in &golden.lines {
        let body = json!({"content": line, "add_special": false});
        assert_eq!(ids(&asked(&server, "/tokenize", &body)), *expected, "{line:?}");
    }
    for Conversation { messages, prompt, ids: expected } in &golden.conversations {
        let body = json!({"model": "real", "messages": messages});
        assert_eq!(asked(&server, "/apply-template", &body)["prompt"], json!(prompt));
        assert_eq!(ids(&asked(&server, "/tokenize", &body)), *expected, "{messages}");
    }
    let perplexity = perplexity(&server, &golden.text.ids);
    let off = (perplexity / golden.text.perplexity - 1.0).abs();
    assert!(off <= 0.005, "perplexity {perplexity} where llama.cpp has {}", golden.text.perplexity);
}

fn perplexity(server: &Process, ids: &[u32]) -> f64 {
    let body =
        json!({"model": "real", "prompt": ids, "echo": true, "logprobs": 0, "max_tokens": 0});
    let answer = asked(server, "/v1/completions", &body);
    let scores = answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    assert_eq!(scores.len(), ids.len());
    // The first token has no score.
    let sum: f64 = scores[1..].iter().map(|score| score.as_f64().unwrap()).sum();
    (-sum / (ids.len() - 1) as f64).exp()
}
