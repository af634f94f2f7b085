"""Shared by the cases of scripts/verify: a server process, its models, its figures, and the report.

The system chooses the server's port, and the server is killed with its handle. Nothing here judges anything.
The HTTP client is in http_client.py.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import http_client

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
START_WITHIN = 180
SMOLLM2_135M = dict(layers=30, hidden=576, heads=9, kv_heads=3, width=1536, vocab=49152, context=8192)
TINY = dict(layers=4, hidden=128, heads=4, kv_heads=2, width=256, vocab=1024, context=512)
LARGER = dict(layers=8, hidden=512, heads=8, kv_heads=4, width=1536, vocab=8192, context=8192)
MIDDLE = dict(layers=8, hidden=256, heads=4, kv_heads=2, width=768, vocab=4096, context=8192)


def arguments(doc, **more):
    """The arguments of every case, and those of this one: name=(default, help)."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--serin", type=pathlib.Path, default=ROOT / "target/release/serin",
                        help="the program (default: target/release/serin)")
    parser.add_argument("--out", type=pathlib.Path, help="append each figure to this file, as a line of JSON")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time: tries the case out, proves nothing")
    for name, (default, text) in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                            help=f"{text} (default: {default})")
    args = parser.parse_args()
    if not args.serin.is_file():
        parser.error(f"{args.serin} is not there; name the program with --serin")
    return args


def raise_file_limit():
    """Raises the limit on open files as far as the system allows, for this process and its children."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Beside:
    """Runs `_run` in a separate process during a `with` block, so that it does not delay those who measure time.

    `_run` checks `self.stop`.
    """

    def __init__(self):
        self.stop = multiprocessing.Event()
        self.process = multiprocessing.Process(target=self._run, daemon=True)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.process.join()


def percentile(values, percent):
    """The order statistic of rank ceil(percent/100 * n); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def resident_of(pid):
    """Resident memory of a process in bytes."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024


class Server:
    """A `serin serve` process with its own config."""

    def __init__(self, program, config, cpus=None, arguments=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="serin-verify-"))
        (self.folder / "serin.toml").write_text(toml(config))
        self.addr = self.operator = None
        self.lines, self.ready = [], threading.Event()
        command = [str(program), "serve", "--config", str(self.folder / "serin.toml"), *arguments]
        pin = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=pin)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        """Reads its addresses: for clients, and for operators if they have another one."""
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            place = re.search(r"http://(\S+:\d+)", line)
            if line.startswith("serin serves ") and place:
                self.addr = place[1]
            elif place and "operator" in line and not line.startswith("try:"):
                self.operator = place[1]
            if line.startswith("try:"):
                self.ready.set()
        self.ready.set()

    def __enter__(self):
        if not self.ready.wait(START_WITHIN) or self.addr is None:
            log = (self.folder / "log").read_text(errors="replace")
            self.close()
            raise SystemExit(f"the server did not start: {log[-2000:]}")
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def signal(self, which=signal.SIGTERM):
        self.process.send_signal(which)

    def ended(self, within):
        """Seconds until it exited, and its exit code; the code is None if it did not exit."""
        begun = time.monotonic()
        while time.monotonic() - begun < within:
            if (code := self.process.poll()) is not None:
                return time.monotonic() - begun, code
            time.sleep(0.001)
        return time.monotonic() - begun, None

    def resident(self):
        """Its resident memory in bytes."""
        return resident_of(self.process.pid)

    def processor_time(self):
        """Seconds of processor time that it has used."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def status(self):
        code, body = http_client.get(self.operator or self.addr, "/admin/status")
        if code != 200:
            raise RuntimeError(f"/admin/status: {code} {body[:200]}")
        return json.loads(body)

    def status_when(self, holds, what, within=START_WITHIN):
        end = time.monotonic() + within
        while not holds(status := self.status()):
            if time.monotonic() > end:
                log = (self.folder / "log").read_text(errors="replace")
                raise SystemExit(f"never: {what}\n{log[-2000:]}")
            time.sleep(0.1)
        return status

    def canary_serves(self):
        """Waits for the canary; returns its weight."""
        return self.status_when(lambda s: s["arms"][1]["loaded"] and s["rollout"], "a canary")["weight"]

    def metric(self, name, **labels):
        """The sum of a metric's series with these labels; None if there is none."""
        code, body = http_client.get(self.operator or self.addr, "/metrics")
        found = []
        for line in body.decode().splitlines():
            key, _, value = line.rpartition(" ")
            if key.partition("{")[0] == name and all(f'{k}="{v}"' in key for k, v in labels.items()):
                found.append(float(value))
        return sum(found) if code == 200 and found else None


def toml(config):
    """A table of tables as TOML; strings, numbers, booleans and lists are written the same way in JSON."""
    tables = {"ledger": {"enabled": False}, **config}
    tables["server"] = {"listen": "127.0.0.1:0", **config.get("server", {})}
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def random_model(folder, shape, name="random"):
    """A folder with a model's shape and no weights, for `load_format = "dummy:.."`.

    The tokenizer is that of the demo models, with words added to fill the vocabulary, so that every token that
    random weights choose has a text and reaches the client as soon as it is generated.
    """
    folder = pathlib.Path(folder) / name
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((MODELS / "tiny-v1/config.json").read_text())
    config.update(hidden_size=shape["hidden"], intermediate_size=shape["width"], vocab_size=shape["vocab"],
                  num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
                  num_key_value_heads=shape["kv_heads"], head_dim=shape["hidden"] // shape["heads"],
                  max_position_embeddings=shape["context"], tie_word_embeddings=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((MODELS / "tiny-v1/tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words.update({f"word{i}": i for i in range(max(words.values()) + 1, shape["vocab"])})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    text = json.loads((MODELS / "tiny-v1/tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(text, model_max_length=shape["context"])))
    return str(folder)


class Report:
    """Figures and whether they meet their limits: a Markdown table on the screen, lines of JSON in the file."""

    def __init__(self, case, args):
        self.case, self.args, self.rows, self.begun = case, args, [], time.time()

    def figure(self, what, value):
        self.rows.append(dict(what=what, value=value, bar=None, holds=None))

    def bar(self, what, value, bar, holds):
        """A figure with a limit; `holds` is None if it could not be measured."""
        self.rows.append(dict(what=what, value=value, bar=bar, holds=bool(holds)))

    def end(self):
        """Prints and appends everything; returns the exit code."""
        quick = " (quick: proves nothing)" if self.args.quick else ""
        print(f"\n### {self.case}{quick}\n\n| what | measured | bar | holds |\n|---|---|---|---|")
        for row in self.rows:
            holds = {None: "", True: "yes", False: "**no**"}[row["holds"]]
            print(f"| {row['what']} | {shown(row['value'])} | {row['bar'] or ''} | {holds} |")
        sys.stdout.flush()
        if self.args.out:
            common = dict(case=self.case, at=round(self.begun), quick=self.args.quick, program=self.args.serin.name,
                          machine=f"{platform.machine()}, {os.cpu_count()} processors")
            with open(self.args.out, "a") as out:
                out.writelines(json.dumps({**common, **row}) + "\n" for row in self.rows)
        return 0 if all(row["holds"] is not False for row in self.rows) else 1


def shown(value):
    if value is None:
        return "not measured"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def ms(seconds):
    """Milliseconds, rounded for the table."""
    return None if seconds is None else round(seconds * 1e3, 2)
