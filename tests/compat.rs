//! The compatibility lane: every architecture of its table compared with transformers, and some with candle-transformers
//! called by itself; slots, unloading, refusals; beside a model of serin's own decoder.
//!
//! Tiny random checkpoints, with logits and greedy tokens computed by `scripts/make_compat_goldens.py`, are in
//! `tests/fixtures/compat/`.
#![cfg(feature = "compat")]

mod golden_support;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{deepseek2, mixtral, qwen3_moe, starcoder2};
use golden_support::Golden;
use serde_json::{Value, json};
use serin::compat::{self, CompatRunner, Make, Opened, Plan, Threads, models::Instance, table};
use serin::config::Config;
use serin::control::{Source, any_model, folder_loader};
use serin::engine::{
    EngineHandle, LaneId, LaneStats, ModelRunner, Runner, SchedulerConfig, SeqEvent, SeqRequest,
    UnloadReport,
};
use serin::model::{
    Decoder, KvPlan, LoadError, LoadFormat, SamplingParams, Weights, families, logprobs,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const NEW_TOKENS: usize = 24;
const MEMORY: u64 = 1 << 30;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/compat"))
}

/// A checkpoint for every row of the table.
fn names() -> Vec<String> {
    golden_support::names(root(), table::TABLE.len())
}

fn golden(name: &str) -> Golden {
    let golden = golden_support::golden(&root().join(name));
    assert!(golden.greedy.iter().all(|reply| reply.len() == NEW_TOKENS));
    golden
}

fn config(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join(name).join("config.json")).unwrap())
        .unwrap()
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(root().join(name).join("model.safetensors"), &Device::Cpu)
        .unwrap()
}

/// A folder with another config, or other tensors.
fn changed(config: &Value, tensors: &HashMap<String, Tensor>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(tensors, dir.path().join("model.safetensors")).unwrap();
    dir
}

struct Lane {
    engine: EngineHandle,
    id: LaneId,
    stats: Arc<LaneStats>,
}

impl Lane {
    async fn load(dir: &Path, slots: usize, max_batch_tokens: usize) -> Result<Lane, String> {
        let (engine, _faults) = EngineHandle::start().unwrap();
        Lane::beside(&engine, dir, slots, max_batch_tokens).await
    }

    async fn beside(
        engine: &EngineHandle,
        dir: &Path,
        slots: usize,
        max_batch_tokens: usize,
    ) -> Result<Lane, String> {
        let dir = dir.to_owned();
        let make = move || {
            let opened = Opened::open(&dir)?;
            compat::load(&opened, opened.plan(slots, MEMORY)?)
        };
        let config = SchedulerConfig { max_running: slots, max_batch_tokens, ..plain() };
        let loaded = engine.load(config, make).await.map_err(|error| error.to_string())?;
        Ok(Lane { engine: engine.clone(), id: loaded.lane, stats: loaded.stats })
    }

    fn submit(&self, prompt: &[u32], params: SamplingParams) -> UnboundedReceiver<SeqEvent> {
        submit(&self.engine, self.id, prompt, params)
    }

    async fn unload(self) -> UnloadReport {
        let report = self.engine.unload(self.id, Duration::from_secs(5)).await.unwrap();
        assert_eq!((report.used_after, report.reserved_after, report.blocks_leaked), (0, 0, 0));
        report
    }
}

fn plain() -> SchedulerConfig {
    SchedulerConfig { max_waiting: 256, prefix_cache: false, ..SchedulerConfig::default() }
}

fn submit(
    engine: &EngineHandle,
    lane: LaneId,
    prompt: &[u32],
    params: SamplingParams,
) -> UnboundedReceiver<SeqEvent> {
    submit_at(engine, lane, prompt, params, (NEW_TOKENS, Instant::now()))
}

/// With so many new tokens, as if it had arrived then.
fn submit_at(
    engine: &EngineHandle,
    lane: LaneId,
    prompt: &[u32],
    params: SamplingParams,
    (max_new_tokens, arrived): (usize, Instant),
) -> UnboundedReceiver<SeqEvent> {
    let (events, inbox) = unbounded_channel();
    let request = SeqRequest {
        tag: 0,
        prompt: prompt.to_vec(),
        params,
        max_new_tokens,
        stop_ids: vec![],
        cache_salt: 0,
        events,
        background: false,
        guide: None,
        arrived,
    };
    engine.submit(lane, vec![request]).unwrap();
    inbox
}

/// The results of one sequence.
#[derive(Default)]
struct Reply {
    ids: Vec<u32>,
    logprobs: Vec<serin::model::Logprobs>,
    /// The log-probabilities of all tokens after each prompt token but the last.
    all: Vec<Box<[f32]>>,
}

async fn collect(mut inbox: UnboundedReceiver<SeqEvent>) -> Reply {
    let mut reply = Reply::default();
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Started { .. } => {}
            SeqEvent::Scored { scores, .. } => {
                reply.all = scores.into_iter().map(|score| score.all.unwrap()).collect();
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

/// The log-probabilities of all tokens, from a prompt's logits.
fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let all = logprobs::score(logits, 0, 0, true).unwrap().all.unwrap();
    all.to_vec()
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).fold(0f32, |worst, (got, want)| worst.max((got - want).abs()))
}

#[tokio::test]
async fn logits_and_greedy_tokens_are_those_of_transformers() {
    for name in names() {
        let golden = golden(&name);
        let lane = Lane::load(&root().join(&name), 1, 512).await.unwrap();
        let mut worst = 0f32;
        for (i, prompt) in golden.prompts.iter().enumerate() {
            let reply = collect(lane.submit(prompt, SamplingParams::greedy())).await;
            assert_eq!(reply.ids, golden.greedy[i], "{name}, prompt {i}");
            let scored = prompt.len() - 1;
            let watching = SamplingParams {
                logprobs: Some(5),
                score_last: scored,
                distributions: scored,
                ..SamplingParams::greedy()
            };
            let reply = collect(lane.submit(prompt, watching)).await;
            assert_eq!((&reply.ids, reply.all.len()), (&golden.greedy[i], scored), "{name}");
            for (position, logits) in golden.positions[i].iter().zip(&golden.logits[i]) {
                let want = log_softmax(logits);
                let error = match reply.all.get(*position) {
                    Some(all) => largest_difference(all, &want),
                    None => (reply.logprobs[0].token - want[reply.ids[0] as usize]).abs(),
                };
                assert!(error < 0.01, "{name}, prompt {i}, position {position}: {error}");
                worst = worst.max(error);
            }
        }
        println!("{name}: largest error of a log-probability {worst:.1e}");
        lane.unload().await;
    }
}

#[tokio::test]
async fn replies_are_the_same_in_chunks_and_beside_others_and_after_others() {
    for name in names() {
        let golden = golden(&name);
        for (slots, max_batch_tokens) in [(2, 11), (3, 512)] {
            let lane = Lane::load(&root().join(&name), slots, max_batch_tokens).await.unwrap();
            for round in 0..2 {
                let one = |i: usize| lane.submit(&golden.prompts[i % 3], SamplingParams::greedy());
                let inboxes: Vec<_> = (0..9).map(one).collect();
                for (i, inbox) in inboxes.into_iter().enumerate() {
                    // Some callers go away: their slots are used again.
                    if (i + round) % 4 == 3 {
                        drop(inbox);
                        continue;
                    }
                    let reply = collect(inbox).await;
                    assert_eq!(reply.ids, golden.greedy[i % 3], "{name}, {slots} slots, {i}");
                }
            }
            assert_eq!(lane.stats.read().preemptions, 0);
            assert_eq!(lane.stats.read().slots, slots as u64);
            assert_eq!(lane.stats.read().blocks_cached, 0);
            lane.unload().await;
        }
    }
}

/// Greedy replies of candle's model, called by itself: the prompt at once, then token by token.
fn alone(prompts: &[Vec<u32>], mut forward: impl FnMut(&Tensor, usize) -> Tensor) -> Vec<Vec<u32>> {
    let mut reply = |prompt: &Vec<u32>| {
        let (mut input, mut position, mut out) = (prompt.clone(), 0, Vec::new());
        while out.len() < NEW_TOKENS {
            let ids = Tensor::new(input.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let logits = forward(&ids, position).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            position += input.len();
            input = vec![logprobs::top(&logits, 1)[0].0];
            out.push(input[0]);
        }
        out
    };
    prompts.iter().map(&mut reply).collect()
}

#[test]
fn candle_called_by_itself_gives_the_same_tokens() {
    let load = |name: &str| VarBuilder::from_tensors(tensors(name), DType::F32, &Device::Cpu);
    let mut without_window = config("mixtral");
    without_window["sliding_window"] = json!(4096);
    without_window["use_flash_attn"] = json!(false);
    let mut with_theta = config("starcoder2");
    with_theta["sliding_window"] = json!(null);
    for name in ["qwen3-moe", "deepseek-v2", "starcoder2", "mixtral"] {
        let Golden { prompts, greedy, .. } = golden(name);
        let weights = load(name);
        let replies = match name {
            "qwen3-moe" => {
                let config = serde_json::from_value(config(name)).unwrap();
                let mut model = qwen3_moe::ModelForCausalLM::new(&config, weights).unwrap();
                alone(&prompts, |ids, at| {
                    if at == 0 {
                        model.clear_kv_cache();
                    }
                    model.forward(ids, at).unwrap()
                })
            }
            "deepseek-v2" => {
                let config = serde_json::from_value(config(name)).unwrap();
                let mut model = deepseek2::DeepSeekV2::new(&config, weights).unwrap();
                alone(&prompts, |ids, at| {
                    if at == 0 {
                        model.clear_kv_cache();
                    }
                    model.forward(ids, at).unwrap()
                })
            }
            "starcoder2" => {
                let config = serde_json::from_value(with_theta.clone()).unwrap();
                let mut model = starcoder2::Model::new(&config, weights).unwrap();
                alone(&prompts, |ids, at| {
                    if at == 0 {
                        model.clear_kv_cache();
                    }
                    model.forward(ids, at).unwrap()
                })
            }
            _ => {
                let config = serde_json::from_value(without_window.clone()).unwrap();
                let empty = mixtral::Model::new(&config, weights).unwrap();
                let mut model = empty.clone();
                alone(&prompts, |ids, at| {
                    if at == 0 {
                        model = empty.clone();
                    }
                    model.forward(ids, at).unwrap()
                })
            }
        };
        assert_eq!(replies, greedy, "{name}");
    }
}

#[tokio::test]
async fn twenty_loads_and_unloads_give_back_every_byte() {
    let names = names();
    let (engine, _faults) = EngineHandle::start().unwrap();
    for round in 0..20 {
        let name = &names[round % names.len()];
        let golden = golden(name);
        let lane = Lane::beside(&engine, &root().join(name), 4, 64).await.unwrap();
        let all: Vec<_> =
            golden.prompts.iter().map(|p| lane.submit(p, SamplingParams::greedy())).collect();
        // Every third is unloaded while it works.
        if round % 3 != 2 {
            for (inbox, want) in all.into_iter().zip(&golden.greedy) {
                assert_eq!(collect(inbox).await.ids, *want, "{name}");
            }
        }
        let report = engine.unload(lane.id, Duration::from_millis(5)).await.unwrap();
        assert!(report.used_before > 0, "{name}: its memory is in its arena");
        assert_eq!((report.used_after, report.reserved_after), (0, 0), "{name}, round {round}");
        assert_eq!(report.blocks_leaked, 0);
    }
}

#[tokio::test]
async fn slots_share_the_weights() {
    for name in names() {
        let weights = Opened::open(&root().join(&name)).unwrap().weight_bytes();
        let mut used = Vec::new();
        for slots in [1, 48] {
            let lane = Lane::load(&root().join(&name), slots, 64).await.unwrap();
            let prompts = golden(&name).prompts;
            // A slot has its memory from its first token on.
            let few = || (4, Instant::now());
            let greedy = SamplingParams::greedy;
            let one = |i: usize| submit_at(&lane.engine, lane.id, &prompts[i % 3], greedy(), few());
            for inbox in (0..slots).map(one).collect::<Vec<_>>() {
                collect(inbox).await;
            }
            used.push(lane.unload().await.used_before);
        }
        let slots = Opened::open(&root().join(&name)).unwrap().plan(48, MEMORY).unwrap().bytes();
        // Threads have buffers too.
        assert!(
            used[1] < used[0] + weights + 2 * slots + (4 << 20),
            "{name}: {used:?}, weights {weights}, slots {slots}"
        );
    }
}

/// An instance that takes its time.
struct Slow {
    inner: Box<dyn Instance>,
}

impl Instance for Slow {
    fn forward(&mut self, tokens: &Tensor, offset: usize) -> candle_core::Result<Tensor> {
        std::thread::sleep(Duration::from_millis(2) * tokens.elem_count() as u32);
        self.inner.forward(tokens, offset)
    }

    fn clear(&mut self) -> bool {
        self.inner.clear()
    }
}

#[tokio::test]
async fn the_other_model_decodes_while_a_long_prompt_is_computed() {
    let (engine, _faults) = EngineHandle::start().unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/llama2");
    let make = move || {
        let weights = Weights::open(&own, LoadFormat::Auto)?;
        let decoder = Decoder::load(&weights, KvPlan::exact(64, 4))?;
        Ok(Box::new(ModelRunner::new(decoder)) as Box<dyn Runner>)
    };
    let own = engine.load(plain(), make).await.unwrap().lane;
    let slow = || {
        let row = table::TABLE.iter().find(|row| row.name == "Starcoder2ForCausalLM").unwrap();
        let (config, held) = (config("starcoder2"), tensors("starcoder2"));
        let make: Make = Box::new(move || {
            let weights = VarBuilder::from_tensors(held.clone(), DType::F32, &Device::Cpu);
            Ok(Box::new(Slow { inner: (row.make)(config.clone(), weights)? }))
        });
        let plan = Plan { slots: 2, max_len: 128, slot_bytes: 0 };
        let threads = Threads::start().unwrap();
        let runner = CompatRunner::new(make, plan, 256, row.chunks, threads).unwrap();
        Ok(Box::new(runner) as Box<dyn Runner>)
    };
    let lane = engine.load(SchedulerConfig { max_batch_tokens: 512, ..plain() }, slow).await;
    let lane = lane.unwrap().lane;
    // Decoding all the time.
    let mut decoding =
        submit_at(&engine, own, &[5, 6, 7], SamplingParams::greedy(), (110, Instant::now()));
    while !matches!(decoding.recv().await, Some(SeqEvent::Token { .. })) {}
    let prompt: Vec<u32> = (0..100).map(|i| 3 + i * 2).collect();
    let asked = Instant::now();
    let mut long = submit_at(&engine, lane, &prompt, SamplingParams::greedy(), (4, asked));
    let Some(SeqEvent::Started { queued, prefill, .. }) = long.recv().await else {
        panic!("it begins")
    };
    let (begun, ended) = (asked + queued, asked + queued + prefill);
    let mut between = 0;
    while let Some(event) = decoding.recv().await {
        if let SeqEvent::Token { at, .. } = event {
            between += usize::from(at > begun && at < ended);
        }
    }
    assert!(between >= 3, "{between} tokens of the other model while the prompt was computed");
    for lane in [own, lane] {
        let report = engine.unload(lane, Duration::from_secs(5)).await.unwrap();
        assert_eq!(report.used_after, 0);
    }
}

#[tokio::test]
async fn damage_is_named() {
    for name in names() {
        let (config, all) = (config(&name), tensors(&name));
        let norms = all.keys().filter(|key| key.contains("norm")).min();
        let norm = norms.or(all.keys().min()).unwrap().clone();
        let refused = async |tensors: &HashMap<String, Tensor>| {
            let dir = changed(&config, tensors);
            Lane::load(dir.path(), 1, 64).await.err().expect("it is refused")
        };
        let mut without = all.clone();
        without.remove(&norm);
        let error = refused(&without).await;
        assert!(error.contains(&format!("no tensor `{norm}`")), "{name}: {error}");
        let mut narrow = all.clone();
        narrow.insert(norm.clone(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        let error = refused(&narrow).await;
        assert!(error.contains(&format!("`{norm}`")) && error.contains("shape"), "{name}: {error}");
        let mut broken = all.clone();
        let bad = (all[&norm].to_dtype(DType::F32).unwrap() * f64::NAN).unwrap();
        broken.insert(norm.clone(), bad);
        let error = refused(&broken).await;
        assert!(error.contains(&format!("`{norm}`")) && error.contains("NaN"), "{name}: {error}");
        // What no model asks for is left out.
        let mut more = all.clone();
        let bad = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        more.insert("visual.patch_embed.weight".into(), bad);
        let dir = changed(&config, &more);
        Lane::load(dir.path(), 1, 64).await.unwrap().unload().await;
    }
}

/// Any one key of a config with a value that nobody expects: it loads or is refused, and nothing panics or aborts.
#[tokio::test]
async fn hostile_configs_are_refused_or_run() {
    let values = [
        json!(null),
        json!(0),
        json!(3),
        json!(1_000_000_000u64),
        json!(u64::MAX),
        json!("x"),
        json!([7]),
        json!(true),
    ];
    let (engine, _faults) = EngineHandle::start().unwrap();
    let mut ran = 0;
    for name in names() {
        let (config, all) = (config(&name), tensors(&name));
        let dir = changed(&config, &all);
        for key in config.as_object().unwrap().keys() {
            for value in &values {
                let mut other = config.clone();
                other[key] = value.clone();
                std::fs::write(dir.path().join("config.json"), other.to_string()).unwrap();
                let path = dir.path().to_owned();
                let make = move || {
                    let opened = Opened::open(&path)?;
                    compat::load(&opened, opened.plan(1, 1 << 20)?)
                };
                match engine.load(plain(), make).await {
                    Ok(loaded) => {
                        ran += 1;
                        let report = engine.unload(loaded.lane, Duration::ZERO).await.unwrap();
                        assert_eq!(report.used_after, 0, "{name}: {key} = {value}");
                    }
                    Err(error) => {
                        let text = error.to_string();
                        let panicked = text.starts_with("loading panicked");
                        assert!(!panicked, "{name}: {key} = {value}: {text}");
                        assert!(!text.contains('\n'), "one line: {text}");
                    }
                }
            }
        }
    }
    assert!(ran > 100, "{ran} of them change nothing that matters");
}

#[test]
fn a_slot_is_as_long_as_the_memory_allows() {
    for name in names() {
        let opened = Opened::open(&root().join(&name)).unwrap();
        let whole = opened.plan(4, MEMORY).unwrap();
        assert_eq!(whole.slots, 4);
        let state = name.starts_with("mamba");
        let window = if name == "starcoder2" { 96 } else { 128 };
        assert_eq!(whole.max_len, if state { table::LONGEST } else { window }, "{name}");
        if state {
            assert_eq!(opened.plan(4, whole.bytes()).unwrap(), whole, "{name}");
            assert!(opened.plan(4, whole.bytes() - 4).is_err(), "{name}");
            continue;
        }
        let half = opened.plan(4, whole.bytes() / 2).unwrap();
        assert_eq!(half.max_len, whole.max_len / 2, "{name}");
        let error = opened.plan(4, 64).unwrap_err();
        assert!(matches!(error, LoadError::KvTooSmall { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn nothing_is_longer_than_its_slot() {
    let lane = {
        let (engine, _faults) = EngineHandle::start().unwrap();
        let make = || {
            let opened = Opened::open(&root().join("qwen3-moe"))?;
            let whole = opened.plan(2, MEMORY)?;
            compat::load(&opened, opened.plan(2, whole.bytes() / 4)?)
        };
        let loaded =
            engine.load(SchedulerConfig { max_running: 2, ..plain() }, make).await.unwrap();
        assert_eq!(loaded.capacity.longest(), 32);
        Lane { engine, id: loaded.lane, stats: loaded.stats }
    };
    let golden = golden("qwen3-moe");
    let reply = collect(lane.submit(&golden.prompts[1], SamplingParams::greedy())).await;
    assert_eq!(reply.ids, golden.greedy[1][..12], "20 and 12 are 32");
    let mut inbox = lane.submit(&golden.prompts[2], SamplingParams::greedy());
    assert!(matches!(inbox.recv().await, Some(SeqEvent::Refused { .. })));
    lane.unload().await;
}

/// A tokenizer of 256 bytes.
fn tokenizer() -> Value {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0;
    let vocab: serde_json::Map<String, Value> = (0..=255u8)
        .map(|byte| {
            let shown = if printable(byte) {
                char::from(byte)
            } else {
                hidden += 1;
                char::from_u32(255 + hidden).unwrap()
            };
            (shown.to_string(), byte.into())
        })
        .collect();
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "dropout": null, "fuse_unk": false, "byte_fallback": false},
    })
}

#[tokio::test]
async fn a_folder_is_deployed_by_what_its_config_names() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(root().join("qwen3-moe").join(file), dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let text = format!(
        "[model]\nname = \"m\"\nstable = {:?}\n[engine]\ncompat_slots = 3\n",
        dir.path().display().to_string()
    );
    let config = Config::parse(&text, Path::new(".")).unwrap();
    let (engine, _faults) = EngineHandle::start().unwrap();
    let loader = folder_loader(engine.clone(), config.engine, serin::device::Device::Cpu);
    let deployment = loader(dir.path().to_owned(), any_model()).await.unwrap();
    assert_eq!((deployment.capacity.blocks, deployment.capacity.max_len), (3, 128));
    assert_eq!(deployment.stats.read().slots, 3);
    let golden = golden("qwen3-moe");
    let inbox = submit(&engine, deployment.lane, &golden.prompts[1], SamplingParams::greedy());
    assert_eq!(collect(inbox).await.ids, golden.greedy[1]);
    engine.unload(deployment.lane, Duration::from_secs(5)).await.unwrap();
    for (architecture, parts) in [
        (
            "FalconForCausalLM",
            &["LlamaForCausalLM", "on the compatibility lane: Qwen3MoeForCausalLM"][..],
        ),
        ("MixtralForCausalLM", &["missing field `vocab_size`"][..]),
    ] {
        std::fs::write(
            dir.path().join("config.json"),
            json!({"architectures": [architecture]}).to_string(),
        )
        .unwrap();
        let error = Source::open(dir.path(), LoadFormat::Auto).err().unwrap().to_string();
        assert!(parts.iter().any(|part| error.contains(part)), "{architecture}: {error}");
    }
}

#[test]
fn too_few_or_too_many_slots_are_refused() {
    for (slots, sound) in [(0, false), (1, true), (16, true), (17, false)] {
        let text =
            format!("[model]\nname = \"m\"\nstable = \"x\"\n[engine]\ncompat_slots = {slots}\n");
        let parsed = Config::parse(&text, Path::new("."));
        match parsed {
            Ok(config) => assert!(sound && config.engine.compat_slots == slots),
            Err(error) => assert!(!sound && error.to_string().contains("engine.compat_slots")),
        }
    }
}

fn document() -> String {
    let mut text = String::from(
        "# Models\n\n\
         serin runs models in two ways. `architectures` in a model's `config.json` decides which one is used.\n\n\
         This page is generated: `SERIN_WRITE_DOCS=1 cargo test --test compat`.\n\n\
         ## serin's own decoder\n\n\
         On the CPU and on CUDA GPUs, from safetensors (f32, f16, bf16) and GGUF files, quantised or not, in large\n\
         batches, with a prefix cache.\n\n| architecture |\n|---|\n",
    );
    for name in families::supported() {
        text += &format!("| `{name}` |\n");
    }
    text += "\n## The compatibility lane\n\n\
         Other models that candle-transformers computes as transformers does. On the CPU only, in f32, from safetensors. It is\n\
         slow and meant for trying a model: sequences are computed one after the other, each in a slot of its own\n\
         (`engine.compat_slots`, 4 by default), and there is no prefix cache. All slots share `engine.kv_memory`, which\n\
         limits how long a sequence can be. Everything else is the same: sampling, constrained replies, judging, rescue,\n\
         unloading. `serin check`, `serin status` and the metric `serin_compat_slots` say when a model runs here.\n\n\
         A config that needs something that candle does not support is refused, and the error names the key. Each\n\
         architecture is compared with transformers on a small checkpoint of random weights (`tests/compat.rs`); the large\n\
         ones in the table have not been run.\n\n\
         | architecture | such as | not supported, so refused | a prompt is computed |\n|---|---|---|---|\n";
    for row in &table::TABLE {
        let chunks = match row.chunks {
            table::Chunks::Any => "in chunks",
            table::Chunks::First => "one chunk, then token by token",
            table::Chunks::Single => "token by token",
        };
        text += &format!("| `{}` | {} | {} | {chunks} |\n", row.name, row.models, row.without);
    }
    text += "\nLeft out, because candle-transformers 0.11.1 and transformers compute them differently: Falcon (an approximation\n\
         of its activation), DeepSeek-V2 with groups of experts, Mamba 2 with several groups, Mamba layers of Granite 4.0.\n\n\
         Needs the feature `compat`, which is on by default; `cargo demo` builds without it.\n";
    text
}

#[test]
fn the_documentation_lists_every_architecture() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/models.md"));
    let text = document();
    if std::env::var_os("SERIN_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/models.md is out of date: SERIN_WRITE_DOCS=1 cargo test --test compat"
    );
}
