"""Time of a step on a card: from bytes, instructions and launches that are counted elsewhere. Pure.

A step is a list of launches, one after the other. A launch takes the longest of reading its bytes, issuing its
instructions and multiplying on tensor cores, and a fixed time for its start and end. Blocks of a product are spread
over the multiprocessors; the one with the most decides. Then comes the host.

All constants are here. None is fitted to a single figure; what each comes from stands beside it.
"""

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass

from card.budget import ARCHS
from card.kernels import GROUP, PAIR, TILED, tile_shape

# Share of the data sheet's bandwidth that kernels can read: the H100's copies reach 2,986 of 3,352 GB/s
# (benches/runs/card-nvidia-h100-80gb-hbm3.md). Assumed of the others.
BANDWIDTH = 0.89
# From the end of one kernel to the start of the next within a graph. Overlapped launches save it: 373 -> 401 tokens/s
# with 167 overlapped launches of a token (benches/runs/card-h100-steps.md).
GAP = 1.1e-6
# A kernel's own start and end: first loads, last blocks. Chosen such that llama.cpp's launches, GAP included, give its
# rates on three cards within 10 %.
RAMP = 1.5e-6
# The end of a kernel whose last blocks put together what others have left: a fence, a count and a read, each a round trip
# to the L2 cache of about 600 cycles under load. Assumed.
JOIN = 1.0e-6
# What the L2 cache reads and writes, over what memory does. Assumed.
L2 = 3
# Cycles between two instructions of a warp, on average. In tiles and attention, whose warps meet at barriers and in
# shared memory: 1.8 instructions a cycle with 16 warps, counted on an H100 (benches/runs/card-h100-steps.md). In
# matrix-vector products, whose sums are independent: from 2,112 tokens/s with 8 sequences of 8B Q4_K_M there, with 12
# warps.
INTERVAL, FREE_INTERVAL = 16 / 1.8, 6.0
# The most that a multiprocessor's four schedulers issue a cycle.
ISSUE = 4 * 0.85
# Share of the tensor cores' rate that a kernel, or the library, reaches.
TENSOR = 0.7
# The host before a step that is not enqueued ahead: reading the ids, bookkeeping, the next launch. An estimate.
HOST, HOST_ROW = 40e-6, 2.5e-6
# llama.cpp, one sequence of an 8B model: launches of a layer by its graph's operations, none of them fused (norm; 3
# roundings and 3 products of queries, keys and values; 2 rotations; 2 writes to the cache; attention and its join;
# rounding and product; sum; norm; rounding; 2 products; gate; rounding; product; sum). Instructions per weight of its
# Q4_K product: about 4, with which reading still takes longer on all three cards.
PEER_LAUNCHES, PEER_PER_WEIGHT, PEER_WARPS = 24, 4.0, 32

# Kinds with a minimum for each 32 weights, and multiply-adds in tf32 that 8-bit tiles do for it, by weight.
MINIMA, MINIMUM = {"q4_1", "q5_1", "q4_k", "q5_k"}, 4 / 32
# Bytes of a weight, its scales included.
BYTES = {"q4_k": 144 / 256, "q6_k": 210 / 256, "q8_0": 34 / 32, "bf16": 2.0}
HEAD_DIM = 128
# Kernels that let the next one begin at once (decision 046), or before work of their last blocks that takes longer than
# GAP (decision 063). Of tiles and attention, see `lets_begin`.
EARLY = re.compile(r"^(norm_|rope_|rows_|embed_|sample_|logprobs_|step_inputs|product_normed_)")
# Those of them in front of products that begin when all is over: the library's, and tiles when an H100 was measured.
BEFORE_LATE = re.compile(r"^(rope_|embed_|sample_|logprobs_|step_inputs)")
# Those of gate and up whose outputs are rounded to 8 bits.
ROUNDED = re.compile(r"^product_gated_q\w+$")
# Those that join the residual stream, and norm it; of up to 8 inputs of 8 bits; in tiles.
NORMED, NORMED_EIGHTS = re.compile(r"^product_(tiles_)?normed_"), re.compile(r"^product_normed_q")
NORMED_TILES = re.compile(r"^product_tiles_normed_")
# Gate and up in tiles, with their activation.
GATED_TILES = re.compile(r"^product_tiles_gated_")
# Those of few inputs.
FREE = re.compile(r"^product_(quant|mixed|gated|dense|normed)_")
# Instructions of a warp, counted in machine code for sm_89: of product_normed_q4_k_1 behind its count, for a piece of one
# input; and of product_quant_q4_k_1 for the scale of its inputs, which have 32 pieces. Each warp's come one after the
# other, at the interval of matrix-vector products.
PIECE, SCALE = 81, 44
# Instructions of a warp for the activation and the rounding of 4 outputs a lane, of gate and up in tiles: counted for sm_86
# along the path without a bias in product_tiles_gated_q4_k_32.
ACTIVATION = 237
# The same in tiles, counted for sm_86: in product_tiles_normed_q4_k_32, for a piece more than for as many results of
# product_tiles_q4_k_32; and in the latter, for the scales of its inputs. At the interval of tiles.
TILE_PIECE, TILE_SCALE = 46, 115
# Most rows that are normed so, and most of 8 bits.
FEW, MANY = 8, 64
# Instructions of a warp in decode attention before its loop that it did not have when heads were prepared by a launch of
# their own: 404 instead of 180, counted along the path of the block with the new token in the machine code of
# attention_decode_f16_128 for sm_89, with four query heads to a key head, rotation, and neither bias nor norms.
PREPARE = 224
# Keys of a pass of attention's loop, all warps of a block together: heads of 128 (attention_decode.cu, _prefill.cu).
KEYS = 64


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    experts: int = 0  # of which `active` are chosen for each token
    active: int = 0


SHAPES = {
    "0.6B": Shape(1024, 28, 16, 8, 3072, 151936),
    "8B": Shape(4096, 32, 32, 8, 14336, 128256),
    "14B": Shape(5120, 40, 40, 8, 17408, 151936),
    "30B-A3B": Shape(2048, 48, 32, 4, 768, 151936, 128, 8),
}


@dataclass(frozen=True)
class Matrix:
    """Weights of a product."""
    kind: str
    rows: int
    columns: int

    @property
    def weights(self):
        return self.rows * self.columns

    @property
    def bytes(self):
        return self.weights * BYTES[self.kind]


@dataclass(frozen=True)
class Line:
    """Equal launches of a step, from kernels/launches.json."""
    count: int
    name: str
    blocks: tuple
    threads: int
    matrices: tuple = ()  # of a product
    inputs: int = 0       # 0: the step's

    @staticmethod
    def read(text):
        count, name, blocks, threads, *what = text.split()
        matrices = tuple(Matrix(kind, *map(int, shape.split("x"))) for kind, shape in zip(what[::2], what[1::2]))
        return Line(int(count), name, tuple(map(int, blocks.split("x"))), int(threads), matrices)

    @property
    def rows(self):
        return sum(matrix.rows for matrix in self.matrices)

    @property
    def columns(self):
        return self.matrices[0].columns if self.matrices else 0

    @property
    def weights(self):
        return sum(matrix.weights for matrix in self.matrices)


@dataclass(frozen=True)
class Step:
    """`n` rows, or tokens of one prompt; `context`: tokens in the cache, of each row."""
    shape: Shape
    n: int
    prompt: bool
    context: int

    @property
    def rows(self):
        return 1 if self.prompt else self.n


@dataclass(frozen=True)
class Change:
    """What is tried out: figures other than today's."""
    tile_blocks: int = 0          # of tiled products on a multiprocessor, at least
    overlap: bool = False         # every launch is overlapped
    waits: bool = False           # decoding steps are enqueued one by one, as before decision 059
    late: bool = False            # tiles begin when all is over, and let nothing begin, as when an H100 was measured


@dataclass
class Time:
    """Of a step, in seconds, by what decides."""
    memory: float = 0.0
    issue: float = 0.0
    tensor: float = 0.0
    launches: float = 0.0
    host: float = 0.0
    count: int = 0

    @property
    def total(self):
        return self.memory + self.issue + self.tensor + self.launches + self.host


def tiled(name):
    return TILED.match(name) or PAIR.match(name)


def tiles_down(matrix):
    return math.ceil(matrix.rows / 128)


def expert_share(shape, n):
    """Experts of a layer that `n` tokens choose between them, each at random."""
    return shape.experts * (1 - (1 - shape.active / shape.experts) ** n)


def expand(lines, step):
    """With experts: the launches of one expert stand for all that are chosen, as if one launch took a table of them;
    and three launches of a router."""
    shape = step.shape
    if not shape.experts:
        return lines
    chosen = expert_share(shape, step.n)
    inputs = math.ceil(step.n * shape.active / chosen)

    def experts(line):
        if not {shape.intermediate, 2 * shape.intermediate} & {line.rows, line.columns}:
            return [line]
        matrix, = line.matrices
        matrix = dataclasses.replace(matrix, rows=round(matrix.rows * chosen))
        gates = line.name.startswith("product_gated") or GATED_TILES.match(line.name)
        if inputs <= 8:
            family = "gated" if gates else "quant"
            name, at_once, threads = f"product_{family}_{matrix.kind}_{inputs}", 8 if inputs <= 4 else 16, 128
        else:
            family = TILED.match(line.name)[1] + ("_gated" if gates else "")
            name, at_once, threads = f"product_{family}_{matrix.kind}_32", 128, 256
        own = dataclasses.replace(line, name=name, matrices=(matrix,), inputs=inputs, threads=threads,
                                  blocks=(1, math.ceil(matrix.rows / at_once), 1))
        # What experts give is added up before it is normed.
        return [own, Line(line.count, "norm_4_q8", (1, 1, 1), 1024)] if NORMED.match(line.name) else [own]

    return [*itertools.chain(*map(experts, lines)), Line(3 * shape.layers, "router", (1, 1, 1), 128)]


def joins(line):
    """Whether the last of several blocks puts together what they have left; of tiles, see `ramps`."""
    together = ROUNDED.match(line.name) or NORMED.match(line.name) and not tiled(line.name)
    return together or line.name.startswith("attention_decode") and line.blocks[0] > 1


def scales(line, step):
    """Whether a product's inputs are rows that a norm has left without their scale."""
    if step.prompt or NORMED.match(line.name) or line.columns != step.shape.hidden:
        return False
    if line.name.startswith(("product_tiles", "product_pair")):
        return step.n <= MANY
    return bool(FREE.match(line.name)) and step.n <= FEW


def pieces(card, line, step):
    """Pieces of normed rows that a warp has one after the other: of the last blocks, whose 4 or 8 warps have an input each;
    or of an embedding's, of which 8 warps have 16 pieces or 2."""
    if NORMED.match(line.name):
        return math.ceil(step.n / (4 if NORMED_EIGHTS.match(line.name) else 8))
    # Products of more inputs take 8 bits on GeForce.
    eights = line.name.startswith("embed_q")
    most = MANY if eights and card.arch != 90 else FEW
    few = line.name.startswith("embed_") and not step.prompt and step.n <= most
    return (2 if eights else 1) if few else 0


def turns_of(card, line, resident):
    """Of tiles, `resident` of which a multiprocessor has at a time, those that one has one after the other: the blocks that
    share a tile leave what follows to the last one."""
    tiles = sum(map(tiles_down, line.matrices)) * line.blocks[0]
    return math.ceil(math.ceil(tiles / card.multiprocessors) / resident)


def norm_time(card, line, step, resident):
    """What a norm costs a launch that it is a part of, at its end."""
    scaled, parts = scales(line, step), pieces(card, line, step)
    if tiled(line.name):
        instructions = (TILE_SCALE if scaled else 0) + TILE_PIECE * parts
        return instructions and turns_of(card, line, resident) * instructions * INTERVAL / card.clock
    return ((SCALE if scaled else 0) + PIECE * parts) * FREE_INTERVAL / card.clock


def activation_time(card, line, resident):
    """What the activation costs tiles of gate and up. A tile has half as many outputs as sums."""
    if not GATED_TILES.match(line.name):
        return 0.0
    found = TILED.match(line.name)
    rows, inputs, *_ = tile_shape(found[1], found[2], int(found[3]))
    turns = turns_of(card, line, resident)
    return turns * ACTIVATION * rows * inputs / 2 / 4 / line.threads * INTERVAL / card.clock


def traffic(line, step):
    """Bytes of weights and cache, which come from memory, and of activations, which the L2 cache may hold."""
    shape, n = step.shape, step.n
    if line.weights:
        inputs = line.inputs or (1 if step.prompt and line.rows == shape.vocab else n)
        # One that joins the residual stream reads it, and its last blocks do what a norm does. Tiles of gate and up write
        # half as many numbers, of 8 bits, and their scales.
        each = 14 if NORMED.match(line.name) else 0.625 if GATED_TILES.match(line.name) else 4
        return sum(matrix.bytes for matrix in line.matrices), inputs * each * line.rows
    qkv = (shape.heads + 2 * shape.kv_heads) * HEAD_DIM
    gated = shape.intermediate * (shape.active or 1)
    each = {"norm": 14 * shape.hidden, "rows": 10 * gated, "rope": 8 * qkv, "embed": 6 * shape.hidden}
    family = line.name.split("_")[0]
    if family == "attention":
        shares = 4 if joins(line) else 0
        return step.rows * 2 * shape.kv_heads * HEAD_DIM * 2 * step.context, n * qkv * (6 + shares)
    if family == "sample":
        return 0, step.rows * shape.vocab * 4
    return 0, each.get(family, 0) * n


def memory_time(card, line, step):
    weights, activations = traffic(line, step)
    near = L2 if activations <= card.l2 else 1
    return (weights + activations / near) / (BANDWIDTH * card.bandwidth)


def block_instructions(card, line, step, kernels):
    """Warps' instructions of a block, all of its warps together."""
    blocks = math.prod(line.blocks)
    if line.name.startswith(("attention_decode", "attention_prefill")):
        passes = math.ceil((step.n if step.prompt else step.context / line.blocks[0]) / KEYS)
        # A prompt's tiles of queries see half of it on average; where all run at once, the last one decides.
        seen = 0.5 + 0.5 * min(1, card.multiprocessors / blocks) if step.prompt else 1
        before = 0 if step.prompt else PREPARE
        return (kernels.loop(line.name) * passes * seen + before) * line.threads / 32
    if not line.weights or line.name == "gemm":
        return 0.0
    found = TILED.match(line.name)
    if found:
        rows, *_, groups = tile_shape(found[1], found[2], int(found[3]))
        columns = groups * GROUP
        weights = rows * columns * math.ceil(math.ceil(line.columns / columns) / line.blocks[2])
        return weights * kernels.per_weight(line.name) / 32
    if found := PAIR.match(line.name):
        # What each kind's own kernel issues, rows beyond the last included; a block's is the average.
        across, names = line.blocks[0], [f"product_tiles_{matrix.kind}_{found[1]}" for matrix in line.matrices]
        all_of = sum(tiles_down(matrix) * 128 * matrix.columns * across * kernels.per_weight(name)
                     for matrix, name in zip(line.matrices, names))
        return all_of / blocks / 32
    scale = SCALE * line.threads / 32 if scales(line, step) else 0
    if line.name.startswith("product_mixed"):
        # What each kind's own kernel issues; a block's is the average.
        inputs = line.name[-1]
        names = [f"product_quant_{matrix.kind}_{inputs}" for matrix in line.matrices]
        all_of = sum(matrix.weights * kernels.per_weight(name) for matrix, name in zip(line.matrices, names))
        return all_of / blocks / 32 + scale
    return line.weights / blocks * kernels.per_weight(line.name) / 32 + scale


def issue_time(card, line, step, kernels):
    """Of the multiprocessor with the most blocks, as many at a time as fit; and how many times."""
    own = block_instructions(card, line, step, kernels)
    if not own:
        return 0.0, 1
    resident, warps = kernels.resident(line.name), line.threads / 32
    interval = FREE_INTERVAL if FREE.match(line.name) else INTERVAL
    rate = lambda count: min(ISSUE, count * warps / interval)
    most = math.ceil(math.prod(line.blocks) / card.multiprocessors)
    full, rest = divmod(most, resident)
    cycles = full * resident * own / rate(resident) + (rest * own / rate(rest) if rest else 0)
    return cycles / card.clock, math.ceil(most / resident)


def tensor_time(card, line, step):
    limits = card.limits
    inputs = line.inputs or step.n
    if line.name == "gemm":
        cycles = line.weights * inputs / limits.library
    elif line.name.startswith("product_halves"):
        cycles = line.weights * inputs / limits.bf16
    elif line.name.startswith(("product_tiles", "product_pair")):
        minima = sum(matrix.weights for matrix in line.matrices if matrix.kind in MINIMA) * MINIMUM
        cycles = line.weights * inputs / limits.int8 + minima * inputs / limits.tf32
    else:
        return 0.0
    return cycles / (TENSOR * card.multiprocessors * card.clock)


class Kernels:
    """What the budget says of kernels on one architecture."""

    def __init__(self, arch, budget, change):
        self.at, self.kept, self.change = ARCHS.index(arch), budget["kernels"], change

    def figure(self, name, what, missing):
        return self.kept[name][what][self.at] if name in self.kept else missing

    def per_weight(self, name):
        return self.figure(name, "per_weight", 0.0)

    def loop(self, name):
        return self.figure(name, "loop", 0)

    def resident(self, name):
        blocks = self.figure(name, "blocks", 1)
        return max(blocks, self.change.tile_blocks) if tiled(name) else blocks


def lets_begin(card, line, resident, longest):
    """Whether a launch that takes `longest`, without its start and end, lets the next one begin while work is left that
    takes longer than GAP."""
    if tiled(line.name):
        # Behind a block's last step. Then the blocks of a tile come together, which is a ramp, and the activation follows.
        return RAMP * is_joined(line) + activation_time(card, line, resident) > GAP
    if line.name.startswith("attention_decode"):
        # At once, if no blocks come together in the end.
        return line.blocks[0] == 1 and longest > GAP
    return bool(EARLY.match(line.name))


def hides_gap(card, line, resident, longest, late, change):
    """Whether the gap behind a launch is hidden. `late`: products of the step begin when all is over."""
    if change.overlap or card.arch < 90:
        return change.overlap
    return bool(BEFORE_LATE.match(line.name)) if late else lets_begin(card, line, resident, longest)


def is_joined(line):
    """Whether blocks share a tile."""
    if PAIR.match(line.name):
        return line.blocks[1] > sum(map(tiles_down, line.matrices))
    return line.blocks[2] > 1


def ramps(line, waves):
    """Starts and ends of a launch: every wave of tiles fills its stages anew, and shares of a tile are joined after."""
    if not tiled(line.name):
        return 1
    return waves + is_joined(line)


def predict(card, lines, step, budget, change=Change()):
    """Time of a step, of lines that are expanded."""
    kernels = Kernels(card.arch, budget, change)
    time, gaps = Time(count=sum(line.count for line in lines)), 0
    late = any(line.name == "gemm" or change.late and tiled(line.name) for line in lines)
    for line in lines:
        issue, waves = issue_time(card, line, step, kernels)
        parts = {"memory": memory_time(card, line, step), "issue": issue, "tensor": tensor_time(card, line, step)}
        most = max(parts, key=lambda part: parts[part])
        setattr(time, most, getattr(time, most) + line.count * parts[most])
        resident = kernels.resident(line.name)
        ends = (JOIN if joins(line) else 0) + norm_time(card, line, step, resident)
        ends += activation_time(card, line, resident)
        time.launches += line.count * (ramps(line, waves) * RAMP + ends)
        gaps += 0 if hides_gap(card, line, kernels.resident(line.name), parts[most], late, change) else line.count
    time.launches += GAP * gaps
    if step.prompt or change.waits:
        time.host = HOST + HOST_ROW * step.rows
    return time


def peer(card, shape, lines, step):
    """llama.cpp's time of a token, with the same bytes."""
    memory = sum(line.count * memory_time(card, line, step) for line in lines)
    weights = sum(line.count * line.weights for line in lines)
    speed = card.multiprocessors * card.clock * min(ISSUE, PEER_WARPS / FREE_INTERVAL)
    launches = PEER_LAUNCHES * shape.layers + 5
    return max(memory, weights * PEER_PER_WEIGHT / 32 / speed) + launches * (RAMP + GAP) + HOST


def rate(step, time):
    """Tokens per second."""
    return step.n / time
