//! Every row's rules: what is filled in, what is refused, and that the key is named.

use super::super::table::TABLE;
use super::*;
use serde_json::json;
use std::path::PathBuf;

/// The configs of the tests' checkpoints.
fn configs() -> Vec<(PathBuf, Value)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/compat");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let read = |folder: PathBuf| {
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        (folder, serde_json::from_str(&text).unwrap())
    };
    folders.map(read).collect()
}

fn row(config: &Value) -> &'static super::super::table::Architecture {
    let name = config["architectures"][0].as_str().unwrap();
    TABLE.iter().find(|row| row.name == name).unwrap()
}

#[test]
fn there_is_a_checkpoint_of_every_architecture_and_each_is_read() {
    let configs = configs();
    for known in &TABLE {
        assert!(configs.iter().any(|(_, config)| row(config).name == known.name), "{}", known.name);
    }
    for (folder, config) in &configs {
        let settings = row(config).rules.apply(config).unwrap();
        named(&settings, row(config).readable)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    }
}

#[test]
fn what_candle_would_compute_wrongly_is_refused_by_name() {
    for (_, config) in configs() {
        let rules = &row(&config).rules;
        for (key, _) in rules.only {
            let mut other = config.clone();
            other[*key] = match *key {
                "rope_scaling" => json!({"rope_type": "linear", "factor": 2.0}),
                _ => json!("something else"),
            };
            let error = rules.apply(&other).unwrap_err();
            assert!(error.contains(key), "{key}: {error}");
            let listed = json!([other[*key].clone()]);
            other[*key] = listed;
            assert!(rules.apply(&other).is_err(), "{key} in a list");
        }
    }
}

#[test]
fn a_missing_or_wrong_key_is_named() {
    for (folder, config) in configs() {
        let row = row(&config);
        let settle = |config: &Value| {
            row.rules.apply(config).and_then(|settings| named(&settings, row.readable))
        };
        let at = folder.display();
        for key in ["vocab_size", "num_hidden_layers"] {
            let mut other = config.clone();
            other.as_object_mut().unwrap().remove(key);
            let renamed = row.rules.renamed.iter().find(|(from, _)| *from == key);
            let expected = renamed.map_or(key, |(_, to)| to);
            // candle calls some by their older names.
            let error = settle(&other).unwrap_err();
            let older = error.contains("n_layer") || error.contains("d_model");
            assert!(error.contains(expected) || older, "{at} {key}: {error}");
            for wrong in [json!("many"), json!(-1), json!(1u64 << 40), json!(2.5)] {
                other[key] = wrong.clone();
                let error = settle(&other).unwrap_err();
                assert!(error.contains(expected), "{at} {key} {wrong}: {error}");
            }
        }
        let mut quantised = config.clone();
        quantised["quantization_config"] = json!({"bits": 4});
        assert!(settle(&quantised).unwrap_err().contains("quantized"), "{at}");
    }
}

#[test]
fn newer_spellings_of_the_rotary_embedding_are_read() {
    for (_, config) in configs() {
        let rules = &row(&config).rules;
        let before = rules.apply(&config).unwrap();
        let mut newer = config.clone();
        let all = newer.as_object_mut().unwrap();
        let Some(theta) = all.remove("rope_theta") else { continue };
        let scaling = all.remove("rope_scaling").filter(|scaling| !scaling.is_null());
        let mut parameters = scaling.unwrap_or_else(|| json!({"rope_type": "default"}));
        parameters["rope_theta"] = theta;
        if let Some(share) = all.remove("partial_rotary_factor") {
            parameters["partial_rotary_factor"] = share;
        }
        all.insert("rope_parameters".into(), parameters);
        let after = rules.apply(&newer).unwrap();
        for key in ["rope_theta", "partial_rotary_factor"] {
            assert_eq!(after.get(key), before.get(key), "{key}");
        }
        let scaled = |all: &Settings| all.get("rope_scaling").filter(|s| !s.is_null()).cloned();
        assert_eq!(scaled(&after).is_some(), scaled(&before).is_some());
    }
}

#[test]
fn a_window_ends_sequences_before_it_matters() {
    for (window, longest) in [(json!(null), 128), (json!(40), 40), (json!(1000), 128)] {
        for (_, mut config) in configs() {
            let rules = &row(&config).rules;
            if !rules.window {
                continue;
            }
            config["sliding_window"] = window.clone();
            // Before the value that candle gets.
            let read = rules.longest(config.as_object().unwrap()).unwrap();
            assert_eq!(read, Some(longest));
        }
    }
}
