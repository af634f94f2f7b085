"""5,000 silent sockets, then 2,000 bodies at one byte per second: probes and honest chats must keep working.

Each phase lasts 60 s, and sockets that the server closes are opened again. `/livez` is requested ten times a second and
must answer within 100 ms every time; so must `/readyz`, `/metrics` and `/admin/status`, on the public listener and on
the operators' if there is one (then the public one need not have /metrics and /admin/status). One honest chat per
second has to succeed, with a TTFT of at most twice its value before.
"""

import asyncio
import errno
import itertools
import multiprocessing
import selectors
import socket
import sys
import time

from common import Beside, MODELS, Report, Server, arguments, ms, percentile, raise_file_limit
from http_client import ask, ask_chat, chat

SILENT, SLOW, WITHIN, SLOWER = 5000, 2000, 0.1, 2.0
PROBES = {"/livez": 0.1, "/readyz": 1.0, "/metrics": 1.0, "/admin/status": 1.0}
SLOW_HEAD = (b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
             b"content-length: 100000\r\n\r\n{")
# Source addresses, so that no address has too many sockets; sockets that are opened at a time, initially and to replace
# those that the server has closed: 25,000 a second would be an attack on the processors, which is not tested here.
ADDRESSES, AT_A_TIME, AGAIN, TICKS = 200, 100, 20, 50


class Crowd(Beside):
    """Sockets that send nothing, or one byte per second; closed ones are opened again."""

    def __init__(self, addr, count, slow):
        super().__init__()
        host, port = addr.rsplit(":", 1)
        self.place, self.count, self.slow = (host, int(port)), count, slow
        self.sockets, self.opened, self.closed, self.most = {}, 0, 0, 0
        self.counts = multiprocessing.Array("q", 3)
        self.selector = selectors.DefaultSelector()

    def _open(self):
        one = socket.socket()
        one.setblocking(False)
        one.bind((f"127.0.1.{1 + self.opened % ADDRESSES}", 0))
        one.connect_ex(self.place)
        self.selector.register(one, selectors.EVENT_READ)
        self.sockets[one] = False
        self.opened += 1

    def _close(self, one):
        self.selector.unregister(one)
        del self.sockets[one]
        one.close()
        self.closed += 1

    def _write(self, one):
        """Sends the headers first, then one byte at a time; sockets that are not connected yet are retried later."""
        try:
            one.send(b" " if self.sockets[one] else SLOW_HEAD)
            self.sockets[one] = True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOTCONN):
                self._close(one)

    def _run(self):
        ticks = 0
        while not self.stop.is_set():
            at_a_time = AT_A_TIME if self.opened < self.count else AGAIN
            for _ in range(min(at_a_time, self.count - len(self.sockets))):
                self._open()
            tick = time.monotonic() + 1 / TICKS
            while (left := tick - time.monotonic()) > 0:
                for key, _ in self.selector.select(left):
                    self._close(key.fileobj)
            self.most = max(self.most, len(self.sockets))
            self.counts[:] = self.most, self.opened, self.closed
            # Clients of different machines do not send in step: each has its own tick of the second.
            ticks += 1
            for one in list(self.sockets) if self.slow else ():
                if one.fileno() % TICKS == ticks % TICKS:
                    self._write(one)


async def probe(addr, path, every, seconds):
    """The time of each response in seconds, infinite if there was none; every request is sent on schedule."""
    async def once(delay):
        await asyncio.sleep(delay)
        begun = time.monotonic()
        reply = await ask(addr, "GET", path, within=5)
        return time.monotonic() - begun if reply.ok else float("inf")

    return await asyncio.gather(*(once(i * every) for i in range(round(seconds / every))))


async def chats(addr, seconds):
    """One honest chat per second."""
    async def once(delay):
        await asyncio.sleep(delay)
        return await ask_chat(addr, chat(f"What is {delay} plus 5?", 8), within=30)

    return await asyncio.gather(*(once(float(i)) for i in range(round(seconds))))


async def offered(listeners):
    """(listener, path) of every probe; without paths on the public listener that only the operators' listener serves."""
    served = {}
    for name, path in itertools.product(listeners, PROBES):
        served[name, path] = (await ask(listeners[name], "GET", path, within=60)).ok
    moved = {path for path in PROBES if served.get(("operator", path)) and not served["public", path]}
    return [key for key in served if key[0] != "public" or key[1] not in moved]


async def watch(server, listeners, keys, seconds):
    """The results of honest clients and probes: replies, and times by listener and path."""
    asked = [probe(listeners[name], path, PROBES[path], seconds) for name, path in keys]
    replies, *times = await asyncio.gather(chats(server.addr, seconds), *asked)
    return replies, dict(zip(keys, times))


def judge(report, name, base, found):
    replies, times = found
    failed = [reply for reply in replies if not reply.ok]
    report.bar(f"{name}: honest chats that failed", f"{len(failed)} of {len(replies)} "
               f"{(failed[0].error or failed[0].code) if failed else ''}", "0", not failed)
    ttft = percentile([reply.ttft if reply.ok else float("inf") for reply in replies], 99)
    report.bar(f"{name}: honest TTFT p99, ms", ms(ttft), f"<= {ms(SLOWER * base)} (2 x before)", ttft <= SLOWER * base)
    for (listener, path), took in times.items():
        within = sum(t < WITHIN for t in took)
        report.bar(f"{name}: {path} within 100 ms, {listener} listener; slowest, ms",
                   f"{within} of {len(took)}; {ms(max(took))}", "all", within == len(took))


def main():
    args = arguments(__doc__, seconds=(60.0, "seconds for which each crowd is held"),
                     operator=("", "address of the operators' listener, if the server does not announce it"))
    seconds, report = args.seconds * (0.1 if args.quick else 1.0), Report("sockets", args)
    report.figure("open files allowed", raise_file_limit())
    config = {"model": {"name": "m", "stable": str(MODELS / "tiny-v1")}}
    with Server(args.serin, config) as server:
        listeners = {"public": server.addr}
        if operator := args.operator or server.operator:
            listeners["operator"] = operator
        report.figure("listeners", ", ".join(listeners))
        asyncio.run(chats(server.addr, 2))
        keys = asyncio.run(offered(listeners))
        before, times = asyncio.run(watch(server, listeners, keys, seconds))
        base = percentile([reply.ttft for reply in before if reply.ok], 99)
        judge(report, "before", base, (before, times))
        for name, count, slow in (("silent", SILENT, False), ("slow bodies", SLOW, True)):
            with Crowd(server.addr, count, slow) as crowd:
                time.sleep(2 if args.quick else 5)
                found = asyncio.run(watch(server, listeners, keys, seconds))
                report.figure(f"{name}: sockets at most, opened, closed by the server",
                              ", ".join(map(str, crowd.counts)))
            judge(report, name, base, found)
            time.sleep(1)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
