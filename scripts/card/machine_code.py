"""The kernels' machine code: where cargo has left it, and what NVIDIA's own tools say of it.

`cuobjdump` and `nvdisasm` are those of the installed toolkit, in $CUDA_HOME/bin or on the PATH. Where there are none,
as with the toolkit that scripts/cuda_toolkit fetches, their wheels are fetched from the Python package index (5 MB,
once, into the user's cache; under the licence of the CUDA toolkit). Knows no kernel.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from card.cards import RESERVED

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ("cuobjdump", "nvdisasm")
RELEASE = "13.5.37"
# SHA-256 of the wheels for x86_64 and aarch64.
WHEELS = {
    "nvidia-cuda-cuobjdump": ("38780fee50863252a0b8926357faa91615ca1c8346490563f33a06100cd73f58",
                              "f48e3148535365161a268547b285fd01d92c80e4b457275375933825b5fc26b2"),
    "nvidia-cuda-nvdisasm": ("d3fdbdd49fa53e2e4aacd3db8259d052bd2b049ececdcb69e92e083c6728e7ca",
                             "a3a8248074edb9fba63b74c38a5416b712a91ab09e70b8ab37186c3d293fc605"),
}
USAGE = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:\d+ SHARED:(\d+)")
TOOLKIT = re.compile(r"TOOLKIT: \(i32, i32\) = \((\d+), (\d+)\)")
CUBIN = re.compile(r"\.sm_(\d+)\.cubin$")


@dataclass
class Usage:
    """What a kernel takes, as the compiler recorded it."""
    registers: int
    shared: int  # static, in bytes


@dataclass
class Unit:
    """One `.cu` file for one architecture."""
    arch: int
    usage: dict  # kernel -> Usage
    text: str    # its disassembly


class Failed(Exception):
    """In words for the user."""


def run(command, **options):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
    return done.stdout


def tools():
    """Paths of cuobjdump and nvdisasm."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    places = [pathlib.Path(home) / "bin", *map(pathlib.Path, os.get_exec_path())]
    for place in places:
        if all(os.access(place / tool, os.X_OK) for tool in TOOLS):
            return [place / tool for tool in TOOLS]
    return fetched()


def fetched():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(cache) / "serin" / f"cuda-disassembler-{RELEASE}"
    found = [folder / "nvidia/cu13/bin" / tool for tool in TOOLS]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as stage:
            fetch(pathlib.Path(stage))
            # Another run may have been faster; its folder is as good.
            if not folder.is_dir():
                os.rename(pathlib.Path(stage) / "wheels", folder)
    for tool in found:
        tool.chmod(0o755)
    return found


def fetch(stage):
    print("card: fetching NVIDIA's disassembler, 5 MB", file=sys.stderr)
    wanted = stage / "requirements.txt"
    hashes = {name: " ".join(f"--hash=sha256:{digest}" for digest in both) for name, both in WHEELS.items()}
    wanted.write_text("".join(f"{name}=={RELEASE} {both}\n" for name, both in hashes.items()))
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
         "--target", stage / "wheels", "-r", wanted], env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "false",
                                                           "PIP_USER": "false", "PIP_ROOT_USER_ACTION": "ignore"})


def built():
    """The folder with the kernels' fatbins, compiled if they are not up to date. The features are those of the tests
    against the driver's stand-in, so that a build that has run these is reused."""
    said = run(["cargo", "check", "--quiet", "-p", "serin-kernels", "--features", "cuda,emulator",
                "--message-format=json"], cwd=ROOT)
    for line in said.splitlines():
        message = json.loads(line)
        if message.get("reason") == "build-script-executed" and "serin-kernels" in message["package_id"]:
            return pathlib.Path(message["out_dir"])
    raise Failed("cargo does not say where the kernels were compiled")


def toolkit(fatbins):
    """Release of the toolkit that has compiled them, as in 13.0; None if the folder is not cargo's."""
    listing = fatbins / "modules.rs"
    found = TOOLKIT.search(listing.read_text()) if listing.is_file() else None
    return f"{found[1]}.{found[2]}" if found else None


def units(fatbins, archs):
    """Every compiled file of these architectures."""
    files = sorted(fatbins.glob("*.fatbin"))
    sources = {source.stem for source in (ROOT / "kernels").glob("*.cu")}
    if missing := sources - {file.stem for file in files}:
        raise Failed(f"{fatbins} has no fatbin of {', '.join(sorted(missing))}")
    cuobjdump, nvdisasm = tools()
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            run([cuobjdump, "-xelf", "all", file.resolve()], cwd=folder)
        cubins = [(int(CUBIN.search(path.name)[1]), path) for path in sorted(pathlib.Path(folder).iterdir())]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            wanted = [one for one in cubins if one[0] in archs]
            found = list(pool.map(lambda one: unit(*one, cuobjdump, nvdisasm), wanted))
    if missing := set(archs) - {one.arch for one in found}:
        raise Failed(f"{fatbins} has no code for {', '.join(f'sm_{arch}' for arch in sorted(missing))}: "
                     "compile without SERIN_CUDA_ARCHS")
    return found


def unit(arch, cubin, cuobjdump, nvdisasm):
    path = f"{pathlib.Path(nvdisasm).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    said = run([cuobjdump, "-res-usage", cubin], env={**os.environ, "PATH": path})
    # From sm_90 on, what the driver keeps of a block's shared memory is recorded as the kernel's own.
    reserved = RESERVED if arch >= 90 else 0
    usage = {name: Usage(int(registers), max(0, int(shared) - reserved))
             for name, registers, shared in USAGE.findall(said)}
    return Unit(arch, usage, run([nvdisasm, "-c", cubin]))
