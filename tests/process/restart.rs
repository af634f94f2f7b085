//! A server that is killed in the middle of a rollout: acknowledged orders are still there afterwards, the
//! weight is never above the last one written, and the ledger verifies. It is killed far more often than a
//! canary would be forgiven, so kills do not count here (`well_after`).
//!
//! `SERIN_KILLS` sets the number of kills; the default suits a test run.

use crate::support::*;
use serde_json::{Value, json};
use serin::ledger::{Entry, Ledger, Options, Reader, Stamp};
use serin::model::{LoadFormat, Weights};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
/// What one process acknowledged before it was killed.
#[derive(Default)]
struct Acknowledged {
    /// Weights in order; the loading of a canary is the first step.
    weights: Vec<u64>,
    /// The last order was in progress when the process died: it may or may not have been carried out.
    pending: Option<u64>,
}

/// Sets one weight after the other until the process is gone; sets `begun` at the first acknowledged one.
fn operate(server: &Process, seed: u64, begun: &AtomicBool) -> Acknowledged {
    let mut done = Acknowledged::default();
    for number in 0.. {
        let percent = (seed * 31 + number * 17) % 100 + 1;
        let Some(status) = server.try_http("GET", "/admin/status", None) else { return done };
        let status: Value = serde_json::from_str(&status.1).expect("JSON");
        let order = json!({"percent": percent, "expect": status["revision"], "by": "a test"});
        done.pending = Some(percent);
        match server.try_http("POST", "/admin/weight", Some(&order)) {
            Some((200, _)) => {
                done.weights.push(percent);
                begun.store(true, Ordering::Relaxed);
            }
            Some((code, body)) => {
                let path = status["ledger"]["path"].as_str().expect("a ledger");
                let shown = serin(&["ledger", "show", path, "--last", "8"]);
                panic!("{code}: {body}\n{}", String::from_utf8_lossy(&shown.stdout));
            }
            None => return done,
        }
        done.pending = None;
    }
    done
}

/// Chats until stopped; whether it is answered does not matter here.
fn chatter(server: &Process, stop: &AtomicBool) {
    let body = chat("What is 7 plus 5?", false, 8);
    while !stop.load(Ordering::Relaxed) {
        if server.try_http("POST", "/v1/chat/completions", Some(&body)).is_none() {
            return;
        }
    }
}

/// Runs one process and kills it at a moment that the seed determines; in one of four lives, this may be
/// before the first order.
fn one_life(config: &str, first: bool, seed: u64) -> Acknowledged {
    let server = Process::serve(&["--config", config]);
    if first {
        let canary = models().join("tiny-v2");
        server.operate(&["canary", "load", canary.to_str().expect("text")]);
    }
    let (stop, begun) = (AtomicBool::new(false), AtomicBool::new(seed.is_multiple_of(4)));
    std::thread::scope(|scope| {
        let orders = scope.spawn(|| operate(&server, seed, &begun));
        scope.spawn(|| chatter(&server, &stop));
        while !begun.load(Ordering::Relaxed) && !orders.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(seed * 37 % 160));
        let kill = Command::new("kill").args(["-9", &server.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let done = orders.join().expect("no order was refused");
        stop.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_killed_server_goes_on_where_it_was() {
    let kills: u64 = std::env::var("SERIN_KILLS").map_or(12, |n| n.parse().expect("a number"));
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), &[BY_ORDER, "well_after = \"0s\"\n"].concat());
    let ledger = dir.path().join("serin.ledger");
    let (mut expected, mut orders) = (5, 0);
    for kill in 0..kills {
        let done = one_life(&config, kill == 0, kill);
        orders += done.weights.len();
        expected = done.weights.last().copied().unwrap_or(expected);
        let server = Process::serve(&["--config", &config]);
        let status = server.status();
        let weight = status["weight"].as_u64().expect("a weight");
        assert_eq!(status["phase"], "running", "kill {kill}: {status:#}");
        assert!(
            weight == expected || Some(weight) == done.pending,
            "kill {kill}: at {weight} %, last acknowledged {expected}, pending {:?}",
            done.pending
        );
        expected = weight;
        drop(server);
        let path = ledger.to_str().expect("text");
        let verify = serin(&["ledger", "verify", path]);
        assert!(verify.status.success(), "kill {kill}: {verify:?}");
    }
    let replay = serin(&["replay", ledger.to_str().expect("text")]);
    assert!(replay.status.success(), "{replay:?}");
    println!("{kills} kills, {orders} orders acknowledged, none lost; the chain verifies");
    assert!(orders as u64 >= kills * 3 / 4, "orders were given in most lives: {orders}");
}

#[test]
fn a_promotion_outlives_a_restart() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), &[BY_ORDER, "well_after = \"0s\"\n"].concat());
    let canary = models().join("tiny-v2");
    {
        let server = Process::serve(&["--config", &config]);
        server.operate(&["canary", "load", canary.to_str().expect("text")]);
        server.operate(&["promote", "--now"]);
    }
    let server = Process::serve(&["--config", &config]);
    let status = server.status();
    assert_eq!(status["arms"][0]["version"], "tiny-v2", "{status:#}");
    drop(server);
    // A configuration that names another model takes precedence.
    let text = fs::read_to_string(&config).expect("a config").replace("tiny-v1", "tiny-v3");
    fs::write(&config, text).expect("written");
    let server = Process::serve(&["--config", &config]);
    assert_eq!(server.status()["arms"][0]["version"], "tiny-v3");
}

#[test]
fn a_canary_that_changed_on_disk_is_given_up() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), &[BY_ORDER, "well_after = \"0s\"\n"].concat());
    let canary = dir.path().join("canary");
    copy_model(&models().join("tiny-v2"), &canary);
    {
        let server = Process::serve(&["--config", &config]);
        server.operate(&["canary", "load", canary.to_str().expect("text")]);
    }
    copy_model(&models().join("tiny-v3"), &canary);
    let server = Process::serve(&["--config", &config]);
    let status = server.status();
    assert_eq!((&status["phase"], &status["weight"]), (&json!("idle"), &json!(0)), "{status:#}");
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
    let ledger = dir.path().join("serin.ledger");
    // Entries reach the disk a little after they take effect.
    wait_for("the reason in the ledger", || {
        let show = serin(&["ledger", "show", ledger.to_str().expect("text")]);
        String::from_utf8_lossy(&show.stdout).contains("has changed").then_some(())
    });
}

/// Appends to a model's template, so that every reply is another.
fn change_template(model: &Path) {
    let path = model.join("tokenizer_config.json");
    let text = fs::read_to_string(&path).expect("a file");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    let template = config["chat_template"].as_str().expect("a template");
    config["chat_template"] = [template, "Well: "].concat().into();
    fs::write(&path, config.to_string()).expect("written");
}

#[test]
fn a_template_that_changed_on_disk_ends_the_rollout() {
    for changed in ["stable", "canary"] {
        let dir = TempDir::new().expect("a folder");
        let place = |name: &str| dir.path().join(name);
        copy_model(&models().join("tiny-v1"), &place("stable"));
        copy_model(&models().join("tiny-v2"), &place("canary"));
        let config = config(dir.path(), &[BY_ORDER, "well_after = \"0s\"\n"].concat());
        let text = fs::read_to_string(&config).expect("a config");
        let text = text.replace(
            models().join("tiny-v1").to_str().expect("text"),
            place("stable").to_str().expect("text"),
        );
        fs::write(&config, text).expect("written");
        {
            let server = Process::serve(&["--config", &config]);
            server.operate(&["canary", "load", place("canary").to_str().expect("text")]);
        }
        change_template(&place(changed));
        let server = Process::serve(&["--config", &config]);
        let status = server.status();
        assert_eq!(
            (&status["phase"], &status["weight"]),
            (&json!("idle"), &json!(0)),
            "{status:#}"
        );
        let ledger = dir.path().join("serin.ledger");
        wait_for("the reason in the ledger", || {
            let show = serin(&["ledger", "show", ledger.to_str().expect("text")]);
            let show = String::from_utf8_lossy(&show.stdout).into_owned();
            let why = format!("{changed} {changed} (");
            (show.contains(&why) && show.contains("its weights are the same, but")).then_some(())
        });
    }
}

#[test]
fn a_version_with_a_mended_template_is_not_the_one_that_was_rejected() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    // The weights are those of stable: only the template makes it another version.
    let canary = dir.path().join("canary");
    copy_model(&models().join("tiny-v1"), &canary);
    change_template(&canary);
    let server = Process::serve(&["--config", &config]);
    let load = ["canary", "load", canary.to_str().expect("text")];
    server.operate(&load);
    server.operate(&["rollback", "--reason", "a broken template"]);
    let again = serin(&[&load[..], &["--server", &server.server()]].concat());
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && error.contains("a broken template"), "{error}");
    change_template(&canary);
    server.operate(&load);
    assert_eq!(server.status()["phase"], "running");
}

/// A ledger of a serin that identified versions by configuration and weights alone.
#[tokio::test]
async fn a_version_that_an_earlier_serin_rejected_is_known_still() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    let canary = models().join("tiny-v2");
    let digest = Weights::open(&canary, LoadFormat::Auto).expect("a model").digest();
    let (digest, reason) = (digest.expect("a digest"), "errors, years ago".to_owned());
    let at = Stamp { unix_ms: 0, rollout: Duration::ZERO };
    let path = dir.path().join("serin.ledger");
    let (ledger, _) = Ledger::open(&path, Options::default(), at, "0", "stable").expect("a ledger");
    let rejected = Entry::Rejected { digest: digest.clone(), reason };
    ledger.commit(at, None, vec![rejected]).await.expect("written");
    drop(ledger);
    let server = Process::serve(&["--config", &config]);
    let load = ["canary", "load", canary.to_str().expect("text")];
    let again = serin(&[&load[..], &["--server", &server.server()]].concat());
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && error.contains("errors, years ago"), "{error}");
    server.operate(&[&load[..], &["--retry"]].concat());
    let found = server.status()["arms"][1]["digest"].as_str().expect("one").to_owned();
    assert!(found.starts_with("v2:") && found.ends_with(&digest), "{found}");
    // The pardon names the digest that was rejected, so the version is free.
    let state = || Reader::open(&path).expect("a ledger").state().expect("a state");
    wait_for("the pardon", || state().rejected.is_empty().then_some(()));
}

#[test]
fn two_servers_do_not_share_a_ledger() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), &[BY_ORDER, "well_after = \"0s\"\n"].concat());
    let _first = Process::serve(&["--config", &config]);
    let second = serin(&["serve", "--listen", "127.0.0.1:0", "--config", &config]);
    let error = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success(), "{error}");
    assert!(error.contains("serin.ledger") && error.contains("serin: "), "{error}");
}
