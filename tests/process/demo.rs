//! `serin demo --bad=FAULT` over real HTTP: every fault is found, by the gate that is meant for it.

use std::process::Command;

/// A fault, what follows, and what the reason on the screen must name.
type Row = (&'static str, &'static str, &'static str);

/// Faults that roll back.
const ROLLED_BACK: [Row; 5] = [
    ("nan", "rolled back from 5 % (errors)", "errors"),
    ("empty", "rolled back from 5 % (quality)", "empty replies"),
    ("endless", "rolled back from 5 % (quality)", "replies that loop"),
    (
        "template",
        "rolled back from 5 % (errors)",
        "its chat template no longer takes a system message",
    ),
    ("context", "rolled back from 5 % (errors)", "its context"),
];

/// Faults that hold.
const HELD: [Row; 2] =
    [("hang", "held at 5 %", "cancelled"), ("slow", "held at 5 %", "throughput")];

#[test]
fn faults_that_roll_back_are_found_and_no_client_sees_them() {
    are_found(&ROLLED_BACK);
}

#[test]
fn faults_that_hold_are_found_and_no_client_sees_them() {
    are_found(&HELD);
}

fn are_found(rows: &[Row]) {
    for &(fault, follows, names) in rows {
        let mut command = Command::new(env!("CARGO_BIN_EXE_serin"));
        let output =
            command.args(["demo", "--plain", "--full", &format!("--bad={fault}")]).output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{fault}: {error}{text}");
        // Long lines of the summary are wrapped.
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in [follows, names, "0 KV blocks leaked"] {
            assert!(flat.contains(wanted), "{fault}: no {wanted:?} in\n{text}");
        }
        // What fails in the middle of a reply cannot be repeated by stable.
        let rescued = fault == "nan" || flat.contains("clients saw 0 failed requests");
        assert!(rescued, "{fault}: {text}");
        assert!(
            flat.contains("arena") && flat.contains("0 B used, 0 B reserved"),
            "{fault}: {text}"
        );
        println!("{fault}: {follows}");
    }
}
