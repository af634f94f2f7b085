"""`serin bench` against noise: equal versions must be called equal, and a known slowdown must be in its interval.

`--runs` times a model against itself, each with its own seed: "no difference beyond noise" in at least 90 of 100. Then as
many times against a copy whose steps take `--factor` times as long by a real wait. The intervals of all figures whose
ratio is known must contain it, all at once, in at least 90 of 100 runs. Known are the means and the rates: a wait that
took too long, because another program had the processor, is taken off the next ones, so the mean is right whatever else
runs. Quantiles are known only on an idle machine, and TTFT includes the way to the engine, which is not slowed down; how
often all of them contain the factor is only reported.

Runs of both kinds alternate. Disturbances by other programs must not matter, so the machine need not be idle. Needs a
build with the hidden option: cargo build --release --features testing
"""

import collections
import json
import os
import subprocess
import sys

from common import MODELS, Report, arguments

ENOUGH = 0.9
EQUAL = "no difference beyond noise"
TIMES = ("tpot_ms", "itl_ms", "e2el_ms")
RATES = ("request_throughput", "output_throughput", "total_token_throughput")


def bench(args, seed, *more):
    """One run, as JSON."""
    model = str(MODELS / "tiny-v1")
    command = [str(args.serin), "bench", model, model, "--json", "--replies", "0", "--seed", str(seed),
               "--rounds", str(args.rounds), "--requests", str(args.requests), "--prompt-tokens", "64",
               "--output-tokens", str(args.output_tokens), *more]
    # One thread: helpers that wait for the next step fall asleep while B waits, and that would slow B down as well.
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "SERIN_THREADS": "1"})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def figures(found):
    return found["points"][0]["figures"]


def truth(figure, factor):
    """The figure's ratio if steps take the factor as long."""
    return 1 / factor if figure["name"] in RATES else factor


def is_known(figure):
    return figure["name"] in RATES or (figure["name"] in TIMES and figure["statistic"] == "mean")


def holds(figure, factor):
    return figure["low"] <= truth(figure, factor) <= figure["high"]


def name(figure):
    return f"{figure['name']} {figure['statistic']}"


def main():
    args = arguments(__doc__, runs=(100, "runs of each kind"), factor=(1.2, "how much longer a step of the copy takes"),
                     rounds=(16, "rounds of a run"), requests=(3, "requests of a block"),
                     output_tokens=(32, "tokens of a reply"))
    report, runs = Report("bench_noise", args), 10 if args.quick else args.runs
    called, missed, halves = collections.Counter(), collections.Counter(), []
    equal, contained, found, every = 0, 0, 0, 0
    for seed in range(1, runs + 1):
        same = bench(args, seed)
        equal += same["conclusion"] == EQUAL
        called.update(name(one) for one in figures(same) if one["differs"])
        slow = figures(bench(args, seed, "--slow-b", str(args.factor)))
        contained += all(holds(one, args.factor) for one in slow if is_known(one))
        every += all(holds(one, args.factor) for one in slow)
        missed.update(name(one) for one in slow if not holds(one, args.factor))
        mean = next(one for one in slow if name(one) == "tpot_ms mean")
        halves.append((mean["high"] - mean["low"]) / 2)
        found += mean["differs"]
        print(f"run {seed}: {equal} equal, {contained} contain {args.factor}", flush=True)
    print(f"called different, by figure: {dict(called)}; factor not contained, by figure: {dict(missed)}")
    report.bar("equal versions called equal", f"{equal} of {runs}", f">= {ENOUGH:.0%}", equal >= ENOUGH * runs)
    report.bar(f"runs in which every interval of a mean or rate contains {args.factor}", f"{contained} of {runs}",
               f">= {ENOUGH:.0%}", contained >= ENOUGH * runs)
    report.figure(f"runs in which every interval contains {args.factor}, quantiles and TTFT included", f"{every} of {runs}")
    report.figure("runs in which the slower copy's TPOT is called worse", f"{found} of {runs}")
    report.figure("half-width of the interval of the mean TPOT, median", round(sorted(halves)[len(halves) // 2], 4))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
