"""Stable next to a canary: 64 concurrent stable streams, first alone and then with constant traffic on a canary.

The model has SmolLM2-135M's shape and random weights. Stable's p99 inter-token latency may grow by the canary's share
of the step time plus a fifth, and no reply of stable may fail. The client measures the times; the share comes from
serin's counter `serin_step_seconds_total`.
"""

import asyncio
import itertools
import sys
import tempfile

from common import SMOLLM2_135M, Report, Server, arguments, ms, percentile, random_model
from http_client import Reply, ask_chat, chat

STREAMS, TOKENS, SLACK = 64, 96, 1.2
# Seconds: a client's timeouts for a reply and for its next token; the initial phase, in which all prompts come at once.
TIMEOUT, STALLED, WARM_UP = 300, 30, 5
STEP_TIME = "serin_step_seconds_total"


async def keep(addr, count, prompts, variant, replies):
    """Keeps a number of streams running on an arm until cancelled; replies are listed when they begin."""

    async def one(place):
        # Spread out, so that the streams do not all end and begin at the same time.
        tokens = TOKENS // 2 + place * TOKENS // count
        while True:
            body = chat(f"Say something about {next(prompts)}.", tokens, ignore_eos=True, seed=place)
            replies.append(Reply())
            await ask_chat(addr, body, [("x-serin-variant", variant)], within=TIMEOUT, reply=replies[-1])
            tokens = TOKENS

    await asyncio.gather(*(one(place) for place in range(count)))


def step_times(server):
    return [server.metric(STEP_TIME, arm=arm) or 0.0 for arm in ("stable", "canary")]


async def measure(server, seconds, canaries):
    """Replies of both arms in a period, and the canary's share of the step time in it."""
    prompts, replies, before = itertools.count(), ([], []), await asyncio.to_thread(step_times, server)
    asked = [keep(server.addr, STREAMS, prompts, "stable", replies[0])]
    if canaries:
        asked.append(keep(server.addr, canaries, prompts, "canary", replies[1]))
    try:
        await asyncio.wait_for(asyncio.gather(*asked), seconds)
    except asyncio.TimeoutError:
        pass
    took = [after - earlier for after, earlier in zip(await asyncio.to_thread(step_times, server), before)]
    return replies, took[1] / sum(took) if sum(took) > 0 else None


def has_failed(reply, at):
    """Whether it failed or is stalled."""
    under_way = reply.end == "cut" and reply.error is None
    return at - (reply.times or [reply.sent])[-1] > STALLED if under_way else not reply.ok


def describe(report, name, replies, scale):
    begun = min((reply.sent for reply in replies), default=0.0)
    gaps = [gap for reply in replies for gap in reply.gaps(begun + WARM_UP * scale)]
    at = max((reply.times[-1] for reply in replies if reply.times), default=0.0)
    failed = [reply for reply in replies if has_failed(reply, at)]
    report.figure(f"{name}: replies begun, done, tokens, p50 between tokens in ms",
                  f"{len(replies)}, {sum(r.ok for r in replies)}, {len(gaps)}, {ms(percentile(gaps, 50))}")
    for reply in failed[:3]:
        report.figure(f"{name}: a failure", f"{reply.code} {reply.end} {reply.error}")
    return percentile(gaps, 99), len(failed)


def main():
    args = arguments(__doc__, alone=(30.0, "seconds of stable alone"), shared=(120.0, "seconds with the canary"),
                     canaries=(4, "canary streams at a time"), load_format=("dummy:q4_k_m", "form of the weights"))
    scale = 0.1 if args.quick else 1.0
    report = Report("starvation", args)
    with tempfile.TemporaryDirectory() as folder:
        stable, canary = (random_model(folder, SMOLLM2_135M, name) for name in ("v1", "v2"))
        config = {"model": {"name": "m", "stable": stable, "load_format": args.load_format},
                  "rollout": {"advance": "manual", "steps": [5, 100], "bake": "1h"}}
        with Server(args.serin, {**config, "engine": {"kv_memory": "512MiB"}}) as server:
            (alone, _), _ = asyncio.run(measure(server, args.alone * scale, 0))
        config["model"]["canary"] = canary
        with Server(args.serin, {**config, "engine": {"kv_memory": "512MiB"}}) as server:
            report.figure("weight, %", server.canary_serves())
            (shared, pinned), share = asyncio.run(measure(server, args.shared * scale, args.canaries))
    base, failed_alone = describe(report, "stable alone", alone, scale)
    p99, failed = describe(report, "stable beside the canary", shared, scale)
    describe(report, "canary", pinned, scale)
    report.bar("stable's failures alone and beside the canary", f"{failed_alone}, {failed}", "0, 0",
               failed_alone + failed == 0)
    report.figure("canary's share of step time" if share else f"no {STEP_TIME} in /metrics", share)
    report.figure("p99 time between tokens alone, ms", ms(base))
    allowed = None if share is None else (1 + share) * SLACK
    report.bar("p99 time between tokens beside the canary, ms", ms(p99),
               f"<= {ms(base * allowed)} ({allowed:.2f} x alone)" if allowed else "needs the canary's share",
               allowed is not None and p99 <= allowed * base)
    report.figure("ratio of the p99s", p99 / base)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
