"""Compares serin's engine with llama.cpp on the same GGUF files, in turn, on this machine.

    pip install numpy llama-cpp-python      # from source: CMAKE_ARGS=-DGGML_NATIVE=ON, --no-binary
    python scripts/make_peer_model.py FOLDER
    cargo build --release --example engine_bench
    python scripts/bench_cpu.py FOLDER/*.gguf --out benches/runs/cpu-peer [--rounds 5] [--threads 2]
    python scripts/bench_cpu.py FOLDER/*.gguf --out benches/runs/cpu-peer --more    # adds rounds to those

Each type of weights by itself: `make_random_gguf.py FILE --kind TYPE`, and `--decode-only --sequences 1` here.

Each round takes every measurement on every file with both programs, each in its own process. Which program
runs first alternates between rounds. Both sides use the same counts and time the same things:

- prefill: a prompt of 512 tokens to its first greedy token
- decode: 1, 8 and 16 sequences with prompts of 128, 64 greedy tokens each; tokens per second while all of
  them decode (for serin from the last first token to the first last one, for llama.cpp the 63 steps)
- whole: the same from the first prompt to the last token, including prefill (for information)
- second turn (serin only): TTFT of a prompt of 1,040 tokens, of which at least 1,000 were in the previous
  turn, divided by that of an unseen prompt of the same length

llama.cpp: n_batch and n_ubatch 512, f16 cache, flash attention as it chooses, OpenMP as built. With
several sequences, both a shared cache and one cache per sequence are tried, and the better result counts.
A bar is reached if both the ratio of the best results and the median of the rounds' ratios reach it. A run
is repeated (--again) if other work used more than a few hundredths of the machine, whatever its result.
Writes OUT.json (everything) and OUT.md (the table).
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
PREFILL, PROMPT, NEW = 512, 128, 64
BARS = {"prefill_512": 0.9, "decode_1": 1.0, "decode_8": 1.1, "decode_16": 1.1}
TURN_BAR = 0.15
# Share of the machine that other work may use during a run; beyond it, the run is repeated.
OTHERS = 0.03


class Peer:
    """llama.cpp through its C interface."""

    def __init__(self, path, threads):
        import llama_cpp
        self.lib, self.threads = llama_cpp, threads
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, None)
        defaults = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), defaults)
        assert self.model, path
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.rng = np.random.default_rng(1)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.context = None

    def open(self, sequences, tokens, unified=False):
        """A context for a number of sequences of a given length, with a shared cache or one per sequence."""
        if self.context:
            self.lib.llama_free(self.context)
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = sequences * tokens, sequences
        params.n_batch = params.n_ubatch = 512
        params.kv_unified = unified
        params.n_threads = params.n_threads_batch = self.threads
        self.context = self.lib.llama_init_from_model(self.model, params)
        assert self.context

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def step(self, rows):
        """Runs (token, position, sequence, wanted) rows; returns the greedy token of each wanted one."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        code = self.lib.llama_decode(self.context, batch)
        assert code == 0, code
        get = self.lib.llama_get_logits_ith
        row = lambda i: np.ctypeslib.as_array(get(self.context, i), shape=(self.vocab,))
        return [int(row(i).argmax()) for i, r in enumerate(rows) if r[3]]

    def prompt(self, length, sequence):
        ids = self.rng.integers(0, self.vocab, length).tolist()
        return [(token, at, sequence, at + 1 == length) for at, token in enumerate(ids)]

    def prefill(self):
        self.clear()
        rows = self.prompt(PREFILL, 0)
        begun = time.perf_counter()
        self.step(rows)
        return PREFILL / (time.perf_counter() - begun)

    def decode(self, sequences):
        self.clear()
        prompts = [self.prompt(PROMPT, i) for i in range(sequences)]
        rows = [row for prompt in prompts for row in prompt]
        begun = time.perf_counter()
        last = [token for at in range(0, len(rows), 512) for token in self.step(rows[at:at + 512])]
        started = time.perf_counter()
        for at in range(PROMPT, PROMPT + NEW - 1):
            last = self.step([(token, at, i, True) for i, token in enumerate(last)])
        ended = time.perf_counter()
        return sequences * (NEW - 1) / (ended - started), sequences * NEW / (ended - begun)


def rate(values):
    return {"all": values, "median": statistics.median(values), "best": max(values)}


def peer_measures(path, threads, repeats, only, sequences):
    peer = Peer(path, threads)
    out = {"system": peer.lib.llama_print_system_info().decode(), "version": peer.lib.__version__}
    if only == "prefill":
        peer.open(1, PREFILL + 64)
        peer.prefill()
        out["prefill_512"] = rate([peer.prefill() for _ in range(repeats)])
        return out
    for n in sequences:
        ways = [peer_decode(peer, n, repeats, unified) for unified in ((False, True) if n > 1 else (False,))]
        for what in ("decode", "whole"):
            better = max(ways, key=lambda way: way[what]["median"])
            out[f"{what}_{n}"] = {**better[what], "unified_cache": better["unified"]}
    return out


def peer_decode(peer, sequences, repeats, unified):
    peer.open(sequences, 256, unified)
    peer.decode(sequences)
    pairs = [peer.decode(sequences) for _ in range(repeats)]
    return {"unified": unified, "decode": rate([p[0] for p in pairs]), "whole": rate([p[1] for p in pairs])}


def run(command, threads):
    env = {**os.environ, "SERIN_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads),
           "OMP_NUM_THREADS": str(threads)}
    before, begun = busy_seconds(), time.perf_counter()
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-4000:]}")
    others = (busy_seconds() - before) / ((time.perf_counter() - begun) * os.cpu_count())
    return {"others_share": round(others, 4), **figures(done.stdout)}


def figures(said):
    """Merges the JSON objects of all lines: serin prints each figure as soon as it is known."""
    return {key: value for line in said.splitlines() for key, value in json.loads(line).items()}


def busy_seconds():
    """Processor time used by anything except this script's children, including other guests of the host."""
    fields = [int(n) for n in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime


def measure(args, path, first):
    """One round on one file: each measurement on both sides, one after the other."""
    counts = [("decode", n) for n in args.sequences]
    out = {"serin": {"others_share": []}, "peer": {"others_share": []}}
    for only, n in counts if args.decode_only else [("prefill", 1), *counts, ("turn", 1)]:
        what = [path, "--repeats", args.repeats, "--only", only, "--sequences", n]
        sides = {"serin": [args.bench, *what]}
        if only != "turn":
            sides["peer"] = [sys.executable, __file__, *what, "--peer-only", "--threads", args.threads]
        for side in sorted(sides, key=lambda side: side != first):
            result = undisturbed(args, sides[side])
            out[side]["others_share"].append(result.pop("others_share"))
            out[side].update(result)
            print(f"  {side}: " + ", ".join(f"{key} {value['best']:.1f}" for key, value in result.items()
                                            if isinstance(value, dict) and "best" in value), flush=True)
    return out


def undisturbed(args, command):
    """Repeats until a run was undisturbed by other work, up to a limit; returns the least disturbed run."""
    results = []
    for _ in range(1 + args.again):
        wait_for_others()
        results.append(run(command, args.threads))
        if results[-1]["others_share"] <= OTHERS:
            break
    return min(results, key=lambda result: result["others_share"])


def wait_for_others():
    """Waits until the machine has been idle for two seconds, but at most two minutes."""
    for _ in range(60):
        before = busy_seconds()
        time.sleep(2)
        if busy_seconds() - before <= 2 * OTHERS * os.cpu_count():
            return


def text_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:
        return ""


def machine(args):
    info = pathlib.Path("/proc/cpuinfo").read_text()
    lines = (line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines}
    memory = pathlib.Path("/proc/meminfo").read_text().split()[1]
    interesting = ("avx", "fma", "f16c", "amx", "sse4_2")
    return {
        "cpu": fields.get("model name", ""), "cores": os.cpu_count(), "memory_gib": int(memory) >> 20,
        "flags": [f for f in fields.get("flags", "").split() if f.startswith(interesting)],
        "kernel": platform.release(), "python": platform.python_version(), "threads": args.threads,
        "rustc": text_of("rustc", "--version"), "load_at_start": os.getloadavg(),
        "commit": text_of("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def compared(rounds, key):
    """The best results, their ratio, and the ratio of medians in each round."""
    best = {side: max(r[side][key]["best"] for r in rounds) for side in ("serin", "peer")}
    ratios = [r["serin"][key]["median"] / r["peer"][key]["median"] for r in rounds]
    return best, best["serin"] / best["peer"], ratios


def order(key):
    """Order: prefill, then decoding by number of sequences, then measurements without a bar."""
    what, number = key.rsplit("_", 1)
    return ("prefill", "decode", "whole").index(what), int(number)


def table(raw):
    lines = ["| file | measure | serin, best | llama.cpp, best | of bests | rounds: min / median / max | bar | |",
             "|---|---|---|---|---|---|---|---|"]
    for name, rounds in raw["files"].items():
        both = [key for key, value in rounds[0]["peer"].items() if isinstance(value, dict) and "best" in value]
        for key in sorted(both, key=order):
            best, ratio, ratios = compared(rounds, key)
            bar = BARS.get(key)
            holds = "" if bar is None else verdict(min(ratio, statistics.median(ratios)) >= bar)
            lines.append(f"| {name} | {key} | {best['serin']:.1f} | {best['peer']:.1f} | {ratio:.2f} | "
                         f"{spread(ratios, 2)} | {'-' if bar is None else f'at least {bar}'} | {holds} |")
        if "second_turn" in rounds[0]["serin"]:
            lines.append(turn_row(name, [r["serin"]["second_turn"] for r in rounds]))
    return lines


def turn_row(name, turns):
    ratios = [turn["ratio"] for turn in turns]
    cached, uncached = (min(min(turn[k]) for turn in turns) for k in ("cached_ms", "uncached_ms"))
    found = min(turn["cached_tokens"] for turn in turns)
    holds = found >= 1000 and max(statistics.median(ratios), cached / uncached) < TURN_BAR
    return (f"| {name} | second turn, {found} tokens cached | {cached:.0f} ms | uncached {uncached:.0f} ms | "
            f"{cached / uncached:.3f} | {spread(ratios, 3)} | below {TURN_BAR} | {verdict(holds)} |")


def spread(ratios, digits):
    return " / ".join(f"{f(ratios):.{digits}f}" for f in (min, statistics.median, max))


def verdict(holds):
    return "holds" if holds else "**fails**"


def report(raw):
    at, first = raw["machine"], next(iter(raw["files"].values()))[0]
    runs = [run for rounds in raw["files"].values() for run in rounds]
    others = [100 * share for run in runs for side in ("serin", "peer") for share in run[side]["others_share"]]
    return "\n".join([
        "# The engine against llama.cpp, same files, same threads", "",
        f"{at['cpu']}, {at['cores']} cores, {at['memory_gib']} GiB; {at['threads']} threads on both sides; "
        f"other work took {statistics.median(others):.1f} % of the machine in a run, at most {max(others):.1f} %; "
        f"{at['when']}; serin at {at['commit']}, {at['rustc']}.", "",
        f"llama.cpp as in llama-cpp-python {first['peer']['version']}: {first['peer']['system'].strip()}", "",
        f"Tokens per second; {counted(raw)} rounds in turn, {raw['repeats']} repeats in each. What is timed: "
        "`scripts/bench_cpu.py`.", "", *table(raw), ""])


def counted(raw):
    return " and ".join(map(str, sorted({len(rounds) for rounds in raw["files"].values()})))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, help="path without suffix; printed only if left out")
    parser.add_argument("--more", action="store_true", help="add to the rounds that OUT.json has")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", type=int, default=4, help="times a run is repeated when others had the machine")
    parser.add_argument("--only", choices=["prefill", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--decode-only", action="store_true", help="leave out prefill and the second turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sequences", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 16])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--bench", type=pathlib.Path, default=target / "release" / "examples" / "engine_bench")
    parser.add_argument("--peer-only", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def begun(args):
    """The figures so far, if they are from the same machine, threads and program; otherwise none."""
    raw = {"machine": machine(args), "repeats": args.repeats, "files": {}}
    if not args.more:
        return raw
    had = json.loads(args.out.with_suffix(".json").read_text())
    for what in ("cpu", "cores", "threads", "commit"):
        if had["machine"][what] != raw["machine"][what]:
            raise SystemExit(f"another {what}: {had['machine'][what]}, now {raw['machine'][what]}")
    if had["repeats"] != args.repeats:
        raise SystemExit(f"those rounds have {had['repeats']} repeats")
    return had


def main():
    args = arguments()
    if args.peer_only:
        print(json.dumps(peer_measures(args.files[0], args.threads, args.repeats, args.only, args.sequences)))
        return
    if not args.bench.is_file():
        raise SystemExit(f"{args.bench} is not there: cargo build --release --example engine_bench")
    raw = begun(args)
    for _ in range(args.rounds):
        for path in args.files:
            rounds = raw["files"].setdefault(path.name, [])
            print(f"round {len(rounds) + 1}, {path.name}", flush=True)
            rounds.append(measure(args, path, ("serin", "peer")[len(rounds) % 2]))
    print(report(raw))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(report(raw))


if __name__ == "__main__":
    main()
