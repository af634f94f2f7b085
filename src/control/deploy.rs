//! From an opened model to a [`Deployment`]: a lane in the engine, plus the model's tokenizer and template.
//!
//! The weights are in the lane's arena. Tokenizer and template are on the ordinary heap, because requests may hold them
//! a little longer than the model exists. It does not know about arms: `routing` decides which role a deployment has.

use super::comparison::Offer;
use super::identity;
use super::intake::{self, DeployError, Objection, OpenedModel};
use super::settings::EngineConfig;
use super::source::{self, Source, kv_tokens};
use crate::compat::{self, Opened};
use crate::device::fit::FitRequest;
use crate::device::{Device, ModelPool, memory};
use crate::engine::{CardRunner, EngineError, EngineHandle, ModelRunner, Runner, SchedulerConfig};
use crate::grammar::Grammars;
use crate::model::{CardDecoder, CardPlan, Decoder, KvPlan, LoadError, Weights, card, decoder};
use crate::routing::Deployment;
use crate::text::Codec;
use crate::text::apart::Cancel;
use futures_util::future::BoxFuture;
use serin_kernels::cuda::Card;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// How deployments are made; the seam at which tests put in fake models. The [`LoadCheck`] is asked once the
/// content is known and before it takes memory.
pub type Loader = Arc<
    dyn Fn(PathBuf, LoadCheck) -> BoxFuture<'static, Result<Deployment, DeployError>> + Send + Sync,
>;

/// A model that is opened and not loaded yet.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Identifies its content.
    pub digest: &'a str,
    /// What it offers; how much its KV cache will hold is not known yet.
    pub offer: Offer<'a>,
}

/// Says why an opened model must not be loaded; if it may, makes room for it.
pub type LoadCheck =
    Arc<dyn Fn(Candidate<'_>) -> BoxFuture<'static, Result<(), Objection>> + Send + Sync>;

/// Nothing is said against any model.
pub fn any_model() -> LoadCheck {
    Arc::new(|_| Box::pin(std::future::ready(Ok(()))))
}

/// The real loader: folders, files and references into `engine`.
pub fn folder_loader(engine: EngineHandle, config: EngineConfig, device: Device) -> Loader {
    Arc::new(move |path, check| {
        let (engine, device) = (engine.clone(), device.clone());
        Box::pin(async move { load_folder(&engine, config, device, &path, check).await })
    })
}

async fn load_folder(
    engine: &EngineHandle,
    config: EngineConfig,
    device: Device,
    path: &Path,
    check: LoadCheck,
) -> Result<Deployment, DeployError> {
    let path = intake::resolve(path).await?;
    // Dropped with this future: a load that nobody waits for ends its template's trial.
    let cancel = Cancel::default();
    let opened = tokio::task::spawn_blocking({
        let (path, cancel) = (path.clone(), cancel.handle());
        move || intake::open(&path, config.load_format, config.text, Some(&cancel))
    });
    let opened = opened.await.map_err(|e| DeployError::Interrupted(e.to_string()))??;
    let OpenedModel { weights, codec, digest } = opened;
    let max_len = weights.max_len(&config).map_err(EngineError::Load)?;
    let offer = Offer { max_len, kv_tokens: None, codec: &codec };
    let checked = check(Candidate { digest: &digest, offer });
    checked.await.map_err(|why| DeployError::NotAllowed { path: path.clone(), why })?;
    let (codec, vocab) = (Arc::new(codec), weights.vocab());
    let scheduler = scheduler(&weights, &config);
    let make = move || match (&weights, device) {
        (Source::Own(weights), Device::Cpu) => on_cpu(weights, &config),
        (Source::Own(weights), Device::Card(card)) => on_card(weights, &config, card),
        (Source::Compat(opened), _) => on_compat(opened, &config),
    };
    let (loaded, grammars) =
        tokio::join!(engine.load(scheduler, make), grammars(codec.clone(), vocab));
    let loaded = loaded?;
    let version: Arc<str> = intake::name(&path).into();
    Ok(Deployment {
        fingerprint: format!("{version}-{}", identity::short(&digest)).into(),
        version,
        digest,
        path,
        lane: loaded.lane,
        capacity: loaded.capacity,
        stats: loaded.stats,
        defaults: codec.generation_defaults(),
        inherited: false,
        codec,
        grammars,
        loaded_unix: unix_now(),
    })
}

/// What constrained replies need of the model's tokenizer. A model without it serves all other requests.
async fn grammars(codec: Arc<Codec>, vocab: usize) -> Option<Arc<Grammars>> {
    let made = tokio::task::spawn_blocking(move || Grammars::new(codec, vocab)).await;
    match made.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(grammars) => Some(Arc::new(grammars)),
        Err(why) => {
            tracing::warn!(%why, "replies of this model cannot be constrained");
            None
        }
    }
}

/// A model of the compatibility lane runs as many sequences as it has slots, and caches no prefixes: slots are not
/// shared.
fn scheduler(weights: &Source, config: &EngineConfig) -> SchedulerConfig {
    let own = config.scheduler;
    match weights {
        Source::Own(_) => own,
        Source::Compat(_) => SchedulerConfig {
            max_running: own.max_running.min(config.compat_slots),
            prefix_cache: false,
            ..own
        },
    }
}

fn on_compat(opened: &Opened, config: &EngineConfig) -> Result<Box<dyn Runner>, LoadError> {
    let plan = source::slots(opened, config)?;
    fits(opened.path(), opened.weight_bytes(), plan.bytes())?;
    compat::load(opened, plan)
}

fn on_cpu(weights: &Weights, config: &EngineConfig) -> Result<Box<dyn Runner>, LoadError> {
    if config.kv_cache.only_on_card().is_some() {
        tracing::warn!(
            "engine.kv_cache = \"{}\" is for GPUs; on the CPU the cache is kept in 16 or 32 bits",
            config.kv_cache.name()
        );
    }
    let kv = plan_kv(weights, config)?;
    Ok(Box::new(ModelRunner::new(Decoder::load(weights, kv)?)))
}

fn on_card(
    weights: &Weights,
    config: &EngineConfig,
    card: Arc<dyn Card>,
) -> Result<Box<dyn Runner>, LoadError> {
    config.kv_cache.on_card(weights).check(card.properties()).map_err(LoadError::KvKind)?;
    let pool = ModelPool::open(card)?;
    let plan = plan_card(weights, config, &pool)?;
    Ok(Box::new(CardRunner::new(CardDecoder::load(weights, plan, pool)?)))
}

/// Tokens of KV cache below which a model is of no use.
const LEAST_TOKENS: usize = 512;

/// How much memory the model gets on the GPU: as many KV blocks as `max_running` full sequences take, within
/// `kv_memory`, and fewer if the GPU has less free.
fn plan_card(
    weights: &Weights,
    config: &EngineConfig,
    pool: &ModelPool,
) -> Result<CardPlan, LoadError> {
    let model = weights.config();
    let SchedulerConfig { max_running, max_batch_tokens, .. } = config.scheduler;
    let plan = |blocks: usize| {
        let kv = config.kv_cache.on_card(weights);
        let multiprocessors = pool.card().properties().multiprocessors as usize;
        let step = (max_batch_tokens, max_running);
        CardPlan::new(model, step, (blocks, config.block_size), kv, multiprocessors)
    };
    let block = plan(1).block_bytes(model);
    let wanted = max_running * model.max_len.div_ceil(config.block_size);
    let wanted = (wanted as u64).min(config.kv_memory / block);
    let request = FitRequest {
        weights: card::weight_bytes(weights)?,
        scratch: plan(wanted as usize).scratch_bytes(model),
        block,
        blocks_wanted: wanted,
        blocks_least: wanted.min(LEAST_TOKENS.div_ceil(config.block_size) as u64),
        free: pool.free_at_load(),
        total: pool.card().memory()?.total,
    };
    let dir = weights.path().to_owned();
    match request.plan() {
        Ok(fit) => {
            tracing::info!(model = %dir.display(), "{fit}");
            Ok(plan(fit.blocks as usize))
        }
        Err(no) => Err(LoadError::CardFull { dir, why: no.to_string() }),
    }
}

/// How many KV blocks to give the model: enough for `max_running` full sequences, within `kv_memory`.
fn plan_kv(source: &Weights, config: &EngineConfig) -> Result<KvPlan, LoadError> {
    let model = source.config();
    let kind = config.kv_cache.kind(source);
    let block = decoder::kv_shape(model, 1, config.block_size).block_bytes(kind) as u64;
    let blocks = kv_tokens(source, config) / config.block_size;
    if blocks * config.block_size < 2 {
        return Err(LoadError::KvTooSmall { blocks, block_size: config.block_size });
    }
    fits(source.path(), source.weight_bytes(), blocks as u64 * block)?;
    Ok(KvPlan { blocks, block_size: config.block_size, kind })
}

/// Whether so many bytes are available in main memory.
fn fits(dir: &Path, weights: u64, kv: u64) -> Result<(), LoadError> {
    let available = memory::available_bytes().unwrap_or(u64::MAX);
    match weights.saturating_add(kv) > available {
        false => Ok(()),
        true => Err(LoadError::DoesNotFit { dir: dir.to_owned(), weights, kv, available }),
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
