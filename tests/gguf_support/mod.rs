//! llama.cpp's results for GGUF files (`scripts/make_gguf_oracle.py`, `tests/fixtures/gguf/oracle/`): it
//! assembles the files again, has llama.cpp's replies, and compares another decoder's log-probabilities with
//! them.
//!
//! It does not know the decoder: a score is computed from log-probabilities. The bounds come from llama.cpp's
//! own rounding, never from the results of some machine, so that they hold for every instruction set and
//! device.
#![allow(dead_code, reason = "each test that includes this uses a part")]

pub mod on_cpu;

use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;
use serin::device::Kind;
use serin::model::logprobs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub const FAMILIES: [&str; 13] = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3-long",
    "mistral3",
    "granite",
    "smollm3",
    "glm4",
    "olmo2",
    "olmo3",
];
/// Rows of the library for embeddings and heads, and for all other matrices.
const ROWS: [usize; 2] = [128, 256];
/// The kinds that the library has all these rows of, and those that it has fewer of: the family `kinds` uses those.
const FULL: [Kind; 6] = [Kind::BF16, Kind::Q8_0, Kind::Q4_0, Kind::Q4K, Kind::Q5K, Kind::Q6K];
pub const MORE: [Kind; 15] = [
    Kind::Q4_1,
    Kind::Q5_0,
    Kind::Q5_1,
    Kind::Q2K,
    Kind::Q3K,
    Kind::IQ4NL,
    Kind::IQ4XS,
    Kind::MXFP4,
    Kind::IQ3XXS,
    Kind::IQ3S,
    Kind::IQ2XXS,
    Kind::IQ2XS,
    Kind::IQ2S,
    Kind::IQ1S,
    Kind::IQ1M,
];
const MORE_ROWS: usize = 64;
const WIDTH: usize = 256;

/// A family of random models.
#[derive(Deserialize)]
pub struct Golden {
    /// Key, type, value.
    metadata: Vec<(String, String, Value)>,
    /// Name, shape with rows first, and the contents of a vector: its values, or base and spread of a
    /// formula.
    tensors: Vec<(String, Vec<usize>, Option<Vec<f32>>)>,
    pub forms: BTreeMap<String, Form>,
}

#[derive(Deserialize)]
pub struct Form {
    /// ggml's type number of every matrix, in order.
    kinds: Vec<u32>,
    pub sha256: String,
    #[serde(flatten)]
    pub said: Said,
}

/// The trained model, whose files are stored whole.
#[derive(Deserialize)]
pub struct Trained {
    pub forms: BTreeMap<String, Said>,
}

#[derive(Deserialize)]
pub struct Said {
    /// Every token within this distance of the most likely one is listed.
    near: f32,
    rounding: Rounding,
    /// The same with an 8-bit cache.
    rounding_i8: Rounding,
    pub replies: Vec<Reply>,
}

#[derive(Deserialize)]
pub struct Reply {
    pub prompt: Vec<u32>,
    pub tokens: Vec<u32>,
    /// At every position, ids and log-probabilities, most likely first.
    pub top: Vec<Vec<(u32, f32)>>,
}

/// How far llama.cpp's log-probabilities are from its own for the same weights and a cache in F32. The only
/// difference is how it rounds inputs of matrix products and the cache.
#[derive(Deserialize)]
pub struct Rounding {
    mean: f32,
    /// All differences except one in 200 are at most this.
    #[serde(rename = "p99.5")]
    p99_5: f32,
    /// Largest change of the distance between the most likely and another listed token.
    margin: f32,
}

/// How much two decoders in f32 with different orders of sums may differ: 1e-5 of the largest logit, none of
/// which is above 30 here, and the digits that the goldens are stored with.
const SUMS: f32 = 3e-4;

/// How much more a number loses in E4M3 than in llama.cpp's 8-bit cache (Q8_0), root mean square, if heads are normally
/// distributed: 0.0265 against 0.0053 of their size. To first order, log-probabilities change in proportion.
const FP8_TO_Q8: f32 = 5.0;

impl Rounding {
    /// Let llama.cpp give L and serin S where exact arithmetic gives E. L - E is the measured rounding. S - E
    /// is assumed to be no larger: serin rounds the inputs of quantised products to the same number of bits,
    /// in blocks of the same length, and the cache to f16 as well, but nothing else. Then
    ///
    /// - the mean of |S - L| <= |S - E| + |L - E| is at most the sum of both means;
    /// - |S - L| exceeds the sum of the values that one in 200 of |S - E| and of |L - E| exceed in at most
    ///   one case in 100;
    /// - if serin chooses b over llama.cpp's a, then S(a) - S(b) <= 0, so the regret L(a) - L(b) is at most
    ///   the change that the two roundings make to the distance from a to b: the sum of the largest changes.
    ///
    /// It follows that the tokens are equal wherever llama.cpp's margin exceeds the third bound.
    fn between(serin: &Rounding, llama_cpp: &Rounding) -> Figures {
        Figures {
            mean: serin.mean + llama_cpp.mean + SUMS,
            p99: serin.p99_5 + llama_cpp.p99_5 + SUMS,
            regret: serin.margin + llama_cpp.margin + 2.0 * SUMS,
        }
    }

    fn bounds(&self) -> Figures {
        Rounding::between(self, self)
    }
}

/// How far a decoder is from llama.cpp, or may be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Mean difference of the log-probabilities of listed tokens.
    pub mean: f32,
    /// All differences except one in 100 are at most this.
    pub p99: f32,
    /// The largest regret, by llama.cpp's log-probabilities, of a choice that differs from its own; infinite
    /// if llama.cpp does not list that choice.
    pub regret: f32,
}

impl Figures {
    pub fn within(&self, bounds: &Figures) -> bool {
        self.mean <= bounds.mean && self.p99 <= bounds.p99 && self.regret <= bounds.regret
    }

    /// The worse of two, figure by figure.
    pub fn worse(self, other: Figures) -> Figures {
        Figures {
            mean: self.mean.max(other.mean),
            p99: self.p99.max(other.p99),
            regret: self.regret.max(other.regret),
        }
    }
}

/// Collects figures.
#[derive(Default)]
pub struct Score {
    differences: Vec<f32>,
    regret: f32,
    /// Positions at which the choice differs from llama.cpp's.
    pub others: usize,
}

impl Score {
    /// Adds a position: llama.cpp's list for it, and all logits there.
    pub fn position(&mut self, top: &[(u32, f32)], logits: &[f32]) {
        let normaliser = logprobs::normaliser(logits);
        let of = |id: u32| (f64::from(logits[id as usize]) - normaliser) as f32;
        self.logprobs(top, |id| Some(of(id)));
        self.choice(top, logprobs::top(logits, 1)[0].0);
    }

    /// Adds differences of log-probabilities, if there are any.
    pub fn logprobs(&mut self, top: &[(u32, f32)], of: impl Fn(u32) -> Option<f32>) {
        let far = |d: f32| if d.is_finite() { d } else { f32::INFINITY };
        let ours = top.iter().filter_map(|(id, theirs)| of(*id).map(|own| (own - theirs).abs()));
        self.differences.extend(ours.map(far));
    }

    /// Adds a choice.
    pub fn choice(&mut self, top: &[(u32, f32)], chosen: u32) {
        let listed = top.iter().find(|(id, _)| *id == chosen);
        self.regret = self.regret.max(listed.map_or(f32::INFINITY, |(_, own)| top[0].1 - own));
        self.others += usize::from(chosen != top[0].0);
    }

    /// Adds what was generated after a reply's prompt (each token, and the most likely ones with their
    /// log-probabilities), up to the first token that differs from llama.cpp's, because there is no golden
    /// for what follows. Returns the number of equal tokens.
    pub fn generated<'a>(
        &mut self,
        reply: &Reply,
        made: impl Iterator<Item = (u32, &'a [(u32, f32)])>,
    ) -> usize {
        for (same, (top, (chosen, ours))) in reply.top.iter().zip(made).enumerate() {
            self.logprobs(top, |id| ours.iter().find(|(own, _)| *own == id).map(|(_, l)| *l));
            self.choice(top, chosen);
            if chosen != top[0].0 {
                return same;
            }
        }
        reply.tokens.len()
    }

    pub fn figures(mut self) -> Figures {
        let count = self.differences.len();
        assert!(count >= 100, "too few for a percentile");
        self.differences.sort_by(f32::total_cmp);
        let mean = self.differences.iter().map(|d| f64::from(*d)).sum::<f64>() / count as f64;
        let p99 = self.differences[(count - 1) * 99 / 100];
        Figures { mean: mean as f32, p99, regret: self.regret }
    }
}

impl Said {
    /// The allowed differences of a decoder.
    pub fn bounds(&self) -> Figures {
        self.reaching(self.rounding.bounds())
    }

    /// The allowed differences of a decoder with an 8-bit cache, compared with llama.cpp with an f16 cache.
    pub fn bounds_i8(&self) -> Figures {
        self.reaching(Rounding::between(&self.rounding_i8, &self.rounding))
    }

    /// The allowed differences of a decoder with a cache in FP8 (E4M3), which llama.cpp does not have: its rounding is
    /// taken to be [`FP8_TO_Q8`] times that of the 8-bit cache. That also multiplies what is not the cache's, so that
    /// it is no less. The lists do not reach as far as such a rounding may change a choice: choices are not judged.
    pub fn bounds_fp8(&self) -> Figures {
        let Rounding { mean, p99_5, margin } = self.rounding_i8;
        let fp8 = Rounding {
            mean: FP8_TO_Q8 * mean,
            p99_5: FP8_TO_Q8 * p99_5,
            margin: FP8_TO_Q8 * margin,
        };
        Figures { regret: f32::INFINITY, ..Rounding::between(&fp8, &self.rounding) }
    }

    /// Returns the bounds after checking that the lists reach that far.
    fn reaching(&self, bounds: Figures) -> Figures {
        assert!(bounds.regret <= self.near, "a choice within the bound may not be listed");
        for reply in &self.replies {
            assert_eq!(reply.tokens.len(), reply.top.len());
            assert!(reply.top.iter().zip(&reply.tokens).all(|(top, token)| top[0].0 == *token));
        }
        bounds
    }
}

pub fn fixture(name: &str) -> PathBuf {
    let carried = std::env::var_os("SERIN_ROOT").map(PathBuf::from);
    let root = carried.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned());
    root.join("tests/fixtures/gguf/oracle").join(name)
}

pub fn golden(family: &str) -> Golden {
    let text = std::fs::read_to_string(fixture(&format!("{family}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn trained() -> Trained {
    let text = std::fs::read_to_string(fixture("tiny-v1.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The rows that all matrices are made of, in every weight type.
pub struct Library(BTreeMap<u32, Vec<u8>>);

impl Library {
    pub fn read() -> Library {
        let file = std::fs::read(fixture("blocks.bin")).unwrap();
        let full = FULL.map(|kind| (kind, ROWS[0] + ROWS[1]));
        let more = MORE.map(|kind| (kind, ROWS[0] + MORE_ROWS));
        let mut kinds = BTreeMap::new();
        let mut rest = file.as_slice();
        for (kind, count) in full.into_iter().chain(more) {
            let (rows, after) = rest.split_at(count * row_bytes(kind));
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
        let kind_of_rows = Kind::from_ggml(kind).unwrap();
        let row = row_bytes(kind_of_rows);
        let others = if MORE.contains(&kind_of_rows) { MORE_ROWS } else { ROWS[1] };
        let library = &self.0[&kind];
        let hash = fnv(name) as usize;
        let of = |i: usize| match name {
            "token_embd.weight" | "output.weight" => (hash + 37 * i) % ROWS[0],
            _ => ROWS[0] + (hash + 149 * i + 37 * (i / ROWS[1])) % others,
        };
        (0..rows).flat_map(|i| &library[of(i) * row..][..row]).copied().collect()
    }
}

pub fn row_bytes(kind: Kind) -> usize {
    kind.row_bytes(WIDTH).unwrap()
}

/// FNV-1a, as in the script.
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

/// Changes the stored rows of a matrix, given its name and type.
pub type Change<'a> = dyn Fn(&str, Kind, &mut [u8]) + 'a;

/// A change to a file that the test must notice.
pub enum Damage<'a> {
    None,
    /// Removes metadata whose keys end like this.
    Without(&'a [&'a str]),
    /// Passes every matrix through this function.
    Rows(&'a Change<'a>),
}

impl Form {
    /// The kind of every matrix, in order.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.kinds.iter().map(|number| Kind::from_ggml(*number).unwrap())
    }
}

impl Golden {
    /// Name of the matrix that computes logits.
    pub fn head(&self) -> &str {
        let own = |(name, ..): &&(String, _, _)| name == "output.weight";
        self.tensors.iter().find(own).map_or("token_embd.weight", |(name, ..)| name)
    }

    /// Builds a file byte by byte as the script had it, except for the damage.
    pub fn compose(&self, form: &Form, library: &Library, damage: &Damage<'_>) -> Vec<u8> {
        let absent = |key: &str| match damage {
            Damage::Without(keys) => keys.iter().any(|name| key.ends_with(name)),
            _ => false,
        };
        let kept: Vec<_> = self.metadata.iter().filter(|(key, ..)| !absent(key)).collect();
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((kept.len() as u64).to_le_bytes());
        for (key, kind, value) in kept {
            put_text(&mut out, key);
            put_value(&mut out, kind, value);
        }
        let mut kinds = form.kinds.iter();
        let mut data: Vec<u8> = Vec::new();
        for (name, shape, fill) in &self.tensors {
            let (kind, bytes) = match fill {
                Some(fill) => (0, vector(name, shape[0], fill)),
                None => {
                    let kind = *kinds.next().unwrap();
                    let mut rows = library.matrix(name, shape[0], kind);
                    if let Damage::Rows(change) = damage {
                        change(name, Kind::from_ggml(kind).unwrap(), &mut rows);
                    }
                    (kind, rows)
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
}

fn put_value(out: &mut Vec<u8>, kind: &str, value: &Value) {
    match (kind, value) {
        ("u32", Value::Number(n)) => put(out, 4, &(n.as_u64().unwrap() as u32).to_le_bytes()),
        ("f32", Value::Number(n)) => put(out, 6, &(n.as_f64().unwrap() as f32).to_le_bytes()),
        ("text", Value::String(text)) => {
            put(out, 8, &[]);
            put_text(out, text);
        }
        other => panic!("{other:?}"),
    }
}

fn put(out: &mut Vec<u8>, kind: u32, bytes: &[u8]) {
    out.extend(kind.to_le_bytes());
    out.extend(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
