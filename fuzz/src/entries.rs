//! One function for each way in which untrusted bytes enter. An entry panics if a property does not hold. An
//! error is as good as a success, as long as it says what is wrong.
//!
//! Included by the fuzz targets and by `tests/fuzz_corpus.rs`. Uses only the crate's public interface.

use serde_json::{Map, Value, json};
use serin::model::{LoadFormat, Weights};
use serin::serving::Prompt;
use serin::text::{Chat, Codec, Ending, GgufVocabulary, StopStrings, StreamDecoder};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

const MIB: usize = 1 << 20;
/// Number of tensors fetched from one input.
const FETCHED: usize = 16;
/// A hundredth of a template's limit in production, so that more templates are tried.
const FUEL: u64 = 20_000;

/// The input up to the first zero byte, and the rest.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// A folder in memory, if there is one.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.expect("a temporary folder can be made")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a temporary file can be written");
}

/// Checks that an error names the file.
fn names_the_file(error: &str, dir: &Path) {
    let dir = dir.to_string_lossy();
    assert!(error.contains(&*dir), "the error names no file: {error}");
}

/// Fetches tensors as the decoder would: by name, in the shape from the configuration.
fn fetch(weights: &Weights, dir: &Path) {
    let config = weights.config();
    let (hidden, vocab, wide) = (config.hidden, config.vocab, config.intermediate);
    let (heads, kv_heads) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let wanted: [(&str, &[usize]); 8] = [
        ("model.embed_tokens.weight", &[vocab, hidden]),
        ("model.norm.weight", &[hidden]),
        ("lm_head.weight", &[vocab, hidden]),
        ("model.layers.0.input_layernorm.weight", &[hidden]),
        ("model.layers.0.self_attn.q_proj.weight", &[heads, hidden]),
        ("model.layers.0.self_attn.k_proj.weight", &[kv_heads, hidden]),
        ("model.layers.0.self_attn.q_norm.weight", &[config.head_dim]),
        ("model.layers.0.mlp.up_proj.weight", &[wide, hidden]),
    ];
    for (name, shape) in wanted {
        match weights.values(name, shape) {
            Ok(values) => {
                assert!(
                    weights.has(name) && values.len() == shape.iter().product::<usize>(),
                    "{name}"
                );
                assert!(values.iter().all(|x| x.is_finite()), "{name}");
            }
            Err(error) => {
                let error = error.to_string();
                names_the_file(&error, dir);
                assert!(error.contains(name) || !weights.has(name), "no tensor named: {error}");
            }
        }
    }
}

/// `config.json`, a zero byte, `model.safetensors`.
pub fn safetensors(data: &[u8]) -> usize {
    let (config, weights) = halves(data);
    let dir = scratch();
    write(&dir.path().join("config.json"), config);
    write(&dir.path().join("model.safetensors"), weights);
    match Weights::open(dir.path(), LoadFormat::Auto) {
        Ok(opened) => fetch(&opened, dir.path()),
        Err(error) => names_the_file(&error.to_string(), dir.path()),
    }
    2 * MIB
}

/// A GGUF file: header, configuration, tokenizer, template, tensors.
pub fn gguf(data: &[u8]) -> usize {
    let dir = scratch();
    let path = dir.path().join("model.gguf");
    write(&path, data);
    match Weights::open(&path, LoadFormat::Auto) {
        Ok(weights) => {
            fetch(&weights, dir.path());
            let stored = weights.gguf().expect("it is a GGUF file");
            let listed: Vec<_> = stored.tensors().take(FETCHED).collect();
            for (name, kind, shape) in listed {
                if let Ok(tensor) = stored.stored(name) {
                    assert!(tensor.kind == kind && tensor.shape == shape, "{name}");
                    let row = kind.row_bytes(shape[shape.len() - 1]).expect("whole blocks");
                    let rows: usize = shape[..shape.len() - 1].iter().product();
                    assert_eq!(tensor.bytes.len(), row * rows, "{name}");
                }
            }
        }
        Err(error) => names_the_file(&error.to_string(), dir.path()),
    }
    // The splitters of byte-level tokenizers are patterns from a table, and take long to compile.
    let splits = data.windows(4).any(|window| window == b"gpt2");
    if splits && !data.len().is_multiple_of(16) {
        return 2 * MIB;
    }
    match serin::control::look(&path, LoadFormat::Auto) {
        Ok((weights, codec)) => round_trip(&codec, weights.vocab()),
        Err(error) => names_the_file(&error.to_string(), dir.path()),
    }
    // For the compiled patterns, or a template's trial run.
    if splits { 192 * MIB } else { 8 * MIB }
}

/// Checks that every id from a tokenizer has a row in the embedding.
fn round_trip(codec: &Codec, vocab: usize) {
    let Ok(ids) = codec.encode("Hello, wörld 世界 12345\n", true) else { return };
    assert!(ids.iter().all(|id| (*id as usize) < vocab), "{ids:?} of {vocab}");
    let _ = codec.decode(&ids, true);
}

/// A chat template, a zero byte, and a request body with messages, tools and so on.
pub fn template(data: &[u8]) -> usize {
    let (template, body) = halves(data);
    let Ok(template) = std::str::from_utf8(template) else { return MIB };
    let body: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let default = vec![json!({"role": "user", "content": "Hello"})];
    let messages = body.get("messages").and_then(Value::as_array).unwrap_or(&default);
    let is = |name: &str| body.get(name).map(|value| *value == true);
    let ending = match (is("continue_final_message"), is("add_generation_prompt")) {
        (Some(true), _) => Ending::Continue,
        (_, Some(false)) => Ending::Closed,
        _ => Ending::Reply,
    };
    let chat = Chat {
        messages,
        tools: body.get("tools"),
        ending,
        extra: body.get("chat_template_kwargs").and_then(Value::as_object),
        today: Some(SystemTime::UNIX_EPOCH),
    };
    match serin::text::render_once(template, &chat, FUEL) {
        Ok(text) => assert!(text.len() <= 32 * MIB),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // One unit of fuel covers 64 bytes. Other memory is many times that, but bounded.
    64 * MIB
}

/// A request body; the first byte selects the endpoint.
pub fn request_json(data: &[u8]) -> usize {
    let Some((first, body)) = data.split_first() else { return MIB };
    match serin::http::understand(first % 2 == 0, body, Instant::now()) {
        Ok(requests) => {
            assert!(!requests.is_empty());
            for request in requests {
                assert!((1..=8).contains(&request.n) && request.stop.len() <= 4);
                assert!(request.max_tokens != Some(0));
                let empty = match &request.prompt {
                    Prompt::Chat { messages, .. } => messages.is_empty(),
                    Prompt::Text(_) => false,
                    Prompt::Tokens(ids) => ids.is_empty(),
                };
                assert!(!empty, "an empty prompt got through");
            }
        }
        Err((status, body)) => {
            assert!((400..500).contains(&status), "{status}");
            assert!(!body.error.message.is_empty() && !body.error.kind.is_empty());
        }
    }
    MIB
}

static BYTE_LEVEL: LazyLock<Arc<Codec>> = LazyLock::new(|| {
    let vocabulary = GgufVocabulary::stand_in(Path::new("stand-in"), 512);
    Arc::new(Codec::from_gguf(&vocabulary, 512).expect("the stand-in is whole"))
});

/// A small SentencePiece vocabulary: bytes, some words, some prefixes.
static SENTENCE_PIECE: LazyLock<Arc<Codec>> = LazyLock::new(|| {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(
        ["▁", "h", "e", "l", "o", "he", "lo", "▁he", "é", "世", "▁▁", "👍"].map(String::from),
    );
    let mut types = vec![2u8, 3, 3];
    types.resize(259, 6);
    types.resize(tokens.len(), 1);
    let vocabulary = GgufVocabulary {
        model: "llama".into(),
        scores: (0..tokens.len()).map(|id| -(id as f32)).collect(),
        special: vec![("bos", 1), ("eos", 2), ("unk", 0)],
        types,
        tokens,
        ..GgufVocabulary::default()
    };
    Arc::new(Codec::from_gguf(&vocabulary, 1 << 16).expect("the vocabulary is whole"))
});

/// The first byte selects the tokenizer. Then follows either text to encode (second byte even) or ids, two
/// bytes each.
pub fn detokenizer(data: &[u8]) -> usize {
    let [which, how, rest @ ..] = data else { return MIB };
    let codec = if which % 2 == 0 { &*BYTE_LEVEL } else { &*SENTENCE_PIECE };
    let ids = match how % 2 {
        0 => codec.encode(&String::from_utf8_lossy(rest), which & 2 != 0).expect("text encodes"),
        _ => rest
            .chunks_exact(2)
            .map(|id| u32::from(u16::from_le_bytes([id[0], id[1]]) % 520))
            .collect(),
    };
    let mut stream = StreamDecoder::new(Arc::clone(codec));
    let mut stops = StopStrings::new(vec!["lo".into(), "世界".into(), "\n\n".into()]);
    let (mut whole, mut before_stop) = (String::new(), String::new());
    for id in &ids {
        let piece = stream.push(*id).expect("a token decodes");
        before_stop += &stops.push(&piece).text;
        whole += &piece;
    }
    let piece = stream.finish();
    before_stop += &stops.push(&piece).text;
    before_stop += &stops.finish();
    whole += &piece;
    let at_once = codec.decode(&ids, true).expect("ids decode");
    // Ids that spell no valid text may be replaced in different places; nothing else may differ.
    if !at_once.contains('\u{FFFD}') {
        assert_eq!(whole, at_once, "of {ids:?}");
    }
    assert_eq!(stops.hit().is_some(), before_stop != whole);
    let stop = ["lo", "世界", "\n\n"]
        .into_iter()
        .filter_map(|s| whole.find(s).map(|at| (at + s.len(), at)));
    let end = stop.min().map_or(whole.len(), |(_, at)| at);
    assert_eq!(before_stop, whole[..end], "of {ids:?}");
    // The tokenizers are built at the first call, and cache words.
    24 * MIB
}
