"""A Python of its own with llama.cpp's library and what else the comparisons with it need.

`enter()` makes a virtual environment in the user's cache the first time, and runs the calling script again in it. The
first time, llama.cpp is compiled, which takes minutes and needs a C++ compiler and CMake. With LLAMA_CPP_LIB_PATH set to
a folder that has libllama.so of the same release, nothing is compiled and that library is used.

A package index that cannot be reached ends the script with code 75 (UNREACHABLE), so that CI can tell this from a
failure. It knows nothing of serin or of models.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

UNREACHABLE = 75
PACKAGES = ["numpy==2.4.6", "gguf==0.19.0", "tokenizers==0.23.3", "jinja2==3.1.6", "llama-cpp-python==0.3.36"]
# What pip says if the index cannot be reached, or knows nothing of a package that the real one has.
TROUBLE = re.compile(r"connection broken|NewConnectionError|NameResolution|Max retries|ReadTimeout|ConnectTimeout|"
                     r"ProxyError|Network is unreachable|timed out|5\d\d (Server )?Error|SSLError|from versions: none",
                     re.IGNORECASE)


def cache():
    """serin's folder in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "serin"


def say(text):
    """To standard error: standard output is for results."""
    print(f"{pathlib.Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def pip(python, arguments, what, **environment):
    """Runs pip; ends the script if it fails, with UNREACHABLE if the index could not be reached."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    if done.returncode == 0:
        return
    told = done.stdout + done.stderr
    reason = next((line for line in told.splitlines() if TROUBLE.search(line)), None)
    if reason:
        say(f"SKIPPED, the Python package index could not be reached for {what}: {reason.strip()[:300]}")
        raise SystemExit(UNREACHABLE)
    say(f"pip could not get {what}:\n{told.strip()[-3000:]}")
    raise SystemExit(1)


def enter():
    """Goes on only in the virtual environment; from elsewhere, runs the script again there."""
    own_library = os.environ.get("LLAMA_CPP_LIB_PATH")
    mark = hashlib.sha256(repr((PACKAGES, sys.version_info[:2], bool(own_library))).encode()).hexdigest()[:12]
    folder = cache() / f"peer-{mark}"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    python = folder / "bin/python"
    if not (folder / "complete").is_file():
        more = "" if own_library else "; compiles llama.cpp, minutes"
        say(f"installing {', '.join(PACKAGES)} into {folder}{more}")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        flags = "-DLLAMA_BUILD=OFF" if own_library else "-DGGML_NATIVE=ON"
        flags = f"{os.environ.get('CMAKE_ARGS', '')} {flags}".strip()
        pip(python, ["install", "--quiet", *PACKAGES], "llama.cpp and its companions", CMAKE_ARGS=flags)
        (folder / "complete").write_text("\n".join(PACKAGES) + "\n")
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv])
