//! A device that fails for good: all clients get an error at once, the canary is refused from then on, and
//! the process exits although work on the device would block it for ever.

#[path = "process/support.rs"]
mod process_support;

use process_support::*;
use serin::alerts::{Alerts, AlertsConfig};
use serin::cli::ended::Ended;
use serin::cli::serve::Running;
use serin::config::Config;
use serin::control::{Control, ControlError, LoadOrder, Start};
use serin::ledger::{Ledger, Options, Stamp};
use serin::rollout::{Arm, Policy};
use serin::serving::testing::FakeServer;
use serin::serving::{Gateway, GatewayError, GenerateRequest, Piece, Prompt};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

/// A prompt with this id makes the device fail.
const FATAL: u32 = 900;

/// A fake server with the ledger in `dir`, which another server may have used before.
async fn start(dir: &Path, change: impl FnOnce(&mut FakeServer)) -> Gateway {
    let folder = models().join("tiny-v1");
    let mut server = FakeServer::replying(&folder, 1024, "The canary sings.").expect("a server");
    server.policy = Policy { bake: Duration::from_secs(3600), ..Policy::default() };
    for script in server.models.values_mut() {
        script.lose_device_on = Some(FATAL);
        script.step_time = Duration::from_millis(5);
        script.reply = script.reply.repeat(60);
    }
    let path = dir.join("serin.ledger");
    let open = || Ledger::open(&path, Options::default(), stamp(), "0", "stable");
    let (ledger, resume) = once_free(open).await;
    let alerts = Alerts::start(AlertsConfig::default()).expect("alerts");
    let (start, take_up) = Start::from_ledger(ledger, resume, Some(alerts));
    assert!(!take_up.is_some(), "no rollout was left unfinished");
    server.start = start;
    change(&mut server);
    server.start().await.expect("a started server")
}

fn stamp() -> Stamp {
    Stamp { unix_ms: 0, rollout: Duration::ZERO }
}

fn request(prompt: Vec<u32>, pin: Arm) -> GenerateRequest {
    GenerateRequest {
        max_tokens: Some(200),
        ignore_eos: true,
        pin: Some(pin),
        ..GenerateRequest::of("cmpl-1", Prompt::Tokens(prompt))
    }
}

fn canary(retry: bool) -> LoadOrder {
    LoadOrder { retry, ..LoadOrder::of("canary", "a test") }
}

/// How a request ended.
async fn end(gateway: &Gateway, ask: GenerateRequest) -> Piece {
    let mut generation = gateway.generate(ask).await.expect("it begins");
    let mut last = None;
    while let Some(piece) = generation.pieces.recv().await {
        last = Some(piece);
    }
    last.expect("a piece")
}

/// Makes the device fail in a step of `arm` while stable serves another request.
async fn lose_in_a_step_of(gateway: &Gateway, arm: Arm) {
    let mut talk = gateway.generate(request(vec![5, 6], Arm::Stable)).await.expect("it begins");
    while !matches!(talk.pieces.recv().await, Some(Piece::Text { .. })) {}
    let fatal = end(gateway, request(vec![5, FATAL], arm)).await;
    let lost = GatewayError::Model("its device has failed".to_owned());
    assert_eq!(fatal, Piece::Failed(lost.clone()));
    let mut last = None;
    while let Some(piece) = talk.pieces.recv().await {
        last = Some(piece);
    }
    assert_eq!(last, Some(Piece::Failed(lost)), "stable's stream ends with an error");
}

async fn is_settled(control: &Control) {
    let fault = timeout(LONG, control.device_lost()).await.expect("in time");
    assert_eq!(fault, "the device has failed: scripted loss");
    assert_eq!(control.ready(), Err(fault));
}

/// The next server refuses the canary and says why; it can still be loaded on request.
async fn is_refused_afterwards(dir: &Path, why: &str) {
    let gateway = start(dir, |_| {}).await;
    let refused = gateway.control().load_canary(canary(false)).await.expect_err("a refusal");
    let told = refused.to_string();
    assert!(told.contains(why) && told.contains("--retry"), "{told}");
    gateway.control().load_canary(canary(true)).await.expect("it was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_costs_the_device_is_refused_ever_after() {
    let dir = TempDir::new().expect("a folder");
    let gateway = start(dir.path(), |_| {}).await;
    gateway.control().load_canary(canary(false)).await.expect("a canary");
    lose_in_a_step_of(&gateway, Arm::Canary).await;
    let control = gateway.control().clone();
    is_settled(&control).await;
    let status = control.status();
    assert_eq!(status.phase.as_str(), "rolled_back");
    let last = status.decisions.last().expect("a decision").text.clone();
    assert!(
        last.contains("(fault): the device failed in a step of the canary: scripted"),
        "{last}"
    );
    let more = control.load_canary(canary(true)).await.expect_err("nothing more is loaded");
    assert!(matches!(more, ControlError::Load(why) if why.contains("the device has failed")));
    drop((gateway, control));
    is_refused_afterwards(dir.path(), "in a step of the canary").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_was_there_is_refused_even_if_it_showed_in_a_step_of_stable() {
    let dir = TempDir::new().expect("a folder");
    let gateway = start(dir.path(), |_| {}).await;
    gateway.control().load_canary(canary(false)).await.expect("a canary");
    lose_in_a_step_of(&gateway, Arm::Stable).await;
    is_settled(gateway.control()).await;
    assert!(gateway.control().status().unloads.is_empty(), "nothing is unloaded");
    drop(gateway);
    is_refused_afterwards(dir.path(), "which model caused it is unknown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_whose_load_costs_the_device_is_refused_too() {
    let dir = TempDir::new().expect("a folder");
    let fatal = |server: &mut FakeServer| server.fatal = Some(PathBuf::from("canary"));
    let gateway = start(dir.path(), fatal).await;
    gateway.control().load_canary(canary(false)).await.expect_err("it fails");
    is_settled(gateway.control()).await;
    drop(gateway);
    is_refused_afterwards(dir.path(), "while this version was being loaded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_canary_nobody_is_blamed() {
    let dir = TempDir::new().expect("a folder");
    let gateway = start(dir.path(), |_| {}).await;
    lose_in_a_step_of(&gateway, Arm::Stable).await;
    is_settled(gateway.control()).await;
    drop(gateway);
    let gateway = start(dir.path(), |_| {}).await;
    gateway.control().load_canary(canary(false)).await.expect("a canary");
}

/// Set for the process that runs [`a_process_that_loses_its_device`].
const ROLE: &str = "SERIN_TEST_LOSE_DEVICE";

/// Not a test by itself: the server of the test below, as a separate process. Its device fails as soon as the
/// canary is loaded; meanwhile a thread of the runtime hangs for good.
#[test]
fn a_process_that_loses_its_device() {
    let Ok(path) = std::env::var(ROLE) else { return };
    let config = Config::read(Path::new(&path)).expect("a config");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let ended = runtime.block_on(async {
        let running = Running::start(&config).await.expect("it starts");
        let control = running.control.clone();
        tokio::spawn(async move {
            while !control.running() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::spawn_blocking(|| {
                loop {
                    std::thread::park()
                }
            });
            let what = "an illegal address was met".to_owned();
            control.engine().lose_device(what).expect("the engine runs");
        });
        running.run(&config).await.expect("it begins")
    });
    assert_eq!(ended, Ended::DeviceLost);
    serin::device::fatal_signals::exit_now(ended.code());
}

#[test]
fn the_process_ends_within_seconds_and_the_next_serves_stable_alone() {
    let dir = TempDir::new().expect("a folder");
    let (url, inbox) = endpoint();
    let (stable, canary) = (models().join("tiny-v1"), models().join("tiny-v2"));
    let text = format!(
        "[model]\nname = \"tiny\"\nstable = {stable:?}\ncanary = {canary:?}\n\
         [engine]\nkv_memory = \"4MiB\"\n[server]\nlisten = \"127.0.0.1:0\"\n[rollout]\nbake = \"1h\"\n\
         [[alerts.webhooks]]\nurl = \"{url}\"\n"
    );
    let config = dir.path().join("serin.toml");
    fs::write(&config, text).expect("written");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_process_that_loses_its_device"])
        .env(ROLE, &config)
        .spawn()
        .expect("it starts");
    let status = wait_for("its end", || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(75));
    let (_, alert) = inbox.recv_timeout(LONG).expect("an alert");
    assert_eq!(alert["type"], "serin.fault", "{alert:#}");
    for told in ["an illegal address was met", "refuses this version", "tiny-v2"] {
        assert!(alert.to_string().contains(told), "no {told:?} in {alert:#}");
    }

    let server = Process::serve(&["--config", config.to_str().expect("text")]);
    let status = server.status();
    assert_eq!((&status["phase"], &status["arms"][1]["loaded"]), (&"idle".into(), &false.into()));
    let (code, text) = server.http("POST", "/v1/chat/completions", Some(&chat("Hi!", false, 8)));
    assert_eq!(code, 200, "{text}");
    let named = canary.to_str().expect("text");
    let again = serin(&["canary", "load", named, "--server", &server.server()]);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && told.contains("an illegal address was met"), "{told}");
}
