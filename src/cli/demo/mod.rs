//! `serin demo`: a whole rollout on the demo models, with minutes scaled to seconds.
//!
//! It starts the same server as `serin serve`, sends real chat requests over HTTP, loads a canary through the
//! admin API, and shows the server's status until there is a decision. `load` generates the traffic, `fault` breaks the
//! canary if requested, `view` draws the screen, and `summary` prints the result.

mod fault;
mod load;
mod summary;
mod view;

use super::CliError;
use super::client::Client;
use super::serve::Running;
use crate::config::{Config, demo_models};
use crate::control::Status;
use crate::device::DeviceChoice;
use crate::http::orders::{LoadRequest, Loaded, OrderRequest};
use crate::rollout::Policy;
use clap::Args;
use fault::Fault;
use load::{Habits, Load};
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use view::Screen;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Roll out a model with this fault, to see it caught.
    #[arg(long, value_name = "FAULT", num_args = 0..=1, require_equals = true, default_missing_value = "nan")]
    bad: Option<Fault>,
    /// Where the models run: `auto`, `cpu`, `cuda`, `cuda:N`.
    #[arg(long, default_value = "auto", value_parser = DeviceChoice::parse)]
    device: DeviceChoice,
    /// Number of concurrent chat clients.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// Print one line per second instead of a live screen.
    #[arg(long)]
    plain: bool,
    /// At the end, print all figures of every decision.
    #[arg(long)]
    full: bool,
    /// After the decision, keep serving until Ctrl-C.
    #[arg(long)]
    stay: bool,
}

/// The demo ends by itself after this time at the latest.
const LIMIT: Duration = Duration::from_secs(115);
/// Time with traffic on stable alone, before the canary is loaded.
const WARM: Duration = Duration::from_secs(4);
/// How long running requests may finish at the end.
const DRAIN: Duration = Duration::from_secs(30);
/// How long clients wait for text from a canary that hangs.
const PATIENCE: Duration = Duration::from_millis(250);
/// Why a canary that was held is rolled back: serin leaves that to an operator.
const ON_HOLD: &str = "it was held; the demo ends";
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
    println!("page: {}", running.page().unwrap_or_default());
    let client = Client::new(&operators.to_string());
    let load = Load::start(
        &Client::new(&running.addr.to_string()),
        &config.model,
        &models.join("questions.json"),
        args.clients,
        args.bad.map_or_else(Habits::default, habits),
    )?;
    tokio::time::sleep(WARM).await;
    let folder = tempfile::tempdir().map_err(CliError::from_text)?;
    load_canary(&client, args.bad, &models, folder.path()).await?;
    let (mut screen, mut rolled_back) =
        (Screen::open(args.plain, running.page().unwrap_or_default()), false);
    let last = loop {
        tokio::time::sleep(FRAME).await;
        let status = client.status().await?;
        let quit = screen.show(&status, &load.tally(), begun.elapsed());
        if quit || decided(&status) || begun.elapsed() > LIMIT {
            break status;
        }
        if args.bad.is_some() && !rolled_back && held(&status) {
            let request =
                OrderRequest { reason: Some(ON_HOLD.to_owned()), ..OrderRequest::default() };
            let _: Value = client.order("/admin/rollback", &request).await?;
            rolled_back = true;
        }
    };
    drop(screen);
    let tally = load.stop().await;
    print!("{}", summary::text(&last, &tally, begun.elapsed(), args.full));
    if args.stay {
        println!(
            "\nThe server stays up until Ctrl-C; its page: {}",
            running.page().unwrap_or_default()
        );
        let _ = tokio::signal::ctrl_c().await;
    }
    running.stop(DRAIN).await;
    Ok(if decided(&last) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The traffic in which a fault shows.
fn habits(fault: Fault) -> Habits {
    let patience = (fault == Fault::Hang).then_some(PATIENCE);
    Habits {
        system: fault == Fault::Template,
        long: fault == Fault::Context,
        json: fault == Fault::Json,
        patience,
    }
}

/// Loads the canary. What can do less than stable is refused at first, as for every operator.
async fn load_canary(
    client: &Client,
    fault: Option<Fault>,
    models: &Path,
    folder: &Path,
) -> Result<(), CliError> {
    let canary = match fault {
        None => models.join("tiny-v2"),
        Some(fault) => fault.model(models, folder).map_err(CliError::from_text)?,
    };
    let mut request = LoadRequest { path: canary.display().to_string(), ..LoadRequest::default() };
    let loaded: Result<Loaded, CliError> = client.order("/admin/canary/load", &request).await;
    let Err(refused) = loaded else { return Ok(()) };
    if fault.is_none() {
        return Err(refused);
    }
    request.allow = true;
    let _: Loaded = client.order("/admin/canary/load", &request).await?;
    println!("{refused}\n\nIt was loaded all the same, as by `serin canary load --allow`.\n");
    Ok(())
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

/// Whether a gate has failed at the end of a step: the weight stays until an operator decides.
fn held(status: &Status) -> bool {
    status.decisions.last().is_some_and(|decision| decision.kind == "held")
        && status.gates.iter().any(|gate| gate.state == "fail")
}

/// Promoted or rolled back, and the memory of the unloaded model is freed.
fn decided(status: &Status) -> bool {
    matches!(status.phase.as_str(), "promoted" | "rolled_back") && !status.unloads.is_empty()
}
