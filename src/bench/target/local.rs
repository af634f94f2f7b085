//! A model in this process: sequences go directly to the engine, and the executor takes the times.
//!
//! So the figures include neither HTTP nor a slow reader. Prompts are encoded as the server encodes them, before their
//! block begins. It does not know about blocks or the other version.

use super::{Ready, Setting, graded};
use crate::bench::plan::{Planned, Point};
use crate::bench::prompts::{self, Entry};
use crate::bench::replies::{Answered, Place, Reply};
use crate::bench::sample::{Memory, Sample};
use crate::engine::{EngineHandle, SeqEvent, SeqRequest};
use crate::model::Score;
use crate::rollout::Arm;
use crate::routing::Deployment;
use crate::serving::compare::{self, Comparison};
use crate::serving::reading::divergence;
use crate::serving::{GenerateRequest, Prompt, SamplingPatch};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc::unbounded_channel;

/// A loaded model.
pub struct Local {
    engine: EngineHandle,
    deployment: Arc<Deployment>,
    /// A request that must find nothing in the prefix cache has a salt of its own.
    salts: AtomicU64,
}

/// A sequence that can be submitted at once.
pub struct Prepared {
    sequence: compare::Prepared,
    cache_salt: u64,
}

impl Local {
    /// A model that is loaded in `engine`.
    pub fn new(engine: EngineHandle, deployment: Arc<Deployment>) -> Local {
        Local { engine, deployment, salts: AtomicU64::new(1) }
    }

    /// The model.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    pub(super) async fn prepare(
        &self,
        setting: &Setting,
        point: &Point,
        planned: &[Planned],
    ) -> Result<Vec<Ready>, String> {
        let context = self.filler(prompts::context, setting.seed, point.depth, true)?;
        let today = SystemTime::now();
        let mut all = Vec::new();
        for one in planned {
            let request = self.request(setting, &context, one)?;
            let sequence = compare::prepared(&request, &self.deployment, today).await;
            let sequence =
                sequence.map_err(|error| format!("{}: {error}", self.deployment.version))?;
            let cache_salt = match point.prefix_cache {
                true => 0,
                false => self.salts.fetch_add(1, Ordering::Relaxed),
            };
            all.push(Ready::Local(Box::new(Prepared { sequence, cache_salt })));
        }
        Ok(all)
    }

    /// The request of one planned prompt after a context.
    fn request(
        &self,
        setting: &Setting,
        context: &[u32],
        planned: &Planned,
    ) -> Result<GenerateRequest, String> {
        let prompt = match setting.source.entry(planned.prompt) {
            Some(entry) => self.conversation(entry, context),
            None => {
                let words = |seed, count| prompts::words(seed, planned.prompt, count);
                let first = context.is_empty();
                let own = self.filler(words, setting.seed, setting.source.tokens(), first)?;
                Prompt::Tokens([context, &own].concat())
            }
        };
        Ok(GenerateRequest {
            sampling: SamplingPatch {
                seed: Some(planned.seed),
                temperature: setting.temperature,
                ..SamplingPatch::default()
            },
            max_tokens: Some(setting.reply_tokens(planned.prompt)),
            ignore_eos: setting.ignore_eos,
            ..GenerateRequest::new(format!("prompt {}", planned.prompt), prompt, Instant::now())
        })
    }

    /// A file's prompt: a conversation, or its texts for a model without a chat template.
    fn conversation(&self, entry: &Entry, context: &[u32]) -> Prompt {
        let codec = &self.deployment.codec;
        let context = codec.decode(context, true).unwrap_or_default();
        let messages = entry.after(&context);
        if codec.has_chat_template() {
            let ending = Default::default();
            return Prompt::Chat { messages, tools: None, template_kwargs: None, ending };
        }
        let texts = messages.iter().filter_map(|message| message["content"].as_str());
        Prompt::Text(texts.collect::<Vec<_>>().join("\n"))
    }

    /// Exactly so many tokens of words; `first`: with the tokens that the tokenizer puts at the beginning of a text.
    fn filler(
        &self,
        words: impl Fn(u64, usize) -> String,
        seed: u64,
        tokens: usize,
        first: bool,
    ) -> Result<Vec<u32>, String> {
        let mut count = tokens;
        for _ in 0..4 {
            let ids = self.deployment.codec.encode(&words(seed, count), first);
            let mut ids = ids.map_err(|error| format!("{}: {error}", self.deployment.version))?;
            if ids.len() >= tokens {
                ids.truncate(tokens);
                return Ok(ids);
            }
            count *= 2;
        }
        Err(format!("the tokenizer of {} makes too few tokens of words", self.deployment.version))
    }

    pub(super) async fn ask(&self, ready: Prepared) -> Result<(Sample, Instant), String> {
        let (events, mut inbox) = unbounded_channel();
        let compare::Prepared { ids, params, max_new_tokens, stop_ids, .. } = ready.sequence;
        let arrived = Instant::now();
        let mut sample = Sample { prompt_tokens: ids.len(), ..Sample::default() };
        let request = SeqRequest {
            tag: 0,
            prompt: ids,
            params,
            max_new_tokens,
            stop_ids,
            cache_salt: ready.cache_salt,
            events,
            background: false,
            guide: None,
            arrived,
        };
        let submitted = self.engine.submit(self.deployment.lane, vec![request]);
        submitted.map_err(|error| error.to_string())?;
        let mut last = arrived;
        while let Some(event) = inbox.recv().await {
            match event {
                SeqEvent::Started { cached_tokens, .. } => sample.cached_tokens = cached_tokens,
                SeqEvent::Scored { .. } => {}
                SeqEvent::Token { at, .. } => {
                    let gap = at.saturating_duration_since(last);
                    match sample.output_tokens {
                        0 => sample.ttft = gap.as_secs_f64(),
                        _ => sample.gaps.push(gap.as_secs_f32()),
                    }
                    (sample.output_tokens, last) = (sample.output_tokens + 1, at);
                }
                SeqEvent::Finished { .. } if sample.output_tokens == 0 => {
                    return Err("the reply is empty".to_owned());
                }
                SeqEvent::Finished { .. } => {
                    sample.end_to_end = last.saturating_duration_since(arrived).as_secs_f64();
                    return Ok((sample, last));
                }
                SeqEvent::Failed { fault, .. } => return Err(fault.to_string()),
                SeqEvent::Refused { why, .. } => return Err(why.to_string()),
            }
        }
        Err("the engine has stopped".to_owned())
    }

    pub(super) fn memory(&self) -> Memory {
        let now = self.deployment.stats.read();
        let pool = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
        Memory {
            arena_used: Some(now.arena_used),
            arena_reserved: Some(now.arena_reserved),
            pool_used: pool(now.card_used),
            pool_reserved: pool(now.card_reserved),
        }
    }
}

/// Has one or two models answer a prompt, and both read A's reply.
///
/// # Errors
///
/// Which model could not, and why.
pub async fn answered(
    targets: &[&Local],
    setting: &Setting,
    planned: &Planned,
) -> Result<Answered, String> {
    let today = SystemTime::now();
    let (mut replies, mut written) = (Vec::new(), Vec::new());
    let same = targets
        .windows(2)
        .all(|pair| pair[0].deployment.codec.has_tokens_of(&pair[1].deployment.codec));
    for target in targets {
        let request = target.request(setting, &[], planned)?;
        let reply = compare::write(&target.engine, &target.deployment, &request, today).await?;
        let tokens = reply.tokens.iter().map(|id| u64::from(*id));
        let own = Reply {
            tokens: if same { tokens.collect() } else { Vec::new() },
            length: reply.tokens.len(),
            empty: reply.text.trim().is_empty(),
            looping: reply.signs.looping,
            right: None,
            text: reply.text,
        };
        replies.push(graded(own, &setting.source, planned.prompt));
        written.push((request, reply.tokens));
    }
    let mut places = Vec::new();
    if let ([a, b], Some((request, tokens))) = (targets, written.first()) {
        let comparison = Comparison::new(&a.engine, [&a.deployment, &b.deployment]);
        let scores = comparison.scores(Arm::Stable, request, tokens, today).await?;
        places = scores.map(|[a, b]| places_of(&a, &b)).unwrap_or_default();
    }
    Ok(Answered { replies, places })
}

fn places_of(a: &[Score], b: &[Score]) -> Vec<Place> {
    let place = |(a, b): (&Score, &Score)| Place {
        logprob: Some([f64::from(a.logprob), f64::from(b.logprob)]),
        same_top: a.top == b.top,
        kld: a.all.as_deref().zip(b.all.as_deref()).map(|(a, b)| divergence(a, b).max(0.0)),
    };
    a.iter().zip(b).map(place).collect()
}
