"""Writes kernels/src/quant/grids.bin: the lists that the IQ1, IQ2 and IQ3 kinds of GGUF pick their numbers from.

The lists are part of the file format: they come from the gguf package. Each number is a signed byte; the lists follow
each other in the order of LISTS, as in kernels/src/quant/grid.rs. Prints the root of the mean square of each, from
which random weights get their scales. Needs: pip install numpy gguf. Run from the repository's root.
"""

from pathlib import Path

import numpy as np
from gguf import quants

LISTS = [quants.IQ3_XXS, quants.IQ3_S, quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ1_S]


def main():
    parts = []
    for kind in LISTS:
        kind.init_grid()
        numbers = kind.grid.reshape(kind.grid_shape).astype(np.int8)
        assert np.array_equal(numbers, kind.grid.reshape(kind.grid_shape))
        size = np.sqrt((numbers.astype(float) ** 2).mean())
        print(kind.__name__, numbers.shape, f"root of mean square {size:.3f}, mean {numbers.mean():.3f}")
        parts.append(numbers.tobytes())
    out = Path("kernels/src/quant/grids.bin")
    out.write_bytes(b"".join(parts))
    print(out, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
