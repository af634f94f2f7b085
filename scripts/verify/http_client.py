"""A small HTTP/1.1 client that records the time of every event of a streamed reply.

One connection per request, unless a `Connection` is reused. Standard library only.
"""

import asyncio
import http.client
import itertools
import json
import time
from dataclasses import dataclass, field


@dataclass
class Reply:
    """A reply and its times. `end`: done, error or cut for streams, else whole. `times`: of the tokens. `head`:
    status line and headers in small letters."""

    code: int = 0
    sent: float = 0.0
    times: list = field(default_factory=list)
    end: str = "cut"
    body: bytes = b""
    error: str | None = None
    head: str = ""

    @property
    def ok(self):
        return self.code == 200 and self.end in ("done", "whole")

    @property
    def ttft(self):
        return self.times[0] - self.sent if self.times else None

    def gaps(self, since=0.0):
        """Inter-token times, for pairs whose first token came after `since`."""
        return [later - at for at, later in itertools.pairwise(self.times) if at >= since]


def request_bytes(method, path, body=b"", headers=()):
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chat(prompt, max_tokens, model="m", stream=True, **more):
    """The body of a chat request."""
    asked = dict(model=model, messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens, stream=stream)
    return json.dumps({**asked, **more}).encode()


class Connection:
    """One connection that is used for one request after the other."""

    def __init__(self, addr, local=None):
        self.addr, self.local, self.reader, self.writer = addr, local, None, None

    async def open(self):
        host, port = self.addr.rsplit(":", 1)
        local = (self.local, 0) if self.local else None
        self.reader, self.writer = await asyncio.open_connection(host, int(port), local_addr=local, limit=1 << 20)

    def close(self):
        if self.writer:
            self.writer.close()
            self.writer = None

    async def ask(self, data, reply=None):
        """Sends a request and reads its whole reply. Times are measured from before the connection is opened."""
        reply = reply or Reply()
        reply.sent = time.monotonic()
        try:
            if self.writer is None:
                await self.open()
            self.writer.write(data)
            await self._read(reply)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            reply.error = reply.error or repr(error)
            self.close()
        return reply

    async def _read(self, reply):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        reply.code, reply.head = int(head[9:12]), head
        if "transfer-encoding: chunked" in head:
            await self._events(reply) if "text/event-stream" in head else await self._chunks(reply)
        else:
            length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
            reply.body = await self.reader.readexactly(length)
            reply.end = "whole"
        if reply.code != 200:
            reply.error = reply.body[:300].decode(errors="replace")
        if "connection: close" in head:
            self.close()

    async def _chunk(self):
        size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def _chunks(self, reply):
        while chunk := await self._chunk():
            reply.body += chunk
        reply.end = "whole"

    async def _events(self, reply):
        """A token is an event with content; several tokens in one read have the same time."""
        rest = b""
        while chunk := await self._chunk():
            now = time.monotonic()
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                if event == b"data: [DONE]":
                    reply.end = "done"
                elif b'"error"' in event[:20] or event.startswith(b"event: error"):
                    reply.end, reply.error = "error", event.decode(errors="replace")[:300]
                elif b'"content":"' in event and b'"content":""' not in event:
                    reply.times.append(now)


async def ask(addr, method, path, body=b"", headers=(), local=None, within=None, reply=None):
    """One request on its own connection; returns a reply with an error if it did not arrive in time.

    The caller may pass a `reply` and read it while it arrives.
    """
    connection, reply = Connection(addr, local), reply or Reply()
    data = request_bytes(method, path, body, [*headers, ("connection", "close")])
    try:
        return await asyncio.wait_for(connection.ask(data, reply), within)
    except asyncio.TimeoutError:
        reply.error = f"no reply within {within} s"
        return reply
    finally:
        connection.close()


async def ask_chat(addr, body, headers=(), **more):
    """One chat on its own connection."""
    headers = [("content-type", "application/json"), *headers]
    return await ask(addr, "POST", "/v1/chat/completions", body, headers, **more)


def get(addr, path, within=60):
    """Status code and body, for callers that may block."""
    connection = http.client.HTTPConnection(addr, timeout=within)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
