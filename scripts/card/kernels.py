"""What each kernel's hot loop does: weights of one pass, from the template parameters in the `.cu` files; and the
figures that follow from its machine code.

Pure: takes disassembly and the compiler's record, and reads no file.
"""

import re
from dataclasses import dataclass

from card import sass
from card.cards import KIB, LIMITS, occupancy

QUANT = re.compile(r"^product_(?:quant_\w+|gated_\w+|normed_\w+|mixed)_(\d)$")
TILED = re.compile(r"^product_(halves|tiles)(?:_gated|_normed)?_(\w+?)_(\d+)$")
# Two matrices in 8-bit tiles: a block's passes are those of one of the kinds.
PAIR = re.compile(r"^product_pair_(\d+)$")
DENSE = re.compile(r"^product_(?:dense|gated|normed)_(?:b?f16|f32_(\d))$")
# Rows, inputs, warps over rows, inputs and columns, groups of a step: `Shape` in product_halves.cu, product_tiles.cu.
SHAPES = {
    ("halves", 16): (128, 16, 4, 1, 2, 4),
    ("halves", 32): (128, 32, 4, 1, 2, 4),
    ("halves", 64): (128, 64, 4, 1, 2, 2),
    ("halves", 128): (128, 128, 4, 2, 1, 4),
    ("tiles", 16): (128, 16, 4, 1, 2, 4),
    ("tiles", 32): (128, 32, 4, 1, 2, 4),
    ("tiles", 64): (128, 64, 4, 2, 1, 2),
}
# Those of some kinds.
OTHERS = {
    ("halves", "q8_0", 32): (128, 32, 4, 1, 2, 2),
    **{("tiles", kind, 64): (128, 64, 4, 2, 1, 4) for kind in ("q4_0", "q4_1", "iq4_nl", "q4_k")},
}
GROUP = 32


class Unknown(Exception):
    """The machine code is not what the sources say: the parser or this file is out of date."""


def tile_shape(family, kind, inputs):
    """Of a tiled product, as in SHAPES."""
    return OTHERS.get((family, kind, inputs), SHAPES[family, inputs])


def work(name, taken):
    """Weights of a lane in the pass `taken`, or None for kernels that are no products. Checks the multiplications in it
    against the template parameters."""
    mma, dot, wide = (taken.count(what) for what in (sass.MATRIX, sass.DOT, sass.WIDE_LOAD))
    if found := QUANT.match(name):
        inputs = int(found[1])
        rows = 2 if inputs <= 4 else 4
        return repeated(name, dot, 8 * rows * inputs) * rows * GROUP
    if found := TILED.match(name):
        rows, inputs, down, across, split, groups = tile_shape(found[1], found[2], int(found[3]))
        fragments = rows // down // 16 * (inputs // across // 8) * groups // split
        twice = found[1] == "halves" or found[2] == "q6_k"
        # Beside whole numbers, 8-bit tiles multiply minima, in tf32.
        count = mma if found[1] == "halves" else taken.count(sass.WHOLE)
        if repeated(name, count, fragments * (2 if twice else 1)) != 1:
            raise Unknown(f"{name}: a pass multiplies {count} fragments, more than a step has")
        return rows * groups * GROUP / (32 * down * across * split)
    if found := DENSE.match(name):
        # Two rows of four columns a lane; or 16 rows of 16 columns for a tensor-core instruction and a warp.
        return repeated(name, wide, 2 + int(found[1])) * 8 if found[1] else repeated(name, mma, 1) * 8
    return None


def repeated(name, count, once):
    if count == 0 or count % once:
        raise Unknown(f"{name}: {count} multiplications or loads in its loop, no multiple of {once}")
    return count // once


def trips(name):
    """Passes of the loop over a step's groups, where it is one."""
    found = TILED.match(name)
    if not found:
        return 1
    _, _, _, _, split, groups = tile_shape(found[1], found[2], int(found[3]))
    # They are done in pairs, but for those of 8 bits whose halves have scales of their own.
    return max(1, groups // split // (1 if found[1] == "tiles" and (found[2] == "q6_k" or found[2] == "q8_0" and "_gated_" in name) else 2))


def hot(name, blocks):
    """The pass through the loop that multiplies most, inner loops included; None without one."""
    loops = sass.loops(blocks)
    passes = [sass.path(blocks, loop, loops, trips(name)) for loop in loops]
    weight = lambda one: (one.count(sass.MATRIX) + one.count(sass.DOT), one.count(sass.WIDE_LOAD), -one.instructions)
    best = max(passes, key=weight, default=None)
    return best if best and weight(best)[:2] > (0, 0) else None


@dataclass
class Figures:
    """Of a kernel on an architecture."""
    kernel: str
    arch: int
    registers: int
    local: int        # instructions that read or write local memory: spilled registers, or arrays
    static: int
    dynamic: int
    threads: int
    blocks: int
    warps: int
    limit: str
    loop: int         # instructions of a pass through the hot loop; 0 without one
    weights: float    # of a lane in a pass; 0 for kernels that are no products
    wide: int         # 128-bit loads and asynchronous copies
    matrix: int       # tensor-core instructions

    @property
    def shared(self):
        return self.static + self.dynamic

    @property
    def instructions_per_weight(self):
        return self.loop / self.weights if self.weights else 0.0


def figures(name, arch, usage, blocks, launch):
    """`launch`: threads, and dynamic shared memory where a block may have 99 KiB, and where it may have more."""
    threads, *shared = launch
    dynamic = shared[LIMITS[arch].block_shared > 99 * KIB]
    fit = occupancy(arch, threads, usage.registers, usage.shared + dynamic)
    taken = hot(name, blocks)
    counts = sass.opcodes(blocks)
    weights = work(name, taken or sass.Path()) or 0.0
    return Figures(kernel=name, arch=arch, registers=usage.registers, local=sass.total(counts, sass.LOCAL),
                   static=usage.shared, dynamic=dynamic, threads=threads, blocks=fit.blocks, warps=fit.warps,
                   limit=fit.limit, loop=taken.instructions if taken else 0, weights=weights,
                   wide=sass.total(counts, sass.WIDE_LOAD) + sass.total(counts, sass.ASYNC),
                   matrix=sass.total(counts, sass.MATRIX))
