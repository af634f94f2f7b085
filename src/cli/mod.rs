//! The command line: all commands, one file each.
//!
//! An error is one line on standard error, with exit code 1; `serve` has more exit codes ([`ended::Ended`]). This
//! module assembles the server (`serve`) and keeps it running (`supervise`, by the rule in `restarts`). It decides
//! nothing about routing or rollouts.

mod bench;
mod check;
mod client;
mod compare;
mod completions;
mod demo;
pub mod ended;
mod key;
mod keys;
mod ledger;
mod listeners;
mod logging;
mod notify;
mod operate;
mod pipe;
mod prompts;
mod restarts;
pub mod serve;
mod signals;
mod supervise;

use crate::device::Isa;
use crate::rollout::Expect;
use crate::text::{Templates, apart};
use clap::{Args, CommandFactory, Parser, Subcommand};
use ledger::{LedgerCommand, ReplayArgs};
use operate::{Author, OrderArgs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Serve two versions of a language model in one process, with a canary rollout between them.
#[derive(Debug, Parser)]
#[command(name = "serin", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve an OpenAI-compatible API (with no config: the demo models on 127.0.0.1:8080).
    Serve(serve::ServeArgs),
    /// Check a config file and the models it names, or one model, without loading weights.
    Check(CheckArgs),
    /// Watch a whole rollout on the demo models: a good canary, or with --bad a broken one.
    Demo(demo::DemoArgs),
    /// Show a running server's rollout.
    Status {
        #[command(flatten)]
        server: ServerArg,
        /// Print the raw JSON.
        #[arg(long)]
        json: bool,
        /// Print all figures of every gate and decision.
        #[arg(long)]
        full: bool,
    },
    /// Print the address of a running server's operators' page, with its token.
    Page {
        #[command(flatten)]
        server: ServerArg,
    },
    /// Load a canary into a running server.
    Canary {
        #[command(subcommand)]
        command: CanaryCommand,
    },
    /// Promote the canary when the gates of the current weight pass; with --now, at once.
    Promote {
        #[command(flatten)]
        order: OrderArgs,
        /// Do not wait for the gates.
        #[arg(long)]
        now: bool,
        /// Show what would happen, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Roll back: take the canary out of service and unload it.
    Rollback {
        #[command(flatten)]
        order: OrderArgs,
        /// Show what would happen, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop raising the weight; errors still roll the canary back.
    Pause(OrderArgs),
    /// Resume a paused rollout.
    Resume(OrderArgs),
    /// Approve a step that needs a person's confirmation.
    Confirm(OrderArgs),
    /// Undo a promotion: the former stable serves again.
    Undo(OrderArgs),
    /// Set the canary's share of the traffic by hand.
    Weight {
        #[command(flatten)]
        order: OrderArgs,
        /// 0 to 100.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// Judge stable against a second copy of itself, to see how noisy this machine and its traffic are.
    SelfTest(OrderArgs),
    /// Make, list and revoke API keys.
    Key(key::KeyArgs),
    /// Show the recorded decisions, or check that nobody changed them.
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Let two models read each other's replies, without traffic, and print how closely they agree.
    Compare(compare::CompareArgs),
    /// Measure a model, or compare two: latency, throughput, memory, and what changed in the replies.
    Bench(Box<bench::BenchArgs>),
    /// Judge a recorded rollout again, by its own policy or by another.
    Replay(ReplayArgs),
    /// Print completions for a shell, e.g. `serin completions bash > /etc/bash_completion.d/serin`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages to a folder; for packages.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: PathBuf,
    },
    /// Render one model's chat templates for the server that started this process (see `text::apart`).
    #[command(hide = true)]
    RenderTemplates,
}

#[derive(Debug, Subcommand)]
enum CanaryCommand {
    /// Load a model as canary and start its rollout.
    Load {
        #[command(flatten)]
        author: Author,
        path: PathBuf,
        /// Load the model even if a version with the same content was rolled back before.
        #[arg(long)]
        retry: bool,
        /// Load the model even if it can do less than stable, such as with a shorter context or unsupported messages.
        #[arg(long)]
        allow: bool,
        /// Expected kind of change: same (requantised, exported again), similar (a fine-tune, the next minor version)
        /// or different (another model). The gate `cross_read` judges the canary by it.
        #[arg(long, value_name = "same|similar|different")]
        expect: Option<Expect>,
        /// Give the canary stable's sampling defaults (temperature, top_p, ...) instead of its own.
        #[arg(long)]
        inherit_defaults: bool,
    },
}

#[derive(Debug, Clone, Args)]
struct CheckArgs {
    /// Config file (TOML).
    #[arg(long)]
    config: Option<PathBuf>,
    /// A model's folder or file: check whether `serve` can use it.
    #[arg(conflicts_with = "requests_per_day")]
    model: Option<PathBuf>,
    /// Also say how long each step takes with this many requests a day, and which regressions it can detect.
    #[arg(long, value_name = "N")]
    requests_per_day: Option<u32>,
    /// Share of the requests that fail on stable, in percent, for --requests-per-day.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = error_rate)]
    errors: f64,
}

/// A share of failing requests, in percent.
fn error_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    match rate > 0.0 && rate <= 100.0 {
        true => Ok(rate),
        false => Err(format!("{rate} is not above 0 and at most 100")),
    }
}

#[derive(Debug, Clone, Args)]
struct ServerArg {
    /// Address of the running server.
    #[arg(long, default_value = "http://127.0.0.1:8081", env = "SERIN_SERVER")]
    server: String,
}

/// The error of a command: one line that names the cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CliError(pub String);

impl CliError {
    /// Any error's text, on one line.
    pub fn from_text(error: impl std::fmt::Display) -> CliError {
        let text = error.to_string();
        CliError(text.lines().map(str::trim).collect::<Vec<_>>().join(" "))
    }
}

/// Chat templates run in subprocesses of this same program. On Linux, this path finds it even after its file
/// was replaced by a newer one.
fn templates_apart() -> Templates {
    let this = PathBuf::from("/proc/self/exe");
    let this = if this.exists() { Ok(this) } else { std::env::current_exe() };
    this.map_or(Templates::Here, |this| Templates::Apart(Box::leak(this.into_boxed_path())))
}

/// How long the exit waits for work on threads whose results are no longer needed.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(1);

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::RenderTemplates = cli.command {
        return apart::serve();
    }
    if !matches!(cli.command, Command::Serve(_) | Command::Demo(_)) {
        pipe::end_with_the_reader();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&CliError::from_text(error)),
    };
    let code = match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    };
    // Encoding, hashing and loading on other threads are not waited for.
    runtime.shutdown_timeout(LEFTOVERS_WITHIN);
    logging::finish();
    code
}

fn fail(error: &CliError) -> ExitCode {
    eprintln!("serin: {error}");
    ExitCode::FAILURE
}

async fn run(command: Command) -> Result<ExitCode, CliError> {
    if matches!(
        command,
        Command::Serve(_)
            | Command::Check(_)
            | Command::Demo(_)
            | Command::Compare(_)
            | Command::Bench(_)
    ) {
        Isa::from_environment().map_err(CliError::from_text)?;
    }
    match command {
        Command::Serve(args) => return serve::run(args).await,
        Command::Check(CheckArgs { config, model: Some(model), .. }) => {
            check::model(config.as_deref(), &model)?;
        }
        Command::Check(CheckArgs { config, requests_per_day, errors, .. }) => {
            let traffic = requests_per_day.map(|count| (f64::from(count), errors / 100.0));
            check::config(config.as_deref(), traffic)?;
        }
        Command::Demo(args) => return demo::run(args).await,
        Command::Status { server, json, full } => {
            operate::status(&server.server, json, full).await?;
        }
        Command::Page { server } => operate::page(&server.server).await?,
        Command::Canary {
            command: CanaryCommand::Load { author, path, retry, allow, expect, inherit_defaults },
        } => {
            operate::load(&author, &path, (retry, allow), (expect, inherit_defaults)).await?;
        }
        Command::Promote { order, now, dry_run } => operate::promote(&order, now, dry_run).await?,
        Command::Rollback { order, dry_run } => operate::rollback(&order, dry_run).await?,
        Command::Pause(order) => operate::plain(&order, "/admin/pause", "paused").await?,
        Command::Resume(order) => operate::plain(&order, "/admin/resume", "resumed").await?,
        Command::Confirm(order) => operate::plain(&order, "/admin/confirm", "confirmed").await?,
        Command::Undo(order) => {
            operate::plain(&order, "/admin/undo", "the former stable serves again").await?;
        }
        Command::Weight { order, percent } => operate::weight(&order, percent).await?,
        Command::SelfTest(order) => {
            let done = "stable is loaded a second time and judged against itself; see serin status";
            operate::plain(&order, "/admin/self-test", done).await?;
        }
        Command::Key(args) => key::run(&args)?,
        Command::Ledger { command } => return ledger::run(command),
        Command::Compare(args) => compare::run(&args).await?,
        Command::Bench(args) => return bench::run(*args).await,
        Command::Replay(args) => return ledger::replay(&args),
        Command::Completions { shell } => completions::completions(Cli::command(), shell),
        Command::Man { folder } => completions::man(Cli::command(), &folder)?,
        // Handled earlier, because it needs no runtime.
        Command::RenderTemplates => {}
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_weights_are_bounded() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["serin", "weight", "100"]).is_ok());
        assert!(Cli::try_parse_from(["serin", "weight", "101"]).is_err());
        let load =
            |more: &[&str]| Cli::try_parse_from([&["serin", "canary", "load", "x"], more].concat());
        assert!(load(&["--allow"]).is_ok() && load(&["--expect", "same"]).is_ok());
        let wrong = load(&["--expect", "7"]).unwrap_err().to_string();
        assert!(wrong.contains("must be same, similar or different"), "{wrong}");
        assert!(Cli::try_parse_from(["serin", "promote", "--now", "--dry-run"]).is_ok());
        assert!(Cli::try_parse_from(["serin", "rollback", "--dry-run"]).is_ok());
        assert!(Cli::try_parse_from(["serin", "pause", "--dry-run"]).is_err());
    }

    #[test]
    fn what_a_supervisor_adds_to_the_command_line_is_understood() {
        for more in [&[supervise::FLAG][..], &[supervise::CHILD, supervise::NO_CANARY]] {
            let line = [&["serin", "serve", "--listen", "127.0.0.1:0"], more].concat();
            assert!(Cli::try_parse_from(line).is_ok(), "{more:?}");
        }
    }
}
