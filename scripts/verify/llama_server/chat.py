"""Cases over chats: replies, templates, formats that are left out, log-probabilities, tools and reasoning."""

import datetime
import json

from .harness import client, holds, NotForSerin, refused, registrar, said, same

CASES = []
case = registrar(CASES)
SYSTEM = {"role": "system", "content": "Book"}
BEST = [SYSTEM, {"role": "user", "content": "What is the best book"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}[{{ m.role | upper }}]{{ m.content }}[END]{% endfor %}"
    "{% if add_generation_prompt %}[ASSISTANT]{% endif %}"
)
# What a template writes that shows tools to the model.
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"
# Generation prompts of families that think, as their templates write them. The first family's shows no tools.
THINKING = {
    "opens a thought": CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif"),
    "closes it if told": TOOLS
    + CHATML.replace(
        "assistant\n{% endif",
        "assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif",
    ),
    "opens or closes it": TOOLS
    + CHATML.replace(
        "assistant\n{% endif",
        "assistant\n<think>\n{% if enable_thinking is defined and enable_thinking is false %}"
        "</think>{% endif %}{% endif",
    ),
    "with other tags": TOOLS
    + BRACKETS.replace(
        "[ASSISTANT]",
        "[ASSISTANT]{% if enable_thinking is defined and enable_thinking is false %}"
        "<|START_THINKING|><|END_THINKING|>{% endif %}",
    ),
}


def message(reply):
    return reply.ok()["choices"][0]["message"]


def gathered(events):
    """What a stream says, put together like a whole reply's message."""
    whole, calls = {"content": "", "reasoning_content": ""}, {}
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            for name in whole:
                whole[name] += delta.get(name) or ""
            for part in delta.get("tool_calls") or []:
                call = calls.setdefault(part["index"], {"function": {"name": "", "arguments": ""}})
                call["id"] = part.get("id") or call.get("id")
                for name in ("name", "arguments"):
                    call["function"][name] += part["function"].get(name) or ""
    return {**whole, "tool_calls": [calls[index] for index in sorted(calls)] or None}


def asked(at, stream, text="Good morning.", messages=None, **more):
    """The message of a reply, whole or put together from a stream."""
    messages = messages or [{"role": "user", "content": text}]
    if not stream:
        return message(at.chat(messages=messages, **more))
    return gathered(at.events("/v1/chat/completions", {"messages": messages, **more}))


@case(
    "chat",
    (None, "Hey", 8),
    ("m", "Hey", 8),
    (None, "What is the best book", 8),
    ("m", "What is the best book", 8),
    (None, "What is the best book", 64),
    ("m@stable", "Write a function", 100),
    (None, [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book"}], 8),
)
def chat(s, value):
    model, text, count = value
    messages = [SYSTEM, {"role": "user", "content": text}]
    reply = (
        s.tiny()
        .post("/v1/chat/completions", {"model": model, "max_tokens": count, "messages": messages, "ignore_eos": True})
        .ok()
    )
    holds("cmpl" in reply["id"] and reply["system_fingerprint"], "no id or fingerprint")
    same((reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]), (count, "length"), "the end")
    holds(reply["choices"][0]["message"]["role"] == "assistant" and reply["usage"]["prompt_tokens"] > 5, "the message")


@case("chat", "chatml", "brackets", "This is not a chat template, it is")
def chat_with_another_template(s, template):
    own = {"chatml": CHATML, "brackets": BRACKETS}.get(template, template)
    reply = s.scripted(own).chat(messages=BEST, max_tokens=8)
    if own == template and reply.code == 400:
        raise NotForSerin("a template that ignores its messages is refused: " + reply.body["error"]["message"][:80])
    reply.ok()


@case("chat", 8, 100)
def chat_stream(s, count):
    events = s.tiny().events(
        "/v1/chat/completions",
        {"messages": BEST, "max_tokens": count, "ignore_eos": True, "stream_options": {"include_usage": True}},
    )
    same(events[0]["choices"][0]["delta"].get("role"), "assistant", "the first role")
    holds(not any("role" in e["choices"][0]["delta"] for e in events[1:] if e["choices"]), "a role in a later event")
    same(len({(e["id"], e["model"], e["system_fingerprint"]) for e in events}), 1, "ids, models and fingerprints")
    same([e["choices"][0]["finish_reason"] for e in events if e["choices"]][-1], "length", "finish_reason")
    holds(
        not [e for e in events if e["choices"]][-1]["choices"][0]["delta"].get("content"), "content in the last event"
    )
    same((events[-1]["choices"], events[-1]["usage"]["completion_tokens"]), ([], count), "the usage")


@case("chat")
def chat_with_openai_library(s):
    reply = client(s.tiny()).chat.completions.create(
        model="m", messages=BEST, max_tokens=8, seed=42, temperature=0.8, extra_body={"ignore_eos": True}
    )
    holds(reply.system_fingerprint and reply.choices[0].message.content is not None, "no fingerprint or content")
    same(reply.choices[0].finish_reason, "length", "finish_reason")


def applied(at, messages, **more):
    return at.post("/apply-template", {"messages": messages, **more})


def prompt(at, messages, **more):
    return applied(at, messages, **more).ok()["prompt"]


@case("template", "brackets", "chatml")
def apply_template(s, name):
    expected = {
        "brackets": "[SYSTEM]Book[END][USER]What is the best book[END][ASSISTANT]",
        "chatml": "<|im_start|>system\nBook<|im_end|>\n<|im_start|>user\nWhat is the best book<|im_end|>\n"
        "<|im_start|>assistant\n",
    }[name]
    same(prompt(s.scripted({"brackets": BRACKETS, "chatml": CHATML}[name]), BEST), expected, "the prompt")


@case("template", "Whill", [{"type": "text", "text": "Wh"}, {"type": "text", "text": "ill"}])
def assistant_prefill(s, text):
    found = prompt(
        s.scripted(CHATML),
        [*BEST, {"role": "assistant", "content": text}],
        continue_final_message=True,
        add_generation_prompt=False,
    )
    expected = "Whill" if isinstance(text, str) else "Wh\nill"
    holds(found.endswith("<|im_start|>assistant\n" + expected), f"the prompt ends {found[-50:]!r}")


@case(
    "template",
    *[(name, think, tools) for name in THINKING for think in ("auto", "off") for tools in ("none", "empty", "one")],
)
def generation_prompt_with_thinking(s, value):
    name, think, tools = value
    if (name, think) == ("opens a thought", "off"):
        raise NotForSerin("the template alone decides what the prompt ends with, and this one has no switch")
    more = {"none": {}, "empty": {"tools": []}, "one": {"tools": [TOOL]}}[tools]
    if think == "off":
        more["chat_template_kwargs"] = {"enable_thinking": False}
    reply = applied(s.scripted(THINKING[name]), [{"role": "user", "content": "What is today?"}], **more)
    if tools == "one" and TOOLS not in THINKING[name]:
        refused(reply, "tools", "the template does not show tools to the model")
    found = reply.ok()["prompt"]
    end = {
        ("opens a thought", "auto"): "<think>\n",
        ("closes it if told", "auto"): "<|im_start|>assistant\n",
        ("closes it if told", "off"): "<think>\n\n</think>\n\n",
        ("opens or closes it", "auto"): "<think>\n",
        ("opens or closes it", "off"): "<think>\n</think>",
        ("with other tags", "auto"): "[ASSISTANT]",
        ("with other tags", "off"): "<|START_THINKING|><|END_THINKING|>",
    }[name, think]
    holds(found.endswith(end), f"the prompt ends {found[-40:]!r}, not {end!r}")
    same("get_weather" in found, tools == "one", "the tool in the prompt")


@case("template", *[(form, tools) for form in ("%d %b %Y", "%b %d %Y") for tools in ("none", "empty", "one")])
def date_in_the_prompt(s, value):
    form, tools = value
    template = "{{ strftime_now('" + form + "') }} " + TOOLS + CHATML
    more = {"none": {}, "empty": {"tools": []}, "one": {"tools": [TOOL]}}[tools]
    found = prompt(s.scripted(template), [{"role": "user", "content": "What is today?"}], **more)
    now = datetime.datetime.now()
    days = {
        day.strftime(form)
        for day in (now, now - datetime.timedelta(minutes=1), datetime.datetime.now(datetime.timezone.utc))
    }
    holds(any(day in found for day in days), f"no date in {found[:60]!r}")
    same("get_weather" in found, tools == "one", "the tool in the prompt")


@case("template", "text", "parts", "none")
def prefix_of_the_system_message(s, _):
    raise NotForSerin("the server adds nothing to prompts")


@case("template", True, False)
def with_and_without_generation_prompt(s, add):
    found = prompt(s.scripted(BRACKETS), [{"role": "user", "content": "x"}], add_generation_prompt=add)
    same("[ASSISTANT]" in found, add, "a generation prompt")


@case(
    "formats",
    {"type": "json_object", "schema": {"const": "42"}},
    {"type": "json_object", "schema": {"items": [{"type": "integer"}]}},
    {"type": "json_schema", "json_schema": {"schema": {"const": "foooooo"}}},
    {"type": "json_object"},
    {"type": "sound"},
    {"type": "json_object", "schema": 123},
    {"type": "json_object", "schema": {"type": 123}},
    {"type": "json_object", "schema": {"type": "hiccup"}},
)
def response_format(s, form):
    reply = s.tiny().chat(response_format=form, max_tokens=20)
    bad = form["type"] == "sound" or form.get("schema") in (123, {"type": 123}, {"type": "hiccup"})
    if bad:
        reply.error(400)
        return
    json_of(reply, form.get("schema") or form.get("json_schema", {}).get("schema"))


@case(
    "formats",
    ("json_schema", {"const": "42"}),
    ("json_schema", {"type": "object"}),
    ("grammar", 'root ::= "a"{5,5}'),
    ("grammar", 'root ::= "b"'),
)
def constraint(s, value):
    field, content = value
    reply = s.tiny().chat(**{field: content}, max_tokens=60)
    if field == "json_schema":
        json_of(reply, content)
    else:
        same(message(reply)["content"], "aaaaa" if "a" in content else "b", "the reply")


def json_of(reply, schema):
    """The content is JSON, and the schema's constant, unless the limit cut it."""
    choice = reply.ok()["choices"][0]
    if choice["finish_reason"] == "length":
        return
    value = json.loads(choice["message"]["content"])
    if schema and "const" in schema:
        same(value, schema["const"], "the value")


@case(
    "bad requests",
    "null",
    "string",
    [123],
    [{}],
    [{"role": 123}],
    [{"role": "system", "content": 123}],
    [{"role": "system", "content": "test"}, {}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}],
)
def bad_messages(s, messages):
    reply = s.tiny().post("/v1/chat/completions", {"messages": None if messages == "null" else messages})
    if len(messages) == 3 and reply.code == 200:
        raise NotForSerin("two assistant messages in a row go to the template as they are")
    reply.error(400)


@case("chat", "timings_per_token")
def timings(s, _):
    events = s.tiny().events("/v1/chat/completions", {"messages": BEST, "max_tokens": 5, "timings_per_token": True})
    if not any("timings" in event for event in events):
        raise NotForSerin("times are in the metrics and the status")


@case("logprobs", False, True)
def chat_logprobs(s, stream):
    reply = client(s.tiny()).chat.completions.create(
        model="m", temperature=0, messages=BEST, max_tokens=5, logprobs=True, top_logprobs=10, stream=stream
    )
    parts = list(reply) if stream else [reply]
    choices = [part.choices[0] for part in parts if part.choices]
    text = "".join((c.delta if stream else c.message).content or "" for c in choices)
    tokens = [token for c in choices if c.logprobs for token in c.logprobs.content or []]
    holds(tokens and all(t.logprob <= 0 and t.bytes is not None and t.top_logprobs for t in tokens), "tokens")
    same(b"".join(bytes(t.bytes) for t in tokens).decode(errors="replace").strip(), text.strip(), "text of the tokens")


@case("chat")
def chat_logit_bias(s):
    reply = s.tiny().chat(messages=BEST, logit_bias={"300": -100}, max_tokens=20)
    refused(reply, "logit_bias", "biases are not available")
    reply.ok()


@case("context", False, True)
def chat_longer_than_the_context(s, stream):
    error = s.tiny().chat(messages=BEST * 100, stream=stream).error(400)
    same(error["code"], "context_length_exceeded", "the code")
    holds(any(ch.isdigit() for ch in error["message"]) and "512" in error["message"], f"no figures: {error['message']}")


@case("chat", "new", "reused")
def progress(s, _):
    events = s.tiny().events("/v1/chat/completions", {"messages": BEST, "max_tokens": 5, "return_progress": True})
    if not any("prompt_progress" in event for event in events):
        raise NotForSerin("a stream begins with the first token; return_progress changes nothing")


@case("chat")
def several_choices(s):
    reply = s.tiny().chat(messages=BEST, n=2, max_tokens=8, ignore_eos=True).ok()
    same(
        [(c["index"], c["message"]["role"], c["finish_reason"]) for c in reply["choices"]],
        [(0, "assistant", "length"), (1, "assistant", "length")],
        "the choices",
    )


@case("tools", *[(which, stream) for which in ("one", "two") for stream in (False, True)])
def required_tool(s, value):
    which, stream = value
    # The model knows no value by itself; so the values are few.
    city = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    names = ["get_weather", "test"] if which == "two" else ["get_weather"]
    tools = [{"type": "function", "function": {"name": name, "parameters": city}} for name in names]
    found = asked(s.scripted(), stream, tools=tools, tool_choice="required", parallel_tool_calls=False)
    (call,) = found["tool_calls"]
    holds(call["function"]["name"] in names, "an unknown tool is called")
    holds(json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome"), "the arguments")


@case("tools", False, True)
def weather(s, stream):
    found = asked(s.scripted(), stream, tools=[TOOL])
    (call,) = found["tool_calls"]
    same(
        (call["function"]["name"], json.loads(call["function"]["arguments"])),
        ("get_weather", {"city": "Paris"}),
        "call",
    )
    holds(call["id"] and not found["content"], f"no id, or content beside the call: {found}")


@case("tools", False, True)
def two_calls(s, stream):
    found = asked(s.scripted(), stream, "say-twice", tools=[TOOL])["tool_calls"]
    same([json.loads(call["function"]["arguments"])["city"] for call in found], ["Paris", "Rome"], "the calls")
    holds(found[0]["id"] != found[1]["id"], "both calls have one id")


@case("tools", False, True)
def answer_after_a_result(s, stream):
    call = {
        "id": "call_6789",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
    }
    history = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "get_weather", "content": "sunny", "tool_call_id": "call_6789"},
    ]
    found = asked(s.scripted(), stream, messages=history, tools=[TOOL])
    same((found["content"], found.get("tool_calls")), (said.ANSWER, None), "the answer")


@case(
    "tools",
    *[
        (tools, stream)
        for tools in ("none", "empty", "unused", "choice none", "tiny", "tiny, choice none")
        for stream in (False, True)
    ],
)
def no_call(s, value):
    tools, stream = value
    if tools == "tiny":
        refused(s.tiny().chat(tools=[TOOL], stream=stream), "tools", "tools for a template that does not show them")
    at = s.tiny() if tools.startswith("tiny") else s.scripted()
    more = {"none": {"tools": None}, "empty": {"tools": []}, "unused": {}, "tiny": {"tools": [TOOL]}}.get(
        tools, {"tools": [TOOL], "tool_choice": "none"}
    )
    found = asked(at, stream, "say-lines" if tools == "unused" else "Hello", max_tokens=60, **more)
    same(found.get("tool_calls"), None, "calls")


@case("reasoning", *[(kind, stream) for kind in ("thinks", "does not", "told not to") for stream in (False, True)])
def thoughts(s, value):
    kind, stream = value
    more = {"chat_template_kwargs": {"enable_thinking": False}} if kind == "told not to" else {}
    found = asked(s.scripted(), stream, "Hello" if kind == "does not" else "say-think", **more)
    if kind == "thinks":
        same(
            ((found.get("reasoning_content") or "").strip(), found["content"].strip()),
            (said.THOUGHT, said.AFTER),
            "reasoning and answer",
        )
    else:
        same((found.get("reasoning_content") or None, found["content"]), (None, said.HELLO), "reasoning and answer")


@case("reasoning", "server", "request")
def budget_of_thoughts(s, where):
    if where == "server":
        raise NotForSerin("thoughts have no budget")
    refused(s.scripted().chat("say-think", thinking_token_budget=5), "thinking_token_budget", "thoughts have no budget")
    raise AssertionError("it is not refused")


@case("pictures", "HELLO WORLD", "Invoice 2026")
def reading_pictures(s, _):
    raise NotForSerin("models here read text only")
