//! `serin ledger` and `serin replay`: read a ledger, even while a server is writing it.
//!
//! Verdicts come from the same state machine that the server uses; there is no second implementation.

use super::CliError;
use crate::config::Config;
use crate::ledger::{Bodies, Entry, Head, Kept, Reader, Recorded, export, from_hex, to_hex};
use crate::rollout::{Decision, Policy};
use crate::sanitize;
use clap::{Args, Subcommand};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

/// Number of entries shown by default.
const SHOWN: usize = 200;
/// Time between two ticks, for a policy that did not judge the rollout itself.
const GRID: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Print the entries, one line each.
    Show {
        #[command(flatten)]
        ledger: LedgerArg,
        /// Only this rollout.
        #[arg(long)]
        rollout: Option<String>,
        /// The last N entries.
        #[arg(long, default_value_t = SHOWN)]
        last: usize,
    },
    /// Check that nothing was changed: every hash, every gap, the state and the end.
    Verify {
        #[command(flatten)]
        ledger: LedgerArg,
        /// A head (SEQ:HASH) that was noted earlier and stored elsewhere; it must be part of the chain.
        #[arg(long)]
        head: Option<String>,
    },
    /// Write the ledger as JSON Lines to standard output.
    Export {
        #[command(flatten)]
        ledger: LedgerArg,
        /// Include every event of every rollout.
        #[arg(long, conflicts_with = "raw")]
        events: bool,
        /// Include the journal as stored, in hex, so that the hashes can be recomputed.
        #[arg(long)]
        raw: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub(super) struct LedgerArg {
    /// The ledger file.
    #[arg(default_value = "serin.ledger")]
    path: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    ledger: LedgerArg,
    /// The rollout; default: the last one.
    #[arg(long)]
    rollout: Option<String>,
    /// Judge by the `[rollout]` table of this config file instead of the recorded policy.
    #[arg(long)]
    policy: Option<PathBuf>,
}

pub(super) fn run(command: LedgerCommand) -> Result<ExitCode, CliError> {
    match command {
        LedgerCommand::Show { ledger, rollout, last } => {
            show(&open(&ledger.path)?, rollout.as_deref(), last)?;
            Ok(ExitCode::SUCCESS)
        }
        LedgerCommand::Verify { ledger, head } => verify(&open(&ledger.path)?, head.as_deref()),
        LedgerCommand::Export { ledger, events, raw } => {
            let bodies = match (events, raw) {
                (true, _) => Bodies::Expanded,
                (_, true) => Bodies::Raw,
                _ => Bodies::Entries,
            };
            let mut out = BufWriter::new(std::io::stdout().lock());
            export(&open(&ledger.path)?, bodies, &mut out).map_err(CliError::from_text)?;
            out.flush().map_err(CliError::from_text)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn open(path: &Path) -> Result<Reader, CliError> {
    Reader::open(path).map_err(CliError::from_text)
}

fn show(reader: &Reader, rollout: Option<&str>, last: usize) -> Result<(), CliError> {
    let entries = reader.entries(0, usize::MAX).map_err(CliError::from_text)?;
    let wanted = |entry: &&Kept| rollout.is_none_or(|id| entry.rollout == id);
    let entries: Vec<&Kept> = entries.iter().filter(wanted).collect();
    let skip = entries.len().saturating_sub(last);
    if skip > 0 {
        println!("({skip} earlier entries; see --last)");
    }
    for kept in &entries[skip..] {
        println!("{}", line(kept)?);
    }
    Ok(())
}

fn line(kept: &Kept) -> Result<String, CliError> {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(kept.at_unix_ms).unwrap_or(0));
    let at = humantime::format_rfc3339_millis(at);
    let text = match &kept.entry {
        Entry::Decision(decision) => format!("{}: {}", decision.kind.as_str(), decision.text),
        other => serde_json::to_string(other).map_err(CliError::from_text)?,
    };
    Ok(format!("{:>6}  {at}  {:<12}  {}", kept.seq, kept.rollout, sanitize::line(&text)))
}

fn verify(reader: &Reader, head: Option<&str>) -> Result<ExitCode, CliError> {
    let expected = head.map(parse_head).transpose()?;
    let found = reader.verify(expected.as_ref()).map_err(CliError::from_text)?;
    println!(
        "{} rows, {} of them journal, {} pruned before; head {}:{}",
        found.rows,
        found.batches,
        found.pruned,
        found.head.seq,
        to_hex(&found.head.hash)
    );
    match found.problem {
        None => {
            println!("ok: every row is as it was written");
            Ok(ExitCode::SUCCESS)
        }
        Some(problem) => Err(CliError(format!("row {}: {}", problem.seq, problem.what))),
    }
}

fn parse_head(text: &str) -> Result<Head, CliError> {
    let parsed = text
        .split_once(':')
        .and_then(|(seq, hash)| Some(Head { seq: seq.parse().ok()?, hash: from_hex(hash)? }));
    parsed.ok_or_else(|| {
        CliError(format!("\"{text}\" is not SEQ:HASH, as `serin ledger verify` prints it"))
    })
}

pub(super) fn replay(args: &ReplayArgs) -> Result<ExitCode, CliError> {
    let reader = open(&args.ledger.path)?;
    let recorded = match &args.rollout {
        Some(id) => reader.rollout(id).map_err(CliError::from_text)?,
        None => {
            let mut all = reader.rollouts().map_err(CliError::from_text)?;
            all.pop().ok_or_else(|| CliError("there is no rollout in this ledger".to_owned()))?
        }
    };
    let Recorded { opening, .. } = &recorded;
    println!(
        "rollout {}: {} -> {}",
        opening.rollout, opening.stable.version, opening.canary.version
    );
    match &args.policy {
        None => replay_own(&reader, &recorded),
        Some(path) => {
            let policy = Config::read(path).map_err(CliError::from_text)?.policy;
            replay_other(&reader, &recorded, policy)
        }
    }
}

/// By its own policy, the decisions must be equal, bit for bit.
fn replay_own(reader: &Reader, recorded: &Recorded) -> Result<ExitCode, CliError> {
    let (replayed, comparison) = reader.replay(recorded).map_err(CliError::from_text)?;
    print(&replayed.decisions);
    match comparison.difference {
        None => {
            println!(
                "{} events replayed: all {} decisions are the recorded ones, bit for bit",
                replayed.events, comparison.recorded
            );
            Ok(ExitCode::SUCCESS)
        }
        Some(difference) => Err(CliError(difference.to_string())),
    }
}

fn replay_other(
    reader: &Reader,
    recorded: &Recorded,
    policy: Policy,
) -> Result<ExitCode, CliError> {
    let judged = reader.rejudge(recorded, policy, GRID).map_err(CliError::from_text)?;
    println!("as it was judged:");
    print(&recorded.decisions);
    println!("as this policy judges it, on {} events:", judged.events);
    print(&judged.decisions);
    Ok(ExitCode::SUCCESS)
}

fn print(decisions: &[Decision]) {
    for decision in decisions {
        let (at, kind) = (decision.at.as_secs_f64(), decision.kind.as_str());
        let text = sanitize::line(&decision.text);
        println!("  {at:>10.1} s  {:>4}  {kind:<18} {text}", decision.weight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_a_row_and_its_hash() {
        let hash = "ab".repeat(32);
        assert_eq!(parse_head(&format!("7:{hash}")).unwrap().seq, 7);
        for bad in ["", "7", "7:", "x:ab", "7:abcd"] {
            assert!(parse_head(bad).is_err(), "{bad}");
        }
    }
}
