#!/usr/bin/env python3
"""Watches a canary behind nginx's split_clients, and sets its share to 0 when its errors regress: the peer's script.

    watch.py FOLDER [--every 15] [--least-errors 3] [--max-ratio 1.5] [--share 5]

What a careful engineer writes in an afternoon: every `--every` seconds it reads the new lines of nginx's access log and
adds to counters by arm and status, as an exporter would. If over the last five minutes the canary has at least
`--least-errors` replies with a 5xx and their ratio is more than `--max-ratio` times stable's, it writes a share of 0,
checks the configuration and reloads nginx, which lets running requests finish. It survives rotation of the log and a
failed reload (it tries again), and writes its counters for Prometheus (node_exporter's textfile format).

It sees what an access log shows: statuses and times, not the content of a reply with status 200.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import time

WINDOW = 300.0


def split(share):
    """nginx's block for a share in percent; a whole conversation has one key, other requests their own."""
    arms = f"    {share}% canary;\n    * stable;\n" if share else "    * stable;\n"
    key = 'map $http_x_serin_session $key {\n    "" $request_id;\n    default $http_x_serin_session;\n}\n'
    return f'{key}split_clients "$key" $arm {{\n{arms}}}\n'


def write(path, text):
    """Replaces a file at once, so that nobody reads half of it."""
    half = path.with_suffix(".new")
    half.write_text(text)
    os.replace(half, path)


class Log:
    """New lines of a log that may be rotated."""

    def __init__(self, path):
        self.path, self.file, self.rest = path, None, ""

    def lines(self):
        rotated = self.file and (
            not self.path.exists() or os.fstat(self.file.fileno()).st_ino != self.path.stat().st_ino
        )
        if rotated:
            yield from self._read()
            self.file = None
        if self.file is None and self.path.exists():
            self.file = open(self.path, encoding="utf-8", errors="replace")
        if self.file:
            yield from self._read()

    def _read(self):
        *whole, self.rest = (self.rest + self.file.read()).split("\n")
        yield from whole


class Arm:
    """Counts of one arm: since the start, and with times for the window."""

    def __init__(self):
        self.statuses, self.recent = collections.Counter(), collections.deque()

    def add(self, status, now):
        self.statuses[status] += 1
        self.recent.append((now, status >= 500))

    def window(self, now):
        """Errors and requests of the last five minutes."""
        while self.recent and self.recent[0][0] < now - WINDOW:
            self.recent.popleft()
        return sum(failed for _, failed in self.recent), len(self.recent)


def regressed(stable, canary, least, ratio):
    """Whether the canary's errors exceed their limit: both are (errors, requests)."""
    (few, of), (errors, requests) = stable, canary
    return errors >= least and errors / requests > ratio * (few / of if of else 0.0)


def textfile(arms):
    lines = ["# TYPE split_requests_total counter"]
    for name, arm in arms.items():
        lines += [
            f'split_requests_total{{arm="{name}",status="{status}"}} {count}' for status, count in arm.statuses.items()
        ]
    return "\n".join(lines) + "\n"


def reload(folder):
    """Whether nginx accepts the configuration and was told to use it."""
    nginx = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx-error.log")]
    return all(
        subprocess.run([*nginx, *more], capture_output=True).returncode == 0 for more in (["-t"], ["-s", "reload"])
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="nginx's folder, with share.conf and access.log")
    parser.add_argument("--every", type=float, default=15.0)
    parser.add_argument("--least-errors", type=int, default=3)
    parser.add_argument("--max-ratio", type=float, default=1.5)
    parser.add_argument("--share", type=int, default=5)
    args = parser.parse_args()
    log, arms = Log(args.folder / "access.log"), {"stable": Arm(), "canary": Arm()}
    while True:
        time.sleep(args.every)
        now = time.monotonic()
        for line in log.lines():
            try:
                entry = json.loads(line)
                arms[entry["arm"]].add(int(entry["status"]), now)
            except (ValueError, KeyError):
                continue
        write(args.folder / "split.prom", textfile(arms))
        stable, canary = (arms[name].window(now) for name in ("stable", "canary"))
        if regressed(stable, canary, args.least_errors, args.max_ratio):
            write(args.folder / "share.conf", split(0))
            if reload(args.folder):
                print(
                    f"canary taken out: {canary[0]} of {canary[1]} failed, stable {stable[0]} of {stable[1]}",
                    flush=True,
                )
                return 0
            write(args.folder / "share.conf", split(args.share))
            print("nginx did not take the new share; trying again", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
