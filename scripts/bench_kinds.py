"""Compares serin's products with llama.cpp at one sequence, for each type of quantised weights.

    pip install numpy gguf llama-cpp-python      # from source: CMAKE_ARGS=-DGGML_NATIVE=ON, --no-binary
    cargo build -p serin-kernels --release --example decode_products
    python scripts/bench_kinds.py FOLDER [--threads 1] [--rounds 3] [--out benches/runs/cpu-kinds.json] [KIND ...]

serin: the products of one token through all matrices of a random model (`kernels/examples/decode_products.rs`), without
attention and norms. llama.cpp: a whole decode step of a file of the same shape (`make_random_gguf.py --kind`, written to
FOLDER if it is not there) at a context of a few tokens, where attention is little. Each side is the best of many, since
other work on the machine only adds to a step; the sides take turns, and the table has the best of all rounds. With one
thread nobody waits for another one that has lost its core. The percentage is the share of the bandwidth at which as many
threads do nothing but read.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
KINDS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
SECONDS, STEPS = 6.0, 48


def peer(path, threads):
    """Tokens per second of llama.cpp's best step."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from bench_cpu import Peer
    model = Peer(path, threads)
    model.open(1, 64)
    begun, best = time.perf_counter(), float("inf")
    while time.perf_counter() - begun < SECONDS:
        model.clear()
        for at in range(STEPS):
            start = time.perf_counter()
            model.step([(7 * at % 1000, at, 0, True)])
            best = min(best, time.perf_counter() - start)
    return 1 / best


def own(args, kind):
    """By instruction set: tokens per second, gigabytes of weights per second, and their share of what the machine reads."""
    done = subprocess.run([args.bench, str(args.threads), kind], capture_output=True, text=True, check=True)
    (_, read, _), *lines = map(str.split, done.stdout.splitlines())
    return {isa: [float(rate), float(bytes), float(bytes) / float(read)] for _, isa, rate, _, bytes, _ in lines}


def measure(args, kind):
    path = args.folder / f"{kind}.gguf"
    if not path.is_file():
        subprocess.run([sys.executable, ROOT / "scripts" / "make_random_gguf.py", path, "--kind", kind], check=True)
    peers, mine = [], {}
    for _ in range(args.rounds):
        command = [sys.executable, __file__, path, "--peer-only", "--threads", str(args.threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        peers.append(float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout))
        for isa, values in own(args, kind).items():
            mine.setdefault(isa, []).append(values)
    return {"peer": peers, "serin": mine}


def row(kind, made):
    best = max(made["peer"])
    cells = ["{:.1f} ({:.1f} GB/s, {:.0%})".format(*map(max, zip(*values))) for values in made["serin"].values()]
    ratios = {isa: max(v[0] for v in values) / best for isa, values in made["serin"].items()}
    return f"| {kind} | {best:.1f} | {' | '.join(cells)} | " + " | ".join(f"{r:.2f}" for r in ratios.values()) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("kinds", nargs="*", help="these only; all if left out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--bench", type=pathlib.Path, default=target / "release" / "examples" / "decode_products")
    parser.add_argument("--peer-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer_only:
        print(peer(args.folder, args.threads))
        return
    raw = {}
    for kind in args.kinds or KINDS:
        raw[kind] = measure(args, kind)
        if len(raw) == 1:
            names = list(raw[kind]["serin"])
            print("| kind | llama.cpp | " + " | ".join(names) + " | " + " | ".join(f"{n} / llama.cpp" for n in names) + " |")
            print("|" + "---|" * (2 + 2 * len(names)))
        print(row(kind, raw[kind]), flush=True)
        if args.out:
            args.out.write_text(json.dumps({"threads": args.threads, "kinds": raw}) + "\n")


if __name__ == "__main__":
    main()
