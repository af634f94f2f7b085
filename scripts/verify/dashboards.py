#!/usr/bin/env python3
"""The dashboards, the alerts and the metrics, against a real Prometheus that scrapes a real rollout.

Every query of every panel must return figures; panels that need a GPU are listed by name and counted apart, unless
there is a GPU. The rules must pass `promtool check` and `test`, and be evaluated without an error. The metrics must
pass `promtool check metrics`, but for the colon in the names that vLLM chose. An order to roll back must fire its
alert. The dashboards are type-checked against Grafana's own types (npm: @grafana/schema), if npm can fetch them.

Needs `prometheus` with `promtool`; as root, installs the Debian package if it is not there.
"""

import asyncio
import http.server
import itertools
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

from common import MODELS, ROOT, Report, Server, arguments
from http_client import Connection, ask, chat, request_bytes

GRAFANA, PROMETHEUS = ROOT / "deploy/grafana", ROOT / "deploy/prometheus"
JSON = [("content-type", "application/json")]
# What a dashboard's variables stand for here.
VARIABLES = {"$instance": ".*", "$__rate_interval": "10s"}
GPU_ONLY = "serin_device_"
COLON = "metric names should not contain ':'"
SCHEMA, COMPILER = "@grafana/schema@13.2.3", "typescript@5.9.3"
PROGRAMS = ("prometheus", "promtool")
# Fields of an annotation that belong to the data source and are not in Grafana's types.
OF_PROMETHEUS = ("expr", "step", "titleFormat", "textFormat")


def needed():
    """Finds Prometheus and promtool, or installs them; says so if neither is possible."""
    if not all(map(shutil.which, PROGRAMS)):
        print("prometheus is not installed; trying: apt-get install prometheus", flush=True)
        if os.geteuid() == 0 and shutil.which("apt-get"):
            command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus"]
            subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        raise SystemExit(
            f"NOT TESTED: {' and '.join(missing)} not found, and not installable by this user. "
            "Install Prometheus (Debian: apt-get install prometheus) and run this again."
        )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Webhook(http.server.BaseHTTPRequestHandler):
    """Takes every alert."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Prometheus:
    """A Prometheus that scrapes one address every second."""

    def __init__(self, target):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="serin-prometheus-"))
        text = (PROMETHEUS / "prometheus.yml").read_text()
        text = text.replace("127.0.0.1:8081", target, 1).replace("15s", "1s")
        (self.folder / "prometheus.yml").write_text(text)
        shutil.copy(PROMETHEUS / "rules.yml", self.folder)
        self.addr = f"127.0.0.1:{free_port()}"
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder}/prometheus.yml",
                    f"--storage.tsdb.path={self.folder}/data",
                    f"--web.listen-address={self.addr}",
                ],
                stdout=log,
                stderr=log,
            )

    def __enter__(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if self.get("query", query="up")["result"]:
                    return self
            except OSError:
                pass
            time.sleep(0.3)
        raise SystemExit(f"Prometheus did not scrape: {(self.folder / 'log').read_text()[-2000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def get(self, what, **asked):
        url = f"http://{self.addr}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                return json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{asked}: {error.read().decode()}") from error

    def figures(self, expr, begun, moment):
        """How many finite values a query has: since `begun`, or at a moment."""
        for name, value in VARIABLES.items():
            expr = expr.replace(name, value)
        if moment:
            found = self.get("query", query=expr, time=moment)["result"]
            values = [one["value"][1] for one in found]
        else:
            found = self.get("query_range", query=expr, start=begun, end=time.time(), step="2s")["result"]
            values = [value for one in found for _, value in one["values"]]
        return sum(value not in ("NaN", "+Inf", "-Inf") for value in values)

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}


async def client(addr, numbers, until):
    """Chats that end at a stop or at the limit, votes, regenerated replies, invalid requests, and one that leaves."""
    connection = Connection(addr)
    while time.monotonic() < until():
        number = next(numbers)
        more = {} if number % 5 else {"stop": ["."]}
        body = chat(
            f"What is {number % 30} plus {number % 7}?",
            2 if number % 3 == 0 else 24,
            model="tiny",
            stream=False,
            **more,
        )
        if number % 41 == 0:
            body = b'{"model": "tiny"}'
        session = [("x-serin-session", f"s{number}")]
        reply = await connection.ask(request_bytes("POST", "/v1/chat/completions", body, JSON + session))
        if reply.code == 200 and number % 4 == 0:
            vote = json.dumps({"id": json.loads(reply.body)["id"], "value": 1 if number % 8 else -1}).encode()
            await connection.ask(request_bytes("POST", "/v1/feedback", vote, JSON))
        if number % 37 == 0:
            await connection.ask(request_bytes("POST", "/v1/chat/completions", body, JSON + session))
        await asyncio.sleep(0.03)


class Load(threading.Thread):
    """Clients until the block ends."""

    def __init__(self, addr, clients=6):
        super().__init__(daemon=True)
        self.addr, self.clients, self.stop = addr, clients, False

    def run(self):
        async def all_of_them():
            numbers = itertools.count()
            until = lambda: 0 if self.stop else float("inf")  # noqa: E731
            await asyncio.gather(*(client(self.addr, numbers, until) for _ in range(self.clients)))

        asyncio.run(all_of_them())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop = True
        self.join()


def order(server, program, *words):
    done = subprocess.run([program, *words, "--server", f"http://{server.operator}"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"serin {' '.join(words)}: {done.stderr}")


def metrics_text(server):
    return asyncio.run(ask(server.operator, "GET", "/metrics")).body.decode()


def rollout(server, args):
    """A canary is promoted and the former stable unloaded; returns what was to be seen in the middle, and when."""
    order(server, args.serin, "canary", "load", str(MODELS / "tiny-v2"), "--expect", "similar")
    server.canary_serves()
    middle = server.status_when(lambda s: s["weight"] >= 50, "50 %", 180)
    time.sleep(5)
    text, moment = metrics_text(server), time.time()
    server.status_when(lambda s: s["phase"] == "promoted", "a promotion", 300)
    server.status_when(lambda s: s["unloads"], "the former stable unloaded")
    time.sleep(4)
    return text, middle, moment


def rolled_back(server, prometheus, args, report):
    order(server, args.serin, "canary", "load", str(MODELS / "tiny-v1"))
    server.canary_serves()
    time.sleep(3)
    order(server, args.serin, "rollback", "--reason", "to see the alert")
    begun = time.monotonic()
    while (firing := prometheus.firing()) < {"SerinCanaryRolledBack"} and time.monotonic() - begun < 30:
        time.sleep(0.5)
    freed = [
        f"{one['version']}: {one['used_after']} B used, {one['reserved_after']} B reserved"
        for one in server.status()["unloads"]
    ]
    report.figure("left after each unload", "; ".join(freed))
    report.bar(
        "alerts that fire after an order to roll back",
        ", ".join(sorted(firing)) or "none",
        "SerinCanaryRolledBack only",
        firing == {"SerinCanaryRolledBack"},
    )


def panels():
    """(dashboard, panel) of all dashboards."""
    for path in sorted(GRAFANA.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            yield path.stem, panel


def ask_panels(prometheus, begun, moment, report, gpu):
    """Tables are asked at `moment`, when the rollout was running; everything else over the whole time."""
    answered, queries, empty, on_gpu = [], 0, [], []
    for name, panel in panels():
        title = f"{name}: {panel['title']}"
        silent = []
        for target in panel["targets"]:
            queries += 1
            if not prometheus.figures(target["expr"], begun, moment if target["instant"] else None):
                silent.append(target["expr"])
        if any(GPU_ONLY in target["expr"] for target in panel["targets"]) and not gpu:
            on_gpu.append(title)
        elif silent:
            empty.append(f"{title} ({'; '.join(silent)})")
        else:
            answered.append(title)
    report.figure("panels, and queries in them", f"{len(answered) + len(empty) + len(on_gpu)}, {queries}")
    report.bar(
        "panels without a GPU's figures whose every query returns figures",
        f"{len(answered)}; without: {', '.join(empty) or 'none'}",
        "all",
        not empty,
    )
    report.figure(f"panels that need a GPU ({len(on_gpu)}), not answered here", ", ".join(on_gpu) or "none")


def ask_annotations(prometheus, begun, report):
    expr = json.loads((GRAFANA / "rollout.json").read_text())["annotations"]["list"][0]["expr"]
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    found = prometheus.get("query_range", query=expr, start=begun, end=time.time(), step="2s")["result"]
    kinds = sorted(one["metric"]["kind"] for one in found)
    wanted = {"started", "raised", "promoted", "rolled_back"}
    report.bar("decisions that the annotations show", ", ".join(kinds), ", ".join(sorted(wanted)), wanted <= set(kinds))


def evaluated(prometheus, report):
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    bad = [f"{rule['name']}: {rule.get('lastError', rule['health'])}" for rule in rules if rule["health"] != "ok"]
    report.bar(
        "rules that Prometheus evaluates", f"{len(rules) - len(bad)} of {len(rules)} {'; '.join(bad)}", "all", not bad
    )


def promtool(report, text):
    def run(*words, given=None):
        done = subprocess.run(["promtool", *words], input=given, capture_output=True, text=True, cwd=PROMETHEUS)
        return done.returncode, [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]

    for what in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules.test.yml"],
    ):
        code, lines = run(*what)
        report.bar(f"promtool {' '.join(what)}", "clean" if code == 0 else "; ".join(lines[-4:]), "clean", code == 0)
    _, lines = run("check", "metrics", given=text)
    colons = [line for line in lines if line.startswith("vllm:") and line.endswith(COLON)]
    others = [line for line in lines if line not in colons]
    families = text.count("# TYPE ")
    report.bar(
        f"promtool check metrics, {families} families",
        f"{'; '.join(others) or 'clean'} (and {len(colons)} names of vLLM with a colon)",
        "clean, but for vLLM's names",
        families > 40 and not others,
    )


def types_of(panel):
    """A panel as TypeScript, with the types of its kind where Grafana publishes them."""
    options, field = json.dumps(panel["options"]), json.dumps(panel["fieldConfig"]["defaults"].get("custom", {}))
    kinds = {"timeseries": "timeseries", "stat": "stat", "table": "table", "state-timeline": "statetimeline"}
    kind = kinds[panel["type"]]
    lines = [f"{{ const options: Partial<{kind}.Options> = {options}; void options;"]
    if kind != "stat":
        lines.append(f"const custom: Partial<{kind}.FieldConfig> = {field}; void custom;")
    return "\n".join([*lines, "}"])


def open_enums(types):
    """Enumerations as unions of their texts: JSON has the texts, which TypeScript does not take for the members."""
    members, files = {}, [path for path in types.rglob("*.d.ts") if "enum " in path.read_text()]

    def union(found):
        values = re.findall(r"(\w+) = (\"[^\"]*\"|-?\d+)", found[2])
        members.update({f"{found[1]}.{name}": value for name, value in values})
        return (
            f"{'export ' if 'export' in found[0] else ''}type {found[1]} = {' | '.join(value for _, value in values)};"
        )

    for path in files:
        path.write_text(re.sub(r"(?:export )?declare enum (\w+) \{([^}]*)\}", union, path.read_text()))
    for path in types.rglob("*.d.ts"):
        text = path.read_text()
        used = re.sub(r"\b(?:\w+\.)?(\w+\.\w+)\b", lambda found: members.get(found[1], found[0]), text)
        if used != text:
            path.write_text(used)


def schema(report):
    """The dashboards as literals of Grafana's types: an unknown field fails, and so does a wrong type."""
    what = f"dashboards against the types of {SCHEMA}"
    with tempfile.TemporaryDirectory(prefix="serin-schema-") as folder:
        folder = pathlib.Path(folder)
        fetched = (
            shutil.which("npm")
            and subprocess.run(
                ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", SCHEMA, COMPILER],
                cwd=folder,
                capture_output=True,
                text=True,
            ).returncode
            == 0
        )
        if not fetched:
            print("NOT TESTED: npm cannot fetch Grafana's types; the dashboards' structure alone is checked")
            return report.figure(what, None)
        types = folder / "node_modules/@grafana/schema/dist/types"
        open_enums(types)
        kinds = {
            kind: next(types.glob(f"**/composable/{kind}/panelcfg/**/*types.gen.d.ts"), None)
            for kind in ("timeseries", "stat", "table", "statetimeline")
        }
        lines = ["import type { Dashboard } from '@grafana/schema';"]
        lines += [
            f"import type * as {kind} from './{path.relative_to(folder)}';" for kind, path in kinds.items() if path
        ]
        for path in sorted(GRAFANA.glob("*.json")):
            text = path.read_text()
            board = json.loads(text)
            for mark in board["annotations"]["list"]:
                for field in OF_PROMETHEUS:
                    del mark[field]
            lines.append(f"export const {path.stem}: Dashboard = {json.dumps(board, indent=1)};")
            lines += [types_of(panel) for panel in json.loads(text)["panels"] if kinds[panel["type"].replace("-", "")]]
        (folder / "check.ts").write_text("\n".join(lines))
        done = subprocess.run(
            [
                "npx",
                "--no-install",
                "tsc",
                "--noEmit",
                "--strict",
                "--skipLibCheck",
                "--moduleResolution",
                "bundler",
                "--module",
                "esnext",
                "check.ts",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        errors = done.stdout.strip().splitlines()
        report.figure("kinds of panels with published types", ", ".join(kind for kind, path in kinds.items() if path))
        report.bar(
            what,
            "; ".join(errors[:3])[:500] if errors else f"no errors ({done.returncode})",
            "no errors",
            done.returncode == 0,
        )


def structure(report):
    """What Grafana needs and no type says: ids and places that are unique, one data source, variables that exist."""
    wrong = []
    for path in sorted(GRAFANA.glob("*.json")):
        board = json.loads(path.read_text())
        panels = board["panels"]
        cells = [
            (x, y)
            for panel in panels
            for grid in [panel["gridPos"]]
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        ]
        names = {f"${{{one['name']}}}" for one in board["templating"]["list"]}
        checks = {
            "ids": len({panel["id"] for panel in panels}) == len(panels),
            "titles": len({panel["title"] for panel in panels}) == len(panels),
            "places": len(set(cells)) == len(cells) and all(x < 24 for x, _ in cells),
            "data source": all(
                one["datasource"]["uid"] in names for panel in panels for one in [panel, *panel["targets"]]
            ),
            "reference ids": all(len({t["refId"] for t in p["targets"]}) == len(p["targets"]) for p in panels),
            "server": all("$instance" in t["expr"] for p in panels for t in p["targets"]),
        }
        wrong += [f"{path.stem}: {name}" for name, holds in checks.items() if not holds]
    current = subprocess.run([sys.executable, ROOT / "scripts/make_dashboards.py", "--check"]).returncode == 0
    report.bar(
        "structure of the dashboards; written by scripts/make_dashboards.py",
        ", ".join(wrong) or "sound",
        "sound",
        not wrong and current,
    )


def main():
    args, begun = arguments(__doc__), time.time()
    report = Report("dashboards", args)
    needed()
    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    config = {
        "model": {"name": "tiny", "stable": str(MODELS / "tiny-v1")},
        "rollout": {
            "steps": [20, 50, 100],
            "bake": "8s",
            "min_requests": 30,
            "keep_previous": "1s",
            "cross_read": 0.5,
            "max_latency_ratio": 5.0,
            "warmup_requests": 1,
        },
        "ledger": {"enabled": True, "path": "serin.ledger"},
        "[alerts.webhooks]": {"url": f"http://127.0.0.1:{hook.server_port}/", "kinds": ["promoted", "rolled_back"]},
    }
    with Server(args.serin, config) as server, Prometheus(server.operator) as prometheus:
        time.sleep(3)
        with Load(server.addr):
            text, status, moment = rollout(server, args)
            rolled_back(server, prometheus, args, report)
            time.sleep(3)
        promtool(report, text)
        evaluated(prometheus, report)
        ask_panels(prometheus, begun, moment, report, gpu="device" in status)
        ask_annotations(prometheus, begun, report)
    hook.shutdown()
    structure(report)
    schema(report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
