"""Cases over the Messages API and the Responses API."""

import json

from .harness import client, holds, NotForSerin, refused, registrar, said, same

CASES = []
case = registrar(CASES)
TOOL = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = {"type": "tool_use", "id": "test123", "name": "get_weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "test123", "content": "Sunny, 25°C"}
BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]


def body(content="Say hello", **more):
    return {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": content}], **more}


def message(s, at=None, **more):
    reply = (at or s.scripted()).post("/v1/messages", {**body(), **more}).ok()
    same((reply["type"], reply["role"]), ("message", "assistant"), "type and role")
    return reply


@case("messages")
def basic(s):
    reply = message(s)
    same((reply["content"], reply["stop_reason"]), ([{"type": "text", "text": said.HELLO}], "end_turn"), "the message")
    usage = reply["usage"]
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
        holds(isinstance(usage.get(name), int), f"no usage.{name}: {usage}")
    holds(usage["output_tokens"] > 0 and "timings" not in reply, "output tokens, or timings")


@case(
    "messages",
    "system",
    "system blocks",
    "parts",
    "turns",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "metadata",
    "thinking",
    "last turn of the assistant",
)
def accepted(s, what):
    more = {
        "system": {"system": "You help."},
        "system blocks": {"system": [{"type": "text", "text": "You help."}]},
        "parts": body([{"type": "text", "text": "What is"}, {"type": "text", "text": " the answer?"}]),
        "turns": {
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi there!"},
                {"role": "user", "content": "How are you?"},
            ]
        },
        "stop_sequences": {"stop_sequences": ["\n", "END"]},
        "temperature": {"temperature": 0.5},
        "top_p": {"top_p": 0.9},
        "top_k": {"top_k": 40},
        "metadata": {"metadata": {"user_id": "u1"}},
        "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
        "last turn of the assistant": {
            "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
        },
    }[what]
    holds(len(message(s, **more)["content"]) > 0, "no content")


def stream(s, **more):
    return s.scripted().events("/v1/messages", {**body(), **more})


@case("messages")
def streaming(s):
    events = [event for event in stream(s) if event["type"] != "ping"]
    kinds = [event["type"] for event in events]
    same(
        (kinds[:2], kinds[-3:]),
        (["message_start", "content_block_start"], ["content_block_stop", "message_delta", "message_stop"]),
        "the order",
    )
    start = events[0]["message"]
    same((start["type"], start["role"], start["content"]), ("message", "assistant", []), "the start")
    holds(start["usage"]["input_tokens"] > 0, "no input tokens at the start")
    same((events[1]["index"], events[1]["content_block"]["type"]), (0, "text"), "the block")
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    same("".join(d["delta"]["text"] for d in deltas), said.HELLO, "the text")
    holds(events[-2]["delta"]["stop_reason"] == "end_turn" and events[-2]["usage"]["output_tokens"] > 0, "the end")


@case("messages", "plain", "with system", "without max_tokens")
def count_tokens(s, what):
    asked = body("Hello world")
    del asked["max_tokens"]
    if what == "with system":
        asked["system"] = "You help."
    reply = s.scripted().post("/v1/messages/count_tokens", asked).ok()
    holds(isinstance(reply["input_tokens"], int) and reply["input_tokens"] > 0, "no count")
    holds("output_tokens" not in reply, "output tokens")


@case("messages")
def tool_use(s):
    reply = message(s, tools=[TOOL])
    same(reply["stop_reason"], "tool_use", "stop_reason")
    (call,) = [block for block in reply["content"] if block["type"] == "tool_use"]
    holds(call["id"] and (call["name"], call["input"]) == ("get_weather", {"city": "Paris"}), f"the call {call}")


@case("messages", "alone", "with text", "an error", "as blocks")
def tool_result(s, what):
    content = {
        "alone": [RESULT],
        "with text": [{"type": "text", "text": "Here it is:"}, RESULT],
        "an error": [{**RESULT, "is_error": True, "content": "City not found"}],
        "as blocks": [{**RESULT, "content": [{"type": "text", "text": "Sunny"}]}],
    }[what]
    history = [
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": content},
    ]
    holds(message(s, messages=history)["content"][0]["type"] == "text", "no text")


@case("messages")
def tool_use_in_a_stream(s):
    events = stream(s, tools=[TOOL])
    begin = next(e for e in events if e["type"] == "content_block_start" and e["content_block"]["type"] == "tool_use")
    holds(begin["content_block"]["name"] == "get_weather" and events[-1]["type"] == "message_stop", "the block")
    same([e for e in events if e["type"] == "message_delta"][0]["delta"]["stop_reason"], "tool_use", "stop_reason")


@case("messages")
def indices_of_blocks(s):
    events = stream(s, tools=[TOOL], **{"messages": body("say-twice")["messages"], "max_tokens": 200})
    starts = [e["index"] for e in events if e["type"] == "content_block_start"]
    stops = [e["index"] for e in events if e["type"] == "content_block_stop"]
    same((starts, stops), (list(range(len(starts))), starts), "indices")
    same(len(starts), 2, "blocks")


@case("messages", "format", "model that sees")
def pictures(s, what):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    if what == "model that sees":
        raise NotForSerin("models here read text only")
    s.scripted().post("/v1/messages", body([image, {"type": "text", "text": "What?"}])).error(400, word="image")


@case("messages", "missing", "empty")
def bad_messages(s, what):
    asked = body()
    asked["messages"] = []
    if what == "missing":
        del asked["messages"]
    s.scripted().post("/v1/messages", asked).error(400)
    if what == "empty":
        raise NotForSerin("an empty conversation is a 400, as in the public API")


@case("messages")
def other_form_than_chat(s):
    chat = s.scripted().chat("Hello").ok()
    reply = message(s)
    same((chat["object"], reply["type"]), ("chat.completion", "message"), "the objects")
    holds("prompt_tokens" in chat["usage"] and "input_tokens" in reply["usage"], "the usage")


@case("messages", False, True)
def thinking(s, streamed):
    asked = dict(
        thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000, messages=body("say-think")["messages"]
    )
    if streamed:
        events = stream(s, **asked)
        kinds = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
        deltas = {e["delta"]["type"] for e in events if e["type"] == "content_block_delta"}
        holds({"thinking_delta", "text_delta"} <= deltas, f"deltas {deltas}")
    else:
        content = message(s, **asked)["content"]
        kinds = [block["type"] for block in content]
        holds("signature" in content[0], "no signature")
    same(kinds, ["thinking", "text"], "the blocks")


@case(
    "responses",
    {"type": "json_schema", "name": "test", "schema": {"const": "f"}},
    {"type": "json_object"},
    {"type": "text"},
    {"type": "json_schema", "name": "test"},
)
def text_format(s, form):
    reply = s.scripted().post("/v1/responses", {"input": "Write", "max_output_tokens": 20, "text": {"format": form}})
    if form["type"] == "text":
        return reply.ok()
    if form["type"] == "json_schema" and "schema" not in form:
        return reply.error(400)
    found = reply.ok()
    if found["status"] == "completed":
        text = found["output"][0]["content"][0]["text"]
        value = json.loads(text)
        holds(form.get("schema", {}).get("const", value) == value, f"not the constant: {text}")


@case("responses", False, True)
def with_openai_library(s, streamed):
    reply = client(s.scripted()).responses.create(
        model="m", input=BOOK, max_output_tokens=50, temperature=0.8, stream=streamed
    )
    if not streamed:
        holds(reply.id.startswith("resp_") and reply.output[0].id.startswith("msg_"), "prefixes of the ids")
        return same(reply.output_text, said.HELLO, "the text")
    text, ids = "", set()
    for event in reply:
        text += event.delta if event.type == "response.output_text.delta" else ""
        ids |= {event.item_id} if hasattr(event, "item_id") else set()
    same((text, event.type, event.response.output_text), (said.HELLO, "response.completed", said.HELLO), "the stream")
    same(ids, {event.response.output[0].id}, "ids of the message")


@case("responses", "telemetry")
def telemetry(s, _):
    reply = s.scripted().post("/v1/responses", {"input": "x", "timings_per_token": True, "return_progress": True})
    if "timings" not in reply.ok():
        raise NotForSerin("times are in the metrics and the status")
