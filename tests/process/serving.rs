//! A real process with real models: operators' commands, clients that disconnect, and unloads that free the
//! memory while stable keeps serving.

use crate::support::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
/// About 150 MiB of random weights with tiny-v1's tokenizer.
fn random_model(dir: &Path) {
    copy_model(&models().join("tiny-v1"), dir);
    let text = fs::read_to_string(dir.join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let (hidden, inner, layers, heads, kv_heads, vocab) = (768, 2048, 6, 12, 6, 1024);
    for (key, value) in [
        ("hidden_size", hidden),
        ("intermediate_size", inner),
        ("num_hidden_layers", layers),
        ("num_attention_heads", heads),
        ("num_key_value_heads", kv_heads),
        ("head_dim", hidden / heads),
    ] {
        config[key] = json!(value);
    }
    fs::write(dir.join("config.json"), config.to_string()).expect("written");
    let kv = hidden / heads * kv_heads;
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let data: Vec<Vec<u8>> = shapes.iter().map(|(_, s)| bf16(s.iter().product())).collect();
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::BF16,
            shape.clone(),
            data.as_slice(),
        );
        (name.clone(), view.expect("a view"))
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).expect("written");
}

const REST: &str = "[server]\ndrain = \"5s\"\nlame_duck = \"0s\"\n[rollout]\nbake = \"10m\"\n";

/// Values of about plus or minus 0.02.
fn bf16(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(count * 2);
    for _ in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let sign = (state >> 63) as u16;
        let mantissa = (state >> 40) as u16 & 0x7f;
        bytes.extend_from_slice(&(sign << 15 | 0x3c80 | mantissa).to_le_bytes());
    }
    bytes
}

/// Clients that chat until stopped; every reply must be complete.
struct Chatter {
    replies: AtomicU64,
    failures: AtomicU64,
    stop: AtomicBool,
}

impl Chatter {
    fn new() -> Chatter {
        let zero = || AtomicU64::new(0);
        Chatter { replies: zero(), failures: zero(), stop: AtomicBool::new(false) }
    }

    fn work(&self, server: &Process, variant: Option<&str>) {
        let mut body = chat("What is 7 plus 5?", false, 24);
        if let Some(arm) = variant {
            body["model"] = json!(format!("tiny@{arm}"));
        }
        while !self.stop.load(Ordering::Relaxed) {
            let (code, text) = server.http("POST", "/v1/chat/completions", Some(&body));
            let whole = code == 200 && text.contains("\"finish_reason\"");
            if !whole {
                eprintln!("{code}: {text}");
            }
            let counter = if whole { &self.replies } else { &self.failures };
            counter.fetch_add(1, Ordering::Relaxed);
            // What the server remembers of each reply should not hide what a canary leaves behind.
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Clears the flag even if the test panics, so that no client runs for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn mib(bytes: &Value) -> f64 {
    bytes.as_f64().expect("a number") / f64::from(1 << 20)
}

/// Twenty canaries are loaded and unloaded during chat load: the routed share, the arenas and the resident
/// memory all return to their values, and no request of stable is lost.
#[test]
fn unloads_give_the_memory_back_and_stable_goes_on() {
    const CYCLES: usize = 20;
    let dir = TempDir::new().expect("a folder");
    let canary = dir.path().join("canary");
    random_model(&canary);
    let file = std::fs::metadata(canary.join("model.safetensors")).expect("weights");
    // A tenth is tolerance for what the system counts late.
    let weights = 0.9 * file.len() as f64 / f64::from(1 << 20);
    let server = Process::serve(&["--config", &config(dir.path(), REST)]);
    let chatter = Chatter::new();
    let reports = thread::scope(|scope| {
        let _stop = StopOnDrop(&chatter.stop);
        for variant in [Some("stable"), Some("stable"), None] {
            let (chatter, server) = (&chatter, &server);
            scope.spawn(move || chatter.work(server, variant));
        }
        // The first replies grow buffers that stay.
        thread::sleep(Duration::from_secs(2));
        (0..CYCLES).map(|cycle| one_cycle(&server, &canary, cycle)).collect::<Vec<Value>>()
    });
    // The first canaries also load code and buffers that stay for good.
    let settled = mib(&reports[CYCLES / 4]["resident_at_load"]);
    for (cycle, report) in reports.iter().enumerate() {
        let (level, peak) = (mib(&report["resident_at_load"]), mib(&report["resident_before"]));
        let after = mib(&report["resident_after"]);
        println!(
            "cycle {cycle:2}: arena {:.1} MiB -> {} B used, {} B reserved; resident {level:.1} -> {peak:.1} -> {after:.1} MiB; {:.0} ms",
            mib(&report["used_before"]),
            report["used_after"],
            report["reserved_after"],
            report["took_ms"].as_f64().expect("a number"),
        );
        for key in ["used_after", "reserved_after", "blocks_leaked"] {
            assert_eq!(report[key], 0, "cycle {cycle}: {report:#}");
        }
        assert!(peak > level + weights, "the canary weighed less than its file: {report:#}");
        assert!(after <= level * 1.1, "cycle {cycle}: {after:.1} MiB after, {level:.1} before");
        assert!(after <= settled * 1.1, "cycle {cycle}: {after:.1} MiB, settled at {settled:.1}");
    }
    let (replies, failures) = (chatter.replies.into_inner(), chatter.failures.into_inner());
    println!("{replies} replies, {failures} failures");
    assert_eq!(failures, 0);
    assert!(replies as usize > CYCLES, "there was no load to speak of: {replies} replies");
}

/// Loads the canary, gives it half of the traffic, rolls it back; returns the unload's report.
fn one_cycle(server: &Process, canary: &Path, cycle: usize) -> Value {
    // The version was rolled back in the previous cycle, so it has to be requested explicitly.
    server.operate(&["canary", "load", "--retry", canary.to_str().expect("text")]);
    server.operate(&["weight", "50"]);
    let ask = chat("What does the serin eat?", false, 4);
    for _ in 0..4 {
        let (code, text) = server.http("POST", "/v1/chat/completions", Some(&ask));
        assert_eq!(code, 200, "{text}");
    }
    let said = server.operate(&["rollback", "--reason", "the next one"]);
    assert!(said.starts_with("rolled back; canary unloaded"), "{said}");
    let status = server.until("unloaded", |s| {
        s["unloads"].as_array().is_some_and(|unloads| unloads.len() == cycle + 1)
    });
    assert_eq!(status["phase"], "rolled_back");
    status["unloads"][cycle].clone()
}

/// Two hundred clients disconnect at random moments: every KV block is freed and no arm is blamed.
#[test]
fn clients_that_leave_cost_nothing() {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve(&["--config", &config(dir.path(), REST)]);
    let canary = models().join("tiny-v2");
    server.operate(&["canary", "load", canary.to_str().expect("text")]);
    server.operate(&["weight", "50"]);
    for client in 0..200u64 {
        let body = chat("Sort these words: pear, apple, fig and plum.", client % 2 == 0, 400);
        let body = with(body, json!({"ignore_eos": true}));
        let mut stream = server.send("POST", "/v1/chat/completions", Some(&body));
        let stay = Duration::from_millis(client * 7 % 61);
        stream.set_read_timeout(Some(stay.max(Duration::from_millis(1)))).expect("a timeout");
        let _ = stream.read(&mut [0; 64]);
        // Some close at once with unread data, which resets the connection; others close normally.
        if client % 3 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
    let idle = |status: &Value| {
        let lanes = status["arms"].as_array().expect("arms").iter().map(|arm| &arm["lane"]);
        lanes
            .into_iter()
            .all(|lane| ["running", "waiting", "blocks_used"].iter().all(|key| lane[*key] == 0))
    };
    let status = server.until("idle", idle);
    let arms = status["arms"].as_array().expect("arms");
    let cancelled: u64 =
        arms.iter().map(|arm| arm["lane"]["cancelled"].as_u64().expect("a count")).sum();
    println!("{cancelled} generations cancelled");
    assert!(cancelled >= 150, "{status:#}");
    for arm in arms {
        assert_eq!(arm["figures"]["total_errors"], 0, "{status:#}");
    }
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
}

fn with(mut body: Value, more: Value) -> Value {
    let (Some(body_fields), Value::Object(more)) = (body.as_object_mut(), more) else {
        panic!("objects");
    };
    body_fields.extend(more);
    body
}

/// Every operator's command has the effect that `serin status` then shows.
#[test]
fn operators_steer_a_live_rollout() {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve(&["--config", &config(dir.path(), REST)]);
    let canary = models().join("tiny-v2");
    assert!(server.operate(&["status"]).contains("idle"), "nothing runs yet");
    let path = canary.to_str().expect("text");
    server.operate(&["canary", "load", path, "--by", "ann", "--reason", "it sorts better"]);
    let weight = |server: &Process| server.status()["weight"].clone();
    assert_eq!(weight(&server), 5);
    server.operate(&["pause"]);
    assert_eq!(server.status()["phase"], "paused");
    server.operate(&["resume"]);
    assert_eq!(server.status()["phase"], "running");
    server.operate(&["weight", "37"]);
    assert_eq!(weight(&server), 37);
    let stale = ["weight", "50", "--expect", "1", "--by", "bob", "--server", &server.server()];
    assert!(!serin(&stale).status.success(), "the revision is another by now");
    let twice = serin(&["canary", "load", "x", "--by", "carl", "--server", &server.server()]);
    assert!(!twice.status.success());
    assert!(String::from_utf8_lossy(&twice.stderr).contains("already loaded"));
    for order in [&["promote", "--now", "--dry-run"][..], &["rollback", "--dry-run"]] {
        let said = server.operate(order);
        assert!(said.contains("nothing is changed") && said.contains("tiny-v2"), "{said}");
        assert_eq!((weight(&server), &server.status()["phase"]), (37.into(), &"running".into()));
    }
    server.operate(&["promote", "--now", "--reason", "it is better"]);
    let status = server.until("promoted", |s| s["phase"] == "promoted");
    assert_eq!(status["arms"][0]["version"], "tiny-v2", "{status:#}");
    assert_eq!(status["previous"], "tiny-v1", "{status:#}");
    let text = server.operate(&["status"]);
    assert!(text.contains("promoted") && text.contains("serin undo"), "{text}");
    server.operate(&["undo"]);
    let status = server.until("undone and unloaded", |s| {
        s["arms"][0]["version"] == "tiny-v1"
            && s["unloads"].as_array().is_some_and(|u| u.len() == 1)
    });
    assert_eq!(status["unloads"][0]["version"], "tiny-v2", "{status:#}");
    let ledger = dir.path().join("serin.ledger");
    let show = serin(&["ledger", "show", ledger.to_str().expect("text")]);
    let shown = String::from_utf8(show.stdout).expect("text");
    for told in ["it is better", "promoted: ", "undone: ", "tiny-v2"] {
        assert!(shown.contains(told), "no {told:?} in\n{shown}");
    }
    // Who asked for the canary and why; and the refused order, with the response.
    let line = |who: &str| {
        let found = shown.lines().find(|line| line.contains(who));
        found.unwrap_or_else(|| panic!("nothing of {who} in\n{shown}"))
    };
    assert!(line("ann").contains("it sorts better") && line("ann").contains("\"refused\":null"));
    assert!(line("bob").contains("things have changed"), "{}", line("bob"));
    assert!(line("carl").contains("already loaded"), "{}", line("carl"));
    for command in [&["ledger", "verify"][..], &["replay"]] {
        let output = serin(&[command, &[ledger.to_str().expect("text")]].concat());
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}
