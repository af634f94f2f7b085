//! Which sequences run in the next step: continuous batching with chunked prefill and preemption by
//! recomputation.
//!
//! Every running decode is in every step. Unfinished prefills, and then new sequences, get the rest of the
//! token budget, which is smaller while another lane waits for its turn. A sequence is admitted when its
//! whole prompt fits. When a decode needs a block and none is free, the youngest running sequence releases
//! its blocks and is later recomputed from its tokens. The scheduler never touches a tensor and reads no
//! clock.
//!
//! A step can be scheduled ahead, before the results of the current step are known, if each result can only be a token
//! that is fed back or one that ends its sequence. If a sequence has ended by then, its row in the next step is
//! discarded.
//!
//! On admission, a sequence reuses the cached blocks of its prefix. A block enters the prefix cache when the
//! step that filled it has succeeded. It leaves the cache when a sequence that references it ends with NaN
//! logits.
//!
//! (Orca, OSDI 2022; PagedAttention, arXiv:2309.06180; chunked prefill as in Sarathi, arXiv:2308.16369.)

use super::blocks::BlockPool;
use super::request::{Fault, Refusal, SeqRequest};
use super::runner::{Capacity, Sampled};
use super::sequence::Sequence;
use super::work::Step;
use crate::device::{Batch, Row};
use crate::model::Draw;
use std::collections::VecDeque;
use std::time::Instant;

/// Limits of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Sequences in a step.
    pub max_running: usize,
    /// Tokens in a step; at least `max_running`, so that every decode fits.
    pub max_batch_tokens: usize,
    /// Sequences waiting; more are refused.
    pub max_waiting: usize,
    /// Whether computed prefixes are cached for later sequences.
    pub prefix_cache: bool,
    /// Longest background sequence, in tokens: the prefix cache leaves its KV blocks free, but at most an eighth of
    /// all. Other sequences may take them.
    pub reserved_tokens: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            max_running: 64,
            max_batch_tokens: 512,
            max_waiting: 256,
            prefix_cache: true,
            reserved_tokens: 0,
        }
    }
}

/// Running totals, for metrics and leak checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Times that a running sequence lost its blocks to others and had to start over.
    pub preemptions: u64,
    /// Sequences removed because their caller had disconnected, waiting or running.
    pub cancelled: u64,
    /// Sampled tokens, end-of-sequence tokens included.
    pub tokens_generated: u64,
    /// Tokens computed in chunks of two or more: prefills, recomputed ones included, and runs of forced tokens.
    pub tokens_prefilled: u64,
    /// Prompt tokens of admitted sequences while caching is on, and how many of them were cached. A sequence
    /// that is readmitted after a preemption is not counted again.
    pub prefix_lookup_tokens: u64,
    /// Of `prefix_lookup_tokens`, those found in the cache.
    pub prefix_hit_tokens: u64,
}

/// What the results of a step mean for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SequenceResult {
    Continue,
    /// It has to be recomputed from its first token.
    Recompute,
    Ended,
    /// Ended with logits that are NaN or infinite.
    NonFiniteLogits,
    /// Ended because the step did not yield the expected result, or its guide failed.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StepRow {
    /// In the running set; `None`: the sequence has been removed since. Such a row has one result, which nobody wants.
    index: Option<usize>,
    /// Number of tokens computed.
    len: usize,
}

/// One lane's queue, running set and KV blocks.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    capacity: Capacity,
    blocks: BlockPool,
    waiting: VecDeque<Sequence>,
    /// In order of admission.
    running: Vec<Sequence>,
    /// The rows of the current step, which is completed next.
    step: Vec<StepRow>,
    /// Those of the step after it, if that was scheduled before the current one is completed.
    ahead: Vec<StepRow>,
    /// Whether another lane has work in this round.
    shared: bool,
    /// Maximum prefill tokens of a step in a round in which another lane has work.
    shared_tokens: usize,
    totals: Totals,
}

impl Scheduler {
    /// A scheduler without sequences. Raises `max_batch_tokens` to `max_running` if it is lower.
    pub fn new(config: SchedulerConfig, capacity: Capacity) -> Scheduler {
        let max_batch_tokens = config.max_batch_tokens.max(config.max_running);
        let config = SchedulerConfig { max_batch_tokens, ..config };
        let reserved =
            config.reserved_tokens.div_ceil(capacity.block_size).min(capacity.blocks / 8);
        Scheduler {
            config,
            capacity,
            blocks: BlockPool::new(capacity.blocks, capacity.block_size, config.prefix_cache)
                .keep_free(reserved),
            waiting: VecDeque::new(),
            running: Vec::new(),
            step: Vec::new(),
            ahead: Vec::new(),
            shared: false,
            shared_tokens: config.max_batch_tokens,
            totals: Totals::default(),
        }
    }

    /// The limits in effect; `max_batch_tokens` may be higher than requested.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// The lane's pool of KV blocks.
    pub fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    /// Counts since the scheduler was created.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Number of sequences in the queue, preempted ones included.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of admitted sequences: in prefill or decoding.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether no sequence is waiting or running.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Whether nobody waits for any of its sequences: a step is then as short as next to another lane.
    fn is_background(&self) -> bool {
        self.running.iter().chain(&self.waiting).all(Sequence::is_background)
    }

    /// Queues a request that passed [`Scheduler::check`].
    pub fn admit(&mut self, request: SeqRequest) {
        self.waiting.push_back(Sequence::new(request));
    }

    /// Whether a request can be queued. Fails if its prompt is empty, too long or has an unknown token, or if the queue
    /// is full.
    pub fn check(&self, request: &SeqRequest) -> Result<(), Refusal> {
        let (len, longest) = (request.prompt.len(), self.capacity.longest());
        let vocab = self.capacity.vocab;
        if len == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if len >= longest {
            return Err(Refusal::TooLong { len, max: longest.saturating_sub(1) });
        }
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(Refusal::BadToken { id, vocab });
        }
        let waiting = self.waiting.len();
        if waiting >= self.config.max_waiting {
            return Err(Refusal::QueueFull { waiting });
        }
        Ok(())
    }

    /// Sets whether another lane has work in this round; tokens are tagged with it.
    pub fn set_shared(&mut self, shared: bool) {
        self.shared = shared;
    }

    /// Limits the prefill tokens of a step while another lane waits for its turn. Decodes are never held
    /// back, because readers would notice.
    pub fn set_shared_tokens(&mut self, most: usize) {
        self.shared_tokens = most.max(1);
    }

    /// Fills `batch` with the next step. Returns false when there is nothing to run.
    pub fn schedule(&mut self, batch: &mut Batch, now: Instant) -> bool {
        self.begin(batch);
        let yields = self.shared || self.is_background();
        let most = if yields { self.shared_tokens } else { usize::MAX };
        let (preempted, mut budget) = self.schedule_decodes(batch, most);
        self.schedule_prefills(batch, &mut budget);
        if !preempted {
            self.schedule_waiting(batch, &mut budget, now);
        }
        !batch.is_empty()
    }

    /// Number of sequences that decode and have had no matched step yet.
    pub fn matchable(&self) -> usize {
        self.running.iter().filter(|sequence| sequence.matchable()).count()
    }

    /// Fills `batch` with a step of exactly this number of decodes that have had no matched step yet, the
    /// oldest first, and nothing else. If there are fewer, or no room for their next tokens, returns false
    /// with an empty batch.
    pub fn schedule_some(&mut self, batch: &mut Batch, rows: usize) -> bool {
        self.begin(batch);
        let some = (0..self.running.len()).filter(|i| self.running[*i].matchable());
        let some: Vec<usize> = some.take(rows).collect();
        if rows == 0 || some.len() < rows || !some.iter().all(|index| self.make_room(*index)) {
            return false;
        }
        some.into_iter().for_each(|index| self.put(batch, index, 1));
        true
    }

    fn begin(&mut self, batch: &mut Batch) {
        batch.clear();
        self.step.clear();
        self.ahead.clear();
        self.sweep();
    }

    /// Fills `batch` with the step after the current one, which has not been completed: the tokens that it samples
    /// are the inputs, and the device fills them in. Returns false with an empty batch if that cannot be done: a
    /// sequence waits or is in its prefill, a step depends on which token is sampled, blocks are short, or every
    /// sequence is about to end.
    pub fn schedule_ahead(&mut self, batch: &mut Batch) -> bool {
        batch.clear();
        if !self.can_run_ahead() {
            return false;
        }
        // Now that each row is known to have one result.
        self.sweep();
        let longest = self.capacity.longest();
        let goes_on = |(drawn, row): (usize, &StepRow)| {
            let index = row.index?;
            (!self.running[index].is_almost_full(longest)).then_some((index, drawn))
        };
        let rows: Vec<(usize, usize)> = self.step.iter().enumerate().filter_map(goes_on).collect();
        let blocks = &mut self.blocks;
        if !rows.iter().all(|(index, _)| self.running[*index].acquire_ahead(blocks)) {
            return false;
        }
        rows.iter().for_each(|(index, drawn)| self.put_ahead(batch, *index, *drawn));
        !batch.is_empty()
    }

    /// Whether the next step does not depend on the results of the current one: all sequences decode, none waits, and
    /// no choice of a token depends on the one before.
    pub fn can_run_ahead(&self) -> bool {
        let current = self.step.iter().filter_map(|row| row.index);
        let all = current.count() == self.running.len() && self.waiting.is_empty();
        let switch = self.capacity.rope_switch;
        let plain = self.step.iter().all(|row| row.len == 1)
            && self.running.iter().all(|sequence| sequence.can_run_ahead(switch));
        all && plain && self.ahead.is_empty()
    }

    /// The step that was scheduled ahead is not run.
    pub fn cancel_ahead(&mut self) {
        self.ahead.clear();
    }

    /// Sampling instructions for the rows of the step scheduled last that yield a token or scores.
    pub fn draws(&self) -> Vec<Draw<'_>> {
        let (rows, unknown) = match self.ahead.is_empty() {
            true => (&self.step, 0),
            false => (&self.ahead, 1),
        };
        let mut draws = Vec::with_capacity(rows.len());
        let rows = rows.iter().filter_map(|row| Some((&self.running[row.index?], row.len)));
        let wanted = rows.filter(|(s, len)| unknown > 0 || s.results(*len) > 0);
        draws.extend(wanted.map(|(s, _)| s.draw(unknown)));
        draws
    }

    /// Processes the current step's results: sends scores and new tokens to the callers, and removes ended sequences.
    /// Each sequence is charged its part of the step. The step that was scheduled ahead becomes the current one.
    pub fn complete(&mut self, mut results: Vec<Sampled>, now: Instant, step: &Step<'_>) {
        let mut results = results.iter_mut();
        let mut ended = Vec::new();
        let mut rows = std::mem::take(&mut self.step);
        for StepRow { index, len } in rows.drain(..) {
            let Some(index) = index else {
                results.next();
                continue;
            };
            let due = self.running[index].results(len);
            self.running[index].charge(step, len);
            self.running[index].computed += len;
            self.totals.tokens_prefilled += if len > 1 { len as u64 } else { 0 };
            let mut outcome = SequenceResult::Continue;
            for _ in 0..due {
                let result = results.next();
                if outcome == SequenceResult::Continue {
                    outcome = self.apply_result(index, result, now);
                }
            }
            if self.settle(index, outcome) {
                ended.push(index);
            }
        }
        self.remove(ended);
        // The lists keep their memory.
        self.step = std::mem::replace(&mut self.ahead, rows);
    }

    /// Handles a sequence's blocks according to `outcome`; returns whether the sequence has ended.
    fn settle(&mut self, index: usize, outcome: SequenceResult) -> bool {
        let (sequence, pool) = (&mut self.running[index], &mut self.blocks);
        match outcome {
            SequenceResult::Continue | SequenceResult::Ended => sequence.register(pool),
            SequenceResult::Recompute => {
                sequence.register(pool);
                sequence.restart(pool);
            }
            SequenceResult::NonFiniteLogits => pool.invalidate(&sequence.blocks),
            SequenceResult::Failed => {}
        }
        matches!(
            outcome,
            SequenceResult::Ended | SequenceResult::NonFiniteLogits | SequenceResult::Failed
        )
    }

    /// Processes one result of a sequence, and takes out what is in it.
    fn apply_result(
        &mut self,
        index: usize,
        result: Option<&mut Sampled>,
        now: Instant,
    ) -> SequenceResult {
        let (longest, switch) = (self.capacity.longest(), self.capacity.rope_switch);
        let sequence = &mut self.running[index];
        match result {
            Some(Sampled::Token { id, logprobs }) => {
                let before = sequence.tokens.len();
                let pushed = sequence.push(*id, logprobs.take(), longest, now);
                let after = sequence.tokens.len();
                self.totals.tokens_generated += (after - before).max(1) as u64;
                match pushed {
                    Err(failed) => {
                        sequence.fail(failed.into(), now);
                        return SequenceResult::Failed;
                    }
                    Ok(Some(reason)) => {
                        sequence.finish(reason, now);
                        return SequenceResult::Ended;
                    }
                    Ok(None) if switch.is_some_and(|at| before <= at && at < after) => {
                        return SequenceResult::Recompute;
                    }
                    Ok(None) => {}
                }
            }
            Some(Sampled::Scores(scores)) => sequence.push_scores(std::mem::take(scores)),
            Some(Sampled::NonFinite) => {
                sequence.fail(Fault::NonFiniteLogits, now);
                return SequenceResult::NonFiniteLogits;
            }
            Some(Sampled::Unguided(failed)) => {
                sequence.fail(failed.clone().into(), now);
                return SequenceResult::Failed;
            }
            Some(Sampled::Failed(what)) => {
                sequence.fail(Fault::Step(std::mem::take(what)), now);
                return SequenceResult::Failed;
            }
            None => {
                sequence.fail(Fault::Step("the model returned too few rows".into()), now);
                return SequenceResult::Failed;
            }
        }
        SequenceResult::Continue
    }

    /// Ends the sequences of a step that failed as a whole.
    pub fn fail_step(&mut self, fault: &Fault, now: Instant) {
        let ended: Vec<usize> = self.step.iter().filter_map(|row| row.index).collect();
        ended.iter().for_each(|&i| self.running[i].fail(fault.clone(), now));
        self.remove(ended);
        self.step = std::mem::take(&mut self.ahead);
    }

    /// Ends everything, running and waiting.
    pub fn fail_all(&mut self, fault: &Fault, now: Instant) {
        for sequence in self.waiting.drain(..) {
            sequence.fail(fault.clone(), now);
        }
        self.step.clear();
        self.ahead.clear();
        for mut sequence in self.running.drain(..) {
            sequence.fail(fault.clone(), now);
            self.blocks.release(&mut sequence.blocks);
        }
    }

    fn sweep(&mut self) {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|s| !s.cancelled());
        let all = 0..self.running.len();
        let gone: Vec<usize> = all.filter(|index| self.running[*index].cancelled()).collect();
        self.remove(gone);
        self.totals.cancelled += (before - self.waiting.len() - self.running.len()) as u64;
    }

    /// Puts a token of each decoding sequence into the step and, of those with a run of forced tokens, more: with the
    /// prefills, up to `most` tokens. Returns whether any sequence had to be preempted, and how many are left of `most`.
    fn schedule_decodes(&mut self, batch: &mut Batch, most: usize) -> (bool, usize) {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() {
            // A prefill has had its blocks since its admission, unless it was restarted in between.
            while index < self.running.len() && !self.make_room(index) {
                self.preempt_youngest();
                preempted = true;
            }
            index += 1;
        }
        let decodes = self.running.iter().filter(|sequence| sequence.decodes()).count();
        let mut budget = (self.config.max_batch_tokens - decodes).min(most);
        let mut runs = Vec::new();
        for index in 0..self.running.len() {
            if !self.running[index].decodes() {
                continue;
            }
            // One token is left, so that a prompt gets on or is admitted.
            let more = (self.running[index].pending() - 1).min(budget.saturating_sub(1));
            budget -= more;
            match more {
                0 => self.put(batch, index, 1),
                // Attention of rows with one token is cheaper where these come first.
                more => runs.push((index, 1 + more)),
            }
        }
        runs.into_iter().for_each(|(index, len)| self.put(batch, index, len));
        (preempted, budget)
    }

    fn schedule_prefills(&mut self, batch: &mut Batch, budget: &mut usize) {
        for index in 0..self.running.len() {
            let sequence = &self.running[index];
            if !sequence.decodes() && *budget > 0 {
                let len = sequence.pending().min(*budget);
                self.put(batch, index, len);
                *budget -= len;
            }
        }
    }

    fn schedule_waiting(&mut self, batch: &mut Batch, budget: &mut usize, now: Instant) {
        while *budget > 0 && self.running.len() < self.config.max_running {
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            if !sequence.acquire(&mut self.blocks, self.capacity.rope_switch) {
                if sequence.is_background() {
                    sequence.refuse(Refusal::NoFreeBlocks);
                    continue;
                }
                self.waiting.push_front(sequence);
                return;
            }
            if sequence.start(now) && self.config.prefix_cache && !sequence.is_background() {
                self.totals.prefix_lookup_tokens += sequence.tokens.len() as u64;
                self.totals.prefix_hit_tokens += sequence.computed as u64;
            }
            let len = sequence.pending().min(*budget);
            self.running.push(sequence);
            self.put(batch, self.running.len() - 1, len);
            *budget -= len;
        }
    }

    fn make_room(&mut self, index: usize) -> bool {
        self.running[index].acquire(&mut self.blocks, self.capacity.rope_switch)
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            sequence.preempt(&mut self.blocks);
            self.totals.preemptions += 1;
            self.waiting.push_front(sequence);
        }
    }

    /// Adds the next `len` tokens of a running sequence to the step.
    fn put(&mut self, batch: &mut Batch, index: usize, len: usize) {
        let sequence = &self.running[index];
        let (from, to) = (sequence.computed, sequence.computed + len);
        batch.rows.push(Row {
            start: batch.tokens.len(),
            len,
            context: to,
            total: sequence.tokens.len(),
            table: batch.tables.len(),
            table_len: sequence.blocks.len(),
            sample: to == sequence.tokens.len(),
            scored: sequence.scored(len),
            drawn: None,
        });
        batch.tokens.extend_from_slice(&sequence.tokens[from..to]);
        batch.tables.extend_from_slice(&sequence.blocks);
        let size = self.capacity.block_size;
        for position in from..to {
            let slot = sequence.blocks[position / size] as usize * size + position % size;
            batch.positions.push(position as u32);
            batch.slots.push(slot as u32);
        }
        self.step.push(StepRow { index: Some(index), len });
    }

    /// Adds the token of a running sequence that row `drawn` of the current step samples to the step after it.
    fn put_ahead(&mut self, batch: &mut Batch, index: usize, drawn: usize) {
        let sequence = &self.running[index];
        let (position, size) = (sequence.tokens.len(), self.capacity.block_size);
        batch.rows.push(Row {
            start: batch.tokens.len(),
            len: 1,
            context: position + 1,
            total: position + 1,
            table: batch.tables.len(),
            table_len: sequence.blocks.len(),
            sample: true,
            scored: 0,
            drawn: Some(drawn),
        });
        let slot = sequence.blocks[position / size] as usize * size + position % size;
        batch.tokens.push(0);
        batch.tables.extend_from_slice(&sequence.blocks);
        batch.positions.push(position as u32);
        batch.slots.push(slot as u32);
        self.ahead.push(StepRow { index: Some(index), len: 1 });
    }

    fn remove(&mut self, mut ended: Vec<usize>) {
        ended.sort_unstable();
        for index in ended.into_iter().rev() {
            let mut sequence = self.running.remove(index);
            self.blocks.release(&mut sequence.blocks);
            for row in self.step.iter_mut().chain(&mut self.ahead) {
                row.index = match row.index {
                    Some(at) if at == index => None,
                    at => at.map(|at| at - usize::from(at > index)),
                };
            }
        }
    }
}

#[cfg(test)]
mod prefix_tests;
#[cfg(test)]
mod tests;
