"""litellm, the library: completion and stream through its OpenAI provider, tools, and its own exceptions."""

import json

import litellm

from case import KEY, MODEL, RESULT, TOOL, USER, V1, each, holds, keyed, raises, run, said, same, sees_cancel, user
from shape import ENOUGH, OBJECT, TEXT, TWICE, Named, Person, called, chat_tools, fits

litellm.suppress_debug_info = True
TOOLS = [{"type": "function", "function": TOOL}]


def ask(messages=USER, model=MODEL, url=V1, key=KEY or "none", **more):
    return litellm.completion(
        model=f"openai/{model}", messages=messages, api_base=url, api_key=key, num_retries=0, max_retries=0, **more
    )


def chat():
    same(ask().choices[0].message.content, said.HELLO, "the reply")
    same(ask(max_tokens=2).choices[0].finish_reason, "length", "finish_reason of a short reply")


def stream():
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True) if chunk.choices]
    same("".join(parts), said.HELLO, "the streamed reply")


def tools():
    first = ask(tools=TOOLS).choices[0].message
    (call,) = first.tool_calls
    same((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Paris"}), "the call")
    history = USER + [first.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    same(ask(history, tools=TOOLS).choices[0].message.content, said.ANSWER, "the answer")
    whole = litellm.stream_chunk_builder(list(ask(user("say-twice"), tools=TOOLS, stream=True)))
    same(
        [json.loads(c.function.arguments)["city"] for c in whole.choices[0].message.tool_calls],
        ["Paris", "Rome"],
        "streamed calls",
    )


def typed(response_format, kind=Person, text="Who is it?"):
    """A reply of a type, whole and streamed."""
    more = dict(messages=user(text), response_format=response_format, max_tokens=ENOUGH)
    fits(ask(**more).choices[0].message.content, kind)
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True, **more) if chunk.choices]
    fits("".join(parts), kind)


def schema():
    loose = {"name": "person", "schema": Person.model_json_schema()}
    each(
        type=lambda: typed(Person),
        loose=lambda: typed({"type": "json_schema", "json_schema": loose}),
        json_object=lambda: typed({"type": "json_object"}, Named, OBJECT),
    )


def forced_call(choice, *allowed, text=TEXT, **more):
    """Calls of the allowed tools, whole and streamed; the model by itself would say something else."""
    more = dict(messages=user(text), tools=chat_tools(), tool_choice=choice, max_tokens=ENOUGH) | more
    whole = ask(**more).choices[0].message.tool_calls
    built = litellm.stream_chunk_builder(list(ask(stream=True, **more))).choices[0].message.tool_calls
    holds(whole and built, "there was no call")
    for call in whole + built:
        called(call.function.name, call.function.arguments, allowed)
    return len(whole), len(built)


def forced():
    both, named = ("get_weather", "get_time"), {"type": "function", "function": {"name": "get_time"}}
    each(
        required=lambda: forced_call("required", *both),
        named=lambda: forced_call(named, "get_time"),
        one=lambda: same(forced_call("required", *both, text=TWICE, parallel_tool_calls=False), (1, 1), "calls"),
    )


def errors():
    raises(litellm.BadRequestError, lambda: ask(temperature=5), "temperature")
    raises(litellm.NotFoundError, lambda: ask(model="no-such"))
    raises(litellm.ContextWindowExceededError, lambda: ask(user("word " * 20000)))


def key():
    url, right = keyed()
    same(ask(url=url, key=right).choices[0].message.content, said.HELLO, "the reply")
    raises(litellm.AuthenticationError, lambda: ask(url=url, key="sk-wrong"))


def cancel():
    def stop_early():
        events = ask(user("say-long"), stream=True, max_tokens=4000)
        for count, _ in enumerate(events):
            if count == 3:
                break
        events.completion_stream.close()

    sees_cancel(stop_early)


def usage():
    whole = ask().usage
    last = list(ask(stream=True, stream_options={"include_usage": True}))[-1].usage
    same(
        (last.prompt_tokens, last.completion_tokens),
        (whole.prompt_tokens, whole.completion_tokens),
        "the usage of a stream",
    )


if __name__ == "__main__":
    run(globals(), "litellm")
