"""Writes random models that both serin and llama.cpp can run, for scripts/bench_cpu.py.

    pip install numpy gguf llama-cpp-python
    python scripts/make_peer_model.py FOLDER [--tiny] [--keep-f16] [--form Q4_K_M ...]

The shape is Qwen3-0.6B's (--tiny: a small one, for trying the scripts). Weights are generated once, written in
F16 and quantised by llama.cpp's own quantiser, so that weight types are mixed as in real files. Needs
about 3 GB of disk and memory. The vocabulary has the 256 bytes, fillers, and Qwen's markers at its end.
"""

import argparse
import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np

from make_random_gguf import write_metadata

FULL = dict(name="qwen3-0.6b-random", hidden=1024, layers=28, heads=16, kv=8, dim=128, width=3072,
            vocab=151936, context=40960, eps=1e-6, theta=1e6)
TINY = dict(name="qwen3-tiny-random", hidden=256, layers=2, heads=4, kv=2, dim=64, width=512,
            vocab=1024, context=4096, eps=1e-6, theta=1e6)
FORMS = {"Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
         "Q5_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_M, "Q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
         "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16}
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


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
    write_metadata(writer, shape, MARKERS, "qwen2")
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
