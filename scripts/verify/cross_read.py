"""Reading by both models: what it costs under full load, and how much of its sample is read when the server is idle.

Two servers with the same two models; one reads a tenth of the replies (the default), the other none. They are loaded
in turn, in short windows in both orders, after everything that waits has been read: a window of one is next to one of
the other. Under full load, throughput may be lower by 1 % and the p99 time between tokens longer by 2 %. Then clients
with pauses: at least nine tenths of the sample must be read.

The server runs on processor 0 and the clients on processor 1.
"""

import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time

from common import LARGER, Report, Server, arguments, ms, percentile, random_model
from http_client import Connection, chat, request_bytes

SLOWER, LATER, READ = 0.01, 0.02, 0.9
JSON = [("content-type", "application/json")]


async def client(addr, questions, until, pause, replies):
    connection = Connection(addr)
    while time.monotonic() < until:
        number = next(questions)
        body = chat(f"What is {number % 97} plus {number}?", 16 + number % 9, ignore_eos=True)
        replies.append(await connection.ask(request_bytes("POST", "/v1/chat/completions", body, JSON)))
        await asyncio.sleep(pause)


async def load(addr, questions, clients, seconds, pause=0.0):
    """Replies to clients that send one request after the other."""
    until, replies = time.monotonic() + seconds, []
    await asyncio.gather(*(client(addr, questions, until, pause, replies) for _ in range(clients)))
    return replies


def window(server, args, questions, seconds):
    """Tokens per second and the p99 time between tokens of one window under full load."""
    begun = time.monotonic()
    replies = asyncio.run(load(server.addr, questions, args.clients, seconds))
    took = time.monotonic() - begun
    bad = [reply for reply in replies if not reply.ok]
    if bad:
        raise SystemExit(f"{len(bad)} requests failed: {bad[0].code} {bad[0].error}")
    gaps = [gap for reply in replies for gap in reply.gaps()]
    return sum(len(reply.times) for reply in replies) / took, percentile(gaps, 99)


def settled(status):
    read = status["cross_read"]
    return read is None or read["read"] + read["dropped"] + read["too_long"] + read["failed"] >= read["sampled"]


def config(models, share):
    rollout = {"advance": "manual", "steps": [50, 100], "bake": "1h", "cross_read": share}
    return {"model": {"name": "m", **models}, "rollout": rollout}


def main():
    args = arguments(__doc__, windows=(12, "windows of each server"), seconds=(6, "length of a window"),
                     clients=(8, "clients at a time"), idle=(60, "seconds with pauses"))
    report, questions = Report("cross_read", args), itertools.count()
    windows, idle = (2, 6) if args.quick else (args.windows, args.idle)
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        made = [random_model(folder, LARGER, name) for name in ("one", "again")]
        models = dict(stable=made[0], canary=made[1], load_format="dummy:q8_0")
        with Server(args.serin, config(models, 0.1), {0}) as on, Server(args.serin, config(models, 0.0), {0}) as off:
            for server in (on, off):
                server.canary_serves()
                window(server, args, questions, args.seconds)
            rates, gaps = [], []
            for number in range(windows):
                pair = {}
                for server in (on, off) if number % 2 == 0 else (off, on):
                    on.status_when(settled, "everything is read")
                    pair[server] = window(server, args, questions, args.seconds)
                rates.append(pair[on][0] / pair[off][0])
                gaps.append(pair[on][1] / pair[off][1])
                print(f"pair {number + 1}: {pair[on][0]:.1f} of {pair[off][0]:.1f} tokens/s, p99 between tokens "
                      f"{ms(pair[on][1])} of {ms(pair[off][1])} ms", flush=True)
            rate, gap = statistics.median(rates), statistics.median(gaps)
            before = on.status_when(settled, "everything is read")["cross_read"]
            asyncio.run(load(on.addr, questions, 2, idle, pause=0.5))
            after = on.status_when(settled, "everything is read")["cross_read"]
        sampled, read = (after[key] - before[key] for key in ("sampled", "read"))
    report.bar("tokens/s, of the same without reading", rate, f">= {1 - SLOWER}", rate >= 1 - SLOWER)
    report.bar("p99 time between tokens, of the same without reading", gap, f"<= {1 + LATER}", gap <= 1 + LATER)
    report.figure("cut off by requests", after["preempted"])
    report.bar("replies of the sample that are read, when idle", f"{read} of {sampled}", f">= {READ:.0%}",
               sampled > 0 and read >= READ * sampled)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
