"""The operators' page in a real browser: a rollout and a rollback watched, orders given, and what must hold meanwhile.

Headless Chromium, driven by Playwright, sees the page as `serin demo` prints its address. A whole rollout goes by from
5 % to the promotion, and a broken canary to its rollback. The page must say so, load nothing from elsewhere, raise no
error, fit every width, have no serious finding of axe-core, work by keyboard, and say since when it is stale while the
server does not answer. Then eight hours of events are replayed to it in a minute: its memory must stay flat.

Needs `pip install playwright`, Chromium (`apt-get install chromium`, or --chromium), and npm for axe-core. With
--pictures FOLDER the screenshots are kept.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from common import ROOT, Report, Server, arguments

WIDTHS = [360, 768, 1280, 1920, 2560]
FILES = ROOT / "src/web/files"
HOURS = 8
GROWTH = 1.5


def axe_script(folder):
    """axe-core's source, from the npm registry."""
    subprocess.run(["npm", "pack", "--silent", "axe-core"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["tar", "xzf", next(pathlib.Path(folder).glob("axe-core-*.tgz"))], cwd=folder, check=True)
    return (pathlib.Path(folder) / "package/axe.min.js").read_text()


class Demo:
    """A `serin demo` process, and the address of its page."""

    def __init__(self, program, *more):
        command = [str(program), "demo", "--plain", "--stay", *more]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/#token=\S+", line):
                self.page = found[0]
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


class Watched:
    """A browser page, with what it complains of and what it asks for."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors, self.asked = [], set()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", lambda request: self.asked.add(request.url))

    def _console(self, message):
        # A server that was stopped on purpose refuses connections.
        if message.type == "error" and "net::ERR" not in message.text and "Failed to fetch" not in message.text:
            self.errors.append(message.text)

    def text(self, selector):
        return self.page.inner_text(selector)

    def elsewhere(self, address):
        home = address.split("/#")[0]
        return [url for url in self.asked if not url.startswith((home, "data:"))]


def watch(watched, demo, until, limit, each=lambda headline: None):
    """Follows the headline until it begins with `until`; all that it said."""
    watched.page.goto(demo.page)
    said, deadline = [], time.monotonic() + limit
    while time.monotonic() < deadline:
        headline = watched.text("#headline")
        if not said or said[-1] != headline:
            said.append(headline)
            each(headline)
        if headline.startswith(until):
            return said
        time.sleep(0.2)
    raise SystemExit(f"the page never said {until!r}; at last: {said[-3:]}")


def settled(holds, within):
    """Waits until it holds; the page's policy forbids Playwright's own way, which evaluates text."""
    deadline = time.monotonic() + within
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)


def picture(watched, folder, name, **options):
    watched.page.screenshot(path=str(folder / f"{name}.png"), **options)


def overflows(watched):
    """Widths at which the page is wider than its window."""
    wide = []
    for width in WIDTHS:
        watched.page.set_viewport_size({"width": width, "height": 900})
        time.sleep(0.4)
        if watched.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(width)
    watched.page.set_viewport_size({"width": 1280, "height": 900})
    return wide


def findings(browser, demo, axe, scheme):
    """Serious and critical findings of axe-core; its script needs a page without the policy."""
    watched = Watched(browser, bypass_csp=True, color_scheme=scheme)
    watched.page.goto(demo.page)
    watched.page.wait_for_selector(".connection.live")
    time.sleep(1.5)
    watched.page.add_script_tag(content=axe)
    found = watched.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    watched.context.close()
    return [f"{one['id']} ({scheme}): {one['nodes'][0]['html'][:120]}" for one in found
            if one["impact"] in ("serious", "critical")]


def rollout(report, browser, program, folder, axe):
    with Demo(program) as demo:
        watched = Watched(browser, viewport={"width": 1280, "height": 900}, color_scheme="dark")

        def each(headline):
            if " gets 25 %" in headline and not (folder / "rollout.png").exists():
                # As tall as the page: plots are drawn where they can be seen.
                watched.page.set_viewport_size({"width": 1280, "height": 2600})
                time.sleep(4)
                picture(watched, folder, "rollout")
                # The picture of docs/page.md and the README.
                picture(watched, folder, "page", clip={"x": 0, "y": 0, "width": 1280, "height": 1900})
                watched.page.set_viewport_size({"width": 1280, "height": 900})

        said = watch(watched, demo, "Promoted", 130, each)
        steps = [step for step in (5, 25, 50, 100) if any(f" gets {step} %" in one for one in said)]
        report.bar("steps that the page showed on the way to the promotion", str(steps), "5, 25, 50, 100",
                   steps == [5, 25, 50, 100])
        kinds = {line.split("\n")[1] for line in watched.page.locator("#timeline li").all_inner_texts()}
        report.bar("kinds of entries in the time line", ", ".join(sorted(kinds)), "started, raised, promoted",
                   {"started", "raised", "promoted"} <= kinds)
        wide = overflows(watched)
        report.bar("widths that overflow", str(wide), "none of 360 to 2,560", not wide)
        for width, scheme in [(360, "light"), (2560, "dark")]:
            watched.page.emulate_media(color_scheme=scheme)
            watched.page.set_viewport_size({"width": width, "height": 1000})
            time.sleep(1.2)
            picture(watched, folder, f"width-{width}-{scheme}", full_page=True)
        found = [one for scheme in ("dark", "light") for one in findings(browser, demo, axe, scheme)]
        report.bar("serious findings of axe-core, dark and light", "; ".join(found) or "none", "none", not found)
        asks(report, watched)
        stale(report, watched, demo)
        outside = watched.elsewhere(demo.page)
        report.bar("requests to other addresses", ", ".join(outside) or "none", "none", not outside)
        report.bar("errors in the console", "; ".join(watched.errors) or "none", "none", not watched.errors)
        watched.context.close()


def asks(report, watched):
    """A question to both models (after the promotion there is only one) by keyboard alone."""
    watched.page.set_viewport_size({"width": 1280, "height": 900})
    watched.page.focus("#prompt")
    watched.page.keyboard.type("What is 7 plus 5?")
    for _ in range(4):
        watched.page.keyboard.press("Tab")
    watched.page.keyboard.press("Enter")
    answer = watched.page.locator(".answer[data-arm=stable] .more")
    settled(lambda: "ended by" in answer.inner_text(), 20)
    report.bar("a question asked by keyboard", answer.inner_text(), "an answer", "ended by" in answer.inner_text())


def stale(report, watched, demo):
    demo.process.send_signal(signal.SIGSTOP)
    watched.page.wait_for_selector(".connection.stale", timeout=20_000)
    said = watched.text("#connection")
    before = watched.page.evaluate("serin.points()")
    demo.process.send_signal(signal.SIGCONT)
    watched.page.wait_for_selector(".connection.live", timeout=30_000)
    time.sleep(2)
    after = watched.page.evaluate("serin.points()")
    report.bar("while the server does not answer", said.strip(), "stale since", "stale since" in said)
    report.bar("points after it is back", f"{before}, then {after}", "more", after > before)


def rollback(report, browser, program, folder):
    with Demo(program, "--bad") as demo:
        watched = Watched(browser, viewport={"width": 1280, "height": 900}, color_scheme="dark")
        said = watch(watched, demo, "Rolled back", 60)
        picture(watched, folder, "rollback", full_page=True)
        alarms = watched.page.locator("#timeline .alarm").count()
        report.bar("a broken canary", said[-1][:90], "Rolled back ...", alarms > 0)
        watched.context.close()


def orders(report, browser, args, folder):
    """Orders with reasons, through their previews, by keyboard; read back from the ledger."""
    config = {
        "model": {"name": "tiny", "stable": str(ROOT / "models/tiny-v1"), "canary": str(ROOT / "models/tiny-v2")},
        "rollout": {"advance": "manual", "bake": "1h"},
        "ledger": {"path": "serin.ledger"},
    }
    with Server(args.serin, config) as server:
        server.canary_serves()
        with urllib.request.urlopen(f"http://{server.operator}/admin/page") as answer:
            address = f"http://{server.operator}/#token={json.load(answer)['token']}"
        watched = Watched(browser, viewport={"width": 1280, "height": 900})
        page = watched.page
        page.goto(address)
        page.wait_for_selector("[data-order=pause]:not(:disabled)")
        gone = "token" not in page.url
        page.fill("#by", "ann")
        given = []
        for name, reason in [("pause", "to look at it"), ("weight", "more of it"), ("rollback", "seen enough")]:
            page.fill("#reason", reason)
            page.focus(f"[data-order={name}]")
            page.keyboard.press("Enter")
            with contextlib.suppress(Exception):
                page.wait_for_selector("#preview[open]", timeout=10_000)
            if not page.locator("#preview[open]").count():
                raise SystemExit(f"no preview of {name}: {page.inner_text('#outcome')}")
            if name == "rollback":
                time.sleep(0.3)
                picture(watched, folder, "preview")
                page.keyboard.press("Escape")
                page.wait_for_selector("#preview:not([open])", state="attached")
                page.focus(f"[data-order={name}]")
                page.keyboard.press("Enter")
                page.wait_for_selector("#preview[open]")
            page.focus("#give")
            page.keyboard.press("Enter")
            settled(lambda: "under way" not in page.inner_text("#outcome"), 40)
            given.append(page.inner_text("#outcome"))
        reasons = ("to look at it", "more of it", "seen enough")

        def recorded():
            line = " / ".join(page.locator("#timeline li").all_inner_texts())
            return all(f"by ann, because: {reason}" in line for reason in reasons)

        settled(recorded, 10)
        kept = recorded()
        report.bar("orders given by keyboard", "; ".join(given), "all done, with author and reason in the ledger", kept)
        report.bar("the token in the address bar", "gone" if gone else "still there", "gone", gone)
        report.bar("errors in the console", "; ".join(watched.errors) or "none", "none", not watched.errors)
        watched.context.close()


class Replay(http.server.BaseHTTPRequestHandler):
    """Serves the page's files and eight hours of samples, as fast as they are read."""

    sample, names, reached = None, None, 0

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/admin/live":
            return self.live()
        if path.startswith("/admin/"):
            return self.reply(b"null", "application/json")
        name = "index.html" if path == "/" else path.removeprefix("/ui/")
        kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
        self.reply((FILES / name).read_bytes(), kinds.get(pathlib.Path(name).suffix, "text/html"))

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def live(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        empty = {"at": [], "values": [[] for _ in Replay.names]}
        first = {"continues": False, "names": Replay.names, "coarse": empty, "fine": empty, "version": "replay"}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.event("history", 0, first)
            for number in range(1, HOURS * 3600 + 1):
                point = {**Replay.sample["point"], "number": number, "at": 1_700_000_000_000 + 1000 * number}
                status = {**Replay.sample["status"], "revision": number // 60, "uptime_s": number}
                self.event("sample", number, {"point": point, "status": status})
                Replay.reached = number
            time.sleep(30)

    def event(self, kind, number, data):
        self.wfile.write(f"id: r-{number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())


def one_sample(program):
    """A sample and the names of its values, from a real rollout."""
    with Demo(program) as demo:
        time.sleep(12)
        base, token = demo.page.split("/#token=")
        with urllib.request.urlopen(f"{base}/admin/live") as stream:
            data = []
            while len(data) < 2:
                line = stream.readline().decode()
                if line.startswith("data: "):
                    data.append(json.loads(line[6:]))
    return data[1], data[0]["names"]


def memory(report, browser, program, quick):
    """The page's heap while eight hours of samples go by."""
    Replay.sample, Replay.names = one_sample(program)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    watched = Watched(browser, viewport={"width": 1280, "height": 900})
    session = watched.context.new_cdp_session(watched.page)
    session.send("Performance.enable")
    watched.page.goto(f"http://127.0.0.1:{server.server_port}/#token=x")

    def heap():
        session.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return metrics["JSHeapUsedSize"], metrics["Nodes"]

    last, found, deadline = HOURS * 3600 // (8 if quick else 1), {}, time.monotonic() + 900
    marks = [last // 4, last // 2, last]
    while marks and time.monotonic() < deadline:
        time.sleep(0.2)
        if Replay.reached >= marks[0]:
            found[marks.pop(0)] = heap()
    text = ", ".join(f"after {mark // 60} min {size / 2**20:.1f} MiB and {nodes:.0f} nodes" for mark, (size, nodes) in found.items())
    flat = not marks and all(found[last][k] <= GROWTH * found[last // 4][k] for k in (0, 1))
    report.bar(f"memory of the page over {last / 3600:.0f} hours of events", text, f"at the end at most {GROWTH} x the first", flat)
    report.bar("points that it keeps", watched.page.evaluate("serin.points()"), "at most 1,860",
               watched.page.evaluate("serin.points()") <= 1860)
    report.bar("errors in the console", "; ".join(watched.errors) or "none", "none", not watched.errors)
    watched.context.close()
    server.shutdown()


def main():
    args = arguments(__doc__, chromium=("/usr/bin/chromium", "the browser"), pictures=("", "folder for screenshots"))
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit("this case needs playwright: pip install playwright")
    report = Report("page", args)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = pathlib.Path(args.pictures or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("rollout.png"):
            old.unlink()
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=args.chromium, args=flags)
        rollout(report, browser, args.serin, folder, axe_script(temporary))
        rollback(report, browser, args.serin, folder)
        orders(report, browser, args, folder)
        memory(report, browser, args.serin, args.quick)
        browser.close()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
