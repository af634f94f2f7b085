"""Tiny random checkpoints of the compatibility lane's architectures, and transformers' results for them.

Usage: python scripts/make_compat_goldens.py [name ...]

For each architecture a folder tests/fixtures/compat/<name>/ is written: config.json in the spelling that the
architecture's checkpoints have on the hub, model.safetensors with seeded random weights under the names that
checkpoints have there, golden.json (prompts and greedy continuations) and golden.safetensors (some logits, f32).
Everything is computed in f32 on the CPU, by whole forward passes without a cache, so that a golden does not depend
on how the sequence was split.

Needs torch and transformers (scripts/requirements.txt); not run in CI.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/compat"
NEW_TOKENS = 24
PROMPT_LENGTHS = (5, 20, 45)
# A greedy choice closer than this (relative to the largest logit) would test rounding, not the model; another seed
# is taken instead.
MARGIN = 2e-3

BASE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
}

MODELS = {
    # Qwen3-30B-A3B: heads wider than hidden_size / heads; the chosen experts' weights are normalised.
    "qwen3-moe": {
        **BASE, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 24, "hidden_act": "silu",
        "max_window_layers": 2, "mlp_only_layers": [], "moe_intermediate_size": 32,
        "norm_topk_prob": True, "num_experts": 5, "num_experts_per_tok": 2, "rms_norm_eps": 1e-6,
        "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
        "tie_word_embeddings": False, "use_sliding_window": False},
    # Mixtral 8x7B v0.1: no window, though the key is there.
    "mixtral": {
        **BASE, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
        "intermediate_size": 48, "hidden_act": "silu", "num_experts_per_tok": 2,
        "num_local_experts": 4, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
        "sliding_window": None, "tie_word_embeddings": False},
    # Granite 4.0 micro: attention only, no experts, its four multipliers.
    "granite-hybrid": {
        **BASE, "architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid",
        "attention_bias": False, "attention_multiplier": 0.08, "embedding_multiplier": 0.5,
        "hidden_act": "silu", "layer_types": ["attention"] * 2, "logits_scaling": 2.0,
        "normalization_function": "rmsnorm", "num_experts_per_tok": 0, "num_local_experts": 0,
        "position_embedding_type": "rope", "residual_multiplier": 0.7, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "rope_theta": 10000, "shared_intermediate_size": 96,
        "tie_word_embeddings": True},
    # DeepSeek-V2-Lite: a dense first layer, shared experts, YaRN with its own attention scale.
    "deepseek-v2": {
        **BASE, "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "num_key_value_heads": 4, "attention_bias": False, "first_k_dense_replace": 1,
        "hidden_act": "silu", "kv_lora_rank": 32, "moe_intermediate_size": 32, "moe_layer_freq": 1,
        "n_group": 1, "n_routed_experts": 4, "n_shared_experts": 2, "norm_topk_prob": False,
        "num_experts_per_tok": 2, "q_lora_rank": None, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8, "rms_norm_eps": 1e-6, "routed_scaling_factor": 1.0,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 4, "mscale": 0.707,
                         "mscale_all_dim": 0.707, "original_max_position_embeddings": 32,
                         "type": "yarn"},
        "rope_theta": 10000, "scoring_func": "softmax", "tie_word_embeddings": False,
        "topk_group": 1, "topk_method": "greedy", "v_head_dim": 12},
    # StarCoder2 3B: norms and projections with biases, a window that no golden reaches.
    "starcoder2": {
        **BASE, "architectures": ["Starcoder2ForCausalLM"], "model_type": "starcoder2",
        "activation_function": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh",
        "mlp_type": "default", "norm_epsilon": 1e-5, "norm_type": "layer_norm",
        "rope_theta": 999999.4, "sliding_window": 96, "use_bias": True},
    # Mamba 2 as converted for transformers: a tied head, one group.
    "mamba2": {
        "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "hidden_size": 64,
        "num_hidden_layers": 2, "vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2,
        "chunk_size": 16, "conv_kernel": 4, "expand": 2, "head_dim": 16, "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5, "n_groups": 1, "num_heads": 8, "residual_in_fp32": True,
        "rms_norm": True, "state_size": 16, "tie_word_embeddings": True, "use_bias": False,
        "use_conv_bias": True},
    # Qwen1.5-MoE: a shared expert behind a gate, biases on q, k, v.
    "qwen2-moe": {
        **BASE, "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe",
        "decoder_sparse_step": 1, "hidden_act": "silu", "max_window_layers": 2,
        "moe_intermediate_size": 24, "norm_topk_prob": False, "num_experts": 4,
        "num_experts_per_tok": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "shared_expert_intermediate_size": 48, "sliding_window": 32, "tie_word_embeddings": False,
        "use_sliding_window": False},
    # StableLM 2: a quarter of each head turns, biases on q, k, v.
    "stablelm": {
        **BASE, "architectures": ["StableLmForCausalLM"], "model_type": "stablelm",
        "num_key_value_heads": 4, "hidden_act": "silu", "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.25, "qk_layernorm": False, "rope_theta": 10000,
        "tie_word_embeddings": False, "use_cache": True, "use_parallel_residual": False,
        "use_qkv_bias": True},
    # Helium 1: neighbouring values turn.
    "helium": {
        **BASE, "architectures": ["HeliumForCausalLM"], "model_type": "helium",
        "attention_bias": False, "head_dim": 16, "hidden_act": "silu", "mlp_bias": False,
        "rms_norm_eps": 1e-8, "rope_theta": 100000.0, "tie_word_embeddings": False},
    # Gemma 1: both spellings of the activation, of which the second counts.
    "gemma": {
        **BASE, "architectures": ["GemmaForCausalLM"], "model_type": "gemma",
        "num_key_value_heads": 1, "attention_bias": False, "head_dim": 24,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000.0},
    # OLMo: norms without weights, clipped queries, keys and values.
    "olmo": {
        **BASE, "architectures": ["OlmoForCausalLM"], "model_type": "olmo",
        "num_key_value_heads": 4, "attention_bias": False, "clip_qkv": 3.0, "hidden_act": "silu",
        "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False},
    # Phi-2: attention and MLP side by side, a head with a bias.
    "phi": {
        **BASE, "architectures": ["PhiForCausalLM"], "model_type": "phi",
        "num_key_value_heads": 4, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 0.4, "qk_layernorm": False, "rope_scaling": None,
        "rope_theta": 10000.0, "tie_word_embeddings": False},
    # Mamba as converted for transformers.
    "mamba": {
        "architectures": ["MambaForCausalLM"], "model_type": "mamba", "hidden_size": 64,
        "num_hidden_layers": 2, "vocab_size": 256, "bos_token_id": 1, "eos_token_id": 2,
        "conv_kernel": 4, "expand": 2, "hidden_act": "silu", "layer_norm_epsilon": 1e-5,
        "residual_in_fp32": True, "state_size": 16, "time_step_rank": 4, "use_bias": False,
        "use_conv_bias": True},
}


def randomise(model, gemma, generator):
    """Random weights, rounded to bf16, kept in f32."""
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        last = name.rsplit(".", 1)[-1]
        if last == "A_log":
            noise = value.data + noise * 0.1
        elif last in ("D", "dt_bias"):
            noise = value.data + noise * 0.2
        elif "norm" in name:
            noise = noise * 0.25 + (0.4 if gemma or name.endswith("bias") else 1.0)
        elif name.endswith("bias"):
            noise = noise * 0.3
        elif "embed" in name:
            noise = noise * (0.1 if gemma else 0.4)
        else:
            noise = noise * (1.6 / value.shape[-1] ** 0.5)
        value.data.copy_(noise.bfloat16().float())


@torch.no_grad()
def greedy(model, prompt):
    """Greedy tokens, and the smallest margin among them."""
    ids, margin = list(prompt), float("inf")
    for _ in range(NEW_TOKENS):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]) / float(logits.abs().max()))
        ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


def build(name, seed):
    config_json = MODELS[name]
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json, indent=1) + "\n")
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    randomise(model, name == "gemma", generator)
    model.tie_weights()
    vocab = config.vocab_size
    prompts = [torch.randint(3, vocab, (length,), generator=generator).tolist()
               for length in PROMPT_LENGTHS]
    replies, margins = zip(*(greedy(model, prompt) for prompt in prompts))
    return folder, model, prompts, replies, min(margins)


@torch.no_grad()
def write(folder, model, prompts, replies):
    with tempfile.TemporaryDirectory() as saved:
        # The names that checkpoints have on the hub, whatever transformers calls the tensors in memory.
        model.save_pretrained(saved)
        state = load_file(Path(saved) / "model.safetensors")
    state = {key: value.bfloat16().contiguous() for key, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    positions, logits = [], {}
    for i, prompt in enumerate(prompts):
        rows = sorted({*range(0, len(prompt), 9), *range(max(0, len(prompt) - 3), len(prompt))})
        out = model(torch.tensor([prompt]), use_cache=False).logits[0]
        logits[f"logits.{i}"] = out[rows].float().contiguous().clone()
        positions.append(rows)
    save_file(logits, folder / "golden.safetensors")
    golden = {"prompts": prompts, "positions": positions, "greedy": list(replies)}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


def main():
    for name in sys.argv[1:] or MODELS:
        for seed in range(200):
            *made, margin = build(name, seed)
            if margin > MARGIN:
                break
        else:
            raise SystemExit(f"{name}: every seed has a near-tie")
        write(*made)
        distinct = [len(set(reply)) for reply in made[3]]
        size = sum(p.stat().st_size for p in made[0].iterdir())
        print(f"{name}: seed {seed}, margin {margin:.4f}, distinct tokens {distinct}, "
              f"{size >> 10} KiB", flush=True)


if __name__ == "__main__":
    main()
