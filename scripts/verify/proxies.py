#!/usr/bin/env python3
"""The nginx and Caddy examples in front of a real serin: streams are not buffered, /admin and /metrics do not open.

Each configuration is checked by the proxy's own tool and started with other ports. Through each: one streamed chat,
whose first token must arrive in the first quarter of its time, and the others apart from each other; the probes; and
ways to write /admin and /metrics, all of which must be refused. Also that a body above the limit gets a 413.

Needs `nginx` and `caddy`; as root, installs the Debian packages if they are not there.
"""

import asyncio
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from common import SMOLLM2_135M, ROOT, Report, Server, arguments, ms, random_model
from http_client import ask, ask_chat, chat

TOKENS = 40
PACKAGES = {"nginx": "nginx-light", "caddy": "caddy"}
OPEN = ["/livez", "/readyz", "/version", "/v1/models"]
SHUT = [
    "/metrics",
    "/admin/status",
    "/admin",
    "//admin/status",
    "/v1/../metrics",
    "/v1/../admin/status",
    "/v1/%2e%2e/metrics",
    "/v1/..%2fmetrics",
    "/metrics/",
    "/METRICS",
    "/./metrics",
    "/livez/../metrics",
]


def installed(program):
    """Whether the proxy is there, or can be installed."""
    if not shutil.which(program) and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", PACKAGES[program]]
        subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    return shutil.which(program)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def nginx(folder, port, addr):
    """The commands that check and start nginx with the example, on other ports."""
    text = (ROOT / "deploy/nginx/serin.conf").read_text()
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("127.0.0.1:8080", addr)
    (folder / "serin.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log {folder}/log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/fcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n"
        f"include {folder}/serin.conf; }}\n"
    )
    base = ["nginx", "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/log"]
    return [*base, "-t"], [*base, "-g", "daemon off;"]


def caddy(folder, port, addr):
    text = (ROOT / "deploy/caddy/Caddyfile").read_text()
    text = text.replace(":80 {", f":{port} {{\n\tbind 127.0.0.1").replace("127.0.0.1:8080", addr)
    (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
    words = ["--adapter", "caddyfile", "--config", f"{folder}/Caddyfile"]
    return ["caddy", "validate", *words], ["caddy", "run", *words]


@contextlib.contextmanager
def running(command, port, folder):
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with open(folder / "out", "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        end = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        else:
            raise SystemExit(f"{command[0]} did not start: {(folder / 'out').read_text()[-1000:]}")
        yield
    finally:
        process.terminate()
        process.wait()


async def through(addr, name, direct, report):
    stream = await ask_chat(addr, chat("Tell me of birds.", TOKENS, ignore_eos=True), within=60)
    took = stream.times[-1] - stream.sent if stream.times else float("inf")
    distinct = sum(gap > 0.0005 for gap in stream.gaps())
    report.bar(
        f"{name}: streamed chat: tokens, arrivals apart from the one before, end",
        f"{len(stream.times)}, {distinct}, {stream.end}",
        f"at least {TOKENS // 4} apart, done",
        stream.ok and distinct >= TOKENS // 4,
    )
    report.bar(
        f"{name}: first token after, of the whole time, ms (direct: {ms(direct.ttft)})",
        f"{ms(stream.ttft)} of {ms(took)}",
        "a quarter",
        stream.times and stream.ttft < took / 4,
    )
    codes = {path: (await ask(addr, "GET", path, within=10)).code for path in OPEN}
    report.bar(f"{name}: {', '.join(codes)}", ", ".join(map(str, codes.values())), "200", set(codes.values()) == {200})
    codes = {path: (await ask(addr, "GET", path, within=10)) for path in SHUT}
    codes["POST /admin/rollback"] = await ask(addr, "POST", "/admin/rollback", b"{}", within=10)
    leaks = [path for path, reply in codes.items() if not 400 <= reply.code < 500 or b"serin_" in reply.body]
    report.bar(
        f"{name}: ways to write /admin and /metrics that are refused",
        f"{len(codes) - len(leaks)} of {len(codes)} {', '.join(leaks)}",
        "all",
        not leaks,
    )
    large = await ask_chat(addr, chat("x" * (5 << 20), 1), within=20)
    report.bar(f"{name}: a body of 5 MiB", large.code or large.error, "413", large.code == 413)


def main():
    args = arguments(__doc__)
    report = Report("proxies", args)
    missing = [program for program in PACKAGES if not installed(program)]
    for program in missing:
        print(f"NOT TESTED: {program} is not found and cannot be installed by this user")
        report.bar(f"{program} is there", "no", "yes", False)
    with tempfile.TemporaryDirectory() as parent:
        folder = random_model(parent, SMOLLM2_135M)
        config = {
            "model": {"name": "m", "stable": folder, "load_format": "dummy:q8_0"},
            "server": {"trusted_proxies": ["127.0.0.1"]},
        }
        with Server(args.serin, config) as server:
            asyncio.run(ask_chat(server.addr, chat("Hello.", 4, ignore_eos=True)))
            direct = asyncio.run(ask_chat(server.addr, chat("Tell me of birds.", TOKENS, ignore_eos=True)))
            for make in (nginx, caddy):
                if make.__name__ in missing:
                    continue
                place, port = pathlib.Path(parent) / make.__name__, free_port()
                place.mkdir()
                os.chmod(parent, 0o755)
                check, run = make(place, port, server.addr)
                done = subprocess.run(check, capture_output=True, text=True)
                said = (done.stderr + done.stdout).strip().splitlines()[-1:]
                report.bar(
                    " ".join(pathlib.Path(word).name for word in check[:1]) + ": its own check of the example",
                    "valid" if done.returncode == 0 else said[0],
                    "valid",
                    done.returncode == 0,
                )
                with running(run, port, place):
                    asyncio.run(through(f"127.0.0.1:{port}", make.__name__, direct, report))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
