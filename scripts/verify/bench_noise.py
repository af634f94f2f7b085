"""`serin bench` against noise: equal versions must be called equal, and a known slowdown must be in its interval.

`--runs` times a model against itself, each with its own seed: "no difference beyond noise" in at least 90 of 100. Then as
many times against a copy whose steps take `--factor` times as long by a real wait. The intervals of all means, medians
and rates must contain it, all at once, in at least 90 of 100 runs. Of the slowest tokens it is not known: a wait in which
another program had the processor is too long, and only the next ones make up for it. How often all intervals contain
the factor is reported.

The model has random weights, and a step takes some 0.1 ms. With a smaller one the factor would not be known: a client
sees the first token of a reply some 0.1 ms late, because it has to wake up, and that part of the time is not slowed down.

Runs of both kinds alternate. Needs a build with the hidden option: cargo build --release --features testing
"""

import collections
import json
import os
import subprocess
import sys
import tempfile

from common import MIDDLE, Report, arguments, random_model

ENOUGH = 0.9
EQUAL = "no difference beyond noise"
RATES = ("request_throughput", "output_throughput", "total_token_throughput")


def bench(args, model, seed, *more):
    """One run, as JSON."""
    command = [str(args.serin), "bench", model, model, "--load-format", "dummy:q8_0", "--json", "--replies", "0",
               "--seed", str(seed), "--rounds", str(args.rounds), "--requests", str(args.requests), "--prompt-tokens", "64",
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
    return figure["name"] in RATES or figure["statistic"] in ("mean", "p50")


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
    equal, contained, every, found = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(folder, MIDDLE)
        for seed in range(1, runs + 1):
            same = bench(args, model, seed)
            equal += same["conclusion"] == EQUAL
            called.update(name(one) for one in figures(same) if one["differs"])
            slow = figures(bench(args, model, seed, "--slow-b", str(args.factor)))
            contained += all(holds(one, args.factor) for one in slow if is_known(one))
            every += all(holds(one, args.factor) for one in slow)
            missed.update(name(one) for one in slow if not holds(one, args.factor))
            mean = next(one for one in slow if name(one) == "tpot_ms mean")
            halves.append((mean["high"] - mean["low"]) / 2)
            found += mean["differs"]
            print(f"run {seed}: {equal} equal, {contained} contain {args.factor}", flush=True)
    print(f"called different, by figure: {dict(called)}; factor not contained, by figure: {dict(missed)}")
    report.bar("equal versions called equal", f"{equal} of {runs}", f">= {ENOUGH:.0%}", equal >= ENOUGH * runs)
    report.bar(f"runs in which every interval of a mean, median or rate contains {args.factor}",
               f"{contained} of {runs}", f">= {ENOUGH:.0%}", contained >= ENOUGH * runs)
    report.figure(f"runs in which every interval contains {args.factor}", f"{every} of {runs}")
    report.figure("runs in which the slower copy's TPOT is called worse", f"{found} of {runs}")
    report.figure("half-width of the interval of the mean TPOT, median", round(sorted(halves)[len(halves) // 2], 4))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
