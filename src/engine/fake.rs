//! A scripted runner, for fast and exact tests of the whole server, router and rollout.
//!
//! It generates the scripted tokens, takes the scripted time, and fails where the script says so. It gets the
//! same batches as a real runner, but holds no weights.

use super::runner::{Capacity, PendingStep, RunError, Runner, Sampled};
use crate::device::{Batch, Row};
use crate::model::{Draw, Logprobs, Score, sampler};
use std::time::Duration;

/// What a fake model does.
#[derive(Debug, Clone, Default)]
pub struct FakeScript {
    /// The limits that the runner reports.
    pub capacity: Capacity,
    /// Reply tokens, in order, followed by `eos`.
    pub reply: Vec<u32>,
    /// The token generated after the end of `reply`.
    pub eos: u32,
    /// Time that each step takes.
    pub step_time: Duration,
    /// A prompt with this id yields NaN logits.
    pub nan_on: Option<u32>,
    /// A step with a prompt with this id fails as a whole.
    pub fail_on: Option<u32>,
    /// A step with a prompt with this id panics.
    pub panic_on: Option<u32>,
    /// A step with a prompt with this id aborts the process.
    pub abort_on: Option<u32>,
    /// In a step with a prompt with this id, the device fails.
    pub lose_device_on: Option<u32>,
    /// Share of sequences (by seed) whose logits are NaN from the first token on.
    pub nan_share: f64,
}

impl FakeScript {
    /// A model that replies with the ids `reply`, then `eos`, to everything, without delay or fault.
    pub fn replying(reply: &[u32], eos: u32, capacity: Capacity) -> FakeScript {
        FakeScript { capacity, reply: reply.to_vec(), eos, ..FakeScript::default() }
    }

    /// Token `id` has the log-probability `-(id + 1) / 100` at every position.
    fn results(&self, row: &Row, draw: &Draw<'_>) -> Vec<Sampled> {
        let from = (row.context + 1 - row.wanted()).min(draw.tokens.len());
        let known = draw.tokens[from..].iter().take(row.scored);
        let scores = (row.scored > 0)
            .then(|| Sampled::Scores(known.map(|id| score(*id, draw.params.logprobs)).collect()));
        scores.into_iter().chain(row.sample.then(|| self.next(draw))).collect()
    }

    fn next(&self, draw: &Draw<'_>) -> Sampled {
        let unlucky = sampler::uniform(draw.params.seed, u64::MAX) < self.nan_share;
        if unlucky || self.nan_on.is_some_and(|id| draw.tokens.contains(&id)) {
            return Sampled::NonFinite;
        }
        let done = draw.tokens.len() - draw.prompt_len;
        let wanted = self.reply.get(done).copied().unwrap_or(self.eos);
        let id = match draw.mask() {
            Ok(Some(mask)) if !mask.has(wanted) => mask.ids(self.capacity.vocab).next(),
            Ok(_) => Some(wanted),
            Err(failed) => return Sampled::Unguided(failed),
        };
        let id = id.unwrap_or(self.eos);
        let top = |k: u8| (0..u32::from(k)).map(|id| (id, logprob(id))).collect();
        let logprobs = draw.params.logprobs.map(|k| Logprobs { token: logprob(id), top: top(k) });
        Sampled::Token { id, logprobs: logprobs.map(Box::new) }
    }
}

fn score(id: u32, top: Option<u8>) -> Score {
    let likeliest = (0..u32::from(top.unwrap_or(0))).map(|id| (id, logprob(id))).collect();
    Score { logprob: logprob(id), top: id, likeliest, all: None }
}

fn logprob(id: u32) -> f32 {
    -(id as f32 + 1.0) / 100.0
}

/// Runs a [`FakeScript`].
pub struct FakeRunner {
    script: FakeScript,
    /// Stands for weights and KV cache, so that memory figures are not trivially zero.
    _memory: Vec<u8>,
}

impl FakeRunner {
    /// `memory`: bytes to hold while loaded.
    pub fn new(script: FakeScript, memory: usize) -> FakeRunner {
        FakeRunner { script, _memory: vec![1; memory] }
    }
}

impl Runner for FakeRunner {
    fn capacity(&self) -> Capacity {
        self.script.capacity
    }

    /// Calibration steps would disturb the script.
    fn can_be_measured(&self) -> bool {
        false
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        if !self.script.step_time.is_zero() {
            std::thread::sleep(self.script.step_time);
        }
        let holds = |id: Option<u32>| id.is_some_and(|id| batch.tokens.contains(&id));
        if holds(self.script.panic_on) {
            std::panic::panic_any("scripted panic");
        }
        if holds(self.script.abort_on) {
            std::process::abort();
        }
        if holds(self.script.lose_device_on) {
            return Err(RunError::DeviceLost("scripted loss".into()));
        }
        if holds(self.script.fail_on) {
            return Err(RunError::Step("scripted failure".into()));
        }
        let rows = batch.rows.iter().filter(|row| row.wanted() > 0).zip(draws);
        Ok(PendingStep::done(rows.flat_map(|(row, draw)| self.script.results(row, draw)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineHandle, SchedulerConfig, SeqEvent, SeqRequest};
    use crate::model::SamplingParams;
    use std::time::Instant;
    use tokio::sync::mpsc::unbounded_channel;

    /// All events of a prompt of ten tokens, processed three at a time, with two reply tokens.
    async fn events(params: SamplingParams) -> Vec<SeqEvent> {
        let (engine, _faults) = EngineHandle::start().unwrap();
        let capacity =
            Capacity { blocks: 8, block_size: 4, vocab: 50, max_len: 32, rope_switch: None };
        let make = move || {
            let runner = FakeRunner::new(FakeScript::replying(&[7, 8], 0, capacity), 1);
            Ok(Box::new(runner) as Box<dyn Runner>)
        };
        let config = SchedulerConfig { max_batch_tokens: 3, ..SchedulerConfig::default() };
        let loaded = engine.load(config, make).await.unwrap();
        let (events, mut inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 3,
            prompt: (10..20).collect(),
            params,
            max_new_tokens: 2,
            stop_ids: vec![],
            cache_salt: 0,
            events,
            background: false,
            guide: None,
            arrived: Instant::now(),
        };
        engine.submit(loaded.lane, vec![request]).unwrap();
        let mut all = Vec::new();
        while let Some(event) = inbox.recv().await {
            all.push(event);
        }
        all
    }

    #[tokio::test]
    async fn scores_come_once_before_the_first_token_and_log_probabilities_with_each() {
        let params =
            SamplingParams { score_last: 5, logprobs: Some(2), ..SamplingParams::greedy() };
        let all = events(params).await;
        let scores = (15..20).map(|id| score(id, Some(2))).collect();
        assert_eq!(all[0], SeqEvent::Scored { tag: 3, scores });
        let tokens = all.iter().filter_map(|event| match event {
            SeqEvent::Token { id, logprobs, .. } => Some((*id, logprobs.clone().unwrap())),
            _ => None,
        });
        let top = vec![(0, logprob(0)), (1, logprob(1))];
        let with = |id| (id, Box::new(Logprobs { token: logprob(id), top: top.clone() }));
        assert_eq!(tokens.collect::<Vec<_>>(), [with(7), with(8)]);
    }

    #[tokio::test]
    async fn no_more_is_scored_than_the_prompt_has() {
        let all = events(SamplingParams { score_last: 99, ..SamplingParams::greedy() }).await;
        let scores = (11..20).map(|id| score(id, None)).collect();
        assert_eq!(all[0], SeqEvent::Scored { tag: 3, scores });
        assert!(all.iter().all(|e| !matches!(e, SeqEvent::Token { logprobs: Some(_), .. })));
    }
}
