//! Compares two models without traffic: each writes replies to the same prompts, and both read all of them.
//!
//! It uses only the engine, without routes or a rollout. The caller interprets the figures.

use super::admission::Admission;
use super::both::{Pair, Reply};
use super::error::GatewayError;
use super::idle::run_sequence;
pub use super::prepare::Prepared;
use super::prepare::prepare;
use super::quality::quality_request;
use super::types::GenerateRequest;
use crate::engine::EngineHandle;
use crate::model::Score;
use crate::rollout::{Arm, Origin, Reading};
use crate::routing::Deployment;
use crate::text::StreamDecoder;
use crate::text::quality::{End, Reply as Assessed, Signs, assess};
use crate::text::reply::Manner;
use std::time::SystemTime;

/// Two loaded models.
pub struct Comparison<'a> {
    engine: &'a EngineHandle,
    pair: Pair<'a>,
    admission: Admission,
}

/// A reply that both have read.
#[derive(Debug, Clone)]
pub struct Compared {
    /// What both made of it.
    pub reading: Reading,
    /// The reply.
    pub text: String,
    /// The first difference between the prompts that the models were given.
    pub difference: Option<String>,
}

/// A reply that one model has written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Ids of its tokens, in the writer's vocabulary.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Signs that it is poor.
    pub signs: Signs,
}

/// A request made ready for one model, for a caller that submits sequences to the engine itself. `today`: what templates
/// print as the date.
///
/// # Errors
///
/// What is wrong with the request, or why this model cannot take it.
pub async fn prepared(
    request: &GenerateRequest,
    deployment: &Deployment,
    today: SystemTime,
) -> Result<Prepared, GatewayError> {
    prepare(request, deployment, None, &Admission::new(), today).await
}

/// Has a loaded model answer. `today`: what templates print as the date.
///
/// # Errors
///
/// Why it could not.
pub async fn write(
    engine: &EngineHandle,
    deployment: &Deployment,
    request: &GenerateRequest,
    today: SystemTime,
) -> Result<Written, String> {
    let unwritten =
        |why: &dyn std::fmt::Display| format!("{} cannot answer: {why}", deployment.version);
    let prepared = prepared(request, deployment, today).await.map_err(|error| unwritten(&error))?;
    let most = prepared.max_new_tokens;
    let manner =
        Manner { calls: deployment.codec.calls().clone(), thinking: prepared.opening.marker() };
    let written = run_sequence(engine, deployment, prepared, false).await;
    let (answer, _) = written.map_err(|error| unwritten(&error))?;
    let spell = |ids: &[u32]| deployment.codec.decode(ids, true).unwrap_or_default();
    let mut decoder = StreamDecoder::showing(deployment.codec.clone(), request.shown());
    let pieces = answer.tokens.iter().map(|id| decoder.push(*id)).collect::<Result<String, _>>();
    let text = pieces.map_err(|error| unwritten(&error))? + &decoder.finish();
    let end = if answer.tokens.len() >= most { End::Length } else { End::Token };
    let ids = &answer.tokens;
    let reply = Assessed { text: &text, whole: true, ids, end, manner: &manner, spell: &spell };
    let signs = assess(&quality_request(request), &reply);
    Ok(Written { tokens: answer.tokens, text, signs })
}

impl<'a> Comparison<'a> {
    /// `models`: the first takes stable's part, the second the canary's. Both must be loaded in `engine`.
    pub fn new(engine: &'a EngineHandle, models: [&'a Deployment; 2]) -> Comparison<'a> {
        let same = models[0].codec.has_tokens_of(&models[1].codec);
        Comparison { engine, pair: Pair { models, same }, admission: Admission::new() }
    }

    /// Whether both have the same vocabulary, so that their distributions can be compared.
    pub fn same_vocabulary(&self) -> bool {
        self.pair.same
    }

    /// Has `writer` answer, and both read the answer. `None` if the answer has no text. `today`: what templates print
    /// as the date.
    ///
    /// # Errors
    ///
    /// Why a model could not write or read.
    pub async fn one(
        &self,
        writer: Arm,
        request: &GenerateRequest,
        today: SystemTime,
    ) -> Result<Option<Compared>, String> {
        let deployment = self.pair.models[writer.index()];
        let prepared = prepare(request, deployment, None, &self.admission, today).await;
        let name = &deployment.version;
        let unwritten = |why: &dyn std::fmt::Display| format!("{name} cannot answer: {why}");
        let prepared = prepared.map_err(|error| unwritten(&error))?;
        let written = run_sequence(self.engine, deployment, prepared, false).await;
        let (answer, _) = written.map_err(|error| unwritten(&error))?;
        if answer.tokens.is_empty() {
            return Ok(None);
        }
        let text = deployment.codec.decode(&answer.tokens, true).unwrap_or_default();
        let reply = Reply::new(writer, &answer.tokens);
        let both = self.pair.read((self.engine, &self.admission), request, &reply, today).await;
        let both = both.map_err(|error| error.to_string())?;
        Ok(both.map(|both| Compared {
            reading: both.reading(writer, 0, Origin::default()),
            text,
            difference: both.difference,
        }))
    }

    /// What both models make of each token of a reply that `writer` gave to `request`: by reader, in order of the reply's
    /// tokens. `None` if there is nothing to read, or the vocabularies differ.
    ///
    /// # Errors
    ///
    /// Why a model could not read.
    pub async fn scores(
        &self,
        writer: Arm,
        request: &GenerateRequest,
        tokens: &[u32],
        today: SystemTime,
    ) -> Result<Option<[Vec<Score>; 2]>, String> {
        if !self.pair.same || tokens.is_empty() {
            return Ok(None);
        }
        let reply = Reply::new(writer, tokens);
        let both = self.pair.read((self.engine, &self.admission), request, &reply, today).await;
        both.map_err(|error| error.to_string())?;
        Ok(reply.scores().map(|scores| scores.map(<[Score]>::to_vec)))
    }
}
