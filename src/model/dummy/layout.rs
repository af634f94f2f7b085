//! The tensors of every family: names and shapes derived from `config.json`.
//!
//! A list and not a model: it says what a checkpoint would contain. It is tested against the lists of real
//! checkpoints.

use serde_json::Value;

/// The role of a tensor, as far as its type depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Embedding,
    Head,
    Matrix,
    /// A matrix that llama.cpp's mixtures keep in a more precise type.
    Important,
    Norm,
    Bias,
}

pub(super) type Listed = (String, Vec<usize>, Role);

/// The weight of a norm as stored: Gemma adds 1 to it.
pub(super) fn norm(architecture: &str) -> f32 {
    if architecture.starts_with("Gemma") { 0.0 } else { 1.0 }
}

struct Shape<'a> {
    name: &'a str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    q: usize,
    kv: usize,
    head_dim: usize,
    bias: bool,
}

/// All tensors of the model.
pub(super) fn tensors(raw: &Value) -> Result<Vec<Listed>, String> {
    let name = raw["architectures"][0].as_str().unwrap_or("(none)");
    let text = raw.get("text_config").unwrap_or(raw);
    let size = |key: &str| {
        let value = text[key].as_u64().filter(|n| *n > 0).map(|n| n as usize);
        value.ok_or_else(|| format!("`{key}` is missing"))
    };
    let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
    let head_dim = size("head_dim").unwrap_or(hidden / heads);
    let shape = Shape {
        name,
        hidden,
        intermediate: size("intermediate_size")?,
        layers: size("num_hidden_layers")?,
        q: heads * head_dim,
        kv: size("num_key_value_heads").unwrap_or(heads) * head_dim,
        head_dim,
        bias: text["attention_bias"].as_bool().unwrap_or(name == "Qwen2ForCausalLM"),
    };
    let vocab = size("vocab_size")?;
    let mut list =
        vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden], Role::Embedding)];
    for layer in 0..shape.layers {
        shape.layer(layer, &mut list);
    }
    list.push(("model.norm.weight".to_owned(), vec![hidden], Role::Norm));
    let tied = text["tie_word_embeddings"].as_bool().unwrap_or(name.starts_with("Gemma"));
    if !tied {
        list.push(("lm_head.weight".to_owned(), vec![vocab, hidden], Role::Head));
    }
    Ok(list)
}

impl Shape<'_> {
    fn layer(&self, layer: usize, list: &mut Vec<Listed>) {
        let mut add = |name: &str, shape: &[usize], role: Role| {
            list.push((format!("model.layers.{layer}.{name}"), shape.to_vec(), role));
        };
        let &Shape { hidden, intermediate, q, kv, head_dim, .. } = self;
        let fine = if self.is_important(layer) { Role::Important } else { Role::Matrix };
        add("input_layernorm.weight", &[hidden], Role::Norm);
        if self.name.starts_with("Phi3") {
            add("self_attn.qkv_proj.weight", &[q + 2 * kv, hidden], Role::Matrix);
            add("mlp.gate_up_proj.weight", &[2 * intermediate, hidden], Role::Matrix);
        } else {
            add("self_attn.q_proj.weight", &[q, hidden], Role::Matrix);
            add("self_attn.k_proj.weight", &[kv, hidden], Role::Matrix);
            add("self_attn.v_proj.weight", &[kv, hidden], fine);
            add("mlp.gate_proj.weight", &[intermediate, hidden], Role::Matrix);
            add("mlp.up_proj.weight", &[intermediate, hidden], Role::Matrix);
        }
        add("self_attn.o_proj.weight", &[hidden, q], Role::Matrix);
        add("mlp.down_proj.weight", &[hidden, intermediate], fine);
        add("post_attention_layernorm.weight", &[hidden], Role::Norm);
        if self.bias {
            for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("self_attn.{name}_proj.bias"), &[rows], Role::Bias);
            }
            if !self.name.starts_with("Qwen2") {
                add("self_attn.o_proj.bias", &[hidden], Role::Bias);
            }
        }
        if self.name.starts_with("Qwen3") || self.name.starts_with("Gemma3") {
            add("self_attn.q_norm.weight", &[head_dim], Role::Norm);
            add("self_attn.k_norm.weight", &[head_dim], Role::Norm);
        }
        if self.name.starts_with("Gemma") {
            add("pre_feedforward_layernorm.weight", &[hidden], Role::Norm);
            add("post_feedforward_layernorm.weight", &[hidden], Role::Norm);
        }
    }

    /// llama.cpp's choice for its `_M` mixtures: the first and last eighth, and every third between.
    fn is_important(&self, layer: usize) -> bool {
        let eighth = self.layers / 8;
        layer < eighth || layer >= 7 * self.layers / 8 || (layer - eighth) % 3 == 2
    }
}
