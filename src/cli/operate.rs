//! The operator's commands: one order each to a running server, and its answer in words.

use super::CliError;
use super::client::Client;
use crate::http::admin_wire::{
    ArmWire, LoadAsk, LoadedWire, NothingAsk, PromoteAsk, RollbackAsk, RolledBackWire, StatusWire,
    UnloadWire, WeightAsk,
};
use serde_json::Value;
use std::path::Path;

pub(super) async fn status(server: &str, json: bool) -> Result<(), CliError> {
    let status = Client::new(server).status().await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&status).map_err(CliError::from_text)?);
    } else {
        print!("{}", status_text(&status));
    }
    Ok(())
}

pub(super) async fn load(server: &str, path: &Path) -> Result<(), CliError> {
    let path = std::path::absolute(path).map_err(CliError::from_text)?;
    let ask = LoadAsk { path: path.display().to_string() };
    let loaded: LoadedWire = Client::new(server).order("/admin/canary/load", &ask).await?;
    println!("canary {} is loaded and its rollout has begun", loaded.version);
    Ok(())
}

pub(super) async fn promote(server: &str, now: bool) -> Result<(), CliError> {
    let _: Value = Client::new(server).order("/admin/promote", &PromoteAsk { now }).await?;
    let text = if now { "promoted" } else { "will be promoted when this weight's gates pass" };
    println!("the canary {text}");
    Ok(())
}

pub(super) async fn rollback(server: &str, reason: Option<String>) -> Result<(), CliError> {
    let ask = RollbackAsk { reason };
    let done: RolledBackWire = Client::new(server).order("/admin/rollback", &ask).await?;
    match &done.unload {
        Some(unload) => println!("rolled back; {}", unload_text(unload)),
        None => println!("rolled back; the model is still draining (see serin status)"),
    }
    Ok(())
}

pub(super) async fn simple(server: &str, order: &str) -> Result<(), CliError> {
    let path = format!("/admin/{order}");
    let _: Value = Client::new(server).order(&path, &NothingAsk {}).await?;
    println!("{order}d");
    Ok(())
}

pub(super) async fn weight(server: &str, percent: u8) -> Result<(), CliError> {
    let _: Value = Client::new(server).order("/admin/weight", &WeightAsk { percent }).await?;
    println!("the canary's weight is {percent} %");
    Ok(())
}

fn status_text(status: &StatusWire) -> String {
    let mut out = format!(
        "{}: {}, canary weight {} %, resident {:.1} MiB\n",
        status.model,
        status.phase,
        status.weight,
        mib(status.resident_bytes)
    );
    for arm in &status.arms {
        out += &arm_text(arm);
    }
    for gate in &status.gates {
        out += &format!("  gate {:<11} {:<13} {}\n", gate.name, gate.state, gate.text);
    }
    for decision in status.decisions.iter().rev().take(5).rev() {
        out += &format!("  {:>8.1} s  {:<12} {}\n", decision.at_s, decision.kind, decision.text);
    }
    if let Some(unload) = status.unloads.last() {
        out += &format!("  last unload: {}\n", unload_text(unload));
    }
    out
}

fn arm_text(arm: &ArmWire) -> String {
    let Some(version) = &arm.version else {
        return format!("  {:<7} none\n", arm.arm);
    };
    let figures = &arm.figures;
    format!(
        "  {:<7} {version}: {} requests, {} errors, TTFT p50/p99 {}/{} ms, per token {}/{} ms, {} tokens/s\n",
        arm.arm,
        figures.requests,
        figures.errors,
        number(figures.ttft_p50_ms),
        number(figures.ttft_p99_ms),
        number(figures.tpot_p50_ms),
        number(figures.tpot_p99_ms),
        number(figures.tokens_per_second),
    )
}

/// One unload in words, with its memory figures.
pub(super) fn unload_text(unload: &UnloadWire) -> String {
    format!(
        "{} unloaded ({}) in {:.0} ms: arena {:.1} MiB used -> {} B used, {} B reserved; process resident {:.1} MiB before its load, {:.1} before its unload, {:.1} after; {} KV blocks leaked",
        unload.version,
        unload.reason,
        unload.took_ms,
        mib(unload.used_before),
        unload.used_after,
        unload.reserved_after,
        mib(unload.resident_at_load),
        mib(unload.resident_before),
        mib(unload.resident_after),
        unload.blocks_leaked
    )
}

pub(super) fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"))
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
