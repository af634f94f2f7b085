//! The prefix cache as used by the scheduler: what is found and what is not. No failure, preemption or change
//! of RoPE frequencies may ever let a sequence read data that is not its own.

use super::tests::{EOS, next_token, of_no_time, reply_alone, score};
use super::*;

use crate::engine::request::{SeqEvent, Timings};
use crate::model::SamplingParams;
use proptest::prelude::*;
use std::collections::HashMap;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SIZE: usize = 4;

/// What was written to a KV slot; `None`: by a step that failed.
type Written = Option<(u32, u32, bool, u64)>;

/// The content of a request.
#[derive(Debug, Clone)]
struct RowTask {
    prompt: Vec<u32>,
    max_new: usize,
    score_last: usize,
    salt: u64,
    background: bool,
}

impl RowTask {
    fn of(prompt: &[u32], max_new: usize) -> RowTask {
        RowTask { prompt: prompt.to_vec(), max_new, score_last: 0, salt: 0, background: false }
    }
}

struct Client {
    task: RowTask,
    events: Option<UnboundedReceiver<SeqEvent>>,
    /// Where its first row began, which is what was cached.
    began: Option<usize>,
}

/// The result of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Luck {
    Good,
    /// The step fails as a whole.
    Fails,
    /// The n-th result's sequence has NaN logits.
    NotANumber(usize),
    /// The last results are missing.
    TooFew,
}

struct World {
    scheduler: Scheduler,
    batch: Batch,
    kv: HashMap<u32, Written>,
    clients: Vec<Client>,
    now: Instant,
    /// Tokens computed.
    computed: usize,
}

fn config() -> SchedulerConfig {
    SchedulerConfig { max_running: 4, max_batch_tokens: 64, ..SchedulerConfig::default() }
}

fn world(config: SchedulerConfig, blocks: usize, rope_switch: Option<usize>) -> World {
    let capacity = Capacity { blocks, block_size: SIZE, vocab: 97, max_len: 60, rope_switch };
    World {
        scheduler: Scheduler::new(config, capacity),
        batch: Batch::default(),
        kv: HashMap::new(),
        clients: Vec::new(),
        now: Instant::now(),
        computed: 0,
    }
}

impl World {
    fn submit(&mut self, task: RowTask) -> usize {
        let (events, inbox) = unbounded_channel();
        let tag = self.clients.len();
        // The seed identifies the request of a row.
        let params = SamplingParams {
            score_last: task.score_last,
            seed: tag as u64,
            ..SamplingParams::greedy()
        };
        let request = SeqRequest {
            tag: tag as u32,
            prompt: task.prompt.clone(),
            params,
            max_new_tokens: task.max_new,
            stop_ids: vec![EOS],
            cache_salt: task.salt,
            events,
            background: task.background,
            guide: None,
            arrived: self.now,
        };
        self.scheduler.check(&request).unwrap();
        self.scheduler.admit(request);
        self.clients.push(Client { task, events: Some(inbox), began: None });
        tag
    }

    fn audit(&self) {
        self.scheduler.blocks.audit(self.scheduler.running.iter().map(|s| s.blocks.as_slice()));
    }

    /// One step, checked against what was really written. Returns false when there was nothing to do.
    fn step(&mut self, luck: Luck) -> bool {
        let cache = |pool: &BlockPool| (pool.evictions(), pool.cached());
        let before = self.scheduler.is_background().then(|| cache(&self.scheduler.blocks));
        if !self.scheduler.schedule(&mut self.batch, self.now) {
            return false;
        }
        let after = cache(&self.scheduler.blocks);
        assert!(before.is_none_or(|before| before == after), "the background changes the cache");
        self.audit();
        self.write();
        let results = self.read();
        match luck {
            Luck::Good => self.scheduler.complete(results, self.now, &of_no_time()),
            Luck::Fails => {
                for slot in &self.batch.slots {
                    self.kv.insert(*slot, None);
                }
                self.scheduler.fail_step(&Fault::Step("unlucky".into()), self.now);
            }
            Luck::TooFew => {
                let most = results.len().saturating_sub(1);
                self.scheduler.complete(
                    results.into_iter().take(most).collect(),
                    self.now,
                    &of_no_time(),
                );
            }
            Luck::NotANumber(which) => self.complete_with_nan(results, which),
        }
        self.audit();
        true
    }

    /// Processes a step with one NaN result: none of that sequence's blocks can be found afterwards.
    fn complete_with_nan(&mut self, mut results: Vec<Sampled>, which: usize) {
        let which = which % results.len().max(1);
        let mut due = 0;
        let owner = self.scheduler.step.iter().find(|row| {
            due += self.scheduler.running[row.index.unwrap()].results(row.len);
            due > which
        });
        let table = owner.map(|row| self.scheduler.running[row.index.unwrap()].blocks.clone());
        results.iter_mut().skip(which).take(1).for_each(|result| *result = Sampled::NonFinite);
        self.scheduler.complete(results, self.now, &of_no_time());
        for block in table.unwrap_or_default() {
            assert!(!self.scheduler.blocks.is_cached(block), "a spoilt block can be found");
        }
    }

    fn owners(&self) -> Vec<usize> {
        let running = |row: &StepRow| &self.scheduler.running[row.index.unwrap()];
        self.scheduler.step.iter().map(|s| running(s).draw(0).params.seed as usize).collect()
    }

    /// Writes the batch's tokens; no other sequence may be able to read the slots.
    fn write(&mut self) {
        for (row, owner) in self.batch.rows.iter().zip(self.owners()) {
            let (long, client) = (self.is_long(row), &mut self.clients[owner]);
            client.began.get_or_insert(row.context - row.len);
            self.computed += row.len;
            for i in row.start..row.start + row.len {
                let (slot, block) = (self.batch.slots[i], self.batch.slots[i] / SIZE as u32);
                assert_eq!(self.scheduler.blocks.ref_count(block), 1, "a shared block is written");
                assert!(!self.scheduler.blocks.is_cached(block), "a cached block is written");
                let (position, id) = (self.batch.positions[i], self.batch.tokens[i]);
                self.kv.insert(slot, Some((position, id, long, client.task.salt)));
            }
        }
    }

    /// Reads as attention would, and yields what a model would.
    fn read(&self) -> Vec<Sampled> {
        let (draws, owners) = (self.scheduler.draws(), self.owners());
        let (mut draws, mut results) = (draws.iter(), Vec::new());
        for (row, owner) in self.batch.rows.iter().zip(owners) {
            let (table, salt) = (self.batch.table(row), self.clients[owner].task.salt);
            let read = |p: usize| {
                let slot = table[p / SIZE] * SIZE as u32 + (p % SIZE) as u32;
                let Some(written) = self.kv[&slot] else { panic!("slot {slot} is spoilt") };
                let (position, id, long, salted) = written;
                assert_eq!((position as usize, long, salted), (p, self.is_long(row), salt));
                id
            };
            let seen: Vec<u32> = (0..row.context).map(read).collect();
            if row.wanted() == 0 {
                continue;
            }
            let known = draws.next().unwrap().tokens;
            assert!(known.starts_with(&seen), "other tokens than its own");
            if row.scored > 0 {
                let upto = row.context - usize::from(row.sample);
                let scored = (upto - row.scored..upto).map(|p| score(&seen[..=p], known[p + 1]));
                results.push(Sampled::Scores(scored.collect()));
            }
            if row.sample {
                results.push(Sampled::token(next_token(&seen)));
            }
        }
        results
    }

    fn is_long(&self, row: &Row) -> bool {
        self.scheduler.capacity.rope_switch.is_some_and(|switch| row.total > switch)
    }

    fn run(&mut self) {
        while self.step(Luck::Good) {}
    }

    /// Submits a request and runs to the end: the reply and the timings.
    fn ask(&mut self, task: RowTask) -> (Vec<u32>, Timings) {
        let tag = self.submit(task);
        self.run();
        let (reply, timings) = self.outcome(tag);
        (reply, timings.expect("it has finished"))
    }

    /// What a client received, checked against the reply of a model that serves only this request. `None`:
    /// the request failed.
    fn outcome(&mut self, tag: usize) -> (Vec<u32>, Option<Timings>) {
        let longest = self.scheduler.capacity.longest();
        let Client { task, events, began } = &mut self.clients[tag];
        let (mut reply, mut scores, mut started) = (Vec::new(), Vec::new(), None);
        let events = events.as_mut().expect("it is still there");
        while let Ok(event) = events.try_recv() {
            match event {
                SeqEvent::Started { cached_tokens, .. } => started = Some(cached_tokens),
                SeqEvent::Token { id, .. } => reply.push(id),
                SeqEvent::Scored { scores: all, .. } => scores = all,
                SeqEvent::Finished { timings, .. } => {
                    assert_eq!(reply, reply_alone(&task.prompt, task.max_new, longest));
                    assert_eq!(Some(timings.cached_tokens), *began, "the first row begins there");
                    assert!(started.is_none_or(|cached| cached == timings.cached_tokens));
                    let len = task.prompt.len();
                    let from = len - task.score_last.min(len - 1);
                    let known = (from..len).map(|p| score(&task.prompt[..p], task.prompt[p]));
                    assert_eq!(scores, known.collect::<Vec<_>>());
                    return (reply, Some(*timings));
                }
                SeqEvent::Failed { .. } => return (reply, None),
                SeqEvent::Refused { why, .. } => {
                    assert!(task.background, "refused: {why}");
                    return (reply, None);
                }
            }
        }
        panic!("client {tag} was told no end");
    }
}

/// Tokens with a beginning that many prompts have in common.
fn prompt(kind: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|p| if p < 10 { 5 + p } else { 1 + p * (kind + 2) % 96 }).collect()
}

/// A request at a step: which prompt, its length, the number of tokens to generate and to score, and whether
/// it continues the previous reply. Those that score more than ten tokens are in the background.
type Asked = (usize, u32, usize, usize, usize, bool);

fn asked() -> impl Strategy<Value = Asked> {
    (
        0usize..60,
        0u32..3,
        1usize..30,
        1usize..20,
        prop_oneof![3 => Just(0usize), 1 => 0usize..30],
        any::<bool>(),
    )
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        12 => Just(Luck::Good),
        1 => Just(Luck::Fails),
        1 => (0usize..4).prop_map(Luck::NotANumber),
        1 => Just(Luck::TooFew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_fails_is_cut_short_or_interrupted_nobody_reads_what_is_not_its_own(
        asks in proptest::collection::vec(asked(), 1..20),
        luck in proptest::collection::vec(luck(), 1..40),
        cancel in proptest::collection::vec((0usize..20, 0usize..40), 0..5),
        blocks in 8usize..24,
        (max_running, max_batch_tokens) in (1usize..8, 1usize..40),
        switch in proptest::option::of(1usize..40),
        reserved_tokens in 0usize..12,
    ) {
        let config = SchedulerConfig { max_running, max_batch_tokens, reserved_tokens, ..config() };
        let mut world = world(config, blocks, switch);
        let longest = world.scheduler.capacity.longest();
        let mut asks = asks;
        asks.sort_by_key(|ask| ask.0);
        let mut asks = asks.into_iter().peekable();
        for step in 0..20_000 {
            while let Some((_, kind, len, max_new, score_last, on)) = asks.next_if(|a| a.0 <= step) {
                let mut task = RowTask { score_last, salt: u64::from(kind == 2), ..RowTask::of(&prompt(kind, len), max_new) };
                if let Some(before) = world.clients.last().filter(|_| on) {
                    task.prompt = before.task.prompt.clone();
                    task.prompt.extend(reply_alone(&task.prompt, before.task.max_new, longest));
                    task.prompt.push(90);
                }
                task.prompt.truncate(longest - 1);
                if score_last > 10 {
                    (task.background, task.max_new) = (true, 1);
                }
                world.submit(task);
            }
            for (who, _) in cancel.iter().filter(|(_, when)| *when == step) {
                if let Some(client) = world.clients.get_mut(*who) {
                    client.events = None;
                }
            }
            let luck = if step < 60 { luck[step % luck.len()] } else { Luck::Good };
            if !world.step(luck) && asks.peek().is_none() {
                break;
            }
        }
        prop_assert!(world.scheduler.is_idle(), "everything ends");
        prop_assert_eq!(world.scheduler.blocks().used(), 0);
        for tag in 0..world.clients.len() {
            if world.clients[tag].events.is_some() {
                world.outcome(tag);
            }
        }
    }
}

#[test]
fn the_background_finds_room_beside_a_full_cache_and_leaves_it_alone() {
    let reserved_tokens = 4 * SIZE;
    let mut world = world(SchedulerConfig { reserved_tokens, ..config() }, 32, None);
    (0..8).for_each(|kind| drop(world.ask(RowTask::of(&prompt(kind, 40), 4))));
    let cached = world.scheduler.blocks().cached();
    assert_eq!(cached, 32 - 4, "all but the reserved blocks");
    let reading = |len| RowTask {
        score_last: 3,
        background: true,
        ..RowTask::of(&(1..=len).collect::<Vec<u32>>(), 1)
    };
    for _ in 0..100 {
        let (_, timings) = world.ask(reading(reserved_tokens as u32));
        assert_eq!(timings.cached_tokens, 0, "nothing of it was kept");
    }
    let tag = world.submit(reading(reserved_tokens as u32 + 1));
    world.run();
    assert_eq!(world.outcome(tag).1, None, "too long for what is reserved");
    assert_eq!((world.scheduler.blocks().cached(), world.scheduler.blocks().used()), (cached, 0));
}

#[test]
fn a_prompt_seen_before_is_computed_from_where_it_differs() {
    let mut world = world(config(), 32, None);
    let (first, timings) = world.ask(RowTask::of(&prompt(0, 23), 6));
    assert_eq!((timings.cached_tokens, first.is_empty()), (0, false));
    let before = world.computed;
    let (again, timings) = world.ask(RowTask::of(&prompt(0, 23), 6));
    assert_eq!((&again, timings.cached_tokens), (&first, 20));
    assert_eq!(world.computed - before, 3 + again.len() - 1, "the tail and the reply");
    let (_, timings) = world.ask(RowTask::of(&prompt(1, 23), 6));
    assert_eq!(timings.cached_tokens, 8, "the first ten tokens are the same");
    let totals = world.scheduler.totals();
    assert_eq!((totals.prefix_lookup_tokens, totals.prefix_hit_tokens), (69, 28));
}

#[test]
fn a_second_turn_finds_the_first_ones_reply() {
    let mut world = world(config(), 32, None);
    let (reply, _) = world.ask(RowTask::of(&prompt(0, 9), 12));
    assert!(reply.len() >= 8, "{reply:?}");
    let mut second = prompt(0, 9);
    second.extend(&reply);
    let computed = second.len() - 1;
    second.extend([80, 81, 82, 83]);
    let (_, timings) = world.ask(RowTask::of(&second, 3));
    assert_eq!(timings.cached_tokens, computed / SIZE * SIZE);
}

#[test]
fn the_last_token_is_always_computed() {
    let mut world = world(config(), 32, None);
    for (len, cached) in [(16, 0), (16, 12), (17, 16), (4, 0), (5, 4), (1, 0)] {
        let (_, timings) = world.ask(RowTask::of(&prompt(0, len), 1));
        assert_eq!(timings.cached_tokens, cached, "a prompt of {len}");
    }
}

#[test]
fn what_is_to_be_scored_is_computed() {
    let mut world = world(config(), 32, None);
    world.ask(RowTask::of(&prompt(0, 24), 1));
    for (score_last, cached) in [(1, 20), (3, 20), (4, 16), (11, 12), (12, 8), (23, 0), (99, 0)] {
        let task = RowTask { score_last, ..RowTask::of(&prompt(0, 24), 1) };
        let (_, timings) = world.ask(task);
        assert_eq!(timings.cached_tokens, cached, "with {score_last} scored");
    }
}

#[test]
fn salts_share_nothing() {
    let mut world = world(config(), 32, None);
    let salted = |salt| RowTask { salt, ..RowTask::of(&prompt(0, 20), 1) };
    let cached = [0, 1, 0, 1, 2].map(|salt| world.ask(salted(salt)).1.cached_tokens);
    assert_eq!(cached, [0, 0, 16, 16, 0]);
}

#[test]
fn the_sides_of_a_switch_of_frequencies_share_nothing() {
    let mut world = world(config(), 64, Some(20));
    world.ask(RowTask::of(&prompt(0, 18), 1));
    let (_, timings) = world.ask(RowTask::of(&prompt(0, 24), 1));
    assert_eq!(timings.cached_tokens, 0, "computed for the long side");
    let cached = [18, 24].map(|len| world.ask(RowTask::of(&prompt(0, len), 1)).1.cached_tokens);
    assert_eq!(cached, [16, 20], "each side finds its own");
    // A sequence that crosses the switch first finds the cached blocks of the short side, then those of the
    // long side.
    let before = world.computed;
    let (reply, timings) = world.ask(RowTask::of(&prompt(0, 18), 5));
    assert!(reply.len() > 3, "it crosses: {reply:?}");
    assert_eq!(timings.cached_tokens, 16);
    assert_eq!(world.computed - before, 4 + 5 + reply.len() - 4, "short tail, long tail, decodes");
}

#[test]
fn a_preempted_sequence_finds_its_own_blocks_again() {
    let mut world = world(config(), 7, None);
    let tags =
        [world.submit(RowTask::of(&prompt(0, 8), 9)), world.submit(RowTask::of(&[60; 8], 9))];
    world.run();
    let timings = tags.map(|tag| world.outcome(tag).1.unwrap());
    assert_eq!(timings.map(|t| (t.preemptions, t.cached_tokens)), [(0, 0), (1, 0)]);
    let plain = 2 * 8 + timings.map(|t| t.output_tokens - 1).iter().sum::<usize>();
    let recomputed = world.computed - plain;
    assert!(recomputed < 8, "{recomputed} tokens were computed twice; its prompt has eight");
    let totals = world.scheduler.totals();
    assert_eq!((totals.prefix_lookup_tokens, totals.prefix_hit_tokens), (16, 0), "counted once");
}

#[test]
fn nothing_stays_of_a_step_that_failed_or_a_sequence_whose_logits_were_no_numbers() {
    for luck in [Luck::Fails, Luck::NotANumber(0), Luck::TooFew] {
        let mut world = world(config(), 32, None);
        world.submit(RowTask::of(&prompt(0, 20), 3));
        assert!(world.step(luck));
        assert_eq!((world.scheduler.blocks().cached(), world.scheduler.is_idle()), (0, true));
        assert_eq!(world.ask(RowTask::of(&prompt(0, 20), 3)).1.cached_tokens, 0, "{luck:?}");
    }
}

#[test]
fn what_good_steps_computed_outlives_a_bad_one_but_not_a_sequence_of_no_numbers() {
    for (luck, cached) in [(Luck::Fails, 16), (Luck::NotANumber(0), 0)] {
        let config = SchedulerConfig { max_batch_tokens: 16, ..config() };
        let mut world = world(config, 32, None);
        world.submit(RowTask::of(&prompt(0, 20), 3));
        assert!(world.step(Luck::Good) && world.step(luck));
        assert!(world.scheduler.is_idle());
        assert_eq!(world.ask(RowTask::of(&prompt(0, 20), 3)).1.cached_tokens, cached, "{luck:?}");
    }
}

#[test]
fn without_the_cache_nothing_is_kept_or_counted() {
    let config = SchedulerConfig { prefix_cache: false, ..config() };
    let mut world = world(config, 32, None);
    for _ in 0..2 {
        assert_eq!(world.ask(RowTask::of(&prompt(0, 20), 3)).1.cached_tokens, 0);
    }
    let totals = world.scheduler.totals();
    assert_eq!((totals.prefix_lookup_tokens, world.scheduler.blocks().cached()), (0, 0));
}
