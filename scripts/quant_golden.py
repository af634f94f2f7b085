"""Writes the golden vectors of kernels/src/quant/golden.bin.

Random rows are quantised by ggml (through llama-cpp-python's library) and dequantised by the gguf package,
so that serin's decoding of the formats is compared with theirs. Needs: pip install numpy gguf llama-cpp-python

File: for each kind in the order of `Kind::ALL` but F32, 2 rows of 512 columns: the stored bytes, then the
dequantised values as little-endian f32. Run from the repository's root.
"""

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

ROWS, COLS = 2, 512
KINDS = [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_K, Type.Q5_K, Type.Q6_K]


def quantize(ggml, kind, rows):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(ROWS * COLS // block * size, dtype=np.uint8)
    pointer = ctypes.c_void_p(out.ctypes.data)
    source = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = ggml.ggml_quantize_chunk(
        ctypes.c_int(kind), source, pointer, ctypes.c_int64(0), ctypes.c_int64(ROWS),
        ctypes.c_int64(COLS), None,
    )
    assert written == out.size, (kind, written, out.size)
    return out


def main():
    library = next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    rng = np.random.default_rng(7)
    scale = rng.uniform(0.2, 2.0, size=(ROWS, COLS // 32, 1)).repeat(32, axis=2).reshape(ROWS, COLS)
    rows = (rng.standard_normal((ROWS, COLS)) * scale + 0.1).astype(np.float32)
    parts = []
    for kind in KINDS:
        stored = quantize(ggml, kind, rows)
        values = gguf.quants.dequantize(stored.reshape(ROWS, -1), kind).astype("<f4")
        assert values.shape == (ROWS, COLS)
        assert np.abs(values - rows).max() < 1.0
        parts += [stored.tobytes(), values.tobytes()]
    out = Path("kernels/src/quant/golden.bin")
    out.write_bytes(b"".join(parts))
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
