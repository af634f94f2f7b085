"""Budgets of the kernels' figures, in kernels/budget.json: comparing them, and writing today's. Pure but for `load` and
`save`.

A budget is what holds today; a target is what is aimed at, and is only reported.
"""

import fnmatch
import json
import math
from dataclasses import dataclass

from card.cards import KIB, LIMITS

ARCHS = sorted(LIMITS)
WORDS = {"local": "accesses of local memory", "per_weight": "instructions per weight", "loop": "instructions of a pass",
         "blocks": "blocks a multiprocessor", "wide": "128-bit loads", "matrix": "tensor-core instructions"}
# Per weight, figures are kept to this; what is exceeded by less is not.
STEP = 0.01
SHARED = 99 * KIB


@dataclass
class Exceeded:
    """A figure beyond what is allowed."""
    kernel: str
    arch: int
    what: str
    figure: float
    allowed: float

    def __str__(self):
        where = f" on sm_{self.arch}" if self.arch else ""
        return f"{self.kernel}{where}: {self.what} {self.figure:g}, allowed {self.allowed:g}"


def load(path):
    return json.loads(path.read_text())


def applies(budget, kernel, arch):
    """Whether a kernel is launched on an architecture."""
    only = (archs for pattern, archs in budget["only"].items() if fnmatch.fnmatchcase(kernel, pattern))
    return arch in next(only, ARCHS)


def most(figures):
    """The figures that must not grow, and those that must not shrink."""
    per_weight = math.ceil(figures.instructions_per_weight / STEP - 1e-9) * STEP
    # Of kernels that are no products: instructions of a pass through the loop with tensor-core instructions.
    loop = figures.loop if figures.matrix and not figures.weights else 0
    return ({"local": figures.local, "per_weight": round(per_weight, 2), "loop": loop},
            {"blocks": figures.blocks, "wide": min(figures.wide, 1), "matrix": min(figures.matrix, 1)})


def compare(all_figures, budget):
    """Everything that exceeds its budget, kernels without one or without machine code included."""
    found = []
    for one in all_figures:
        if not applies(budget, one.kernel, one.arch):
            continue
        kept = budget["kernels"].get(one.kernel)
        if kept is None:
            found.append(Exceeded(one.kernel, one.arch, "kernels without a budget", 1, 0))
            continue
        at = ARCHS.index(one.arch)
        up, down = most(one)
        worse = [what for what, now in up.items() if now > kept[what][at] + 1e-9]
        worse += [what for what, now in down.items() if now < kept[what][at]]
        found += [Exceeded(one.kernel, one.arch, WORDS[what], {**up, **down}[what], kept[what][at]) for what in worse]
        if one.shared > SHARED and one.arch != 90:
            found.append(Exceeded(one.kernel, one.arch, "bytes of shared memory", one.shared, SHARED))
    there = {one.kernel for one in all_figures}
    return found + [Exceeded(kernel, 0, "budgets without a kernel", 1, 0)
                    for kernel in budget["kernels"] if kernel not in there]


def targets(all_figures, budget):
    """Each target in words, the kernels that miss it, and how many figures it is about."""
    for target in budget["targets"]:
        what, allowed = target["what"], target["value"]
        about = [one for one in all_figures if fnmatch.fnmatchcase(one.kernel, target["kernels"])
                 and one.arch in target.get("archs", ARCHS) and applies(budget, one.kernel, one.arch)]
        misses = lambda up, down: up.get(what, 0) > allowed or down.get(what, allowed) < allowed
        beyond = [one for one in about if misses(*most(one))]
        side = "at most" if what in ("local", "per_weight", "loop") else "at least"
        yield f"{target['kernels']}: {WORDS[what]}, {side} {allowed:g}", beyond, len(about)


# Rows up to which a step's products are not tiled.
FEW = 8


def launches(table):
    """The most launches of a layer with few rows and with many, and of a token of an 8B model with 32 layers, in
    kernels/launches.json."""
    layers = [(int(label.split()[0]), len(names)) for steps in table["layers"].values() for label, names in steps.items()]
    layer = lambda few: max((count for rows, count in layers if (rows <= FEW) == few), default=0)
    steps = table["steps"]["8B q4_k_m"].values()
    token = max(sum(int(line.split()[0]) for line in step["decode 1"]) for step in steps)
    return {"layer": layer(True), "layer with many rows": layer(False), "token": token}


def compare_launches(table, budget, which="budget"):
    now = launches(table)
    return [Exceeded("a step", 0, f"launches a {part}", now[part], kept[which])
            for part, kept in budget["launches"].items() if now[part] > kept[which]]


def updated(all_figures, table, budget):
    """The budget with today's figures."""
    kernels = {}
    for one in sorted(all_figures, key=lambda one: (one.kernel, one.arch)):
        up, down = most(one)
        here = applies(budget, one.kernel, one.arch)
        for what, now in {**up, **down}.items():
            kernels.setdefault(one.kernel, {}).setdefault(what, []).append(now if here else None)
    now = launches(table)
    counted = {part: {"budget": now[part], "target": kept["target"]} for part, kept in budget["launches"].items()}
    return {**budget, "launches": counted, "kernels": kernels}


def save(path, budget):
    """Writes a kernel a line."""
    head = {name: value for name, value in budget.items() if name != "kernels"}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items() if name != "targets"]
    lines.append('  "targets": [\n    ' + ",\n    ".join(map(json.dumps, budget["targets"])) + "\n  ]")
    kernels = [f"    {json.dumps(name)}: {json.dumps(kept)}" for name, kept in budget["kernels"].items()]
    lines.append('  "kernels": {\n' + ",\n".join(kernels) + "\n  }")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
