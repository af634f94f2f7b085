//! Typed access to a `config.json`, with errors that name the key.
//!
//! `null` and an absent key are the same unless a reader asks. This file reads the part of a config that all
//! families share; the families' readers set the rest. It does not know any family.

use super::{
    Bias, LayerKind, MOST_HEAD_DIM, MOST_LAYERS, MOST_POSITIONS, MOST_SIZE, ModelConfig, Norm,
};
use crate::device::{Activation, Rope};
use crate::model::families::Family;
use serde_json::Value;

/// A JSON object being read.
#[derive(Clone, Copy)]
pub struct Fields<'a>(&'a Value);

/// Defaults of the shared fields, for families in which transformers has other ones.
pub struct Defaults {
    pub hidden: Option<usize>,
    pub intermediate: Option<usize>,
    pub vocab: Option<usize>,
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    /// `None`: the same as the number of heads.
    pub kv_heads: Option<usize>,
    /// `None`: `hidden / heads`.
    pub head_dim: Option<usize>,
    pub max_len: usize,
    pub eps: f64,
    pub tied: bool,
}

impl Defaults {
    /// The defaults for most families.
    pub const PLAIN: Defaults = Defaults {
        hidden: None,
        intermediate: None,
        vocab: None,
        layers: None,
        heads: None,
        kv_heads: None,
        head_dim: None,
        max_len: 4096,
        eps: 1e-6,
        tied: false,
    };
}

impl<'a> Fields<'a> {
    /// The fields of a JSON object; any other value has none.
    pub fn new(raw: &'a Value) -> Fields<'a> {
        Fields(raw)
    }

    /// The value under `key`, unless it is absent or `null`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is present, even if it is `null`: for keys whose absence has a meaning.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    /// An object under `key`. Fails if it is something else.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, String> {
        let object = |value: &'a Value| match value {
            Value::Object(_) => Ok(Fields(value)),
            _ => Err(format!("`{key}` is not an object")),
        };
        self.get(key).map(object).transpose()
    }

    /// A count between 1 and 16 million. Fails if it is outside of these or of another type.
    pub fn size(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(size) = self.count(key)? else { return Ok(None) };
        match size {
            0 => Err(format!("`{key}` is 0")),
            1..=MOST_SIZE => Ok(Some(size)),
            _ => Err(format!("`{key}` is {size}, which no model has")),
        }
    }

    /// A non-negative integer of any size. Fails if it is of another type.
    pub fn count(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or_else(|| format!("`{key}` has an invalid type: {value}, not a count"))
    }

    /// A number. Fails if it is of another type.
    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64();
        number
            .map(Some)
            .ok_or_else(|| format!("`{key}` has an invalid type: {value}, not a number"))
    }

    /// A boolean. Fails if it is of another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let flag = value.as_bool();
        flag.map(Some).ok_or_else(|| format!("`{key}` has an invalid type: {value}, not a flag"))
    }

    /// A string; `None` also if the value is of another type.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A list of numbers. Fails if it is something else.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| {
            list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect::<Option<Vec<f32>>>()
        });
        list.map(Some).ok_or_else(|| format!("`{key}` is not a list of numbers"))
    }

    /// End-of-sequence ids: one, several or none. Fails if it is of another type.
    pub fn eos_ids(&self) -> Result<Vec<u32>, String> {
        let Some(value) = self.get("eos_token_id") else { return Ok(Vec::new()) };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| format!("`eos_token_id` has an invalid type: {value}"))
    }

    /// The activation under `key`; `silu` and the two names of tanh-GELU are known. Fails if it is another one.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation, String> {
        match self.text(key).unwrap_or(default) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            other => Err(format!(
                "`{key}: {other}` is not supported; supported: silu, gelu_pytorch_tanh"
            )),
        }
    }

    /// The fields that all families share. The rest gets default values for the family's reader to change:
    /// one kind of layer without a rotary embedding, SiLU, no biases, no caps and the usual scale. Fails if one without
    /// a default is missing, or if one is of the wrong type or out of range.
    pub fn shared(
        &self,
        family: &'static Family,
        defaults: &Defaults,
    ) -> Result<ModelConfig, String> {
        let need = |key: &str, default: Option<usize>| {
            self.size(key)?.or(default).ok_or_else(|| format!("it has no `{key}`"))
        };
        let (hidden, heads) =
            (need("hidden_size", defaults.hidden)?, need("num_attention_heads", defaults.heads)?);
        let layers = need("num_hidden_layers", defaults.layers)?;
        if layers > MOST_LAYERS {
            return Err(format!("`num_hidden_layers` is {layers}, which no model has"));
        }
        let head_dim = self.head_dim(hidden, heads, defaults)?;
        let max_len = match self.count("max_position_embeddings")?.unwrap_or(defaults.max_len) {
            0 => return Err("`max_position_embeddings` is 0".into()),
            len => len.min(MOST_POSITIONS),
        };
        Ok(ModelConfig {
            architecture: family.architecture,
            layout: family.layout,
            hidden,
            intermediate: need("intermediate_size", defaults.intermediate)?,
            vocab: need("vocab_size", defaults.vocab)?,
            layers,
            heads,
            kv_heads: self.size("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads),
            head_dim,
            norm: Norm {
                eps: self.number("rms_norm_eps")?.unwrap_or(defaults.eps) as f32,
                offset: 0.0,
            },
            activation: Activation::Silu,
            bias: Bias::default(),
            scale: 1.0 / (head_dim as f32).sqrt(),
            score_cap: None,
            logit_cap: None,
            embedding_scale: None,
            logit_scale: None,
            query_scale: None,
            neighbours_turn: false,
            tied_embeddings: self.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
            ropes: Vec::new(),
            kinds: vec![LayerKind { window: None, rope: 0 }; layers],
            max_len,
            eos_ids: self.eos_ids()?,
        })
    }

    /// An absurd value is refused here and not with the rest of the config, because frequencies are computed
    /// for it before that.
    fn head_dim(&self, hidden: usize, heads: usize, defaults: &Defaults) -> Result<usize, String> {
        let head_dim = match self.size("head_dim")?.or(defaults.head_dim) {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(format!(
                    "hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and no head_dim is given"
                ));
            }
        };
        if head_dim > MOST_HEAD_DIM || heads * head_dim > MOST_SIZE {
            return Err(format!("{heads} heads of size {head_dim} are more than any model has"));
        }
        Ok(head_dim)
    }

    /// The language model of a checkpoint that also reads images or sounds: `read` gets its `text_config`. The outer
    /// object's end-of-sequence ids and tied embeddings come first. Fails if there is no `text_config`, or as `read`
    /// does.
    pub fn text_part(
        &self,
        read: impl FnOnce(&Fields<'a>) -> Result<ModelConfig, String>,
    ) -> Result<ModelConfig, String> {
        let text = self.object("text_config")?.ok_or("it has no `text_config`")?;
        let config = read(&text)?;
        let eos_ids = if self.has("eos_token_id") { self.eos_ids()? } else { config.eos_ids };
        let tied = self.flag("tie_word_embeddings")?.unwrap_or(config.tied_embeddings);
        Ok(ModelConfig { eos_ids, tied_embeddings: tied, ..config })
    }

    /// Which layers have a window: from `layer_types` if the config has it, else from `by_index`. Fails if
    /// `layer_types` has another length or names other kinds of layers.
    pub fn sliding(
        &self,
        layers: usize,
        by_index: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, String> {
        let Some(value) = self.get("layer_types") else {
            return Ok((0..layers).map(by_index).collect());
        };
        let kinds = value.as_array().ok_or("`layer_types` is not a list")?;
        if kinds.len() != layers {
            return Err(format!("`layer_types` has {} entries for {layers} layers", kinds.len()));
        }
        let kind = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(format!(
                "`layer_types` names {kind}; supported: full_attention, sliding_attention"
            )),
        };
        kinds.iter().map(kind).collect()
    }
}

/// One rotary embedding and, on the layers that `sliding` marks, one window.
pub fn with_windows(
    config: ModelConfig,
    rope: Rope,
    sliding: &[bool],
    window: Option<usize>,
) -> ModelConfig {
    let kind = |slides: &bool| LayerKind { window: window.filter(|_| *slides), rope: 0 };
    ModelConfig { ropes: vec![rope], kinds: sliding.iter().map(kind).collect(), ..config }
}
