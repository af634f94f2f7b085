"""Ten times the capacity: throughput stays near the peak, refusals are immediate, and stable has priority.

The server runs on processor 0, the clients in a separate process on processor 1. First the peak is measured: the most
replies per second with clients that send a request, wait and send the next; several numbers of clients are tried. Then
requests arrive at random at ten times that rate, without waiting for each other, for 30 s: at least 90 % of the peak
must be served, and refusals (429) may take at most 20 ms, p99. Then the same with a canary at 5 %: stable must serve at
least 90 % of what it served alone, less the canary's 5 %.

A refusal costs as much as any response, some 40 us. One processor can reach the bar only if nine refusals cost less
than a tenth of a reply, which means peaks of up to 280 replies/s. Above that, request longer replies (--tokens).
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque

from common import MODELS, Report, Server, arguments, ms, percentile
from http_client import chat, request_bytes

TIMES, GOODPUT, REFUSED_WITHIN, WEIGHT = 10, 0.9, 0.020, 5
# Limits for the clients themselves; beyond them, the clients would dominate the figures.
CLIENT_BUSY, CLIENT_LATE = 0.9, 0.010
CLOSED = (16, 32, 64, 96, 128)


class Caller(asyncio.Protocol):
    """A connection for one request after the other; of each reply it reads only the status code and the end."""

    def __init__(self, pool):
        self.pool, self.transport, self.done = pool, None, None

    def connection_made(self, transport):
        self.transport = transport

    def ask(self, data, done):
        self.done, self.head, self.tail, self.length, self.sent = done, b"", b"", None, time.monotonic()
        self.transport.write(data)

    def data_received(self, data):
        if self.length is None:
            self.head += data
            head, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            whole = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
            self.code, self.length, data = int(head[9:12]), int(whole) if whole else -1, rest
        if self.length >= 0:
            self.length -= len(data)
            if self.length == 0:
                self.finish(self.code)
            return
        self.tail = (self.tail + data)[-64:]
        if self.tail.endswith(b"\r\n0\r\n\r\n"):
            self.finish(self.code if b"data: [DONE]" in self.tail else -1)

    def finish(self, code):
        done, self.done = self.done, None
        self.pool.append(self)
        done(code, time.monotonic() - self.sent)

    def connection_lost(self, error):
        self.transport = None
        if self.done:
            done, self.done = self.done, None
            done(-2, time.monotonic() - self.sent)


class Load:
    """Requests over persistent connections: an idle one if there is any, else a new one."""

    def __init__(self, addr, tokens):
        host, port = addr.rsplit(":", 1)
        self.place, self.idle, self.numbers = (host, int(port)), deque(), itertools.count()
        self.results, self.tasks, self.tokens = [], set(), tokens

    def request(self):
        number = next(self.numbers)
        body = chat(f"What is {number % 89} plus {number}?", self.tokens, ignore_eos=True)
        return request_bytes("POST", "/v1/chat/completions", body, [("content-type", "application/json")])

    def note(self, code, took):
        self.results.append((time.monotonic(), code, took))

    def send(self, done):
        data = self.request()
        while self.idle:
            caller = self.idle.popleft()
            if caller.transport and not caller.transport.is_closing():
                return caller.ask(data, done)
        task = asyncio.create_task(self._open(data, done))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _open(self, data, done):
        begun = time.monotonic()
        try:
            _, caller = await asyncio.get_running_loop().create_connection(lambda: Caller(self.idle), *self.place)
        except OSError:
            return done(-3, time.monotonic() - begun)
        caller.ask(data, done)
        caller.sent = begun


async def closed(load, clients, seconds):
    """A number of clients that send a request, wait and send the next."""
    on = True

    def again(code, took):
        load.note(code, took)
        if on:
            load.send(again)

    for _ in range(clients):
        load.send(again)
    await asyncio.sleep(seconds)
    on, found = False, list(load.results)
    await asyncio.sleep(0.2)
    return found


async def open_loop(load, rate, seconds):
    """Requests that arrive at random at this rate, independently of earlier ones."""
    chance, late, offered = random.Random(1), [], 0
    begun = due = time.monotonic()
    while due < begun + seconds:
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        late.append(max(0.0, time.monotonic() - due))
        load.send(load.note)
        offered, due = offered + 1, due + chance.expovariate(rate)
        if offered % 64 == 0:
            await asyncio.sleep(0)
    return list(load.results), offered, percentile(late, 99)


def client(asked):
    """The clients' process: its results, and its own processor time."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    begun, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    async def run():
        load = Load(asked["addr"], asked["tokens"])
        if asked["rate"]:
            return await open_loop(load, asked["rate"], asked["seconds"])
        return await closed(load, asked["clients"], asked["seconds"]), None, None

    results, offered, late = asyncio.run(run())
    took, now = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
    busy = (now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime) / took
    # The first fifth fills the server.
    full = begun + asked["seconds"] / 5
    steady = [result for result in results if result[0] >= full]
    json.dump({"codes": [code for _, code, _ in steady], "times": [t for _, _, t in steady], "late": late,
               "offered": offered, "busy": busy, "seconds": asked["seconds"] * 0.8}, sys.stdout)


def run_client(server, **asked):
    """Runs the clients on processor 1 against a server; returns their results and the server's processor usage."""
    asked["addr"], begun, used = server.addr, time.monotonic(), server.processor_time()
    command = ["taskset", "-c", "1", sys.executable, __file__, "--client", json.dumps(asked)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    found["goodput"] = found["codes"].count(200) / found["seconds"]
    found["server"] = (server.processor_time() - used) / (time.monotonic() - begun)
    return found


def served(server, arm):
    return server.metric("serin_requests_total", arm=arm, **{"class": "ok"}) or 0


def overload(report, name, server, **asked):
    """Requests at ten times the peak: goodput, and replies per second of each arm."""
    before = [served(server, arm) for arm in ("stable", "canary")]
    over = run_client(server, **asked)
    after = [served(server, arm) for arm in ("stable", "canary")]
    codes = {code: over["codes"].count(code) for code in sorted(set(over["codes"]))}
    report.figure(f"{name}: asked/s of meant/s", f"{over['offered'] / asked['seconds']:.0f} of {asked['rate']:.0f}")
    report.figure(f"{name}: outcomes (negative: cut or not connected)", codes)
    report.figure(f"{name}: server's processor", f"{over['server']:.0%}")
    report.bar(f"{name}: clients' processor", f"{over['busy']:.0%}", f"< {CLIENT_BUSY:.0%}", over["busy"] < CLIENT_BUSY)
    report.bar(f"{name}: how late the clients ask, p99, ms (else the machine had other work)", ms(over["late"]),
               f"<= {ms(CLIENT_LATE)}", over["late"] <= CLIENT_LATE)
    over["arms"] = [(now - then) / asked["seconds"] for now, then in zip(after, before)]
    return over


def judge(report, peak, over, beside):
    report.bar("goodput, replies/s", over["goodput"], f">= {GOODPUT * peak:.1f} ({GOODPUT:.0%} of {peak:.1f})",
               over["goodput"] >= GOODPUT * peak)
    refused = [took for code, took in zip(over["codes"], over["times"]) if code == 429]
    p99 = percentile(refused, 99)
    report.bar("refusals p50, p99, ms", f"{ms(percentile(refused, 50))}, {ms(p99)}", f"<= {ms(REFUSED_WITHIN)}",
               p99 is not None and p99 <= REFUSED_WITHIN)
    least = over["arms"][0] * GOODPUT * (1 - WEIGHT / 100)
    report.figure(f"beside a canary at {WEIGHT} %: the canary's replies/s", beside["arms"][1])
    report.bar(f"beside a canary at {WEIGHT} %: stable's replies/s", beside["arms"][0],
               f">= {least:.1f} (alone {over['arms'][0]:.1f})", beside["arms"][0] >= least)


def main():
    args = arguments(__doc__, seconds=(30.0, "seconds of overload"), peak_seconds=(8.0, "seconds of each peak"),
                     tokens=(256, "tokens of a reply"),
                     max_running=(16, "[engine] max_running"), canary_priority=(1.0, "[engine] canary_priority"))
    scale = 0.2 if args.quick else 1.0
    report, asked = Report("overload", args), dict(tokens=args.tokens, seconds=args.seconds * scale)
    config = {"model": {"name": "m", "stable": str(MODELS / "tiny-v1")},
              "engine": {"max_running": args.max_running, "max_waiting": 256, "canary_priority": args.canary_priority},
              "rollout": {"advance": "manual", "steps": [WEIGHT, 100], "bake": "1h"}}
    with Server(args.serin, config, cpus={0}) as server:
        ask = dict(tokens=args.tokens, rate=None, seconds=args.peak_seconds * scale)
        peaks = {n: run_client(server, **ask, clients=n) for n in CLOSED}
        for n, found in peaks.items():
            report.figure(f"{n} clients: replies/s, clients' processor", f"{found['goodput']:.1f}, {found['busy']:.0%}")
        best = max(peaks, key=lambda n: peaks[n]["goodput"])
        # Measured once more, because the best of several measurements is biased upwards.
        again = run_client(server, **{**ask, "seconds": asked["seconds"]}, clients=best)
        peak = again["goodput"]
        report.figure(f"peak: {best} clients once more, replies/s, server's processor",
                      f"{peak:.1f}, {again['server']:.0%}")
        over = overload(report, "overload", server, rate=TIMES * peak, **asked)
    with tempfile.TemporaryDirectory() as folder:
        config["model"]["canary"] = shutil.copytree(MODELS / "tiny-v1", f"{folder}/tiny-v1-again")
        with Server(args.serin, config, cpus={0}) as server:
            server.canary_serves()
            beside = overload(report, "beside a canary", server, rate=TIMES * peak, **asked)
    judge(report, peak, over, beside)
    return report.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        client(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
