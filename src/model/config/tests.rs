//! Published configs, broken ones, and hostile ones.

use super::super::error::LoadError;
use super::*;
use serde_json::{Value, json};

fn read(config: &Value) -> Result<ModelConfig, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    ModelConfig::read(dir.path())
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "vocab_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        "rope_theta": 10000.0, "eos_token_id": [1, 2]
    })
}

fn with(mut config: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn rope(config: &Value) -> Rope {
    read(config).unwrap().ropes.remove(0)
}

#[test]
fn both_spellings_of_rope_are_read() {
    let old = read(&llama()).unwrap();
    let mut new = llama();
    new.as_object_mut().unwrap().remove("rope_theta");
    new["rope_parameters"] = json!({"rope_theta": 10000.0, "rope_type": "default"});
    assert_eq!(old.ropes, read(&new).unwrap().ropes);
    new["rope_parameters"]["rope_theta"] = json!(500.0);
    assert_ne!(old.ropes, read(&new).unwrap().ropes);
    assert_eq!((old.head_dim, old.eos_ids), (16, vec![1, 2]));
}

#[test]
fn llama3_scaling_divides_long_wavelengths_only() {
    let scaled = with(
        llama(),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    );
    let (plain, scaled) = (rope(&llama()).inv_freq, rope(&scaled).inv_freq);
    assert_eq!(plain[0], scaled[0]);
    assert_eq!(plain[7] / 8.0, scaled[7]);
}

#[test]
fn a_null_is_as_good_as_nothing() {
    let nulls = json!({"head_dim": null, "rope_scaling": null, "num_key_value_heads": null,
        "tie_word_embeddings": null, "eos_token_id": null, "sliding_window": null});
    let config = read(&with(llama(), nulls)).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.tied_embeddings), (16, 4, false));
    assert!(config.eos_ids.is_empty());
}

#[test]
fn heads_need_not_divide_the_hidden_size_when_their_size_is_given() {
    let config = with(llama(), json!({"num_attention_heads": 6, "head_dim": 20}));
    let config = read(&config).unwrap();
    assert_eq!((config.heads, config.head_dim), (6, 20));
    assert!((config.scale - 1.0 / 20f32.sqrt()).abs() < 1e-7);
}

/// The published text config of Gemma 3 4B has few keys; the rest are the family's defaults.
#[test]
fn what_a_family_assumes_is_assumed() {
    let config = read(&json!({
        "architectures": ["Gemma3ForCausalLM"], "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024
    }));
    let config = config.unwrap();
    assert_eq!((config.heads, config.kv_heads, config.head_dim), (8, 4, 256));
    assert_eq!((config.vocab, config.tied_embeddings), (262_208, true));
    let windows: Vec<bool> = config.kinds.iter().map(|kind| kind.window.is_some()).collect();
    assert_eq!(windows[..7], [true, true, true, true, true, false, true]);
    let (global, local) =
        (&config.ropes[config.kinds[5].rope], &config.ropes[config.kinds[0].rope]);
    assert_eq!((global.inv_freq[0], local.inv_freq[0]), (0.125, 1.0));
    assert!(global.inv_freq[127] * 8.0 < local.inv_freq[127], "the bases differ");
}

/// As Olmo-3-7B is published: one base for all layers, YaRN on those without a window.
#[test]
fn a_scaling_beside_windows_is_for_the_layers_without() {
    let yarn = json!({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
        "attention_factor": 1.2, "beta_fast": 32, "beta_slow": 1});
    let config = with(
        llama(),
        json!({"architectures": ["Olmo3ForCausalLM"], "num_hidden_layers": 4, "sliding_window": 9,
            "rope_scaling": yarn}),
    );
    let config = read(&config).unwrap();
    let windows: Vec<_> = config.kinds.iter().map(|kind| kind.window.is_some()).collect();
    assert_eq!(windows, [true, true, true, false]);
    let [sliding, full] = [0, 3].map(|layer: usize| &config.ropes[config.kinds[layer].rope]);
    assert_eq!((sliding.factor, full.factor), (1.0, 1.2));
    assert_eq!(sliding, &rope(&llama()));
    assert!(full.inv_freq[7] < sliding.inv_freq[7] / 7.0);
}

/// `x / r + f(x / r)`: the stream is kept divided by the residual factor.
#[test]
fn the_residual_factor_is_in_the_embedding_and_the_epsilon() {
    let config = with(
        llama(),
        json!({"architectures": ["GraniteForCausalLM"], "residual_multiplier": 0.5,
            "embedding_multiplier": 12, "logits_scaling": 8, "attention_multiplier": 0.0078125}),
    );
    let config = read(&config).unwrap();
    assert_eq!((config.embedding_scale, config.logit_scale), (Some(24.0), Some(0.125)));
    assert_eq!((config.norm.eps, config.scale), (4e-5, 0.0078125));
}

#[test]
fn layer_types_decide_over_patterns() {
    let kinds = ["full_attention", "sliding_attention"];
    let config = with(
        llama(),
        json!({"architectures": ["Gemma2ForCausalLM"], "layer_types": kinds, "sliding_window": 7}),
    );
    let config = read(&config).unwrap();
    let windows: Vec<_> = config.kinds.iter().map(|kind| kind.window).collect();
    assert_eq!(windows, [None, Some(7)]);
}

#[test]
fn absurd_promises_are_cut_or_refused_and_never_allocated() {
    let config = read(&with(llama(), json!({"max_position_embeddings": u64::MAX / 2}))).unwrap();
    assert_eq!(config.max_len, 1 << 24);
    for (key, value) in [
        ("num_hidden_layers", json!(1_000_000_000_000u64)),
        ("hidden_size", json!(u64::MAX)),
        ("head_dim", json!(1_000_000)),
        ("num_attention_heads", json!(16_000_000)),
        ("vocab_size", json!(1u64 << 40)),
    ] {
        let error = read(&with(with(llama(), json!({"head_dim": 16})), json!({key: value})));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("no model has") || error.contains("any model has"),
            "{key}: {error}"
        );
    }
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let longrope = |short: Value| {
        json!({"rope_type": "longrope", "short_factor": short,
        "long_factor": [1, 1, 1, 1, 1, 1, 1, 1], "original_max_position_embeddings": 64})
    };
    let cases = [
        ("architectures", json!(["MambaForCausalLM"]), "MambaForCausalLM"),
        ("architectures", json!(["MambaForCausalLM"]), "supported: LlamaForCausalLM, Mistral"),
        ("architectures", json!("LlamaForCausalLM"), "(none)"),
        ("num_key_value_heads", json!(3), "num_key_value_heads 3"),
        ("num_attention_heads", json!(5), "num_attention_heads 5"),
        ("num_hidden_layers", json!(0), "num_hidden_layers"),
        ("hidden_act", json!("relu"), "relu"),
        ("vocab_size", json!("many"), "invalid type"),
        ("vocab_size", json!(null), "no `vocab_size`"),
        ("head_dim", json!(33), "33 is odd"),
        ("rms_norm_eps", json!(-1.0), "epsilon"),
        ("rope_theta", json!(0.0), "rope_theta"),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "`dynamic`"),
        ("rope_scaling", json!({"type": "linear"}), "`factor`"),
        ("rope_scaling", json!([1]), "not an object"),
        ("rope_scaling", longrope(json!([1, 1])), "2 entries for 8 pairs"),
        ("rope_scaling", longrope(json!([0, 1, 1, 1, 1, 1, 1, 1])), "not finite"),
        ("quantization_config", json!({"quant_method": "awq"}), "quantized"),
        ("eos_token_id", json!("end"), "eos_token_id"),
    ];
    let of_families = [
        ("GraniteForCausalLM", json!({"residual_multiplier": 0}), "`residual_multiplier` is 0"),
        ("GraniteForCausalLM", json!({"logits_scaling": -1}), "`logits_scaling` is -1"),
        ("SmolLM3ForCausalLM", json!({"no_rope_layers": [1]}), "1 entries for 2 layers"),
        ("SmolLM3ForCausalLM", json!({"no_rope_layers": "all"}), "not a list"),
        ("Mistral3ForConditionalGeneration", json!({}), "no `text_config`"),
        (
            "Mistral3ForConditionalGeneration",
            json!({"text_config": {"model_type": "mistral4"}}),
            "mistral4",
        ),
        (
            "Ministral3ForCausalLM",
            json!({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}}),
            "original_max_position_embeddings",
        ),
        (
            "Ministral3ForCausalLM",
            json!({"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": -0.1,
                "original_max_position_embeddings": 64}}),
            "llama_4_scaling_beta",
        ),
    ];
    let plain = cases.map(|(key, value, expected)| (json!({key: value}), expected));
    let more = of_families
        .map(|(class, value, expected)| (with(json!({"architectures": [class]}), value), expected));
    for (changes, expected) in plain.into_iter().chain(more) {
        let error = read(&with(llama(), changes.clone())).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("config.json"), "{changes}: {error}");
    }
}
