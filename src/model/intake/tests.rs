//! Tests: folders that are incomplete, damaged, or ambiguous.

use super::*;
use crate::model::{LoadFormat, Weights};
use serde_json::{Value, json};

/// One tensor: name, data type, shape, bytes.
type Made<'a> = (&'a str, &'a str, Vec<u64>, Vec<u8>);

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn tensors() -> Vec<Made<'static>> {
    vec![
        ("model.embed_tokens.weight", "F32", vec![8, 4], floats(32)),
        ("model.norm.weight", "F32", vec![4], floats(4)),
    ]
}

/// The header as JSON, for tests to change, and the data.
fn parts(tensors: &[Made<'_>]) -> (Value, Vec<u8>) {
    let (mut head, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let at = [data.len(), data.len() + bytes.len()];
        head.insert((*name).into(), json!({"dtype": dtype, "shape": shape, "data_offsets": at}));
        data.extend(bytes);
    }
    (head.into(), data)
}

fn file(head: &Value, data: &[u8]) -> Vec<u8> {
    let head = head.to_string();
    [&(head.len() as u64).to_le_bytes(), head.as_bytes(), data].concat()
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 6,
        "vocab_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    })
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// The error for a folder whose only weight file is `bytes`.
fn refused(bytes: &[u8]) -> String {
    let dir = folder(&[("model.safetensors", bytes)]);
    let error = Checkpoint::open(dir.path()).err().expect("it is refused").to_string();
    let path = dir.path().join("model.safetensors");
    assert!(error.contains(&path.display().to_string()), "the file is not named: {error}");
    error
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (head, data) = parts(&tensors());
    let whole = file(&head, &data);
    for end in 0..whole.len() {
        let error = refused(&whole[..end]);
        assert!(error.contains("damaged"), "{end}: {error}");
    }
    // If the file is cut inside the last tensor, the error names that tensor.
    let error = refused(&whole[..whole.len() - 1]);
    assert!(error.contains("`model.norm.weight`") && error.contains("beyond the file"), "{error}");
    let more = refused(&[whole.as_slice(), b"tail"].concat());
    assert!(more.contains("4 bytes at its end"), "{more}");
}

#[test]
fn a_head_that_lies_is_refused_by_tensor() {
    let (head, data) = parts(&tensors());
    let lie = |change: &dyn Fn(&mut Value)| {
        let mut head = head.clone();
        change(&mut head["model.norm.weight"]);
        let error = refused(&file(&head, &data));
        assert!(error.contains("`model.norm.weight`"), "the tensor is not named: {error}");
        error
    };
    let vast = 1u64 << 40;
    assert!(lie(&|t| t["data_offsets"] = json!([128, vast])).contains("reaches beyond"));
    assert!(lie(&|t| t["data_offsets"] = json!([144, 128])).contains("reaches beyond"));
    assert!(lie(&|t| t["data_offsets"] = json!([120, 136])).contains("overlaps"));
    assert!(lie(&|t| t["data_offsets"] = json!([0])).contains("data_offsets"));
    assert!(lie(&|t| t["shape"] = json!([4, vast])).contains("shape"));
    assert!(lie(&|t| t["shape"] = json!([u64::MAX, u64::MAX])).contains("shape"));
    assert!(lie(&|t| t["shape"] = json!([-4])).contains("shape"));
    assert!(lie(&|t| t["shape"] = json!([2])).contains("16 bytes"));
    assert!(lie(&|t| t["dtype"] = json!("Q4_K")).contains("unknown data type Q4_K"));
    let mut gap = head.clone();
    gap["model.norm.weight"]["data_offsets"] = json!([132, 148]);
    let error = refused(&file(&gap, &[data.as_slice(), &[0; 4]].concat()));
    assert!(error.contains("gap before tensor `model.norm.weight`"), "{error}");
}

#[test]
fn a_head_of_any_claimed_length_costs_nothing() {
    for claimed in [9u64, 1 << 20, 99_999_999, 61_000_000_000, 1 << 62, u64::MAX] {
        let error = refused(&[&claimed.to_le_bytes()[..], b"{}"].concat());
        assert!(error.contains(&format!("claims {claimed} bytes")), "{error}");
    }
    for head in ["", "[]", "{\"a\":", "{\"a\":1}", "\u{1}", &"[".repeat(100_000)] {
        let bytes = [&(head.len() as u64).to_le_bytes(), head.as_bytes()].concat();
        assert!(refused(&bytes).contains("damaged"), "{head}");
    }
}

#[test]
fn what_the_configuration_asks_for_and_is_not_there_is_named() {
    let mut tensors = tensors();
    tensors.push(("quantised", "I8", vec![4], vec![1; 4]));
    tensors.push(("eighth", "F8_E4M3", vec![4], vec![1; 4]));
    let nan = f32::NAN.to_le_bytes().to_vec();
    tensors.push(("broken", "F32", vec![1], nan));
    let (head, data) = parts(&tensors);
    let dir = folder(&[("model.safetensors", &file(&head, &data))]);
    let weights = Weights::open(dir.path(), LoadFormat::Auto).unwrap();
    let error = |name: &str, shape: &[usize]| {
        let error = weights.values(name, shape).unwrap_err().to_string();
        let named = error.contains(&dir.path().display().to_string());
        assert!(named && error.contains(&format!("`{name}`")), "{error}");
        error
    };
    assert!(error("model.layers.0.mlp.up_proj.weight", &[6, 4]).contains("incomplete"));
    assert!(error("model.embed_tokens.weight", &[9, 4]).contains("[8, 4]"));
    assert!(error("quantised", &[4]).contains("I8"));
    assert!(error("eighth", &[4]).contains("F8_E4M3"));
    assert!(error("broken", &[1]).contains("NaN"));
    assert!(weights.values("model.norm.weight", &[4]).is_ok());
}

#[test]
fn an_index_that_leads_nowhere_is_refused() {
    let said = |index: &str| {
        let dir = folder(&[("model.safetensors.index.json", index.as_bytes())]);
        let error = Checkpoint::open(dir.path()).err().expect("it is refused").to_string();
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        error
    };
    assert!(said("{").contains("not valid JSON"));
    assert!(said("{}").contains("no weight_map"));
    let map = |file: &str| json!({"weight_map": {"a": file}}).to_string();
    assert!(said(&map("../../etc/passwd")).contains("outside the folder"));
    assert!(said(&map("model-1.safetensors")).contains("model-1.safetensors"));
}

#[test]
fn a_damaged_shard_is_named() {
    let (head, data) = parts(&tensors());
    let whole = file(&head, &data);
    let index = json!({"weight_map": {"model.norm.weight": "b.safetensors", "x": "a.safetensors"}});
    let dir = folder(&[
        ("model.safetensors.index.json", index.to_string().as_bytes()),
        ("a.safetensors", &file(&json!({}), &[])),
        ("b.safetensors", &whole[..whole.len() - 8]),
    ]);
    let error = Checkpoint::open(dir.path()).err().expect("it is refused").to_string();
    assert!(error.contains("b.safetensors") && error.contains("`model.norm.weight`"), "{error}");
}
