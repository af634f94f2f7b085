"""`serin bench --url` against an outside load generator, guidellm, on the same running server.

Both send the same prompts of a file to one `serin serve` in a closed loop, in turn, several times. TTFT p50 and output
tokens per second, the medians over the turns, must agree within 5 %. The server runs on processor 0 and the clients on
processor 1: a client in Python needs so much of a processor that it would slow the server down. For the same reason
prompts are long: a few milliseconds of the client's own must not matter.

The first run installs guidellm from PyPI into a virtual environment (`--venv`, about 6 GB); nothing is downloaded from a
model hub.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from common import LARGER, Report, Server, arguments, random_model

TOOL, WITHIN = "guidellm==0.5.4", 0.05
WORDS = ("the of and to in is it that was for on are with as be at one have this from by hot but some what there we can "
         "out other were all your when up use word how said an each she which do their time if will way about").split()
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def installed(folder):
    """The tool's program, in a virtual environment that is made if it is not there."""
    program = folder / "bin/guidellm"
    if not program.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "--quiet", TOOL], check=True)
    return program


def prompts(folder, count, words, output_tokens):
    """The same prompts and lengths of replies for both tools, each with its own name for the length.

    Lengths differ, so that the requests of a closed loop do not begin all at the same time: whether they do would decide
    the TTFT, and it depends on the client's own delay.
    """
    path = pathlib.Path(folder) / "prompts.jsonl"
    lines = []
    for number in range(count):
        text = " ".join(WORDS[(number * 7 + at * (at + number % 13)) % len(WORDS)] for at in range(words))
        length = output_tokens // 2 + number * 29 % (output_tokens + 1)
        lines.append(json.dumps({"prompt": f"{number:05} {text}", "output_tokens_count": length, "max_tokens": length}))
    path.write_text("\n".join(lines) + "\n")
    return path


def by_serin(args, server, path, requests):
    """TTFT p50 in ms and output tokens per second."""
    command = [str(args.serin), "bench", "--url", f"http://{server.addr}", "--prompts", str(path), "--ignore-eos",
               "--output-tokens", str(args.output_tokens), "--concurrency", str(args.clients), "--rounds", "1",
               "--requests", str(requests // 2), "--prefix-cache", "on", "--temperature", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"serin bench: {done.stderr.strip()[-1000:]}")
    figures = json.loads(done.stdout)["points"][0]["figures"]
    of = {(one["name"], one["statistic"]): one["a"] for one in figures}
    return of["ttft_ms", "p50"], of["output_throughput", "mean"]


def by_guidellm(args, program, server, model, path, requests, folder):
    """The same two figures."""
    out = pathlib.Path(folder) / "guidellm.json"
    command = [str(program), "benchmark", "run", "--target", f"http://{server.addr}", "--model", "m", "--processor", model,
               "--profile", "concurrent", "--rate", str(args.clients), "--max-requests", str(requests),
               "--data", str(path), "--request-type", "chat_completions",
               "--request-formatter-kwargs", json.dumps({"extras": {"body": {"temperature": 0}}}),
               "--output-path", str(out), "--disable-console"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **OFFLINE})
    if done.returncode != 0 or not out.is_file():
        raise SystemExit(f"guidellm: {(done.stderr or done.stdout).strip()[-2000:]}")
    metrics = json.loads(out.read_text())["benchmarks"][0]["metrics"]
    ttft = metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p50"]
    return ttft, metrics["output_tokens_per_second"]["successful"]["mean"]


def main():
    args = arguments(__doc__, turns=(3, "turns of both tools"), clients=(1, "requests under way at a time"),
                     requests=(40, "requests of a turn"), words=(1800, "words of a prompt"),
                     output_tokens=(64, "tokens of a reply"),
                     venv=(pathlib.Path(tempfile.gettempdir()) / "serin-verify-guidellm", "where guidellm is installed"))
    report, program = Report("bench_agrees", args), installed(args.venv)
    os.sched_setaffinity(0, {1})
    turns, requests = (1, 20) if args.quick else (args.turns, args.requests)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(folder, LARGER)
        path = prompts(folder, requests, args.words, args.output_tokens)
        config = {"model": {"name": "m", "stable": model, "load_format": "dummy:q8_0"}, "engine": {"prefix_cache": False}}
        with Server(args.serin, config, {0}) as server:
            by_serin(args, server, path, 8)
            for turn in range(turns):
                both = [lambda: ours.append(by_serin(args, server, path, requests)),
                        lambda: theirs.append(by_guidellm(args, program, server, model, path, requests, folder))]
                for one in both if turn % 2 == 0 else reversed(both):
                    one()
                print(f"turn {turn + 1}: serin {ours[-1]}, guidellm {theirs[-1]}", flush=True)
    for at, what in enumerate(("TTFT p50, ms", "output tokens per second")):
        own, other = (statistics.median(one[at] for one in of) for of in (ours, theirs))
        report.figure(f"{what}: serin bench", own)
        report.figure(f"{what}: {TOOL}", other)
        report.bar(f"{what}: ratio", own / other, f"within {WITHIN:.0%}", abs(own / other - 1) <= WITHIN)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
