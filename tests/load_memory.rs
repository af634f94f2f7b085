//! The peak memory of a load: its result, and little more. Mapped pages are counted separately; they belong
//! to the system's cache and are released as they are read.
//!
//! It is a separate program, since it measures the whole process.
#![cfg(target_os = "linux")]

use candle_core::Tensor;
use serde_json::json;
use serin::model::{Decoder, KvPlan, LoadFormat, Weights};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const HIDDEN: usize = 512;
const WIDE: usize = 1536;
const LAYERS: usize = 8;
const VOCAB: usize = 4096;

/// Tensors by Hugging Face's and by llama.cpp's names.
fn tensors() -> Vec<(String, String, Vec<usize>)> {
    let mut list = vec![
        ("model.embed_tokens".to_owned(), "token_embd".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm".to_owned(), "output_norm".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (hf, gguf, shape) in [
            ("input_layernorm", "attn_norm", vec![HIDDEN]),
            ("self_attn.q_proj", "attn_q", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", "attn_k", vec![HIDDEN, HIDDEN]),
            ("self_attn.v_proj", "attn_v", vec![HIDDEN, HIDDEN]),
            ("self_attn.o_proj", "attn_output", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", "ffn_norm", vec![HIDDEN]),
            ("mlp.gate_proj", "ffn_gate", vec![WIDE, HIDDEN]),
            ("mlp.up_proj", "ffn_up", vec![WIDE, HIDDEN]),
            ("mlp.down_proj", "ffn_down", vec![HIDDEN, WIDE]),
        ] {
            list.push((format!("model.layers.{layer}.{hf}"), format!("blk.{layer}.{gguf}"), shape));
        }
    }
    list
}

fn write_folder(dir: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": HIDDEN, "intermediate_size": WIDE,
        "vocab_size": VOCAB, "num_hidden_layers": LAYERS, "num_attention_heads": 8,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        "tie_word_embeddings": true, "rope_theta": 10000.0,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let half = |shape: &Vec<usize>| {
        let ones =
            Tensor::ones(shape.as_slice(), candle_core::DType::BF16, &candle_core::Device::Cpu);
        ones.unwrap()
    };
    let all: HashMap<String, Tensor> = tensors()
        .into_iter()
        .map(|(hf, _, shape)| (format!("{hf}.weight"), half(&shape)))
        .collect();
    candle_core::safetensors::save(&all, dir.join("model.safetensors")).unwrap();
}

fn write_gguf(path: &Path) {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let list = tensors();
    let sizes = [
        ("block_count", LAYERS),
        ("context_length", 256),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", WIDE),
        ("attention.head_count", 8),
    ];
    let mut head = b"GGUF\x03\0\0\0".to_vec();
    head.extend((list.len() as u64).to_le_bytes());
    head.extend((sizes.len() as u64 + 2).to_le_bytes());
    text(&mut head, "general.architecture");
    head.extend(8u32.to_le_bytes());
    text(&mut head, "llama");
    text(&mut head, "llama.attention.layer_norm_rms_epsilon");
    head.extend(6u32.to_le_bytes());
    head.extend(1e-5f32.to_le_bytes());
    for (key, value) in sizes {
        text(&mut head, &format!("llama.{key}"));
        head.extend(4u32.to_le_bytes());
        head.extend((value as u32).to_le_bytes());
    }
    let mut offset = 0u64;
    for (_, gguf, shape) in &list {
        text(&mut head, &format!("{gguf}.weight"));
        head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| head.extend((*n as u64).to_le_bytes()));
        head.extend(1u32.to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += (shape.iter().product::<usize>() as u64 * 2).next_multiple_of(32);
    }
    head.resize(head.len().next_multiple_of(32), 0);
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&head).unwrap();
    file.write_all(&vec![0; offset as usize]).unwrap();
}

/// A line of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Growth of private and of mapped memory at the peak of `load`; `load` returns the size of its result.
fn peak(load: impl FnOnce() -> u64) -> (u64, u64, u64) {
    let (anon, mapped) = (status("RssAnon"), status("RssFile"));
    let most = Arc::new((AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false)));
    let watcher = std::thread::spawn({
        let most = most.clone();
        move || {
            while !most.2.load(Ordering::SeqCst) {
                most.0.fetch_max(status("RssAnon"), Ordering::SeqCst);
                most.1.fetch_max(status("RssFile"), Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        }
    });
    let kept = load();
    most.2.store(true, Ordering::SeqCst);
    watcher.join().unwrap();
    let grown = |most: &AtomicU64, before: u64| most.load(Ordering::SeqCst).saturating_sub(before);
    (kept, grown(&most.0, anon), grown(&most.1, mapped))
}

#[test]
fn a_load_needs_little_more_than_it_makes() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path());
    let file = dir.path().join("model.gguf");
    write_gguf(&file);
    for path in [dir.path(), &file] {
        let weights = Weights::open(path, LoadFormat::Auto).unwrap();
        weights.digest().unwrap();
        let mut keep = None;
        let (kept, private, mapped) = peak(|| {
            keep = Some(Decoder::load(&weights, KvPlan::exact(1, 16)).unwrap());
            weights.weight_bytes()
        });
        drop(keep);
        let stored = kept;
        println!(
            "{}: kept {} KiB, private {} KiB ({:.3} x), mapped {} KiB of {} KiB",
            path.display(),
            kept >> 10,
            private >> 10,
            private as f64 / kept as f64,
            mapped >> 10,
            stored >> 10
        );
        assert!(private as f64 <= kept as f64 * 1.15, "private memory: {private} for {kept}");
        assert!(mapped <= stored / 4, "pages are let go of: {mapped} of {stored}");
    }
}
