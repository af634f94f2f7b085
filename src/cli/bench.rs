//! `serin bench`: measures one version of a model, or compares two, and reports.
//!
//! It turns the command line into a plan, loads the models as `serve` would or connects to servers, and writes the
//! report. What is run and what the figures mean is in `bench`.

mod args;

pub(super) use args::BenchArgs;

use super::CliError;
use super::prompts;
use super::serve::open_device;
use crate::bench::drive::{Bench, ReadDevice};
use crate::bench::figures::figures;
use crate::bench::limits::{self, Verdict};
use crate::bench::plan::Size;
use crate::bench::prompts::{Entry, Source};
use crate::bench::replies::{Answered, Changes, changes};
use crate::bench::report::{Model, PointReport, Report, Setup, html, json, markdown, table};
use crate::bench::statistics::Method;
use crate::bench::target::{Local, Setting, Target, Url};
use crate::config::Config;
use crate::control::{self, any_model, folder_loader};
use crate::device::{Device, memory, shared_pool};
use crate::engine::EngineHandle;
use crate::model::LoadFormat;
use crate::routing::Deployment;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Exit code of `--ci` if a limit is neither kept nor exceeded with confidence.
const INCONCLUSIVE: u8 = 3;
/// Prompts of a file whose replies are compared, unless told otherwise.
const REPLIES: usize = 40;

/// What is measured, ready to be driven.
struct Opened {
    targets: Vec<Target>,
    models: Vec<Model>,
    setup: Setup,
    read: Option<ReadDevice>,
}

/// Runs the bench, prints and writes its report; the exit code says whether limits were kept.
pub(super) async fn run(args: BenchArgs) -> Result<ExitCode, CliError> {
    let plan = args.plan().map_err(CliError)?;
    let entries = args.prompts.as_deref().map(|path| prompts::read(Some(path))).transpose()?;
    if args.answers && !entries.iter().flatten().any(|entry| entry.expected.is_some()) {
        let why = "--answers needs a --prompts file with right answers (`answer` or `expected`)";
        return Err(CliError(why.to_owned()));
    }
    let url = args.url.is_some();
    let opened = match url {
        true => servers(&args).await?,
        false => models(&args).await?,
    };
    let Opened { targets, models, setup, read } = opened;
    let versions = targets.len();
    let replies = args.replies.unwrap_or_else(|| replies(&args, entries.as_deref(), versions));
    let size = Size {
        rounds: args.rounds as usize,
        requests: args.requests.unwrap_or(0) as usize,
        versions,
        seed: args.seed,
    };
    let setting = setting(&args, entries);
    let setup = Setup {
        prompts: prompts_text(&args, &setting.source),
        prompt_tokens: args.prompts.is_none().then_some(args.prompt_tokens as usize),
        output_tokens: args.output_tokens as usize,
        seed: args.seed,
        noise_threshold: args.noise_threshold,
        ..setup
    };
    let bench = Bench { targets, setting, size, read };
    let runs = bench.run(&plan).await.map_err(|error| CliError::from_text(&error))?;
    let changes = changed(bench.replies(replies).await, url);
    let allowance = args.noise_threshold / 100.0;
    let method = Method { seed: args.seed, allowance, ..Method::default() };
    let figures = figures(&runs, &args.slo.unwrap_or_default(), &method);
    let judged = limits::judge(&args.limits(), &figures);
    let models = models.into_iter().zip(&bench.targets);
    let report = Report {
        models: models.map(|(model, target)| Model { memory: target.memory(), ..model }).collect(),
        setup: Setup { resident: memory::resident_bytes().filter(|_| !url), ..setup },
        points: runs
            .into_iter()
            .zip(figures)
            .map(|(run, figures)| PointReport { run, figures })
            .collect(),
        changes,
        limits: judged,
    };
    write(&args, &report)?;
    Ok(exit(&args, &report))
}

/// What changed in the replies; `None` if none were compared.
fn changed(all: Vec<Result<Answered, String>>, url: bool) -> Option<Changes> {
    let count = all.len();
    let first = all.iter().find_map(|one| one.as_ref().err().cloned());
    let answered: Vec<Answered> = all.into_iter().flatten().collect();
    let failed = (count - answered.len(), first);
    (count > 0).then(|| Changes { failed, ..changes(&answered, url) })
}

/// Prompts whose replies are compared, if the command line does not say.
fn replies(args: &BenchArgs, entries: Option<&[Entry]>, versions: usize) -> usize {
    match (entries, versions) {
        (Some(entries), _) if args.answers => entries.len(),
        (Some(entries), 2) => entries.len().min(REPLIES),
        (None, 2) => 8,
        _ => 0,
    }
}

fn setting(args: &BenchArgs, entries: Option<Vec<Entry>>) -> Setting {
    let synthetic = entries.is_none();
    let tokens = args.prompt_tokens as usize;
    Setting {
        source: entries.map_or(Source::Synthetic { tokens }, Source::File),
        output_tokens: args.output_tokens as usize,
        ignore_eos: synthetic || args.ignore_eos,
        temperature: args.temperature.or(synthetic.then_some(0.0)),
        seed: args.seed,
    }
}

fn prompts_text(args: &BenchArgs, source: &Source) -> String {
    match (source, &args.prompts) {
        (Source::File(entries), Some(path)) => {
            format!("{} prompts of {}", entries.len(), path.display())
        }
        _ => format!("synthetic prompts of {} tokens", args.prompt_tokens),
    }
}

async fn servers(args: &BenchArgs) -> Result<Opened, CliError> {
    let (mut targets, mut models) = (Vec::new(), Vec::new());
    for server in args.servers() {
        let url = Url::connect(server).await.map_err(|error| CliError::from_text(&error))?;
        models.push(Model { name: url.name(), ..Model::default() });
        targets.push(Target::Url(Box::new(url)));
    }
    Ok(Opened { targets, models, setup: Setup::default(), read: None })
}

async fn models(args: &BenchArgs) -> Result<Opened, CliError> {
    let config = match &args.config {
        Some(path) => Config::read(path).map_err(CliError::from_text)?,
        None => Config::parse("", Path::new(".")).map_err(CliError::from_text)?,
    };
    let mut settings = config.engine;
    settings.scheduler.prefix_cache = args.caches().contains(&true);
    settings.text.templates = super::templates_apart();
    if let Some(format) = args.load_format {
        settings.load_format = format;
    }
    let device = open_device(&config.device).await?;
    let (engine, _faults) = EngineHandle::start().map_err(CliError::from_text)?;
    let loader = folder_loader(engine.clone(), settings, device.clone());
    let (mut targets, mut models) = (Vec::new(), Vec::new());
    for path in args.models() {
        let loaded = loader(path.clone(), any_model()).await.map_err(CliError::from_text)?;
        models.push(model(&loaded, settings.load_format));
        targets.push(Target::Local(Box::new(Local::new(engine.clone(), Arc::new(loaded)))));
    }
    slow_down(args, &engine, &targets)?;
    let backend = match &device {
        Device::Cpu => "CPU".to_owned(),
        Device::Card(_) => format!("CUDA {device}"),
    };
    let setup = Setup {
        threads: matches!(device, Device::Cpu).then(|| shared_pool().threads()),
        n_ubatch: Some(settings.scheduler.max_batch_tokens),
        backend,
        ..Setup::default()
    };
    let read = match device {
        Device::Cpu => None,
        Device::Card(card) => Some(Arc::new(move || card.readings()) as ReadDevice),
    };
    Ok(Opened { targets, models, setup, read })
}

/// Slows B down by a known factor, for tests of this command.
#[cfg(any(test, debug_assertions, feature = "testing"))]
fn slow_down(args: &BenchArgs, engine: &EngineHandle, targets: &[Target]) -> Result<(), CliError> {
    if let (Some(factor), Some(Target::Local(b))) = (args.slow_b, targets.get(1)) {
        engine.slow_down(b.deployment().lane, factor).map_err(CliError::from_text)?;
    }
    Ok(())
}

#[cfg(not(any(test, debug_assertions, feature = "testing")))]
fn slow_down(_: &BenchArgs, _: &EngineHandle, _: &[Target]) -> Result<(), CliError> {
    Ok(())
}

fn model(loaded: &Deployment, format: LoadFormat) -> Model {
    let source = control::Source::open(&loaded.path, format).ok();
    let of = |figure: fn(&control::Source) -> u64| source.as_ref().map(figure);
    Model {
        name: loaded.fingerprint.to_string(),
        architecture: source.as_ref().map(|one| one.architecture().to_owned()).unwrap_or_default(),
        size: of(control::Source::weight_bytes),
        params: of(control::Source::parameters),
        ..Model::default()
    }
}

fn write(args: &BenchArgs, report: &Report) -> Result<(), CliError> {
    let save = |path: &Option<std::path::PathBuf>, text: &dyn Fn() -> String| match path {
        None => Ok(()),
        Some(path) => std::fs::write(path, text())
            .map_err(|error| CliError(format!("{} cannot be written: {error}", path.display()))),
    };
    save(&args.md, &|| markdown::markdown(report))?;
    save(&args.html, &|| html::html(report))?;
    match args.json {
        true => println!("{:#}", json::json(report)),
        false => print!("{}", table::table(report)),
    }
    Ok(())
}

fn exit(args: &BenchArgs, report: &Report) -> ExitCode {
    if !args.ci {
        return ExitCode::SUCCESS;
    }
    match limits::overall(&report.limits) {
        Verdict::Kept => ExitCode::SUCCESS,
        Verdict::Exceeded => {
            eprintln!("serin: B exceeds a limit");
            ExitCode::FAILURE
        }
        Verdict::Inconclusive if args.allow_inconclusive => {
            eprintln!("serin: warning: a limit is neither kept nor exceeded with confidence");
            ExitCode::SUCCESS
        }
        Verdict::Inconclusive => {
            eprintln!(
                "serin: a limit is neither kept nor exceeded with confidence; raise --rounds, or \
                 allow it with --allow-inconclusive"
            );
            ExitCode::from(INCONCLUSIVE)
        }
    }
}
