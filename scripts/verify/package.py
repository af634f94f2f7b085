#!/usr/bin/env python3
"""The Debian package in a clean Debian: installed, started as its unit would, removed and purged without a trace.

Builds the package with scripts/make_deb (--package names one that is there), makes a Debian with debootstrap, and in
it: installs the package, checks the unit (systemd-analyze), starts the unit's ExecStart line as another user that can
write its state folders only, waits for READY=1 on NOTIFY_SOCKET, chats, asks for the status, stops it. Then the changed
configuration must survive an upgrade and a removal, and a purge must leave exactly the files from before.

Needs root, debootstrap, dpkg-dev, systemd-analyze and cargo-deb; says so loudly if one is missing.
"""

import contextlib
import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from common import ROOT, Report, arguments

SUITE = "bookworm"
UNIT = "usr/lib/systemd/system/serin.service"
# The user that systemd would choose for DynamicUser=yes, and the folders that the unit names.
USER, STATE, CACHE = 64123, "var/lib/serin", "var/cache/serin"
NEEDED = ["debootstrap", "dpkg-deb", "systemd-analyze", "chroot", "setpriv"]
# What every use of dpkg and apt changes.
OWN_BOOKS = re.compile(
    r"^(proc|sys|dev|run|tmp|root)(/|$)|^var/(lib/(dpkg|apt|systemd)|log|cache/(apt|debconf|ldconfig|man))(/|$)"
    r"|^etc/ld.so.cache$"
)
MUST_HAVE = [
    "usr/bin/serin",
    "etc/serin/serin.toml",
    UNIT,
    "usr/share/man/man1/serin.1.gz",
    "usr/share/man/man1/serin-canary-load.1.gz",
    "usr/share/bash-completion/completions/serin",
    "usr/share/zsh/vendor-completions/_serin",
    "usr/share/fish/vendor_completions.d/serin.fish",
    "usr/share/serin/models/tiny-v1/config.json",
]


def needed():
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing or os.geteuid() != 0:
        raise SystemExit(
            f"NOT TESTED: needs root and {', '.join(missing) or 'nothing else'} "
            "(Debian: debootstrap, dpkg-dev, systemd)"
        )


def build(args, folder):
    """The package: the named one, or one that is built with the program under test."""
    if args.package:
        return pathlib.Path(args.package)
    if not shutil.which("cargo-deb"):
        raise SystemExit("NOT TESTED: needs cargo-deb (cargo install cargo-deb --locked), or a package by --package")
    command = [ROOT / "scripts/make_deb", "--out", folder, "--no-build"]
    target = args.serin.resolve().parents[1]
    subprocess.run(command, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, stdout=sys.stderr)
    return next(pathlib.Path(folder).glob("*.deb"))


class Debian:
    """A minimal Debian in a folder; from the archive `base` if that is there, else the archive is made."""

    def __init__(self, folder, base):
        self.root, self.base = pathlib.Path(folder) / "debian", base

    def __enter__(self):
        self.root.mkdir()
        if self.base and pathlib.Path(self.base).is_file():
            subprocess.run(["tar", "-xpf", self.base, "-C", self.root], check=True)
        else:
            done = subprocess.run(["debootstrap", "--variant=minbase", SUITE, self.root], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"NOT TESTED: debootstrap failed: {done.stdout[-500:]}{done.stderr[-500:]}")
            if self.base:
                subprocess.run(["tar", "-cpf", self.base, "-C", self.root, "."], check=True)
        subprocess.run(["mount", "-t", "proc", "proc", self.root / "proc"], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.root / "proc"], check=False)

    def run(self, *words, **more):
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
        }
        return subprocess.run(["chroot", self.root, *words], capture_output=True, text=True, env=environment, **more)

    def dpkg(self, *words):
        done = self.run("dpkg", *words)
        if done.returncode:
            raise SystemExit(f"dpkg {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def files(self):
        """Every path but those that dpkg and apt change in any case."""
        found = set()
        for at, folders, files in os.walk(self.root):
            here = os.path.relpath(at, self.root)
            found.update(os.path.normpath(os.path.join(here, name)) for name in [*folders, *files])
            folders[:] = [name for name in folders if not OWN_BOOKS.match(os.path.normpath(os.path.join(here, name)))]
        return {path for path in found if not OWN_BOOKS.match(path)}


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def unit_value(debian, key):
    text = (debian.root / UNIT).read_text()
    return re.search(rf"^{key}=(.*)$", text, re.MULTILINE)[1]


@contextlib.contextmanager
def as_the_unit_would(debian):
    """The unit's ExecStart line as an ordinary user, with its folders, environment and notification socket."""
    for folder in (STATE, CACHE):
        (debian.root / folder).mkdir(parents=True)
        os.chown(debian.root / folder, USER, USER)
    place = debian.root / "run/notify"
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(place))
    os.chmod(place, 0o777)
    notify.settimeout(60)
    command = [
        "setpriv",
        f"--reuid={USER}",
        f"--regid={USER}",
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all",
        *unit_value(debian, "ExecStart").split(),
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": "/run/notify", "HF_HOME": f"/{CACHE}"}
    with open(debian.root / "tmp/log", "wb") as log:
        process = subprocess.Popen(
            [shutil.which("chroot"), debian.root, "sh", "-c", f'cd /{STATE} && exec "$@"', "sh", *command],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        yield process, notify
    finally:
        process.kill()
        process.wait()
        notify.close()


def answer(port, path, body=None):
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as reply:
        return json.load(reply)


def serves(debian, ports, report):
    clients, operators = ports
    with as_the_unit_would(debian) as (process, notify):
        begun = time.monotonic()
        try:
            said = notify.recv(64).decode()
        except TimeoutError:
            said = f"nothing; {(debian.root / 'tmp/log').read_text()[-800:]}"
        report.bar(
            "ExecStart as an ordinary user: told systemd, after s",
            f"{said}, {time.monotonic() - begun:.2f}",
            "READY=1",
            said == "READY=1",
        )
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "What is 7 plus 5?"}]}).encode()
        text = answer(clients, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
        report.bar("a chat", text, "12", "12" in text)
        status = debian.run("serin", "status", "--server", f"http://127.0.0.1:{operators}")
        report.bar(
            "serin status in the package's system",
            "answers" if status.returncode == 0 else status.stderr.strip(),
            "answers",
            status.returncode == 0,
        )
        report.bar(
            "the ledger is in the state folder",
            str((debian.root / STATE / "serin.ledger").is_file()),
            "True",
            (debian.root / STATE / "serin.ledger").is_file(),
        )
        process.send_signal(signal.SIGTERM)
        said, code = notify.recv(64).decode(), process.wait(60)
        report.bar(
            "SIGTERM: told systemd; exit code", f"{said}; {code}", "STOPPING=1; 0", (said, code) == ("STOPPING=1", 0)
        )


def contents(debian, package, report):
    missing = [path for path in MUST_HAVE if not (debian.root / path).exists()]
    report.bar("files that the package must have", f"without: {', '.join(missing) or 'none'}", "all", not missing)
    size = package.stat().st_size / 1e6
    pages = len(list((debian.root / "usr/share/man/man1").glob("serin*.1.gz")))
    report.figure("package, MB; manual pages", f"{size:.1f}; {pages}")
    page = gzip.decompress((debian.root / "usr/share/man/man1/serin-serve.1.gz").read_bytes()).decode()
    report.bar("serin-serve(1) names --config", "\\-\\-config" in page, "yes", "\\-\\-config" in page)
    done = debian.run("bash", "-c", "source /usr/share/bash-completion/completions/serin && complete -p serin")
    report.bar("bash completions load", done.stdout.strip()[:60], "yes", done.returncode == 0)
    # The minimal system has no systemd, whose units ours refers to; so here, with the installed program.
    unit = debian.root / "tmp/serin.service"
    unit.write_text((debian.root / UNIT).read_text().replace("/usr/bin/serin", str(debian.root / "usr/bin/serin")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "serin" in line]
    report.bar("systemd-analyze verify", "; ".join(lines) or "clean", "clean", not lines and done.returncode == 0)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--root={debian.root}", "serin.service"],
        capture_output=True,
        text=True,
    )
    report.figure(
        "systemd-analyze security", done.stdout.strip().splitlines()[-1] if done.stdout else done.stderr[-200:]
    )


def configured(debian, ports):
    """The configuration file with other ports, and a line that an operator has added."""
    path = debian.root / "etc/serin/serin.toml"
    text = (
        path.read_text()
        .replace("127.0.0.1:8080", f"127.0.0.1:{ports[0]}")
        .replace("127.0.0.1:8081", f"127.0.0.1:{ports[1]}")
    )
    path.write_text(text + "# kept\n")
    return path


def lint(package, report):
    if not shutil.which("lintian"):
        return report.figure("lintian", None)
    done = subprocess.run(
        ["lintian", "--no-cfg", "--allow-root", "--fail-on", "none", package], capture_output=True, text=True
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("E:")]
    report.figure(
        "lintian: errors; warnings",
        f"{len(errors)} {'; '.join(errors)[:300]}; {sum(line.startswith('W:') for line in done.stdout.splitlines())}",
    )


def main():
    args = arguments(
        __doc__,
        package=("", "a package that is there, instead of building one"),
        base=("", "an archive of the minimal system, made if it is not there"),
    )
    report = Report("package", args)
    needed()
    with tempfile.TemporaryDirectory(prefix="serin-package-") as folder:
        package = build(args, folder)
        lint(package, report)
        with Debian(folder, args.base) as debian:
            before = debian.files()
            shutil.copy(package, debian.root / "tmp/serin.deb")
            debian.dpkg("--install", "/tmp/serin.deb")
            contents(debian, package, report)
            done = debian.run("serin", "check", "--config", "/etc/serin/serin.toml")
            report.bar(
                "serin check of the installed configuration",
                done.stderr.strip() or "accepted",
                "accepted",
                done.returncode == 0,
            )
            ports = free_ports()
            config = configured(debian, ports)
            serves(debian, ports, report)
            debian.dpkg("--install", "/tmp/serin.deb")
            report.bar(
                "a changed configuration after an upgrade",
                "kept" if "# kept" in config.read_text() else "lost",
                "kept",
                "# kept" in config.read_text(),
            )
            debian.dpkg("--remove", "serin")
            report.bar(
                "a changed configuration after a removal",
                "kept" if config.is_file() else "lost",
                "kept",
                config.is_file(),
            )
            debian.dpkg("--purge", "serin")
            left, gone = sorted(debian.files() - before), sorted(before - debian.files())
            report.bar(
                "files left and missing after a purge",
                f"{len(left)}, {len(gone)} {', '.join([*left, *gone][:5])}",
                "0, 0",
                not left and not gone,
            )
            report.figure("files compared", len(before))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
