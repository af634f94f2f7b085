"""Clients that send prompts of 3.9 MB and leave before the answer, and one honest client.

Each of 35 clients sends one prompt after the other for 30 s. The server's memory may rise by 100 MB, and the honest
client's p99 TTFT must stay below twice its value without the others.

The server runs on processor 0 and the clients on processor 1. Those that leave are in a separate process that runs
only while the honest client does not, because the honest client must not measure what copying 2 GB/s costs the
clients. For the same reason, a token's time is the time at which the kernel received it, not the time at which the
honest client got to read it: its processor may be inside a long system call of another client. For comparison, the
same data are sent to a program on processor 0 that reads and discards them.
"""

import contextlib
import multiprocessing
import os
import socket
import struct
import sys
import threading
import time

from common import MODELS, Report, Server, arguments, ms, percentile, resident_of
from http_client import Reply, chat, request_bytes

CLIENTS, PROMPT, RISE, SLOWER = 35, 3_900_000, 100e6, 2.0
# Linux, include/uapi/asm-generic/socket.h: receive the kernel's time stamps, as a `struct timespec`.
SO_TIMESTAMPNS = 35
JSON = [("content-type", "application/json"), ("connection", "close")]


def leave(addr, pause, stop, sent):
    """Threads that repeatedly send a long prompt and leave, until stopped."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    host, port = addr.rsplit(":", 1)
    body = chat("many words " * (PROMPT // 11), 8)
    data = request_bytes("POST", "/v1/chat/completions", body, JSON)

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


def forget(listener):
    """Reads and discards all data, on the server's processor."""
    os.sched_setaffinity(0, {0})
    buffer = bytearray(1 << 20)

    def one(connection):
        with connection, contextlib.suppress(OSError):
            while connection.recv_into(buffer):
                pass

    while True:
        threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()


@contextlib.contextmanager
def sink():
    """The address of a process that discards what it receives."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        process = multiprocessing.Process(target=forget, args=(listener,), daemon=True)
        process.start()
        try:
            yield "%s:%s" % listener.getsockname()
        finally:
            process.kill()


@contextlib.contextmanager
def leavers(addr, pause):
    """Runs them for the duration of the block; yields the number of prompts sent."""
    stop, sent = multiprocessing.Event(), multiprocessing.Value("q", 0)
    process = multiprocessing.Process(target=leave, args=(addr, pause, stop, sent), daemon=True)
    process.start()
    try:
        yield sent
    finally:
        stop.set()
        process.join(20)


def stamped(stamps):
    """Seconds since 1970. Linux begins to stamp packets shortly after the first socket asks for it."""
    for _, _, stamp in stamps:
        seconds, nanoseconds = struct.unpack("qq", stamp)
        return seconds + nanoseconds * 1e-9
    return time.clock_gettime(time.CLOCK_REALTIME)


def ask(addr, body, within=60):
    """One streamed chat. The time of its first token is that of the kernel's time stamp."""
    host, port = addr.rsplit(":", 1)
    data, got, reply = request_bytes("POST", "/v1/chat/completions", body, JSON), b"", Reply()
    reply.sent = time.clock_gettime(time.CLOCK_REALTIME)
    try:
        with socket.create_connection((host, int(port)), timeout=within) as connection:
            connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            connection.sendall(data)
            while True:
                piece, stamps, *_ = connection.recvmsg(1 << 16, 64)
                got += piece
                if b'"content":"' in got.replace(b'"content":""', b"") and not reply.times:
                    reply.times.append(stamped(stamps))
                if b"data: [DONE]" in got:
                    reply.code, reply.end = int(got[9:12]), "done"
                    return reply
                if not piece:
                    raise ValueError("the reply ends early")
    except (OSError, ValueError) as error:
        reply.error = f"{error!r} {got[:300]}"
        return reply


def honest(server, seconds, pause):
    """Replies to a client that sends one request after the other."""
    end, replies = time.monotonic() + seconds, []
    while time.monotonic() < end:
        replies.append(ask(server.addr, chat(f"What is {len(replies)} plus 5?", 8)))
        time.sleep(pause)
    return replies


def watch(pid, stop, most):
    """Records the peak memory of a process, until stopped."""
    while not stop.wait(0.02):
        most.value = max(most.value, resident_of(pid))


@contextlib.contextmanager
def watched(server):
    """Yields the server's peak memory during the block. Measured in a separate process, like the clients that leave,
    because a thread would share the honest client's interpreter and affect its measurements."""
    stop, most = multiprocessing.Event(), multiprocessing.Value("q", 0)
    process = multiprocessing.Process(target=watch, args=(server.process.pid, stop, most), daemon=True)
    process.start()
    try:
        yield most
    finally:
        stop.set()
        process.join(20)


def main():
    args = arguments(__doc__, seconds=(30.0, "seconds of each part"),
                     pause=(0.05, "seconds between a leaver's prompts"))
    seconds, report = args.seconds * (0.1 if args.quick else 1.0), Report("admission", args)
    config = {"model": {"name": "m", "stable": str(MODELS / "tiny-v1")}}
    os.sched_setaffinity(0, {1})
    with Server(args.serin, config, cpus={0}) as server:
        honest(server, 1, 0.02)
        alone = honest(server, seconds, 0.02)
        with sink() as addr, leavers(addr, args.pause):
            control = honest(server, seconds, 0.02)
        before = server.resident()
        with watched(server) as most, leavers(server.addr, args.pause) as sent:
            beside = honest(server, seconds, 0.02)
            sent = sent.value
        after = server.resident()
    base, machine, p99 = (percentile([r.ttft for r in replies if r.times], 99) for replies in (alone, control, beside))
    failed = [reply for reply in beside if not reply.ok]
    report.figure("long prompts sent, GB", f"{sent}, {sent * PROMPT / 1e9:.2f}")
    report.figure("honest replies alone, beside", f"{len(alone)}, {len(beside)}")
    report.bar("honest failures", f"{len(failed)} {failed[0].error if failed else ''}", "0", not failed)
    report.figure("memory before, after, MB", f"{before / 1e6:.1f}, {after / 1e6:.1f}")
    report.bar("most memory above before, MB", (most.value - before) / 1e6, "<= 100", most.value - before <= RISE)
    report.figure("honest p99 TTFT alone, ms", ms(base))
    report.figure("honest p99 TTFT while the prompts go to another program, ms", ms(machine))
    report.bar("honest p99 TTFT beside, ms", ms(p99), f"< {ms(SLOWER * base)} ({SLOWER:.0f} x alone)",
               p99 < SLOWER * base)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
