//! candle's models behind one trait: how each is created, stepped and cleared.
//!
//! Each of them keeps the cache of one sequence. It does not know about the rules for configs (`table`) or about slots
//! (`runner`).

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    deepseek2, gemma, granitemoehybrid as granite, helium, mamba, mamba2, mixtral, olmo, phi,
    qwen2_moe, qwen3_moe, stable_lm, starcoder2,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One model with the cache of one sequence.
pub trait Instance: Send {
    /// The logits after the last of these tokens, of shape `[1, tokens]`, which follow `offset` others.
    fn forward(&mut self, tokens: &Tensor, offset: usize) -> Result<Tensor>;

    /// Forgets the sequence. False if it cannot: a new instance is needed.
    fn clear(&mut self) -> bool;
}

/// How a model is made: settings as candle reads them, and where its weights are asked for.
pub type MakeModel = fn(Value, VarBuilder<'_>) -> Result<Box<dyn Instance>>;

/// candle's settings, or what is wrong with a config.
fn settings<C: DeserializeOwned>(config: Value) -> Result<C> {
    serde_json::from_value(config).map_err(|error| Error::Msg(error.to_string()))
}

pub(super) fn readable<C: DeserializeOwned>(config: Value) -> std::result::Result<(), String> {
    serde_json::from_value::<C>(config).map(|_| ()).map_err(|error| error.to_string())
}

/// Models that keep their own cache: how each is made, told its tokens and the position of the first, and whether its
/// cache can be cleared.
macro_rules! cached {
    ($($name:ident: $model:ty, $new:expr, $forward:expr, $clear:expr;)*) => {$(
        impl Instance for $model {
            fn forward(&mut self, tokens: &Tensor, offset: usize) -> Result<Tensor> {
                let forward: fn(&mut $model, &Tensor, usize) -> Result<Tensor> = $forward;
                forward(self, tokens, offset)
            }

            fn clear(&mut self) -> bool {
                let clear: Option<fn(&mut $model)> = $clear;
                clear.map(|clear| clear(self)).is_some()
            }
        }

        pub(super) fn $name(config: Value, weights: VarBuilder<'_>) -> Result<Box<dyn Instance>> {
            let new: fn(Value, VarBuilder<'_>) -> Result<$model> = $new;
            Ok(Box::new(new(config, weights)?))
        }
    )*};
}

/// The same for most of them, whose functions are named alike.
macro_rules! alike {
    ($($name:ident: $model:ty, $clear:expr;)*) => {
        cached! {$(
            $name: $model, |config, weights| <$model>::new(&settings(config)?, weights),
                <$model>::forward, $clear;
        )*}
    };
}

alike! {
    qwen3_moe: qwen3_moe::ModelForCausalLM, Some(|model| model.clear_kv_cache());
    deepseek2: deepseek2::DeepSeekV2, Some(|model| model.clear_kv_cache());
    starcoder2: starcoder2::Model, Some(|model| model.clear_kv_cache());
    qwen2_moe: qwen2_moe::Model, Some(|model| model.clear_kv_cache());
    helium: helium::Model, Some(|model| model.clear_kv_cache());
    olmo: olmo::Model, Some(|model| model.clear_kv_cache());
    mixtral: mixtral::Model, None;
    stable_lm: stable_lm::Model, None;
}

cached! {
    gemma: gemma::Model, |config, weights| gemma::Model::new(false, &settings(config)?, weights),
        gemma::Model::forward, Some(|model| model.clear_kv_cache());
    // It takes the position from its cache.
    phi: phi::Model, |config, weights| phi::Model::new(&settings(config)?, weights),
        |model, tokens, _| model.forward(tokens), Some(|model| model.clear_kv_cache());
}

/// A model whose cache is beside it.
struct Granite {
    model: granite::GraniteMoeHybrid,
    cache: granite::GraniteMoeHybridCache,
    /// A copy of this shares the rotary table.
    empty: granite::GraniteMoeHybridCache,
}

impl Instance for Granite {
    fn forward(&mut self, tokens: &Tensor, offset: usize) -> Result<Tensor> {
        self.model.forward(tokens, offset, &mut self.cache)
    }

    fn clear(&mut self) -> bool {
        self.cache = self.empty.clone();
        true
    }
}

pub(super) fn granite(config: Value, weights: VarBuilder<'_>) -> Result<Box<dyn Instance>> {
    let config = settings::<granite::GraniteMoeHybridConfig>(config)?.into_config(false);
    let model = granite::GraniteMoeHybrid::load(weights, &config)?;
    let empty = granite::GraniteMoeHybridCache::new(true, DType::F32, &config, &Device::Cpu)?;
    Ok(Box::new(Granite { model, cache: empty.clone(), empty }))
}

/// Models that keep one state instead of keys and values, and step one token at a time.
macro_rules! states {
    ($($name:ident, $kind:ident;)*) => {$(
        struct $kind {
            model: $name::Model,
            config: $name::Config,
            state: $name::State,
        }

        impl Instance for $kind {
            fn forward(&mut self, tokens: &Tensor, _offset: usize) -> Result<Tensor> {
                let tokens = tokens.flatten_all()?;
                let mut logits = Err(Error::Msg("there are no tokens".into()));
                for at in 0..tokens.elem_count() {
                    logits = self.model.forward(&tokens.narrow(0, at, 1)?, &mut self.state);
                }
                logits
            }

            fn clear(&mut self) -> bool {
                let fresh = $name::State::new(1, &self.config, self.model.dtype(), &Device::Cpu);
                fresh.map(|state| self.state = state).is_ok()
            }
        }

        pub(super) fn $name(config: Value, weights: VarBuilder<'_>) -> Result<Box<dyn Instance>> {
            let config = settings::<$name::Config>(config)?;
            let model = $name::Model::new(&config, weights.pp("backbone"))?;
            // Only now that all tensors have had the shapes that the config says.
            let state = $name::State::new(1, &config, model.dtype(), &Device::Cpu)?;
            Ok(Box::new($kind { model, config, state }))
        }
    )*};
}

states! {
    mamba, Mamba;
    mamba2, Mamba2;
}
