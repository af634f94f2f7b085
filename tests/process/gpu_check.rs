//! The rehearsal of `scripts/gpu_check`. The archive is packed, moved, and run on the pessimistic emulated
//! GPU, with the checkout hidden, no program on the path, and within the limits of a rented machine. It is
//! also run on the emulated GPU and killed half-way.
//!
//! The model's checks are cut short (`SERIN_BRIEF`); `tests/card_oracle.rs` runs them whole. The rehearsal cannot
//! show that the programs find a real GPU's libraries, or that the time limits are right there.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Maximum archive size, and maximum time for one command.
const MOST_BYTES: u64 = 40 << 20;
const MOST_TIME: Duration = Duration::from_secs(600);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn ran(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, said.concat());
    output
}

/// Packs, and unpacks in another folder; returns the archive's folder.
fn packed(elsewhere: &Path) -> PathBuf {
    let script = root().join("scripts/gpu_check");
    ran(Command::new("python3")
        .arg(script)
        .arg("pack")
        .arg(elsewhere)
        .args(["--emulated", "--debug"]));
    let archive = elsewhere.join("gpu_check.tar.xz");
    let bytes = archive.metadata().unwrap().len();
    assert!(bytes < MOST_BYTES, "{bytes} bytes are too much to carry");
    ran(Command::new("python3").args(["-m", "tarfile", "-e"]).arg(archive).arg(elsewhere));
    elsewhere.join("gpu_check")
}

/// A command that runs `packed` where the checkout is an empty folder and no program is on the path, if this
/// machine allows a process its own mounts; otherwise with an empty path only.
fn away(pack: &Path, card: &str, rows: &Path) -> Command {
    const HIDE: &str = "mount -t tmpfs none \"$0\" && test ! -e \"$0/Cargo.toml\"";
    let python =
        ran(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).stdout;
    let python = String::from_utf8(python).unwrap();
    let can_hide = |flag: &&str| {
        let tried = Command::new("unshare").arg(flag).args(["sh", "-c", HIDE]).arg(root()).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let mut command = match ["-m", "-rm"].into_iter().find(can_hide) {
        Some(flag) => {
            let mut command = Command::new("unshare");
            let exec = format!("{HIDE} && cd / && PATH=/nowhere exec \"$@\"");
            command.args([flag, "sh", "-c"]).arg(exec).arg(root()).arg(python.trim());
            command
        }
        None => {
            eprintln!("the checkout is not hidden: this machine has no mounts for a process alone");
            let mut command = Command::new(python.trim());
            command.env("PATH", "/nowhere");
            command
        }
    };
    command.env("SERIN_BRIEF", "1").arg(pack.join("gpu_check")).arg("run").arg(pack);
    command.args(["--card", card, "--out"]).arg(rows);
    command
}

/// The rows in a file, each a whole line.
fn rows_in(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| format!("{}: {}", row["stage"], row["what"]).replace('"', "")).collect()
}

/// Every row that a run must have, in order.
fn expected(pack: &Path) -> Vec<String> {
    let mut all = vec!["start: machine".to_owned(), "bench: copy bandwidth".to_owned()];
    for size in ["0.6B", "8B"] {
        for form in ["bf16", "q4_k_m"] {
            let figures = [
                "weights read for a token",
                "load",
                "decode_1",
                "share of copy bandwidth",
                "decode_2",
                "prefill_64",
            ];
            all.extend(figures.map(|what| format!("bench: {what}, small for {size}, {form}")));
        }
    }
    for (stage, program) in [("kernels", "card"), ("model", "card_oracle")] {
        let listed = ran(Command::new(pack.join("bin").join(program)).arg("--list")).stdout;
        let listed = String::from_utf8(listed).unwrap();
        let tests: Vec<&str> =
            listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        assert!(tests.len() > 5, "{program}: {listed}");
        let row = |test: &&str| format!("{stage}: {}", test.replace('_', " "));
        all.extend(tests.iter().filter(|test| !test.contains("::")).map(row));
    }
    let swaps = ["free memory after", "stable's greedy tokens,"];
    all.extend(swaps.map(|what| format!("swaps: {what} 3 cycles, small for 1B")));
    let phases = ["loading", "unloading"];
    let p99 = "swaps: stable's p99 between tokens";
    all.extend(phases.map(|phase| format!("{p99}, {phase}, 3 cycles, small for 1B")));
    all
}

/// Decoding reads almost nothing of an embedding that is not also the head, and all of one that is.
fn check_bytes_read(rows: &[Value]) {
    for (size, tied) in [("0.6B", true), ("8B", false)] {
        let name = format!("weights read for a token, small for {size}, bf16");
        let raw = &rows.iter().find(|row| row["what"] == name.as_str()).unwrap()["raw"];
        let [all, read] = ["weight_bytes", "bytes_per_token"].map(|key| raw[key].as_u64().unwrap());
        // 512 tokens of 256 two-byte values.
        let embedding = if tied { 0 } else { 512 * 256 * 2 };
        assert_eq!(all - read, embedding, "{size}");
    }
}

/// Programs from the archive that still run.
fn left_running(pack: &Path) -> Vec<PathBuf> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let programs =
        processes.filter_map(|process| std::fs::read_link(process.path().join("exe")).ok());
    programs.filter(|program| program.starts_with(pack)).collect()
}

#[test]
fn what_is_packed_runs_far_from_here_and_leaves_its_rows_when_it_is_killed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let pack = packed(elsewhere.path());
    let [whole, cut] = ["whole.jsonl", "cut.jsonl"].map(|name| elsewhere.path().join(name));

    let begun = Instant::now();
    let table = ran(&mut away(&pack, "pessimistic", &whole)).stdout;
    let took = begun.elapsed();
    assert!(took < MOST_TIME, "{took:?}");
    let rows = rows_in(&whole);
    assert_eq!(names(&rows), expected(&pack));
    assert!(rows.iter().all(|row| row["holds"] == true), "{rows:?}");
    let table = String::from_utf8(table).unwrap();
    assert!(rows.iter().all(|row| table.contains(row["what"].as_str().unwrap())), "{table}");
    check_bytes_read(&rows);

    // Half of what runs before the model's checks, which take most of the time.
    let kernels =
        rows.iter().filter(|row| row["stage"] == "kernels").map(|row| row["at_s"].as_f64());
    let half = kernels.flatten().fold(0.0, f64::max) / 2.0;
    let mut killed =
        away(&pack, "emulated", &cut).args(["--only", "bench,kernels"]).spawn().unwrap();
    std::thread::sleep(Duration::from_secs_f64(half));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let kept = names(&rows_in(&cut));
    assert!(kept.len() > 5 && kept.len() < rows.len(), "{} of {} rows", kept.len(), rows.len());
    assert_eq!(kept, names(&rows)[..kept.len()]);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(left_running(&pack), Vec::<PathBuf>::new());

    let page = elsewhere.path().join("card.md");
    let script = pack.join("gpu_check");
    ran(Command::new("python3").arg(script).arg("report").arg(&whole).arg("--out").arg(&page));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("# On a card: pessimistic") && page.contains("0 missed"), "{page}");
    println!("{} rows in {took:.0?}", rows.len());
}
