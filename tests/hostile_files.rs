//! Hostile model files: each must be refused, or read, by a process that may use 100 bytes of memory per byte
//! of the file and no more. It is a separate process, so that the operating system enforces the limit for
//! every allocation.
#![cfg(target_os = "linux")]

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What the program needs for itself, including a tokenizer's compiled patterns.
const OWN: u64 = 48 << 20;
const FACTOR: u64 = 100;
/// Approximate length of the files for which this matters.
const LONG: usize = 1 << 20;

/// The output of `check` for the model at `path` within its memory limit, and whether it succeeded.
fn check(path: &Path, len: u64) -> (bool, String) {
    let config = path.with_extension("toml");
    std::fs::write(&config, format!("[model]\nstable = {:?}\n", path.display().to_string()))
        .unwrap();
    let most = OWN + FACTOR * len;
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin"));
    command.args(["check", "--config", config.to_str().unwrap()]);
    let limit = move || {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: a system call that allocates nothing, between fork and exec.
        match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: as explained there.
    let output = unsafe { command.pre_exec(limit) }.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let code = output.status.code();
    assert!(code == Some(0) || code == Some(1), "{}: {:?} {error}", path.display(), output.status);
    assert!(!error.contains("panicked"), "{error}");
    (code == Some(0), error)
}

/// Like [`check`], for a GGUF file that must be refused with an error that names it.
fn refused(name: &str, bytes: &[u8]) -> String {
    let (pleased, error) = read(name, bytes);
    assert!(!pleased, "{name} was taken for a model");
    assert!(error.contains(&format!("{name}.gguf")), "the file is not named: {error}");
    error
}

fn read(name: &str, bytes: &[u8]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{name}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    check(&path, bytes.len() as u64)
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

enum Value<'a> {
    Text(&'a str),
    Count(u32),
    Float(f32),
    Texts(Vec<String>),
    Kinds(Vec<i32>),
    Scores(Vec<f32>),
}

fn entry(key: &str, value: &Value<'_>) -> Vec<u8> {
    let list = |kind: u32, len: usize, items: Vec<u8>| {
        [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(len as u64).to_le_bytes(), &items].concat()
    };
    let value = match value {
        Value::Text(value) => [&8u32.to_le_bytes()[..], &text(value)].concat(),
        Value::Count(value) => [4u32.to_le_bytes(), value.to_le_bytes()].concat(),
        Value::Float(value) => [6u32.to_le_bytes(), value.to_le_bytes()].concat(),
        Value::Texts(all) => list(8, all.len(), all.iter().flat_map(|t| text(t)).collect()),
        Value::Kinds(all) => list(5, all.len(), all.iter().flat_map(|n| n.to_le_bytes()).collect()),
        Value::Scores(all) => {
            list(6, all.len(), all.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
    };
    [text(key), value].concat()
}

/// A GGUF file with f32 tensors, filled with ones.
fn gguf(entries: &[(&str, Value<'_>)], tensors: &[(String, Vec<u64>)]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|(key, value)| file.extend(entry(key, value)));
    let mut offset = 0u64;
    for (name, dims) in tensors {
        file.extend(text(name));
        file.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| file.extend(d.to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset += (dims.iter().product::<u64>() * 4).next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend((0..offset / 4).flat_map(|_| 1f32.to_le_bytes()));
    file
}

/// Metadata that every model has.
fn model(arch: &'static str, layers: u32) -> Vec<(&'static str, Value<'static>)> {
    let key = |end: &str| -> &'static str { format!("{arch}.{end}").leak() };
    vec![
        ("general.architecture", Value::Text(arch)),
        (key("block_count"), Value::Count(layers)),
        (key("context_length"), Value::Count(64)),
        (key("embedding_length"), Value::Count(4)),
        (key("feed_forward_length"), Value::Count(8)),
        (key("attention.head_count"), Value::Count(2)),
        (key("attention.layer_norm_rms_epsilon"), Value::Float(1e-5)),
    ]
}

fn embedding(rows: usize) -> (String, Vec<u64>) {
    ("token_embd.weight".into(), vec![4, rows as u64])
}

/// Words of three letters from an alphabet that needs no escaping, all different.
fn words(count: usize) -> Vec<String> {
    let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
    let word = |n: usize| [n / 17576, n / 676, n / 26, n].iter().map(|n| letter(*n)).collect();
    (0..count).map(word).collect()
}

#[test]
fn twenty_four_bytes_that_ask_for_gigabytes() {
    for claimed in [61_000_000_000u64 / 32, 1 << 40, u64::MAX] {
        let counts = [(claimed, 0), (0, claimed), (claimed, claimed)];
        for (tensors, entries) in counts {
            let file =
                [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &entries.to_le_bytes()].concat();
            assert!(refused("liar", &file).contains("impossible for a file of its size"));
        }
    }
}

#[test]
fn counts_in_metadata_size_nothing() {
    for arch in ["llama", "gemma2", "gemma3"] {
        let error = refused("deep", &gguf(&model(arch, u32::MAX), &[embedding(8)]));
        assert!(error.contains("block_count") && error.contains("4294967295"), "{error}");
    }
    let mut wide = model("llama", 1);
    wide[3].1 = Value::Count(u32::MAX);
    assert!(refused("wide", &gguf(&wide, &[embedding(8)])).contains("hidden_size"));
    // One head that takes up everything, in a family with two sets of frequencies per head.
    let mut one = model("gemma3", 1);
    (one[3].1, one[5].1) = (Value::Count(1 << 24), Value::Count(1));
    assert!(refused("head", &gguf(&one, &[embedding(8)])).contains("1 heads of size 16777216"));
}

#[test]
fn rope_factors_without_end() {
    let many = ("rope_freqs.weight".to_owned(), vec![LONG as u64 / 4]);
    let error = refused("spun", &gguf(&model("llama", 1), &[embedding(8), many]));
    assert!(error.contains("rope_freqs.weight") && error.contains("factors"), "{error}");
}

#[test]
fn a_vocabulary_of_short_words() {
    for kind in [1, 3, 4] {
        let tokens = words(LONG / 16);
        let mut entries = model("llama", 1);
        entries.push(("tokenizer.ggml.model", Value::Text("gpt2")));
        entries.push(("tokenizer.ggml.pre", Value::Text("gpt-2")));
        entries.push(("tokenizer.ggml.token_type", Value::Kinds(vec![kind; tokens.len()])));
        let rows = tokens.len();
        entries.push(("tokenizer.ggml.tokens", Value::Texts(tokens)));
        let (pleased, error) = read("words", &gguf(&entries, &[embedding(rows)]));
        assert!(pleased, "words of kind {kind}: {error}");
        // The same without rows for them.
        assert!(refused("rowless", &gguf(&entries, &[embedding(8)])).contains("only 8 rows"));
    }
}

#[test]
fn a_vocabulary_that_falls_into_pairs_everywhere() {
    let mut tokens: Vec<String> = Vec::new();
    for letter in 'a'..='z' {
        tokens.extend((1..=200).map(|len| String::from(letter).repeat(len)));
    }
    let mut entries = model("llama", 1);
    entries.push(("tokenizer.ggml.model", Value::Text("llama")));
    entries.push(("tokenizer.ggml.scores", Value::Scores(vec![0.0; tokens.len()])));
    entries.push(("tokenizer.ggml.tokens", Value::Texts(tokens)));
    assert!(refused("pairs", &gguf(&entries, &[embedding(6000)])).contains("pairs"));
}

#[test]
fn heads_full_of_small_things() {
    let keys: Vec<String> = (0..60_000).map(|n| format!("k{n}")).collect();
    let mut entries = model("llama", 1);
    entries.extend(keys.iter().map(|key| (key.as_str(), Value::Count(1))));
    let error = refused("entries", &gguf(&entries, &[embedding(8)]));
    assert!(error.contains("vocabulary"), "{error}");
    let list: Vec<(String, Vec<u64>)> =
        (0..20_000).map(|n| (format!("blk.{n}.attn_norm.weight"), vec![1])).collect();
    assert!(refused("tensors", &gguf(&model("llama", 1), &list)).contains("vocab_size"));
}

/// A model folder with this header in its safetensors file, and this configuration.
fn folder(config: &str, weights: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), config).unwrap();
    std::fs::write(model.join("model.safetensors"), weights).unwrap();
    let (pleased, error) = check(&model, (config.len() + weights.len()) as u64);
    assert!(!pleased && error.contains(&*model.to_string_lossy()), "{error}");
    error
}

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 6,
    "vocab_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-5}"#;

#[test]
fn safetensors_that_claim_or_list_too_much() {
    let head = |head: &str| [&(head.len() as u64).to_le_bytes(), head.as_bytes()].concat();
    let claim = 61_000_000_000u64.to_le_bytes();
    assert!(folder(CONFIG, &claim).contains("claims 61000000000 bytes"));
    let empty = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let list: Vec<String> = (0..LONG / 64).map(|n| format!("\"{n}\":{empty}")).collect();
    // Valid, but without a tokenizer.
    assert!(folder(CONFIG, &head(&format!("{{{}}}", list.join(",")))).contains("tokenizer"));
    let vast = r#"{"a":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,0]}}"#;
    assert!(folder(CONFIG, &head(vast)).contains("tensor `a`"));
    let nested = format!("{{\"a\":{}", "[".repeat(LONG));
    assert!(folder(CONFIG, &head(&nested)).contains("damaged"));
    let deep = CONFIG.replace("\"num_hidden_layers\": 1", "\"num_hidden_layers\": 4000000000");
    assert!(folder(&deep, &head("{}")).contains("num_hidden_layers"));
}
