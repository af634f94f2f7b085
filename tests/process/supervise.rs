//! `serin serve --supervise` with real processes: a server that dies is restarted, and one that is told to
//! stop stays stopped.

use crate::support::*;
use std::fs;
use std::net::TcpStream;
use tempfile::TempDir;
/// The only child of a process.
fn child_of(parent: u32) -> u32 {
    wait_for("a child", || {
        let all = fs::read_dir("/proc").expect("processes");
        all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| parent_of(*pid) == Some(parent))
    })
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may contain anything; the state and the parent's pid follow.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn answers(server: &Process) {
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
}

#[test]
fn a_server_that_is_killed_comes_back_and_both_end_when_told() {
    let dir = TempDir::new().expect("a folder");
    let mut server = Process::serve(&["--supervise", "--config", &config(dir.path(), BY_ORDER)]);
    answers(&server);
    let canary = models().join("tiny-v2");
    server.operate(&["canary", "load", canary.to_str().expect("text")]);
    // Killed once, the rollout continues; killed twice, stable serves alone.
    for phase in ["running", "rolled_back", "idle"] {
        let child = child_of(server.id());
        send_signal(child, "KILL");
        server.greeted();
        assert_ne!(child_of(server.id()), child);
        answers(&server);
        let status = server.status();
        assert_eq!(status["phase"], phase, "{status:#}");
    }
    assert_eq!(server.status()["arms"][1]["loaded"], false);
    let (child, addr) = (child_of(server.id()), server.addr.clone());
    server.signal("TERM");
    assert_eq!(server.end().code(), Some(0));
    assert_eq!(parent_of(child), None, "the child has ended before");
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn a_server_does_not_outlive_its_supervisor() {
    let dir = TempDir::new().expect("a folder");
    let server = Process::serve(&["--supervise", "--config", &config(dir.path(), BY_ORDER)]);
    let (child, addr) = (child_of(server.id()), server.addr.clone());
    server.signal("KILL");
    server.end();
    wait_for("the child's end", || TcpStream::connect(&addr).err());
    wait_for("the child's end", || parent_of(child).is_none().then_some(()));
}

#[test]
fn what_cannot_begin_is_not_tried_again() {
    let dir = TempDir::new().expect("a folder");
    let path = config(dir.path(), BY_ORDER);
    let text = fs::read_to_string(&path).expect("a config").replace("tiny-v1", "nowhere");
    fs::write(&path, text).expect("written");
    let output = serin(&["serve", "--supervise", "--listen", "127.0.0.1:0", "--config", &path]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(told.matches("the server is started").count(), 1, "{told}");
}

#[test]
fn a_server_without_a_canary_lets_an_unfinished_rollout_go() {
    let dir = TempDir::new().expect("a folder");
    let config = config(dir.path(), BY_ORDER);
    let canary = models().join("tiny-v2");
    {
        let server = Process::serve(&["--config", &config]);
        server.operate(&["canary", "load", canary.to_str().expect("text")]);
    }
    let named = canary.to_str().expect("text");
    let alone = ["--config", &config, "--canary", named, "--no-canary"];
    let server = Process::serve(&alone);
    let status = server.status();
    assert_eq!((&status["phase"], &status["arms"][1]["loaded"]), (&"idle".into(), &false.into()));
    let ledger = dir.path().join("serin.ledger");
    // Entries reach the disk a little after they take effect.
    wait_for("the reason in the ledger", || {
        let show = serin(&["ledger", "show", ledger.to_str().expect("text")]);
        String::from_utf8_lossy(&show.stdout).contains("--no-canary").then_some(())
    });
    server.operate(&["canary", "load", named]);
}
