"""A version against itself: the same weights as stable and as canary, real engine, steady load.

The model is larger than the CPU caches, as real ones are (32 MB). With a model of 8 MB and fewer turns for the canary,
the test would measure whose weights stay in the cache: stable's, which are used more often.

Each run uses a new server, with one of three weights and one of three canary priorities. It is judged when its bake
time is over and the three latency gates have enough data. At most one run in twenty may end with a latency gate that
holds the weight; a run whose gates are undecided has shown nothing, and counts as a failure.
"""

import asyncio
import collections
import itertools
import sys
import tempfile
import time

from common import LARGER, TINY, Report, Server, arguments, random_model
from http_client import Connection, chat, request_bytes

WEIGHTS, PRIORITIES, GATES = (5, 25, 50), (1.0, 0.5, 0.25), ("ttft", "tpot", "throughput")
ALLOWED = 1 / 20


async def client(addr, questions, counts):
    """One client on one connection: one question after the other. No conversation is repeated."""
    connection = Connection(addr)
    while True:
        number = next(questions)
        body = chat(f"What is {number % 97} plus {number}?", 12 + number % 9, ignore_eos=True)
        reply = await connection.ask(request_bytes("POST", "/v1/chat/completions", body,
                                                   [("content-type", "application/json")]))
        counts["ok" if reply.ok else f"{reply.code} {reply.error}"] += 1


def gates_of(status):
    return {gate["name"]: gate for gate in status["gates"]}


async def judged(server, seconds, most):
    """The status once the bake time is over and every latency gate is decided, or at the time limit."""
    begun = time.monotonic()
    while True:
        await asyncio.sleep(0.5)
        status = await asyncio.to_thread(server.status)
        gates, took = gates_of(status), time.monotonic() - begun
        decided = gates and all(gates[name]["state"] in ("pass", "fail") for name in GATES)
        if (took >= seconds and decided) or took >= most or status["phase"] != "running":
            return status, took


async def load_and_judge(server, clients, seconds, most):
    questions, counts = itertools.count(), collections.Counter()
    load = [asyncio.create_task(client(server.addr, questions, counts)) for _ in range(clients)]
    status, took = await judged(server, seconds, most)
    for task in load:
        task.cancel()
    await asyncio.gather(*load, return_exceptions=True)
    return status, took, counts


def run(args, models, weight, priority, seconds):
    config = {"model": {"name": "m", **models},
              "engine": {"canary_priority": priority},
              "rollout": {"advance": "manual", "steps": [weight, 100], "bake": f"{seconds}s",
                          "min_requests": args.min_requests, "stall_after": "1h"}}
    with Server(args.serin, config) as server:
        server.canary_serves()
        return asyncio.run(load_and_judge(server, args.clients, seconds, 4 * seconds))


def figures(status, took, counts):
    """One run on one line."""
    gates = gates_of(status)
    texts = [f"{name} {gates[name]['state']}: {gates[name]['text'] or 'no figures'}" for name in GATES if name in gates]
    failed = {what: count for what, count in counts.items() if what != "ok"}
    return f"{took:.0f} s, {counts['ok']} replies{f', {failed}' if failed else ''}; " + "; ".join(texts)


def states(status):
    return [gates_of(status).get(name, {}).get("state") for name in GATES]


def noted(report, what, found):
    """Adds one run to the report and prints it; returns its status."""
    report.figure(what, figures(*found))
    print(what, "|", report.rows[-1]["value"], flush=True)
    return found[0]


def controls(args, report, folder, seconds):
    """How many canaries with twice the layers were held, and how many there were."""
    made = [random_model(folder, {**TINY, "layers": TINY["layers"] * times}, f"layers-{times}") for times in (1, 2)]
    models, found = dict(stable=made[0], canary=made[1], load_format="dummy:bf16"), []
    for weight in WEIGHTS:
        status = noted(report, f"twice the layers: weight {weight} %", run(args, models, weight, 1.0, seconds))
        found.append("fail" in states(status))
    return sum(found), len(found)


def main():
    args = arguments(__doc__, runs=(20, "runs, spread over the nine combinations"),
                     seconds=(20, "bake time of a run"), clients=(8, "clients at a time"),
                     min_requests=(100, "[rollout] min_requests"))
    report, ends = Report("same_version", args), []
    runs, seconds = (3, 4) if args.quick else (args.runs, args.seconds)
    combinations = itertools.cycle(itertools.product(WEIGHTS, PRIORITIES))
    with tempfile.TemporaryDirectory() as folder:
        made = [random_model(folder, LARGER, name) for name in ("one", "again")]
        models = dict(stable=made[0], canary=made[1], load_format="dummy:q8_0")
        for number, (weight, priority) in zip(range(runs), combinations):
            what = f"run {number + 1}: weight {weight} %, priority {priority}"
            ends.append(states(noted(report, what, run(args, models, weight, priority, seconds))))
        held, of = controls(args, report, folder, seconds)
    false_holds = sum("fail" in end for end in ends)
    undecided = sum(any(state not in ("pass", "fail") for state in end) for end in ends)
    report.bar("runs that ended with a latency gate that holds", f"{false_holds} of {runs}", f"<= {ALLOWED:.0%}",
               false_holds <= ALLOWED * runs)
    report.bar("runs whose latency gates were not decided", f"{undecided} of {runs}", "0", undecided == 0)
    report.bar("canaries of twice the layers that are held", f"{held} of {of}", "all", held == of)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
