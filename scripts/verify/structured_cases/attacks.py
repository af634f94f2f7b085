"""Constraints that are meant to hurt. Each is answered within 5 s, by 200 or by a 400 that names a bound or a keyword;
a chat with the stable model goes on meanwhile; the server's memory does not grow by more than 500 MB; and nothing is
fetched."""

import concurrent.futures
import contextlib
import http.server
import itertools
import json
import sys
import threading
import time

import structured
from common import percentile

sys.setrecursionlimit(50_000)
ANSWERED, CHAT, GROWTH, GIVEN_UP = 5.0, 2.0, 500 << 20, 30.0
TOKENS = 120


def nested(depth, key="items"):
    found = {"type": "string", "maxLength": 3}
    for _ in range(depth):
        found = {"type": "array", key: found} if key == "items" else {key: [found]}
    return found


def objects(depth):
    found = {"type": "boolean"}
    for _ in range(depth):
        found = {"type": "object", "properties": {"a": found}, "required": ["a"]}
    return found


def bools(count, required=True):
    names = [f"property_{i}" for i in range(count)]
    schema = {"type": "object", "properties": {name: {"type": "boolean"} for name in names}}
    return {**schema, "required": names} if required else schema


def pattern(text):
    return {"type": "string", "pattern": text}


def doubled(depth, of="allOf"):
    """Definitions that each name the one before twice: 2^depth when written out."""
    names = {f"d{i}": {of: [{"$ref": f"#/$defs/d{i - 1}"}] * 2} for i in range(1, depth)}
    return {"$ref": f"#/$defs/d{depth - 1}", "$defs": {"d0": {"type": "integer", "minimum": 0}, **names}}


def chain(length, held):
    """Definitions that hold a reference to the next, each in its own way."""
    names = {f"d{i}": held({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**names, f"d{length}": {"type": "null"}}}


def ladder(depth):
    """The same with properties, so that nothing can be merged."""
    def pair(of):
        below = {"$ref": f"#/$defs/d{of}"}
        return {"type": "object", "properties": {"a": below, "b": below}, "required": ["a", "b"]}

    return {"$ref": f"#/$defs/d{depth}",
            "$defs": {"d0": {"type": "null"}, **{f"d{i}": pair(i - 1) for i in range(1, depth + 1)}}}


def branches(count):
    return [{"type": "object", "properties": {f"p{i}": {"type": "integer"}, "k": {"const": i}},
             "required": ["k", f"p{i}"]} for i in range(count)]


def schemas(port):
    away = f"http://127.0.0.1:{port}/schema.json"
    return {
        "depth 60": nested(60), "depth 70": nested(70),
        "depth 70, objects": objects(70), "depth 30, objects": objects(30),
        "depth 5,000": nested(5000), "depth 60, anyOf": nested(28, "anyOf"), "depth 60, allOf": nested(28, "allOf"),
        "5,000 properties": bools(5000), "5,000 optional properties": bools(5000, required=False),
        "1,000 properties": bools(1000), "1,000 optional properties": bools(1000, required=False),
        "enum of 50,000": {"enum": [f"value-{i}" for i in range(50_000)]},
        "enum of 15,000": {"enum": [f"value-{i}" for i in range(15_000)]},
        "enum of 20,000 numbers": {"enum": list(range(20_000))},
        "enum of 3,000 objects": {"enum": [{"a": i, "b": [i]} for i in range(3_000)]},
        "enum of one long text": {"enum": ["x" * 250_000]},
        "const of 250 KB": {"const": ["x" * 100] * 2_400},
        "300 KB": {"type": "string", "description": "x" * 300_000},
        "250 KB": {"type": "string", "title": "x" * 250_000},
        "key of 200 KB": {"type": "object", "properties": {"k" * 200_000: {"type": "null"}}},
        "pattern (a{1000}){1000}": pattern("^(a{1000}){1000}$"), "pattern (a{100}){100}": pattern("^(a{100}){100}$"),
        "pattern (.*a){30}": pattern("(.*a){30}"), "pattern (.*a){300}": pattern("^(.*a){300}$"),
        "pattern .*a.{20}": pattern("^.*a.{20}$"), "pattern .*a.{200}": pattern("^.*a.{200}$"),
        "pattern (a|aa)+b": pattern("^(a|aa)+b$"), "pattern (x+x+)+y": pattern("^(x+x+)+y$"),
        "pattern ((((a*)*)*)*)*": pattern("^((((a*)*)*)*)*$"), "pattern a{1000000}": pattern("^a{1000000}$"),
        r"pattern \p{L}{500}": pattern(r"^\p{L}{500}$"), r"pattern (\w+\s?){100}": pattern(r"^(\w+\s?){100}$"),
        "pattern [a-z]?{x} 300 times": pattern("^" + "".join(f"[a-z{i % 10}]?" for i in range(300)) + "$"),
        "pattern of 5,000 words": pattern("^(" + "|".join(f"word{i}x" for i in range(5_000)) + ")$"),
        "pattern of 2,000 open words": pattern("(" + "|".join(f"word{i}x" for i in range(2_000)) + ")"),
        "20 patterns in allOf": {"allOf": [pattern(f".*{chr(97 + i)}.*{chr(98 + i)}") for i in range(20)]},
        "6 patterns in allOf": {"allOf": [pattern(f".*{chr(97 + i)}.{{8}}") for i in range(6)]},
        "pattern and minLength 3,000": {"type": "string", "pattern": "^(ab|ba)*$", "minLength": 3_000},
        "lookahead": pattern("^(?=.*[0-9])(?=.*[a-z]).{8}$"), "negative lookbehind": pattern("(?<!a)b"),
        "backreference": pattern(r"^(a+)\1$"), "named backreference": pattern(r"^(?<x>a)\k<x>$"),
        "pattern without an end": pattern("(((("), "pattern that matches nothing": pattern("^[^\\s\\S]$"),
        "5,000 brackets": pattern("(" * 5_000 + "a" + ")" * 5_000),
        "anyOf of 500 objects": {"anyOf": branches(500)}, "oneOf of 500 objects": {"oneOf": branches(500)},
        "anyOf of 5,000 integers": {"anyOf": [
            {"type": "integer", "minimum": i, "maximum": i + 1} for i in range(5_000)]},
        "allOf of 200": {"allOf": [
            {"type": "object", "properties": {f"p{i}": {"type": "integer"}}} for i in range(200)]},
        "allOf of 200 anyOfs": {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i + 9}]} for i in range(200)]},
        "allOf of 12 anyOfs of objects": {"allOf": [{"anyOf": branches(4)} for _ in range(12)]},
        "oneOf of 2,000 enums": {"oneOf": [{"enum": [f"a{i}", f"b{i}"]} for i in range(2_000)]},
        "doubled 20 times by allOf": doubled(20), "doubled 20 times by anyOf": doubled(20, "anyOf"),
        "doubled 25 times by oneOf": doubled(25, "oneOf"), "doubled 40 times by properties": ladder(40),
        "reference to itself": {"$ref": "#"}, "definition that is itself": {"$ref": "#/$defs/a", "$defs": {
            "a": {"$ref": "#/$defs/a"}}},
        "cycle of three": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"},
                                                          "c": {"$ref": "#/$defs/a"}}},
        "recursion without an end": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        "allOf of itself": {"$ref": "#/$defs/a", "$defs": {
            "a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}},
        "anyOf of itself": {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}},
        "merge that grows": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"x": {"allOf": [
            {"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}}}, "b": {"type": "object", "properties": {"x": {"allOf": [
                {"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a"}]}}}}},
        "chain of 2,000 references": chain(2_000, lambda one: one),
        "chain of 2,000 by properties": chain(2_000, lambda one: {"type": "object", "properties": {"a": one}}),
        "chain of 200 by properties": chain(200, lambda one: {"type": "object", "properties": {"a": one}}),
        "chain of 2,000 by anyOf": chain(2_000, lambda one: {"anyOf": [one, {"type": "null"}]}),
        "chain of 2,000 by items": chain(2_000, lambda one: {"type": "array", "items": one}),
        "chain of 4,000 by allOf": chain(4_000, lambda one: {"allOf": [one]}),
        "chain of 2,000 beside a keyword": chain(2_000, lambda one: {**one, "type": "null"}),
        "minItems 1e9": {"type": "array", "items": {"type": "null"}, "minItems": 10**9},
        "maxItems 1e9": {"type": "array", "items": {"type": "null"}, "maxItems": 10**9},
        "minItems 100,000": {"type": "array", "items": {"type": "null"}, "minItems": 100_000},
        "1,000 in 1,000 in 1,000": {"type": "array", "minItems": 1000, "items": {"type": "array", "minItems": 1000,
                                    "items": {"type": "array", "minItems": 1000, "items": {"type": "null"}}}},
        "maxLength 1e9": {"type": "string", "maxLength": 10**9},
        "minLength 1e9": {"type": "string", "minLength": 10**9},
        "maxLength 1e30": {"type": "string", "maxLength": 10**30}, "minProperties 1e9": {"type": "object",
                                                                                    "minProperties": 10**9},
        "100 strings of maxLength 30,000": {"type": "object", "properties": {
            f"s{i}": {"type": "string", "maxLength": 30_000 + i} for i in range(100)}},
        "multipleOf 1e-9": {"type": "number", "multipleOf": 1e-9}, "multipleOf 1e-300": {"type": "number",
                                                                                   "multipleOf": 1e-300},
        "multipleOf a prime": {"type": "integer", "multipleOf": 999_983}, "multipleOf 1e18": {"type": "integer",
                                                                                         "multipleOf": 10**18},
        "allOf of multipleOf": {"allOf": [{"type": "integer", "multipleOf": n} for n in (7, 11, 13, 17, 19, 23, 29)]},
        "multipleOf 0": {"type": "integer", "multipleOf": 0}, "multipleOf -1": {"type": "integer", "multipleOf": -1},
        "maximum 1e308": {"type": "integer", "minimum": -1e308, "maximum": 1e308},
        "remote reference": {"$ref": away},
        "remote reference in a property": {"properties": {"a": {"$ref": away + "#/a"}}},
        "remote id": {"$id": away, "type": "object", "properties": {"a": {"$ref": "other.json"}}},
        "remote dialect": {"$schema": away, "type": "null"}, "remote dynamic reference": {"$dynamicRef": away},
        "reference to a file": {"$ref": "file:///etc/passwd"},
        "the same id twice": {"$defs": {"a": {"$id": "http://x/y", "type": "null"}, "b": {
            "$id": "http://x/y", "type": "boolean"}}, "$ref": "http://x/y"},
        "the same anchor twice": {"$defs": {"a": {"$anchor": "n", "type": "null"}, "b": {
            "$anchor": "n", "type": "boolean"}}, "$ref": "#n"},
        "id that is no address": {"$id": "::::", "type": "null"},
        "keys with control characters": bools(0) | {"properties": {"\x00\x01\x1f\x7f\u2028\ufeff": {"type": "null"}},
                                                    "required": ["\x00\x01\x1f\x7f\u2028\ufeff"]},
        "enum with lone surrogates": {"enum": ["\ud800"]},
        "text that closes the grammar": {"const": '"}\n%json {"type":"null"}\nstart: "x"'},
        "300 pattern properties": {"type": "object", "patternProperties": {
            f"^k{i}x": {"type": "null"} for i in range(300)}},
    }


def grammars():
    rules = "\n".join(f'r{i}: "a{i}" r{i + 1}' for i in range(2_000))
    terminals = "\n".join(f'R{i}: "a{i}" R{i + 1}' for i in range(2_000))
    many = "\n".join(f'  r{i} ::= "a{i}" r{i + 1}' for i in range(2_000))
    return {
        "regex (x+x+)+y": dict(guided_regex="(x+x+)+y"), "regex (a{1000}){1000}": dict(guided_regex="(a{1000}){1000}"),
        "regex (.*a){30}": dict(guided_regex="(.*a){30}"), "regex .*a.{30}": dict(guided_regex=".*a.{30}"),
        "regex of 300 KB": dict(guided_regex="a" * 300_000), "regex of 200 KB": dict(guided_regex="ab" * 100_000),
        "regex of classes": dict(guided_regex="[a-z]" * 20_000), "regex lookahead": dict(guided_regex="(?=a)b"),
        "regex backreference": dict(guided_regex=r"(a)\1"), "regex a/b": dict(guided_regex="a/b\n\"c\""),
        "regex that matches nothing": dict(guided_regex=r"[^\s\S]"), "regex, empty": dict(guided_regex=""),
        "Lark, left recursion": dict(guided_grammar='start: start "a" | "a"'),
        "Lark, left recursion without an end": dict(guided_grammar='start: start "a"'),
        "Lark, hidden left recursion": dict(guided_grammar='start: e start "a" | "b"\ne: "" | "c"'),
        "Lark, ambiguous": dict(guided_grammar='start: start start | "a" | "b"'),
        "Lark, very ambiguous": dict(guided_grammar="start: s s s\ns: s s s | s s | A |\nA: /[ab]/"),
        "Lark, very ambiguous, long": dict(
            guided_grammar="start: s s s\ns: s s s | s s | A |\nA: /[ab]/", max_tokens=400),
        "Lark, nested stars, long": dict(guided_grammar='start: ((("a"*)*)*)*', max_tokens=400),
        "Lark, empty rules": dict(guided_grammar='start: a* b*\na: "" | b\nb: "" | a'),
        "Lark, nested stars": dict(guided_grammar='start: ((("a"*)*)*)*'),
        "Lark, 1 MB": dict(guided_grammar="start: " + " | ".join(f'"w{i}"' for i in range(100_000))),
        "Lark, 200 KB of texts": dict(guided_grammar="start: " + " | ".join(f'"w{i}"' for i in range(20_000))),
        "Lark, 2,000 rules": dict(guided_grammar=f'start: r0\n{rules}\nr2000: "z"'),
        "Lark, 2,000 terminals": dict(guided_grammar=f'start: R0\n{terminals}\nR2000: "z"'),
        "Lark, chain within a schema": dict(guided_grammar="start: %json " + json.dumps(chain(2_000, lambda one: one))),
        "Lark, 60,000 in a row": dict(guided_grammar="start: " + '"a" ' * 60_000),
        "Lark, 20,000 optional": dict(guided_grammar="start: " + '"a"? ' * 20_000),
        "Lark, counts": dict(guided_grammar='start: a{1000000}\na: "x"'),
        "Lark, counts of counts": dict(guided_grammar='start: a{1000}\na: b{1000}\nb: c{1000}\nc: "x"'),
        "Lark, terminal counts": dict(guided_grammar="start: A\nA: /a{1000}/{1000}"),
        "Lark, unknown rule": dict(guided_grammar="start: nowhere"), "Lark, no start": dict(guided_grammar='a: "x"'),
        "Lark, import": dict(guided_grammar="%import common.NUMBER\nstart: NUMBER"),
        "Lark, import of a file": dict(guided_grammar="%import ..etc.passwd (X)\nstart: X"),
        "Lark, schema within": dict(guided_grammar='start: %json {"not": {}}'),
        "Lark, 20,000 brackets": dict(guided_grammar="start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
        "Lark, 5,000 brackets": dict(guided_grammar="start: " + "(" * 5_000 + '"a"' + ")" * 5_000),
        "Lark, temperature and tokens": dict(guided_grammar='start[temperature=9, max_tokens=5]: /.*/'),
        "Lark, special tokens": dict(guided_grammar="start: <[0]> <[99999999]>"),
        "Lark, lazy and suffix": dict(guided_grammar='start: a b\na[lazy]: /.*x/\nb[suffix="y"]: /.*/'),
        "Lark, not and and": dict(guided_grammar="start: A\nA: /(.*a){20}/ & ~/(.*b){20}/"),
        "Lark, nonsense": dict(guided_grammar="\x00\x01{{{{"),
        "GBNF": dict(grammar='root ::= "a" root | "b"'),
        "GBNF, left recursion": dict(grammar='root ::= root "a" | "a"'),
        "GBNF, 1 MB": dict(grammar="root ::= " + " | ".join(f'"w{i}"' for i in range(100_000))),
        "GBNF, counts": dict(grammar='root ::= ("a"{1000}){1000}'), "GBNF, 2,000 rules": dict(
            grammar=f'root ::= r0\n{many}\n  r2000 ::= "z"'),
        "GBNF, nonsense": dict(grammar="::= ::= ["), "GBNF, 20,000 brackets": dict(
            grammar="root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000),
        "1,024 texts, common prefixes": dict(guided_choice=["prefix " * 20 + f"{i:04}" for i in range(1024)]),
        "1,024 texts, each begins the next": dict(guided_choice=["a" * (i + 1) for i in range(500)]),
        "a text with DEL": dict(guided_choice=["a\x7fb"]), "regex that ends in a backslash": dict(guided_regex="a\\"),
        "1,025 texts": dict(guided_choice=[str(i) for i in range(1025)]), "no texts": dict(guided_choice=[]),
        "the same text twice": dict(guided_choice=["a", "a"]), "an empty text": dict(guided_choice=["", "a"]),
        "texts of 300 KB": dict(guided_choice=["x" * 3_000] * 100),
        "text with all controls": dict(guided_choice=["".join(map(chr, range(1, 128)))]),
        "many constraints": dict(guided_regex="a", guided_choice=["a"]),
        "json as a text": dict(guided_json="{" * 10_000), "json as a number": dict(guided_json=5),
    }


# What a refusal may name.
WORDS = r"""pattern regex allOf anyOf oneOf enum const multipleOf multiple min\w+ max\w+ exclusive\w+ properties items
required type format not if bytes levels deeper nested texts? rules? grammar start limit large big many complex states
fuel reference import token number object list lookaround constraint patternProperties propertyNames"""
NAMES = rf"\$\w+|\b({'|'.join(WORDS.split())}|regular expression)\b"


class Listener:
    """Counts what is fetched."""

    def __init__(self):
        fetched = self.fetched = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                fetched.append(self.path)
                self.send_response(404)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server.server_address[1]


class Others:
    """A chat with stable after the other, and the server's memory, during a `with` block."""

    def __init__(self, server, model):
        self.server, self.model, self.stop, self.lock = server, model, threading.Event(), threading.Lock()
        self.times, self.failed, self.most, self.slowest = [], [], 0, 0.0
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._chat, self._watch)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _chat(self):
        body = dict(model=self.model, messages=[{"role": "user", "content": "What is 7 plus 5?"}], max_tokens=4)
        while not self.stop.wait(0.05):
            answer = structured.asked(self.server.addr, body)
            if self.server.process.poll() is not None:
                return
            with self.lock:
                self.times.append(answer.seconds)
                self.slowest = max(self.slowest, answer.seconds)
                if answer.code != 200 or answer.error:
                    self.failed.append(answer.error)

    def _watch(self):
        while not self.stop.wait(0.02) and self.server.process.poll() is None:
            with contextlib.suppress(OSError, TypeError):
                self.most = max(self.most, self.server.resident())

    def since(self):
        """The slowest chat since the last call."""
        with self.lock:
            slowest, self.slowest = self.slowest, 0.0
        return slowest


def request(constraint, model):
    """Some need a long reply to hurt; they say so."""
    return {**dict(model=model, messages=[{"role": "user", "content": "Answer."}], max_tokens=TOKENS, temperature=1,
                   seed=1), **constraint}


def judged(name, answer, findings, model, body, chat):
    """Adds what is wrong with one answer to the findings."""
    short = json.dumps(body)[:200]
    says = dict(name=name, model=model, code=answer.code, seconds=round(answer.seconds, 2), says=answer.error[:300],
                chat=round(chat, 2), request=short)
    if answer.code not in (200, 400) or (answer.code == 200 and answer.error):
        findings.add("error", **says)
    elif answer.code == 400 and not structured.re.search(NAMES, answer.error):
        findings.add("a refusal names nothing", **says)
    if answer.seconds > ANSWERED:
        findings.add("slow", **says)
    if chat > CHAT:
        findings.add("chat is kept waiting", **says)


def one_by_one(server, models, wanted, findings, seen, grown):
    """Sends those of `wanted` that were not sent, until one ends or blocks the server; returns whether none did."""
    with Others(server, models[0]) as others:
        time.sleep(0.5)
        others.since()
        for model, (name, constraint) in itertools.product(models, wanted.items()):
            if (model, name) in seen or name in seen:
                continue
            before, body = server.resident(), request(constraint, model)
            answer = seen[model, name] = structured.asked(server.addr, body, within=GIVEN_UP)
            time.sleep(0.02)
            dead = server.process.poll() is not None
            more = 0 if dead else server.resident() - before
            grown.append((more >> 20, name))
            print(f"{model} | {name} | {'dead' if dead else answer.code} | {answer.seconds:.2f} s | {more >> 20} MB | "
                  f"{answer.error[:150] or repr(answer.texts[0])[:60]}", flush=True)
            if dead:
                findings.add("the server is dead", name=name, model=model, request=json.dumps(body)[:500])
            else:
                judged(name, answer, findings, model, body, others.since())
            if dead or answer.seconds >= GIVEN_UP:
                seen[name] = answer
                return others, False
    return others, True


def at_once(server, models, wanted, report):
    """All of `wanted`, 16 at a time."""
    with Others(server, models[0]) as others:
        jobs = [request(one, model) for one, model in zip(wanted.values(), itertools.cycle(models))]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda body: structured.asked(server.addr, body), jobs))
    codes = structured.collections.Counter(answer.code for answer in answers)
    allowed = {200, 400, 429, 503}
    report.bar(f"{models[0]}: 16 attacks at a time", dict(codes), "200, 400, 429, 503", set(codes) <= allowed)
    report.figure(f"{models[0]}: 16 attacks at a time: slowest, s", max(answer.seconds for answer in answers))
    report.bar(f"{models[0]}: 16 attacks at a time: slowest chat, s", max(others.times, default=0), f"<= {CHAT}",
               max(others.times, default=0) <= CHAT)
    return others


def run(args, report, findings, config, models):
    """Starts another server after one that died, or that does not end its work."""
    listener, seen, chats, growth, grown = Listener(), {}, [], [], []
    wanted = {name: dict(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
              for name, schema in schemas(listener.port).items()} | grammars()
    wanted = {name: one for name, one in wanted.items() if args.only in name}
    ended, died = False, []
    while not ended:
        with structured.Server(args.serin, config) as server:
            if len(models) > 1:
                server.canary_serves()
            begun = server.resident()
            others, ended = one_by_one(server, models, wanted, findings, seen, grown)
            chats += others.times
            growth.append(others.most - begun)
            died += [next(reversed(seen))] if server.process.poll() is not None else []
            if ended:
                left = {name: one for name, one in wanted.items() if name not in seen}
                growth.append(at_once(server, models, left, report).most - begun)
                alive = server.process.poll() is None
                report.bar(f"{models[0]}: alive after 16 attacks at a time", alive, "yes", alive)
    answers = {key: answer for key, answer in seen.items() if isinstance(key, tuple)}
    (model, name), slowest = max(answers.items(), key=lambda pair: pair[1].seconds)
    codes = structured.collections.Counter(answer.code for answer in answers.values())
    report.figure(f"{models[0]}: attacks", f"{len(answers)}: {dict(codes)}")
    report.bar(f"{models[0]}: attacks that ended the server", ", ".join(died) or 0, "0", not died)
    report.bar(f"{models[0]}: slowest answer, s", f"{slowest.seconds:.2f} ({name}, {model})", f"<= {ANSWERED}",
               slowest.seconds <= ANSWERED)
    report.bar(f"{models[0]}: slowest chat meanwhile, s", max(chats), f"<= {CHAT}", max(chats) <= CHAT)
    report.figure(f"{models[0]}: p99 of the chats meanwhile, s", percentile(chats, 99))
    report.figure(f"{models[0]}: memory, largest of one attack, MB",
                  "; ".join(f"{name} {more}" for more, name in sorted(grown, reverse=True)[:8]))
    report.figure(f"{models[0]}: memory by server, MB", [more >> 20 for more in growth])
    report.bar(f"{models[0]}: memory at most, MB", max(growth) >> 20, f"<= {GROWTH >> 20}", max(growth) <= GROWTH)
    report.bar(f"{models[0]}: fetched", listener.fetched or 0, "nothing", not listener.fetched)
