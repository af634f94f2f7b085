//! `serin check`: is this config file usable, and what does it mean?

use super::CliError;
use crate::config::{Config, EngineConfig};
use crate::control::look;
use crate::device::Isa;
use crate::hub;
use crate::model::decoder;
use std::path::Path;

pub(super) fn run(path: Option<&Path>) -> Result<(), CliError> {
    let config = match path {
        Some(path) => Config::read(path),
        None => Config::demo(),
    }
    .map_err(CliError::from_text)?;
    println!("listen    {}", config.listen);
    println!("model     {}", config.model);
    describe("stable", &config.stable, &config.engine)?;
    if let Some(canary) = &config.canary {
        describe("canary", canary, &config.engine)?;
    }
    let policy = &config.policy;
    let steps: Vec<String> = policy.steps.iter().map(|w| w.percent().to_string()).collect();
    println!(
        "rollout   steps {} %, bake {}, at least {} requests each; rolls back at {} x stable's errors",
        steps.join(" -> "),
        humantime::format_duration(policy.bake),
        policy.min_requests,
        policy.max_error_ratio
    );
    println!("device    {}", config.device);
    let isas: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    println!("cpu       {} of {}", Isa::best().name(), isas.join(" "));
    match &config.ledger {
        Some(ledger) => println!("ledger    {}", ledger.path.display()),
        None => println!("ledger    none: decisions are not kept"),
    }
    for webhook in &config.alerts.webhooks {
        println!("alerts    webhook {}", webhook.name);
    }
    println!("ok");
    Ok(())
}

fn describe(role: &str, path: &Path, engine: &EngineConfig) -> Result<(), CliError> {
    if hub::is_reference(path) {
        println!("{role:<9} {} (downloaded when it is loaded)", path.display());
        return Ok(());
    }
    let (weights, _) = look(path, engine.load_format).map_err(CliError::from_text)?;
    let model = weights.config();
    let kind = engine.kv_cache.kind(&weights);
    let block = decoder::kv_shape(model, 1, engine.block_size).block_bytes(kind) as u64;
    println!(
        "{role:<9} {} ({}, {} layers, hidden {}, context {}; weights {:.1} MiB, KV cache {:.1} KiB a token, at most {} MiB)",
        path.display(),
        model.architecture,
        model.layers,
        model.hidden,
        model.max_len,
        weights.weight_bytes() as f64 / (1 << 20) as f64,
        block as f64 / engine.block_size as f64 / 1024.0,
        engine.kv_memory >> 20
    );
    Ok(())
}
