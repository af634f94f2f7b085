"""The OpenAPI document against a real server: requests made from it, valid and not, and what the server answers.

Schemathesis makes requests from /openapi.json, and checks that no answer is a 5xx and that each one has the status, the
media type, the headers and the form that the document says. Routes that are described as missing (501) are checked too,
except for being a 5xx. Installed from PyPI under --venv on the first run.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from common import MODELS, Report, Server, arguments

PINNED = "schemathesis==4.32.5"
FORM = ["status_code_conformance", "content_type_conformance", "response_schema_conformance",
        "response_headers_conformance"]
CASES = 10_000


def installed(folder):
    """The program, installed once."""
    program = folder / "bin/st"
    if not program.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "--quiet", PINNED], check=True)
    return program


def run(program, address, folder, checks, examples, seed, more):
    """One run; returns its number of cases, its failures by check, its answers by status, and what was printed."""
    report = folder / "report.ndjson"
    command = [str(program), "run", f"http://{address}/openapi.json", "--checks", ",".join(checks), "--report", "ndjson",
               "--report-ndjson-path", str(report), "--max-examples", str(examples), "--seed", str(seed), "--no-color",
               "--phases", "examples,coverage,fuzzing", "--workers", "2", "--continue-on-failure", "--warnings", "off",
               "--request-timeout", "120", "--suppress-health-check", "all", "--generation-database", "none", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if not report.is_file() or done.returncode not in (0, 1):
        raise SystemExit(f"schemathesis failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    cases, failures, statuses = 0, {}, {}
    for line in report.read_text().splitlines():
        found = json.loads(line).get("ScenarioFinished")
        recorder = found["recorder"] if found else {}
        cases += len(recorder.get("cases", {}))
        for interaction in recorder.get("interactions", {}).values():
            status = (interaction.get("response") or {}).get("status_code")
            statuses[status] = statuses.get(status, 0) + 1
        for nodes in recorder.get("checks", {}).values():
            for node in nodes:
                if node["status"] != "success":
                    failures.setdefault(node["name"], []).append((recorder["label"], node))
    return cases, failures, statuses, done.stdout


def main():
    args = arguments(
        __doc__,
        venv=(pathlib.Path(tempfile.gettempdir()) / "serin-schemathesis", "where schemathesis is"),
        seed=(1, "makes the requests reproducible"),
        examples=(450, "requests of the fuzzing phase per route"),
    )
    examples = max(1, args.examples // 10) if args.quick else args.examples
    program, report = installed(args.venv), Report("schemathesis", args)
    config = {"model": {"name": "tiny", "stable": str(MODELS / "tiny-v1")}}
    with tempfile.TemporaryDirectory() as folder, Server(args.serin, config) as server:
        with urllib.request.urlopen(f"http://{server.addr}/openapi.json") as answer:
            paths = json.load(answer)["paths"]
        missing = [path for path, item in paths.items() if "501" in item.get("post", {}).get("responses", {})]
        of = lambda which: [word for path in missing for word in (f"--{which}-path", path)]
        folder = pathlib.Path(folder)
        runs = [run(program, server.addr, folder, ["not_a_server_error", *FORM], examples, args.seed, of("exclude")),
                run(program, server.addr, folder, FORM, max(1, examples // 50), args.seed, of("include"))]
        alive = server.process.poll() is None
    cases = sum(found[0] for found in runs)
    failures = {name: [] for name in ["not_a_server_error", *FORM]}
    for _, found, _, text in runs:
        for name, nodes in found.items():
            failures.setdefault(name, []).extend(nodes)
        if found:
            print(text[-20_000:])
    report.bar("requests", cases, f"at least {CASES}", args.quick or cases >= CASES)
    report.figure("answers by status", json.dumps({str(k): v for k, v in sorted(runs[0][2].items(), key=str)}))
    report.bar("unexpected 5xx", len(failures.pop("not_a_server_error")), "0", not runs[0][1].get("not_a_server_error"))
    violations = sum(len(nodes) for nodes in failures.values())
    report.bar("answers that are not as described", violations, "0", violations == 0)
    report.bar("the server is alive at the end", alive, "yes", alive)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
