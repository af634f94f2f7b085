"""Tiny random checkpoints of every model family, and transformers' results for them.

Usage: python scripts/make_family_goldens.py [family ...]

For each family a folder tests/fixtures/families/<name>/ is written: config.json
in the spelling that the family's checkpoints have on the hub, model.safetensors
with seeded random weights, golden.json (prompts, greedy continuations, which
positions have logits) and golden.safetensors (those logits, f32). Everything is
computed in f32 on the CPU, by whole forward passes without a cache, so that a
golden does not depend on how the sequence was split.

Needs torch and transformers (scripts/requirements.txt); not run in CI.
"""

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures/families"
NEW_TOKENS = 32
PROMPT_LENGTHS = (5, 20, 45)
# For models with wide heads: more than two tiles of 64 keys, and not a whole number of tiles.
LONG_PROMPT_LENGTHS = (5, 70, 150)
# A greedy choice closer than this (relative to the largest logit) would test
# rounding, not the model; another seed is taken instead.
MARGIN = 2e-3

# Tensors of the part that reads images, which are left out of the files.
VISION = re.compile(r"^model\.(visual|vision_tower|multi_modal_projector)\.")

BASE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES = {
    # Llama 2: no grouping, no scaling, head_dim not given, its own head.
    "llama2": (torch.float16, {
        **BASE, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_scaling": None, "tie_word_embeddings": False}),
    # Llama 3.2: scaled rope, tied head; biases, which the format allows.
    "llama3": (torch.bfloat16, {
        **BASE, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500.0,
        "head_dim": 16, "attention_bias": True, "mlp_bias": True,
        "rope_scaling": {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32, "rope_type": "llama3"},
        "tie_word_embeddings": True}),
    # Linear scaling in the oldest spelling ("type").
    "llama-linear": (torch.bfloat16, {
        **BASE, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "head_dim": None,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "tie_word_embeddings": True}),
    # Mistral 7B v0.1: a window on every layer; Nemo's head_dim.
    "mistral": (torch.bfloat16, {
        **BASE, "architectures": ["MistralForCausalLM"],
        "model_type": "mistral", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 1000.0, "head_dim": 20, "sliding_window": 9,
        "tie_word_embeddings": False}),
    # Qwen2.5: biases on q, k, v; windows from a layer on; YaRN.
    "qwen2": (torch.bfloat16, {
        **BASE, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "use_sliding_window": True, "sliding_window": 7,
        "max_window_layers": 1,
        "rope_scaling": {"factor": 4.0, "type": "yarn",
                         "original_max_position_embeddings": 32},
        "tie_word_embeddings": True}),
    # Qwen3: norms on queries and keys; heads wider than hidden_size.
    "qwen3": (torch.bfloat16, {
        **BASE, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "head_dim": 24,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
        "sliding_window": None, "use_sliding_window": False,
        "max_window_layers": 3, "attention_bias": False,
        "tie_word_embeddings": False}),
    # Gemma 2: soft caps that bite, alternating windows, four norms.
    "gemma2": (torch.bfloat16, {
        **BASE, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
        "num_hidden_layers": 4, "intermediate_size": 80, "head_dim": 20,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 30, "sliding_window": 8,
        "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.0,
        "rope_theta": 10000.0}),
    # Gemma 3: five windows to one global layer, two rope bases, linear scaling
    # on the global one, norms on queries and keys.
    "gemma3": (torch.bfloat16, {
        **BASE, "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text", "num_hidden_layers": 7,
        "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16,
        "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 24, "sliding_window": 6,
        "sliding_window_pattern": 6, "rope_theta": 100000.0,
        "rope_local_base_freq": 1000.0, "attention_bias": False,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}),
    # Phi-3-mini-4k: fused projections, a window on every layer.
    "phi3": (torch.float32, {
        **BASE, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "num_hidden_layers": 2, "num_key_value_heads": 4,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": None, "sliding_window": 11,
        "original_max_position_embeddings": 128,
        "tie_word_embeddings": False}),
    # Phi-4-mini: long rope on part of each head, grouped heads, tied head.
    "phi4-mini": (torch.bfloat16, {
        **BASE, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75, "original_max_position_embeddings": 32,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.05, 1.1, 1.2, 1.4, 1.7],
            "long_factor": [1.0, 1.6, 2.5, 5.0, 9.0, 12.0]},
        "sliding_window": 262144, "tie_word_embeddings": True}),
    # Ministral 3: YaRN whose two scales cancel out, and queries that grow with every 16 positions.
    "ministral3": (torch.bfloat16, {
        **BASE, "architectures": ["Ministral3ForCausalLM"], "model_type": "ministral3",
        "num_hidden_layers": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5, "head_dim": 20,
        "rope_parameters": {
            "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16,
            "llama_4_scaling_beta": 0.4},
        "sliding_window": None, "tie_word_embeddings": False}),
    # Mistral Small 3.1: a plain Mistral inside of a model with images.
    "mistral3": (torch.bfloat16, {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
        "tie_word_embeddings": False, "image_token_index": 10, "spatial_merge_size": 2,
        "text_config": {
            **BASE, "model_type": "mistral", "num_hidden_layers": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "rope_theta": 1000.0, "head_dim": 16, "sliding_window": None},
        "vision_config": {
            "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "head_dim": 16, "image_size": 28, "patch_size": 14, "hidden_act": "silu"}}),
    # Qwen3-VL: a Qwen3 whose rotary embedding has sections for images.
    "qwen3-vl": (torch.bfloat16, {
        "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
        "tie_word_embeddings": True, "image_token_id": 3, "video_token_id": 4, "vision_start_token_id": 5,
        "vision_end_token_id": 6,
        "text_config": {
            **BASE, "model_type": "qwen3_vl_text", "num_hidden_layers": 2, "hidden_act": "silu",
            "rms_norm_eps": 1e-6, "head_dim": 24, "rope_theta": 5000.0, "attention_bias": False,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 4, 4], "rope_type": "default"}},
        "vision_config": {
            "model_type": "qwen3_vl", "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
            "out_hidden_size": 64, "num_position_embeddings": 16, "patch_size": 4,
            "deepstack_visual_indexes": [0]}}),
    # Granite 3.3: four factors.
    "granite": (torch.bfloat16, {
        **BASE, "architectures": ["GraniteForCausalLM"], "model_type": "granite", "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False,
        "mlp_bias": False, "attention_multiplier": 0.125, "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6, "logits_scaling": 8.0, "tie_word_embeddings": False}),
    # SmolLM3: no rotation on some layers.
    "smollm3": (torch.bfloat16, {
        **BASE, "architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "num_hidden_layers": 4,
        "intermediate_size": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 5000.0,
        "rope_scaling": None, "attention_bias": False, "mlp_bias": False, "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 0, 1, 0], "use_sliding_window": False, "sliding_window": None,
        "tie_word_embeddings": True}),
    # GLM-4 0414: neighbouring values of half of each head turn; four norms; gate and up fused.
    "glm4": (torch.bfloat16, {
        **BASE, "architectures": ["Glm4ForCausalLM"], "model_type": "glm4", "num_hidden_layers": 2,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "head_dim": 24, "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0, "attention_bias": True, "eos_token_id": [2, 3],
        "tie_word_embeddings": False}),
    # OLMo 2: norms after the parts, and over all heads of queries and keys.
    "olmo2": (torch.bfloat16, {
        **BASE, "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "num_hidden_layers": 2,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 5000.0, "rope_scaling": None,
        "attention_bias": False, "tie_word_embeddings": False}),
    # OLMo 3: windows on three of four layers; YaRN on the fourth only. (With `rope_theta` outside, as published,
    # transformers takes it for the fourth layer and its default for the others, which are the same in those files.)
    "olmo3": (torch.bfloat16, {
        **BASE, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "num_hidden_layers": 4,
        "intermediate_size": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0,
                "original_max_position_embeddings": 32, "attention_factor": 1.1386294361119891,
                "beta_fast": 32.0, "beta_slow": 1.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}},
        "sliding_window": 7, "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "attention_bias": False, "tie_word_embeddings": False}),
    # Heads as wide as those of real models, for which there are special GPU kernels. Llama 3.2 1B's: 64, two
    # query heads to a key head.
    "heads-64": (torch.bfloat16, {
        **BASE, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 2, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 500.0, "head_dim": 64, "max_position_embeddings": 256,
        "rope_scaling": None, "tie_word_embeddings": True}),
    # Qwen3's: 128, four query heads to one key head, norms on both.
    "heads-128": (torch.bfloat16, {
        **BASE, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
        "num_hidden_layers": 2, "num_key_value_heads": 1, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "head_dim": 128, "max_position_embeddings": 256,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
        "sliding_window": None, "use_sliding_window": False,
        "max_window_layers": 2, "attention_bias": False,
        "tie_word_embeddings": True}),
}


def randomise(model, gemma, dtype, generator):
    """Random weights as stored in the file: rounded to dtype, kept in f32."""
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if "norm" in name:
            noise = noise * 0.25 + (0.4 if gemma else 1.0)
        elif name.endswith("bias"):
            noise = noise * 0.3
        elif "embed_tokens" in name:
            noise = noise * (0.02 if gemma else 0.4)
        else:
            noise = noise * (1.6 / value.shape[-1] ** 0.5)
        value.data.copy_(noise.to(dtype).float())


@torch.no_grad()
def greedy(model, prompt):
    """32 greedy tokens, and the smallest margin among them."""
    ids, margin = list(prompt), float("inf")
    for _ in range(NEW_TOKENS):
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        best = logits.topk(2)
        margin = min(margin, float(best.values[0] - best.values[1])
                     / float(logits.abs().max()))
        ids.append(int(best.indices[0]))
    return ids[len(prompt):], margin


def build(name, seed):
    dtype, config_json = FAMILIES[name]
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json, indent=1) + "\n")
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForImageTextToText if "text_config" in config_json else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    randomise(model, "gemma" in name, dtype, generator)
    model.tie_weights()
    lengths = LONG_PROMPT_LENGTHS if name.startswith("heads-") else PROMPT_LENGTHS
    # Not the ids of images, which are the first ones.
    vocab = config.get_text_config().vocab_size
    first = 11 if kind is AutoModelForImageTextToText else 3
    prompts = [torch.randint(first, vocab, (length,), generator=generator).tolist() for length in lengths]
    replies, margins = zip(*(greedy(model, prompt) for prompt in prompts))
    return folder, dtype, model, prompts, replies, min(margins)


@torch.no_grad()
def write(folder, dtype, model, prompts, replies):
    tied = model.config.tie_word_embeddings
    state = {key: value.to(dtype).contiguous().clone()
             for key, value in model.state_dict().items()
             if not (tied and key == "lm_head.weight") and not VISION.search(key)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    positions, logits = [], {}
    for i, prompt in enumerate(prompts):
        rows = sorted({*range(0, len(prompt), 6),
                       *range(max(0, len(prompt) - 8), len(prompt))})
        out = model(torch.tensor([prompt]), use_cache=False).logits[0]
        logits[f"logits.{i}"] = out[rows].float().contiguous().clone()
        positions.append(rows)
    save_file(logits, folder / "golden.safetensors")
    golden = {"prompts": prompts, "positions": positions, "greedy": list(replies)}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")


def main():
    for name in sys.argv[1:] or FAMILIES:
        for seed in range(100):
            *made, margin = build(name, seed)
            if margin > MARGIN:
                break
        else:
            raise SystemExit(f"{name}: every seed has a near-tie")
        write(*made)
        distinct = [len(set(reply)) for reply in made[4]]
        size = sum(p.stat().st_size for p in made[0].iterdir())
        print(f"{name}: seed {seed}, margin {margin:.4f}, "
              f"distinct tokens {distinct}, {size >> 10} KiB", flush=True)


if __name__ == "__main__":
    main()
