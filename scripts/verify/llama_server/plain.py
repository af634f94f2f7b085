"""Cases over the server itself, completions, tokens, stop strings, seeds, context, keys, and what serin leaves out."""

import json
import pathlib
import re
import socket
import subprocess
import tempfile
import time


from .harness import At, at_once, client, holds, left_out, NotForSerin, PROMPT, refused, registrar, said, same

CASES = []
case = registrar(CASES)
LONG = "The serin is a small bird. It eats seeds and lives in Europe. " * 60


@case("basic")
def health(s):
    s.tiny().get("/health").ok()


@case("basic")
def listens_on_ipv6_or_ipv4_as_configured(s):
    s.tiny(server={"listen": "127.0.0.1:0", "max_n": 4}).get("/health").ok()


@case("basic")
def props(s):
    left_out(s.tiny().get("/props"), "no /props: /v1/models and /admin/status say what is served")
    raise AssertionError("the route answers, but the case is not written")


@case("basic", "/models", "/v1/models")
def models(s, path):
    found = s.tiny().get(path).ok()["data"]
    same(found[0]["id"], "m", "the id")
    holds(all(model["id"].startswith("m@") for model in found[1:]), "another model than the arms of this one")


@case("basic", "off", "on")
def slots(s, _):
    left_out(s.tiny().get("/slots"), "no slots: sequences share one batch; /admin/status has their number")
    raise AssertionError("the route answers, but the case is not written")


@case("basic")
def model_in_several_files(s):
    raise NotForSerin("no model of several GGUF files is at hand here")


@case("basic")
def page_of_the_server(s):
    reply = s.tiny().get("/")
    holds(reply.code == 200, f"/ answers {reply.code}")


@case("basic")
def aliases_and_tags(s):
    raise NotForSerin("a model has one name; versions and arms are chosen by NAME@stable and NAME@canary")


@case("completion", (PROMPT, 8), ("A very long prompt about birds which is not truncated", 64))
def completion(s, value):
    prompt, count = value
    reply = s.tiny().complete(prompt, n_predict=count, ignore_eos=True)
    same(reply["usage"]["completion_tokens"], count, "tokens of the reply")
    tokens = len(s.tiny().post("/tokenize", {"prompt": prompt}).ok()["tokens"])
    same(reply["usage"]["prompt_tokens"], tokens, "tokens of the prompt")
    holds(reply["choices"][0]["text"] and reply["choices"][0]["finish_reason"] == "length", "no reply of this length")


@case("completion", (PROMPT, 8), ("A very long prompt about birds which is not truncated", 64))
def completion_stream(s, value):
    prompt, count = value
    data = {"prompt": prompt, "n_predict": count, "ignore_eos": True, "stream_options": {"include_usage": True}}
    events = s.tiny().events("/v1/completions", data)
    same(events[-1]["usage"]["completion_tokens"], count, "tokens of the reply")
    ends = [e["choices"][0]["finish_reason"] for e in events if e["choices"]]
    same((ends[-1], set(ends[:-1])), ("length", {None}), "finish reasons")
    holds("".join(e["choices"][0]["text"] for e in events if e["choices"]), "no text")


@case("completion")
def stream_equals_whole(s):
    data = {"prompt": PROMPT, "n_predict": 20, "seed": 42}
    whole = s.tiny().complete(**data)["choices"][0]["text"]
    parts = s.tiny().events("/v1/completions", data)
    same("".join(e["choices"][0]["text"] for e in parts if e["choices"]), whole, "the streamed text")


@case("completion", False, True)
def with_openai_library(s, stream):
    reply = client(s.tiny()).completions.create(model="m", prompt=PROMPT, max_tokens=8, stream=stream, seed=1)
    if not stream:
        holds(reply.system_fingerprint and reply.choices[0].text is not None, "no fingerprint or text")
        return
    holds("".join(part.choices[0].text for part in reply), "no text")


@case("completion")
def stop_strings_of_several_tokens_in_a_stream(s):
    parts = client(s.scripted()).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "say-lines"}], stop=["END of", "third\n"], stream=True
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    same(text, said.LINES.partition("END of")[0], "the text before the stop string")


@case("completion", 1, 2)
def same_seed_same_reply(s, running):
    at = s.tiny(engine={"max_running": running})
    texts = {at.complete(seed=42, temperature=0, max_tokens=30)["choices"][0]["text"] for _ in range(4)}
    same(len(texts), 1, "different replies")


@case("completion", 1, 2)
def other_seed_other_reply(s, running):
    at = s.tiny(engine={"max_running": running})
    texts = [at.complete(seed=seed, temperature=1.5, max_tokens=30)["choices"][0]["text"] for seed in range(4)]
    holds(all(a != b for a, b in zip(texts, texts[1:])), f"two seeds in a row give the same reply: {texts}")


@case("completion", 16, 32)
def same_reply_at_every_batch_size(s, batch):
    at = s.tiny(engine={"max_batch_tokens": batch, "max_running": 8})
    other = s.tiny(engine={"max_batch_tokens": 64, "max_running": 8})
    texts = {of.complete(seed=42, temperature=0, max_tokens=30)["choices"][0]["text"] for of in (at, at, other)}
    same(len(texts), 1, "different replies")


@case("completion")
def same_reply_with_and_without_cache(s):
    texts = set()
    for cache in (True, False):
        at = s.tiny(engine={"prefix_cache": cache})
        texts |= {at.complete(seed=42, temperature=1, max_tokens=30)["choices"][0]["text"] for _ in range(2)}
    same(len(texts), 1, "different replies")


@case("completion")
def prompt_longer_than_the_context(s):
    s.tiny().post("/v1/completions", {"prompt": LONG, "seed": 42}).error(400, word="context")


@case("completion")
def prompt_as_tokens_and_several(s):
    at = s.tiny()
    tokens = at.post("/tokenize", {"prompt": PROMPT}).ok()["tokens"]
    alone = at.complete(tokens, temperature=0, max_tokens=10)["choices"][0]["text"]
    for prompts in ([tokens, tokens], [tokens, PROMPT]):
        reply = at.post("/v1/completions", {"prompt": prompts, "temperature": 0, "max_tokens": 10})
        texts = [choice["text"] for choice in reply.ok()["choices"]]
        same(texts, [alone, alone], f"replies to {len(prompts)} prompts, tokens and {type(prompts[1]).__name__}")


@case("completion", (1, 3), (2, 2), (2, 4), (4, 2), (4, 6))
def in_parallel(s, value):
    running, count = value
    at = s.tiny(engine={"max_running": running})
    replies = at_once(
        [lambda n=n: at.complete(f"{n} {PROMPT}", seed=42, max_tokens=40, ignore_eos=True) for n in range(count)]
    )
    same([reply["usage"]["completion_tokens"] for reply in replies], [40] * count, "tokens of the replies")


@case("completion", [], ["content"])
def response_fields(s, fields):
    reply = s.tiny().post("/v1/completions", {"prompt": PROMPT, "max_tokens": 4, "response_fields": fields})
    if fields:
        refused(reply, "response_fields", "replies are always whole")
    reply.ok()


@case("logprobs", False, True)
def probabilities_of_tokens(s, stream):
    data = {"prompt": PROMPT, "logprobs": 10, "temperature": 0, "max_tokens": 5, "ignore_eos": True}
    if stream:
        found = [e["choices"][0]["logprobs"] for e in s.tiny().events("/v1/completions", data) if e["choices"]]
        found = [part for part in found if part and part["tokens"]]
    else:
        found = [s.tiny().complete(**data)["choices"][0]["logprobs"]]
    values = [value for part in found for value in part["token_logprobs"]]
    tops = [top for part in found for top in part["top_logprobs"]]
    same((len(values), len(tops)), (5, 5), "tokens with probabilities")
    holds(all(value <= 0 for value in values), "a log-probability above 0")
    holds(all(len(top) in (10, 11) for top in tops), f"not ten alternatives: {[len(t) for t in tops]}")


@case("logprobs")
def probabilities_after_sampling(s):
    reply = s.tiny().post("/v1/completions", {"prompt": PROMPT, "n_probs": 10, "post_sampling_probs": True})
    refused(reply, "n_probs", "use logprobs: those of the model, before sampling")
    raise AssertionError("it is not refused")


@case("completion", ("ids", "list"), ("ids", "object"), ("texts", "list"), ("texts", "object"))
def logit_bias(s, value):
    kind, form = value
    at = s.tiny()
    keys = at.post("/tokenize", {"prompt": " the serin eats"}).ok()["tokens"] if kind == "ids" else [" the", " eats"]
    bias = {str(key): -100 for key in keys} if form == "object" else [[key, -100] for key in keys]
    reply = at.post("/v1/completions", {"prompt": PROMPT, "logit_bias": bias, "temperature": 0, "max_tokens": 20})
    text = reply.ok()["choices"][0]["text"]
    if kind == "ids":
        used = at.post("/tokenize", {"prompt": text}).ok()["tokens"]
        holds(not set(used) & set(keys), "a token that must not come")
    else:
        holds(not any(key in text for key in keys), "a text that must not come")


def leave(at, path, body):
    """Sends a request, waits for its first bytes and closes the connection."""
    data = json.dumps(body).encode()
    host, port = at.addr.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        line.sendall(head.encode() + data)
        if body.get("stream"):
            line.recv(4096)
        else:
            time.sleep(0.1)


@case("completion", False, True)
def cancelled_by_the_client(s, stream):
    at = s.scripted()
    process = s.process(at)
    before = process.metric("serin_requests_total", **{"class": "client_cancel"}) or 0
    body = {"messages": [{"role": "user", "content": "say-long"}], "max_tokens": 4000, "stream": stream}
    leave(at, "/v1/chat/completions", body)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        if process.metric("serin_requests_total", **{"class": "client_cancel"}) == before + 1:
            return
        time.sleep(0.05)
    raise AssertionError("no cancelled request was counted")


@case("tokenize", "prompt", "content")
def tokens_and_back(s, field):
    text = "What is the capital of France ?"
    tokens = s.tiny().post("/tokenize", {field: text}).ok()["tokens"]
    holds(len(tokens) > 5, f"only {len(tokens)} tokens")
    back = s.tiny().post("/detokenize", {"tokens": tokens}).ok()
    same((back.get("content") if field == "content" else back["prompt"]).strip(), text, "the text")


@case("tokenize")
def tokens_with_special_ones(s):
    at = s.scripted(begins=True)
    tokens = [at.post("/tokenize", {"content": "What?", "add_special": add}).ok()["tokens"] for add in (False, True)]
    same(tokens[1], [1, *tokens[0]], "tokens with the beginning token")


@case("tokenize")
def tokens_with_pieces(s):
    reply = s.tiny().post("/tokenize", {"content": "unicode 媽 and emoji 🤗", "with_pieces": True}).ok()
    for token in reply["tokens"]:
        holds(token["id"] >= 0 and len(token["piece"]) > 0, f"a token without a piece: {token}")


@case("context", "shift")
def context_is_shifted(s, _):
    raise NotForSerin("a prompt that is too long is refused, not shifted; truncate_prompt_tokens keeps its end")


@case("context", 64, -1)
def short_prompt_fills_the_context(s, count):
    reply = s.tiny().complete("Hi", max_tokens=count, ignore_eos=True)
    if count > 0:
        same(reply["usage"]["completion_tokens"], count, "tokens of the reply")
    else:
        same(reply["usage"]["total_tokens"], 512, "tokens of prompt and reply")
        same(reply["choices"][0]["finish_reason"], "length", "finish_reason")


@case("context")
def long_prompt_is_refused(s):
    error = s.tiny().post("/v1/completions", {"prompt": LONG, "max_tokens": 64}).error(400)
    same(error["code"], "context_length_exceeded", "the code")


@case("context")
def stream_ends_at_the_context(s):
    events = s.tiny().events("/v1/completions", {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True})
    same([e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1], "length", "finish_reason")


@case("completion", True, False)
def ignore_eos(s, ignored):
    reply = s.scripted().complete("x", max_tokens=60, ignore_eos=ignored)["choices"][0]
    same(reply["finish_reason"], "length" if ignored else "stop", "finish_reason")


@case("cache")
def reused_prompts_are_counted(s):
    at = s.tiny()
    first = at.complete(PROMPT + " Cached one.", max_tokens=2)
    again = at.complete(PROMPT + " Cached one.", max_tokens=2)
    holds(again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, f"{first['usage']} then {again['usage']}")
    holds(
        "serin_prefix" in at.get("/metrics").text or "cached" in at.get("/metrics").text, "no metric of reused tokens"
    )


@case(
    "cache", "save and restore", "older file", "file of another version", "cut file", "wrong size", "too long", "erase"
)
def saved_slots(s, _):
    left_out(s.tiny().post("/slots/1?action=save", {"filename": "x"}), "no slots; prefixes are reused by themselves")
    raise AssertionError("the route answers, but the case is not written")


@case("501", "/v1/embeddings", "/embeddings")
def embeddings(s, path):
    s.tiny().post(path, {"input": "text"}).error(501, word="embed")


@case("501", "/rerank", "/v1/rerank")
def rerank(s, path):
    s.tiny().post(path, {"query": "a", "documents": ["b"]}).error(501, word="rank")


@case("501")
def infill(s):
    s.tiny().post("/infill", {"input_prefix": "a", "input_suffix": "b", "prompt": "c"}).error(501, word="infill")


@case("501", "scale", "one request", "kept prompts")
def adapters(s, _):
    refused(
        s.tiny().post("/v1/completions", {"prompt": PROMPT, "lora": [{"id": 0, "scale": 1.0}]}),
        "lora",
        "an adapted model is a version of its own",
    )
    raise AssertionError("it is not refused")


@case("501", "with and without", "lengths", "context", "shift", "one", "two")
def draft_models(s, _):
    raise NotForSerin("no draft models")


@case("501", "sleep", "reading while asleep")
def sleeping(s, _):
    raise NotForSerin("a model is never unloaded because it is idle")


@case("501", "one", "several")
def vertex_predict(s, _):
    left_out(s.tiny().post("/predict", {"instances": []}), "no route of Google's services")
    raise AssertionError("the route answers, but the case is not written")


def keyed(s):
    """A server that asks for keys, and a key; None if this build has no keys."""
    if not hasattr(s, "keyed"):
        if subprocess.run([str(s.program), "key", "--help"], capture_output=True).returncode:
            raise AssertionError("this build has no keys (`serin key`)")
        keys = pathlib.Path(tempfile.mkdtemp(prefix="serin-keys-")) / "keys.toml"
        made = subprocess.run(
            [str(s.program), "key", "new", "--keys", str(keys), "--name", "t", "--scope", "inference"],
            capture_output=True,
            text=True,
        )
        key = re.search(r"sk-serin-\S+", made.stdout)
        holds(key, f"no key was made: {made.stdout}{made.stderr}")
        s.keyed = s.scripted(access={"keys": str(keys)}), key[0]
    return s.keyed


@case("keys", "/health", "/v1/models")
def public_route(s, path):
    reply = keyed(s)[0].get(path)
    if path == "/v1/models" and reply.code == 401:
        raise NotForSerin("every route but the probes needs a key")
    reply.ok()


@case("keys", "/", "/bundle.js", "/bundle.css")
def files_of_the_page(s, _):
    raise NotForSerin("clients have no page; the operators' has a listener of its own")


@case("keys", None, "wrong")
def wrong_key(s, key):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = keyed(s)[0].post("/v1/completions", {"prompt": PROMPT}, headers=headers)
    reply.error(401)
    holds("www-authenticate" in reply.headers, "no WWW-Authenticate")


@case("keys", "authorization", "x-api-key")
def right_key(s, header):
    at, key = keyed(s)
    value = f"Bearer {key}" if header == "authorization" else key
    at.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 4}, headers={header: value}).ok()


@case("keys")
def right_key_with_openai_library(s):
    at, key = keyed(s)
    reply = client(at, key).chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    same(len(reply.choices), 1, "choices")


@case("pages", "localhost", "web.example.com", "origin", "methods", "headers")
def preflight(s, which):
    origin = {"localhost": "http://localhost:3000"}.get(which, "https://web.example.com")
    at = s.tiny(server={"cors_origins": ["http://localhost:3000", "https://web.example.com"]})
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    reply = At(at.addr).send("OPTIONS", "/v1/completions", headers=asked)
    holds(reply.code in (200, 204), f"status {reply.code}")
    same(reply.headers.get("access-control-allow-origin"), origin, "allowed origin")
    if which == "methods":
        holds("POST" in reply.headers.get("access-control-allow-methods", ""), "POST is not allowed")
    if which == "headers":
        allowed = reply.headers.get("access-control-allow-headers", "").lower()
        holds("authorization" in allowed or allowed == "*", f"allowed headers: {allowed}")


@case("pictures", "file off", "file", "file twice", "missing file", "file outside", "address", "data", "malformed")
def pictures(s, kind):
    url = {"address": "https://example.com/a.png", "data": "data:image/png;base64,AAAA", "malformed": "x"}.get(
        kind, "file://picture.jpeg"
    )
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    reply = s.scripted().chat(messages=[{"role": "user", "content": content}])
    reply.error(400, word="image")
    if kind in ("file", "file twice", "address", "data"):
        raise NotForSerin("models here read text only: refused by name (image_url)")
