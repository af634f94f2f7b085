//! Like `interleavings`, with `serin serve` and real models: random deaths, including signals and OOM kills,
//! and orders in flight over HTTP. `SERIN_LIVES` sets the number of processes; the default suits a test run.

use crate::lives_support::drive::{self, Launch, World};
use crate::lives_support::plan::Longest;
use crate::support::{Group, models, operators_beside};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

fn launch(launch: &Launch<'_>) -> Command {
    let Launch { stable, well_after, .. } = launch;
    let text = format!(
        "[model]\nname = \"tiny\"\nstable = {stable:?}\n[engine]\nkv_memory = \"4MiB\"\n\
         [operator]\nlisten = \"{}\"\n[server]\ndrain = \"1s\"\nlame_duck = \"0s\"\n[rollout]\nbake = \"1h\"\nkeep_previous = \"1h\"\n\
         well_after = \"{}ms\"\n",
        operators_beside(launch.addr),
        well_after.as_millis()
    );
    let config = launch.dir.join("serin.toml");
    fs::write(&config, text).expect("written");
    let program = Path::new(env!("CARGO_BIN_EXE_serin"));
    let mut command = match launch.group {
        Some(group) => group.command(program),
        None => Command::new(program),
    };
    command.args(["serve", "--listen", launch.addr, "--config"]).arg(config);
    if let Some(named) = launch.named {
        command.arg("--canary").arg(named);
    }
    command
}

#[test]
fn real_models_lose_no_order_and_stable_answers_after_every_end() {
    let lives = std::env::var("SERIN_LIVES").map_or(6, |n| n.parse().expect("a number"));
    let group = Group::make();
    if group.is_none() {
        eprintln!("no memory cgroup can be made here: OOM kills are pretended");
    }
    let dir = TempDir::new().expect("a folder");
    let versions = ["tiny-v1", "tiny-v2", "tiny-v3"].map(|name| models().join(name));
    let longest = Longest {
        start: Duration::from_millis(400),
        load: Duration::from_millis(120),
        order: Duration::from_millis(12),
    };
    let mut world = World::new("tiny", dir, versions, launch, longest).within(group, true);
    let seed = std::env::var("SERIN_SEED").map_or(1, |n| n.parse().expect("a number"));
    println!("{}", drive::lives(&mut world, seed, lives));
}
