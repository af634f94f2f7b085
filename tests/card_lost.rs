//! Real models on a GPU that fails (the emulated one, which can be told to fail): in the middle of a reply,
//! and before a canary is loaded to it.

#[path = "process/support.rs"]
mod process_support;

use process_support::{LONG, models};
use serde_json::json;
use serin::config::Config;
use serin::control::{Control, ControlConfig, LoadOrder, Start, folder_loader};
use serin::device::Device;
use serin::engine::EngineHandle;
use serin::serving::{Gateway, GatewayError, GenerateRequest, Piece, Prompt};
use serin_kernels::cuda::emulated::EmulatedCard;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::time::timeout;

struct Server {
    card: Arc<EmulatedCard>,
    gateway: Gateway,
    _dir: TempDir,
}

/// A server whose stable is on its own GPU.
async fn start() -> Server {
    let dir = TempDir::new().expect("a folder");
    let path = dir.path().join("serin.toml");
    let text = format!(
        "[model]\nname = \"tiny\"\nstable = {:?}\n\
         [engine]\nmax_running = 4\nmax_batch_tokens = 64\nkv_memory = \"4MiB\"\n",
        models().join("tiny-v1")
    );
    fs::write(&path, text).expect("written");
    let config = Config::read(&path).expect("a config");
    let (engine, faults) = EngineHandle::start().expect("an engine");
    let card = Arc::new(EmulatedCard::start(256 << 20));
    let loader = folder_loader(engine.clone(), config.engine, Device::Card(card.clone()));
    let settings = ControlConfig {
        name: config.model,
        policy: config.policy,
        deployments: config.deployments,
    };
    let control = Control::start(settings, engine, loader, faults, Start::default());
    control.load_stable(&config.stable).await.expect("stable");
    let gateway = Gateway::new(control, config.limits, config.timeouts);
    Server { card, gateway, _dir: dir }
}

fn canary(path: &Path) -> LoadOrder {
    LoadOrder::of(path, "a test")
}

fn question() -> GenerateRequest {
    let messages = vec![json!({"role": "user", "content": "What does the serin eat?"})];
    GenerateRequest {
        max_tokens: Some(400),
        ignore_eos: true,
        ..GenerateRequest::of(
            "chatcmpl-1",
            Prompt::Chat {
                messages,
                tools: None,
                template_kwargs: None,
                ending: Default::default(),
            },
        )
    }
}

async fn is_lost(control: &Control) {
    let fault = timeout(LONG, control.device_lost()).await.expect("in time");
    assert!(fault.starts_with("the device has failed: ") && fault.contains("a test"), "{fault}");
    assert_eq!(control.ready(), Err(fault));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_dies_under_a_reply_ends_it_and_the_canary_is_blamed() {
    let Server { card, gateway, _dir } = start().await;
    let control = gateway.control().clone();
    let path = models().join("tiny-v2");
    control.load_canary(canary(&path)).await.expect("a canary");
    let mut talk = gateway.generate(question()).await.expect("it begins");
    while !matches!(talk.pieces.recv().await, Some(Piece::Text { .. })) {}
    card.kill("an illegal address in a test");
    let mut last = None;
    while let Some(piece) = talk.pieces.recv().await {
        last = Some(piece);
    }
    let lost = GatewayError::Model("its device has failed".to_owned());
    assert_eq!(last, Some(Piece::Failed(lost)));
    is_lost(&control).await;
    let status = control.status();
    assert_eq!(status.phase.as_str(), "rolled_back");
    assert!(control.models().canary.is_none() && status.unloads.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_is_found_dead_by_a_load_is_lost_as_well() {
    let Server { card, gateway, _dir } = start().await;
    card.kill("an illegal address in a test");
    let path = models().join("tiny-v2");
    let control = gateway.control();
    let refused = control.load_canary(canary(&path)).await.expect_err("it fails");
    assert!(refused.to_string().contains("an illegal address in a test"), "{refused}");
    is_lost(control).await;
}
