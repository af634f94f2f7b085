//! Random interleavings of process deaths and orders with one ledger and a scripted engine: canaries that
//! abort, OOM kills, `kill -9`, power cuts, orderly shutdowns; at rest, during orders and during starts.
//! After each: stable answers in time, no acknowledged order is lost, and a version that kills servers is
//! refused after at most two deaths.
//!
//! The processes are real: this test runs itself again as a server with a scripted engine.
//! `SERIN_INTERLEAVINGS` sets the number of processes; the default suits a test run.

use crate::lives_support::drive::{self, Launch, World};
use crate::lives_support::plan::Longest;
use crate::support::{Group, operators_beside, send_signal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serin::access::Access;
use serin::control::{Life, LoadOrder, ResumePlan, Start, effective_stable, same_place};
use serin::engine::fake::FakeScript;
use serin::http::{
    AppState, Bounds, Intake, Lifecycle, Live, Operators, Phase, client_app, operator_app, serve,
};
use serin::ledger::{Ledger, Options, Stamp};
use serin::rollout::Policy;
use serin::serving::Gateway;
use serin::serving::testing::FakeServer;
use serin::text::Codec;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

const SERVER: &str = "SERIN_SCRIPTED_SERVER";
/// A prompt with the first token of this word kills a canary.
const POISON: &str = "zebra";
/// Half of this time passes until a model's content is known, and the other half until it is loaded.
const LOAD_TIME: Duration = Duration::from_millis(20);

/// The server's settings.
#[derive(Serialize, Deserialize)]
struct Settings {
    dir: PathBuf,
    addr: String,
    stable: PathBuf,
    canary: Option<PathBuf>,
    well_after: Duration,
}

fn launch(launch: &Launch<'_>) -> Command {
    let program = std::env::current_exe().expect("this test");
    let mut command = match launch.group {
        Some(group) => group.command(&program),
        None => Command::new(program),
    };
    let settings = Settings {
        dir: launch.dir.to_owned(),
        addr: launch.addr.to_owned(),
        stable: launch.stable.to_owned(),
        canary: launch.named.map(Path::to_owned),
        well_after: launch.well_after,
    };
    let settings = serde_json::to_string(&settings).expect("JSON");
    command
        .args(["--exact", "interleavings::server", "--nocapture", "--test-threads=1"])
        .env(SERVER, settings);
    command
}

/// Not a test when run by itself: the body of a server process.
#[test]
fn server() {
    let Ok(settings) = std::env::var(SERVER) else { return };
    let settings: Settings = serde_json::from_str(&settings).expect("settings");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(settings));
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-v1"))
}

fn scripted(settings: &Settings) -> FakeServer {
    let mut server = FakeServer::replying(folder(), 1024, "Hello.").expect("a server");
    let codec = Codec::load(folder(), 1024).expect("a codec");
    let poison = codec.encode(POISON, false).expect("it is encoded");
    let plain: FakeScript = server.model("stable").expect("a script").clone();
    let script = FakeScript { abort_on: poison.first().copied(), ..plain };
    let beside = settings.stable.parent().expect("a folder");
    server.models = names().map(|name| (beside.join(name), script.clone())).into();
    server.policy = Policy { bake: Duration::from_secs(3600), ..Policy::default() };
    server.deployments.well_after = settings.well_after;
    server.deployments.keep_previous = Duration::from_secs(3600);
    server.load_time = LOAD_TIME;
    server.when_opened = |path| dies(path, "opened");
    server.when_loaded = |path| dies(path, "loaded");
    server
}

/// A model whose file says so ends the process at that point of its load.
fn dies(path: &Path, point: &str) {
    let text = std::fs::read_to_string(path).expect("a model");
    if text == format!("abort when {point}") {
        std::process::abort();
    }
    if text == format!("kill when {point}") {
        send_signal(std::process::id(), "KILL");
    }
}

fn names() -> [&'static str; 3] {
    ["v1", "v2", "v3"]
}

/// Does the same as `serin serve`.
async fn run(settings: Settings) {
    let listener = TcpListener::bind(&settings.addr).await.expect("the address");
    let beside = operators_beside(&settings.addr);
    let operator = TcpListener::bind(&beside).await.expect("the address");
    let path = settings.dir.join("serin.ledger");
    let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis() as i64;
    let at = Stamp { unix_ms: at, rollout: Duration::ZERO };
    let configured = settings.stable.display().to_string();
    let (ledger, resume) =
        Ledger::open(&path, Options::default(), at, "0", &configured).expect("a ledger");
    let (life, last) = Life::begin(&path, None);
    let (start, take_up) = Start::from_ledger(ledger, resume, None);
    let mut server = scripted(&settings);
    let stable = effective_stable(&start.state, &settings.stable);
    server.start = Start { life, ..start };
    let gateway = server.begin().expect("a server");
    let refused =
        gateway.control().settle_previous_exit(last).await.map(|canary| PathBuf::from(canary.path));
    let (intake, operators) = (Intake::new(1 << 20), Operators::default());
    let state = AppState {
        gateway: gateway.clone(),
        metrics: None,
        body_limit: 1 << 20,
        intake,
        operators,
        live: Live::default(),
        access: Access::open(),
        log_requests: false,
        stable_for: Default::default(),
        recorder: None,
    };
    let lifecycle = Lifecycle::new();
    let door = |listener, app| serve(listener, app, Bounds::default(), lifecycle.clone());
    let serving = tokio::spawn(door(listener, client_app(state.clone(), &[])));
    let operating = tokio::spawn(door(operator, operator_app(state)));
    let mut told = signal(SignalKind::terminate()).expect("a handler");
    tokio::select! {
        () = load(&gateway, &settings, stable, take_up, refused) => {
            // The test harness has begun a line.
            let _ = writeln!(
                std::io::stdout(),
                "\nserin serves fake on http://{}\noperators: http://{beside}",
                settings.addr
            );
            let _ = told.recv().await;
        }
        _ = told.recv() => {}
    }
    lifecycle.enter(Phase::CutOff);
    let _ = tokio::join!(serving, operating);
    gateway.control().end_in_order();
}

async fn load(
    gateway: &Gateway,
    settings: &Settings,
    stable: PathBuf,
    take_up: ResumePlan,
    refused: Option<PathBuf>,
) {
    let control = gateway.control();
    control.load_stable(&stable).await.expect("stable");
    if take_up.is_some() {
        return control.take_up(take_up).await;
    }
    let taken = [Some(&stable), refused.as_ref()];
    let free = |path: &PathBuf| !taken.iter().flatten().any(|one| same_place(path, one));
    if let Some(path) = settings.canary.clone().filter(free) {
        let by = "configuration".to_owned();
        let _ = control.load_canary(LoadOrder::of(path, by)).await;
    }
}

fn world() -> World {
    let dir = TempDir::new().expect("a folder");
    let models = names().map(|name| dir.path().join(name));
    for model in &models {
        std::fs::write(model, "").expect("written");
    }
    let longest = Longest {
        start: Duration::from_millis(120),
        load: Duration::from_millis(40),
        order: Duration::from_millis(10),
    };
    World::new("fake", dir, models, launch, longest)
        .with_poison(POISON)
        .within(Group::make(), false)
}

#[test]
fn no_interleaving_loses_an_order_or_keeps_stable_from_answering() {
    let lives = std::env::var("SERIN_INTERLEAVINGS").map_or(40, |n| n.parse().expect("a number"));
    let seed = std::env::var("SERIN_SEED").map_or(1, |n| n.parse().expect("a number"));
    println!("{}", drive::lives(&mut world(), seed, lives));
}

/// Even if a version kills the process before it is read: then its path is refused.
#[test]
fn a_version_that_ends_every_server_that_loads_it_is_refused() {
    let table = [
        ("abort when opened", 1),
        ("abort when loaded", 1),
        ("kill when opened", 2),
        ("kill when loaded", 2),
    ];
    for (text, expected) in table {
        let world = world();
        std::fs::write(world.model(3), text).expect("written");
        let mut ends = 0;
        let server = loop {
            let mut server = world.spawn(Some(3), false);
            if server.greets() {
                break server;
            }
            ends += 1;
            assert!(ends <= expected, "{text}: {ends} ends");
        };
        assert_eq!(ends, expected, "{text}");
        world.stable_answers(&server, Instant::now());
        server.signal("TERM");
        server.end();
        // The next process still knows about it, and the operator is told.
        let mut server = world.spawn(Some(3), false);
        server.greeted();
        let mut ask = json!({"path": world.model(3), "by": "a test"});
        let (code, said) = server.http("POST", "/admin/canary/load", Some(&ask));
        assert!(code == 400 && said.contains("rejected before"), "{text}: {code} {said}");
        std::fs::write(world.model(3), "mended").expect("written");
        ask["retry"] = json!(true);
        let (code, said) = server.http("POST", "/admin/canary/load", Some(&ask));
        assert_eq!(code, 200, "{text}: {said}");
        assert_eq!(server.status()["weight"], 5);
    }
}
