"""openai (Python), chat completions: typed replies, the streaming helper, and its errors."""

import json

import openai

from case import (
    KEY,
    MODEL,
    RESULT,
    STRICT,
    TOOL,
    USER,
    V1,
    holds,
    keyed,
    raises,
    run,
    said,
    same,
    sees_stream_left,
    user,
)

client = openai.OpenAI(base_url=V1, api_key=KEY or "none", max_retries=0, **STRICT)
TOOLS = [{"type": "function", "function": TOOL}]


def ask(messages=USER, **more):
    return client.chat.completions.create(model=MODEL, messages=messages, **more)


def chat():
    reply = ask(temperature=0, seed=7)
    same(reply.choices[0].message.content, said.HELLO, "the reply")
    same(reply.choices[0].finish_reason, "stop", "finish_reason")
    same(ask(max_tokens=2).choices[0].finish_reason, "length", "finish_reason of a short reply")
    same(ask(stop=["friend"]).choices[0].message.content, "Hello there, my ", "a stopped reply")
    same(len(ask(n=3).choices), 3, "choices")
    same(ask(user("say-unicode")).choices[0].message.content, said.UNICODE, "a reply beyond ASCII")
    logprobs = ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    same("".join(token.token for token in logprobs), said.HELLO, "the tokens of the log-probabilities")
    same(client.models.list().data[0].id, MODEL, "the listed model")
    same(client.models.retrieve(MODEL).id, MODEL, "the model by its id")
    prompt = client.completions.create(model=MODEL, prompt="Good morning.", max_tokens=30)
    same(prompt.choices[0].text, said.HELLO, "the completion")


def stream():
    for name, text in (("hello", said.HELLO), ("say-unicode", said.UNICODE), ("say-lines", said.LINES)):
        chunks = list(ask(user(name), stream=True))
        same("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), text, "the streamed reply")
        same([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop", "finish_reason")
        same(len({c.id for c in chunks}), 1, "ids in a stream")
    with client.chat.completions.stream(model=MODEL, messages=USER) as events:
        final = events.get_final_completion()
    same(final.choices[0].message.content, said.HELLO, "what the streaming helper gathers")


def calls_of(stream_):
    """The calls of a streamed reply, put together from their parts."""
    calls = {}
    for chunk in stream_:
        for part in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            call = calls.setdefault(part.index, {"arguments": ""})
            call["id"] = part.id or call.get("id")
            call["name"] = part.function.name or call.get("name")
            call["arguments"] += part.function.arguments or ""
    return [calls[index] for index in sorted(calls)]


def tools():
    first = ask(tools=TOOLS)
    same(first.choices[0].finish_reason, "tool_calls", "finish_reason")
    (call,) = first.choices[0].message.tool_calls
    same((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Paris"}), "the call")
    history = USER + [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": RESULT},
    ]
    same(ask(history, tools=TOOLS).choices[0].message.content, said.ANSWER, "the answer")
    streamed = calls_of(ask(user("say-twice"), tools=TOOLS, stream=True))
    same(
        [(c["name"], json.loads(c["arguments"])["city"]) for c in streamed],
        [("get_weather", "Paris"), ("get_weather", "Rome")],
        "streamed calls",
    )
    holds(len({c["id"] for c in streamed}) == 2, "two calls need two ids")
    parts = ask(history, tools=TOOLS, stream=True)
    same("".join(c.choices[0].delta.content or "" for c in parts if c.choices), said.ANSWER, "the streamed answer")


def errors():
    bad = raises(openai.BadRequestError, lambda: ask(temperature=5), "temperature")
    same((bad.param, bad.type), ("temperature", "invalid_request_error"), "param and type of the error")
    lost = raises(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such", messages=USER))
    same(lost.code, "model_not_found", "code of the error")
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such"))
    raises(openai.BadRequestError, lambda: ask(user("word " * 20000)), "context")
    raises(openai.BadRequestError, lambda: ask(stream=True, temperature=5), "temperature")


def key():
    url, right = keyed()
    with_key = openai.OpenAI(base_url=url, api_key=right, max_retries=0)
    same(with_key.chat.completions.create(model=MODEL, messages=USER).choices[0].message.content, said.HELLO, "reply")
    wrong = openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: wrong.chat.completions.create(model=MODEL, messages=USER))


def cancel():
    sees_stream_left(lambda: ask(user("say-long"), stream=True, max_tokens=4000))


def usage():
    whole = ask().usage
    same(whole.total_tokens, whole.prompt_tokens + whole.completion_tokens, "total_tokens")
    holds(whole.prompt_tokens_details.cached_tokens >= 0, "cached_tokens")
    last = list(ask(stream=True, stream_options={"include_usage": True}))[-1]
    same(
        (last.usage.prompt_tokens, last.usage.completion_tokens),
        (whole.prompt_tokens, whole.completion_tokens),
        "the usage of a stream",
    )
    same(last.choices, [], "choices of the event with the usage")


if __name__ == "__main__":
    run(globals(), "openai")
