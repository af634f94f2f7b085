//! Two models compared without traffic: each writes replies to the same prompts, and both read all of them.
//!
//! It drives the engine alone: no routes, no rollout. What the figures mean is for the caller.

use super::admission::Admission;
use super::both::{Pair, Reply};
use super::idle::run_sequence;
use super::prepare::prepare;
use super::types::GenerateRequest;
use crate::engine::EngineHandle;
use crate::rollout::{Arm, Origin, Reading};
use crate::routing::Deployment;
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
}
