//! `serin check`: is this config file valid, and what does it mean? Can `serve` use this model?
//!
//! It uses the same code as `serve`, including the trial of chat templates in a subprocess.

use super::CliError;
use crate::config::{Config, ConfigError};
use crate::control::{EngineConfig, Offer, Source, look_with, losses};
use crate::device::Isa;
use crate::hub;
use crate::rollout::{Policy, alternatives, outlook};
use crate::text::{Codec, Outcome};
use std::path::Path;
use std::time::Duration;

/// Checks a config file and the models in it. `traffic`: requests a day, and the share of them that fails on stable;
/// what the rollout can see of it is printed.
pub(super) fn config(path: Option<&Path>, traffic: Option<(f64, f64)>) -> Result<(), CliError> {
    let config = read(path)?;
    config.check_exposure().map_err(CliError::from_text)?;
    println!("listen    {}", config.listen);
    match &config.access.keys {
        Some(path) => println!("keys      {} in {}", super::keys::count(path)?, path.display()),
        None => println!("keys      none: no key is required"),
    }
    println!("model     {}", config.model);
    let stable = describe("stable", &config.stable, &config.engine)?;
    if let Some(canary) = &config.canary {
        let canary = describe("canary", canary, &config.engine)?;
        if let (Some(stable), Some(canary)) = (&stable, &canary) {
            compare(stable, canary, &config)?;
        }
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
    match policy.reads() {
        true => println!(
            "reads     {} % of the replies by both models; expects {}",
            100.0 * policy.cross_read.share,
            policy.cross_read.expect.as_str()
        ),
        false => println!("reads     no replies by both models"),
    }
    if let Some((per_day, errors)) = traffic {
        print!("{}", traffic_text(policy, per_day, errors));
    }
    println!("device    {}", config.device);
    let isas: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    println!("cpu       {} of {}", Isa::best().name(), isas.join(" "));
    match &config.ledger {
        Some(ledger) => println!("ledger    {}", ledger.path.display()),
        None => println!("ledger    none: decisions are not recorded"),
    }
    for webhook in &config.alerts.webhooks {
        println!("alerts    webhook {}", webhook.name);
    }
    println!("ok");
    Ok(())
}

/// How long each step takes at this traffic, what it can see, and which settings would take less time.
fn traffic_text(policy: &Policy, per_day: f64, errors: f64) -> String {
    let (steps, all) = outlook(policy, per_day, errors);
    let mut text =
        format!("traffic   {per_day} requests a day, {} % fail on stable\n", 100.0 * errors);
    for step in &steps {
        let doubled = step.doubled_errors.map_or("years".to_owned(), days);
        let ratio = step.ratio.map_or("no ratio below 100".to_owned(), |ratio| {
            format!("a ratio of {ratio:.1} or more")
        });
        text += &format!(
            "          {} %: {:.1} canary requests a day; takes {} and can detect {ratio} of errors; \
             a total failure is detected in {}, twice the errors in {doubled}\n",
            step.weight.percent(),
            step.canary_per_day,
            days(step.takes),
            days(step.total_failure),
        );
    }
    text += &format!("          the rollout takes {}\n", days(all));
    for (change, policy) in alternatives(policy, per_day) {
        let (steps, all) = outlook(&policy, per_day, errors);
        let ratio = steps.iter().filter_map(|step| step.ratio).fold(f64::INFINITY, f64::min);
        text += &format!(
            "          with rollout.{change} it takes {} and can detect a ratio of {ratio:.1} or more\n",
            days(all)
        );
    }
    text
}

/// A time span, rounded to what matters at its length.
fn days(time: Duration) -> String {
    let (seconds, days) = (time.as_secs(), time.as_secs_f64() / 86_400.0);
    let rounded = match seconds {
        0..3600 => seconds,
        3600..172_800 => seconds / 60 * 60,
        172_800..63_115_200 => return format!("{days:.0} days"),
        _ => return format!("{:.1} years", days / 365.25),
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// Checks one model, with the settings of a config file if there is one.
pub(super) fn model(path: Option<&Path>, model: &Path) -> Result<(), CliError> {
    let config = match path {
        Some(path) => read(Some(path))?,
        None => apart(Config::parse(&alone(model), Path::new(".")))?,
    };
    describe("model", model, &config.engine)?;
    println!("ok");
    Ok(())
}

fn read(path: Option<&Path>) -> Result<Config, CliError> {
    apart(match path {
        Some(path) => Config::read(path),
        None => Config::demo(),
    })
}

fn apart(config: Result<Config, ConfigError>) -> Result<Config, CliError> {
    let mut config = config.map_err(CliError::from_text)?;
    config.engine.text.templates = super::templates_apart();
    Ok(config)
}

/// A config file that contains only this model.
fn alone(model: &Path) -> String {
    let path = toml::Value::from(model.to_string_lossy().into_owned());
    format!("[model]\nname = \"model\"\nstable = {path}\n")
}

/// Prints what the canary can do less than stable.
fn compare(
    stable: &(Source, Codec),
    canary: &(Source, Codec),
    config: &Config,
) -> Result<(), CliError> {
    let less = losses(&offer(stable, &config.engine)?, &offer(canary, &config.engine)?);
    let consequence = match (less.is_empty(), config.allow_less) {
        (true, _) => "the canary can do all that stable can",
        (false, true) => "the canary can do less than stable, which rollout.allow_less allows:",
        (false, false) => {
            "the canary can do less than stable and is not loaded; rollout.allow_less = true allows it:"
        }
    };
    println!("compared  {consequence}");
    for line in less {
        println!("          {line}");
    }
    Ok(())
}

fn offer<'a>(
    (source, codec): &'a (Source, Codec),
    engine: &EngineConfig,
) -> Result<Offer<'a>, CliError> {
    let max_len = source.max_len(engine).map_err(CliError::from_text)?;
    let kv_tokens = Some(source.kv_tokens(engine).map_err(CliError::from_text)?);
    Ok(Offer { max_len, kv_tokens, codec })
}

/// Prints what a model is; a reference is not looked at.
fn describe(
    role: &str,
    path: &Path,
    engine: &EngineConfig,
) -> Result<Option<(Source, Codec)>, CliError> {
    if hub::is_reference(path) {
        println!("{role:<9} {} (downloaded when it is loaded)", path.display());
        return Ok(None);
    }
    let looked = look_with(path, engine.load_format, engine.text, None);
    let (source, codec) = looked.map_err(CliError::from_text)?;
    let words = source.words(engine).map_err(CliError::from_text)?;
    println!("{role:<9} {} ({words})", path.display());
    for line in template(&codec) {
        println!("          {line}");
    }
    Ok(Some((source, codec)))
}

/// What the model's chat template does not support.
fn template(codec: &Codec) -> Vec<String> {
    let Some(abilities) = codec.abilities() else {
        return vec!["no chat template: plain completions only".into()];
    };
    let line = |outcome: &Outcome, words: &str| match outcome {
        Outcome::Taken => None,
        Outcome::LeftOut => Some(format!("chat template leaves out {words}")),
        Outcome::Refused(why) => Some(format!("chat template refuses {words}: {}", short(why))),
        Outcome::Failed(why) => Some(format!("chat template fails on {words}: {}", short(why))),
    };
    abilities.iter().filter_map(|(shape, outcome)| line(outcome, shape.words())).collect()
}

/// The first words of a template's message, which may be long.
fn short(why: &str) -> String {
    let line = why.lines().next().unwrap_or_default();
    line.chars().take(100).collect()
}
