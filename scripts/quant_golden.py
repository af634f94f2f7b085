"""Writes the golden vectors of kernels/src/quant/golden.bin.

Random rows are quantised by ggml (through llama-cpp-python's library) and dequantised by ggml too, and by the gguf
package, which has to agree, so that serin's decoding of the formats is compared with theirs. Kinds that need to know
how much each column matters are told that all matter alike. Needs: pip install numpy gguf llama-cpp-python

File: for each kind in the order of `Kind::ALL` but F32, 2 rows of 512 columns: the stored bytes, then the
dequantised values as little-endian f32. Run from the repository's root.
"""

import ctypes
import os
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

ROWS, COLS = 2, 512
KINDS = [
    Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.Q4_1, Type.Q5_0, Type.Q5_1,
    Type.Q2_K, Type.Q3_K, Type.IQ4_NL, Type.IQ4_XS, Type.MXFP4, Type.IQ3_XXS, Type.IQ3_S, Type.IQ2_XXS, Type.IQ2_XS,
    Type.IQ2_S, Type.IQ1_S, Type.IQ1_M,
]


class Traits(ctypes.Structure):
    """ggml's ggml_type_traits, as far as it is needed."""

    _fields_ = [
        ("type_name", ctypes.c_char_p), ("blck_size", ctypes.c_int64), ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t), ("is_quantized", ctypes.c_bool), ("to_float", ctypes.c_void_p),
    ]


def quantize(ggml, kind, rows):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(ROWS * COLS // block * size, dtype=np.uint8)
    alike = np.ones(COLS, dtype=np.float32).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    matters = alike if ggml.ggml_quantize_requires_imatrix(ctypes.c_int(kind)) else None
    pointer = ctypes.c_void_p(out.ctypes.data)
    source = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = ggml.ggml_quantize_chunk(
        ctypes.c_int(kind), source, pointer, ctypes.c_int64(0), ctypes.c_int64(ROWS),
        ctypes.c_int64(COLS), matters,
    )
    assert written == out.size, (kind, written, out.size)
    return out


def dequantize(ggml, kind, stored):
    out = np.zeros((ROWS, COLS), dtype="<f4")
    to_float = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        ggml.ggml_get_type_traits(ctypes.c_int(kind)).contents.to_float)
    to_float(stored.ctypes.data, out.ctypes.data, out.size)
    same = gguf.quants.dequantize(stored.reshape(ROWS, -1), kind)
    assert np.allclose(out, same, rtol=1e-6, atol=0), kind
    return out


def main():
    # Another build of llama.cpp may be named to llama-cpp-python.
    lib = os.environ.get("LLAMA_CPP_LIB_PATH", Path(llama_cpp.__file__).parent / "lib")
    ggml = ctypes.CDLL(str(next(Path(lib).glob("libggml-base.so*"))))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    rng = np.random.default_rng(7)
    scale = rng.uniform(0.2, 2.0, size=(ROWS, COLS // 32, 1)).repeat(32, axis=2).reshape(ROWS, COLS)
    rows = (rng.standard_normal((ROWS, COLS)) * scale + 0.1).astype(np.float32)
    parts = []
    for kind in KINDS:
        stored = quantize(ggml, kind, rows)
        values = dequantize(ggml, kind, stored)
        # Even with less than two bits a number, most of the rows is left.
        assert np.square(values - rows).mean() < 0.5 * np.square(rows).mean(), kind
        parts += [stored.tobytes(), values.tobytes()]
    out = Path("kernels/src/quant/golden.bin")
    out.write_bytes(b"".join(parts))
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
