"""openai-agents: an agent with a tool, run to its end and streamed. Argument: chat or responses, the API it uses."""

import asyncio
import json
import sys
from typing import Literal

import openai
from agents import (
    Agent,
    AgentOutputSchema,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

from case import KEY, MODEL, RESULT, V1, each, holds, keyed, raises, run, said, same, sees_cancel
from shape import ENOUGH, TEXT, TWICE, Person, Text, called, fits

set_tracing_disabled(True)
API = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}[(sys.argv[1:] or ["chat"])[0]]


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return RESULT


def agent(model=MODEL, url=V1, key=KEY or "none", tools=(), about=None, **settings):
    """An agent; `about`: its fields, the others are settings of its model."""
    client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
    return Agent(
        name="A",
        instructions="Be brief.",
        model=API(model=model, openai_client=client),
        tools=list(tools),
        model_settings=ModelSettings(**settings),
        **(about or {}),
    )


def chat():
    same(Runner.run_sync(agent(), "Good morning.").final_output, said.HELLO, "the reply")


async def stream():
    result = Runner.run_streamed(agent(), "Good morning.")
    text = ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    same((text, result.final_output), (said.HELLO, said.HELLO), "the streamed reply")


def tools():
    same(Runner.run_sync(agent(tools=[get_weather]), "Good morning.").final_output, said.ANSWER, "the answer")

    async def streamed():
        result = Runner.run_streamed(agent(tools=[get_weather]), "Good morning.")
        async for _ in result.stream_events():
            pass
        return result.final_output

    same(asyncio.run(streamed()), said.ANSWER, "the streamed answer")


def typed(output, text):
    """A final output of a type."""
    result = Runner.run_sync(agent(about={"output_type": output}, max_tokens=ENOUGH), text)
    holds(isinstance(result.final_output, Person), f"the output is {result.final_output!r}")
    fits(result.final_output)


async def streamed():
    result = Runner.run_streamed(agent(about={"output_type": Person}, max_tokens=ENOUGH), "Who is it? stream")
    async for _ in result.stream_events():
        pass
    fits(result.final_output)


def schema():
    each(
        type=lambda: typed(Person, "Who is it?"),
        not_strict=lambda: typed(AgentOutputSchema(Person, strict_json_schema=False), "Who is it? not strict"),
        stream=streamed,
    )


@function_tool(name_override="get_weather")
def weather_in(city: Text, unit: Literal["celsius", "fahrenheit"]) -> str:
    """The weather of a city."""
    return json.dumps({"city": city, "unit": unit})


@function_tool(name_override="get_time")
def time_in(zone: Literal["utc", "cet"]) -> str:
    """The time in a zone."""
    return json.dumps({"zone": zone})


def forced_call(choice, *allowed, text=TEXT, stop="stop_on_first_tool", **settings):
    """A run that ends with its first call; the tools return what they were called with."""
    of = agent(
        tools=[weather_in, time_in],
        about={"tool_use_behavior": stop},
        tool_choice=choice,
        max_tokens=ENOUGH,
        **settings,
    )
    result = Runner.run_sync(of, text)
    calls = [item.raw_item for item in result.new_items if item.type == "tool_call_item"]
    for call in calls:
        called(call.name, call.arguments, allowed)
    holds(calls, "there was no call")
    return len(calls), result.final_output


def then_text():
    """The library takes the forced choice back after the first call, so the run ends with a text."""
    count, output = forced_call("required", "get_weather", "get_time", stop="run_llm_again")
    holds(count and output, f"{count} calls, then {output!r}")


def forced():
    both = ("get_weather", "get_time")
    each(
        required=lambda: forced_call("required", *both),
        named=lambda: forced_call("get_time", "get_time"),
        one=lambda: same(forced_call("required", *both, text=TWICE, parallel_tool_calls=False)[0], 1, "calls"),
        then_text=then_text,
    )


def errors():
    raises(openai.BadRequestError, lambda: Runner.run_sync(agent(temperature=5), "x"), "temperature")
    raises(openai.NotFoundError, lambda: Runner.run_sync(agent("no-such"), "x"))


def key():
    url, right = keyed()
    same(Runner.run_sync(agent(url=url, key=right), "x").final_output, said.HELLO, "the reply")
    raises(openai.AuthenticationError, lambda: Runner.run_sync(agent(url=url, key="sk-wrong"), "x"))


def cancel():
    async def leave():
        result, seen = Runner.run_streamed(agent(max_tokens=4000), "say-long"), 0
        async for _ in result.stream_events():
            seen += 1
            if seen == 6:
                result.cancel()

    sees_cancel(lambda: asyncio.run(leave()))


def usage():
    used = Runner.run_sync(agent(), "Good morning.").context_wrapper.usage
    holds(used.input_tokens > 0 and used.output_tokens > 0, f"usage {used}")
    same(used.total_tokens, used.input_tokens + used.output_tokens, "total_tokens")


if __name__ == "__main__":
    run(globals(), "openai-agents")
