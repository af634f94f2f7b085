//! Translates llama.cpp's tensor names to Hugging Face's, and says how llama.cpp changed each tensor.
//!
//! All checkpoints use Hugging Face's names here. Two changes are undone: llama.cpp interleaves the rows of q
//! and k of some architectures for its own rotary embedding, and it adds 1 to Gemma's norms. A tensor of
//! unknown meaning is an error, because ignoring it would silently change the results.

use super::arch::Architecture;

/// The change to undo when a tensor is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undo {
    Nothing,
    /// The rows of each head are stored as pairs (0, d/2), (1, d/2 + 1), .. instead of two halves.
    Interleaving {
        heads: usize,
    },
    /// w + 1 is stored.
    PlusOne,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Weight(String, Undo),
    /// Read with the configuration, or not needed.
    Aside,
    Unknown,
}

/// Translates `name` for an architecture with these head counts.
pub(super) fn translate(name: &str, arch: Architecture, heads: usize, kv_heads: usize) -> Name {
    if let "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight" = name {
        return Name::Aside;
    }
    let Some((stem, suffix)) = name.rsplit_once('.') else { return Name::Unknown };
    if suffix != "weight" && suffix != "bias" {
        return Name::Unknown;
    }
    let top = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(top) = top {
        return Name::Weight(format!("{top}.{suffix}"), undo(stem, arch, heads, kv_heads));
    }
    let layered = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let Some((Ok(layer), part)) = layered.map(|(n, part)| (n.parse::<usize>(), part)) else {
        return Name::Unknown;
    };
    if part == "attn_rot_embd" {
        return Name::Aside;
    }
    match in_layer(part, arch) {
        Some(to) => Name::Weight(
            format!("model.layers.{layer}.{to}.{suffix}"),
            undo(part, arch, heads, kv_heads),
        ),
        None => Name::Unknown,
    }
}

fn in_layer(part: &str, arch: Architecture) -> Option<&'static str> {
    let phi = arch == Architecture::Phi3;
    let fused = arch.has_fused_gate();
    if let Some(norm) = post_norms(part, arch) {
        return Some(norm);
    }
    Some(match part {
        "attn_norm" | "ffn_norm" if arch == Architecture::Olmo2 => return None,
        "attn_norm" => "input_layernorm",
        "attn_q" if !phi => "self_attn.q_proj",
        "attn_k" if !phi => "self_attn.k_proj",
        "attn_v" if !phi => "self_attn.v_proj",
        "attn_qkv" if phi => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" if arch.has_qk_norms() => "self_attn.q_norm",
        "attn_k_norm" if arch.has_qk_norms() => "self_attn.k_norm",
        "ffn_norm" if arch.is_gemma() => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_up" if fused => "mlp.gate_up_proj",
        "ffn_gate" if !fused => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    })
}

/// The norms after a part, in the families that have them.
fn post_norms(part: &str, arch: Architecture) -> Option<&'static str> {
    let glm = arch == Architecture::Glm4;
    if !glm && !arch.is_gemma() && arch != Architecture::Olmo2 {
        return None;
    }
    match part {
        "post_attention_norm" if glm => Some("post_self_attn_layernorm"),
        "post_attention_norm" => Some("post_attention_layernorm"),
        "post_ffw_norm" if glm => Some("post_mlp_layernorm"),
        "post_ffw_norm" => Some("post_feedforward_layernorm"),
        _ => None,
    }
}

fn undo(part: &str, arch: Architecture, heads: usize, kv_heads: usize) -> Undo {
    match part {
        "attn_q" if arch.is_interleaved() => Undo::Interleaving { heads },
        "attn_k" if arch.is_interleaved() => Undo::Interleaving { heads: kv_heads },
        norm if arch.is_gemma() && norm.ends_with("norm") => Undo::PlusOne,
        _ => Undo::Nothing,
    }
}
