//! Keys with the real program: `serin key`, the keys file of a running server, and listeners that need keys.

use crate::support::*;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

fn make(file: &Path, name: &str, scope: &str, more: &[&str]) -> String {
    let file = file.to_str().unwrap();
    let args = [&["key", "new", "--keys", file, "--name", name, "--scope", scope], more].concat();
    let made = serin(&args);
    assert!(made.status.success(), "{}", said(&made));
    let secret = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(secret.starts_with("sk-serin-") && !secret.contains(char::is_whitespace), "{secret}");
    secret
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.toml");
    let more = ["--requests-per-minute", "60", "--concurrency", "2", "--expires", "90d"];
    let first = make(&file, "web team", "inference,metrics", &more);
    let second = make(&file, "ops", "admin", &["--expires", "2020-01-01"]);
    assert_ne!(first, second);
    let path = file.to_str().unwrap();
    let list = said(&serin(&["key", "list", "--keys", path]));
    for text in ["web team", "inference,metrics", "60 requests/min", "2 at a time", "until 20"] {
        assert!(list.contains(text), "{text}: {list}");
    }
    assert!(list.contains("EXPIRED") && !list.contains(&first), "{list}");
    // The config names the file too.
    let config = folder.path().join("serin.toml");
    fs::write(&config, "[access]\nkeys = \"keys.toml\"\n").unwrap();
    let id = list.split_whitespace().next().unwrap();
    let revoked = serin(&["key", "revoke", "--config", config.to_str().unwrap(), id]);
    assert!(revoked.status.success(), "{}", said(&revoked));
    let list = said(&serin(&["key", "list", "--keys", path]));
    assert!(!list.contains("web team") && list.contains("ops"), "{list}");
    for (args, what) in [
        (vec!["key", "list"], "which keys file?"),
        (vec!["key", "revoke", "--keys", path, "nobody"], "there is no key"),
        (vec!["key", "new", "--keys", path, "--name", "x", "--scope", "root"], "is not a scope"),
        (vec!["key", "new", "--keys", path, "--name", "x"], "--scope"),
        (vec!["key", "new", "--keys", path, "--name", "", "--scope", "admin"], "a name is"),
        (
            vec![
                "key",
                "new",
                "--keys",
                path,
                "--name",
                "x",
                "--scope",
                "admin",
                "--expires",
                "soon",
            ],
            "--expires",
        ),
        (vec!["key", "list", "--keys", "/nowhere/keys.toml"], "there is no keys file"),
    ] {
        let refused = serin(&args);
        assert!(
            !refused.status.success() && said(&refused).contains(what),
            "{args:?}: {}",
            said(&refused)
        );
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = said(&serin(&["key", "list", "--keys", path]));
    assert!(refused.contains("chmod 600"), "{refused}");
}

#[test]
fn a_listener_that_others_can_reach_needs_keys() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("serin.toml");
    let config = config.to_str().unwrap();
    fs::write(config, "[ledger]\nenabled = false\n").unwrap();
    let refused = serin(&["serve", "--config", config, "--listen", "0.0.0.0:0"]);
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("serin key new") && text.contains("allow_open = true"), "{text}");
    fs::write(config, "[access]\nkeys = \"keys.toml\"\n[ledger]\nenabled = false\n").unwrap();
    let refused = said(&serin(&["serve", "--config", config, "--listen", "0.0.0.0:0"]));
    assert!(refused.contains("there is no keys file"), "{refused}");
}

/// One request; its status.
fn status(server: &Process, key: &str) -> u16 {
    let mut stream = TcpStream::connect(&server.addr).expect("a connection");
    let head = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    write!(stream, "{head}authorization: Bearer {key}\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
}

#[test]
fn a_running_server_takes_up_a_changed_file_and_says_what_is_wrong_with_a_broken_one() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("keys.toml");
    let first = make(&file, "first", "inference", &[]);
    let rest = "[access]\nkeys = \"keys.toml\"\n";
    let config = config(folder.path(), rest);
    let server = Process::serve(&["--config", &config]);
    assert_eq!((status(&server, &first), status(&server, "sk-serin-wrong")), (200, 401));
    let second = make(&file, "second", "inference", &[]);
    wait_for("the second key", || (status(&server, &second) == 200).then_some(()));
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "[[key").unwrap();
    server.until("a problem", |status| status["keys"]["problem"].is_string());
    let told = server.operate(&["status"]);
    assert!(told.contains("the keys file is invalid"), "{told}");
    assert_eq!((status(&server, &first), status(&server, &second)), (200, 200));
    fs::write(&file, good).unwrap();
    server.until("no problem", |status| status["keys"]["problem"].is_null());
    let list = said(&serin(&["key", "list", "--keys", file.to_str().unwrap()]));
    let id = list.split_whitespace().next().unwrap();
    serin(&["key", "revoke", "--keys", file.to_str().unwrap(), id]);
    wait_for("the first is refused", || (status(&server, &first) == 401).then_some(()));
    assert_eq!(status(&server, &second), 200);
}
