//! Every model family compared with transformers: tiny random checkpoints, with logits and greedy tokens
//! computed by `scripts/make_family_goldens.py` and stored in `tests/fixtures/families/`.
//!
//! Logits are compared directly (whole and in chunks). Greedy tokens, log-probabilities and scores are
//! compared through the engine: alone, mixed, chunked, and with too few KV blocks.

mod golden_support;

use candle_core::Device;
use golden_support::Golden;
use serin::device::{Batch, Row};
use serin::engine::{
    EngineHandle, LaneId, ModelRunner, Runner, SchedulerConfig, SeqEvent, SeqRequest,
};
use serin::model::{Decoder, KvPlan, LoadFormat, SamplingParams, Weights, logprobs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Largest error of a logit, relative to the largest logit of its row. The script chooses prompts for whose
/// replies every margin is above twice this, so that no order of sums in f32 changes a greedy token.
const TOLERANCE: f32 = 1e-3;
const NEW_TOKENS: usize = 32;
const SCORED: usize = 7;

fn families() -> Vec<String> {
    golden_support::families(Path::new(env!("CARGO_MANIFEST_DIR")))
}

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families").join(family)
}

fn golden(family: &str) -> Golden {
    let golden = golden_support::golden(&folder(family));
    assert!(golden.greedy.iter().all(|reply| reply.len() == NEW_TOKENS));
    golden
}

/// Blocks of 4 for the longest prompt and its reply.
fn blocks(golden: &Golden) -> usize {
    let longest = golden.prompts.iter().map(Vec::len).max().unwrap();
    (longest + NEW_TOKENS).div_ceil(4)
}

fn open(dir: &Path) -> Weights {
    Weights::open(dir, LoadFormat::Auto).unwrap()
}

fn load(weights: &Weights, blocks: usize, block_size: usize) -> Decoder {
    Decoder::load(weights, KvPlan::exact(blocks, block_size)).unwrap()
}

fn decoder(family: &str, blocks: usize, block_size: usize) -> Decoder {
    load(&open(&folder(family)), blocks, block_size)
}

/// Logits of every position of a prompt that is computed `chunk` tokens at a time.
fn logits(decoder: &mut Decoder, prompt: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let blocks = decoder.kv_shape().blocks as u32;
    // An unordered table, so that slot and position differ.
    let table: Vec<u32> = (0..blocks).rev().collect();
    let mut all = Vec::new();
    for from in (0..prompt.len()).step_by(chunk) {
        let to = (from + chunk).min(prompt.len());
        let slot = |p: usize| table[p / 4] * 4 + (p % 4) as u32;
        let row = Row {
            start: 0,
            len: to - from,
            context: to,
            total: prompt.len(),
            table: 0,
            table_len: table.len(),
            sample: false,
            scored: to - from,
            drawn: None,
        };
        let batch = Batch {
            tokens: prompt[from..to].to_vec(),
            positions: (from..to).map(|p| p as u32).collect(),
            slots: (from..to).map(slot).collect(),
            rows: vec![row],
            tables: table.clone(),
        };
        let states = decoder.forward(&batch);
        let vocab = decoder.config().vocab;
        let rows = decoder.logits(&states);
        all.extend(rows.chunks_exact(vocab).map(<[f32]>::to_vec));
    }
    all
}

fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |max, v| max.max(v.abs()));
    let worst = got.iter().zip(want).fold(0f32, |max, (g, w)| max.max((g - w).abs()));
    assert!(got.iter().all(|v| v.is_finite()));
    worst / largest
}

#[test]
fn logits_are_those_of_transformers() {
    for family in &families() {
        let golden = golden(family);
        let mut decoder = decoder(family, blocks(&golden), 4);
        let mut worst = 0f32;
        for chunk in [64, 7, 1] {
            for (i, prompt) in golden.prompts.iter().enumerate() {
                let got = logits(&mut decoder, prompt, chunk);
                for (position, want) in golden.positions[i].iter().zip(&golden.logits[i]) {
                    let error = relative_error(&got[*position], want);
                    let at =
                        format!("{family}, prompt {i}, chunks of {chunk}, position {position}");
                    assert!(error < TOLERANCE, "{at}: {error}");
                    worst = worst.max(error);
                }
            }
        }
        println!("{family}: largest relative logit error {worst:.1e}");
    }
}

struct Lane {
    engine: EngineHandle,
    lane: LaneId,
    stats: std::sync::Arc<serin::engine::LaneStats>,
}

/// The results of one sequence.
#[derive(Default)]
struct Reply {
    ids: Vec<u32>,
    logprobs: Vec<serin::model::Logprobs>,
    scores: Vec<f32>,
}

impl Lane {
    async fn load(family: &str, max_batch_tokens: usize, blocks: usize) -> Lane {
        let (engine, _faults) = EngineHandle::start().unwrap();
        let family = family.to_owned();
        let make =
            move || Ok(Box::new(ModelRunner::new(decoder(&family, blocks, 4))) as Box<dyn Runner>);
        let config = SchedulerConfig {
            max_running: 8,
            max_batch_tokens,
            max_waiting: 64,
            ..SchedulerConfig::default()
        };
        let loaded = engine.load(config, make).await.unwrap();
        Lane { engine, lane: loaded.lane, stats: loaded.stats }
    }

    fn submit(&self, prompt: &[u32], params: SamplingParams) -> UnboundedReceiver<SeqEvent> {
        let (events, inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 0,
            prompt: prompt.to_vec(),
            params,
            max_new_tokens: NEW_TOKENS,
            stop_ids: vec![],
            cache_salt: 0,
            events,
            background: false,
            guide: None,
            arrived: Instant::now(),
        };
        self.engine.submit(self.lane, vec![request]).unwrap();
        inbox
    }

    /// All prompts at once, each twice; half of them with log-probabilities and scores.
    async fn mixed(&self, golden: &Golden) {
        let wants = [SamplingParams::greedy(), watching()];
        let inboxes: Vec<_> = wants
            .iter()
            .flat_map(|params| golden.prompts.iter().map(|p| self.submit(p, params.clone())))
            .collect();
        for (i, inbox) in inboxes.into_iter().enumerate() {
            let (reply, which) = (collect(inbox).await, i % golden.prompts.len());
            assert_eq!(reply.ids, golden.greedy[which], "prompt {which}");
            if i >= golden.prompts.len() {
                check_logprobs(golden, which, &reply);
            } else {
                assert!(reply.logprobs.is_empty() && reply.scores.is_empty(), "nobody asked");
            }
        }
    }

    async fn unload_clean(self) -> u64 {
        let preemptions = self.stats.read().preemptions;
        let report = self.engine.unload(self.lane, Duration::from_secs(5)).await.unwrap();
        assert_eq!((report.used_after, report.reserved_after, report.blocks_leaked), (0, 0, 0));
        preemptions
    }
}

fn watching() -> SamplingParams {
    SamplingParams { logprobs: Some(5), score_last: SCORED, ..SamplingParams::greedy() }
}

/// Compared with the golden logits: the first token's log-probabilities, and the scores of the prompt's end.
fn check_logprobs(golden: &Golden, which: usize, reply: &Reply) {
    let (prompt, kept) = (&golden.prompts[which], &golden.positions[which]);
    let row = |position: usize| {
        let at = kept.iter().position(|p| *p == position).unwrap();
        golden.logits[which][at].as_slice()
    };
    assert_eq!(reply.logprobs.len(), NEW_TOKENS);
    let last = row(prompt.len() - 1);
    let (first, want) = (&reply.logprobs[0], logprobs::top(last, 5));
    assert_eq!((first.top.len(), first.top[0].0), (5, reply.ids[0]));
    assert!((first.token - want[0].1).abs() < 0.01, "{} {}", first.token, want[0].1);
    for (got, want) in first.top.iter().zip(&want) {
        assert!((got.1 - want.1).abs() < 0.01, "{got:?} {want:?}");
    }
    let scored = SCORED.min(prompt.len() - 1);
    assert_eq!(reply.scores.len(), scored);
    for (score, position) in reply.scores.iter().zip(prompt.len() - scored..) {
        let want = logprobs::score(row(position - 1), prompt[position], 0, false).unwrap().logprob;
        assert!((score - want).abs() < 0.01, "token {position}: {score} {want}");
    }
}

async fn collect(mut inbox: UnboundedReceiver<SeqEvent>) -> Reply {
    let mut reply = Reply::default();
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Started { .. } => {}
            SeqEvent::Scored { scores, .. } => {
                assert!(reply.ids.is_empty() && reply.scores.is_empty());
                reply.scores = scores.iter().map(|score| score.logprob).collect();
            }
            SeqEvent::Token { id, logprobs, .. } => {
                reply.ids.push(id);
                reply.logprobs.extend(logprobs.map(|boxed| *boxed));
            }
            SeqEvent::Finished { .. } => return reply,
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended early");
}

#[tokio::test]
async fn greedy_tokens_are_those_of_transformers() {
    for family in &families() {
        println!("{family}");
        let golden = golden(family);
        let blocks = blocks(&golden);
        let alone = Lane::load(family, 512, 2 * blocks).await;
        for (prompt, expected) in golden.prompts.iter().zip(&golden.greedy) {
            let reply = collect(alone.submit(prompt, SamplingParams::greedy())).await;
            assert_eq!(reply.ids, *expected, "{family} alone");
        }
        alone.unload_clean().await;
        let chunked = Lane::load(family, 11, 12 * blocks).await;
        chunked.mixed(&golden).await;
        assert_eq!(chunked.unload_clean().await, 0);
        for max_batch_tokens in [512, 11] {
            // Room for one of the longest sequences and a little more: the others must be preempted.
            let tight = Lane::load(family, max_batch_tokens, blocks + 2).await;
            tight.mixed(&golden).await;
            assert!(tight.unload_clean().await > 0, "{family}: nothing was preempted");
        }
    }
}

/// Gemma 3 as its larger versions are published: the text model under its own prefix, next to other parts.
#[test]
fn a_text_model_is_found_beside_a_vision_part() {
    let golden = golden("gemma3");
    let text = std::fs::read_to_string(folder("gemma3").join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let nested = serde_json::json!({"architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 106], "text_config": config, "vision_config": {}});
    let tensors =
        candle_core::safetensors::load(folder("gemma3").join("model.safetensors"), &Device::Cpu);
    let tensors = tensors.unwrap();
    let spellings: [fn(&str) -> String; 2] = [
        |name| format!("language_model.{name}"),
        |name| name.replacen("model.", "model.language_model.", 1),
    ];
    for spelling in spellings {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), nested.to_string()).unwrap();
        let renamed: std::collections::HashMap<_, _> =
            tensors.iter().map(|(name, tensor)| (spelling(name), tensor.clone())).collect();
        candle_core::safetensors::save(&renamed, dir.path().join("model.safetensors")).unwrap();
        let checkpoint = open(dir.path());
        assert_eq!(checkpoint.config().eos_ids, [1, 106]);
        let got = logits(&mut load(&checkpoint, 12, 4), &golden.prompts[1], 64);
        for (position, want) in golden.positions[1].iter().zip(&golden.logits[1]) {
            assert!(relative_error(&got[*position], want) < TOLERANCE);
        }
    }
}

/// The same weights with a config that lacks one feature must give different results.
#[test]
fn the_oracle_notices_each_feature() {
    let without = [
        ("llama3", "rope_scaling"),
        ("llama-linear", "rope_scaling"),
        ("mistral", "sliding_window"),
        ("qwen2", "rope_scaling"),
        ("qwen2", "use_sliding_window"),
        ("gemma2", "attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping"),
        ("gemma2", "sliding_window"),
        ("gemma2", "query_pre_attn_scalar"),
        ("gemma3", "rope_scaling"),
        ("gemma3", "rope_local_base_freq"),
        ("gemma3", "sliding_window_pattern"),
        ("phi3", "sliding_window"),
        ("phi4-mini", "partial_rotary_factor"),
        ("ministral3", "rope_parameters/llama_4_scaling_beta"),
        ("granite", "embedding_multiplier"),
        ("granite", "attention_multiplier"),
        ("granite", "residual_multiplier"),
        ("granite", "logits_scaling"),
        ("smollm3", "no_rope_layers"),
        ("glm4", "partial_rotary_factor"),
        ("olmo3", "sliding_window"),
        ("olmo3", "rope_parameters/full_attention"),
        ("olmo3", "rope_parameters/sliding_attention"),
    ];
    for (family, key) in without {
        let golden = golden(family);
        let text = std::fs::read_to_string(folder(family).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        *config.pointer_mut(&format!("/{key}")).unwrap() = match (family, key) {
            (_, "sliding_window_pattern") => 3.into(),
            // Half is what the family does without the key.
            ("glm4", "partial_rotary_factor") => 1.0.into(),
            _ => serde_json::Value::Null,
        };
        if family == "phi4-mini" {
            // Whole heads need as many factors as they have pairs.
            for list in ["short_factor", "long_factor"] {
                config["rope_scaling"][list] = vec![1.0; 8].into();
            }
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let weights = dir.path().join("model.safetensors");
        std::fs::copy(folder(family).join("model.safetensors"), weights).unwrap();
        let checkpoint = open(dir.path());
        assert_eq!(checkpoint.config().architecture, config["architectures"][0]);
        let mut decoder = load(&checkpoint, 12, 4);
        let got = logits(&mut decoder, &golden.prompts[2], 64);
        let errors = golden.positions[2].iter().zip(&golden.logits[2]);
        let worst = errors.map(|(p, want)| relative_error(&got[*p], want)).fold(0f32, f32::max);
        println!("{family} without {key}: {worst:.2}");
        assert!(worst > 10.0 * TOLERANCE, "{family} without {key} looks the same: {worst}");
    }
}
