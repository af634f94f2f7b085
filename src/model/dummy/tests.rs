//! Tests: the layout compared with real checkpoints, and the contents of random blocks.

use super::*;
use crate::device::dequantise;
use crate::model::Gguf;
use crate::model::gguf::tests::FAMILIES;

#[test]
fn every_familys_tensors_are_listed_as_its_checkpoints_have_them() {
    for family in FAMILIES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
        let gguf = Gguf::open(&folder.join(format!("{family}.gguf"))).unwrap();
        let mut real: Vec<(String, Vec<usize>)> =
            gguf.tensors().map(|(name, _, shape)| (name.to_owned(), shape.to_vec())).collect();
        let text = std::fs::read_to_string(folder.join(format!("{family}.json"))).unwrap();
        let config = ModelConfig::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
        let listed = layout::tensors(&config);
        let mut listed: Vec<_> = listed.into_iter().map(|(name, shape, _)| (name, shape)).collect();
        real.sort();
        listed.sort();
        assert_eq!(listed, real, "{family}");
    }
}

fn llama(hidden: usize) -> tempfile::TempDir {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "intermediate_size": 2 * hidden,
        "vocab_size": 300, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "rope_theta": 10000.0,
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn values(dummy: &Dummy, name: &str) -> Vec<f32> {
    let stored = dummy.stored(name).unwrap();
    let mut out = vec![0.0; stored.shape.iter().product()];
    dequantise(stored.kind, &stored.bytes, &mut out);
    out
}

#[test]
fn every_kind_has_the_spread_of_an_untrained_model() {
    let dir = llama(256);
    for (name, scheme) in Scheme::NAMES {
        let dummy = Dummy::open(dir.path(), scheme, 1).unwrap();
        let shape = [512, 256];
        let x = values(&dummy, "model.layers.3.mlp.up_proj.weight");
        assert_eq!(x.len(), shape.iter().product::<usize>());
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3, "{name}: mean {mean}");
        assert!((deviation - 0.02).abs() < 1e-3, "{name}: deviation {deviation}");
        assert_eq!(values(&dummy, "model.norm.weight"), [1.0; 256]);
    }
}

#[test]
fn a_seed_gives_the_same_weights_and_another_gives_others() {
    let dir = llama(256);
    let made = |seed, name: &str| {
        Dummy::open(dir.path(), Scheme::Mix(Kind::Q4K), seed).unwrap().stored(name).unwrap().bytes
    };
    let (q, k) =
        ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight");
    assert_eq!(made(1, q), made(1, q));
    assert_ne!(made(1, q), made(2, q));
    assert_ne!(made(1, q), made(1, k));
    let digest = Dummy::open(dir.path(), Scheme::Mix(Kind::Q4K), 1).unwrap().digest();
    assert!(digest.starts_with("dummy-q4_k_m-1-"), "{digest}");
}

#[test]
fn mixtures_are_llama_cpps() {
    let dir = llama(256);
    let dummy = Dummy::open(dir.path(), Scheme::Mix(Kind::Q4K), 1).unwrap();
    let kind = |name: &str| dummy.plan(name).unwrap().0;
    assert_eq!(kind("lm_head.weight"), Kind::Q6K);
    assert_eq!(kind("model.embed_tokens.weight"), Kind::Q4K);
    let fine: Vec<usize> = (0..8)
        .filter(|i| kind(&format!("model.layers.{i}.mlp.down_proj.weight")) == Kind::Q6K)
        .collect();
    assert_eq!(fine, [0, 3, 6, 7]);
    assert_eq!(kind("model.layers.0.self_attn.q_proj.weight"), Kind::Q4K);
    // Rows that are not whole blocks fall back to another type.
    let dir = llama(96);
    let dummy = Dummy::open(dir.path(), Scheme::Mix(Kind::Q4K), 1).unwrap();
    assert_eq!(dummy.plan("lm_head.weight").unwrap().0, Kind::Q8_0);
    assert!(dummy.stored("nothing").is_err());
}

#[test]
fn unknown_forms_are_refused_with_the_list() {
    assert_eq!(Scheme::parse("Q4_K_M").unwrap(), Scheme::Mix(Kind::Q4K));
    assert!(Scheme::parse("q3_k_x").unwrap_err().contains("q4_k_m"));
}
