"""What the cases of llama_server_tests.py share: servers by name, requests, and the outcome of one case.

A case is a function that takes the servers. It returns if it passes, and raises otherwise. The cases check what the
tests of llama-server check, with other prompts and models, and they are written anew.
"""

import concurrent.futures
import json
import pathlib
import urllib.error
import urllib.request

import scripted_model as said
from common import MODELS, Server

ENCODING = {"content-type": "application/json"}
TINY, SCRIPTED = "tiny", "scripted"
PROMPT = "What is 7 plus 5? What does the serin eat?"


class NotForSerin(Exception):
    """What the case asks for is left out on purpose; the reason."""


def same(got, expected, what="the value"):
    if got != expected:
        raise AssertionError(f"{what}: {got!r} instead of {expected!r}")


def holds(condition, what):
    if not condition:
        raise AssertionError(what)


class Reply:
    """Status, headers and body; the body is read as JSON if it is JSON."""

    def __init__(self, code, headers, body):
        self.code, self.headers = code, {name.lower(): value for name, value in headers.items()}
        self.text = body.decode(errors="replace")
        try:
            self.body = json.loads(self.text)
        except ValueError:
            self.body = None

    def ok(self):
        same(self.code, 200, f"status ({self.text[:200]})")
        return self.body

    def error(self, *codes, word=None):
        holds(self.code in codes, f"status {self.code} instead of {codes}: {self.text[:200]}")
        holds(isinstance(self.body, dict) and "error" in self.body, f"no error in {self.text[:200]}")
        if word:
            holds(word.lower() in json.dumps(self.body).lower(), f"no {word!r} in {self.text[:300]}")
        return self.body["error"]


class At:
    """A server's address with requests to it."""

    def __init__(self, addr, headers=None):
        self.addr, self.headers = addr, headers or {}

    def send(self, method, path, data=None, headers=None, within=60):
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://{self.addr}{path}", body, {**ENCODING, **self.headers, **(headers or {})}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=within) as reply:
                return Reply(reply.status, dict(reply.headers), reply.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, dict(error.headers), error.read())

    def get(self, path, **more):
        return self.send("GET", path, **more)

    def post(self, path, data, **more):
        return self.send("POST", path, data, **more)

    def complete(self, prompt=PROMPT, **more):
        return self.post("/v1/completions", {"prompt": prompt, **more}).ok()

    def chat(self, text="Good morning.", path="/v1/chat/completions", messages=None, **more):
        messages = messages or [{"role": "user", "content": text}]
        return self.post(path, {"messages": messages, **more})

    def events(self, path, data):
        """The events of a stream; the last one must be [DONE] where OpenAI's routes have it."""
        reply = self.post(path, {**data, "stream": True})
        same(reply.code, 200, f"status ({reply.text[:200]})")
        holds("text/event-stream" in reply.headers.get("content-type", ""), "no event stream")
        lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
        if lines and lines[-1] == "[DONE]":
            return [json.loads(line) for line in lines[:-1]]
        holds("/messages" in path or "/responses" in path, "the stream does not end with [DONE]")
        return [json.loads(line) for line in lines]


class Servers:
    """Servers that are started when a case first asks for them, each with its own config."""

    def __init__(self, program, folder):
        self.program, self.folder, self.running = program, pathlib.Path(folder), {}

    def close(self):
        for server in self.running.values():
            server.close()

    def of(self, model, **config):
        """A server of a model with settings: section=dict(..)."""
        name = json.dumps([model, config], sort_keys=True)
        if name not in self.running:
            config = {**config, "model": {"name": "m", "stable": model, **config.get("model", {})}}
            server = Server(self.program, config)
            server.__enter__()
            self.running[name] = server
        return At(self.running[name].addr)

    def process(self, at):
        return next(server for server in self.running.values() if server.addr == at.addr)

    def tiny(self, **config):
        return self.of(str(MODELS / "tiny-v1"), **config)

    def scripted(self, template=None, begins=False, **config):
        """The model that replies with given texts, also with another chat template, or with a beginning token."""
        folder = self.folder / f"scripted-{abs(hash(template)) if template else 'own'}{'-begins' * begins}"
        if not folder.is_dir():
            said.write(folder, template, begins=begins)
        return self.of(str(folder), **config)


def client(at, key="none"):
    """OpenAI's library, as llama-server's tests use it."""
    import openai

    return openai.OpenAI(base_url=f"http://{at.addr}/v1", api_key=key, max_retries=0)


def at_once(calls):
    """Calls at the same time; their results in order."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def refused(reply, field, reason):
    """What serin leaves out must be refused by its name. If it is not refused, the case goes on."""
    if reply.code in (400, 501):
        reply.error(400, 501, word=field)
        raise NotForSerin(f"{reason}: refused by name ({field})")


def left_out(reply, reason):
    """A route that serin does not have."""
    if reply.code in (404, 501):
        reply.error(404, 501)
        raise NotForSerin(reason)


def registrar(cases):
    """The decorator that adds a case to this list, or one for each of the values."""

    def case(group, *values):
        def register(function):
            for value in values or [None]:
                name = function.__name__ + ("" if value is None else f" {value!r}"[:70])
                cases.append((group, name, (lambda s, v=value: function(s, v)) if values else function))
            return function

        return register

    return case
