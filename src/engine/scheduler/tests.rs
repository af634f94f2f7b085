//! The scheduler compared with a shadow cache. Whatever is preempted, chunked or cancelled, each row must
//! find exactly its own tokens in its blocks, and every block must be freed in the end.

use super::*;
use crate::engine::request::{FinishReason, SeqEvent};
use crate::engine::work::Load;
use crate::model::{Guide, GuideFailed, SamplingParams, Score, SharedGuide, Taken, TokenMask};
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A step whose time does not matter.
pub(super) fn of_no_time() -> Step<'static> {
    Step { took: Duration::ZERO, all: Load::default(), model: None, matched: false }
}

pub(super) const EOS: u32 = 0;

/// A "model" whose next token depends on every token before it.
pub(super) fn next_token(tokens: &[u32]) -> u32 {
    let hash = tokens.iter().fold(17u32, |h, t| h.wrapping_mul(31).wrapping_add(*t));
    (hash >> 3) % 97
}

pub(super) fn reply_alone(prompt: &[u32], max_new: usize, longest: usize) -> Vec<u32> {
    forced_reply_alone(prompt, max_new, longest, 0)
}

/// The same, where each token that the model chooses forces so many others, at most.
fn forced_reply_alone(prompt: &[u32], max_new: usize, longest: usize, most: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    while tokens.len() - prompt.len() < max_new && tokens.len() < longest {
        match next_token(&tokens) {
            EOS => break,
            id => tokens.push(id),
        }
        tokens.extend(run_after(&tokens, most));
        tokens.truncate(longest.min(prompt.len() + max_new));
    }
    tokens.split_off(prompt.len())
}

/// A run of up to `most` tokens that must follow these.
fn run_after(tokens: &[u32], most: usize) -> Vec<u32> {
    let hash = next_token(tokens);
    (0..hash % (most as u32 + 1)).map(|at| 1 + (hash + at) % 96).collect()
}

/// Allows everything, and forces runs.
#[derive(Debug)]
struct Runs {
    tokens: Vec<u32>,
    most: usize,
}

impl Guide for Runs {
    fn mask(&mut self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        Ok(None)
    }

    fn take(&mut self, id: u32) -> Result<Taken, GuideFailed> {
        self.tokens.push(id);
        Ok(Taken::GoesOn)
    }

    fn forced(&mut self) -> Vec<u32> {
        run_after(&self.tokens, self.most)
    }
}

/// The made-up log-probability of `token` after `before`.
pub(super) fn score(before: &[u32], token: u32) -> Score {
    let top = next_token(before);
    Score { logprob: -((top + token) as f32), top, likeliest: Vec::new(), all: None }
}

struct Client {
    prompt: Vec<u32>,
    score_last: usize,
    /// Most tokens that are forced after one that the model chose.
    forced: usize,
    max_new: usize,
    events: Option<UnboundedReceiver<SeqEvent>>,
}

fn client(scheduler: &mut Scheduler, prompt: Vec<u32>, max_new: usize, now: Instant) -> Client {
    any_client(scheduler, prompt, max_new, (0, 0), now)
}

/// One that asks for so many scores, and has runs of at most so many forced tokens.
fn any_client(
    scheduler: &mut Scheduler,
    prompt: Vec<u32>,
    max_new: usize,
    (score_last, forced): (usize, usize),
    now: Instant,
) -> Client {
    let runs = Runs { tokens: prompt.clone(), most: forced };
    let (events, inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt: prompt.clone(),
        params: SamplingParams { score_last, ..SamplingParams::greedy() },
        max_new_tokens: max_new,
        stop_ids: vec![EOS],
        cache_salt: 0,
        events,
        background: false,
        guide: (forced > 0).then(|| SharedGuide::new(Box::new(runs))),
        arrived: now,
    };
    scheduler.check(&request).unwrap();
    scheduler.admit(request);
    Client { prompt, score_last, forced, max_new, events: Some(inbox) }
}

/// Checks the batch against the shadow cache (position, id, and whether the sequence had passed the switch)
/// and "runs" it.
fn run_step(
    batch: &Batch,
    draws: &[Draw<'_>],
    switch: usize,
    cache: &mut HashMap<u32, (u32, u32, bool)>,
) -> Vec<Sampled> {
    let mut written = Vec::new();
    for row in &batch.rows {
        for i in row.start..row.start + row.len {
            let entry = (batch.positions[i], batch.tokens[i], row.total > switch);
            written.push(batch.slots[i]);
            cache.insert(batch.slots[i], entry);
        }
    }
    written.sort_unstable();
    assert!(written.windows(2).all(|w| w[0] != w[1]), "two tokens share a slot");
    let mut draws = draws.iter();
    let mut results = Vec::new();
    for row in batch.rows.iter() {
        let table = batch.table(row);
        assert!(table.len() * 4 >= row.context);
        let seen: Vec<u32> = (0..row.context)
            .map(|p| {
                let slot = table[p / 4] * 4 + (p % 4) as u32;
                let (position, id, long) = cache[&slot];
                assert_eq!(position, p as u32, "slot {slot} holds another position");
                assert_eq!(long, row.total > switch, "a key of the other kind at {p}");
                id
            })
            .collect();
        let draw = if row.wanted() > 0 { draws.next() } else { None };
        if row.scored > 0 {
            let known = draw.unwrap().tokens;
            let upto = row.context - usize::from(row.sample);
            assert!(known.starts_with(&seen));
            let scored = (upto - row.scored..upto).map(|p| score(&seen[..=p], known[p + 1]));
            results.push(Sampled::Scores(scored.collect()));
        }
        if row.sample {
            let draw = draw.unwrap();
            assert!(seen.starts_with(draw.tokens), "the cache must hold the sequence's own tokens");
            assert_eq!(seen.len(), draw.position());
            results.push(Sampled::token(next_token(&seen)));
        }
    }
    assert!(draws.next().is_none());
    results
}

/// Fills in the tokens that only the device knows, as it does: from the results of the step before.
fn fill_in(batch: &mut Batch, before: &[Sampled]) {
    for row in &batch.rows {
        let drawn = row.drawn.expect("every row follows one");
        batch.tokens[row.start] = match before[drawn] {
            Sampled::Token { id, .. } => id,
            // Whatever such a row is computed from, nobody wants its result.
            _ => 0,
        };
    }
}

proptest! {
    #[test]
    fn replies_are_those_of_each_sequence_alone_and_no_block_is_lost(
        prompts in proptest::collection::vec(
            (proptest::collection::vec(1u32..97, 1..20), 1usize..25, (0usize..24, 0usize..9)), 1..12,
        ),
        blocks in 7usize..24,
        max_running in 1usize..8,
        max_batch_tokens in 1usize..40,
        switch in 1usize..50,
        prefix_cache in any::<bool>(),
        cancel in proptest::collection::vec((0usize..12, 0usize..40), 0..5),
        // How often a step is scheduled ahead: never, at every second chance, always.
        ahead in 0usize..3,
        // A step that fails, if there is one with this number.
        fails in 0usize..100,
        // A step whose first row has NaN logits, likewise.
        spoils in 0usize..100,
    ) {
        let capacity = Capacity { blocks, block_size: 4, vocab: 97, max_len: 40, rope_switch: Some(switch) };
        let longest = capacity.longest();
        let config = SchedulerConfig { max_running, max_batch_tokens, max_waiting: 64, prefix_cache, reserved_tokens: 8 };
        let mut scheduler = Scheduler::new(config, capacity);
        let now = Instant::now();
        let mut clients: Vec<Client> =
            prompts.iter().map(|(prompt, new, (scored, forced))| {
                // Nothing runs ahead of a guide.
                let forced = if ahead > 0 { 0 } else { *forced };
                any_client(&mut scheduler, prompt.clone(), *new, (*scored, forced), now)
            }).collect();
        let mut batch = Batch::default();
        let mut cache = HashMap::new();
        // The results of the steps that are scheduled and not completed, the oldest first.
        let mut results: VecDeque<Vec<Sampled>> = VecDeque::new();
        for step in 0..20_000 {
            for (who, _) in cancel.iter().filter(|(_, when)| *when == step) {
                if let Some(client) = clients.get_mut(*who) {
                    client.events = None;
                }
            }
            if results.len() == 1 {
                if ahead * (1 + step % 2) > 1 && scheduler.schedule_ahead(&mut batch) {
                    fill_in(&mut batch, &results[0]);
                    prop_assert!(batch.rows.len() <= max_running);
                    results.push_back(run_step(&batch, &scheduler.draws(), switch, &mut cache));
                }
                let results = results.pop_front().unwrap();
                match step == fails {
                    true => scheduler.fail_step(&Fault::Step("as asked".into()), now),
                    false => scheduler.complete(results, now, &of_no_time()),
                }
                continue;
            }
            let some = 1 + step % scheduler.matchable().max(1);
            if step % 3 == 2 && scheduler.schedule_some(&mut batch, some) {
                prop_assert!(batch.rows.len() == some && batch.rows.iter().all(|row| row.len == 1));
            } else if !scheduler.schedule(&mut batch, now) {
                break;
            }
            prop_assert!(batch.tokens.len() <= max_batch_tokens.max(max_running));
            prop_assert!(batch.rows.len() <= max_running);
            let mut found = run_step(&batch, &scheduler.draws(), switch, &mut cache);
            if let Some(first) = found.first_mut().filter(|_| step == spoils) {
                *first = Sampled::NonFinite;
            }
            results.push_back(found);
        }
        prop_assert!(scheduler.is_idle(), "everything ends");
        prop_assert_eq!(scheduler.blocks().used(), 0);
        for client in &mut clients {
            let Some(events) = &mut client.events else { continue };
            let mut got = Vec::new();
            let (mut scores, mut end) = (Vec::new(), None);
            while let Ok(event) = events.try_recv() {
                match event {
                    SeqEvent::Scored { scores: all, .. } => {
                        assert!(scores.is_empty() && got.is_empty(), "once, before the first token");
                        scores = all;
                    }
                    SeqEvent::Started { .. } => assert!(got.is_empty()),
                    SeqEvent::Token { id, .. } => got.push(id),
                    other => end = Some(other),
                }
            }
            let prompt = &client.prompt;
            let from = prompt.len() - client.score_last.min(prompt.len() - 1);
            let known: Vec<Score> =
                (from..prompt.len()).map(|p| score(&prompt[..p], prompt[p])).collect();
            if matches!(end, Some(SeqEvent::Finished { .. })) {
                prop_assert_eq!(scores, known);
            }
            let expected = forced_reply_alone(&client.prompt, client.max_new, longest, client.forced);
            if let Some(SeqEvent::Failed { .. }) = end {
                prop_assert!(expected.starts_with(&got));
                continue;
            }
            prop_assert_eq!(&got, &expected);
            let Some(SeqEvent::Finished { reason, timings, .. }) = end else {
                return Err(TestCaseError::fail(format!("ended with {end:?}")));
            };
            prop_assert_eq!(timings.output_tokens, expected.len());
            let full = expected.len() == client.max_new
                || client.prompt.len() + expected.len() == longest;
            prop_assert_eq!(reason == FinishReason::Length, full);
        }
    }
}

proptest! {
    /// Whatever requests arrive, and however small the limit of a shared step: a decoding sequence gets on by a
    /// token in every step, also within a run of forced ones, and a prompt within a bounded number of steps.
    #[test]
    fn every_running_decode_advances_in_every_step(
        arrivals in proptest::collection::vec((0usize..60, 1usize..60, 1usize..30, 0usize..9), 1..40),
        max_running in 1usize..12,
        spare in 0usize..20,
        shared_tokens in 1usize..40,
        always_shared in any::<bool>(),
    ) {
        // Enough blocks for all, so that no sequence is preempted.
        let capacity = Capacity { blocks: 12 * 25, block_size: 4, vocab: 97, max_len: 96, rope_switch: None };
        let max_batch_tokens = max_running + spare;
        let config = SchedulerConfig { max_running, max_batch_tokens, max_waiting: 64, prefix_cache: false, reserved_tokens: 0 };
        let mut scheduler = Scheduler::new(config, capacity);
        let (now, mut batch, mut cache) = (Instant::now(), Batch::default(), HashMap::new());
        let mut clients = Vec::new();
        for step in 0..6000 {
            for (_, prompt, reply, forced) in arrivals.iter().filter(|(when, ..)| *when == step) {
                let prompt = vec![1 + (step % 90) as u32; *prompt];
                clients.push(any_client(&mut scheduler, prompt, *reply, (0, *forced), now));
            }
            let shared = always_shared || step % 3 == 0;
            scheduler.set_shared(shared);
            scheduler.set_shared_tokens(shared_tokens);
            let decoding = scheduler.running.iter().filter(|s| s.decodes()).count();
            let prefilling = scheduler.running.len() - decoding;
            let before: Vec<bool> = scheduler.running.iter().map(Sequence::decodes).collect();
            let waiting = scheduler.waiting.len();
            if !scheduler.schedule(&mut batch, now) {
                prop_assert!(scheduler.is_idle());
                if step > 60 {
                    break;
                }
                continue;
            }
            let rows = scheduler.step.iter().map(|row| (row.index.unwrap(), row.len));
            let rows: HashMap<usize, usize> = rows.collect();
            for (index, _) in before.iter().enumerate().filter(|(_, decodes)| **decodes) {
                prop_assert!(rows.get(&index).is_some_and(|len| *len >= 1), "a decode is not in the step");
            }
            prop_assert!(batch.tokens.len() <= max_batch_tokens);
            let prefill = batch.tokens.len() - decoding;
            if prefilling > 0 {
                prop_assert!(prefill >= 1, "a prompt or a run gets on");
            }
            if shared {
                prop_assert!(prefill <= shared_tokens, "{prefill} prefill tokens in a shared step");
            }
            if waiting > 0 && prefilling == 0 && decoding < max_running {
                prop_assert!(scheduler.waiting.len() < waiting, "somebody is admitted");
            }
            let results = run_step(&batch, &scheduler.draws(), 96, &mut cache);
            scheduler.complete(results, now, &of_no_time());
        }
        prop_assert!(scheduler.is_idle(), "nobody waits for ever");
    }
}

fn small() -> (Scheduler, Capacity) {
    let capacity = Capacity { blocks: 4, block_size: 4, vocab: 97, max_len: 64, rope_switch: None };
    let config = SchedulerConfig {
        max_running: 4,
        max_batch_tokens: 64,
        max_waiting: 2,
        ..Default::default()
    };
    (Scheduler::new(config, capacity), capacity)
}

fn refusal(scheduler: &mut Scheduler, prompt: Vec<u32>) -> Option<Refusal> {
    let (events, _inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt,
        params: SamplingParams::greedy(),
        max_new_tokens: 1,
        stop_ids: vec![],
        cache_salt: 0,
        events,
        background: false,
        guide: None,
        arrived: Instant::now(),
    };
    let refused = scheduler.check(&request).err();
    if refused.is_none() {
        scheduler.admit(request);
    }
    refused
}

#[test]
fn what_cannot_run_is_refused_with_the_reason() {
    let (mut scheduler, _) = small();
    assert_eq!(refusal(&mut scheduler, vec![]), Some(Refusal::EmptyPrompt));
    assert_eq!(refusal(&mut scheduler, vec![97]), Some(Refusal::BadToken { id: 97, vocab: 97 }));
    let long = Refusal::TooLong { len: 16, max: 15 };
    assert_eq!(refusal(&mut scheduler, vec![1; 16]), Some(long));
    assert_eq!(refusal(&mut scheduler, vec![1; 15]), None);
    assert_eq!(refusal(&mut scheduler, vec![1]), None);
    assert_eq!(refusal(&mut scheduler, vec![1]), Some(Refusal::QueueFull { waiting: 2 }));
}

#[test]
fn a_decode_is_never_held_up_by_a_long_prefill() {
    let capacity =
        Capacity { blocks: 100, block_size: 4, vocab: 97, max_len: 400, rope_switch: None };
    let config = SchedulerConfig {
        max_running: 4,
        max_batch_tokens: 8,
        max_waiting: 8,
        ..Default::default()
    };
    let mut scheduler = Scheduler::new(config, capacity);
    let now = Instant::now();
    let _a = client(&mut scheduler, vec![5, 6], 50, now);
    let mut batch = Batch::default();
    assert!(scheduler.schedule(&mut batch, now));
    scheduler.complete(vec![Sampled::token(9)], now, &of_no_time());
    let _b = client(&mut scheduler, vec![7; 100], 5, now);
    for _ in 0..10 {
        assert!(scheduler.schedule(&mut batch, now));
        assert_eq!((batch.rows[0].len, batch.rows[1].len), (1, 7));
        scheduler.complete(vec![Sampled::token(9)], now, &of_no_time());
    }
}

#[test]
fn a_failed_step_ends_its_sequences_and_frees_their_blocks() {
    let (mut scheduler, _) = small();
    let now = Instant::now();
    let mut a = client(&mut scheduler, vec![1, 2, 3], 5, now);
    let mut batch = Batch::default();
    assert!(scheduler.schedule(&mut batch, now));
    scheduler.fail_step(&Fault::Step("x".into()), now);
    let event = a.events.as_mut().unwrap().try_recv().unwrap();
    assert!(matches!(event, SeqEvent::Failed { fault: Fault::Step(_), .. }));
    assert_eq!((scheduler.blocks().used(), scheduler.is_idle()), (0, true));
}
