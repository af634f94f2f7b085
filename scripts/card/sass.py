"""Machine code as nvdisasm prints it: functions, their loops, and what a loop executes. Pure text, no toolkit.

A loop's count is that of one path through its body: the one with the most marks (tensor-core and dot-product
instructions, wide and asynchronous loads), and of those the longest. So a side path for unaligned rows does not count,
and a prefetch that only the last steps skip does. Products have one such path; attention has one for tiles that are
masked and one for others, of which the former counts.
"""

import re
from dataclasses import dataclass, field

FUNCTION = re.compile(r"^\.text\.(\w+):$")
LABEL = re.compile(r"^(\.L_\w+):$")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
TARGET = re.compile(r"`\((\.L_\w+)\)")
# ptxas writes some far jumps as calls that push no address; true calls name a function, not a label.
JUMPS = ("BRA", "JMP", "CALL")
ENDS = ("BRA", "BRX", "JMP", "CALL", "EXIT", "RET", "BREAK")

WIDE_LOAD = re.compile(r"^LDG\.(?:[A-Z0-9]+\.)*128")
MATRIX = re.compile(r"^(HMMA|IMMA|QGMMA|HGMMA|IGMMA)\b")
WHOLE = re.compile(r"^IMMA\b")
DOT = re.compile(r"^IDP\b")
ASYNC = re.compile(r"^LDGSTS\b")
LOCAL = re.compile(r"^(LDL|STL)\b")


@dataclass
class Instruction:
    opcode: str
    conditional: bool
    target: str  # of a branch; empty for others

    @property
    def is_mark(self):
        return any(mark.match(self.opcode) for mark in (MATRIX, DOT, ASYNC, WIDE_LOAD))


@dataclass
class Block:
    """Instructions without a branch between them."""
    label: str
    code: list = field(default_factory=list)
    after: list = field(default_factory=list)  # indices of the blocks that may follow


@dataclass
class Loop:
    """`blocks`: indices, inner loops' included; `head`: the first."""
    head: int
    blocks: frozenset


@dataclass
class Path:
    """What one pass through a loop executes."""
    instructions: int = 0
    counts: dict = field(default_factory=dict)

    def count(self, pattern):
        return sum(n for opcode, n in self.counts.items() if pattern.match(opcode))


def functions(text):
    """Function name -> its blocks, from nvdisasm's output."""
    found, blocks = {}, None
    for line in text.splitlines():
        if name := FUNCTION.match(line):
            blocks = [Block("")]
            found[name[1]] = blocks
        elif blocks is None:
            continue
        elif label := LABEL.match(line):
            blocks.append(Block(label[1]))
        elif one := INSTRUCTION.match(line):
            predicate, opcode, rest = one[1], one[2], one[3].strip()
            target = TARGET.search(rest) if opcode.split(".")[0] in JUMPS else None
            # A condition stands before the instruction, or before a branch's target.
            conditional = bool(predicate) or target is not None and not rest.startswith("`")
            blocks[-1].code.append(Instruction(opcode, conditional, target[1] if target else ""))
            if opcode.split(".")[0] in ENDS:
                blocks.append(Block(""))
    return {name: linked(blocks) for name, blocks in found.items()}


def linked(blocks):
    """The blocks that follow each; code behind the end of a function is only padding."""
    blocks = [block for block in blocks if block.code or block.label]
    at = {block.label: index for index, block in enumerate(blocks) if block.label}
    for index, block in enumerate(blocks):
        last = block.code[-1] if block.code else None
        family = last.opcode.split(".")[0] if last else ""
        if last and last.target in at:
            block.after.append(at[last.target])
        returns = family == "CALL" and last.target not in at
        bare = family in ENDS and not last.conditional and not returns
        if not bare and index + 1 < len(blocks):
            block.after.append(index + 1)
    return blocks


def loops(blocks):
    """Natural loops: of every branch back, the blocks from which it is reached without passing its target."""
    before = {index: [] for index in range(len(blocks))}
    for index, block in enumerate(blocks):
        for to in block.after:
            before[to].append(index)
    bodies = {}
    for index, block in enumerate(blocks):
        for head in (to for to in block.after if to <= index):
            body, rest = {head}, [index]
            while rest:
                one = rest.pop()
                if one not in body:
                    body.add(one)
                    rest.extend(before[one])
            # Entered elsewhere than at its head: no loop of a structured program.
            if 0 not in body or head == 0:
                bodies.setdefault(head, set()).update(body)
    return [Loop(head, frozenset(body)) for head, body in bodies.items()]


def inside(loop, all_loops):
    """Loops within `loop`, itself excepted."""
    return [other for other in all_loops if other.blocks < loop.blocks]


def path(blocks, loop, all_loops, trips=1):
    """One pass through a loop. Inner loops that multiply are passed `trips` times, others once."""
    times = {index: 1 for index in loop.blocks}
    for inner in inside(loop, all_loops):
        multiplies = any(MATRIX.match(one.opcode) or DOT.match(one.opcode)
                         for index in inner.blocks for one in blocks[index].code)
        for index in inner.blocks:
            times[index] *= trips if multiplies else 1
    # From each block to the loop's end: marks, instructions, blocks.
    best = {}
    for index in sorted(loop.blocks, reverse=True):
        ways = [best[to] for to in blocks[index].after if to in loop.blocks and to > index]
        marks, length, rest = max(ways, default=(0, 0, ()), key=lambda way: way[:2])
        own = blocks[index].code
        marks += sum(one.is_mark for one in own) * times[index]
        best[index] = (marks, length + len(own) * times[index], (index, *rest))
    taken = Path()
    for index in best[loop.head][2]:
        for one in blocks[index].code:
            taken.instructions += times[index]
            taken.counts[one.opcode] = taken.counts.get(one.opcode, 0) + times[index]
    return taken


def opcodes(blocks):
    """How often each instruction stands in a function."""
    counts = {}
    for block in blocks:
        for one in block.code:
            counts[one.opcode] = counts.get(one.opcode, 0) + 1
    return counts


def total(counts, pattern):
    return sum(n for opcode, n in counts.items() if pattern.match(opcode))
