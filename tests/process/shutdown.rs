//! How a server shuts down, and what it does with its log and its config until then; as real processes.

use crate::support::*;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
/// The rest of a config with these server settings.
fn server(settings: &str) -> String {
    format!("[server]\n{settings}\n")
}

/// A stream of about 250 tokens: with `ignore_eos`, tiny-v1 does not stop by itself.
fn stream(server: &Process) -> std::net::TcpStream {
    let mut body = chat("Tell me a story.", true, 250);
    body["ignore_eos"] = true.into();
    let mut stream = server.send("POST", "/v1/chat/completions", Some(&body));
    let mut first = [0; 64];
    assert!(stream.read(&mut first).expect("a reply") > 0);
    stream
}

fn rest(mut stream: std::net::TcpStream) -> String {
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("text to its end");
    all
}

#[test]
fn a_server_that_is_told_to_end_says_so_first_and_finishes_what_runs() {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve(&["--config", &config(dir.path(), &server("lame_duck = \"2s\""))]);
    let streams: Vec<_> = (0..8).map(|_| stream(&server)).collect();
    server.signal("TERM");
    wait_for("readiness to fail", || {
        (server.try_http("GET", "/readyz", None)?.0 == 503).then_some(())
    });
    assert_eq!(server.http("GET", "/livez", None).0, 200);
    let late = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(late.0, 200, "still taken: {}", late.1);
    for text in streams.into_iter().map(rest) {
        assert!(text.contains("data: [DONE]"), "{text}");
    }
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn what_is_cut_off_is_told_so() {
    let dir = TempDir::new().expect("a folder");
    let settings = "drain = \"200ms\"\nlame_duck = \"0s\"";
    let server = Process::serve(&["--config", &config(dir.path(), &server(settings))]);
    let streams: Vec<_> = (0..32).map(|_| stream(&server)).collect();
    server.signal("TERM");
    let ends: Vec<_> = streams.into_iter().map(rest).collect();
    assert!(
        ends.iter().all(|text| text.contains("[DONE]") != text.contains("shutting_down")),
        "{ends:?}"
    );
    assert!(ends.iter().any(|text| text.contains("shutting_down")), "none was cut off: {ends:?}");
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once_and_is_nothing_against_the_canary() {
    let dir = TempDir::new().expect("a folder");
    let settings = "drain = \"10m\"\nlame_duck = \"10m\"";
    let config = config(dir.path(), &server(settings));
    for _ in 0..3 {
        let server = Process::serve(&["--config", &config]);
        if server.status()["phase"] == "idle" {
            server.operate(&["canary", "load", models().join("tiny-v2").to_str().expect("text")]);
        }
        let _streams: Vec<_> = (0..8).map(|_| stream(&server)).collect();
        server.signal("TERM");
        wait_for("readiness to fail", || {
            (server.try_http("GET", "/readyz", None)?.0 == 503).then_some(())
        });
        server.signal("TERM");
        assert_eq!(server.end().code(), Some(130));
    }
    let server = Process::serve(&["--config", &config]);
    assert_eq!(server.status()["phase"], "running", "three ends on purpose");
}

#[test]
fn a_server_that_loads_ends_when_it_is_told_to() {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve(&["--config", &config(dir.path(), &server(""))]);
    // A canary of 256 GiB, nearly all of it a hole in the file: reading it for its digest takes at least a
    // minute.
    let slow = dir.path().join("slow");
    copy_model(&models().join("tiny-v2"), &slow);
    lengthen(&slow.join("model.safetensors"), 256 << 30);
    let _asked =
        server.send("POST", "/admin/canary/load", Some(&serde_json::json!({"path": slow})));
    server.until("loading", |status| !status["loading"].is_null());
    server.signal("INT");
    let begun = Instant::now();
    assert_eq!(server.end().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

/// Adds an unused tensor of this many bytes to a file, as a hole that takes no disk space.
fn lengthen(path: &Path, bytes: u64) {
    let old = fs::read(path).expect("a file");
    let length = u64::from_le_bytes(old[..8].try_into().expect("eight bytes")) as usize;
    let (header, data) = old[8..].split_at(length);
    let mut header: serde_json::Value = serde_json::from_slice(header).expect("a header");
    let (from, to) = (data.len() as u64, data.len() as u64 + bytes);
    header["model.layers.0.self_attn.rotary_emb.inv_freq"] =
        serde_json::json!({"dtype": "U8", "shape": [bytes], "data_offsets": [from, to]});
    let header = header.to_string();
    let new = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    fs::write(path, &new).expect("written");
    let file = fs::OpenOptions::new().write(true).open(path).expect("a file");
    file.set_len(new.len() as u64 + bytes).expect("a long file");
}

/// The log is not read, and everything is logged: far more than a pipe holds.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve_unread(
        &["--config", &config(dir.path(), &server(""))],
        &[("RUST_LOG", "trace")],
    );
    wait_for("lines to be dropped, and counted", || {
        let (code, text) =
            server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
        assert_eq!(code, 200, "{text}");
        let metrics = server.http("GET", "/metrics", None).1;
        let line =
            metrics.lines().find_map(|l| l.strip_prefix("serin_log_lines_dropped_total "))?;
        (line.parse::<f64>().ok()? > 0.0).then_some(())
    });
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
    server.signal("TERM");
    assert_eq!(server.end().code(), Some(0));
}

#[test]
fn a_hangup_reads_the_log_filter_again_and_names_what_takes_a_restart() {
    let dir = TempDir::new().expect("a folder");
    let path = config(dir.path(), &server("log = \"info\""));
    let log = dir.path().join("log");
    let server = Process::serve_logged(&["--config", &path], &log);
    let said = |what: &str| {
        wait_for(what, || fs::read_to_string(&log).ok()?.contains(what).then_some(()));
    };
    server.signal("HUP");
    said("nothing has changed");
    let text = fs::read_to_string(&path).expect("a config");
    let text = text.replace("log = \"info\"", "log = \"debug\"\nmax_n = 3");
    fs::write(&path, text).expect("written");
    server.signal("HUP");
    said("the log filter has changed");
    said("take effect only after a restart: server.max_n");
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("a config");
    writeln!(file, "nonsense = 1").expect("written");
    server.signal("HUP");
    said("the config cannot be used");
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
}
