"""Clients that send prompts of 3.9 MB and leave before the answer, beside one honest client.

Each of 35 clients sends one after the other for 30 s. The server's memory may rise by 100 MB, and the honest
client's p99 time to first token may not be twice what it is alone.

The server has processor 0. The clients are on processor 1, those that leave in a process of their own and of the
lowest priority: what the honest one measures must not be what copying 2 GB/s costs the clients.
"""

import asyncio
import contextlib
import multiprocessing
import os
import socket
import sys
import threading
import time

from common import Beside, MODELS, Report, Server, arguments, ms, percentile
from http_client import ask_chat, chat, request_bytes

CLIENTS, PROMPT, RISE, SLOWER = 35, 3_900_000, 100e6, 2.0


def leave(addr, pause, stop, sent):
    """Threads that send a long prompt and leave, again and again, until told to stop."""
    os.nice(19)
    host, port = addr.rsplit(":", 1)
    body = chat("many words " * (PROMPT // 11), 8)
    data = request_bytes("POST", "/v1/chat/completions", body, [("content-type", "application/json")])

    def one():
        while not stop.wait(pause):
            try:
                with socket.create_connection((host, int(port)), timeout=10) as connection:
                    connection.sendall(data)
                with sent.get_lock():
                    sent.value += 1
            except OSError:
                pass

    threads = [threading.Thread(target=one, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def leavers(addr, pause):
    """They are there meanwhile; gives how many prompts they have sent."""
    stop, sent = multiprocessing.Event(), multiprocessing.Value("q", 0)
    process = multiprocessing.Process(target=leave, args=(addr, pause, stop, sent), daemon=True)
    process.start()
    try:
        yield sent
    finally:
        stop.set()
        process.join(20)


async def honest(server, seconds, pause):
    """Replies to a client that asks again and again."""
    end, replies = time.monotonic() + seconds, []
    while time.monotonic() < end:
        body = chat(f"What is {len(replies)} plus 5?", 8)
        replies.append(await ask_chat(server.addr, body, within=60))
        await asyncio.sleep(pause)
    return replies


class Memory(Beside):
    """The most memory that a server has while this looks."""

    def __init__(self, server):
        super().__init__()
        self.server, self.most = server, 0

    def _run(self):
        while not self.stop.wait(0.02):
            self.most = max(self.most, self.server.resident())


def main():
    args = arguments(__doc__, seconds=(30.0, "seconds of each part"),
                     pause=(0.05, "seconds between a leaver's prompts"))
    seconds, report = args.seconds * (0.1 if args.quick else 1.0), Report("admission", args)
    config = {"model": {"name": "m", "stable": str(MODELS / "tiny-v1")}}
    os.sched_setaffinity(0, {1})
    with Server(args.serin, config, cpus={0}) as server:
        asyncio.run(honest(server, 1, 0.02))
        alone = asyncio.run(honest(server, seconds, 0.02))
        before = server.resident()
        with Memory(server) as memory, leavers(server.addr, args.pause) as sent:
            beside = asyncio.run(honest(server, seconds, 0.02))
            sent = sent.value
        after = server.resident()
    base, p99 = (percentile([r.ttft for r in replies if r.times], 99) for replies in (alone, beside))
    failed = [reply for reply in beside if not reply.ok]
    report.figure("long prompts sent, GB", f"{sent}, {sent * PROMPT / 1e9:.2f}")
    report.figure("honest replies alone, beside", f"{len(alone)}, {len(beside)}")
    report.bar("honest failures", f"{len(failed)} {failed[0].error if failed else ''}", "0", not failed)
    report.figure("memory before, after, MB", f"{before / 1e6:.1f}, {after / 1e6:.1f}")
    report.bar("most memory above before, MB", (memory.most - before) / 1e6, "<= 100", memory.most - before <= RISE)
    report.figure("honest p99 TTFT alone, ms", ms(base))
    report.bar("honest p99 TTFT beside, ms", ms(p99), f"< {ms(SLOWER * base)} ({SLOWER:.0f} x alone)",
               p99 < SLOWER * base)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
