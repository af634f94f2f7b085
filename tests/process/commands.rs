//! The command line as a real process: an error is one line on standard error that names the cause, and a
//! non-zero exit code.

use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

/// The single line of a failure.
fn failure(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert!(!output.status.success(), "it went well: {text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(lines.len(), 1, "not one line: {text}");
    assert!(lines[0].starts_with("serin: "), "{text}");
    lines[0].to_owned()
}

fn config(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("serin.toml");
    fs::write(&path, text).expect("written");
    path
}

/// Runs `check` and `serve` on a copy of tiny-v1 that `spoil` has changed; both must refuse it in the same
/// way.
fn refusal(spoil: impl FnOnce(&Path)) -> String {
    let dir = TempDir::new().expect("a folder");
    let model = dir.path().join("spoilt");
    copy_model(&models().join("tiny-v1"), &model);
    spoil(&model);
    let config = config(dir.path(), "[model]\nstable = \"spoilt\"\n");
    let config = config.to_str().expect("text");
    let check = failure(&serin(&["check", "--config", config]));
    let serve = failure(&serin(&["serve", "--listen", "127.0.0.1:0", "--config", config]));
    assert_eq!(check, serve);
    assert!(check.contains("spoilt"), "it does not name the folder: {check}");
    check
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let line = failure(&serin(&["serve", "--listen", &addr]));
    let port = addr.rsplit(':').next().expect("a port");
    assert!(line.contains(port) && line.contains("--listen"), "{line}");
}

#[test]
fn an_unknown_key_is_named() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), "[rollout]\nbaek = \"15m\"\n");
    for command in ["check", "serve"] {
        let line = failure(&serin(&[command, "--config", config.to_str().expect("text")]));
        assert!(line.contains("baek") && line.contains("serin.toml"), "{line}");
    }
}

#[test]
fn a_missing_file_or_folder_is_named() {
    let line = failure(&serin(&["check", "--config", "/nowhere/serin.toml"]));
    assert!(line.contains("/nowhere/serin.toml"), "{line}");
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), "[model]\nstable = \"/nowhere/model\"\n");
    for command in [&["check"][..], &["serve", "--listen", "127.0.0.1:0"]] {
        let args = [command, &["--config", config.to_str().expect("text")]].concat();
        let line = failure(&serin(&args));
        assert!(line.contains("/nowhere/model"), "{line}");
    }
}

#[test]
fn missing_weights_are_named() {
    let line = refusal(|model| fs::remove_file(model.join("model.safetensors")).expect("removed"));
    assert!(line.contains("safetensors"), "{line}");
}

#[test]
fn truncated_weights_are_named() {
    let line = refusal(|model| {
        let path = model.join("model.safetensors");
        let bytes = fs::read(&path).expect("weights");
        fs::write(&path, &bytes[..bytes.len() - 1000]).expect("written");
    });
    assert!(line.contains("model.safetensors"), "{line}");
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let line = refusal(|model| {
        let path = model.join("tokenizer.json");
        let text = fs::read_to_string(&path).expect("a tokenizer");
        let mut tokenizer: Value = serde_json::from_str(&text).expect("JSON");
        tokenizer["model"]["vocab"]["foreign"] = json!(50_000);
        fs::write(&path, tokenizer.to_string()).expect("written");
    });
    assert!(line.contains("50000") && line.contains("1024"), "{line}");
}

#[test]
fn an_unsupported_architecture_is_refused_with_those_that_are() {
    let line = refusal(|model| {
        let path = model.join("config.json");
        let text = fs::read_to_string(&path).expect("a config");
        fs::write(&path, text.replace("LlamaForCausalLM", "FalconForCausalLM")).expect("written");
    });
    assert!(
        ["FalconForCausalLM", "LlamaForCausalLM", "MixtralForCausalLM"]
            .iter()
            .all(|name| line.contains(name)),
        "{line}"
    );
}

#[test]
fn an_unknown_instruction_set_is_named_with_those_that_are_known() {
    for command in [&["check"][..], &["serve", "--listen", "127.0.0.1:0"], &["demo"]] {
        let line = failure(&serin_with(command, &[("SERIN_ISA", "avx-512")]));
        assert!(line.contains("avx-512") && line.contains("`avx512`"), "{line}");
    }
}

#[test]
fn commands_without_a_server_say_so() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = format!("http://{}", free.local_addr().expect("an address"));
    drop(free);
    for command in [&["status"][..], &["pause"], &["canary", "load", "x"], &["weight", "5"]] {
        let line = failure(&serin(&[command, &["--server", &server]].concat()));
        assert!(line.contains(&server) && line.contains("serin serve"), "{line}");
    }
}

#[test]
fn check_compares_the_canary_with_stable() {
    let dir = TempDir::new().expect("a folder");
    let canary = dir.path().join("canary");
    copy_model(&models().join("tiny-v2"), &canary);
    let text = format!(
        "[model]\nstable = {:?}\ncanary = \"canary\"\n",
        models().join("tiny-v1").to_str().expect("text")
    );
    let path = config(dir.path(), &text);
    let check = || {
        let output = serin(&["check", "--config", path.to_str().expect("text")]);
        String::from_utf8(output.stdout).expect("text")
    };
    let text = check();
    assert!(text.contains("compared  the canary can do all that stable can\n"), "{text}");
    // Without a system message and with half the context.
    let edit = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let path = canary.join(name);
        let mut json = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        change(&mut json);
        fs::write(&path, json.to_string()).expect("written");
    };
    edit("tokenizer_config.json", &|json| {
        let template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}";
        json["chat_template"] = template.into();
    });
    edit("config.json", &|json| {
        let length = json["max_position_embeddings"].as_u64().expect("a number");
        json["max_position_embeddings"] = (length / 2).into();
    });
    let text = check();
    assert!(text.contains("can do less than stable and is not loaded"), "{text}");
    assert!(text.contains("          its context is "), "{text}");
    assert!(text.contains("          its chat template leaves out a system message\n"), "{text}");
}

#[test]
fn check_explains_the_demo_models() {
    let output = serin(&["check"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert!(text.contains("tiny-v1") && text.ends_with("ok\n"), "{text}");
    let output = serin_with(&["check"], &[("SERIN_ISA", "scalar")]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("cpu       scalar of scalar"), "{text}");
}

/// As in `serin check | head -1`.
#[test]
fn commands_whose_reader_is_gone_end_quietly() {
    for args in [vec!["check"], vec!["completions", "bash"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_serin"));
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command.args(&args).stdout(writer).output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!error.contains("panicked"), "{args:?}: {error}");
        assert!(matches!(output.status.code(), Some(141)), "{args:?}: {output:?}");
    }
}
