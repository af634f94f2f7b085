//! A decoder on the CPU compared with llama.cpp: replies forced on it, and those that its engine generates.
//!
//! It does not know where a file or its golden comes from.

use super::*;
use serin::device::{Batch, Isa, Row};
use serin::engine::{EngineHandle, ModelRunner, Runner, SchedulerConfig};
use serin::engine::{SeqEvent, SeqRequest};
use serin::model::logprobs::MOST_TOP;
use serin::model::{Decoder, KvChoice, KvPlan, LoadFormat, Logprobs, SamplingParams, Weights};
use std::time::Instant;
use tokio::sync::mpsc::unbounded_channel;

const BLOCKS: usize = 16;
const BLOCK_SIZE: usize = 16;

pub fn load(path: &Path) -> Decoder {
    let weights = Weights::open(path, LoadFormat::Auto).unwrap();
    let kind = KvChoice::Auto.kind(&weights);
    Decoder::load(&weights, KvPlan { blocks: BLOCKS, block_size: BLOCK_SIZE, kind }).unwrap()
}

/// Logits at the last token of every step; `steps` are the lengths of a sequence's steps.
fn logits(decoder: &mut Decoder, tokens: &[u32], steps: &[usize]) -> Vec<Vec<f32>> {
    // Unordered blocks, so that slot and position differ.
    let table: Vec<u32> = (0..BLOCKS as u32).rev().collect();
    let slot = |p: usize| table[p / BLOCK_SIZE] * BLOCK_SIZE as u32 + (p % BLOCK_SIZE) as u32;
    let (mut from, mut all) = (0, Vec::new());
    for len in steps {
        let to = from + len;
        let row = Row {
            start: 0,
            len: *len,
            context: to,
            total: tokens.len(),
            table: 0,
            table_len: table.len(),
            sample: false,
            scored: *len,
            drawn: None,
        };
        let batch = Batch {
            tokens: tokens[from..to].to_vec(),
            positions: (from..to).map(|p| p as u32).collect(),
            slots: (from..to).map(slot).collect(),
            rows: vec![row],
            tables: table.clone(),
        };
        let states = decoder.forward(&batch);
        let vocab = decoder.config().vocab;
        all.extend(decoder.logits(&states).chunks_exact(vocab).map(<[f32]>::to_vec));
        from = to;
    }
    all
}

/// llama.cpp's replies forced on a decoder: the prompt in one step and then token by token, or everything in
/// one step.
pub fn forced(decoder: &mut Decoder, said: &Said, whole: bool) -> Score {
    let mut score = Score::default();
    for reply in &said.replies {
        let (prompt, more) = (reply.prompt.len(), reply.tokens.len() - 1);
        let tokens = [&reply.prompt[..], &reply.tokens[..more]].concat();
        let steps = if whole { vec![tokens.len()] } else { [vec![prompt], vec![1; more]].concat() };
        let logits = logits(decoder, &tokens, &steps);
        for (top, logits) in reply.top.iter().zip(&logits[prompt - 1..]) {
            score.position(top, logits);
        }
    }
    score
}

/// What an engine generates by itself: tokens, and log-probabilities of the most likely ones.
async fn generated(decoder: Decoder, said: &Said) -> Vec<Vec<(u32, Logprobs)>> {
    let (engine, _faults) = EngineHandle::start().unwrap();
    let make = move || Ok(Box::new(ModelRunner::new(decoder)) as Box<dyn Runner>);
    let lane = engine.load(SchedulerConfig::default(), make).await.unwrap().lane;
    let mut replies = Vec::new();
    for reply in &said.replies {
        let (events, mut inbox) = unbounded_channel();
        let request = SeqRequest {
            tag: 0,
            prompt: reply.prompt.clone(),
            params: SamplingParams { logprobs: Some(MOST_TOP as u8), ..SamplingParams::greedy() },
            max_new_tokens: reply.tokens.len(),
            stop_ids: vec![],
            cache_salt: 0,
            events,
            background: false,
            guide: None,
            arrived: Instant::now(),
        };
        engine.submit(lane, vec![request]).unwrap();
        let mut made = Vec::new();
        while let Some(event) = inbox.recv().await {
            match event {
                SeqEvent::Started { .. } => {}
                SeqEvent::Token { id, logprobs, .. } => made.push((id, *logprobs.unwrap())),
                SeqEvent::Finished { .. } => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(made.len(), reply.tokens.len());
        replies.push(made);
    }
    replies
}

/// Panics if any way of running a file exceeds the bounds.
pub async fn check(path: &Path, name: &str, said: &Said) {
    let (bounds, mut decoder) = (said.bounds(), load(path));
    let whole = forced(&mut decoder, said, true);
    let mut single = forced(&mut decoder, said, false);
    let others = single.others;
    let mut equal = 0;
    for (reply, made) in said.replies.iter().zip(generated(decoder, said).await) {
        let same = single.generated(reply, made.iter().map(|(id, l)| (*id, &l.top[..])));
        equal += usize::from(same == made.len());
    }
    let mut worst = Figures::default();
    for (score, how) in [(whole, "in one step"), (single, "token by token")] {
        let figures = score.figures();
        assert!(figures.within(&bounds), "{name}, {how}: {figures:?} against {bounds:?}");
        worst = worst.worse(figures);
    }
    let positions: usize = said.replies.iter().map(|reply| reply.tokens.len()).sum();
    println!(
        "oracle {} {name}: mean {:.5} of {:.5}, p99 {:.5} of {:.5}, regret {:.5} of {:.5}, others {others} of {positions}, equal {equal} of {}",
        Isa::best().name(),
        worst.mean,
        bounds.mean,
        worst.p99,
        bounds.p99,
        worst.regret,
        bounds.regret,
        said.replies.len()
    );
}
