"""Shared by the Python clients: where the server is, what it replies, and how a client's rows are run and reported.

A client is a file with one function for each row. Each row ends green, refused or red; the result is one line of JSON.
"""

import asyncio
import inspect
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import scripted_model as said  # noqa: E402

URL, METRICS = os.environ.get("SERIN_URL", ""), os.environ.get("SERIN_METRICS", "")
KEYED, KEY = os.environ.get("SERIN_KEYED_URL"), os.environ.get("SERIN_KEY")
MODEL = os.environ.get("SERIN_MODEL", "scripted")
V1 = URL + "/v1"
USER = [{"role": "user", "content": "Good morning."}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER}
RESULT = "sunny, 21 degrees"
# The libraries of OpenAI and Anthropic accept replies that lack fields, unless they are told to check each of them.
STRICT = {"_strict_response_validation": True}
ROWS = ["chat", "stream", "tools", "schema", "forced", "errors", "key", "cancel", "usage"]


class Refused(Exception):
    """The server refused what was asked, by name, as documented."""


class NotTried(Exception):
    """The row does not apply to this client, or needs something that is not there."""


def user(text):
    return [{"role": "user", "content": text}]


def same(got, expected, what):
    if got != expected:
        raise AssertionError(f"{what}: {got!r} instead of {expected!r}")


def holds(condition, what):
    if not condition:
        raise AssertionError(what)


def raises(kinds, call, *words):
    """Calls what must fail with one of these exceptions, and a message that names these words."""
    try:
        call()
    except kinds as error:
        missing = [word for word in words if word.lower() not in str(error).lower()]
        holds(not missing, f"the error does not say {', '.join(missing)}: {error}")
        return error
    names = getattr(kinds, "__name__", None) or " or ".join(kind.__name__ for kind in kinds)
    raise AssertionError(f"no {names} was raised")


def keyed():
    """Address and key of a server that asks for one."""
    if not KEYED:
        raise NotTried("this server has no keys")
    return KEYED + "/v1", KEY


def cancelled():
    """How many requests the server has counted as cancelled by their client."""
    with urllib.request.urlopen(METRICS, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("serin_requests_total") and 'class="client_cancel"' in line
    )


def sees_cancel(start_and_stop, count=1, within=5):
    """Whether the server counts so many more cancelled requests after a client has stopped its streams."""
    before = cancelled()
    start_and_stop()
    end = time.monotonic() + within
    while time.monotonic() < end:
        if cancelled() == before + count:
            return
        time.sleep(0.05)
    seen = cancelled() - before
    raise AssertionError(f"the server counts {seen:g} cancelled requests, not {count}, {within} s later")


def sees_stream_left(start):
    """The same of a stream of events that is closed after a few of them."""

    def leave():
        events = start()
        for count, _ in enumerate(events):
            if count == 6:
                break
        events.close()

    sees_cancel(leave)


def run_tool(command, within=300, **environment):
    """Runs a program of this client's environment; what it said, if it fails."""
    done = subprocess.run(
        [os.environ["SERIN_TOOL_BIN"] + "/" + command[0], *command[1:]],
        env=dict(os.environ, **environment),
        capture_output=True,
        text=True,
        timeout=within,
    )
    holds(done.returncode == 0, (done.stdout + done.stderr)[-550:])


def report_of(folder, pattern):
    """The one report that a program has written, as JSON."""
    found = list(pathlib.Path(folder).glob(pattern))
    holds(found, f"no {pattern} was written")
    return json.loads(found[0].read_text())


def post(path, body, headers=()):
    """Status and JSON of a request without a client library."""
    request = urllib.request.Request(
        URL + path, json.dumps(body).encode(), {"content-type": "application/json", **dict(headers)}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")


def each(**cases):
    """Runs the cases of one row, all of them; says which failed and which were refused."""
    found = {name: one(case) for name, case in cases.items()}
    why = {name: f"{name}: {' '.join(why.split())[:160]}" for name, (_, why) in found.items()}
    failed = [name for name, (state, _) in found.items() if state == "red"]
    refused = [name for name, (state, _) in found.items() if state in ("refused", "not tried")]
    holds(not failed, f"{len(failed)} of {len(cases)}: {', '.join(failed)}: {'; '.join(map(why.get, failed))}")
    if refused:
        raise Refused("; ".join(map(why.get, refused)))


def or_refused(kinds, call, *words):
    """Calls what the server may refuse by name: it works, or the row is `refused`."""
    try:
        return call()
    except kinds as error:
        if all(word in str(error) for word in words):
            raise Refused(str(error)) from error
        raise


def one(function):
    """Runs one row; returns its state and the reason."""
    try:
        result = function()
        if inspect.iscoroutine(result):
            asyncio.run(result)
        return "green", ""
    except Refused as error:
        return "refused", str(error)
    except NotTried as error:
        return "not tried", str(error)
    except Exception as error:  # noqa: BLE001 - whatever a client library raises is the finding
        return "red", f"{type(error).__name__}: {error}"


def run(functions, *packages):
    """Runs a client's rows and prints them with the packages' versions."""
    from importlib.metadata import version

    cells = {}
    for row in ROWS:
        if row in functions:
            state, why = one(functions[row])
            cells[row] = dict(state=state, why=" ".join(why.split())[:600])
    print("\n" + json.dumps(dict(versions={name: version(name) for name in packages}, cells=cells)))
