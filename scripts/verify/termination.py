"""SIGTERM during 50 streams: streams that may finish are not cut off, and a stream that is cut off ends with an error.

First: `/readyz` is 503 while new requests are still accepted (`[server] lame_duck`), then all streams end with [DONE]
within `drain`, exit code 0. Second: a second SIGTERM half a second after the first ends the process within 100 ms.
Third: with a drain shorter than the streams, each stream ends with an error event.
"""

import asyncio
import sys
import tempfile
import time

from common import MIDDLE, Report, Server, arguments, ms, percentile, random_model
from http_client import Reply, ask, ask_chat, chat

STREAMS, LONG, GONE_WITHIN = 50, 8000, 0.1


def server(args, folder, **settings):
    config = {"model": {"name": "m", "stable": folder, "load_format": "dummy:q4_k_m"}, "server": settings,
              "engine": {"kv_memory": "2GiB"}}
    return Server(args.serin, config)


async def streams(running, tokens):
    """Starts 50 streams of a given length and waits until each has begun; returns tasks and replies."""
    replies = [Reply() for _ in range(STREAMS)]
    bodies = [chat(f"Tell me of {i}.", tokens, ignore_eos=True) for i in range(STREAMS)]
    tasks = [asyncio.create_task(ask_chat(running.addr, body, reply=reply)) for body, reply in zip(bodies, replies)]
    while not all(reply.times or reply.error for reply in replies):
        await asyncio.sleep(0.01)
    return tasks, replies


async def pace(args, folder):
    """Tokens per second of each of 50 streams."""
    with server(args, folder) as running:
        tasks, replies = await streams(running, 60)
        await asyncio.gather(*tasks)
    return 1 / percentile([gap for reply in replies for gap in reply.gaps()], 50)


async def readiness(running, until):
    """(time, code of /readyz, code of a new chat) again and again; code 0: no connection."""
    seen = []
    while time.monotonic() < until and running.process.poll() is None:
        at = time.monotonic()
        ready = await ask(running.addr, "GET", "/readyz", within=2)
        new = await ask_chat(running.addr, chat("Hello", 1, stream=False), within=20)
        seen.append((at, ready.code, new.code))
        await asyncio.sleep(0.05)
    return seen


async def orderly(args, folder, report, tokens):
    with server(args, folder, drain="60s") as running:
        tasks, replies = await streams(running, tokens)
        await asyncio.sleep(0.2)
        begun = time.monotonic()
        running.signal()
        watched = asyncio.create_task(readiness(running, begun + 10))
        await asyncio.gather(*tasks)
        last = time.monotonic() - begun
        took, code = await asyncio.to_thread(running.ended, 60)
        seen = await watched
    ends = [reply.end for reply in replies]
    unready = [at for at, ready, _ in seen if ready == 503]
    served = [at for at, ready, new in seen if ready == 503 and new == 200]
    report.bar("/readyz is 503 after the signal, first, ms",
               ms(min(unready) - begun) if unready else "never", "yes", unready)
    report.bar("new chats taken meanwhile, until, s",
               f"{len(served)}, {max(served) - begun:.2f}" if served else "none", "at least one", served)
    done = ends.count("done")
    report.bar("streams that end with [DONE]", f"{done} of {STREAMS}", STREAMS, done == STREAMS)
    report.figure("last stream's end after the signal, the process's after that, s", f"{last:.2f}, {took:.2f}")
    report.bar("exit code", code, "0", code == 0)


async def twice(args, folder, report):
    with server(args, folder, drain="60s") as running:
        tasks, _ = await streams(running, LONG)
        running.signal()
        await asyncio.sleep(0.5)
        report.bar("second signal: the process serves until then", running.process.poll() is None, "yes",
                   running.process.poll() is None)
        running.signal()
        took, code = await asyncio.to_thread(running.ended, 20)
        report.bar("second signal: gone after, ms", ms(took) if code is not None else "not within 20 s",
                   f"<= {ms(GONE_WITHIN)}", code is not None and took <= GONE_WITHIN)
        report.figure("second signal: exit code", code)
    await asyncio.gather(*tasks)


async def short(args, folder, report):
    with server(args, folder, drain="1s") as running:
        tasks, replies = await streams(running, LONG)
        running.signal()
        took, code = await asyncio.to_thread(running.ended, 60)
        await asyncio.gather(*tasks)
    ends = [reply.end for reply in replies]
    told, silent = ends.count("error"), ends.count("cut")
    report.bar("short drain: streams that end with an error event",
               f"{told} of {STREAMS}, cut in silence {silent}", STREAMS, told == STREAMS)
    report.figure("short drain: an end", next((reply.error for reply in replies if reply.error), None))
    report.bar("short drain: gone after, s; exit code", f"{took:.2f}; {code}", "0", code == 0)


def main():
    args = arguments(__doc__, stream_seconds=(6.0, "seconds that streams take in the first part"))
    report = Report("termination", args)
    with tempfile.TemporaryDirectory() as parent:
        folder = random_model(parent, MIDDLE)
        rate = asyncio.run(pace(args, folder))
        tokens = min(LONG, round(rate * args.stream_seconds))
        report.figure("tokens of a stream at tokens/s", f"{tokens} at {rate:.1f}")
        asyncio.run(orderly(args, folder, report, tokens))
        asyncio.run(twice(args, folder, report))
        asyncio.run(short(args, folder, report))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
