//! One sequence on its way: its tokens, its blocks, its clock marks.
//!
//! Time is passed in. Knows how to tell its caller what happened; decides nothing about who runs.

use super::request::{Fault, FinishReason, SeqEvent, SeqRequest, Timings};
use crate::model::{Draw, Logprobs};
use std::time::{Duration, Instant};

/// A sequence in a lane, waiting or running.
#[derive(Debug)]
pub struct Sequence {
    request: SeqRequest,
    prompt_len: usize,
    /// Prompt and reply so far.
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    pub blocks: Vec<u32>,
    /// Log-probabilities of prompt tokens, as far as they have come in; `None` when none are asked for or
    /// the caller has them.
    scores: Option<Vec<f32>>,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    preemptions: u32,
}

impl Sequence {
    pub fn new(mut request: SeqRequest) -> Sequence {
        let tokens = std::mem::take(&mut request.prompt);
        request.params.score_last = request.params.score_last.min(tokens.len().saturating_sub(1));
        Sequence {
            prompt_len: tokens.len(),
            tokens,
            computed: 0,
            blocks: Vec::new(),
            scores: (request.params.score_last > 0).then(Vec::new),
            started: None,
            first_token: None,
            last_token: None,
            preemptions: 0,
            request,
        }
    }

    /// Tokens still to be computed before the next one can be sampled; 1 while decoding.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the caller has gone.
    pub fn cancelled(&self) -> bool {
        self.request.events.is_closed()
    }

    /// How to sample the next token.
    pub fn draw(&self) -> Draw<'_> {
        Draw { params: &self.request.params, tokens: &self.tokens, prompt_len: self.prompt_len }
    }

    /// How many of the next `len` tokens are followed by a prompt token whose log-probability is asked for.
    pub fn scored(&self, len: usize) -> usize {
        if self.scores.is_none() {
            return 0;
        }
        let last = self.prompt_len - 1;
        let first = last - self.request.params.score_last;
        (self.computed + len).min(last).saturating_sub(self.computed.max(first))
    }

    /// Results that a step of the next `len` tokens yields: scores, a token, both or none.
    pub fn results(&self, len: usize) -> usize {
        usize::from(self.scored(len) > 0) + usize::from(self.pending() == len)
    }

    /// Takes scores; tells the caller once they are complete.
    pub fn push_scores(&mut self, scores: &[f32]) {
        let Some(known) = &mut self.scores else { return };
        known.extend_from_slice(scores);
        if known.len() >= self.request.params.score_last {
            let logprobs = self.scores.take().unwrap_or_default();
            let _ = self.request.events.send(SeqEvent::Scored { tag: self.request.tag, logprobs });
        }
    }

    /// Marks the first step.
    pub fn start(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// Forgets what is in the cache; the blocks were taken away.
    pub fn preempted(&mut self) {
        self.restart();
        self.preemptions += 1;
    }

    /// Starts over from the sequence's tokens.
    pub fn restart(&mut self) {
        self.computed = 0;
        self.scores.iter_mut().for_each(Vec::clear);
    }

    /// Takes a sampled token and tells the caller. Returns the reason if the sequence has ended.
    pub fn push(
        &mut self,
        id: u32,
        logprobs: Option<Box<Logprobs>>,
        max_len: usize,
        shared: bool,
        now: Instant,
    ) -> Option<FinishReason> {
        if self.request.stop_ids.contains(&id) {
            return Some(FinishReason::Stop);
        }
        self.tokens.push(id);
        if self.first_token.is_none() {
            self.first_token = Some(now);
            let Timings { queued, prefill, .. } = self.timings(now);
            let event = SeqEvent::Started { tag: self.request.tag, queued, prefill };
            let _ = self.request.events.send(event);
        }
        self.last_token = Some(now);
        let event = SeqEvent::Token { tag: self.request.tag, id, at: now, shared, logprobs };
        let _ = self.request.events.send(event);
        let full = self.output_len() >= self.request.max_new_tokens || self.tokens.len() >= max_len;
        full.then_some(FinishReason::Length)
    }

    /// Tells the caller that the reply is complete.
    pub fn finish(&self, reason: FinishReason, now: Instant) {
        let (tag, timings) = (self.request.tag, self.timings(now));
        let _ = self.request.events.send(SeqEvent::Finished { tag, reason, timings });
    }

    /// Tells the caller that there will be no more.
    pub fn fail(&self, fault: Fault, now: Instant) {
        let (tag, timings) = (self.request.tag, self.timings(now));
        let _ = self.request.events.send(SeqEvent::Failed { tag, fault, timings });
    }

    fn output_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    fn timings(&self, now: Instant) -> Timings {
        let since = |a: Option<Instant>, b: Option<Instant>| match (a, b) {
            (Some(a), Some(b)) => b.saturating_duration_since(a),
            _ => Duration::ZERO,
        };
        let arrived = Some(self.request.arrived);
        Timings {
            queued: since(arrived, self.started.or(Some(now))),
            prefill: since(self.started, self.first_token),
            first_token: self.first_token.map(|at| since(arrived, Some(at))),
            decode: since(self.first_token, self.last_token),
            total: since(arrived, Some(now)),
            prompt_tokens: self.prompt_len,
            cached_tokens: 0,
            output_tokens: self.output_len(),
            preemptions: self.preemptions,
        }
    }
}
