"""The schemas of the JSON Schema Test Suite, from the source archive of the Python package jsonschema."""

import json
import pathlib
import subprocess
import sys
import tarfile

PINNED = "jsonschema==4.26.0"
DRAFTS = {"draft7": "http://json-schema.org/draft-07/schema#", "draft2020-12": None}


def fetched(folder):
    """The suite's folder; downloaded once."""
    place = pathlib.Path(folder) / "suite"
    if not list(place.glob("*/json/tests")):
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "jsonschema",
                        "--dest", str(place), PINNED], check=True)
        with tarfile.open(next(place.glob("*.tar.gz"))) as archive:
            archive.extractall(place, filter="data")
    return next(place.glob("*/json"))


def schemas(folder):
    """Name and schema of each; schemas of draft 7 name their draft, which the suite leaves to its folder."""
    found = {}
    for draft, name in DRAFTS.items():
        tests = fetched(folder) / "tests" / draft
        for path in sorted(tests.rglob("*.json")):
            for group in json.loads(path.read_text()):
                schema = group["schema"]
                if name and isinstance(schema, dict):
                    schema = {"$schema": name, **schema}
                key = f"{draft}/{path.relative_to(tests).with_suffix('')}: {group['description']}"
                found[key if key not in found else f"{key} ({len(found)})"] = schema
    return found


def remotes(folder):
    """The schemas that others refer to: address and schema."""
    base = fetched(folder) / "remotes"
    return [(f"http://localhost:1234/{path.relative_to(base)}", json.loads(path.read_text()))
            for path in sorted(base.rglob("*.json"))]
