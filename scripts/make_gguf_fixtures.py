"""Writes tests/fixtures/gguf/*.gguf: a tiny checkpoint of every family, converted to GGUF by llama.cpp's own
converter, and `kinds.gguf`, with blocks of every weight type and their values according to the gguf package.

    pip install torch transformers sentencepiece gguf
    git clone https://github.com/ggml-org/llama.cpp
    python scripts/make_gguf_fixtures.py PATH_OF_LLAMA_CPP [FAMILY ...]

Weights follow a formula that the tests also use: value i of tensor `name` is
((crc32(name) + 7919 i) mod 2048 - 1024) / 1024, which all types except the quantised ones store exactly.
"""

import json
import pathlib
import sys
import tempfile
import zlib

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "gguf"
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 4096, "head_dim": 16,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
FACTORS = {"short_factor": [1.0, 1.25, 1.5, 1.75], "long_factor": [1.0, 2.0, 4.0, 8.0]}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "max_position_embeddings": 131072}),
    "qwen2": (transformers.Qwen2Config, {"rope_theta": 1000000.0, "tie_word_embeddings": True, "head_dim": None}),
    "qwen3": (transformers.Qwen3Config, {"rope_theta": 1000000.0, "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}),
    "gemma2": (transformers.Gemma2Config, {"sliding_window": 64, "query_pre_attn_scalar": 16}),
    "gemma3": (transformers.Gemma3TextConfig, {"sliding_window": 64, "query_pre_attn_scalar": 16, "num_hidden_layers": 7,
                                               "hidden_size": 16, "intermediate_size": 16,
                                               "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "phi3": (transformers.Phi3Config, {"sliding_window": 512, "original_max_position_embeddings": 1024, "head_dim": None,
                                       "rope_scaling": {"rope_type": "longrope", **FACTORS}}),
    "ministral3": (transformers.Ministral3Config, {"sliding_window": None, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0, "beta_fast": 24.0, "beta_slow": 2.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 256, "llama_4_scaling_beta": 0.25}}),
    "qwen3vl": (transformers.Qwen3VLConfig, {"rope_parameters": {
        "rope_type": "default", "rope_theta": 5000000.0, "mrope_interleaved": True, "mrope_section": [3, 3, 2]}}),
    "granite": (transformers.GraniteConfig, {"head_dim": None, "embedding_multiplier": 12.0, "residual_multiplier": 0.25,
                                             "attention_multiplier": 0.0625, "logits_scaling": 8.0}),
    "smollm3": (transformers.SmolLM3Config, {"num_hidden_layers": 4, "head_dim": None, "rope_theta": 5000000.0,
                                             "hidden_size": 16, "intermediate_size": 16}),
    "glm4": (transformers.Glm4Config, {"eos_token_id": [2, 3]}),
    "olmo2": (transformers.Olmo2Config, {"head_dim": None, "rope_theta": 500000.0}),
    "olmo3": (transformers.Olmo3Config, {
        "head_dim": None, "sliding_window": 64, "num_hidden_layers": 4, "hidden_size": 16, "intermediate_size": 16,
        "rope_theta": 500000.0, "rope_scaling": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "beta_fast": 32.0,
            "beta_slow": 1.0, "attention_factor": 1.25}}),
}
# The part of Qwen3-VL that reads images; it goes to another file.
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
          "num_position_embeddings": 16, "patch_size": 4, "deepstack_visual_indexes": [0]}


def formula(name, count):
    i = np.arange(count, dtype=np.int64)
    return (((zlib.crc32(name.encode()) + 7919 * i) % 2048 - 1024) / 1024).astype(np.float32)


def checkpoint(folder, family):
    make, more = FAMILIES[family]
    values = {k: v for k, v in {**SHAPE, **more}.items() if v is not None}
    if family == "qwen3vl":
        config = make(text_config=values, vision_config=VISION)
        model = transformers.AutoModelForImageTextToText.from_config(config)
    else:
        config = make(**values)
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            name = name.replace("model.language_model.", "model.")
            tensor.copy_(torch.from_numpy(formula(name, tensor.numel())).view(tensor.shape))
    model.save_pretrained(folder)
    tokenizer(folder)


def tokenizer(folder):
    vocab = {f"t{i}": i for i in range(SHAPE["vocab_size"])}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.save(str(pathlib.Path(folder) / "tokenizer.json"))
    (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def convert(llama_cpp, folder, out):
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import convert_hf_to_gguf
    from conversion import base
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"

    def plain(self):
        # Vocabularies are not tested here, so they are tiny; Gemma and Phi require SentencePiece files.
        self.gguf_writer.add_tokenizer_model("gpt2")
        self.gguf_writer.add_tokenizer_pre("gpt-2")
        self.gguf_writer.add_token_list([f"t{i}" for i in range(SHAPE["vocab_size"])])
        self.gguf_writer.add_token_merges(["t 1"])
        self.gguf_writer.add_eos_token_id(2)

    from conversion import gemma, glm, granite, llama, mistral3, olmo, phi, qwen, qwen3vl
    for kind in (gemma.Gemma2Model, gemma.Gemma3Model, glm.Glm4Model, granite.GraniteModel, llama.LlamaModel,
                 llama.SmolLM3Model, mistral3.Mistral3Model.Ministral3Model, olmo.Olmo2Model, phi.Phi3MiniModel,
                 qwen.Qwen2Model, qwen.Qwen3Model, qwen3vl.Qwen3VLTextModel):
        kind.set_vocab = plain
    sys.argv = ["convert", str(folder), "--outfile", str(out), "--outtype", "f16"]
    convert_hf_to_gguf.main()


def kinds(out):
    import gguf
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(out), "kinds")
    halves = {"F16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82],
              "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "IQ3_XXS": [0],
              "IQ3_S": [0], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ1_S": [0]}
    for kind in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "IQ4_NL",
                 "IQ4_XS", "MXFP4", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M"):
        kind = gguf.GGMLQuantizationType[kind]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, blocks = 3, 2 if block > 1 else 64
        data = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
        # The half-precision floats among the bytes: small, finite, of either sign.
        for at in halves.get(kind.name, []):
            data[:, :, at:at + 2] = rng.normal(0, 0.1, (rows, blocks, 1)).astype(np.float16).view(np.uint8).reshape(rows, blocks, 2)
        if kind.name == "MXFP4":
            data[:, :, 0] = rng.integers(118, 128, (rows, blocks))
        if kind.name == "IQ1_M":
            # The float is in the upper halves of four words.
            scale = rng.normal(0, 0.1, (rows, blocks)).astype(np.float16).view(np.uint16)
            for word in range(4):
                data[:, :, 49 + 2 * word] = data[:, :, 49 + 2 * word] & 15 | (scale >> 4 * word & 15) << 4
        if kind.name == "BF16":
            data = (rng.normal(0, 1, (rows, blocks)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        data = data.reshape(rows, blocks * size)
        wide = gguf.quants.dequantize(data if kind.name not in ("F16",) else data.view(np.float16), kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind, raw_shape=data.shape)
        writer.add_tensor(f"{kind.name}.f32", np.ascontiguousarray(wide, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    llama_cpp = pathlib.Path(sys.argv[1]).resolve()
    OUT.mkdir(parents=True, exist_ok=True)
    for family in sys.argv[2:] or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint(folder, family)
            convert(llama_cpp, pathlib.Path(folder), OUT / f"{family}.gguf")
            config = json.loads((pathlib.Path(folder) / "config.json").read_text())
            if "text_config" in config:
                config = {**config["text_config"], "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
                          "tie_word_embeddings": config["tie_word_embeddings"]}
            (OUT / f"{family}.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    if not sys.argv[2:]:
        kinds(OUT / "kinds.gguf")


if __name__ == "__main__":
    main()
