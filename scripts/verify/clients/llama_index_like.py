"""llama-index, OpenAILike: chat, stream_chat, function calls and their results."""

import httpx
import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from case import KEY, MODEL, RESULT, V1, each, holds, keyed, raises, run, said, same, sees_cancel
from shape import ENOUGH, TEXT, Clock, Person, Weather, called, fits

MESSAGES = [ChatMessage(role="user", content="Good morning.")]


def model(name=MODEL, url=V1, key=KEY or "none", **more):
    return OpenAILike(
        model=name,
        api_base=url,
        api_key=key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=4096,
        max_retries=0,
        **more,
    )


def get_weather(city: str) -> str:
    """The weather of a city."""
    return RESULT


def chat():
    same(model().chat(MESSAGES).message.content, said.HELLO, "the reply")


def stream():
    same("".join(part.delta or "" for part in model().stream_chat(MESSAGES)), said.HELLO, "the streamed reply")


def tools():
    tool = FunctionTool.from_defaults(fn=get_weather)
    first = model().chat_with_tools([tool], chat_history=MESSAGES)
    (call,) = model().get_tool_calls_from_response(first)
    same((call.tool_name, call.tool_kwargs), ("get_weather", {"city": "Paris"}), "the call")
    result = ChatMessage(role="tool", content=RESULT, additional_kwargs={"tool_call_id": call.tool_id})
    last = model().chat_with_tools([tool], chat_history=[*MESSAGES, first.message, result])
    same(last.message.content, said.ANSWER, "the answer")


def structured(**more):
    """An object of a type from a prompt: by a forced call, or by response_format where that is asked for."""
    asked = model(max_tokens=ENOUGH, **more)
    found = asked.structured_predict(Person, PromptTemplate("{words} Who is it?"), words=TEXT)
    holds(isinstance(found, Person), f"the object is {found!r}")
    fits(found)


def structured_chat():
    reply = model(max_tokens=ENOUGH).as_structured_llm(Person).chat([ChatMessage(role="user", content=TEXT)])
    fits(reply.raw)


def schema():
    each(response_format=lambda: structured(should_use_structured_outputs=True))


def forced_call(*allowed, **more):
    tools = [FunctionTool.from_defaults(fn=get_weather, name="get_weather", fn_schema=Weather)]
    tools.append(FunctionTool.from_defaults(fn=get_weather, name="get_time", fn_schema=Clock))
    asked = model(max_tokens=ENOUGH)
    first = asked.chat_with_tools(tools, user_msg=TEXT, **more)
    calls = asked.get_tool_calls_from_response(first)
    holds(calls, "there was no call")
    for call in calls:
        called(call.tool_name, call.tool_kwargs, allowed)


def forced():
    named = {"type": "function", "function": {"name": "get_time"}}
    each(
        structured_predict=structured,
        structured_chat=structured_chat,
        required=lambda: forced_call("get_weather", "get_time", tool_required=True),
        named=lambda: forced_call("get_time", tool_choice=named),
    )


def errors():
    raises(openai.BadRequestError, lambda: model(additional_kwargs={"top_p": 5}).chat(MESSAGES), "top_p")
    raises(openai.NotFoundError, lambda: model("no-such").chat(MESSAGES))


def key():
    url, right = keyed()
    same(model(url=url, key=right).chat(MESSAGES).message.content, said.HELLO, "the reply")
    raises(openai.AuthenticationError, lambda: model(url=url, key="sk-wrong").chat(MESSAGES))


def cancel():
    """Closing its generator leaves the connection open, so this closes the connections that it was given."""

    def leave():
        with httpx.Client() as connections:
            parts = model(http_client=connections).stream_chat(user, max_tokens=4000)
            for count, _ in enumerate(parts):
                if count == 6:
                    break

    user = [ChatMessage(role="user", content="say-long")]
    sees_cancel(leave)


def usage():
    holds(model().chat(MESSAGES).raw.usage.total_tokens > 0, "no usage")


if __name__ == "__main__":
    run(globals(), "llama-index-llms-openai-like")
