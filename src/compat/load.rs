//! Loads an opened model: each weight is read once, when candle asks for it, and all instances share it.

use super::opened::Opened;
use super::plan::Plan;
use super::runner::{CompatRunner, Make};
use super::threads::Threads;
use super::weights::{Held, Reader, said};
use crate::engine::Runner;
use crate::model::LoadError;
use crate::progress::Progress;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use parking_lot::Mutex;
use serde_json::Value;

/// Loads it with these slots, into the arena that the calling thread is in. Fails if a weight is missing or does not
/// fit, if threads cannot start, or if the model's first step fails.
pub fn load(opened: &Opened, plan: Plan) -> Result<Box<dyn Runner>, LoadError> {
    let bad = |what: String| LoadError::Config { path: opened.path().to_owned(), what };
    let threads = Threads::start().map_err(|e| bad(format!("its threads cannot start: {e}")))?;
    let mut settings = opened.settings.clone();
    if settings.contains_key("max_position_embeddings") {
        // The rotary table need not be longer than a slot.
        settings.insert("max_position_embeddings".into(), plan.max_len.into());
    }
    let (row, settings) = (opened.row, Value::Object(settings));
    let held = read(opened, &settings, &threads)?;
    let make: Make = Box::new(move || {
        let weights = VarBuilder::from_tensors(held.clone(), DType::F32, &Device::Cpu);
        (row.make)(settings.clone(), weights)
    });
    let runner = CompatRunner::new(make, plan, opened.vocab(), row.chunks, threads);
    let runner = runner.map_err(|why| bad(format!("its first step failed: {why}")))?;
    tracing::info!(
        model = %opened.path().display(),
        architecture = row.name,
        "runs on the compatibility lane: {} slots of {} tokens, {} MiB, no prefix cache",
        plan.slots, plan.max_len, plan.bytes() >> 20
    );
    Ok(Box::new(runner))
}

/// The tensors that the model asks for. The instance that asks is dropped.
fn read(opened: &Opened, settings: &Value, threads: &Threads) -> Result<Held, LoadError> {
    let (held, failed) = (Mutex::new(Held::new()), Mutex::new(None));
    let progress =
        Progress::start(format!("loading {}", opened.path().display()), opened.weight_bytes());
    let made = threads.run(|| {
        let reader = Reader { opened, held: &held, failed: &failed, progress: &progress };
        let weights = VarBuilder::from_backend(Box::new(reader), DType::F32, Device::Cpu);
        (opened.row.make)(settings.clone(), weights).map(drop)
    });
    if let Err(error) = made {
        let other = LoadError::Config { path: opened.path().to_owned(), what: said(&error) };
        return Err(failed.into_inner().unwrap_or(other));
    }
    Ok(held.into_inner())
}
