"""langchain-openai, ChatOpenAI: invoke, stream, bound tools with a ToolMessage, and usage metadata."""

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from case import KEY, MODEL, RESULT, V1, keyed, raises, run, said, same, sees_stream_left


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
