"""What cards have: limits of a multiprocessor by architecture, sizes and rates of products; and occupancy.

Knows no kernel. Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", and
`cuda_occupancy.h` of CUDA 13.0 for the granularities. Products: NVIDIA's data sheets (clock: boost).
"""

from dataclasses import dataclass

KIB = 1024
WARP = 32
# Bytes of a block's shared memory that the driver keeps (from compute capability 8.0 on).
RESERVED = 1 * KIB
# Granularities: bytes of shared memory, registers of a warp; parts of a multiprocessor.
SHARED_UNIT, REGISTER_UNIT, PARTS = 128, 256, 4
REGISTERS = 65536


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor and its blocks."""
    warps: int
    blocks: int
    shared: int        # of a multiprocessor, in bytes
    block_shared: int  # of one block, static and dynamic
    # Multiply-adds of tensor cores a cycle, by warps' own instructions: bf16 with f32 sums, tf32, and 8-bit. Those of
    # sm_90 reach 63 % of the data sheet's rate (arXiv:2402.13499); its library has other instructions, which reach it.
    bf16: int
    tf32: int
    int8: int
    library: int  # bf16, by the library


LIMITS = {
    86: Limits(48, 16, 100 * KIB, 99 * KIB, 256, 128, 1024, 256),
    89: Limits(48, 24, 100 * KIB, 99 * KIB, 256, 128, 1024, 256),
    90: Limits(64, 32, 228 * KIB, 227 * KIB, 1290, 645, 2580, 2048),
    120: Limits(48, 24, 100 * KIB, 99 * KIB, 256, 128, 1024, 256),
}


@dataclass(frozen=True)
class Card:
    """A product."""
    arch: int
    multiprocessors: int
    clock: float      # Hz
    bandwidth: float  # bytes per second
    l2: int           # bytes

    @property
    def limits(self):
        return LIMITS[self.arch]


CARDS = {
    "RTX 3060": Card(86, 28, 1.777e9, 360e9, 3 << 20),
    "RTX 4090": Card(89, 128, 2.520e9, 1008e9, 72 << 20),
    "RTX 5090": Card(120, 170, 2.407e9, 1792e9, 96 << 20),
    "H100": Card(90, 132, 1.830e9, 3352e9, 50 << 20),
}


def round_up(count, unit):
    return -(-count // unit) * unit


@dataclass(frozen=True)
class Occupancy:
    blocks: int
    warps: int
    limit: str  # what allows no more blocks


def occupancy(arch, threads, registers, shared):
    """Blocks of `threads` that fit on a multiprocessor; `shared`: static and dynamic bytes of a block."""
    limits = LIMITS[arch]
    warps = -(-threads // WARP)
    room = {"threads": limits.warps // warps, "blocks": limits.blocks}
    own = round_up(max(registers, 1) * WARP, REGISTER_UNIT)
    whole = round_up(warps, PARTS) * own <= REGISTERS
    room["registers"] = REGISTERS // PARTS // own * PARTS // warps if whole and registers <= 255 else 0
    fits = shared <= limits.block_shared
    room["shared"] = limits.shared // round_up(shared + RESERVED, SHARED_UNIT) if fits else 0
    limit = min(room, key=lambda what: room[what])
    return Occupancy(room[limit], room[limit] * warps, limit)
