//! Two lanes on one emulated GPU whose calls return long before the work is done. One test measures how long
//! a reader of stable waits, on the GPU's clock, while the canary processes a long prompt. Another loads a
//! canary during a CUDA graph capture.

use super::*;
use crate::device::ModelPool;
use crate::engine::CardRunner;
use crate::model::{CardDecoder, CardPlan, LoadFormat, SamplingParams, TokenRules, Weights};
use serde_json::json;
use serin_kernels::cuda::emulated::{EmulatedCard, Pace as CardPace};
use serin_kernels::cuda::{Card, KvKind, Queue};
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
        assert!(stable.step(false, None, now).is_none());
    }
    assert_eq!(tokens(&mut reader), 4);
    let alone = now();
    assert!(stable.step(false, None, now).is_none());
    let own = now() - alone;
    assert_eq!(tokens(&mut reader), 1);

    let (asked, mut answer) = request(PROMPT, 2);
    canary.submit(asked);
    let (mut waits, begun) = (Vec::new(), now());
    while tokens(&mut answer) == 0 {
        let last = now();
        assert!(canary.step(true, None, now).is_none() && stable.step(true, None, now).is_none());
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
        assert!(lane.step(false, None, || start).is_none());
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
    let rules = TokenRules { allowed: Some(vec![9]), ..TokenRules::default() };
    assert_eq!(reply(&mut lane, rules), [9; 8]);
    let banned = TokenRules { bias: vec![(free[0], f32::NEG_INFINITY)], ..TokenRules::default() };
    assert!(!reply(&mut lane, banned).contains(&free[0]));
    let ended = TokenRules { ends: vec![free[0]], ..TokenRules::default() };
    assert!(reply(&mut lane, ended.clone()).is_empty());
    let later = reply(&mut lane, TokenRules { min_tokens: 5, ..ended });
    assert!(later.len() >= 5 && !later[..5].contains(&free[0]), "{later:?}");
}

/// Number of loads that are tried during graph captures.
const LOADS: usize = 1000;

#[test]
fn a_canary_is_loaded_and_dropped_while_a_graph_is_recorded() {
    let card: Arc<dyn Card> = Arc::new(EmulatedCard::pessimistic(
        64 << 20,
        serin_kernels::cuda::emulated::Pace::default(),
    ));
    let weights = weights();
    let free = card.memory().unwrap().free;
    for _ in 0..LOADS {
        card.begin_recording().unwrap();
        let loaded = std::thread::scope(|scope| {
            let loader = scope.spawn(|| {
                drop(decoder(&weights, &card));
                decoder(&weights, &card)
            });
            loader.join().unwrap()
        });
        let graph = card.end_recording().unwrap();
        card.forget(graph).unwrap();
        assert!(loaded.usage().used > 0);
        let report = loaded.close();
        assert_eq!(report.after, Default::default());
        assert_eq!(card.memory().unwrap().free, free, "both pools came back whole");
    }
    card.synchronise(Queue::Compute).unwrap();
}
