"""langchain-openai, ChatOpenAI: invoke, stream, bound tools with a ToolMessage, and usage metadata."""

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from case import KEY, MODEL, RESULT, V1, each, holds, keyed, raises, run, said, same, sees_stream_left
from shape import ENOUGH, OBJECT, TEXT, TWICE, Clock, Named, Person, Weather, called, fits


def model(name=MODEL, url=V1, key=KEY or "none", **more):
    return ChatOpenAI(model=name, base_url=url, api_key=key, max_retries=0, **more)


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return RESULT


def chat():
    same(model().invoke("Good morning.").content, said.HELLO, "the reply")
    same(len(model().batch(["a", "b", "c"])), 3, "replies to a batch")


def stream():
    same("".join(chunk.text for chunk in model().stream("Good morning.")), said.HELLO, "the streamed reply")


def tools():
    bound, messages = model().bind_tools([get_weather]), [HumanMessage("Good morning.")]
    first = bound.invoke(messages)
    same([(call["name"], call["args"]) for call in first.tool_calls], [("get_weather", {"city": "Paris"})], "the call")
    messages += [first, get_weather.invoke(first.tool_calls[0])]
    assert isinstance(messages[-1], ToolMessage)
    same(bound.invoke(messages).content, said.ANSWER, "the answer")
    whole = None
    for chunk in bound.stream("say-twice"):
        whole = chunk if whole is None else whole + chunk
    same([call["args"]["city"] for call in whole.tool_calls], ["Paris", "Rome"], "streamed calls")


def structured(method, kind=Person, text="Who is it?", responses=False, **more):
    """An object of a type, by one of the library's methods; the text says which."""
    asked = model(max_tokens=ENOUGH, use_responses_api=responses).with_structured_output(
        kind, method=method, include_raw=True, **more
    )
    result = asked.invoke(f"{text} {method}")
    holds(result["parsing_error"] is None, f"not parsed: {result['parsing_error']}")
    holds(isinstance(result["parsed"], kind), f"parsed: {result['parsed']!r}")
    fits(result["parsed"], kind)


def loose_schema():
    """A schema instead of a type, not strict: the library does not check the reply."""
    asked = model(max_tokens=ENOUGH).with_structured_output(
        Person.model_json_schema(), method="json_schema", strict=False
    )
    fits(asked.invoke("Who is it? not strict"))


def streamed():
    parts = list(model(max_tokens=ENOUGH).with_structured_output(Person, method="json_schema").stream("Who is it?"))
    fits(parts[-1])


def schema():
    each(
        json_schema=lambda: structured("json_schema"),
        loose=loose_schema,
        responses=lambda: structured("json_schema", responses=True),
        stream=streamed,
        json_mode=lambda: structured("json_mode", Named, OBJECT),
    )


def forced_call(choice, allowed, text=TEXT, **more):
    """Calls of bound tools; the model by itself would say something else."""
    bound = model(max_tokens=ENOUGH).bind_tools([Weather, Clock], tool_choice=choice, **more)
    calls = {"Weather": "get_weather", "Clock": "get_time"}
    whole = None
    for chunk in bound.stream(text):
        whole = chunk if whole is None else whole + chunk
    for message in (bound.invoke(text), whole):
        holds(message.tool_calls, "there was no call")
        for call in message.tool_calls:
            called(calls[call["name"]], call["args"], [calls[name] for name in allowed])
    return len(whole.tool_calls)


def forced():
    both = ("Weather", "Clock")
    each(
        function_calling=lambda: structured("function_calling"),
        function_calling_strict=lambda: structured("function_calling", strict=True),
        any=lambda: forced_call("any", both),
        required=lambda: forced_call("required", both, strict=True),
        named=lambda: forced_call("Clock", ("Clock",)),
        one=lambda: same(forced_call("any", both, TWICE, parallel_tool_calls=False), 1, "calls"),
    )


def errors():
    raises(openai.BadRequestError, lambda: model(temperature=5).invoke("x"), "temperature")
    raises(openai.NotFoundError, lambda: model("no-such").invoke("x"))


def key():
    url, right = keyed()
    same(model(url=url, key=right).invoke("x").content, said.HELLO, "the reply")
    raises(openai.AuthenticationError, lambda: model(url=url, key="sk-wrong").invoke("x"))


def cancel():
    sees_stream_left(lambda: model(max_tokens=4000).stream("say-long"))


def usage():
    whole = model().invoke("Good morning.").usage_metadata
    last = [chunk.usage_metadata for chunk in model(stream_usage=True).stream("Good morning.") if chunk.usage_metadata]
    same(
        (last[-1]["input_tokens"], last[-1]["output_tokens"]),
        (whole["input_tokens"], whole["output_tokens"]),
        "the usage of a stream",
    )


if __name__ == "__main__":
    run(globals(), "langchain-openai", "langchain-core")
