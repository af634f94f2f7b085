//! Lets two models read the same reply.
//!
//! Each model gets the prompt, rendered by its own template and tokenizer, and the reply. It scores the reply in one
//! prefill (teacher forcing). The model that wrote the reply reads it too. So both figures come from the same
//! computation, and generating a reply has no extra cost. It does not know which replies are read, or how the scores
//! are used.

use super::admission::Admission;
use super::idle::{NotRun, run_sequence};
use super::prepare::{Prepared, prepare};
use super::reading::{PLACES, agreement, read};
use super::types::GenerateRequest;
use crate::engine::EngineHandle;
use crate::model::{SamplingParams, Score};
use crate::rollout::{Agreement, Arm, Origin, Read, Reading};
use crate::routing::Deployment;
use crate::text::GenerationDefaults;
use crate::text::reply::reasoning::Opening;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::OnceCell;

/// Stable and the canary, and whether their vocabularies are the same.
pub(super) struct Pair<'a> {
    pub models: [&'a Deployment; 2],
    pub same: bool,
}

/// A reply to be read, and what has come of it.
pub(super) struct Reply<'a> {
    writer: Arm,
    /// Ids of the writer's vocabulary.
    tokens: &'a [u32],
    /// By reader. A reading that is cut off and tried again begins with the model that has not read yet.
    done: [OnceCell<(Prepared, Vec<Score>)>; 2],
}

impl<'a> Reply<'a> {
    /// A reply of `writer` that nobody has read yet; `tokens` are its ids.
    pub fn new(writer: Arm, tokens: &'a [u32]) -> Reply<'a> {
        Reply { writer, tokens, done: Default::default() }
    }

    /// The scores of both readers, once both have read it.
    pub fn scores(&self) -> Option<[&[Score]; 2]> {
        let [stable, canary] = &self.done;
        Some([&stable.get()?.1, &canary.get()?.1])
    }
}

#[derive(Debug, Clone)]
pub(super) struct Both {
    /// By reader.
    pub read: [Read; 2],
    /// `None` if the vocabularies differ.
    pub agreement: Option<Agreement>,
    pub asked_otherwise: bool,
    /// The first difference between their prompts, as text.
    pub difference: Option<String>,
}

impl Both {
    /// The reading as the rollout takes it.
    pub fn reading(&self, writer: Arm, stage: u64, origin: Origin) -> Reading {
        let Both { read, agreement, asked_otherwise, .. } = *self;
        Reading { writer, stage, origin, read, agreement, asked_otherwise }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{by} cannot read it: {why}")]
pub(super) struct Unread {
    pub by: Arc<str>,
    pub why: NotRun,
}

impl Pair<'_> {
    /// Has both models read a reply to `request`, one after the other; `None` if there is no text to read. `today` is what
    /// templates print as the date. Dropping the future cancels whatever runs. Fails if one of them cannot read it, and
    /// says which.
    pub async fn read(
        &self,
        (engine, admission): (&EngineHandle, &Admission),
        request: &GenerateRequest,
        reply: &Reply<'_>,
        today: SystemTime,
    ) -> Result<Option<Both>, Unread> {
        let codec = &self.models[reply.writer.index()].codec;
        let text = codec.decode(reply.tokens, true).unwrap_or_default();
        let one = async |deployment: &Deployment| {
            let own = self.same || std::ptr::eq(codec, &deployment.codec);
            let ids = match own {
                true => reply.tokens.to_vec(),
                false => deployment.codec.encode(&text, false).unwrap_or_default(),
            };
            let unread = |why: NotRun| Unread { by: deployment.version.clone(), why };
            let prompt = prepare(request, deployment, None, admission, today).await;
            let prompt = prompt.map_err(|why| unread(why.into()))?;
            let scores = scores(engine, deployment, &prompt, &ids, self.same).await;
            Ok((prompt, scores.map_err(unread)?))
        };
        let [stable, canary] = self.models;
        let (prompt, by_stable) = reply.done[0].get_or_try_init(|| one(stable)).await?;
        let (prompt_of_canary, by_canary) = reply.done[1].get_or_try_init(|| one(canary)).await?;
        let prompts = [prompt, prompt_of_canary];
        let read = [read(by_stable, text.len()), read(by_canary, text.len())];
        let [Some(of_stable), Some(of_canary)] = read else { return Ok(None) };
        let agreement = self.same.then(|| agreement(by_stable, by_canary, reply.writer)).flatten();
        Ok(Some(Both {
            read: [of_stable, of_canary],
            agreement,
            asked_otherwise: !self.same || self.differ(prompts),
            difference: difference(self, prompts),
        }))
    }

    /// Whether two models with the same vocabulary were given different prompts, or would have sampled differently.
    /// A canary that states no sampling defaults (a GGUF file) has none that could be wrong.
    fn differ(&self, [stable, canary]: [&Prepared; 2]) -> bool {
        let sampling = |of: &Prepared| SamplingParams { seed: 0, ..of.params.clone() };
        let states = self.models[1].defaults != GenerationDefaults::default();
        stable.ids != canary.ids || states && sampling(stable) != sampling(canary)
    }
}

/// The model's scores of a reply to a prompt, the whole distribution at some places if `whole`.
async fn scores(
    engine: &EngineHandle,
    deployment: &Deployment,
    prompt: &Prepared,
    reply: &[u32],
    whole: bool,
) -> Result<Vec<Score>, NotRun> {
    let params = SamplingParams {
        score_last: reply.len(),
        distributions: if whole { PLACES } else { 0 },
        ..SamplingParams::greedy()
    };
    let ids = [prompt.ids.as_slice(), reply].concat();
    let scoring = Prepared {
        ids,
        params,
        max_new_tokens: 1,
        stop_ids: Vec::new(),
        echo: None,
        opening: Opening::Answer,
        guided: None,
    };
    run_sequence(engine, deployment, scoring, true).await.map(|(_, scores)| scores)
}

/// Characters shown around the first difference.
const AROUND: usize = 40;

/// The first difference between two prompts, as text.
fn difference(pair: &Pair<'_>, prompts: [&Prepared; 2]) -> Option<String> {
    let text = |at: usize| pair.models[at].codec.decode(&prompts[at].ids, false).ok();
    let (stable, canary) = (text(0)?, text(1)?);
    let same = stable.chars().zip(canary.chars()).take_while(|(a, b)| a == b).count();
    if stable == canary {
        return None;
    }
    let from = same.saturating_sub(AROUND / 2);
    let shown = |text: &str| text.chars().skip(from).take(AROUND).collect::<String>();
    Some(format!(
        "after {same} characters: {:?} to stable, {:?} to the canary",
        shown(&stable),
        shown(&canary)
    ))
}
