//! A whole server without HTTP, over scripted models, for tests and benches of the modules above this one.
//!
//! Tokenizer and template are real (from a model folder); only the tensor computation is faked.

use super::{Gateway, GenerateRequest, Limits, Prompt, Timeouts};
use crate::control::{
    Candidate, Control, ControlConfig, DeployError, DeploymentPolicy, Loader, Offer, Start,
};
use crate::engine::fake::{FakeRunner, FakeScript};
use crate::engine::{Capacity, EngineError, EngineHandle, Runner, SchedulerConfig};
use crate::grammar::Grammars;
use crate::model::LoadError;
use crate::rollout::Policy;
use crate::routing::Deployment;
use crate::text::{Codec, GenerationDefaults};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Settings of a fake server; models are found by the name they are "loaded" from.
pub struct FakeServer {
    /// Folder whose tokenizer and template all fake models use.
    pub text_from: PathBuf,
    /// Rows of the embedding that the text side is checked against.
    pub vocab: usize,
    /// What each model does, by the path that it is loaded from; there are no others.
    pub models: HashMap<PathBuf, FakeScript>,
    /// The rules of its rollouts.
    pub policy: Policy,
    /// Limits of each model's scheduler.
    pub scheduler: SchedulerConfig,
    /// Deadlines of requests.
    pub timeouts: Timeouts,
    /// The one that is stable.
    pub stable: PathBuf,
    /// Sampling defaults of the model "at" `canary`; `None`: those of the folder that the text is from.
    pub canary_defaults: Option<GenerationDefaults>,
    /// The model whose load finds the device gone.
    pub fatal: Option<PathBuf>,
    /// How long a load takes: half of it until the content is known, half of it afterwards.
    pub load_time: Duration,
    /// Called at the end of each half.
    pub when_opened: fn(&Path),
    /// The hook of the second half; the engine loads the model after it.
    pub when_loaded: fn(&Path),
    /// Bytes that each fake model holds while loaded.
    pub memory: usize,
    /// How models are kept, drained and unloaded.
    pub deployments: DeploymentPolicy,
    /// What the control begins with: by default no ledger, no alerts and nothing to resume.
    pub start: Start,
    /// Whether replies can be constrained; where the script breaks the constraint, the first token follows that does
    /// not.
    pub constrained: bool,
}

impl GenerateRequest {
    /// [`GenerateRequest::new`], arrived now.
    pub fn of(id: &str, prompt: Prompt) -> GenerateRequest {
        GenerateRequest::new(id.to_owned(), prompt, Instant::now())
    }
}

impl FakeServer {
    /// A server whose stable replies `reply` (as this folder's tokenizer encodes it) to everything.
    pub fn replying(
        text_from: &Path,
        vocab: usize,
        reply: &str,
    ) -> Result<FakeServer, DeployError> {
        let codec = Codec::load(text_from, vocab)?;
        let ids = codec.encode(reply, false)?;
        let eos = codec.eos_ids().first().copied().unwrap_or(0);
        let capacity =
            Capacity { blocks: 4096, block_size: 16, vocab, max_len: 512, rope_switch: None };
        let script = FakeScript::replying(&ids, eos, capacity);
        let names = ["stable", "canary"].map(PathBuf::from);
        Ok(FakeServer {
            text_from: text_from.to_owned(),
            vocab,
            models: names.into_iter().map(|name| (name, script.clone())).collect(),
            policy: Policy::default(),
            scheduler: SchedulerConfig::default(),
            timeouts: Timeouts {
                first_token: Duration::from_secs(10),
                next_token: Duration::from_secs(10),
                request: Duration::from_secs(60),
            },
            stable: "stable".into(),
            canary_defaults: None,
            fatal: None,
            load_time: Duration::ZERO,
            when_opened: |_| {},
            when_loaded: |_| {},
            memory: 1 << 20,
            deployments: DeploymentPolicy {
                drain: Duration::from_secs(5),
                finish: Duration::from_secs(60),
                keep_previous: Duration::ZERO,
                retry_window: Duration::from_secs(60),
                well_after: Duration::from_secs(600),
                shadow: 0.0,
                canary_priority: 1.0,
            },
            start: Start::default(),
            constrained: false,
        })
    }

    /// The script of the model "at" `name`, to be changed before the start.
    pub fn model(&mut self, name: &str) -> Option<&mut FakeScript> {
        self.models.get_mut(Path::new(name))
    }

    /// Starts the engine and loads stable. Needs a tokio runtime.
    pub async fn start(self) -> Result<Gateway, Box<dyn std::error::Error>> {
        let stable = self.stable.clone();
        let gateway = self.begin()?;
        gateway.control().load_stable(&stable).await?;
        Ok(gateway)
    }

    /// Starts the engine; loads nothing yet. Needs a tokio runtime.
    pub fn begin(mut self) -> Result<Gateway, Box<dyn std::error::Error>> {
        let (engine, faults) = EngineHandle::start()?;
        let codec = Arc::new(Codec::load(&self.text_from, self.vocab)?);
        let (limits, timeouts) = (Limits { max_n: 8, max_stop: 16 }, self.timeouts);
        let config = ControlConfig {
            name: "fake".to_owned(),
            policy: self.policy.clone(),
            deployments: self.deployments,
        };
        let start = std::mem::take(&mut self.start);
        let loader = loader(engine.clone(), codec, self);
        let control = Control::start(config, engine, loader, faults, start);
        Ok(Gateway::new(control, limits, timeouts))
    }
}

fn loader(engine: EngineHandle, codec: Arc<Codec>, server: FakeServer) -> Loader {
    let server = Arc::new(server);
    Arc::new(move |path, check| {
        let (engine, codec, server) = (engine.clone(), codec.clone(), server.clone());
        Box::pin(async move {
            let Some(script) = server.models.get(&path).cloned() else {
                return Err(DeployError::NoModel { path });
            };
            tokio::time::sleep(server.load_time / 2).await;
            (server.when_opened)(&path);
            // Each folder has a content of its own.
            let digest = format!("digest of {}", path.display());
            let offer = Offer { max_len: script.capacity.max_len, kv_tokens: None, codec: &codec };
            check(Candidate { digest: &digest, offer })
                .await
                .map_err(|why| DeployError::NotAllowed { path: path.clone(), why })?;
            tokio::time::sleep(server.load_time / 2).await;
            (server.when_loaded)(&path);
            let (memory, fatal) = (server.memory, server.fatal.as_ref() == Some(&path));
            let make = move || match fatal {
                true => Err(LoadError::DeviceLost("scripted loss".to_owned())),
                false => Ok(Box::new(FakeRunner::new(script, memory)) as Box<dyn Runner>),
            };
            let loaded = engine.load(server.scheduler, make).await.map_err(|e: EngineError| e)?;
            let grammars = server
                .constrained
                .then(|| Grammars::new(codec.clone(), loaded.capacity.vocab).ok().map(Arc::new));
            let grammars = grammars.flatten();
            let version: Arc<str> = path.display().to_string().into();
            let own = server.canary_defaults.clone().filter(|_| path == Path::new("canary"));
            let defaults = own.unwrap_or_else(|| codec.generation_defaults());
            Ok(Deployment {
                fingerprint: format!("{version}-fake").into(),
                version,
                digest,
                path,
                lane: loaded.lane,
                capacity: loaded.capacity,
                stats: loaded.stats,
                defaults,
                inherited: false,
                grammars,
                codec,
                loaded_unix: 0,
            })
        })
    })
}
