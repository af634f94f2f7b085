"""Reading by both models: what it costs under full load, and how much of its sample is read when the server is idle.

Two servers with the same two models; one reads a tenth of the replies (the default), the other none. They are loaded
in turn, in short windows, one after the other and then the other way round, once everything that waits has been read.
Each pair has new servers, and each is the first to start in half of the pairs: two servers with the same settings
differ by 2 % for as long as they live, by where their memory lies. Under full load, throughput may be lower by 1 % and
the p99 time between tokens longer by 2 %. Then clients with pauses: at least nine tenths of the sample must be read.

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


def pair(args, models, number, questions):
    """Throughput and p99 time between tokens with reading, of the same without: one pair of servers."""
    shares = (0.1, 0.0) if number % 2 == 0 else (0.0, 0.1)
    with Server(args.serin, config(models, shares[0]), {0}) as one, \
            Server(args.serin, config(models, shares[1]), {0}) as two:
        servers = dict(zip(shares, (one, two)))
        for server in servers.values():
            server.canary_serves()
            window(server, args, questions, args.seconds / 2)
        found = {share: [] for share in shares}
        for share in (*shares, *reversed(shares)):
            servers[0.1].status_when(settled, "everything is read")
            found[share].append(window(servers[share], args, questions, args.seconds))
        rate, gap = ({share: sum(of[at] for of in all) / len(all) for share, all in found.items()} for at in (0, 1))
        cut_off = servers[0.1].status()["cross_read"]["preempted"]
    print(f"pair {number + 1}: {rate[0.1]:.1f} of {rate[0.0]:.1f} tokens/s, p99 between tokens "
          f"{ms(gap[0.1])} of {ms(gap[0.0])} ms, {cut_off} cut off", flush=True)
    return rate[0.1] / rate[0.0], gap[0.1] / gap[0.0]


def read_when_idle(args, models, questions, seconds):
    """Replies of the sample that were read, and how many there were, with pauses between requests."""
    with Server(args.serin, config(models, 0.1), {0}) as server:
        server.canary_serves()
        asyncio.run(load(server.addr, questions, 2, seconds, pause=0.5))
        status = server.status_when(settled, "everything is read")["cross_read"]
    return status["read"], status["sampled"]


def main():
    args = arguments(__doc__, pairs=(12, "pairs of servers"), seconds=(4, "length of a window"),
                     clients=(8, "clients at a time"), idle=(60, "seconds with pauses"))
    report, questions = Report("cross_read", args), itertools.count()
    pairs, idle = (2, 6) if args.quick else (args.pairs, args.idle)
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        made = [random_model(folder, LARGER, name) for name in ("one", "again")]
        models = dict(stable=made[0], canary=made[1], load_format="dummy:q8_0")
        found = [pair(args, models, number, questions) for number in range(pairs)]
        read, sampled = read_when_idle(args, models, questions, idle)
    rate, gap = (statistics.median(of) for of in zip(*found))
    report.bar("tokens/s, of the same without reading", rate, f">= {1 - SLOWER}", rate >= 1 - SLOWER)
    report.bar("p99 time between tokens, of the same without reading", gap, f"<= {1 + LATER}", gap <= 1 + LATER)
    report.bar("replies of the sample that are read, when idle", f"{read} of {sampled}", f">= {READ:.0%}",
               sampled > 0 and read >= READ * sampled)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
