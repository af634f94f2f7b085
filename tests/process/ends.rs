//! A server that dies while a canary is loaded, as real processes: by its own signals, by kills, by running
//! out of memory. Tests what the next start does about it, and that stable answers each time.

use crate::support::*;
use serde_json::json;
use serin::control::Life;
use std::fs;
use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

fn canary() -> String {
    models().join("tiny-v2").to_str().expect("text").to_owned()
}

fn life(dir: &Path) -> PathBuf {
    dir.join("serin.ledger.life")
}

fn serve(config: &str) -> Process {
    Process::serve(&["--config", config])
}

fn with_canary(config: &str) -> Process {
    let server = serve(config);
    server.operate(&["canary", "load", &canary()]);
    server
}

/// Ends a server by a signal and waits until it is gone.
fn end_by(server: Process, signal: &str) {
    server.signal(signal);
    let status = server.end();
    assert_eq!(status.code(), None, "it died of a signal: {status}");
}

fn answers(server: &Process) {
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
}

fn shown(dir: &Path) -> String {
    let show = serin(&["ledger", "show", dir.join("serin.ledger").to_str().expect("text")]);
    String::from_utf8_lossy(&show.stdout).into_owned()
}

/// Stable serves alone, the version is rejected, and the alert and the status say why.
fn is_refused(server: &Process, dir: &Path, why: &str) {
    answers(server);
    let status = server.status();
    let arms = (&status["arms"][0]["loaded"], &status["arms"][1]["loaded"]);
    assert_eq!(arms, (&json!(true), &json!(false)), "{status:#}");
    assert_eq!((&status["weight"], &status["phase"]), (&json!(0), &json!("rolled_back")));
    assert!(status["reason"].as_str().expect("a reason").contains(why), "{status:#}");
    assert!(server.operate(&["status"]).contains(why));
    let again = json!({"path": canary(), "by": "a test"});
    let (code, text) = server.http("POST", "/admin/canary/load", Some(&again));
    assert!(code == 400 && text.contains("rejected before") && text.contains(why), "{code} {text}");
    let path = dir.join("serin.ledger");
    let verify = serin(&["ledger", "verify", path.to_str().expect("text")]);
    assert!(verify.status.success(), "{verify:?}");
    let replay = serin(&["replay", path.to_str().expect("text")]);
    assert!(replay.status.success(), "{replay:?}");
}

#[test]
fn a_signal_of_its_own_refuses_the_canary_at_once() {
    for (signal, name) in [("ABRT", "SIGABRT"), ("SEGV", "SIGSEGV"), ("BUS", "SIGBUS")] {
        let dir = TempDir::new().expect("a folder");
        let config = config(dir.path(), BY_ORDER);
        end_by(with_canary(&config), signal);
        let server = serve(&config);
        is_refused(&server, dir.path(), name);
        assert!(shown(dir.path()).contains("unclean_end"));
        // It can still be loaded on request, and is kept after an orderly shutdown.
        server.operate(&["canary", "load", &canary(), "--retry"]);
        server.signal("TERM");
        assert_eq!(server.end().code(), Some(0));
        assert!(!life(dir.path()).exists(), "an orderly end leaves nothing");
        let server = serve(&config);
        assert_eq!(server.status()["weight"], 5);
    }
}

#[test]
fn a_kill_is_forgiven_once_and_a_second_one_is_not() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    end_by(with_canary(&config), "KILL");
    let server = serve(&config);
    answers(&server);
    assert_eq!(
        (&server.status()["phase"], &server.status()["weight"]),
        (&json!("running"), &json!(5))
    );
    end_by(server, "KILL");
    let server = serve(&config);
    is_refused(&server, dir.path(), "(2 times)");
    // Without a canary, a server may be killed any number of times.
    end_by(server, "KILL");
    let server = serve(&config);
    answers(&server);
    assert_eq!(server.status()["phase"], "idle");
}

#[test]
fn a_kill_is_forgotten_once_the_canary_was_well() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), &[BY_ORDER, "well_after = \"50ms\""].concat());
    let mut server = with_canary(&config);
    for kills in 1..=3 {
        wait_for("the canary is well", || {
            (shown(dir.path()).matches("canary_well").count() >= kills).then_some(())
        });
        end_by(server, "KILL");
        server = serve(&config);
        assert_eq!(server.status()["phase"], "running", "kill {kills}");
    }
}

#[test]
fn another_boot_and_a_weight_of_zero_blame_nobody() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    let mut server = with_canary(&config);
    for _ in 0..3 {
        end_by(server, "KILL");
        let text = fs::read_to_string(life(dir.path())).expect("it is left");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
        fs::write(life(dir.path()), text.replace(boot.trim(), "another")).expect("written");
        server = serve(&config);
        assert_eq!(server.status()["weight"], 5, "the rollout goes on");
    }
    server.operate(&["weight", "0"]);
    end_by(server, "SEGV");
    let server = serve(&config);
    let status = server.status();
    assert_eq!((&status["phase"], &status["arms"][1]["loaded"]), (&json!("running"), &json!(true)));
}

/// A real OOM kill, where a memory cgroup can be created.
#[test]
fn a_real_kill_for_want_of_memory_is_known_as_one() {
    let Some(group) = Group::make() else {
        eprintln!("SKIPPED: no memory cgroup can be made here");
        return;
    };
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    let server = group.serve(&config);
    server.operate(&["canary", "load", &canary()]);
    group.starve();
    let prompt = "one two three ".repeat(250_000);
    let ask = json!({"model": "tiny", "prompt": prompt, "max_tokens": 1});
    wait_for("the kill", || {
        let _ = server.try_http("POST", "/v1/completions", Some(&ask));
        group.kills().filter(|kills| *kills > 0)
    });
    drop(server);
    group.relieve();
    let server = group.serve(&config);
    is_refused(&server, dir.path(), "the kernel's OOM killer");
}

#[test]
fn a_canary_that_the_configuration_names_is_refused_too() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    let named = canary();
    let args = ["--config", config.as_str(), "--canary", named.as_str()];
    let server = Process::serve(&args);
    assert_eq!(server.status()["weight"], 5);
    end_by(server, "ABRT");
    for _ in 0..2 {
        let server = Process::serve(&args);
        answers(&server);
        assert_eq!(server.status()["arms"][1]["loaded"], false);
        server.signal("TERM");
        assert_eq!(server.end().code(), Some(0));
    }
}

const OVERFLOWING: &str = "SERIN_OVERFLOWING";

/// Not a test when run by itself: a process that replaces the previous server and overflows a stack.
#[test]
fn overflows() {
    let Some(ledger) = std::env::var_os(OVERFLOWING).map(PathBuf::from) else { return };
    let (life, before) = Life::begin(&ledger, None);
    life.on_trial(before.expect("a server before").trial);
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(|| deep(0));
    let _ = thread.expect("a thread").join();
}

fn deep(depth: u64) -> u64 {
    match black_box(depth) {
        u64::MAX => 0,
        depth => black_box([depth; 32])[31] + deep(depth + 1),
    }
}

#[test]
fn an_overflown_stack_is_a_fatal_signal_like_any_other() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    end_by(with_canary(&config), "KILL");
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "ends::overflows", "--nocapture", "--test-threads=1"]);
    let output =
        command.env(OVERFLOWING, dir.path().join("serin.ledger")).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("has overflowed its stack"), "Rust's own handler has its say: {said}");
    assert_eq!(output.status.signal(), Some(6), "and ends in an abort");
    let server = serve(&config);
    is_refused(&server, dir.path(), "SIGSEGV");
}
