"""Clients that send prompts of 3.9 MB and leave before the answer, beside one honest client.

Each of 35 clients sends one after the other for 30 s. The server's memory may rise by 100 MB, and the honest
client's p99 time to first token may not be twice what it is alone.
"""

import asyncio
import socket
import sys
import threading
import time

from common import Beside, MODELS, Report, Server, arguments, ms, percentile
from http_client import ask_chat, chat, request_bytes

CLIENTS, PROMPT, RISE, SLOWER = 35, 3_900_000, 100e6, 2.0


class Leavers:
    """Threads that send a long prompt and leave, again and again."""

    def __init__(self, addr, count, pause):
        host, port = addr.rsplit(":", 1)
        self.addr, self.pause, self.stop, self.sent = (host, int(port)), pause, threading.Event(), 0
        body = chat("many words " * (PROMPT // 11), 8)
        self.data = request_bytes("POST", "/v1/chat/completions", body, [("content-type", "application/json")])
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def _run(self):
        while not self.stop.wait(self.pause):
            try:
                with socket.create_connection(self.addr, timeout=10) as connection:
                    connection.sendall(self.data)
                self.sent += 1
            except OSError:
                pass

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(20)


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
    with Server(args.serin, config) as server:
        asyncio.run(honest(server, 1, 0.02))
        alone = asyncio.run(honest(server, seconds, 0.02))
        before = server.resident()
        with Memory(server) as memory, Leavers(server.addr, CLIENTS, args.pause) as leavers:
            beside = asyncio.run(honest(server, seconds, 0.02))
            sent = leavers.sent
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
