"""Writes random models that serin and llama.cpp can both run, to be measured by scripts/bench_cpu.py.

    pip install numpy gguf llama-cpp-python
    python scripts/make_peer_model.py FOLDER [--tiny] [--keep-f16] [--form Q4_K_M ...]

The shape is Qwen3-0.6B's (--tiny: a small one, to try the scripts out). Weights are drawn once, written in
F16 and quantised by llama.cpp's own quantiser, so that kinds are mixed as in files that people use. Needs
about 3 GB of disk and memory. The vocabulary has the 256 bytes, fillers, and Qwen's markers at its end.
"""

import argparse
import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np

FULL = dict(name="qwen3-0.6b-random", hidden=1024, layers=28, heads=16, kv=8, dim=128, width=3072,
            vocab=151936, context=40960)
TINY = dict(name="qwen3-tiny-random", hidden=256, layers=2, heads=4, kv=2, dim=64, width=512,
            vocab=1024, context=4096)
FORMS = {"Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
         "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M, "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
         "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16}
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_tokens():
    """The 256 bytes as GPT-2 spells them."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def write_metadata(writer, shape):
    writer.add_name(shape["name"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["width"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv"])
    writer.add_key_length(shape["dim"])
    writer.add_value_length(shape["dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    pieces = byte_tokens()
    pair = pieces[0] * 2  # a merge must be there, and its token with it
    count = shape["vocab"] - len(pieces) - 1 - len(MARKERS)
    tokens = [*pieces, pair, *(f"filler{i}" for i in range(count)), *MARKERS]
    types = [gguf.TokenType.NORMAL] * (len(tokens) - len(MARKERS)) + [gguf.TokenType.CONTROL] * len(MARKERS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{pieces[0]} {pieces[0]}"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)


def write_tensors(writer, shape, rng):
    hidden, q, kv = shape["hidden"], shape["heads"] * shape["dim"], shape["kv"] * shape["dim"]

    def matrix(name, rows, columns):
        data = rng.standard_normal((rows, columns), dtype=np.float32)
        data *= np.float32(columns**-0.5)
        writer.add_tensor(f"{name}.weight", data.astype(np.float16))

    def norm(name, length):
        writer.add_tensor(f"{name}.weight", (1 + 0.1 * rng.standard_normal(length)).astype(np.float32))

    matrix("token_embd", shape["vocab"], hidden)
    for i in range(shape["layers"]):
        norm(f"blk.{i}.attn_norm", hidden)
        for name, rows, columns in (("attn_q", q, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden),
                                    ("attn_output", hidden, q)):
            matrix(f"blk.{i}.{name}", rows, columns)
        norm(f"blk.{i}.attn_q_norm", shape["dim"])
        norm(f"blk.{i}.attn_k_norm", shape["dim"])
        norm(f"blk.{i}.ffn_norm", hidden)
        matrix(f"blk.{i}.ffn_gate", shape["width"], hidden)
        matrix(f"blk.{i}.ffn_up", shape["width"], hidden)
        matrix(f"blk.{i}.ffn_down", hidden, shape["width"])
    norm("output_norm", hidden)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try the scripts out")
    parser.add_argument("--keep-f16", action="store_true")
    parser.add_argument("--form", nargs="+", choices=FORMS, default=["Q4_K_M", "Q8_0"])
    args = parser.parse_args()
    shape = TINY if args.tiny else FULL
    args.folder.mkdir(parents=True, exist_ok=True)
    base = args.folder / f"{shape['name']}-f16.gguf"
    writer = gguf.GGUFWriter(str(base), "qwen3")
    write_metadata(writer, shape)
    write_tensors(writer, shape, np.random.default_rng(1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for form in args.form:
        target = args.folder / f"{shape['name']}-{form.lower()}.gguf"
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = FORMS[form], 2
        code = llama_cpp.llama_model_quantize(str(base).encode(), str(target).encode(), ctypes.byref(params))
        if code != 0:
            raise SystemExit(f"llama.cpp could not quantise to {form} ({code})")
        print(target, target.stat().st_size >> 20, "MiB")
    if not args.keep_f16:
        base.unlink()


if __name__ == "__main__":
    main()
