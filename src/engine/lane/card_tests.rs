//! Two lanes on one emulated GPU whose calls return long before the work is done. One test measures how long
//! a reader of stable waits, on the GPU's clock, while the canary processes a long prompt. Another loads a
//! canary during a CUDA graph capture. Others mask tokens, or run steps ahead.

use super::steps::{LEAST_SHARED_TOKENS, SHARED_STEP};
use super::*;
use crate::device::ModelPool;
use crate::engine::{CardRunner, ModelRunner};
use crate::model::{
    CardDecoder, CardPlan, Decoder, Guide, GuideFailed, KvPlan, LoadFormat, SamplingParams,
    SharedGuide, Taken, TokenMask, TokenRules, Weights,
};
use serde_json::json;
use serin_kernels::cuda::emulated::{EmulatedCard, Pace as CardPace};
use serin_kernels::cuda::{Card, KvKind, Stream};
use std::collections::VecDeque;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PROMPT: usize = 2048;
/// How much a step may exceed its target time. The speed is estimated from earlier steps, and a chunk costs
/// more the further it is into the prompt.
const OVERSHOOT: f64 = 1.25;

/// A model with random weights; small except for its context.
fn weights() -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 64, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2 * PROMPT, "rope_theta": 1e4, "tie_word_embeddings": true,
        "hidden_act": "silu", "eos_token_id": 2,
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Weights::open(dir.path(), LoadFormat::parse("dummy:bf16").unwrap()).unwrap()
}

fn decoder(weights: &Weights, card: &Arc<dyn Card>) -> CardDecoder {
    let config = SchedulerConfig::default();
    let step = (config.max_batch_tokens, config.max_running);
    let plan = CardPlan::new(weights.config(), step, (PROMPT / 8, 16), KvKind::F16, 4);
    CardDecoder::load(weights, plan, ModelPool::open(card.clone()).unwrap()).unwrap()
}

fn lane(id: u64, decoder: CardDecoder) -> Lane {
    let runner = Box::new(CardRunner::new(decoder));
    Lane::new(LaneId(id), runner, SchedulerConfig::default(), Arena::open().unwrap(), 0)
}

/// One step from beginning to end.
fn step(lane: &mut Lane, shared: bool, now: impl Fn() -> Instant) -> Option<StepFault> {
    match lane.begin(Turn::Next { shared }, &now) {
        StepStart::Failed(fault) => fault,
        StepStart::Nothing | StepStart::InFlight => lane.finish(None, &now),
    }
}

fn request(prompt: usize, tokens: usize) -> (SeqRequest, UnboundedReceiver<SeqEvent>) {
    let (events, inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt: (0..prompt).map(|i| (i % 61) as u32 + 3).collect(),
        params: SamplingParams::greedy(),
        max_new_tokens: tokens,
        stop_ids: vec![],
        cache_salt: 0,
        events,
        background: false,
        guide: None,
        arrived: Instant::now(),
    };
    (request, inbox)
}

fn tokens(inbox: &mut UnboundedReceiver<SeqEvent>) -> usize {
    let mut count = 0;
    while let Ok(event) = inbox.try_recv() {
        count += usize::from(matches!(event, SeqEvent::Token { .. }));
    }
    count
}

/// Like an RTX 3060 with 8 billion weights: about 0.5 ms per prompt token.
fn slow() -> CardPace {
    CardPace { start: Duration::from_micros(4), thread: 300_000, multiply: 0, byte: 80 }
}

#[test]
fn stable_waits_no_longer_than_a_shared_step_for_a_canarys_long_prompt() {
    let emulated = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
    let card: Arc<dyn Card> = emulated.clone();
    let weights = weights();
    let (mut stable, mut canary) =
        (lane(1, decoder(&weights, &card)), lane(2, decoder(&weights, &card)));
    let start = Instant::now();
    let now = || start + emulated.now();
    let (asked, mut reader) = request(20, 400);
    stable.submit(asked);
    // The prompt, a launched step, a captured one, and one that is replayed.
    for _ in 0..4 {
        assert!(step(&mut stable, false, now).is_none());
    }
    assert_eq!(tokens(&mut reader), 4);
    let alone = now();
    assert!(step(&mut stable, false, now).is_none());
    let own = now() - alone;
    assert_eq!(tokens(&mut reader), 1);

    let (asked, mut answer) = request(PROMPT, 2);
    canary.submit(asked);
    let (mut waits, begun) = (Vec::new(), now());
    while tokens(&mut answer) == 0 {
        let last = now();
        assert!(step(&mut canary, true, now).is_none() && step(&mut stable, true, now).is_none());
        assert_eq!(tokens(&mut reader), 1, "stable gets a token a round");
        waits.push(now() - last);
    }
    let (longest, whole) = (waits.iter().max().copied().unwrap(), now() - begun);
    println!("{} rounds, {whole:?}, longest {longest:?}, stable's own step {own:?}", waits.len());
    assert!(whole > 4 * SHARED_STEP, "the prompt takes long enough to be cut up: {whole:?}");
    assert!(longest <= SHARED_STEP.mul_f64(OVERSHOOT) + own, "{longest:?} of {waits:?}");
    // The canary makes progress as well: its steps are not all of the minimum size.
    assert!(waits.len() < PROMPT / LEAST_SHARED_TOKENS, "{} rounds", waits.len());
}

/// The greedy reply of 8 tokens under these rules; from the third token on, steps are replayed graphs.
fn reply(lane: &mut Lane, rules: TokenRules) -> Vec<u32> {
    let start = Instant::now();
    let (mut asked, mut inbox) = request(20, 8);
    asked.stop_ids = rules.ends.clone();
    asked.params.rules = Some(Arc::new(rules));
    lane.submit(asked);
    let mut ids = Vec::new();
    loop {
        assert!(step(lane, false, || start).is_none());
        while let Ok(event) = inbox.try_recv() {
            match event {
                SeqEvent::Token { id, .. } => ids.push(id),
                SeqEvent::Finished { .. } => return ids,
                _ => {}
            }
        }
    }
}

#[test]
fn a_gpu_keeps_the_rules_for_tokens() {
    let emulated = EmulatedCard::pessimistic(64 << 20, slow());
    let card: Arc<dyn Card> = Arc::new(emulated);
    let mut lane = lane(1, decoder(&weights(), &card));
    let free = reply(&mut lane, TokenRules::default());
    assert_eq!(free.len(), 8);
    let rules = TokenRules { bias: vec![(7, 100.0)], ..TokenRules::default() };
    assert_eq!(reply(&mut lane, rules), [7; 8]);
    let rules =
        TokenRules { allowed: Some(Arc::new(TokenMask::of_ids(&[9]))), ..TokenRules::default() };
    assert_eq!(reply(&mut lane, rules), [9; 8]);
    let banned = TokenRules { bias: vec![(free[0], f32::NEG_INFINITY)], ..TokenRules::default() };
    assert!(!reply(&mut lane, banned).contains(&free[0]));
    let ended = TokenRules { ends: vec![free[0]], ..TokenRules::default() };
    assert!(reply(&mut lane, ended.clone()).is_empty());
    let later = reply(&mut lane, TokenRules { min_tokens: 5, ..ended });
    assert!(later.len() >= 5 && !later[..5].contains(&free[0]), "{later:?}");
}

/// Allows one third of the tokens at a time, in turn, and completes the reply with the sixth.
#[derive(Debug, Default)]
struct Thirds {
    taken: u32,
    /// Fails once so many tokens have been taken.
    fails_at: Option<u32>,
    /// A GPU that has to have work while a mask is made, but nothing to sample yet.
    at_work: Option<Arc<EmulatedCard>>,
}

impl Guide for Thirds {
    fn mask(&mut self) -> Result<Option<Arc<TokenMask>>, GuideFailed> {
        if let Some(card) = &self.at_work {
            let waiting = card.waiting(Stream::Compute);
            assert!(waiting.contains(&"step_inputs"), "{waiting:?}");
            assert!(!waiting.iter().any(|work| work.starts_with("sample_")), "{waiting:?}");
        }
        if self.fails_at == Some(self.taken) {
            return Err(GuideFailed("as asked".to_owned()));
        }
        let ids: Vec<u32> = (0..64).filter(|id| id % 3 == self.taken % 3).collect();
        Ok(Some(Arc::new(TokenMask::of_ids(&ids))))
    }

    fn take(&mut self, id: u32) -> Result<Taken, GuideFailed> {
        assert_eq!(id % 3, self.taken % 3, "a token that was not allowed");
        self.taken += 1;
        Ok(if self.taken == 6 { Taken::Completes } else { Taken::GoesOn })
    }

    fn forced(&mut self) -> Vec<u32> {
        Vec::new()
    }
}

/// The ids of a reply, and how it ended.
fn said(mut inbox: UnboundedReceiver<SeqEvent>) -> (Vec<u32>, String) {
    let (mut ids, mut end) = (Vec::new(), String::new());
    while let Ok(event) = inbox.try_recv() {
        match event {
            SeqEvent::Token { id, .. } => ids.push(id),
            SeqEvent::Finished { reason, .. } => end = format!("{reason:?}"),
            SeqEvent::Failed { fault, .. } => end = fault.to_string(),
            _ => {}
        }
    }
    (ids, end)
}

/// The ids of all replies and how each ended. The requests run together.
fn replies(
    lane: &mut Lane,
    requests: Vec<(SeqRequest, UnboundedReceiver<SeqEvent>)>,
) -> Vec<(Vec<u32>, String)> {
    let start = Instant::now();
    let mut inboxes = Vec::new();
    for (request, inbox) in requests {
        lane.submit(request);
        inboxes.push(inbox);
    }
    while !lane.is_idle() {
        let fault = step(lane, false, || start);
        assert!(fault.is_none(), "a step panicked, or the GPU was lost");
    }
    inboxes.into_iter().map(said).collect()
}

/// Requests of all kinds: free, guided, with a list of allowed tokens, with log-probabilities; one whose guide fails.
fn of_kind(kind: usize) -> (SeqRequest, UnboundedReceiver<SeqEvent>) {
    let (mut asked, inbox) = request(15 + kind, 8);
    let listed = TokenMask::of_ids(&(5..40).collect::<Vec<_>>());
    let listed = TokenRules { allowed: Some(Arc::new(listed)), ..TokenRules::default() };
    let guide = |guide: Thirds| Some(SharedGuide::new(Box::new(guide)));
    let drawn = SamplingParams { seed: kind as u64, ..SamplingParams::default() };
    asked.params = match kind {
        0 | 1 => drawn,
        2 => SamplingParams { rules: Some(Arc::new(listed)), ..SamplingParams::greedy() },
        4 => SamplingParams { logprobs: Some(2), ..drawn },
        5 => SamplingParams { rules: Some(Arc::new(listed)), top_k: 5, ..drawn },
        _ => SamplingParams { repetition_penalty: 1.3, top_p: 0.9, ..drawn },
    };
    asked.guide = match kind {
        1 | 2 | 4 | 6 => guide(Thirds::default()),
        3 => guide(Thirds { fails_at: Some(3), ..Thirds::default() }),
        _ => None,
    };
    (asked, inbox)
}

#[test]
fn guided_and_other_rows_of_a_batch_say_what_each_says_alone_on_the_cpu() {
    let (weights, config) = (weights(), SchedulerConfig::default());
    let card: Arc<dyn Card> = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
    let step = (config.max_batch_tokens, config.max_running);
    let plan = CardPlan::new(weights.config(), step, (PROMPT / 8, 16), KvKind::F32, 4);
    let plan = CardPlan { exact: true, ..plan };
    let exact = CardDecoder::load(&weights, plan, ModelPool::open(card).unwrap()).unwrap();
    let got = replies(&mut lane(1, exact), (0..8).map(of_kind).collect());
    let decoder = Decoder::load(&weights, KvPlan::exact(PROMPT / 8, 16)).unwrap();
    let runner = Box::new(ModelRunner::new(decoder));
    let mut cpu = Lane::new(LaneId(2), runner, config, Arena::open().unwrap(), 0);
    for (kind, got) in got.iter().enumerate() {
        assert_eq!(*got, replies(&mut cpu, vec![of_kind(kind)])[0], "kind {kind}");
    }
    let lengths: Vec<usize> = got.iter().map(|(ids, _)| ids.len()).collect();
    assert_eq!(lengths, [8, 6, 6, 3, 6, 8, 6, 8]);
    assert!(got[3].1.contains("as asked"), "{:?}", got[3]);
}

/// The host makes masks while the GPU computes the logits, of which there is a graph without the sampling.
#[test]
fn masks_are_made_while_a_graph_of_the_layers_runs() {
    let weights = weights();
    let mut said = Vec::new();
    for capture in [true, false] {
        let emulated = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
        let card: Arc<dyn Card> = emulated.clone();
        let decoder = decoder(&weights, &card);
        let decoder = if capture { decoder } else { decoder.without_capture() };
        let mut lane = lane(1, decoder);
        let guided = |i: usize| {
            let (mut asked, inbox) = request(20 + i, 8);
            let at_work = Some(emulated.clone());
            let guide = Thirds { at_work, ..Thirds::default() };
            asked.guide = Some(SharedGuide::new(Box::new(guide)));
            (asked, inbox)
        };
        let both = replies(&mut lane, (0..2).map(guided).collect());
        assert!(both.iter().all(|(ids, _)| ids.len() == 6), "{both:?}");
        // After the prompts, the first step is launched; the others are replayed.
        assert_eq!(emulated.graph_launches(), if capture { 4 } else { 0 });
        let free = replies(&mut lane, (0..2).map(|i| request(20 + i, 8)).collect());
        assert_eq!(emulated.graph_launches(), if capture { 4 + 6 } else { 0 });
        said.push((both, free, replies(&mut lane, (0..2).map(guided).collect())));
        assert_eq!(emulated.graph_launches(), if capture { 4 + 6 + 5 } else { 0 });
    }
    assert_eq!(said[0], said[1]);
    assert_eq!(said[0].0, said[0].2);
}

/// Number of loads that are tried during graph captures.
const LOADS: usize = 1000;

#[test]
fn a_canary_is_loaded_and_dropped_while_a_graph_is_captured() {
    let card: Arc<dyn Card> = Arc::new(EmulatedCard::pessimistic(
        64 << 20,
        serin_kernels::cuda::emulated::Pace::default(),
    ));
    let weights = weights();
    let free = card.memory().unwrap().free;
    for _ in 0..LOADS {
        card.begin_capture().unwrap();
        let loaded = std::thread::scope(|scope| {
            let loader = scope.spawn(|| {
                drop(decoder(&weights, &card));
                decoder(&weights, &card)
            });
            loader.join().unwrap()
        });
        let graph = card.end_capture().unwrap();
        card.destroy_graph(graph).unwrap();
        assert!(loaded.usage().used > 0);
        let report = loaded.close();
        assert_eq!((report.used_after, report.reserved_after), (0, 0));
        assert_eq!(card.memory().unwrap().free, free, "both pools came back whole");
    }
    card.synchronise(Stream::Compute).unwrap();
}

/// Enqueues a step, ahead of the one in flight if there is one and if that can be; then finishes the oldest of two.
/// Returns whether there was a step ahead.
fn turn_ahead(lane: &mut Lane, start: Instant) -> bool {
    let turn = match lane.in_flight() {
        0 => Turn::Next { shared: false },
        _ => Turn::Ahead,
    };
    let begun = lane.begin(turn, || start) == StepStart::InFlight;
    if lane.in_flight() == 2 || !begun {
        assert!(lane.finish(None, || start).is_none());
    }
    begun && turn == Turn::Ahead
}

/// Requests that end by their length or by a stop token, greedy and sampled, some sooner than others.
fn of_length(i: usize) -> (SeqRequest, UnboundedReceiver<SeqEvent>) {
    let (mut asked, inbox) = request(5 + 9 * i, 3 + 5 * i);
    asked.params = match i % 2 {
        0 => SamplingParams { seed: i as u64, ..SamplingParams::default() },
        _ => SamplingParams::greedy(),
    };
    asked.params.logprobs = i.is_multiple_of(3).then_some(i as u8);
    asked.stop_ids = (0..7).collect();
    (asked, inbox)
}

/// The same replies as step by step, though the GPU is given each step before the results of the one before are known.
#[test]
fn steps_ahead_say_what_steps_one_by_one_say() {
    let weights = weights();
    for capture in [true, false] {
        let emulated = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
        let card: Arc<dyn Card> = emulated.clone();
        let model = |decoder: CardDecoder| match capture {
            true => decoder,
            false => decoder.without_capture(),
        };
        let mut one_by_one = lane(1, model(decoder(&weights, &card)));
        let expected = replies(&mut one_by_one, (0..6).map(of_length).collect());
        assert!(expected.iter().any(|(_, end)| end == "Stop"), "{expected:?}");
        assert!(expected.iter().any(|(_, end)| end == "Length"), "{expected:?}");

        let mut lane = lane(2, model(decoder(&weights, &card)));
        let (start, mut ahead, mut inboxes) = (Instant::now(), 0, Vec::new());
        for (asked, inbox) in (0..6).map(of_length) {
            lane.submit(asked);
            inboxes.push(inbox);
        }
        while !lane.is_idle() {
            if turn_ahead(&mut lane, start) {
                ahead += 1;
                assert!(!emulated.waiting(Stream::Compute).is_empty(), "the GPU has work");
            }
        }
        let got: Vec<_> = inboxes.into_iter().map(said).collect();
        assert_eq!(got, expected);
        assert!(ahead >= 20, "{ahead} steps ahead");
        assert_eq!(lane.scheduler.blocks().used(), 0);
    }
}

/// The other lane's step is on the GPU before this one's results are read.
#[test]
fn two_lanes_have_steps_in_flight_and_say_what_each_says_alone() {
    let emulated = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
    let card: Arc<dyn Card> = emulated.clone();
    let weights = weights();
    let mut lanes = [1, 2].map(|id| lane(id, decoder(&weights, &card)));
    let expected = replies(&mut lanes[0], (0..4).map(of_length).collect());
    let (start, mut inboxes) = (Instant::now(), [vec![], vec![]]);
    for (lane, inboxes) in lanes.iter_mut().zip(&mut inboxes) {
        for (asked, inbox) in (0..4).map(of_length) {
            lane.submit(asked);
            inboxes.push(inbox);
        }
    }
    let mut both = 0;
    while lanes.iter().any(|lane| !lane.is_idle()) {
        for this in [0, 1] {
            let begun = lanes[this].begin(Turn::Next { shared: true }, || start);
            assert!(!matches!(begun, StepStart::Failed(_)), "{begun:?}");
            assert!(!lanes[this].must_finish());
            if lanes[1 - this].in_flight() == 1 {
                assert!(lanes[1 - this].finish(None, || start).is_none());
                both += 1;
                assert_eq!(
                    emulated.waiting(Stream::Compute).is_empty(),
                    lanes[this].in_flight() == 0
                );
            }
        }
    }
    assert!(both > 20, "{both}");
    for inboxes in inboxes {
        assert_eq!(inboxes.into_iter().map(said).collect::<Vec<_>>(), expected);
    }
}

/// Readers leave while steps are in flight: nothing of theirs is read, and the others go on.
#[test]
fn readers_who_leave_during_a_step_ahead_change_nothing_for_others() {
    let card: Arc<dyn Card> = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
    let weights = weights();
    let mut lane = lane(1, decoder(&weights, &card));
    let alone = replies(&mut lane, vec![of_length(5)]);
    let start = Instant::now();
    let (asked, stays) = of_length(5);
    lane.submit(asked);
    let mut leave: Vec<_> = (2..5).map(of_length).collect();
    for (asked, _) in &mut leave {
        asked.stop_ids.clear();
    }
    let mut leave: VecDeque<_> = leave
        .into_iter()
        .map(|(asked, inbox)| {
            lane.submit(asked);
            inbox
        })
        .collect();
    let mut count = 0usize;
    while !lane.is_idle() {
        count += 1;
        if count.is_multiple_of(3) {
            leave.pop_front();
        }
        turn_ahead(&mut lane, start);
    }
    assert_eq!(vec![said(stays)], alone);
    assert_eq!(lane.scheduler.blocks().used(), 0);
    assert!(lane.scheduler.totals().cancelled >= 2, "{:?}", lane.scheduler.totals());
}

/// A GPU that fails with two steps in flight: the fault is reported once, and every reader is told.
#[test]
fn a_gpu_that_fails_with_two_steps_in_flight_is_lost() {
    let emulated = Arc::new(EmulatedCard::pessimistic(64 << 20, slow()));
    let card: Arc<dyn Card> = emulated.clone();
    let mut lane = lane(1, decoder(&weights(), &card));
    let start = Instant::now();
    let (asked, inbox) = request(20, 30);
    lane.submit(asked);
    for _ in 0..4 {
        assert!(step(&mut lane, false, || start).is_none());
    }
    assert_eq!(lane.begin(Turn::Next { shared: false }, || start), StepStart::InFlight);
    assert_eq!(lane.begin(Turn::Ahead, || start), StepStart::InFlight);
    emulated.kill("as asked");
    let fault = lane.finish(None, || start);
    assert!(matches!(&fault, Some(StepFault::DeviceLost(_))), "{fault:?}");
    lane.shut_down(&Fault::DeviceLost("as asked".into()), start);
    assert_eq!(lane.in_flight(), 0);
    let (ids, end) = said(inbox);
    assert_eq!(ids.len(), 4);
    assert!(end.contains("as asked"), "{end}");
}
