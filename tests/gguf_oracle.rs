//! GGUF files of every architecture and kind against llama.cpp: its greedy tokens and its three likeliest at
//! every position, by `scripts/make_gguf_oracle.py`, under `tests/fixtures/gguf/oracle/`.
//!
//! llama.cpp rounds activations to 8 bits before it multiplies by quantised weights, so near-ties may fall
//! either way: at the first token that differs, each side's choice has to be among the other's three
//! likeliest. Up to there log-probabilities are compared as well, by how much of llama.cpp's is rounding.

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;
use serin::device::Kind;
use serin::engine::{EngineHandle, LaneId, ModelRunner, Runner, SchedulerConfig};
use serin::engine::{SeqEvent, SeqRequest};
use serin::model::{Decoder, KvChoice, KvPlan, LoadFormat, Logprobs, SamplingParams, Weights};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::sync::mpsc::unbounded_channel;

const FAMILIES: [&str; 7] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi3-long"];
const NEW_TOKENS: usize = 32;
const TOP: u8 = 3;
/// Rows of the library that are for embeddings and heads, and those for all other matrices.
const ROWS: [usize; 2] = [128, 256];
const WIDTH: usize = 256;

#[derive(Deserialize)]
struct Golden {
    /// Key, type, value.
    metadata: Vec<(String, String, Value)>,
    /// Name, shape with rows first, and what a vector holds: its values, or base and spread of a formula.
    tensors: Vec<(String, Vec<usize>, Option<Vec<f32>>)>,
    forms: BTreeMap<String, Form>,
}

#[derive(Deserialize)]
struct Form {
    /// ggml's type number of every matrix, in order.
    kinds: Vec<u32>,
    sha256: String,
    #[serde(flatten)]
    said: Said,
}

#[derive(Deserialize)]
struct Said {
    /// Mean difference of llama.cpp's log-probabilities from its own on the same weights in F32.
    rounding: f32,
    replies: Vec<Reply>,
}

#[derive(Deserialize)]
struct Reply {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
    /// Ids and log-probabilities, the likeliest first, at every position.
    top: Vec<Vec<(u32, f32)>>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/oracle").join(name)
}

fn golden(family: &str) -> Golden {
    let text = std::fs::read_to_string(fixture(&format!("{family}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The rows that all matrices are made of, in every kind.
struct Library(BTreeMap<u32, Vec<u8>>);

impl Library {
    fn read() -> Library {
        let file = std::fs::read(fixture("blocks.bin")).unwrap();
        let stored = [Kind::BF16, Kind::Q8_0, Kind::Q4_0, Kind::Q4K, Kind::Q5K, Kind::Q6K];
        let mut kinds = BTreeMap::new();
        let mut rest = file.as_slice();
        for kind in stored {
            let (rows, after) = rest.split_at((ROWS[0] + ROWS[1]) * row_bytes(kind));
            kinds.insert(kind.ggml(), rows.to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
        let numbers: Vec<f32> = kinds[&Kind::BF16.ggml()]
            .chunks_exact(2)
            .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect();
        kinds.insert(Kind::F32.ggml(), numbers.iter().flat_map(|x| x.to_le_bytes()).collect());
        let halves = numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes());
        kinds.insert(Kind::F16.ggml(), halves.collect());
        Library(kinds)
    }

    fn matrix(&self, name: &str, rows: usize, kind: u32) -> Vec<u8> {
        let row = row_bytes(Kind::from_ggml(kind).unwrap());
        let library = &self.0[&kind];
        let hash = fnv(name) as usize;
        let of = |i: usize| match name {
            "token_embd.weight" | "output.weight" => (hash + 37 * i) % ROWS[0],
            _ => ROWS[0] + (hash + 149 * i + 37 * (i / ROWS[1])) % ROWS[1],
        };
        (0..rows).flat_map(|i| &library[of(i) * row..][..row]).copied().collect()
    }
}

fn row_bytes(kind: Kind) -> usize {
    kind.row_bytes(WIDTH).unwrap()
}

/// FNV-1a; the script has the same.
fn fnv(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

fn vector(name: &str, len: usize, fill: &[f32]) -> Vec<u8> {
    let formula = |i: usize| {
        let step = (fnv(name) as usize + 7919 * i) % 2048;
        fill[0] + fill[1] * ((step as f32 - 1024.0) / 1024.0)
    };
    let value = |i: usize| if fill.len() == len { fill[i] } else { formula(i) };
    (0..len).flat_map(|i| value(i).to_le_bytes()).collect()
}

/// A file byte by byte, as the script had it; without the metadata that `leave_out` names.
fn compose(golden: &Golden, form: &Form, library: &Library, leave_out: &[&str]) -> Vec<u8> {
    let kept: Vec<_> = golden.metadata.iter().filter(|(key, ..)| !ends(key, leave_out)).collect();
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((golden.tensors.len() as u64).to_le_bytes());
    out.extend((kept.len() as u64).to_le_bytes());
    for (key, kind, value) in kept {
        put_text(&mut out, key);
        match (kind.as_str(), value) {
            ("u32", Value::Number(n)) => {
                put(&mut out, 4, &(n.as_u64().unwrap() as u32).to_le_bytes())
            }
            ("f32", Value::Number(n)) => {
                put(&mut out, 6, &(n.as_f64().unwrap() as f32).to_le_bytes())
            }
            ("text", Value::String(text)) => {
                put(&mut out, 8, &[]);
                put_text(&mut out, text);
            }
            other => panic!("{key}: {other:?}"),
        }
    }
    let mut kinds = form.kinds.iter();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, fill) in &golden.tensors {
        let (kind, bytes) = match fill {
            Some(fill) => (0, vector(name, shape[0], fill)),
            None => {
                let kind = *kinds.next().unwrap();
                (kind, library.matrix(name, shape[0], kind))
            }
        };
        put_text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

fn put(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn ends(key: &str, names: &[&str]) -> bool {
    names.iter().any(|name| key.ends_with(name))
}

/// A loaded file.
struct Lane {
    engine: EngineHandle,
    lane: LaneId,
}

/// What serin made of a prompt.
struct Made {
    tokens: Vec<u32>,
    logprobs: Vec<Logprobs>,
}

impl Lane {
    async fn load(path: &Path) -> Lane {
        let (engine, _faults) = EngineHandle::start().unwrap();
        let weights = Weights::open(path, LoadFormat::Auto).unwrap();
        let make = move || {
            let kind = KvChoice::Auto.kind(&weights);
            let decoder = Decoder::load(&weights, KvPlan { blocks: 32, block_size: 16, kind })?;
            Ok(Box::new(ModelRunner::new(decoder)) as Box<dyn Runner>)
        };
        let loaded = engine.load(SchedulerConfig::default(), make).await.unwrap();
        Lane { engine, lane: loaded.lane }
    }

    async fn greedy(&self, prompt: &[u32]) -> Made {
        let (events, mut inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 0,
            prompt: prompt.to_vec(),
            params: SamplingParams { logprobs: Some(TOP), ..SamplingParams::greedy() },
            max_new_tokens: NEW_TOKENS,
            stop_ids: vec![],
            cache_salt: 0,
            events,
            arrived: Instant::now(),
        };
        self.engine.submit(self.lane, vec![request]).unwrap();
        let mut made = Made { tokens: Vec::new(), logprobs: Vec::new() };
        while let Some(event) = inbox.recv().await {
            match event {
                SeqEvent::Started { .. } => {}
                SeqEvent::Token { id, logprobs, .. } => {
                    made.tokens.push(id);
                    made.logprobs.push(*logprobs.unwrap());
                }
                SeqEvent::Finished { .. } => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(made.tokens.len(), NEW_TOKENS);
        made
    }
}

/// How far a reply agrees with llama.cpp's.
struct Agreement {
    /// First position at which the tokens differ, if any.
    diverged: Option<usize>,
    /// Differences of log-probabilities of tokens that both have among their likeliest, up to there.
    differences: Vec<f32>,
}

/// `Err`: the first token that differs is not a close call.
fn compare(reply: &Reply, made: &Made) -> Result<Agreement, String> {
    assert_eq!((reply.tokens.len(), reply.top.len()), (NEW_TOKENS, NEW_TOKENS));
    let diverged = (0..NEW_TOKENS).find(|i| reply.tokens[*i] != made.tokens[*i]);
    if let Some(at) = diverged {
        let (theirs, ours) = (&reply.top[at], &made.logprobs[at].top);
        let among = |top: &[(u32, f32)], id: u32| top.iter().any(|(known, _)| *known == id);
        if !among(theirs, made.tokens[at]) || !among(ours, reply.tokens[at]) {
            return Err(format!("token {at}: llama.cpp has {theirs:?}, serin {ours:?}"));
        }
    }
    let seen = diverged.map_or(NEW_TOKENS, |at| at + 1);
    let mut differences = Vec::new();
    for (theirs, ours) in reply.top.iter().zip(&made.logprobs).take(seen) {
        for (id, logprob) in theirs {
            let same = ours.top.iter().find(|(known, _)| known == id);
            differences.extend(same.map(|(_, own)| (own - logprob).abs()));
        }
    }
    Ok(Agreement { diverged, differences })
}

/// Most that the mean difference may be: what llama.cpp rounds away, as much again for serin's own rounding,
/// and a little for an f16 cache.
fn bound(rounding: f32) -> f32 {
    2.0 * rounding + 0.005
}

fn mean(differences: &[f32]) -> f32 {
    differences.iter().sum::<f32>() / differences.len() as f32
}

/// How many of a file's replies are equal.
async fn check(path: &Path, name: &str, said: &Said) -> usize {
    let lane = Lane::load(path).await;
    let (mut equal, mut differences) = (0, Vec::new());
    for (i, reply) in said.replies.iter().enumerate() {
        let made = lane.greedy(&reply.prompt).await;
        let agreement = compare(reply, &made).unwrap_or_else(|e| panic!("{name}, prompt {i}: {e}"));
        if let Some(at) = agreement.diverged {
            println!("{name}, prompt {i}: differs from token {at} on");
        }
        equal += usize::from(agreement.diverged.is_none());
        differences.extend(agreement.differences);
    }
    let (mean, rounding, of) = (mean(&differences), said.rounding, said.replies.len());
    println!(
        "{name}: {equal} of {of} equal, differences {mean:.4} where {rounding:.4} is rounding"
    );
    assert!(mean < bound(rounding), "{name}: log-probabilities differ by {mean} in the mean");
    equal
}

#[tokio::test]
async fn greedy_tokens_are_those_of_llama_cpp() {
    let (library, dir) = (Library::read(), tempfile::tempdir().unwrap());
    let (mut equal, mut all) = (0, 0);
    for family in FAMILIES {
        let golden = golden(family);
        assert_eq!(golden.forms.len(), 8);
        for (form, facts) in &golden.forms {
            let bytes = compose(&golden, facts, &library, &[]);
            let digest: String =
                Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(digest, facts.sha256, "{family} {form} is not the file that llama.cpp ran");
            let path = dir.path().join(format!("{family}-{form}.gguf"));
            std::fs::write(&path, bytes).unwrap();
            let same = check(&path, &format!("{family} {form}"), &facts.said).await;
            std::fs::remove_file(&path).unwrap();
            // In every other form llama.cpp rounds the activations, F16 among them.
            let exact = form == "F32";
            assert!(!exact || same == facts.said.replies.len(), "{family} {form}: not equal");
            (equal, all) = (equal + same, all + facts.said.replies.len());
        }
    }
    println!("{equal} of {all} replies are equal throughout");
}

#[tokio::test]
async fn a_trained_file_by_llama_cpp_says_the_same() {
    let text = std::fs::read_to_string(fixture("tiny-v1.json")).unwrap();
    let said: Said = serde_json::from_str(&text).unwrap();
    check(&fixture("tiny-v1-q4_0.gguf"), "tiny-v1 Q4_0", &said).await;
}

/// The same file without one of its facts must not pass for the same.
#[tokio::test]
async fn the_oracle_notices_what_a_file_says() {
    let (library, dir) = (Library::read(), tempfile::tempdir().unwrap());
    let without: [(&str, &[&str]); 8] = [
        ("qwen2", &["scaling.type", "scaling.factor"]),
        ("qwen3", &["rope.freq_base"]),
        ("gemma2", &["attention.sliding_window"]),
        ("gemma2", &["attn_logit_softcapping"]),
        ("gemma2", &["final_logit_softcapping"]),
        ("gemma3", &["attention.sliding_window"]),
        ("gemma3", &["scaling.type", "scaling.factor"]),
        ("phi3-long", &["scaling.attn_factor"]),
    ];
    for (family, keys) in without {
        let golden = golden(family);
        let form = &golden.forms["F32"];
        let path = dir.path().join("without.gguf");
        std::fs::write(&path, compose(&golden, form, &library, keys)).unwrap();
        let lane = Lane::load(&path).await;
        let mut noticed = false;
        for reply in &form.said.replies {
            let agreement = compare(reply, &lane.greedy(&reply.prompt).await);
            noticed |= agreement.map_or(true, |a| mean(&a.differences) > bound(form.said.rounding));
        }
        assert!(noticed, "{family} without {keys:?} looks the same");
    }
}
