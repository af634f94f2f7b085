//! The decoder on a GPU compared with its references: transformers' logits for every family, llama.cpp's
//! replies for every weight type, and the decoder on the CPU for everything that an engine does with it.
//!
//! The GPU is the pessimistic emulated one, which runs the kernels' sources on this machine's processor, unless
//! `SERIN_CARD` names another: `scripts/gpu_check` runs the same tests on a real one. With `SERIN_BRIEF`, each
//! list is cut short: for the rehearsal of that script, which shows that the tests run there.

mod gguf_support;
mod golden_support;

use gguf_support::{Damage, Figures, Library, Said, Score};
use serin::device::{Batch, CardReport, ModelPool, Row};
use serin::engine::{
    Capacity, CardRunner, EngineHandle, Finished, LaneId, ModelRunner, PendingStep, RunError,
    Runner, SchedulerConfig, SeqEvent, SeqRequest,
};
use serin::model::{
    self as model, CardDecoder, CardPlan, Decoder, Draw, KvPlan, LoadFormat, Logprobs,
    SamplingParams, Weights, logprobs,
};
use serin::rollout::Arm;
use serin::serving::reading::agreement;
use serin_kernels::cuda::emulated::{EmulatedCard, Pace};
use serin_kernels::cuda::{Card, KvKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Families with heads as wide as those of real models, and the attention kernels that these use.
const WIDE_HEADS: [(&str, [&str; 2]); 2] = [
    ("heads-64", ["attention_prefill_f16_64", "attention_decode_f16_64"]),
    ("heads-128", ["attention_prefill_f16_128", "attention_decode_f16_128"]),
];
/// Largest error of a logit, relative to the largest of its row: in f32; and with weights and inputs of
/// matrix products as stored, in 16 bits.
const TOLERANCE: [f32; 2] = [1e-3, 5e-2];
const NEW_TOKENS: usize = 12;

unsafe extern "C" {
    fn serin_emulator_launches(name: *const std::ffi::c_char) -> u64;
}

/// Number of times that this process has launched a kernel on emulated GPUs.
fn launches(kernel: &str) -> u64 {
    let name = std::ffi::CString::new(kernel).unwrap();
    // SAFETY: the emulator's own function, which reads the name.
    unsafe { serin_emulator_launches(name.as_ptr()) }
}

/// The checkout: where it was built, or where `SERIN_ROOT` says that it was moved to.
fn root() -> PathBuf {
    let carried = std::env::var_os("SERIN_ROOT").map(PathBuf::from);
    carried.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned())
}

fn open(path: &str) -> Weights {
    Weights::open(&root().join(path), LoadFormat::Auto).unwrap()
}

/// The emulated GPU, or the one that `SERIN_CARD` names.
fn card() -> Arc<dyn Card> {
    match std::env::var("SERIN_CARD") {
        Ok(name) => serin_kernels::cuda::open(&name).unwrap(),
        Err(_) => Arc::new(EmulatedCard::pessimistic(256 << 20, Pace::default())),
    }
}

/// All of a list, or the first of it.
fn some<T>(list: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
    let brief = std::env::var_os("SERIN_BRIEF").is_some();
    list.into_iter().take(if brief { 1 } else { usize::MAX })
}

/// A decoder on `card` for steps of up to `tokens` tokens in 8 rows.
fn load(
    weights: &Weights,
    card: &Arc<dyn Card>,
    tokens: usize,
    (blocks, block_size): (usize, usize),
    kv: KvKind,
) -> CardDecoder {
    let plan = CardPlan::new(weights.config(), (tokens, 8), (blocks, block_size), kv, 4);
    CardDecoder::load(weights, plan, ModelPool::open(card.clone()).unwrap()).unwrap()
}

/// Like [`load`], but everything in f32, as the references compute.
fn load_exact(
    weights: &Weights,
    card: &Arc<dyn Card>,
    (blocks, block_size): (usize, usize),
) -> CardDecoder {
    let step = (STEP.max_batch_tokens, STEP.max_running);
    let plan = CardPlan::new(weights.config(), step, (blocks, block_size), KvKind::F32, 4);
    let plan = CardPlan { exact: true, ..plan };
    CardDecoder::load(weights, plan, ModelPool::open(card.clone()).unwrap()).unwrap()
}

/// Small steps, so that prompts are split and rows wait.
const STEP: SchedulerConfig = SchedulerConfig {
    max_running: 8,
    max_batch_tokens: 96,
    max_waiting: 256,
    prefix_cache: true,
    reserved_tokens: 0,
};

/// Logits of every position of a prompt that is computed `chunk` tokens at a time, with an unordered table of
/// blocks of 4.
fn logits(decoder: &mut CardDecoder, prompt: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let table: Vec<u32> = (0..decoder.plan().blocks as u32).rev().collect();
    let vocab = decoder.config().vocab;
    let mut all = Vec::new();
    for from in (0..prompt.len()).step_by(chunk) {
        let to = (from + chunk).min(prompt.len());
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
            slots: (from..to).map(|p| table[p / 4] * 4 + (p % 4) as u32).collect(),
            rows: vec![row],
            tables: table.clone(),
        };
        decoder.forward(&batch).unwrap();
        for first in (0..to - from).step_by(decoder.head_rows()) {
            let n = (to - from - first).min(decoder.head_rows());
            decoder.head(first, n).unwrap();
            for i in 0..n {
                let mut row = vec![f32::NAN; vocab];
                decoder.read_logits(i, &mut row).unwrap();
                all.push(row);
            }
        }
    }
    all
}

fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |max, v| max.max(v.abs()));
    assert!(got.iter().all(|v| v.is_finite()));
    got.iter().zip(want).fold(0f32, |max, (g, w)| max.max((g - w).abs())) / largest
}

#[test]
fn logits_of_every_family_are_those_of_transformers() {
    for family in some(golden_support::families(&root())) {
        let folder = format!("tests/fixtures/families/{family}");
        let golden = golden_support::golden(&root().join(&folder));
        let (weights, card) = (open(&folder), card());
        let blocks = golden.prompts.iter().map(Vec::len).max().unwrap().div_ceil(4);
        let mut exact = load_exact(&weights, &card, (blocks, 4));
        let mut plain = load(&weights, &card, 64, (blocks, 4), KvKind::F16);
        let mut worst = [0f32; 2];
        let wide = WIDE_HEADS.iter().find(|(name, _)| *name == family);
        // The prompt that is also computed in chunks: a short one, or with wide heads one that is longer than
        // a tile.
        let cut = usize::from(wide.is_some());
        for (i, prompt) in golden.prompts.iter().enumerate() {
            let wanted = &golden.logits[i];
            let chunks = if i == cut { vec![64, 7, 1] } else { vec![64] };
            for (chunk, which) in chunks.iter().flat_map(|c| [(*c, 0), (*c, 1)]) {
                let got = logits([&mut exact, &mut plain][which], prompt, chunk);
                for (position, want) in golden.positions[i].iter().zip(wanted) {
                    let error = relative_error(&got[*position], want);
                    let at = format!("{family}, prompt {i}, chunks of {chunk}, at {position}");
                    assert!(error < TOLERANCE[which], "{at}, {which}: {error}");
                    worst[which] = worst[which].max(error);
                }
            }
        }
        println!(
            "{family}: largest relative logit error {:.1e} in f32, {:.1e} as stored",
            worst[0], worst[1]
        );
        for kernel in wide.iter().flat_map(|(_, kernels)| kernels) {
            let seen = !card.properties().emulated || launches(kernel) > 0;
            assert!(seen, "{family}: {kernel} was not launched");
        }
        for report in [exact.close(), plain.close()] {
            assert_eq!((report.used_after, report.reserved_after), (0, 0), "{family}");
        }
    }
}

struct Lane {
    engine: EngineHandle,
    lane: LaneId,
    stats: Arc<serin::engine::LaneStats>,
}

impl Lane {
    async fn start(scheduler: SchedulerConfig, runner: Box<dyn Runner>) -> Lane {
        let (engine, _faults) = EngineHandle::start().unwrap();
        let loaded = engine.load(scheduler, move || Ok(runner)).await.unwrap();
        Lane { engine, lane: loaded.lane, stats: loaded.stats }
    }

    fn submit(&self, prompt: &[u32], params: &SamplingParams) -> UnboundedReceiver<SeqEvent> {
        self.submit_all(&[prompt.to_vec()], |_| params.clone()).remove(0)
    }

    /// Submits all prompts at once.
    fn submit_all(
        &self,
        prompts: &[Vec<u32>],
        params: impl Fn(usize) -> SamplingParams,
    ) -> Vec<UnboundedReceiver<SeqEvent>> {
        let arrived = Instant::now();
        let request = |(i, prompt): (usize, &Vec<u32>)| {
            let (events, inbox) = unbounded_channel();
            let request = SeqRequest {
                tag: 0,
                prompt: prompt.clone(),
                params: params(i),
                max_new_tokens: NEW_TOKENS,
                stop_ids: vec![],
                cache_salt: 0,
                events,
                background: false,
                guide: None,
                arrived,
            };
            (request, inbox)
        };
        let (requests, inboxes) = prompts.iter().enumerate().map(request).unzip();
        self.engine.submit(self.lane, requests).unwrap();
        inboxes
    }

    /// Replies to all prompts, with `at_once` of them running together.
    async fn replies(
        &self,
        prompts: &[Vec<u32>],
        at_once: usize,
        params: impl Fn(usize) -> SamplingParams,
    ) -> Vec<Reply> {
        let mut all = Vec::new();
        for (g, group) in prompts.chunks(at_once).enumerate() {
            let submit =
                |(i, prompt): (usize, &Vec<u32>)| self.submit(prompt, &params(g * at_once + i));
            let inboxes: Vec<_> = group.iter().enumerate().map(submit).collect();
            for inbox in inboxes {
                all.push(collect(inbox).await);
            }
        }
        all
    }
}

#[derive(Debug, Default, PartialEq)]
struct Reply {
    ids: Vec<u32>,
    logprobs: Vec<Logprobs>,
}

async fn collect(mut inbox: UnboundedReceiver<SeqEvent>) -> Reply {
    let mut reply = Reply::default();
    while let Some(event) = inbox.recv().await {
        match event {
            SeqEvent::Token { id, logprobs, .. } => {
                reply.ids.push(id);
                reply.logprobs.extend(logprobs.map(|l| *l));
            }
            SeqEvent::Finished { .. } => return reply,
            SeqEvent::Started { .. } | SeqEvent::Scored { .. } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the engine went silent");
}

fn prompts(count: usize, vocab: usize) -> Vec<Vec<u32>> {
    let id = |i: usize, j: usize| ((i * 7919 + j * 104_729 + 31) % (vocab - 4) + 3) as u32;
    (0..count).map(|i| (0..5 + (i * 13) % 37).map(|j| id(i, j)).collect()).collect()
}

fn on_cpu(weights: &Weights, blocks: usize) -> Box<dyn Runner> {
    let decoder = Decoder::load(weights, KvPlan::exact(blocks, 8)).unwrap();
    Box::new(ModelRunner::new(decoder))
}

fn on_card(weights: &Weights, blocks: usize) -> Box<dyn Runner> {
    Box::new(CardRunner::new(load_exact(weights, &card(), (blocks, 8))))
}

fn greedy(_: usize) -> SamplingParams {
    SamplingParams::greedy()
}

/// Families with many special properties: both sides compute in f32, so they agree up to the order of sums.
const EXACT: [&str; 2] = ["gemma2", "phi3"];
/// Margin in log-probability above which no order of sums in f32 changes a greedy token. The logits of both
/// sides are within [`TOLERANCE`] of transformers', relative to the largest, and a margin is the difference
/// of two logits.
fn lead(family: &str) -> f32 {
    let golden = golden_support::golden(&root().join("tests/fixtures/families").join(family));
    let rows = golden.logits.into_iter().flatten();
    let largest = rows.flatten().fold(0f32, |most, logit| most.max(logit.abs()));
    2.0 * TOLERANCE[0] * largest
}

/// Eight prompts for whose replies all of the CPU's tokens have that margin, and these replies.
async fn without_near_ties(cpu: &Lane, vocab: usize, lead: f32) -> (Vec<Vec<u32>>, Vec<Reply>) {
    let top_two = |_| SamplingParams { logprobs: Some(2), ..SamplingParams::greedy() };
    let prompts = prompts(24, vocab);
    let replies = cpu.replies(&prompts, 1, top_two).await;
    let leads = |reply: &Reply| reply.logprobs.iter().all(|l| l.top[0].1 - l.top[1].1 > lead);
    let kept = prompts.into_iter().zip(replies).filter(|(_, reply)| leads(reply));
    let kept = kept.map(|(prompt, reply)| (prompt, Reply { logprobs: Vec::new(), ..reply }));
    let (prompts, replies): (Vec<_>, Vec<_>) = kept.take(8).unzip();
    assert_eq!(prompts.len(), 8, "too many near-ties");
    (prompts, replies)
}

#[tokio::test]
async fn replies_are_the_cpus_alone_mixed_chunked_and_preempted() {
    for family in some(EXACT) {
        let weights = open(&format!("tests/fixtures/families/{family}"));
        let plain = SchedulerConfig { prefix_cache: false, ..STEP };
        let cpu = Lane::start(plain, on_cpu(&weights, 64)).await;
        let (prompts, want) = without_near_ties(&cpu, weights.config().vocab, lead(family)).await;

        let alone = Lane::start(plain, on_card(&weights, 64)).await;
        assert_eq!(alone.replies(&prompts[..2], 1, greedy).await, want[..2], "{family}, alone");
        assert_eq!(alone.replies(&prompts, 8, greedy).await, want, "{family}, mixed");

        let chunked = SchedulerConfig { max_batch_tokens: 11, ..plain };
        let chunked = Lane::start(chunked, on_card(&weights, 64)).await;
        assert_eq!(chunked.replies(&prompts, 8, greedy).await, want, "{family}, chunked");

        let few = Lane::start(plain, on_card(&weights, 18)).await;
        assert_eq!(few.replies(&prompts, 8, greedy).await, want, "{family}, too few blocks");
        assert!(few.stats.read().preemptions > 0);

        let kept = Lane::start(STEP, on_card(&weights, 64)).await;
        assert_eq!(kept.replies(&prompts, 8, greedy).await, want, "{family}, prefixes kept");
        assert_eq!(kept.replies(&prompts, 8, greedy).await, want, "{family}, prefixes found");
        assert!(kept.stats.read().prefix_hit_tokens > 0);
    }
}

/// Every sampling method, each with its own seed; the last one requests log-probabilities.
fn choosing(i: usize) -> SamplingParams {
    let plain = SamplingParams { seed: 1000 + i as u64, ..SamplingParams::default() };
    match i % 7 {
        0 => plain,
        1 => SamplingParams { temperature: 0.7, top_k: 5, ..plain },
        2 => SamplingParams { temperature: 1.3, top_p: 0.8, ..plain },
        3 => SamplingParams { min_p: 0.1, ..plain },
        4 => SamplingParams { repetition_penalty: 1.3, frequency_penalty: 0.4, ..plain },
        5 => SamplingParams { presence_penalty: 0.9, top_k: 40, top_p: 0.9, min_p: 0.01, ..plain },
        _ => SamplingParams { logprobs: Some(3), ..plain },
    }
}

#[tokio::test]
async fn draws_are_the_cpus() {
    let weights = open("tests/fixtures/families/llama3");
    let prompts = prompts(14, weights.config().vocab);
    let config = STEP;
    let cpu = Lane::start(config, on_cpu(&weights, 64)).await;
    let card = Lane::start(config, on_card(&weights, 64)).await;
    let want = cpu.replies(&prompts, 7, choosing).await;
    let got = card.replies(&prompts, 7, choosing).await;
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.ids, want.ids, "prompt {i}, {:?}", choosing(i));
        let logprobs = got.logprobs.iter().zip(&want.logprobs);
        assert_eq!(got.logprobs.len(), if i % 7 == 6 { NEW_TOKENS } else { 0 });
        for (got, want) in logprobs {
            assert!((got.token - want.token).abs() < 1e-3, "prompt {i}");
        }
    }
}

/// Scores of the last tokens of a prompt, the whole distribution at a few places; in chunks, as a reading beside others.
async fn scores(lane: &Lane, prompt: &[u32]) -> Vec<model::Score> {
    let params = SamplingParams { score_last: prompt.len() - 2, distributions: 3, ..greedy(0) };
    let mut inbox = lane.submit(prompt, &params);
    while let Some(event) = inbox.recv().await {
        if let SeqEvent::Scored { scores, .. } = event {
            return scores;
        }
    }
    panic!("no scores came");
}

#[tokio::test]
async fn a_reading_is_the_cpus() {
    let weights = open("tests/fixtures/families/llama3");
    let config = SchedulerConfig { max_batch_tokens: 11, ..STEP };
    let cpu = Lane::start(config, on_cpu(&weights, 64)).await;
    let card = Lane::start(config, on_card(&weights, 64)).await;
    for prompt in prompts(6, weights.config().vocab) {
        let (want, got) = (scores(&cpu, &prompt).await, scores(&card, &prompt).await);
        assert_eq!((want.len(), got.len()), (prompt.len() - 2, prompt.len() - 2));
        assert_eq!(got.iter().filter(|score| score.all.is_some()).count(), want.len().min(3));
        for (got, want) in got.iter().zip(&want) {
            assert!((got.logprob - want.logprob).abs() < 1e-3);
        }
        let both = agreement(&want, &got, Arm::Stable).unwrap();
        assert!(
            both.kl < 1e-4 && both.excess.abs() < 1e-3 && both.sharper.abs() < 1e-2,
            "{both:?}"
        );
    }
}

/// Replies to prompts of 11 tokens that arrive all at once, so that the steps depend only on their number:
/// first one step for all prompts, then one for each token.
async fn in_step(
    weights: &Weights,
    capture: bool,
    count: usize,
    params: impl Fn(usize) -> SamplingParams,
) -> Vec<Reply> {
    let decoder = load(weights, &card(), 96, (64, 16), KvKind::F16);
    let decoder = if capture { decoder } else { decoder.without_capture() };
    let lane = Lane::start(STEP, Box::new(CardRunner::new(decoder))).await;
    let mut replies = Vec::new();
    for inbox in lane.submit_all(&equal_prompts(count, weights.config().vocab), params) {
        replies.push(collect(inbox).await);
    }
    replies
}

fn equal_prompts(count: usize, vocab: usize) -> Vec<Vec<u32>> {
    let id = |i: usize, j: usize| ((i * 7919 + j * 104_729 + 31) % (vocab - 4) + 3) as u32;
    (0..count).map(|i| (0..11).map(|j| id(i, j)).collect()).collect()
}

/// As many rows as in a captured graph: the same kernels with the same shapes, and so the same tokens with
/// every sampling method.
#[tokio::test]
async fn a_captured_step_gives_what_a_launched_one_gives() {
    let weights = open("models/tiny-v1");
    // A step is not captured while one of its rows needs log-probabilities.
    let drawn = |i: usize| choosing(if i % 7 == 6 { i + 1 } else { i });
    for rows in some([1, 2, 4, 8]) {
        let captured = in_step(&weights, true, rows, drawn).await;
        assert_eq!(captured, in_step(&weights, false, rows, drawn).await, "{rows} rows");
    }
}

/// Fewer rows than in the captured graph: padding rows are multiplied too, which may change the order of
/// sums.
///
/// Sums in another order round some numbers the other way: off by up to a whole unit in the last place,
/// instead of half a unit at most. So the logits of a replayed graph are within twice the error of launched
/// ones, `e`, of the exact ones. Choices from them cost at most `4 * e`: the best token was computed up to `2
/// * e` too low, and the chosen one up to `2 * e` too high.
#[tokio::test]
async fn a_captured_step_with_rows_to_spare_chooses_as_well() {
    let (weights, card) = (open("models/tiny-v1"), card());
    let mut exact = load_exact(&weights, &card, (8, 4));
    let mut plain = load(&weights, &card, 96, (8, 4), KvKind::F16);
    let (mut same, mut error, mut cost) = (0, 0f32, 0f32);
    for rows in some([3, 5, 7]) {
        let captured = in_step(&weights, true, rows, greedy).await;
        let launched = in_step(&weights, false, rows, greedy).await;
        let prompts = equal_prompts(rows, weights.config().vocab);
        for ((prompt, captured), launched) in prompts.iter().zip(&captured).zip(&launched) {
            assert_eq!(captured.ids.len(), NEW_TOKENS);
            same += usize::from(captured == launched);
            let tokens = [prompt.as_slice(), &captured.ids].concat();
            let [exact, plain] =
                [&mut exact, &mut plain].map(|decoder| logits(decoder, &tokens, tokens.len()));
            let errors = exact.iter().zip(&plain).map(|(want, got)| relative_error(got, want));
            error = errors.fold(error, f32::max);
            let choices = exact[prompt.len() - 1..].iter().zip(&captured.ids);
            cost = choices.map(|(logits, id)| regret(logits, *id)).fold(cost, f32::max);
        }
    }
    println!("{same} replies are the launched ones; largest cost {cost:.1e}, error {error:.1e}");
    assert!(error < TOLERANCE[1], "launched logits are off by {error} of the largest");
    assert!(cost <= 4.0 * error, "a choice costs {cost} of the largest logit, errors are {error}");
}

/// How far a token's logit is below the best, relative to the largest.
fn regret(logits: &[f32], id: u32) -> f32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = logits.iter().fold(0f32, |max, logit| max.max(logit.abs()));
    (best - logits[id as usize]) / largest
}

/// A random model in every format; the bounds are llama.cpp's own rounding.
#[tokio::test]
async fn every_kind_of_weight_and_cache_says_what_llama_cpp_says() {
    let (library, dir) = (Library::read(), tempfile::tempdir().unwrap());
    let golden = gguf_support::golden("qwen3");
    for (form, expected) in some(&golden.forms) {
        let path = dir.path().join(format!("{form}.gguf"));
        std::fs::write(&path, golden.compose(expected, &library, &Damage::None)).unwrap();
        let weights = Weights::open(&path, LoadFormat::Auto).unwrap();
        let device = card();
        let eight_bits = [KvKind::I8, KvKind::E4M3].into_iter().filter(|kv| {
            ["BF16", "Q4_K_M"].contains(&form.as_str()) && kv.check(device.properties()).is_ok()
        });
        for kv in std::iter::once(KvKind::F16).chain(eight_bits) {
            // For files in F32, weights and inputs of matrix products would be rounded to 16 bits, which
            // llama.cpp does not do.
            let load = || match form.as_str() {
                "F32" => load_exact(&weights, &card(), (32, 4)),
                _ => load(&weights, &card(), 96, (32, 4), kv),
            };
            let bounds = match kv {
                KvKind::I8 => expected.said.bounds_i8(),
                KvKind::E4M3 => expected.said.bounds_fp8(),
                KvKind::F16 | KvKind::F32 => expected.said.bounds(),
            };
            let figures = against_llama_cpp(load(), load(), &expected.said).await;
            println!("{form}, cache {kv:?}: {figures:?} against {bounds:?}");
            assert!(figures.within(&bounds), "{form}, cache {kv:?}: {figures:?}, {bounds:?}");
        }
    }
}

/// Less common types, with kernels of their own or kept as what stands in for them; and a file with a type for each
/// matrix.
#[tokio::test]
async fn files_of_less_common_kinds_say_what_llama_cpp_says() {
    let (library, dir) = (Library::read(), tempfile::tempdir().unwrap());
    let golden = gguf_support::golden("kinds");
    for form in some(["mixed", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q3_K", "IQ4_XS"]) {
        let expected = &golden.forms[form];
        let path = dir.path().join(format!("{form}.gguf"));
        std::fs::write(&path, golden.compose(expected, &library, &Damage::None)).unwrap();
        let weights = Weights::open(&path, LoadFormat::Auto).unwrap();
        let load = || load(&weights, &card(), 96, (32, 4), KvKind::F16);
        let figures = against_llama_cpp(load(), load(), &expected.said).await;
        let bounds = expected.said.bounds();
        println!("{form}: {figures:?} against {bounds:?}");
        assert!(figures.within(&bounds), "{form}: {figures:?}, {bounds:?}");
    }
}

/// llama.cpp's replies forced on one decoder, and their beginnings generated together on another.
async fn against_llama_cpp(mut forced: CardDecoder, free: CardDecoder, said: &Said) -> Figures {
    let mut score = Score::default();
    for reply in &said.replies {
        let tokens = [&reply.prompt[..], &reply.tokens[..reply.tokens.len() - 1]].concat();
        let logits = logits(&mut forced, &tokens, tokens.len());
        for (top, logits) in reply.top.iter().zip(&logits[reply.prompt.len() - 1..]) {
            score.position(top, logits);
        }
    }
    let prompts: Vec<_> = said.replies.iter().map(|reply| reply.prompt.clone()).collect();
    let lane = Lane::start(STEP, Box::new(CardRunner::new(free))).await;
    let top =
        |_| SamplingParams { logprobs: Some(logprobs::MOST_TOP as u8), ..SamplingParams::greedy() };
    for (reply, made) in said.replies.iter().zip(lane.replies(&prompts, prompts.len(), top).await) {
        let made = made.ids.iter().zip(&made.logprobs).map(|(id, l)| (*id, &l.top[..]));
        score.generated(reply, made);
    }
    score.figures()
}

/// A runner whose steps are not measured when it is loaded.
struct Unmeasured(CardRunner);

impl Runner for Unmeasured {
    fn capacity(&self) -> Capacity {
        self.0.capacity()
    }

    fn enqueue(&mut self, batch: &Batch, draws: &[Draw<'_>]) -> Result<PendingStep, RunError> {
        self.0.enqueue(batch, draws)
    }

    fn finish(
        &mut self,
        pending: PendingStep,
        batch: &Batch,
        draws: &[Draw<'_>],
    ) -> Result<Finished, RunError> {
        self.0.finish(pending, batch, draws)
    }

    fn can_be_measured(&self) -> bool {
        false
    }

    fn unload(self: Box<Self>) -> Option<CardReport> {
        Box::new(self.0).unload()
    }
}

#[tokio::test]
async fn a_hundred_loads_and_unloads_leave_the_card_as_it_was() {
    let card = card();
    let (engine, _faults) = EngineHandle::start().unwrap();
    let free = card.memory().unwrap().free;
    for cycle in some(0..100) {
        let onto = card.clone();
        let make = move || {
            let weights = open("models/tiny-v1");
            let decoder = load(&weights, &onto, 32, (16, 16), KvKind::F16);
            let runner = CardRunner::new(decoder);
            // Measuring a model takes a second.
            Ok(match cycle % 25 {
                0 => Box::new(runner) as Box<dyn Runner>,
                _ => Box::new(Unmeasured(runner)),
            })
        };
        let loaded = engine.load(SchedulerConfig::default(), make).await.unwrap();
        let lane = Lane { engine: engine.clone(), lane: loaded.lane, stats: loaded.stats };
        if cycle % 25 == 0 {
            // A reply that is cut off by the unload, with its steps captured as graphs.
            let inbox = lane.submit(&[5, 6, 7], &SamplingParams::greedy());
            drop(inbox);
        }
        let report = engine.unload(lane.lane, Duration::ZERO).await.unwrap();
        let on_card = report.card.expect("it was on a card");
        assert!(on_card.used_before > 1 << 20, "weights and cache were in the pool");
        assert_eq!((on_card.used_after, on_card.reserved_after), (0, 0), "cycle {cycle}");
        // Other programs may use a real GPU at the same time, and its driver takes some memory for itself at
        // first.
        let spare = if card.properties().emulated { 0 } else { 16 << 20 };
        assert!(on_card.free_after.abs_diff(free) <= spare, "cycle {cycle}: {on_card:?}");
    }
}

#[test]
fn a_load_that_fails_on_its_way_leaves_nothing_behind() {
    let weights = open("models/tiny-v1");
    let emulated = Arc::new(EmulatedCard::start(64 << 20));
    let card: Arc<dyn Card> = emulated.clone();
    let plan = CardPlan::new(weights.config(), (64, 8), (32, 16), KvKind::F16, 4);
    for allocations in [0, 1, 7, 30, 45] {
        emulated.fail_after(Some(allocations));
        let pool = ModelPool::open(card.clone()).unwrap();
        let error = CardDecoder::load(&weights, plan, pool).err();
        let error = error.unwrap_or_else(|| panic!("{allocations} allocations were enough"));
        assert!(error.to_string().contains("left"), "{error}");
        emulated.fail_after(None);
        let memory = card.memory().unwrap();
        assert_eq!(memory.free, memory.total, "after {allocations} allocations");
    }
    CardDecoder::load(&weights, plan, ModelPool::open(card).unwrap()).unwrap().close();
}

#[test]
fn what_is_planned_is_what_is_taken() {
    for model in
        ["models/tiny-v1", "tests/fixtures/families/gemma3", "tests/fixtures/families/phi3"]
    {
        let weights = open(model);
        let card = card();
        let decoder = load(&weights, &card, 64, (32, 16), KvKind::F16);
        let plan = *decoder.plan();
        let config = weights.config();
        let planned = serin::model::card::weight_bytes(&weights).unwrap()
            + 32 * plan.block_bytes(config)
            + plan.scratch_bytes(config);
        let taken = decoder.usage().used;
        assert!(taken <= planned + (1 << 18), "{model}: {taken} taken, {planned} planned");
        assert!(taken * 10 > planned * 6, "{model}: {taken} taken, {planned} planned");
    }
}
