//! The supported model families: their name in `config.json`, their config reader, and the names of a layer's
//! tensors.
//!
//! This short description is all that defines a family. The names are those of Hugging Face checkpoints;
//! other formats are translated when they are read. It does not know shapes or numbers.

use super::config::{self, Fields, ModelConfig};
use super::layout::{HeadNorms, Layout, MlpNames, Over};

/// One supported architecture.
pub struct Family {
    /// As listed under `architectures` in `config.json`.
    pub architecture: &'static str,
    /// Reads the fields of `config.json`; the error says which field is missing, invalid or unsupported.
    pub read: fn(&Fields<'_>, &'static Family) -> Result<ModelConfig, String>,
    /// The names of a layer's tensors.
    pub layout: &'static Layout,
}

const SPLIT: &[&str] = &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];

/// Norm, attention, norm, feed-forward (Llama, Mistral, Qwen2).
const PLAIN: Layout = Layout {
    attention_norm: Some("input_layernorm"),
    qkv: SPLIT,
    head_norms: None,
    out: "self_attn.o_proj",
    attention_post_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp: MlpNames { gate_up: &["mlp.gate_proj", "mlp.up_proj"], down: "mlp.down_proj" },
    mlp_post_norm: None,
};

/// Like plain, with head norms.
const QWEN3: Layout = Layout { head_norms: HEAD_NORMS, ..PLAIN };

/// Each part between two norms.
const GEMMA2: Layout = Layout {
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..PLAIN
};

const GEMMA3: Layout = Layout { head_norms: HEAD_NORMS, ..GEMMA2 };

/// Like plain, with projections of the same input fused.
const PHI3: Layout = Layout {
    qkv: &["self_attn.qkv_proj"],
    mlp: MlpNames { gate_up: &["mlp.gate_up_proj"], down: "mlp.down_proj" },
    ..PLAIN
};

/// Each part between two norms, with gate and up fused.
const GLM4: Layout = Layout {
    attention_post_norm: Some("post_self_attn_layernorm"),
    mlp: MlpNames { gate_up: &["mlp.gate_up_proj"], down: "mlp.down_proj" },
    mlp_post_norm: Some("post_mlp_layernorm"),
    ..PLAIN
};

/// A norm only after each part.
const OLMO2: Layout = Layout {
    attention_norm: None,
    head_norms: Some(HeadNorms { names: QUERY_AND_KEY, over: Over::Token }),
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: None,
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..PLAIN
};

const QUERY_AND_KEY: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];
const HEAD_NORMS: Option<HeadNorms> = Some(HeadNorms { names: QUERY_AND_KEY, over: Over::Head });

static FAMILIES: [Family; 16] = [
    Family { architecture: "LlamaForCausalLM", read: config::llama, layout: &PLAIN },
    Family { architecture: "MistralForCausalLM", read: config::mistral, layout: &PLAIN },
    Family { architecture: "Qwen2ForCausalLM", read: config::qwen2, layout: &PLAIN },
    Family { architecture: "Qwen3ForCausalLM", read: config::qwen3, layout: &QWEN3 },
    Family { architecture: "Gemma2ForCausalLM", read: config::gemma2, layout: &GEMMA2 },
    Family { architecture: "Gemma3ForCausalLM", read: config::gemma3, layout: &GEMMA3 },
    // Of checkpoints that read images too, only the language model is loaded: text in, text out.
    Family {
        architecture: "Gemma3ForConditionalGeneration",
        read: config::gemma3_text_part,
        layout: &GEMMA3,
    },
    Family { architecture: "Phi3ForCausalLM", read: config::phi3, layout: &PHI3 },
    Family { architecture: "Ministral3ForCausalLM", read: config::ministral3, layout: &PLAIN },
    Family {
        architecture: "Mistral3ForConditionalGeneration",
        read: config::mistral3_text_part,
        layout: &PLAIN,
    },
    Family {
        architecture: "Qwen3VLForConditionalGeneration",
        read: config::qwen3_text_part,
        layout: &QWEN3,
    },
    Family { architecture: "GraniteForCausalLM", read: config::granite, layout: &PLAIN },
    Family { architecture: "SmolLM3ForCausalLM", read: config::smollm3, layout: &PLAIN },
    Family { architecture: "Glm4ForCausalLM", read: config::glm4, layout: &GLM4 },
    Family { architecture: "Olmo2ForCausalLM", read: config::olmo2, layout: &OLMO2 },
    Family { architecture: "Olmo3ForCausalLM", read: config::olmo3, layout: &OLMO2 },
];

/// The architectures that can be loaded, as named in `config.json`.
pub fn supported() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.architecture)
}

/// The family of an architecture. Fails if it is not supported; the error lists those that are.
pub fn named(architecture: &str) -> Result<&'static Family, String> {
    FAMILIES.iter().find(|family| family.architecture == architecture).ok_or_else(|| {
        let all: Vec<&str> = supported().collect();
        format!("its architecture {architecture} is not supported; supported: {}", all.join(", "))
    })
}
