//! `serin compare`: two models read each other's replies, without traffic.
//!
//! It loads both as `serve` would, lets each answer the same prompts, and prints how plausible each model finds all of
//! the replies. These are the figures that the gate `cross_read` uses.

use super::CliError;
use super::prompts::{self, temperature};
use super::serve::open_device;
use crate::bench::prompts::Entry;
use crate::config::Config;
use crate::control::{any_model, folder_loader};
use crate::engine::EngineHandle;
use crate::rollout::{Arm, Policy, Read, Reading, readings_text, readings_verdicts};
use crate::routing::Deployment;
use crate::serving::compare::{Compared, Comparison};
use crate::serving::{GenerateRequest, Prompt, SamplingPatch};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

/// What to compare, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct CompareArgs {
    /// The model in stable's place: a folder, a GGUF file or an `hf:` reference.
    stable: PathBuf,
    /// The model in the canary's place.
    canary: PathBuf,
    /// File of prompts: one per line, or JSON (a list, or one value per line) of texts, or of objects with `prompt`,
    /// `question` or `messages`.
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Number of replies that each model writes; the prompts are used in turn.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    replies: u32,
    /// Longest reply, in tokens.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Temperature of the replies; default: what each model's makers recommend.
    #[arg(long, value_parser = temperature)]
    temperature: Option<f32>,
    /// Seed of the first reply.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print figures and replies as JSON.
    #[arg(long)]
    json: bool,
    /// Config file (TOML): its `[engine]` and `[model]` tables are used.
    #[arg(long)]
    config: Option<PathBuf>,
}

pub(super) async fn run(args: &CompareArgs) -> Result<(), CliError> {
    let prompts = prompts::read(args.prompts.as_deref())?;
    let (engine, _faults) = EngineHandle::start().map_err(CliError::from_text)?;
    let [stable, canary] = load(args, &engine).await?;
    let comparison = Comparison::new(&engine, [&stable, &canary]);
    let (mut all, mut failed, today) = (Vec::new(), Vec::new(), SystemTime::now());
    for writer in Arm::BOTH {
        for n in 0..args.replies {
            let request = request(args, &prompts, u64::from(n));
            match comparison.one(writer, &request, today).await {
                Ok(compared) => all.extend(compared.map(|one| (n, one))),
                Err(error) => {
                    failed.push(format!("{} by {}: {error}", request.id, writer.as_str()))
                }
            }
        }
    }
    if let Some(first) = failed.first() {
        let (count, of) = (failed.len(), 2 * args.replies);
        eprintln!("serin: {count} of {of} replies could not be compared; the first: {first}");
    }
    if all.is_empty() {
        return Err(CliError("no reply with text could be compared".to_owned()));
    }
    let names = [&stable, &canary].map(|model| model.version.to_string());
    match args.json {
        true => println!("{:#}", as_json(&names, &comparison, &all)),
        false => print!("{}", as_text(&names, &all)),
    }
    Ok(())
}

async fn load(args: &CompareArgs, engine: &EngineHandle) -> Result<[Deployment; 2], CliError> {
    let config = match &args.config {
        Some(path) => Config::read(path).map_err(CliError::from_text)?,
        None => Config::parse("", Path::new(".")).map_err(CliError::from_text)?,
    };
    let mut settings = config.engine;
    // Whatever is not in use is free for reading.
    settings.scheduler.prefix_cache = false;
    let device = open_device(&config.device).await?;
    let loader = folder_loader(engine.clone(), settings, device);
    let load = async |path: &PathBuf| {
        let loaded = loader(path.clone(), any_model()).await;
        loaded.map_err(CliError::from_text)
    };
    Ok([load(&args.stable).await?, load(&args.canary).await?])
}

fn request(args: &CompareArgs, prompts: &[Entry], n: u64) -> GenerateRequest {
    let at = n as usize % prompts.len();
    let messages = prompts[at].messages.clone();
    let prompt =
        Prompt::Chat { messages, tools: None, template_kwargs: None, ending: Default::default() };
    GenerateRequest {
        sampling: SamplingPatch {
            seed: Some(args.seed.wrapping_add(n)),
            temperature: args.temperature,
            ..SamplingPatch::default()
        },
        max_tokens: Some(args.max_tokens as usize),
        ..GenerateRequest::new(format!("prompt {}", at + 1), prompt, Instant::now())
    }
}

/// What one model finds in the replies of one writer: the means over replies.
fn found(all: &[(u32, Compared)], writer: Arm, reader: Arm) -> Option<Read> {
    let of = all.iter().filter(|(_, one)| one.reading.writer == writer);
    let read: Vec<Read> = of.map(|(_, one)| one.reading.read[reader.index()]).collect();
    let mean = |figure: fn(&Read) -> f32| {
        (read.iter().map(|one| f64::from(figure(one))).sum::<f64>() / read.len() as f64) as f32
    };
    let read_by = Read { nats: mean(|read| read.nats), implausible: mean(|read| read.implausible) };
    (!read.is_empty()).then_some(read_by)
}

fn as_text(names: &[String; 2], all: &[(u32, Compared)]) -> String {
    let mut text = format!("stable  {}\ncanary  {}\n\n", names[0], names[1]);
    text += "replies of   read by   nats per byte   implausible tokens\n";
    for writer in Arm::BOTH {
        for reader in Arm::BOTH {
            let Some(Read { nats, implausible }) = found(all, writer, reader) else { continue };
            let (writer, reader) = (writer.as_str(), reader.as_str());
            let percent = 100.0 * implausible;
            text += &format!("{writer:<12} {reader:<9} {nats:<15.4} {percent:.2} %\n");
        }
    }
    let readings: Vec<Reading> = all.iter().map(|(_, one)| one.reading).collect();
    text += &format!("\n{}\n", readings_text(&readings).replace("; ", "\n"));
    for (expect, verdict) in readings_verdicts(&readings, Policy::default().alpha) {
        text += &format!("as {:<10} {verdict}\n", expect.as_str());
    }
    if let Some(difference) = all.iter().find_map(|(_, one)| one.difference.as_ref()) {
        text += &format!("the prompts differ {difference}\n");
    }
    text
}

fn as_json(names: &[String; 2], comparison: &Comparison<'_>, all: &[(u32, Compared)]) -> Value {
    let reading = |(prompt, one): &(u32, Compared)| {
        let Reading { writer, read, agreement, asked_otherwise, .. } = one.reading;
        let of = |read: Read| json!({"nats": read.nats, "implausible": read.implausible});
        json!({
            "reply": prompt, "writer": writer.as_str(), "text": one.text,
            "by_stable": of(read[0]), "by_canary": of(read[1]),
            "kl": agreement.map(|both| both.kl),
            "differing": agreement.map(|both| both.differing),
            "sharper": agreement.map(|both| both.sharper),
            "excess": agreement.map(|both| both.excess),
            "asked_otherwise": asked_otherwise,
        })
    };
    let readings: Vec<Reading> = all.iter().map(|(_, one)| one.reading).collect();
    json!({
        "stable": names[0],
        "canary": names[1],
        "same_vocabulary": comparison.same_vocabulary(),
        "summary": readings_text(&readings),
        "difference": all.iter().find_map(|(_, one)| one.difference.as_ref()),
        "readings": all.iter().map(reading).collect::<Vec<_>>(),
    })
}
