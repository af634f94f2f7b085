//! The kernels that the decoder launches for a layer, in order: those in `kernels/launches.json`.
//!
//! That file is made from the kernels' side (`kernels/src/cuda/paper/tests.rs`), in the decoder's order as written
//! there; here the decoder itself runs on the same card of paper. `scripts/card_budget` counts the launches of a token
//! from the file, and `scripts/card_model` prices them.

use serde_json::Value;
use serin::device::{Batch, ModelPool, Row};
use serin::model::{CardDecoder, CardPlan, LoadFormat, Weights};
use serin_kernels::cuda::paper::DryRunCard;
use serin_kernels::cuda::sample::RowParams;
use serin_kernels::cuda::{Card, KvKind};
use std::path::Path;
use std::sync::Arc;

/// Tokens that the cache has room for, in blocks of 16: as in the file's steps.
const LONGEST: usize = 8192;
const LAYERS: usize = 8;
/// Layers whose values and `down` llama.cpp's mixtures keep finer, of eight.
const FINE: [usize; 4] = [0, 3, 6, 7];
/// Launches before the first layer: inputs, and the embedding with the angles; and a norm, which the embedding of few
/// rows does.
const BEFORE: usize = 2;

/// A narrow model with the heads of the file's models, on which the number of shares of attention depends.
fn weights(format: &str) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": LAYERS, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 512, "rms_norm_eps": 1e-5,
        "max_position_embeddings": LONGEST, "rope_theta": 1e4, "tie_word_embeddings": false,
        "hidden_act": "silu", "eos_token_id": 2,
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    Weights::open(dir.path(), LoadFormat::parse(&format!("dummy:{format}")).unwrap()).unwrap()
}

/// A decoding step of `n` rows, each with one token in the cache before.
fn batch(n: usize) -> Batch {
    let row = |start| Row {
        start,
        len: 1,
        context: 2,
        total: 2,
        table: start,
        table_len: 1,
        sample: true,
        scored: 0,
        drawn: None,
    };
    Batch {
        tokens: vec![3; n],
        positions: vec![1; n],
        slots: (0..n).map(|i| (16 * i + 1) as u32).collect(),
        rows: (0..n).map(row).collect(),
        tables: (0..n as u32).collect(),
    }
}

/// Names of what one decoding step launches, on a card as large as an RTX 4090.
fn launched(format: &str, n: usize) -> Vec<&'static str> {
    let weights = weights(format);
    let paper = Arc::new(DryRunCard::new((8, 9), 128, 99 << 10));
    let card: Arc<dyn Card> = paper.clone();
    let plan = CardPlan::new(weights.config(), (64, 32), (LONGEST / 16, 16), KvKind::F16, 128);
    let pool = ModelPool::open(card).unwrap();
    let mut decoder = CardDecoder::load(&weights, plan, pool).unwrap();
    paper.take_noted();
    decoder.decode(&batch(n), &vec![RowParams::default(); n], &[], false).unwrap();
    paper.take_noted().iter().map(|noted| noted.name()).collect()
}

#[test]
fn a_layers_launches_are_those_that_are_budgeted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/launches.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (format, steps) in file["layers"].as_object().unwrap() {
        for n in [1, 8, 32] {
            let kept = |layer: usize| {
                let kind = if FINE.contains(&layer) { "fine" } else { "plain" };
                steps[format!("{n} {kind}")].as_array().expect("the file has the step").iter()
            };
            let mut wanted: Vec<&str> =
                (0..LAYERS).flat_map(kept).map(|name| name.as_str().unwrap()).collect();
            // With many rows of 16 bits a layer ends with the next one's norm; after the last layer that is the head's.
            // Otherwise that norm is part of the product before.
            let ends_with_norm = wanted.pop_if(|name| name.starts_with("norm_")).is_some();
            assert_eq!(ends_with_norm, n > 8 && format == "bf16", "{format}, {n} rows");
            let (all, before) = (launched(format, n), BEFORE + usize::from(ends_with_norm));
            assert_eq!(all[before..before + wanted.len()], wanted, "{format}, {n} rows");
            let (first, last) = (all[0], all[all.len() - 1]);
            assert_eq!((first, last), ("step_inputs", "sample_row"), "{format}, {n} rows");
        }
    }
}
