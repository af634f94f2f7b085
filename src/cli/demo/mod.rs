//! `serin demo`: a whole rollout on the demo models, with minutes scaled to seconds.
//!
//! It starts the same server as `serin serve`, sends real chat requests over HTTP, loads a canary through the
//! admin API, and shows the server's status until there is a decision. `load` generates the traffic, `view`
//! draws the screen, and `summary` prints the result.

mod load;
mod summary;
mod view;

use super::CliError;
use super::client::Client;
use super::serve::Running;
use crate::config::{Config, demo_models};
use crate::control::Status;
use crate::device::DeviceChoice;
use crate::http::orders::{LoadAsk, Loaded};
use crate::rollout::Policy;
use clap::Args;
use load::Load;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use view::Screen;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Roll out a broken model, to see it caught.
    #[arg(long)]
    bad: bool,
    /// Where the models run: `auto`, `cpu`, `cuda`, `cuda:N`.
    #[arg(long, default_value = "auto", value_parser = DeviceChoice::parse)]
    device: DeviceChoice,
    /// Concurrent chat clients.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// One line a second instead of a live screen.
    #[arg(long)]
    plain: bool,
}

/// The demo ends by itself after this time at the latest.
const LIMIT: Duration = Duration::from_secs(115);
/// Time with traffic on stable alone, before the canary is loaded.
const WARM: Duration = Duration::from_secs(4);
/// How long running requests may finish at the end.
const DRAIN: Duration = Duration::from_secs(30);
const FRAME: Duration = Duration::from_millis(250);

pub(super) async fn run(args: DemoArgs) -> Result<ExitCode, CliError> {
    let begun = Instant::now();
    let models = demo_models().map_err(CliError::from_text)?;
    let mut config = Config::demo().map_err(CliError::from_text)?;
    config.listen = ([127, 0, 0, 1], 0).into();
    config.device = args.device;
    config.policy = scaled_policy();
    config.deployments.drain = Duration::from_secs(5);
    // The former stable is unloaded at once, so that its memory can be seen to be freed.
    config.deployments.keep_previous = Duration::ZERO;
    config.engine.text.templates = super::templates_apart();
    let mut running = Running::start(&config).await?;
    running.load(&config).await?;
    let operators =
        running.operators.ok_or_else(|| CliError::from_text("there is no operators' listener"))?;
    let client = Client::new(&operators.to_string());
    let load = Load::start(
        &Client::new(&running.addr.to_string()),
        &config.model,
        &models.join("questions.json"),
        args.clients,
    )?;
    tokio::time::sleep(WARM).await;
    let canary = models.join(if args.bad { "tiny-v3" } else { "tiny-v2" });
    let ask = LoadAsk { path: canary.display().to_string(), ..LoadAsk::default() };
    let _: Loaded = client.order("/admin/canary/load", &ask).await?;
    let mut screen = Screen::open(args.plain);
    let last = loop {
        tokio::time::sleep(FRAME).await;
        let status = client.status().await?;
        let quit = screen.show(&status, &load.tally(), begun.elapsed());
        if quit || decided(&status) || begun.elapsed() > LIMIT {
            break status;
        }
    };
    drop(screen);
    let tally = load.stop().await;
    print!("{}", summary::text(&last, &tally, begun.elapsed()));
    running.stop(DRAIN).await;
    Ok(if decided(&last) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The default policy with one second for each minute, and with sample sizes that a small machine can reach.
fn scaled_policy() -> Policy {
    let real = Policy::default();
    Policy {
        bake: real.bake / 60,
        min_requests: 60,
        dedup_window: real.dedup_window / 60,
        stall_after: Duration::from_secs(30),
        ..real
    }
}

/// Promoted or rolled back, and the memory of the unloaded model is freed.
fn decided(status: &Status) -> bool {
    matches!(status.phase.as_str(), "promoted" | "rolled_back") && !status.unloads.is_empty()
}
