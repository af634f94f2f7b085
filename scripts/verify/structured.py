"""Constrained replies against a real server: JSON schemas, and every reply is judged by another validator.

About 150 schemas as users write them (structured_cases/own.py) and all of the JSON Schema Test Suite, to both models of
one server and to random weights, at temperature 1, streams and whole replies in turn. A schema is accepted, or refused
with 400 and a text that names what cannot be enforced. Each reply that ends by itself must be valid by Python's
`jsonschema`; replies that max_tokens cuts are counted apart. `--model FILE` asks a real model too. `--attack yes` sends
what is meant to hurt instead. jsonschema and the suite are installed from PyPI under --venv on the first run.

Findings (invalid replies, 5xx, refusals that name nothing, limits that are exceeded) go to --findings, a line of JSON
each.
"""

import collections
import concurrent.futures
import http.client
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from common import MODELS, TINY, Report, Server, arguments, random_model

PINNED = ["jsonschema[format]==4.26.0", "regex==2026.11.19"]
COMPLETE = 200
SUITE_COMPLETE = 100
SUITE_TOKENS, OWN_TOKENS = 160, 300
SHARED = "order"
PROMPTS = ["Answer in JSON.", "What is 7 plus 5?", "Write a short example.", "Name three colours.", "x"]
# What a refusal may name: keywords of JSON Schema, and the server's bounds.
KEYWORDS = sorted(
    """$anchor $dynamicAnchor $dynamicRef $id $recursiveRef $ref $schema $vocabulary additionalItems
    additionalProperties allOf anyOf const contains dependencies dependentRequired dependentSchemas else enum
    exclusiveMaximum exclusiveMinimum format if items maxContains maxItems maxLength maxProperties maximum minContains
    minItems minLength minProperties minimum multipleOf not oneOf pattern patternProperties prefixItems properties
    propertyNames required then type unevaluatedItems unevaluatedProperties uniqueItems""".split(),
    key=len,
    reverse=True,
)


def with_packages(folder):
    """Runs this program again where its packages are; installs them once."""
    python = folder / "bin/python"
    if pathlib.Path(sys.prefix).resolve() == folder.resolve():
        return
    if not (folder / "installed").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PINNED], check=True)
        (folder / "installed").write_text("\n".join(PINNED))
    os.execv(python, [str(python), *sys.argv])


@dataclass
class Answer:
    """A server's answer: texts and reasons by choice."""

    code: int = 0
    texts: dict = field(default_factory=lambda: collections.defaultdict(str))
    ends: dict = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0


def asked(addr, body, within=60):
    """One chat, whole or streamed."""
    answer, begun = Answer(), time.monotonic()
    connection = http.client.HTTPConnection(addr, timeout=within)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        answer.code, data = reply.status, reply.read().decode()
        if answer.code != 200:
            answer.error = json.loads(data)["error"]["message"]
        elif body.get("stream"):
            streamed(data, answer)
        else:
            for choice in json.loads(data)["choices"]:
                answer.texts[choice["index"]] = choice["message"]["content"] or ""
                answer.ends[choice["index"]] = choice["finish_reason"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        answer.error = answer.error or f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    answer.seconds = time.monotonic() - begun
    return answer


def streamed(data, answer):
    events = [event for event in data.split("\n\n") if event.strip()]
    if events[-1:] != ["data: [DONE]"]:
        answer.error = f"the stream ends with {events[-1:]}"
    for event in events:
        if event.startswith("data: {"):
            for choice in json.loads(event[6:]).get("choices", []):
                answer.texts[choice["index"]] += choice["delta"].get("content") or ""
                if choice.get("finish_reason"):
                    answer.ends[choice["index"]] = choice["finish_reason"]


def request(schema, model, tokens, number=0, **more):
    """Number: of the attempt; every second one is streamed."""
    return dict(
        model=model,
        messages=[{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
        max_tokens=tokens,
        temperature=1,
        seed=number + 1,
        stream=number % 2 == 1,
        response_format={"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}},
        **more,
    )


def named(message, schema):
    """The keyword of the schema, or the bound, that a refusal names; None if it names neither."""
    bounds = re.search(r"at most \d+|deeper than \d+|too (large|big|many|complex)|limit|unsatisfiable", message, re.I)
    written = json.dumps(schema)
    for keyword in KEYWORDS:
        if f'"{keyword}"' in written and re.search(rf"(?<![\w$]){re.escape(keyword)}(?!\w)", message):
            return keyword
    if "patternProperty" in message:
        return "patternProperties"
    if re.search("reference .*#", message, re.I):
        return "$ref"
    if schema in (True, False) and "object" in message:
        return "a boolean"
    return bounds and bounds[0].lower()


class Findings:
    """What is wrong, a line of JSON each."""

    def __init__(self, path):
        self.path, self.counts = path, collections.Counter()

    def add(self, kind, **what):
        self.counts[kind] += 1
        print(f"{kind}: {json.dumps(what, ensure_ascii=False)[:600]}", flush=True)
        if self.path:
            with open(self.path, "a") as out:
                out.write(json.dumps(dict(kind=kind, **what), ensure_ascii=False) + "\n")


@dataclass
class Outcome:
    """What came of one schema with one model."""

    code: int = 0
    refused: str | None = None
    replies: int = 0
    valid: int = 0
    cut: int = 0
    invalid: int = 0
    repeating: int = 0


def tried(addr, model, name, schema, judge, tokens, times, more_times, findings):
    """Asks for replies by a schema: `times`, and up to `more_times` more until one ends by itself."""
    from structured_cases.judge import repeats, wrong

    outcome = Outcome()
    for number in range(times + more_times):
        if number >= times and outcome.valid + outcome.invalid:
            break
        body = request(schema, model, tokens, number)
        answer = asked(addr, body)
        outcome.code = answer.code
        if answer.code == 400:
            outcome.refused = named(answer.error, schema)
            if outcome.refused is None:
                findings.add("a refusal names nothing", name=name, schema=schema, says=answer.error)
            outcome.refused = outcome.refused or f"'{answer.error.rpartition('schema: ')[2][:40]}'"
            break
        if answer.code != 200 or answer.error:
            findings.add("error", name=name, model=model, code=answer.code, says=answer.error, request=body)
            break
        for index, text in answer.texts.items():
            outcome.replies += 1
            if answer.ends.get(index) == "length":
                outcome.cut += 1
                continue
            try:
                why = wrong(text, judge) if answer.ends.get(index) == "stop" else f"ends: {answer.ends.get(index)}"
            except Exception as error:  # noqa: BLE001 - the validator cannot judge by this schema
                why = f"not judged: {type(error).__name__}: {error}"[:300]
            outcome.valid += why is None
            outcome.invalid += why is not None
            if why is None and repeats(text):
                outcome.repeating += 1
                findings.add("a key twice", name=name, model=model, reply=text, schema=schema)
            if why:
                kind = "not judged" if why.startswith("not judged") else "invalid"
                findings.add(kind, name=name, model=model, why=why, reply=text, schema=schema, request=body)
    return outcome


def summed(report, label, found, of_suite, some):
    """The table of one model. `some`: not all schemas were sent."""
    accepted = {name: one for name, one in found.items() if one.code == 200}
    refused = collections.Counter(one.refused for one in found.values() if one.code == 400)
    complete = [name for name, one in accepted.items() if one.valid]
    from_suite = sum(name in of_suite for name in complete)
    report.figure(f"{label}: schemas", len(found))
    report.figure(f"{label}: accepted", len(accepted))
    report.figure(f"{label}: refused", f"{refused.total()}: " + ", ".join(f"{k} {n}" for k, n in refused.most_common()))
    for what, name in (("replies", "replies"), ("valid", "valid"), ("repeating", "valid, with a key twice"),
                       ("cut", "cut by max_tokens")):
        report.figure(f"{label}: {name}", sum(getattr(one, what) for one in accepted.values()))
    invalid = sum(one.invalid for one in accepted.values())
    report.bar(f"{label}: invalid", invalid, "0", invalid == 0)
    other = collections.Counter(one.code for one in found.values() if one.code not in (200, 400))
    report.bar(f"{label}: neither 200 nor 400", dict(other) or 0, "0", not other)
    for what, count, least in (("schemas with a complete valid reply", len(complete), COMPLETE),
                               ("of these from the suite", from_suite, SUITE_COMPLETE)):
        report.bar(f"{label}: {what}", count, f">= {least}", some or count >= least)


def together(server, models, schemas, judges, report, findings):
    """Different schemas at once, and one schema many times with several replies each."""
    from structured_cases.judge import wrong

    def one(job):
        name, number, model, more = job
        return name, asked(server.addr, request(schemas[name], model, OWN_TOKENS, number, **more))

    def judged(title, jobs):
        counts = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            for name, answer in pool.map(one, jobs):
                counts["answers" if answer.code == 200 and not answer.error else "errors"] += 1
                for index, text in answer.texts.items():
                    cut = answer.ends.get(index) == "length"
                    why = None if cut else wrong(text, judges[name])
                    counts["cut" if cut else "invalid" if why else "valid"] += 1
                    if why:
                        findings.add("invalid", name=name, why=why, reply=text, schema=schemas[name], at=title)
                if answer.code != 200 or answer.error:
                    findings.add("error", name=name, code=answer.code, says=answer.error, at=title)
        bad = counts["errors"] + counts["invalid"]
        report.bar(title, json.dumps(counts), "no error, none invalid", bad == 0 and counts["valid"] > 0)

    some = list(schemas)[:: max(1, len(schemas) // 20)][:20]
    for model in models:
        judged(f"{model}: 20 schemas at once", [(name, number, model, {}) for number, name in enumerate(some)])
        name = next(name for name in schemas if name == SHARED)
        judged(f"{model}: one schema 50 times, n = 4", [(name, number, model, {"n": 4}) for number in range(50)])


def run(args, report, findings, config, models):
    from structured_cases import own, suite
    from structured_cases.judge import validator

    of_suite, remotes = suite.schemas(args.venv), suite.remotes(args.venv)
    schemas = {**own.ALL, **of_suite}
    if args.only:
        schemas = {name: schema for name, schema in schemas.items() if args.only in name}
    elif args.quick:
        schemas = dict(itertools.islice(schemas.items(), 0, None, 10))
    judges = {name: validator(schema, remotes) for name, schema in schemas.items()}
    with Server(args.serin, config) as server:
        if len(models) > 1:
            server.canary_serves()
        begun = server.resident()
        with concurrent.futures.ThreadPoolExecutor(args.clients) as pool:
            for model in models:
                jobs = {
                    name: pool.submit(tried, server.addr, model, name, schema, judges[name],
                                      SUITE_TOKENS if name in of_suite else own.TOKENS.get(name, OWN_TOKENS),
                                      args.replies, args.more_replies, findings)
                    for name, schema in schemas.items()
                }
                found = {name: job.result() for name, job in jobs.items()}
                summed(report, model, found, of_suite, args.quick or args.only)
                if args.outcomes:
                    with open(args.outcomes, "a") as out:
                        out.writelines(json.dumps(dict(model=model, name=name, **vars(one))) + "\n"
                                       for name, one in found.items())
        if not args.only:
            accepted = {name: schema for name, schema in own.ALL.items() if found.get(name) and found[name].code == 200}
            accepted[SHARED] = own.ALL[SHARED]
            judges[SHARED] = validator(own.ALL[SHARED])
            together(server, models, accepted, judges, report, findings)
        alive = server.process.poll() is None
        report.bar(f"{models[0]}: the server is alive", alive, "yes", alive)
        if alive:
            report.figure(f"{models[0]}: memory that it has gained, MB", (server.resident() - begun) >> 20)


def main():
    args = arguments(
        __doc__,
        venv=(pathlib.Path(tempfile.gettempdir()) / "serin-structured", "where jsonschema and the suite are"),
        model=("", "a real model to ask as well"),
        servers=("", "only these of demo, random and real"),
        attack=("no", "yes: what is meant to hurt, instead"),
        only=("", "a part of the name of schemas or attacks"),
        replies=(2, "replies by schema and model"),
        more_replies=(6, "attempts more, until a reply ends by itself"),
        clients=(8, "requests at a time"),
        findings=("", "append what is wrong to this file"),
        outcomes=("", "append what came of each schema to this file"),
    )
    with_packages(args.venv)
    report, findings = Report("structured", args), Findings(args.findings)
    demo = {"model": {"name": "tiny", "stable": str(MODELS / "tiny-v1"), "canary": str(MODELS / "tiny-v2")},
            "rollout": {"advance": "manual", "steps": [5, 100]}}
    with tempfile.TemporaryDirectory() as folder:
        drawn = {"model": {"name": "random", "stable": random_model(folder, TINY), "load_format": "dummy:f32"}}
        servers = {"demo": (demo, ["tiny@stable", "tiny@canary"]), "random": (drawn, ["random@stable"])}
        if args.model:
            servers["real"] = ({"model": {"name": "real", "stable": args.model}}, ["real@stable"])
        for name in args.servers.split(",") if args.servers else servers:
            config, models = servers[name]
            if args.attack == "yes":
                from structured_cases import attacks
                attacks.run(args, report, findings, config, models)
            else:
                run(args, report, findings, config, models)
    for kind in ("invalid", "error", "slow", "chat is kept waiting", "the server is dead", "a refusal names nothing",
                 "not judged"):
        report.bar(f"findings: {kind}", findings.counts[kind], "0", not findings.counts[kind])
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
