//! The architectures of the compatibility lane: what each one's config may say, how it is made, and in which pieces
//! tokens may be fed to it. `docs/models.md` is generated from it.
//!
//! Left out, because candle-transformers 0.11.1 does not compute it, or computes it differently from transformers:
//! Falcon (an approximation of its activation), Mamba layers of Granite 4.0, DeepSeek-V2 with groups of experts, Mamba
//! 2 with several groups, windows.

use super::models::{self, MakeModel};
use super::rules::{Rules, Settings, number};
use candle_transformers::models as candle;
use serde_json::Value;

/// One architecture.
pub struct Architecture {
    /// As listed under `architectures` in `config.json`; in [`super::NAMES`].
    pub name: &'static str,
    /// Models of the architecture; for the documentation.
    pub models: &'static str,
    /// What candle does not compute, which is therefore refused; for the documentation.
    pub without: &'static str,
    /// What its config may say.
    pub rules: Rules,
    /// In which pieces a sequence may be fed.
    pub chunks: Chunks,
    /// Bytes that a sequence takes.
    pub cache: fn(&Settings) -> Option<CacheBytes>,
    /// Tensors that may have another name: candle's, the file's. That of the head counts only if the head is tied.
    pub names: &'static [(&'static str, &'static str)],
    /// Whether candle can read a config.
    pub readable: fn(Value) -> Result<(), String>,
    /// Makes it.
    pub make: MakeModel,
}

/// In which pieces candle's model computes a sequence as it would in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// Any.
    Any,
    /// The first may be of any size; all others are single tokens, because the model's mask leaves out what was
    /// before.
    First,
    /// Single tokens.
    Single,
}

/// Bytes of one sequence, in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBytes {
    /// Whatever its length.
    pub fixed: u64,
    /// For each token.
    pub per_token: u64,
}

/// The longest sequence of a model that has none of its own.
pub const LONGEST: usize = 32_768;

/// The head's name in candle's models.
pub(super) const HEAD: &str = "lm_head.weight";
const TIED: &[(&str, &str)] = &[(HEAD, "model.embed_tokens.weight")];

type Pairs = &'static [(&'static str, &'static str)];
const NO_PAIRS: Pairs = &[];

/// A model with rotary embeddings, full attention and all positions.
const PLAIN: Rules = Rules {
    renamed: NO_PAIRS,
    defaults: NO_PAIRS,
    only: &[],
    fixed: NO_PAIRS,
    plain_heads: true,
    window: false,
    positions: true,
};

/// As `PLAIN`, for models with a state.
const STATE: Rules = Rules { plain_heads: false, positions: false, ..PLAIN };

/// Keys and values of every layer, and a row of the rotary table's sines and cosines.
fn keys_and_values(all: &Settings) -> Option<CacheBytes> {
    let of = |key| number(all, key);
    let (layers, heads) = (of("num_hidden_layers")?, of("num_key_value_heads")?);
    let rows = layers.checked_mul(heads)?.checked_add(1)?;
    let per_token = rows.checked_mul(of("head_dim")?)?.checked_mul(2 * 4)?;
    Some(CacheBytes { fixed: 0, per_token })
}

/// candle keeps DeepSeek's keys and values of all heads, not the latent vector that they are made of.
fn of_all_heads(all: &Settings) -> Option<CacheBytes> {
    let of = |key| number(all, key);
    let head = of("qk_nope_head_dim")? + of("qk_rope_head_dim")? + of("v_head_dim")?;
    let rows = of("num_hidden_layers")?.checked_mul(of("num_attention_heads")?)?;
    let values = rows.checked_mul(head)?.checked_add(2 * of("qk_rope_head_dim")?)?;
    Some(CacheBytes { fixed: 0, per_token: values.checked_mul(4)? })
}

/// The states of every layer, and the last inputs of its convolution.
fn state(all: &Settings) -> Option<CacheBytes> {
    let of = |key| number(all, key);
    let layers = of("num_hidden_layers").or(of("n_layer"))?;
    let inner = of("hidden_size").or(of("d_model"))?.checked_mul(of("expand")?)?;
    let (state, window) = (of("state_size")?, of("conv_kernel")?);
    let convolved = inner + 2 * of("n_groups").unwrap_or(0) * state;
    let values = inner.checked_mul(state)?.checked_add(convolved.checked_mul(window)?)?;
    Some(CacheBytes { fixed: layers.checked_mul(values)?.checked_mul(4)?, per_token: 0 })
}

/// Only experts in every layer, and no window.
const EXPERTS_EVERYWHERE: &[(&str, &[&str])] = &[
    ("rope_scaling", &["null"]),
    ("use_sliding_window", &["false"]),
    ("mlp_only_layers", &["null"]),
];

/// All of them.
pub static TABLE: [Architecture; 13] = [
    Architecture {
        name: "Qwen3MoeForCausalLM",
        models: "Qwen3-30B-A3B, Qwen3-Coder",
        without: "rope scaling, sliding windows",
        rules: Rules {
            defaults: &[
                ("attention_bias", "false"),
                ("decoder_sparse_step", "1"),
                ("max_window_layers", "0"),
                ("norm_topk_prob", "false"),
                ("rope_theta", "10000.0"),
                ("tie_word_embeddings", "false"),
                ("use_sliding_window", "false"),
            ],
            only: EXPERTS_EVERYWHERE,
            fixed: &[("sliding_window", "null")],
            plain_heads: false,
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: TIED,
        readable: models::readable::<candle::qwen3_moe::Config>,
        make: models::qwen3_moe,
    },
    Architecture {
        name: "MixtralForCausalLM",
        models: "Mixtral 8x7B, 8x22B",
        without: "rope scaling; a sliding window ends sequences where it would begin to matter",
        rules: Rules {
            defaults: &[("hidden_act", "silu"), ("tie_word_embeddings", "false")],
            only: &[("rope_scaling", &["null"])],
            fixed: &[("sliding_window", "4294967295"), ("use_flash_attn", "false")],
            window: true,
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: TIED,
        readable: models::readable::<candle::mixtral::Config>,
        make: models::mixtral,
    },
    Architecture {
        name: "GraniteMoeHybridForCausalLM",
        models: "Granite 4.0 350M, 1B, Micro",
        without: "Mamba layers (the models with H in their names), experts, models without rotary embeddings",
        rules: Rules {
            defaults: &[
                ("num_local_experts", "8"),
                ("position_embedding_type", "null"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[
                ("layer_types", &["attention", "null"]),
                ("num_local_experts", &["0"]),
                ("position_embedding_type", &["rope"]),
                ("rope_scaling", &["null"]),
                ("attention_bias", &["false"]),
                ("hidden_act", &["silu"]),
                ("tie_word_embeddings", &["true"]),
            ],
            fixed: &[("bos_token_id", "null"), ("eos_token_id", "null")],
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: NO_PAIRS,
        readable: models::readable::<candle::granitemoehybrid::GraniteMoeHybridConfig>,
        make: models::granite,
    },
    Architecture {
        name: "DeepseekV2ForCausalLM",
        models: "DeepSeek-V2-Lite, DeepSeek-Coder-V2-Lite",
        without: "groups of experts (DeepSeek-V2, V2.5), rope scaling other than YaRN",
        rules: Rules {
            defaults: &[
                ("attention_bias", "false"),
                ("n_group", "1"),
                ("topk_group", "1"),
                ("num_experts_per_tok", "missing"),
                ("rope_theta", "10000.0"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[
                ("topk_method", &["greedy"]),
                ("scoring_func", &["softmax"]),
                ("norm_topk_prob", &["false"]),
                ("moe_layer_freq", &["1"]),
                ("mlp_bias", &["false"]),
                // Of the norm inside of its attention, which the config does not name.
                ("rms_norm_eps", &["1e-06"]),
            ],
            plain_heads: false,
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: of_all_heads,
        names: TIED,
        readable: models::readable::<candle::deepseek2::DeepSeekV2Config>,
        make: models::deepseek2,
    },
    Architecture {
        name: "Starcoder2ForCausalLM",
        models: "StarCoder2 3B, 7B, 15B",
        without: "rope scaling, an untied output head; a sliding window ends sequences where it would begin to matter",
        rules: Rules {
            defaults: &[("rope_theta", "10000.0"), ("use_bias", "true")],
            only: &[("rope_scaling", &["null"]), ("tie_word_embeddings", &["true"])],
            fixed: &[("sliding_window", "null")],
            window: true,
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: NO_PAIRS,
        readable: models::readable::<candle::starcoder2::Config>,
        make: models::starcoder2,
    },
    Architecture {
        name: "Mamba2ForCausalLM",
        models: "Mamba 2 as converted for transformers",
        without: "an untied output head and several groups (Mamba-Codestral), limits of the time step",
        rules: Rules {
            defaults: &[
                ("expand", "2"),
                ("head_dim", "64"),
                ("n_groups", "8"),
                ("state_size", "128"),
                ("conv_kernel", "4"),
                ("layer_norm_epsilon", "1e-5"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[
                ("conv_kernel", &["4"]),
                ("hidden_act", &["silu"]),
                ("layer_norm_epsilon", &["1e-5"]),
                // candle norms all groups together.
                ("n_groups", &["1"]),
                ("rms_norm", &["true"]),
                ("tie_word_embeddings", &["true"]),
                ("time_step_limit", &["null", "0", r#"{"__float__": "Infinity"}"#]),
                ("use_bias", &["false"]),
                ("use_conv_bias", &["true"]),
            ],
            fixed: &[("pad_vocab_size_multiple", "1")],
            ..STATE
        },
        chunks: Chunks::Single,
        cache: state,
        names: NO_PAIRS,
        readable: models::readable::<candle::mamba2::Config>,
        make: models::mamba2,
    },
    Architecture {
        name: "Qwen2MoeForCausalLM",
        models: "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
        without: "rope scaling, sliding windows",
        rules: Rules {
            defaults: &[
                ("decoder_sparse_step", "1"),
                ("max_window_layers", "0"),
                ("norm_topk_prob", "false"),
                ("rope_theta", "10000.0"),
                ("tie_word_embeddings", "false"),
                ("use_sliding_window", "false"),
            ],
            only: &[
                ("rope_scaling", &["null"]),
                ("use_sliding_window", &["false"]),
                ("mlp_only_layers", &["null"]),
                ("qkv_bias", &["true"]),
            ],
            fixed: &[("sliding_window", "4294967295")],
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: TIED,
        readable: models::readable::<candle::qwen2_moe::Config>,
        make: models::qwen2_moe,
    },
    Architecture {
        name: "StableLmForCausalLM",
        models: "StableLM 3B, StableLM 2 1.6B",
        without: "parallel residuals and norms of queries and keys (StableLM 2 12B), rope scaling",
        rules: Rules {
            defaults: &[
                ("hidden_act", "silu"),
                ("partial_rotary_factor", "0.25"),
                ("rope_theta", "10000.0"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[
                ("qk_layernorm", &["false"]),
                ("rope_scaling", &["null"]),
                ("use_parallel_residual", &["false"]),
            ],
            fixed: &[("use_cache", "true"), ("use_flash_attn", "false")],
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: TIED,
        readable: models::readable::<candle::stable_lm::Config>,
        make: models::stable_lm,
    },
    Architecture {
        name: "HeliumForCausalLM",
        models: "Helium 1",
        without: "biases of attention, rope scaling",
        rules: Rules {
            defaults: &[
                ("attention_bias", "false"),
                ("mlp_bias", "false"),
                ("rope_theta", "100000.0"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[("attention_bias", &["false"]), ("rope_scaling", &["null"])],
            fixed: &[("bos_token_id", "0"), ("eos_token_id", "0"), ("use_flash_attn", "false")],
            plain_heads: false,
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: TIED,
        readable: models::readable::<candle::helium::Config>,
        make: models::helium,
    },
    Architecture {
        name: "GemmaForCausalLM",
        models: "Gemma 2B, 7B, CodeGemma",
        without: "an untied output head, rope scaling",
        rules: Rules {
            defaults: &[("attention_bias", "false"), ("rope_theta", "10000.0")],
            only: &[
                ("rope_scaling", &["null"]),
                ("tie_word_embeddings", &["true"]),
                ("use_bidirectional_attention", &["null", "false"]),
            ],
            // As transformers does, whatever the older of both keys says.
            fixed: &[("hidden_act", "null"), ("hidden_activation", "gelu_pytorch_tanh")],
            plain_heads: false,
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: NO_PAIRS,
        readable: models::readable::<candle::gemma::Config>,
        make: models::gemma,
    },
    Architecture {
        name: "OlmoForCausalLM",
        models: "OLMo 1B, 7B",
        without: "rope scaling",
        rules: Rules {
            defaults: &[
                ("attention_bias", "false"),
                ("hidden_act", "silu"),
                ("rope_theta", "10000.0"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[("rope_scaling", &["null"])],
            ..PLAIN
        },
        chunks: Chunks::Any,
        cache: keys_and_values,
        names: TIED,
        readable: models::readable::<candle::olmo::Config>,
        make: models::olmo,
    },
    Architecture {
        name: "PhiForCausalLM",
        models: "Phi-1, Phi-1.5, Phi-2",
        without: "a tied head, rope scaling",
        rules: Rules {
            defaults: &[
                ("hidden_act", "gelu_new"),
                ("partial_rotary_factor", "0.5"),
                ("qk_layernorm", "false"),
                ("rope_theta", "10000.0"),
                ("tie_word_embeddings", "false"),
            ],
            only: &[("rope_scaling", &["null"]), ("tie_word_embeddings", &["false"])],
            ..PLAIN
        },
        chunks: Chunks::First,
        cache: keys_and_values,
        names: NO_PAIRS,
        readable: models::readable::<candle::phi::Config>,
        make: models::phi,
    },
    Architecture {
        name: "MambaForCausalLM",
        models: "Mamba as converted for transformers",
        without: "an untied output head, states of other sizes than 16",
        rules: Rules {
            renamed: &[("hidden_size", "d_model"), ("num_hidden_layers", "n_layer")],
            defaults: &[
                ("expand", "2"),
                ("state_size", "16"),
                ("conv_kernel", "4"),
                ("layer_norm_epsilon", "1e-5"),
            ],
            only: &[
                ("conv_kernel", &["4"]),
                ("expand", &["2"]),
                ("hidden_act", &["silu"]),
                ("layer_norm_epsilon", &["1e-5"]),
                ("state_size", &["16"]),
                ("tie_word_embeddings", &["true"]),
                ("use_bias", &["false"]),
                ("use_conv_bias", &["true"]),
            ],
            fixed: &[("pad_vocab_size_multiple", "1")],
            ..STATE
        },
        chunks: Chunks::Single,
        cache: state,
        names: &[("backbone.embedding.weight", "backbone.embeddings.weight")],
        readable: models::readable::<candle::mamba::Config>,
        make: models::mamba,
    },
];

pub(super) fn named(architecture: &str) -> Option<&'static Architecture> {
    TABLE.iter().find(|row| row.name == architecture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compat::NAMES;
    use crate::model::families;

    #[test]
    fn every_build_knows_the_names_of_the_table_and_none_is_the_decoders() {
        let names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names, NAMES);
        assert!(families::supported().all(|own| !names.contains(&own)));
    }
}
