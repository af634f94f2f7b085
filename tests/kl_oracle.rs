//! KL divergence and shared top tokens of quantised files, as the engine's scores have them, against llama.cpp's
//! (`llama-perplexity --kl-divergence`, by `scripts/make_kl_oracle.py`) on the same text.

use serde::Deserialize;
use serin::engine::{EngineHandle, ModelRunner, Runner, SchedulerConfig, SeqEvent, SeqRequest};
use serin::model::{Decoder, KvChoice, KvPlan, LoadFormat, SamplingParams, Score, Weights};
use serin::rollout::Arm;
use serin::serving::reading::agreement;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::unbounded_channel;

#[derive(Deserialize)]
struct Oracle {
    texts: Vec<Text>,
    pairs: HashMap<String, Figures>,
}

#[derive(Deserialize)]
struct Text {
    tokens: Vec<u32>,
    scored: [usize; 2],
}

#[derive(Deserialize)]
struct Figures {
    mean_kl: f64,
    same_top: f64,
}

fn place(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The scores of every text, with all distributions.
async fn scores(model: &str, texts: &[Text]) -> Vec<Vec<Score>> {
    let path = place(model);
    let (engine, _faults) = EngineHandle::start().unwrap();
    let make = move || {
        let weights = Weights::open(&path, LoadFormat::Auto)?;
        let kind = KvChoice::Auto.kind(&weights);
        let decoder = Decoder::load(&weights, KvPlan { blocks: 16, block_size: 16, kind })?;
        Ok(Box::new(ModelRunner::new(decoder)) as Box<dyn Runner>)
    };
    let lane = engine.load(SchedulerConfig::default(), make).await.unwrap().lane;
    let mut all = Vec::new();
    for Text { tokens, scored: [first, end] } in texts {
        assert_eq!(*end, tokens.len() - 1);
        let (events, mut inbox) = unbounded_channel();
        let count = end - first;
        let params =
            SamplingParams { score_last: count, distributions: count, ..SamplingParams::greedy() };
        let request = SeqRequest {
            tag: 0,
            prompt: tokens.clone(),
            params,
            max_new_tokens: 1,
            stop_ids: vec![],
            cache_salt: 0,
            events,
            background: true,
            guide: None,
            arrived: Instant::now(),
        };
        engine.submit(lane, vec![request]).unwrap();
        let scores = match inbox.recv().await.unwrap() {
            SeqEvent::Scored { scores, .. } => scores,
            other => panic!("unexpected {other:?}"),
        };
        assert_eq!(scores.len(), count);
        all.push(scores);
    }
    // Whoever holds scores does not hold the model's memory.
    let unloaded = engine.unload(lane, Duration::ZERO).await.unwrap();
    assert_eq!(unloaded.used_after, 0, "{model}: {unloaded:?}");
    all
}

#[tokio::test]
async fn divergences_are_those_of_llama_perplexity() {
    let oracle = std::fs::read(place("tests/fixtures/gguf/oracle/kl.json")).unwrap();
    let oracle: Oracle = serde_json::from_slice(&oracle).unwrap();
    let base = scores("models/tiny-v1", &oracle.texts).await;
    for (form, file) in [("Q8_0", "q8_0"), ("Q6_K", "q6_k"), ("Q4_K_M", "q4_k_m")] {
        let quantised =
            scores(&format!("tests/fixtures/gguf/oracle/tiny-v1-{file}.gguf"), &oracle.texts).await;
        let (mut kl, mut differing, mut places) = (0.0, 0.0, 0.0);
        for (base, quantised) in base.iter().zip(&quantised) {
            let both = agreement(base, quantised, Arm::Stable).unwrap();
            let count = base.len() as f64;
            kl += f64::from(both.kl) * count;
            differing += f64::from(both.differing) * count;
            places += count;
        }
        let Figures { mean_kl, same_top } = oracle.pairs[form];
        let (kl, same) = (kl / places, 1.0 - differing / places);
        println!("{form}: KL {kl:.6} of {mean_kl:.6}, same top {same:.4} of {same_top:.4}");
        assert!((same / same_top - 1.0).abs() < 0.05, "{form}: same top {same} of {same_top}");
        let off = (kl / mean_kl - 1.0).abs();
        assert!(off < 0.05, "{form}: KL {kl} of {mean_kl}");
    }
}
