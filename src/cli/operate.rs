//! The operators' commands: each sends one order to a running server and prints the answer in words.
//!
//! An order that could raise the weight is based on the current status, or on the revision that `--expect` names. If
//! somebody else has changed the state since, the server refuses it.

use super::CliError;
use super::client::Client;
use super::serve::page_address;
use crate::control::{
    ArmPreview, ArmStatus, CrossReadStatus, DeviceStatus, ForecastStatus, Preview, ShadowStatus,
    Status, Unload,
};
use crate::http::orders::{
    LoadRequest, Loaded, OrderRequest, PromoteRequest, RolledBack, WeightRequest,
};
use crate::http::page::PageToken;
use crate::hub;
use crate::rollout::Expect;
use crate::sanitize;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Which server, and who speaks.
#[derive(Debug, Clone, Args)]
pub(super) struct Author {
    #[command(flatten)]
    pub server: super::ServerArg,
    /// Who gives the order, for the record.
    #[arg(long, env = "USER", default_value = "operator", hide_env_values = true)]
    pub by: String,
    /// Why, for the record.
    #[arg(long)]
    pub reason: Option<String>,
}

/// An order that depends on what its author has seen.
#[derive(Debug, Clone, Args)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    pub author: Author,
    /// Revision that the command is based on (see `serin status`); default: the current one.
    #[arg(long)]
    pub expect: Option<u64>,
}

impl Author {
    fn client(&self) -> Client {
        Client::new(&self.server.server)
    }

    fn named(&self) -> (Option<String>, Option<String>) {
        (Some(self.by.clone()), self.reason.clone())
    }
}

impl OrderArgs {
    fn client(&self) -> Client {
        self.author.client()
    }

    /// The order's common part, based on what stands now unless said otherwise.
    async fn request(&self, client: &Client) -> Result<OrderRequest, CliError> {
        let expect = match self.expect {
            Some(expect) => expect,
            None => client.status().await?.revision,
        };
        let (by, reason) = self.author.named();
        Ok(OrderRequest { dry_run: false, by, reason, expect: Some(expect) })
    }
}

pub(super) async fn status(server: &str, json: bool, full: bool) -> Result<(), CliError> {
    let status = Client::new(server).status().await?;
    if json {
        let text = serde_json::to_string_pretty(&status).map_err(CliError::from_text)?;
        println!("{}", sanitize::lines(&text));
    } else {
        print!("{}", sanitize::lines(&status_text(&status, full)));
    }
    Ok(())
}

pub(super) async fn page(server: &str) -> Result<(), CliError> {
    let client = Client::new(server);
    let PageToken { token } = client.page().await?;
    let none = || CliError("this server has no page".to_owned());
    println!("{}", page_address(&client.url(""), &token.ok_or_else(none)?));
    Ok(())
}

/// Loads a canary. `retry`: also if it was rejected before; `allow`: also if it can do less than stable.
pub(super) async fn load(
    args: &Author,
    path: &Path,
    (retry, allow): (bool, bool),
    (expect, inherit_defaults): (Option<Expect>, bool),
) -> Result<(), CliError> {
    let path = match hub::is_reference(path) {
        true => path.to_owned(),
        false => std::path::absolute(path).map_err(CliError::from_text)?,
    };
    let (by, reason) = args.named();
    let request = LoadRequest {
        path: path.display().to_string(),
        retry,
        allow,
        expect,
        inherit_defaults,
        by,
        reason,
    };
    let loaded: Loaded = args.client().order("/admin/canary/load", &request).await?;
    println!("canary {} is loaded and its rollout has begun", sanitize::line(&loaded.version));
    Ok(())
}

pub(super) async fn promote(args: &OrderArgs, now: bool, dry_run: bool) -> Result<(), CliError> {
    if dry_run {
        let (by, reason) = args.author.named();
        let request = PromoteRequest { now, dry_run, by, reason, expect: args.expect };
        return preview(args, "/admin/promote", &request).await;
    }
    let client = args.client();
    let OrderRequest { by, reason, expect, .. } = args.request(&client).await?;
    let request = PromoteRequest { now, dry_run: false, by, reason, expect };
    let _: Value = client.order("/admin/promote", &request).await?;
    let text = if now { "is promoted" } else { "will be promoted when this weight's gates pass" };
    println!("the canary {text}");
    Ok(())
}

/// Needs no revision: stopping is never refused for being late.
pub(super) async fn rollback(args: &OrderArgs, dry_run: bool) -> Result<(), CliError> {
    let (by, reason) = args.author.named();
    let request = OrderRequest { dry_run, by, reason, expect: args.expect };
    if dry_run {
        return preview(args, "/admin/rollback", &request).await;
    }
    let done: RolledBack = args.client().order("/admin/rollback", &request).await?;
    match &done.unload {
        Some(unload) => println!("rolled back; {}", sanitize::line(&unload_text(unload))),
        None if done.version.is_none() => println!("rolled back; its canary is not loaded again"),
        None => println!("rolled back; the model is still draining (see serin status)"),
    }
    Ok(())
}

async fn preview(args: &OrderArgs, path: &str, request: &impl Serialize) -> Result<(), CliError> {
    let preview: Preview = args.client().order(path, request).await?;
    print!("{}", sanitize::lines(&preview_text(&preview)));
    Ok(())
}

fn preview_text(preview: &Preview) -> String {
    let Preview { revision, text, weight, weight_after, .. } = preview;
    let mut out = format!("a dry run at revision {revision}, nothing is changed\n  {text}\n");
    out += &format!("  canary weight {weight} % -> {weight_after} %\n");
    if let Some(version) = &preview.stable_after {
        out += &format!("  stable will be {version}\n");
    }
    preview.arms.iter().for_each(|arm| out += &leaving_text(arm));
    for difference in &preview.differences {
        out += &format!("  differs: {difference}\n");
    }
    out + &format!("  {:.1} MiB are freed\n", mib(preview.memory_back))
}

fn leaving_text(arm: &ArmPreview) -> String {
    let within = span(arm.leaves_within_s.unwrap_or_default());
    let becomes = match arm.becomes.as_str() {
        "becomes_stable" => "becomes stable".to_owned(),
        "kept" => format!("kept for `serin undo`, and unloaded within {within}"),
        "unloaded" => format!("unloaded; running requests may finish within {within}"),
        _ => "stays".to_owned(),
    };
    let ArmPreview { arm, version, running, waiting, memory, .. } = arm;
    let memory = mib(*memory);
    format!(
        "  {arm:<7} {version}: {running} running, {waiting} waiting, {memory:.1} MiB: {becomes}\n"
    )
}

/// An order without further words; `done` is what to say when it is granted.
pub(super) async fn plain(args: &OrderArgs, path: &str, done: &str) -> Result<(), CliError> {
    let client = args.client();
    let request = args.request(&client).await?;
    let _: Value = client.order(path, &request).await?;
    println!("{done}");
    Ok(())
}

pub(super) async fn weight(args: &OrderArgs, percent: u8) -> Result<(), CliError> {
    let client = args.client();
    let OrderRequest { dry_run, by, reason, expect } = args.request(&client).await?;
    let request = WeightRequest { percent, dry_run, by, reason, expect };
    let status: Status = client.order("/admin/weight", &request).await?;
    println!("the canary's weight is {}", weight_text(&status));
    Ok(())
}

fn status_text(status: &Status, full: bool) -> String {
    let mut out = format!(
        "{}\n{}: {}{}, canary weight {}, revision {}, resident {:.1} MiB\n",
        status.headline,
        status.model,
        status.phase,
        if status.self_test { " (self-test)" } else { "" },
        weight_text(status),
        status.revision,
        mib(status.resident_bytes)
    );
    if let Some(reason) = &status.reason {
        out += &format!("  {reason}\n");
    }
    for remark in &status.remarks {
        out += &format!("  {remark}\n");
    }
    if let Some(problem) = status.keys.as_ref().and_then(|keys| keys.problem.as_ref()) {
        out += &format!("  the keys file is invalid, the previous keys stay in force: {problem}\n");
    }
    for difference in &status.differences {
        out += &format!("  differs: {difference}\n");
    }
    for less in &status.less {
        out += &format!("  the canary can do less than stable: {less}\n");
    }
    if status.awaiting_confirm {
        out += "  the next step waits for `serin confirm`\n";
    }
    for arm in &status.arms {
        out += &arm_text(arm);
    }
    if let Some(previous) = &status.previous {
        out += &format!("  former stable {previous} is kept: `serin undo` puts it back\n");
    }
    for gate in &status.gates {
        let figures = if full { &gate.text } else { &gate.brief };
        out += &format!("  {:<24} {:<13} {figures}\n", gate.title, gate.state);
    }
    if let Some(forecast) = &status.forecast {
        out += &forecast_text(forecast);
    }
    if let Some(shadow) = &status.shadow {
        out += &shadow_text(shadow);
    }
    if let Some(read) = status.cross_read.as_ref().filter(|read| read.sampled > 0) {
        out += &cross_read_text(read);
    }
    if let Some(device) = &status.device {
        out += &device_text(device);
    }
    for decision in status.decisions.iter().rev().take(5).rev() {
        let text = if full { &decision.text } else { &decision.brief };
        out += &format!("  {:>8.1} s  {:<12} {text}\n", decision.at_s, decision.kind);
    }
    if let Some(unload) = status.unloads.last() {
        out += &format!("  last unload: {}\n", unload_text(unload));
    }
    match &status.ledger {
        Some(ledger) if ledger.failing.is_some() => {
            let why = ledger.failing.as_deref().unwrap_or_default();
            out += &format!("  LEDGER NOT WRITTEN: {why}\n");
        }
        Some(ledger) => out += &format!("  ledger {}\n", ledger.path),
        None => out += "  no ledger: decisions are not kept\n",
    }
    out
}

/// The weight in force, with what is routed and what is wanted where these are others.
fn weight_text(status: &Status) -> String {
    let mut text = format!("{} %", status.weight);
    if status.routed != status.weight {
        text += &format!(" ({} % routed, the rest is held back on stable)", status.routed);
    }
    if let Some(wanted) = status.weight_wanted {
        text += &format!(" ({wanted} % wanted)");
    }
    text
}

/// What the device tells, and nothing of what it does not.
fn device_text(device: &DeviceStatus) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = device.memory_used.zip(device.memory_total);
    let parts = [
        memory.map(|(used, total)| format!("{:.1} of {:.1} GiB used", gib(used), gib(total))),
        device.utilisation.map(|share| format!("{:.0} % busy", 100.0 * share)),
        device.power_watts.map(|watts| format!("{watts:.0} W")),
        device.temperature_celsius.map(|degrees| format!("{degrees} C")),
        device.sm_clock_mhz.map(|mhz| format!("{mhz} MHz")),
        device.throttled.as_ref().map(|why| format!("THROTTLED ({why})")),
        (device.throttled_s > 0.0)
            .then(|| format!("throttled for {} of this stage", span(device.throttled_s))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => String::new(),
        false => format!("  device  {}\n", parts.join(", ")),
    }
}

fn forecast_text(forecast: &ForecastStatus) -> String {
    let ratio = forecast.detectable_error_ratio.map_or_else(
        || "no ratio of error rates".to_owned(),
        |ratio| format!("an error rate {ratio:.1} times stable's"),
    );
    let tail = forecast.detectable_exceedance.map_or_else(String::new, |share| {
        format!(" and {:.1} % of replies above stable's p99", 100.0 * share)
    });
    let doubled = forecast.until_doubled_errors_s.map_or_else(
        || "never at this traffic".to_owned(),
        |seconds| format!("within {}", span(seconds)),
    );
    let mut out =
        format!("  the data so far can show {ratio}{tail}; a doubled error rate {doubled}\n");
    for wait in &forecast.gates {
        let when = wait
            .seconds
            .map_or_else(|| "never at this traffic".to_owned(), |s| format!("in {}", span(s)));
        out += &format!("  gate {:<11} can decide {when}\n", wait.gate);
    }
    out
}

fn shadow_text(shadow: &ShadowStatus) -> String {
    let identical = shadow.identical.map(|share| 100.0 * share);
    format!(
        "  shadow  {} pairs: TTFT x {}, per token x {}, length x {}, {} % identical, first difference at token {}, log-probability {} per token; {} cancelled for requests, {} dropped, {} failed\n",
        shadow.pairs,
        number(shadow.ttft_ratio),
        number(shadow.tpot_ratio),
        number(shadow.length_ratio),
        number(identical),
        number(shadow.divergence),
        number(shadow.log_probability),
        shadow.preempted,
        shadow.dropped,
        shadow.failed
    )
}

fn cross_read_text(read: &CrossReadStatus) -> String {
    let CrossReadStatus { sampled, preempted, dropped, too_long, failed, seconds, .. } = read;
    let mut text = format!(
        "  read    {} of {sampled} chosen replies by both models in {seconds:.1} s; cancelled {preempted} times for requests, {dropped} dropped, {too_long} too long, {failed} failed\n",
        read.read
    );
    if let Some(difference) = &read.difference {
        text += &format!("  read    the prompts differ {difference}\n");
    }
    text
}

fn span(seconds: f64) -> String {
    let time = std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e9).ceil());
    humantime::format_duration(time).to_string()
}

fn arm_text(arm: &ArmStatus) -> String {
    let Some(version) = &arm.version else {
        return format!("  {:<7} none\n", arm.arm);
    };
    let figures = &arm.figures;
    let hits = arm.lane.as_ref().and_then(|lane| lane.figures.prefix_hit_rate);
    let kind = arm.lane.as_ref().and_then(|lane| lane.kind.as_ref());
    let pool =
        arm.lane.as_ref().map(|lane| lane.figures).filter(|now| now.card_reserved > 0).map(|now| {
            let (used, reserved) = (mib(now.card_used), mib(now.card_reserved));
            format!(", {used:.1} MiB used of {reserved:.1} in its pool on the GPU")
        });
    format!(
        "  {:<7} {version}: {} requests, {} errors, TTFT p50/p99 {}/{} ms, per token {}/{} ms, {} tokens/s, {} % of prompt tokens cached{}{}\n",
        arm.arm,
        figures.requests,
        figures.errors,
        number(figures.ttft_p50_ms),
        number(figures.ttft_p99_ms),
        number(figures.tpot_p50_ms),
        number(figures.tpot_p99_ms),
        number(figures.tokens_per_second),
        number(hits.map(|rate| 100.0 * rate)),
        pool.unwrap_or_default(),
        kind.map(|kind| format!("; {kind}")).unwrap_or_default(),
    )
}

/// One unload in words, with its memory figures.
pub(super) fn unload_text(unload: &Unload) -> String {
    let report = &unload.report;
    let card = report.card.as_ref().map_or_else(String::new, |card| {
        format!(
            "GPU pool {:.1} MiB used -> {} B used, {} B reserved, free on the GPU {:.1} MiB before its load, {:.1} after; ",
            mib(card.used_before),
            card.used_after,
            card.reserved_after,
            mib(card.free_at_load),
            mib(card.free_after)
        )
    });
    format!(
        "{} unloaded ({}) in {:.0} ms: {card}arena {:.1} MiB used -> {} B used, {} B reserved; process resident {:.1} MiB before its load, {:.1} before its unload, {:.1} after; {} KV blocks leaked; memory back {:.0} ms after the decision",
        unload.version,
        unload.reason,
        report.took_ms,
        mib(report.used_before),
        report.used_after,
        report.reserved_after,
        mib(report.resident_at_load),
        mib(report.resident_before),
        mib(report.resident_after),
        report.blocks_leaked,
        unload.since_decision_ms
    )
}

pub(super) fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"))
}

pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_says_what_becomes_of_each_version() {
        let arm = |arm: &str, becomes: &str, running, leaves_within_s| ArmPreview {
            arm: arm.to_owned(),
            version: format!("tiny-{arm}"),
            becomes: becomes.to_owned(),
            running,
            waiting: 1,
            memory: 3 << 19,
            leaves_within_s,
        };
        let preview = Preview {
            revision: 7,
            text: "promoted from 25 % by me: all gates pass".to_owned(),
            weight: 25,
            weight_after: 0,
            stable_after: Some("tiny-canary".to_owned()),
            arms: vec![
                arm("stable", "kept", 2, Some(660.0)),
                arm("canary", "becomes_stable", 0, None),
            ],
            differences: vec!["top_p: none on stable, 0.9 here".to_owned()],
            memory_back: 3 << 19,
        };
        let text = "a dry run at revision 7, nothing is changed
  promoted from 25 % by me: all gates pass
  canary weight 25 % -> 0 %
  stable will be tiny-canary
  stable  tiny-stable: 2 running, 1 waiting, 1.5 MiB: kept for `serin undo`, and unloaded within 11m
  canary  tiny-canary: 0 running, 1 waiting, 1.5 MiB: becomes stable
  differs: top_p: none on stable, 0.9 here
  1.5 MiB are freed
";
        assert_eq!(preview_text(&preview), text);
        let leaves = leaving_text(&arm("canary", "unloaded", 3, Some(30.0)));
        assert!(leaves.ends_with("unloaded; running requests may finish within 30s\n"), "{leaves}");
        assert!(leaving_text(&arm("stable", "stays", 0, None)).ends_with("MiB: stays\n"));
    }

    #[test]
    fn a_device_is_shown_by_what_it_tells() {
        assert_eq!(device_text(&DeviceStatus::default()), "");
        let told = DeviceStatus {
            memory_used: Some(20 << 30),
            memory_total: Some(80 << 30),
            utilisation: Some(0.97),
            power_watts: Some(431.2),
            throttled: Some("power limit".to_owned()),
            throttled_s: 35.0,
            ..DeviceStatus::default()
        };
        let text = "  device  20.0 of 80.0 GiB used, 97 % busy, 431 W, THROTTLED (power limit), throttled for 35s of this stage\n";
        assert_eq!(device_text(&told), text);
    }
}
