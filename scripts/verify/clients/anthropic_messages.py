"""anthropic (Python), the Messages API: blocks, the streaming helper, tools, token counts and its errors."""

import anthropic

from case import (
    KEY,
    KEYED,
    MODEL,
    RESULT,
    STRICT,
    TOOL,
    URL,
    USER,
    each,
    holds,
    keyed,
    or_refused,
    raises,
    run,
    said,
    same,
    sees_stream_left,
    user,
)
from shape import ENOUGH, TEXT, TWICE, Mood, called, fits, function

client = anthropic.Anthropic(base_url=URL, api_key=KEY or "none", max_retries=0, **STRICT)
TOOLS = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]


def ask(messages=USER, max_tokens=100, temperature=1, **more):
    """`temperature` is sent outside of the typed arguments, of which newer versions have none for it."""
    return client.messages.create(
        model=MODEL, max_tokens=max_tokens, messages=messages, extra_body={"temperature": temperature}, **more
    )


def chat():
    reply = ask(system="Be brief.", temperature=0, metadata={"user_id": "u"})
    same((reply.content[0].text, reply.stop_reason, reply.role), (said.HELLO, "end_turn", "assistant"), "the message")
    holds(reply.id.startswith("msg_"), f"the id {reply.id} does not begin with msg_")
    same(ask(max_tokens=2).stop_reason, "max_tokens", "stop_reason of a short message")
    stopped = ask(stop_sequences=["friend"])
    same(
        (stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence),
        ("Hello there, my ", "stop_sequence", "friend"),
        "a stopped message",
    )
    blocks = [{"role": "user", "content": [{"type": "text", "text": "say-unicode"}]}]
    same(ask(blocks, system=[{"type": "text", "text": "Be brief."}]).content[0].text, said.UNICODE, "blocks")


def stream():
    for name, text in (("hello", said.HELLO), ("say-unicode", said.UNICODE)):
        with client.messages.stream(model=MODEL, max_tokens=100, messages=user(name)) as events:
            same("".join(events.text_stream), text, "the streamed text")
            same(events.get_final_message().stop_reason, "end_turn", "stop_reason")
    kinds = [event.type for event in ask(stream=True) if event.type != "ping"]
    same(
        (kinds[:2], kinds[-3:]),
        (["message_start", "content_block_start"], ["content_block_stop", "message_delta", "message_stop"]),
        "the events",
    )


def tools():
    first = ask(tools=TOOLS)
    same(first.stop_reason, "tool_use", "stop_reason")
    call = next(block for block in first.content if block.type == "tool_use")
    same((call.name, call.input), ("get_weather", {"city": "Paris"}), "the call")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
    history = USER + [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    same(ask(history, tools=TOOLS).content[0].text, said.ANSWER, "the answer")
    with client.messages.stream(model=MODEL, max_tokens=200, messages=user("say-twice"), tools=TOOLS) as events:
        final = events.get_final_message()
    same(
        [block.input["city"] for block in final.content if block.type == "tool_use"],
        ["Paris", "Rome"],
        "streamed calls",
    )


def parsed():
    reply = or_refused(
        anthropic.BadRequestError,
        lambda: client.messages.parse(
            model=MODEL, max_tokens=ENOUGH, messages=user("Who is it? parse"), output_format=Mood
        ),
        "output_config",
    )
    fits(reply.content[0].text, Mood)
    holds(isinstance(reply.parsed_output, Mood), "nothing was parsed")


def schema():
    parsed()


def own_tools(**more):
    """The tools of the rows about constraints, as this API has them."""
    found = [function(name) for name in ("get_weather", "get_time")]
    return [
        {"name": f["name"], "description": f["description"], "input_schema": f["parameters"], **more} for f in found
    ]


def calls_in(message, allowed):
    """The calls of a message, checked."""
    same(message.stop_reason, "tool_use", "stop_reason")
    calls = [block for block in message.content if block.type == "tool_use"]
    for call in calls:
        called(call.name, call.input, allowed)
    holds(calls, "there was no call")
    return len(calls)


def forced_call(choice, *allowed, text=TEXT, **more):
    """Calls of the allowed tools, whole and streamed; the model by itself would say something else."""
    asked = dict(max_tokens=ENOUGH, messages=user(text), tools=own_tools(**more), tool_choice=choice)
    whole = calls_in(ask(**asked), allowed)
    with client.messages.stream(model=MODEL, **asked) as events:
        return whole, calls_in(events.get_final_message(), allowed)


def forced():
    both, named = ("get_weather", "get_time"), {"type": "tool", "name": "get_time"}
    alone = {"type": "any", "disable_parallel_tool_use": True}
    each(
        any=lambda: forced_call({"type": "any"}, *both),
        tool=lambda: forced_call(named, "get_time"),
        one=lambda: same(forced_call(alone, *both, text=TWICE), (1, 1), "calls"),
        strict=lambda: forced_call({"type": "auto"}, "get_weather", text="strict tools", strict=True),
    )


def errors():
    raises(anthropic.BadRequestError, lambda: ask(temperature=5), "temperature")
    lost = raises(anthropic.NotFoundError, lambda: client.messages.create(model="no-such", max_tokens=5, messages=USER))
    same(lost.body["type"], "error", "the form of the error")
    same(lost.body["error"]["type"], "not_found_error", "the type of the error")
    raises(anthropic.BadRequestError, lambda: ask(user("word " * 20000)))
    with_image = [
        {
            "role": "user",
            "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}],
        }
    ]
    raises(anthropic.BadRequestError, lambda: ask(with_image), "image")


def key():
    keyed()
    with_key = anthropic.Anthropic(base_url=KEYED, api_key=KEY, max_retries=0)
    same(with_key.messages.create(model=MODEL, max_tokens=50, messages=USER).content[0].text, said.HELLO, "the reply")
    wrong = anthropic.Anthropic(base_url=KEYED, api_key="sk-wrong", max_retries=0)
    raises(anthropic.AuthenticationError, lambda: wrong.messages.create(model=MODEL, max_tokens=5, messages=USER))


def cancel():
    sees_stream_left(lambda: ask(user("say-long"), max_tokens=4000, stream=True))


def usage():
    whole = ask().usage
    counted = client.messages.count_tokens(model=MODEL, messages=USER).input_tokens
    same(whole.input_tokens + (whole.cache_read_input_tokens or 0), counted, "input tokens against count_tokens")
    holds(whole.output_tokens > 0, "output_tokens")
    with client.messages.stream(model=MODEL, max_tokens=100, messages=USER) as events:
        begun = next(event for event in events if event.type == "message_start").message.usage
        final = events.get_final_message().usage
    same(begun.input_tokens + (begun.cache_read_input_tokens or 0), counted, "input tokens at the start of a stream")
    same(final.input_tokens + (final.cache_read_input_tokens or 0), counted, "input tokens at its end")
    same(final.output_tokens, whole.output_tokens, "the usage of a stream")


if __name__ == "__main__":
    run(globals(), "anthropic")
