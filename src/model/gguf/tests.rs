//! Tests: files from llama.cpp's own converter compared with their originals, blocks compared with the gguf
//! package, and hostile files.

use super::header::{Fault, Header};
use super::testing::{Entry, Made, entry_text, entry_u32, file, floats, llama};
use super::*;
use crate::model::{LoadFormat, Weights};
use proptest::prelude::*;
use serde_json::Value as Json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

fn crc32(bytes: &[u8]) -> i64 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    i64::from(!crc)
}

/// The weights of scripts/make_gguf_fixtures.py.
fn formula(name: &str, count: usize) -> Vec<f32> {
    let start = crc32(name.as_bytes());
    let number = |i| ((start + 7919 * i as i64).rem_euclid(2048) - 1024) as f32 / 1024.0;
    (0..count).map(number).collect()
}

pub(in crate::model) const FAMILIES: [&str; 13] = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi3",
    "ministral3",
    "qwen3vl",
    "granite",
    "smollm3",
    "glm4",
    "olmo2",
    "olmo3",
];

#[test]
fn every_tensor_of_every_family_is_the_originals() {
    for family in FAMILIES {
        let gguf = Gguf::open(&fixture(&format!("{family}.gguf"))).unwrap();
        let mut seen = 0;
        for (name, kind, shape) in gguf.tensors() {
            let expected = formula(name, shape.iter().product());
            let stored = gguf.stored(name).unwrap();
            let mut again = vec![0.0; expected.len()];
            dequantise(stored.kind, &stored.bytes, &mut again);
            assert_eq!(again, expected, "{family} {name}");
            assert_eq!(kind == Kind::F32, shape.len() == 1, "{family} {name}: {kind}");
            seen += 1;
        }
        let layers = gguf.config()["num_hidden_layers"].as_u64().unwrap() as usize;
        let per_layer = match family {
            "qwen2" => 12,
            "qwen3" | "qwen3vl" | "gemma2" | "olmo2" | "olmo3" => 11,
            "gemma3" | "glm4" => 13,
            "phi3" => 6,
            _ => 9,
        };
        let tied = gguf.config()["tie_word_embeddings"] == true;
        assert_eq!(seen, layers * per_layer + 2 + usize::from(!tied), "{family}");
    }
}

/// Keys whose values from a GGUF file must equal the original's, if the original has them.
const SAME: [&str; 24] = [
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "vocab_size",
    "tie_word_embeddings",
    "attention_bias",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "hidden_activation",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "layer_types",
];

#[test]
fn configurations_are_the_originals() {
    for family in FAMILIES {
        let gguf = Gguf::open(&fixture(&format!("{family}.gguf"))).unwrap();
        let text = std::fs::read_to_string(fixture(&format!("{family}.json"))).unwrap();
        let (got, original) = (gguf.config(), serde_json::from_str::<Json>(&text).unwrap());
        for key in SAME.iter().filter(|key| !original[**key].is_null()) {
            // A list of full attention only says nothing.
            let plain = *key == "layer_types" && !original[*key].to_string().contains("sliding");
            assert!(plain || got[*key] == original[*key], "{family} {key}: {}", got[*key]);
        }
        let uses_window =
            original["sliding_window"].is_u64() && original["use_sliding_window"] != false;
        if uses_window {
            assert_eq!(got["sliding_window"], original["sliding_window"], "{family}");
        }
        let rope = &original["rope_parameters"];
        let (rope, local) = match rope.get("full_attention") {
            Some(full) => (full, Some(&rope["sliding_attention"])),
            None => (rope, None),
        };
        assert_eq!(got["rope_theta"].as_f64(), rope["rope_theta"].as_f64(), "{family}");
        if let Some(local) = local.filter(|_| family == "gemma3") {
            assert_eq!(got["rope_local_base_freq"].as_f64(), local["rope_theta"].as_f64());
        }
        let keys = [
            "rope_type",
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "long_factor",
            "short_factor",
            "beta_fast",
            "beta_slow",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "llama_4_scaling_beta",
        ];
        if rope["rope_type"] == "default" {
            assert!(got["rope_scaling"].is_null(), "{family}");
            continue;
        }
        for key in keys.iter().filter(|key| !rope[**key].is_null()) {
            let same = match (got["rope_scaling"][*key].as_f64(), rope[*key].as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-6,
                _ => got["rope_scaling"][*key] == rope[*key],
            };
            // Phi-3 also lists its length ratio, which follows from two other entries.
            let derived = family == "phi3" && *key == "factor";
            assert!(same || derived, "{family} rope {key}: {} {}", got["rope_scaling"], rope);
        }
    }
}

#[test]
fn blocks_are_what_the_gguf_package_makes_of_them() {
    let bytes = std::fs::read(fixture("kinds.gguf")).unwrap();
    let header = Header::parse(&bytes).unwrap();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::F32) {
        let info = &header.tensors[&kind.to_string()];
        let wide = &header.tensors[&format!("{kind}.f32")];
        assert_eq!(info.kind, kind);
        let count: usize = wide.shape.iter().product();
        let (mut got, mut expected) = (vec![0.0; count], vec![0.0; count]);
        dequantise(kind, &bytes[info.at.clone()], &mut got);
        dequantise(Kind::F32, &bytes[wide.at.clone()], &mut expected);
        assert!(expected.iter().filter(|x| **x != 0.0).count() > count / 2, "{kind}");
        for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{kind} {i}: {a} {b}");
        }
    }
}

fn open(bytes: &[u8]) -> Result<Gguf, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    Gguf::open(&path)
}

fn small() -> (Vec<Entry>, Vec<Made>) {
    let values: Vec<f32> = (0..12).map(|x| x as f32).collect();
    (
        llama(),
        vec![
            floats("token_embd.weight", &[4, 3], &values),
            floats("output_norm.weight", &[4], &values[..4]),
        ],
    )
}

fn refused(bytes: &[u8]) -> String {
    let error = open(bytes).err().expect("it is refused").to_string();
    assert!(error.contains("model.gguf"), "{error}");
    error
}

#[test]
fn both_versions_are_read() {
    let (entries, tensors) = small();
    for version in [2, 3] {
        let gguf = open(&file(version, &entries, &tensors).1).unwrap();
        assert_eq!(gguf.config()["vocab_size"], 3);
        assert_eq!(gguf.config()["head_dim"], 2);
        let tokens = gguf.metadata().texts("tokenizer.ggml.tokens").unwrap().unwrap();
        assert_eq!(tokens, ["a", "b", "é"]);
        assert!(gguf.metadata().count("general.architecture").is_err());
    }
}

#[test]
fn other_containers_and_kinds_are_refused_by_name() {
    let (entries, tensors) = small();
    let whole = file(3, &entries, &tensors).1;
    for (at, bytes, expected) in [
        (0, b"tjgg".as_slice(), "legacy GGJT"),
        (0, b"lmgg", "legacy GGML"),
        (0, b"\x7fELF", "does not begin with `GGUF`"),
        (4, &[1, 0, 0, 0], "GGUF version 1"),
        (4, &[0, 0, 0, 3], "big-endian"),
    ] {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        let error = refused(&changed);
        assert!(error.contains(expected), "{error}");
    }
    let mut tensors = tensors;
    tensors[0].2 = 9;
    let error = refused(&file(3, &entries, &tensors).1);
    assert!(
        error.contains("token_embd.weight") && error.contains("Q8_1") && error.contains("Q4_K"),
        "{error}"
    );
    let (mut entries, tensors) = small();
    entries[0] = entry_text("general.architecture", "mamba");
    let error = refused(&file(3, &entries, &tensors).1);
    assert!(
        error.contains("mamba") && error.contains("supported: llama, mistral3, qwen2"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_language_models_are_refused_by_what_they_are() {
    for (kind, expected) in [
        ("adapter", "adapter (LoRA)"),
        ("mmproj", "reads images"),
        ("imatrix", "importance matrix"),
        ("vocab", "vocabulary without weights"),
    ] {
        let (mut entries, tensors) = small();
        entries.push(entry_text("general.type", kind));
        let error = refused(&file(3, &entries, &tensors).1);
        assert!(error.contains(expected), "{error}");
    }
    let (mut entries, tensors) = small();
    entries[0] = entry_text("general.architecture", "clip");
    assert!(refused(&file(3, &entries, &tensors).1).contains("reads images"));
}

#[test]
fn what_would_change_the_numbers_in_silence_is_refused() {
    let (entries, mut tensors) = small();
    tensors.push(floats("blk.0.attn_sinks.weight", &[4], &[0.0; 4]));
    assert!(refused(&file(3, &entries, &tensors).1).contains("attn_sinks"));
    let (mut entries, tensors) = small();
    entries.push(entry_u32("llama.expert_count", 8));
    assert!(refused(&file(3, &entries, &tensors).1).contains("mixture of experts"));
    let (mut entries, tensors) = small();
    entries.push(entry_u32("split.count", 3));
    assert!(refused(&file(3, &entries, &tensors).1).contains("-00001-of-00003.gguf"));
    let (mut entries, tensors) = small();
    entries.push(entry_text("llama.rope.scaling.type", "spiral"));
    assert!(refused(&file(3, &entries, &tensors).1).contains("spiral"));
}

/// The small model in two files, of which the second says `second` of itself, and the first that there are `total`
/// tensors.
fn split(dir: &Path, second: [u32; 2], total: u32) -> Result<Gguf, LoadError> {
    let (mut entries, tensors) = small();
    let own = |[number, count]: [u32; 2]| {
        vec![entry_u32("split.no", number), entry_u32("split.count", count)]
    };
    entries.extend(own([0, 2]));
    entries.push(entry_u32("split.tensors.count", total));
    let first = dir.join("m-00001-of-00002.gguf");
    std::fs::write(&first, file(3, &entries, &tensors[..1]).1).unwrap();
    let more = file(3, &own(second), &tensors[1..]).1;
    std::fs::write(dir.join("m-00002-of-00002.gguf"), more).unwrap();
    Gguf::open(&first)
}

#[test]
fn the_parts_of_a_split_model_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let whole = open(&file(3, &small().0, &small().1).1).unwrap();
    let parts = split(dir.path(), [1, 2], 2).unwrap();
    assert_eq!(parts.config(), whole.config());
    assert_eq!(parts.paths().len(), 2);
    assert_eq!(parts.tensors().count(), whole.tensors().count());
    for (name, ..) in whole.tensors() {
        assert_eq!(parts.stored(name).unwrap().bytes, whole.stored(name).unwrap().bytes, "{name}");
        parts.release(name);
        assert_eq!(parts.stored(name).unwrap().bytes, whole.stored(name).unwrap().bytes, "{name}");
    }
}

#[test]
fn parts_that_are_not_of_one_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused =
        |second, total| split(dir.path(), second, total).err().expect("it is refused").to_string();
    assert!(refused([0, 2], 2).contains("part 1 of 2, where part 2 of 2"));
    assert!(refused([1, 3], 2).contains("part 2 of 3, where part 2 of 2"));
    assert!(refused([1, 2], 3).contains("2 tensors, not the 3"));
    let second = dir.path().join("m-00002-of-00002.gguf");
    split(dir.path(), [1, 2], 2).unwrap();
    let error = Gguf::open(&second).err().unwrap().to_string();
    assert!(error.contains("name the first one, m-00001-of-00002.gguf"), "{error}");
    let first = dir.path().join("m-00001-of-00002.gguf");
    std::fs::remove_file(&second).unwrap();
    let error = Gguf::open(&first).err().unwrap().to_string();
    assert!(error.contains("m-00002-of-00002.gguf") && error.contains("cannot read"), "{error}");
    let other = dir.path().join("renamed.gguf");
    std::fs::rename(&first, &other).unwrap();
    let error = Gguf::open(&other).err().unwrap().to_string();
    assert!(error.contains("should end in `-00001-of-00002.gguf`"), "{error}");
}

#[test]
fn lies_about_sizes_are_refused_without_allocating() {
    // 24 bytes that claim 2^60 tensors, or entries.
    for (tensors, entries) in
        [(1u64 << 60, 0u64), (0, 1 << 60), (u64::MAX, u64::MAX), (1, 0), (0, 1)]
    {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(entries.to_le_bytes());
        assert!(matches!(Header::parse(&bytes), Err(Fault::Damaged(_))));
    }
    let (entries, tensors) = small();
    let said = |entries: &[Entry], tensors: &[Made]| refused(&file(3, entries, tensors).1);
    let mut vast = tensors.clone();
    vast[0].1 = vec![4, 1 << 40];
    assert!(said(&entries, &vast).contains("reaches beyond"));
    vast[0].1 = vec![4, 1 << 62, 4];
    assert!(said(&entries, &vast).contains("impossible shape"));
    vast[0].1 = vec![0];
    assert!(said(&entries, &vast).contains("impossible shape"));
    let mut uneven = tensors.clone();
    (uneven[0].1, uneven[0].2) = (vec![100], Kind::Q4K.ggml());
    assert!(said(&entries, &uneven).contains("no whole Q4_K blocks"));
    let mut twice = tensors.clone();
    twice[1].0 = twice[0].0.clone();
    assert!(said(&entries, &twice).contains("occurs twice"));
    let mut array = 8u32.to_le_bytes().to_vec();
    array.extend((1u64 << 59).to_le_bytes());
    let long = [("a".to_owned(), 9, array)];
    assert!(said(&long, &[]).contains("more than the file holds"));
    let odd = [entry_u32("general.alignment", 24)];
    assert!(said(&odd, &[]).contains("general.alignment"));
}

#[test]
fn a_file_cut_anywhere_is_refused_and_never_panics() {
    let (entries, tensors) = small();
    let (_, whole) = file(3, &entries, &tensors);
    for end in 0..whole.len() {
        assert!(Header::parse(&whole[..end]).is_err(), "{end}");
    }
    Header::parse(&whole).unwrap();
}

#[test]
fn overlapping_tensors_are_refused() {
    let (entries, tensors) = small();
    let (head, mut whole) = file(3, &entries, &tensors);
    // The second tensor's offset is at the end of the header.
    whole[head - 8..head].copy_from_slice(&32u64.to_le_bytes());
    assert!(refused(&whole).contains("overlap"));
    whole[head - 8..head].copy_from_slice(&7u64.to_le_bytes());
    assert!(refused(&whole).contains("not aligned"));
}

#[test]
fn non_finite_weights_missing_tensors_and_other_shapes_are_named() {
    let (entries, mut tensors) = small();
    tensors[1] = floats("output_norm.weight", &[4], &[1.0, f32::NAN, 0.0, 0.0]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, file(3, &entries, &tensors).1).unwrap();
    let weights = Weights::open(&path, LoadFormat::Auto).unwrap();
    let error = |name: &str, len| weights.values(name, &[len]).unwrap_err().to_string();
    assert!(error("model.norm.weight", 4).contains("NaN"));
    assert!(error("model.norm.weight", 5).contains("[4]"));
    assert!(error("lm_head.weight", 5).contains("lm_head.weight"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// Any changed bytes in the header: either an error, or a header whose tensors are inside the file.
    #[test]
    fn changed_heads_never_lead_outside(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..2)) {
        let (entries, tensors) = small();
        let (head, mut bytes) = file(3, &entries, &tensors);
        for (at, byte) in changes {
            bytes[4 + at.index(head - 4)] = byte;
        }
        for (at, word) in words {
            let at = 4 + at.index(head - 12);
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        if let Ok(header) = Header::parse(&bytes) {
            for info in header.tensors.values() {
                prop_assert!(info.at.end <= bytes.len());
                let row = info.kind.row_bytes(*info.shape.last().unwrap()).unwrap();
                let rows: usize = info.shape[..info.shape.len() - 1].iter().product();
                prop_assert_eq!(info.at.len(), row * rows);
            }
            let meta = Metadata { header: &header, file: &bytes };
            for key in header.entries.keys() {
                let _ = (meta.text(key), meta.texts(key), meta.numbers(key), meta.count(key), meta.float(key));
            }
        }
    }
}
