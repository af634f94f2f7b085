//! One sequence: its tokens, its blocks, its timestamps.
//!
//! Time is an argument. It sends events to its caller and allocates, shares and releases its blocks. It does not decide
//! when it runs.

use super::blocks::{BlockPool, Chain, Origin};
use super::request::{Fault, FinishReason, Refusal, SeqEvent, SeqRequest, Timings};
use super::work::{Load, Step, Work};
use crate::model::{Draw, GuideFailed, Logprobs, Score, SharedGuide, Taken};
use std::time::{Duration, Instant};

/// A sequence in a lane, waiting or running.
#[derive(Debug)]
pub struct Sequence {
    request: SeqRequest,
    prompt_len: usize,
    /// The prompt and the reply so far.
    pub tokens: Vec<u32>,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// Ids of its KV blocks, in the order of its tokens; empty while it has none.
    pub blocks: Vec<u32>,
    /// The hashes of its full blocks.
    chain: Chain,
    /// Number of blocks, from the beginning, that were found in the prefix cache or registered in it.
    registered: usize,
    /// Prompt tokens found in the prefix cache when the sequence was first admitted.
    cached: usize,
    /// Log-probabilities of prompt tokens, as far as they are known; `None` when none are requested or the
    /// caller has them.
    scores: Option<Vec<Score>>,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    preemptions: u32,
    work: Work,
}

impl Sequence {
    /// A waiting sequence without blocks. Limits `score_last` to the prompt's tokens after the first.
    pub fn new(mut request: SeqRequest) -> Sequence {
        let tokens = std::mem::take(&mut request.prompt);
        request.params.score_last = request.params.score_last.min(tokens.len().saturating_sub(1));
        Sequence {
            prompt_len: tokens.len(),
            tokens,
            computed: 0,
            blocks: Vec::new(),
            chain: Chain::default(),
            registered: 0,
            cached: 0,
            scores: (request.params.score_last > 0).then(Vec::new),
            started: None,
            first_token: None,
            last_token: None,
            preemptions: 0,
            work: Work::default(),
            request,
        }
    }

    /// Tokens still to be computed before the next one can be sampled; 1 while decoding.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether it decodes: its next token is sampled after the one token, or the run of forced ones, that is pending.
    pub fn decodes(&self) -> bool {
        self.pending() == 1 || self.first_token.is_some() && self.computed >= self.prompt_len
    }

    /// Whether nobody waits for it.
    pub fn is_background(&self) -> bool {
        self.request.background
    }

    /// Tells the caller that it cannot be admitted.
    pub fn refuse(&self, why: Refusal) {
        let _ = self.request.events.send(SeqEvent::Refused { tag: self.request.tag, why });
    }

    /// Whether the caller has disconnected.
    pub fn cancelled(&self) -> bool {
        self.request.events.is_closed()
    }

    /// How to sample the next token, or the one after `unknown` tokens that are being sampled.
    pub fn draw(&self, unknown: usize) -> Draw<'_> {
        let (params, guide) = (&self.request.params, self.request.guide.as_ref());
        Draw { params, tokens: &self.tokens, unknown, prompt_len: self.prompt_len, guide }
    }

    /// Whether its next step does not depend on which token the current one samples, unless that ends it.
    pub fn can_run_ahead(&self, rope_switch: Option<usize>) -> bool {
        let params = &self.request.params;
        let free = self.request.guide.is_none() && params.rules.is_none() && !params.penalises();
        let plain = self.scores.is_none() && self.pending() == 1;
        free && plain && rope_switch != Some(self.tokens.len())
    }

    /// Whether the token that is being sampled is its last by its length.
    pub fn is_almost_full(&self, max_len: usize) -> bool {
        self.is_full(self.tokens.len() + 1, max_len)
    }

    /// Whether it ends with so many tokens.
    fn is_full(&self, tokens: usize, max_len: usize) -> bool {
        tokens - self.prompt_len >= self.request.max_new_tokens || tokens >= max_len
    }

    /// Allocates a block for the token after the one that is being sampled, if it needs one; `false` if there is none.
    pub fn acquire_ahead(&mut self, pool: &mut BlockPool) -> bool {
        let blocks = (self.tokens.len() + 1).div_ceil(pool.block_size());
        let rest = pool.acquirable(self.request.background);
        pool.grow(&mut self.blocks, blocks, rest)
    }

    /// How many of the next `len` tokens are followed by a prompt token whose log-probability was requested.
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

    /// Adds scores, and sends them to the caller once they are complete.
    pub fn push_scores(&mut self, scores: Vec<Score>) {
        let Some(known) = &mut self.scores else { return };
        known.extend(scores);
        if known.len() >= self.request.params.score_last {
            let scores = self.scores.take().unwrap_or_default();
            let _ = self.request.events.send(SeqEvent::Scored { tag: self.request.tag, scores });
        }
    }

    /// Marks the first step. Returns whether it was the first.
    pub fn start(&mut self, now: Instant) -> bool {
        let first = self.started.is_none();
        if first {
            self.started = Some(now);
            self.cached = self.computed;
        }
        first
    }

    /// Allocates blocks for all its tokens, or returns false and leaves its blocks unchanged. A sequence
    /// without blocks first takes the cached blocks of its prefix and counts their tokens as computed.
    /// `rope_switch`: the lane's (`Capacity::rope_switch`).
    pub fn acquire(&mut self, pool: &mut BlockPool, rope_switch: Option<usize>) -> bool {
        let blocks = self.tokens.len().div_ceil(pool.block_size());
        if !self.blocks.is_empty() {
            let rest = pool.acquirable(self.request.background);
            return pool.grow(&mut self.blocks, blocks, rest);
        }
        if pool.caching() {
            let long = rope_switch.is_some_and(|switch| self.tokens.len() > switch);
            self.chain.set_origin(Origin { salt: self.request.cache_salt, long });
            self.chain.extend(&self.tokens, pool.block_size());
        }
        let prefix = self.chain.prefix(&self.tokens, self.reusable() / pool.block_size());
        let rest = pool.acquirable(self.request.background);
        let Some(hits) = pool.acquire(&mut self.blocks, &prefix, blocks, rest) else {
            return false;
        };
        self.computed = hits * pool.block_size();
        self.registered = hits;
        true
    }

    /// Number of tokens that may come from the cache: not the last one, whose logits are always needed, and
    /// none from the first scored token on.
    fn reusable(&self) -> usize {
        let last = self.tokens.len() - 1;
        match self.scores {
            None => last,
            Some(_) => last.min(self.prompt_len - 1 - self.request.params.score_last),
        }
    }

    /// Charges the sequence its part of a step in which its next `len` tokens were computed.
    pub(super) fn charge(&mut self, step: &Step<'_>, len: usize) {
        let own = Load::of_row(len, self.computed + len);
        self.work.add(step, own, self.first_token.is_none());
    }

    /// Whether it decodes and has had no matched step yet. Every reply has at most one, so that both arms
    /// have the same number.
    pub fn matchable(&self) -> bool {
        self.pending() == 1 && self.first_token.is_some() && self.work.matched.is_none()
    }

    /// Registers the blocks that have become full in the prefix cache.
    pub fn register(&mut self, pool: &mut BlockPool) {
        let (size, full) = (pool.block_size(), self.computed / pool.block_size());
        if self.registered >= full || !pool.caching() || self.request.background {
            return;
        }
        self.chain.extend(&self.tokens[..full * size], size);
        let prefix = self.chain.prefix(&self.tokens, full);
        for at in self.registered..full {
            pool.register(&mut self.blocks, at, &prefix);
        }
        self.registered = full;
    }

    /// Loses its blocks to other sequences, for now.
    pub fn preempt(&mut self, pool: &mut BlockPool) {
        self.restart(pool);
        self.preemptions += 1;
    }

    /// Releases its blocks and starts over from its tokens.
    pub fn restart(&mut self, pool: &mut BlockPool) {
        pool.release(&mut self.blocks);
        self.computed = 0;
        self.scores.iter_mut().for_each(Vec::clear);
    }

    /// Appends a sampled token, and those that its guide forces after it; sends them to the caller. Returns the finish
    /// reason if the sequence has ended. Fails if the guide cannot go on.
    pub fn push(
        &mut self,
        id: u32,
        logprobs: Option<Box<Logprobs>>,
        max_len: usize,
        now: Instant,
    ) -> Result<Option<FinishReason>, GuideFailed> {
        let mut ended = self.push_one(id, logprobs, max_len, now)?;
        for forced in self.forced(ended) {
            if ended.is_none() {
                ended = self.push_one(forced, None, max_len, now)?;
            }
        }
        Ok(ended)
    }

    /// The tokens that must follow. None if log-probabilities are asked for, which only a step has.
    fn forced(&self, ended: Option<FinishReason>) -> Vec<u32> {
        let guide = self.request.guide.as_ref().filter(|_| ended.is_none());
        let unreported = self.request.params.logprobs.is_none();
        guide.filter(|_| unreported).map(SharedGuide::forced).unwrap_or_default()
    }

    fn push_one(
        &mut self,
        id: u32,
        logprobs: Option<Box<Logprobs>>,
        max_len: usize,
        now: Instant,
    ) -> Result<Option<FinishReason>, GuideFailed> {
        if self.request.stop_ids.contains(&id) {
            return Ok(Some(FinishReason::Stop));
        }
        let guide = self.request.guide.as_ref();
        let taken = guide.map_or(Ok(Taken::GoesOn), |guide| guide.take(id))?;
        if taken == Taken::Ends {
            return Ok(Some(FinishReason::Stop));
        }
        self.tokens.push(id);
        if self.first_token.is_none() {
            self.first_token = Some(now);
            let Timings { queued, prefill, cached_tokens, .. } = self.timings(now);
            let tag = self.request.tag;
            let event = SeqEvent::Started { tag, queued, prefill, cached_tokens };
            let _ = self.request.events.send(event);
        }
        self.last_token = Some(now);
        let (tag, work) = (self.request.tag, self.work);
        let event = SeqEvent::Token { tag, id, at: now, work, logprobs };
        let _ = self.request.events.send(event);
        if taken == Taken::Completes {
            return Ok(Some(FinishReason::Stop));
        }
        Ok(self.is_full(self.tokens.len(), max_len).then_some(FinishReason::Length))
    }

    /// Tells the caller that the reply is complete.
    pub fn finish(&self, reason: FinishReason, now: Instant) {
        let (tag, timings) = (self.request.tag, Box::new(self.timings(now)));
        let _ = self.request.events.send(SeqEvent::Finished { tag, reason, timings });
    }

    /// Tells the caller that the sequence failed.
    pub fn fail(&self, fault: Fault, now: Instant) {
        let (tag, timings) = (self.request.tag, Box::new(self.timings(now)));
        let _ = self.request.events.send(SeqEvent::Failed { tag, fault, timings });
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
            cached_tokens: self.cached,
            output_tokens: self.tokens.len() - self.prompt_len,
            preemptions: self.preemptions,
        }
    }
}
