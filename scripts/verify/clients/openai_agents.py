"""openai-agents: an agent with a tool, run to its end and streamed. Argument: chat or responses, the API it uses."""

import asyncio
import sys

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

from case import KEY, MODEL, RESULT, V1, holds, keyed, raises, run, said, same, sees_cancel

set_tracing_disabled(True)
API = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}[(sys.argv[1:] or ["chat"])[0]]


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return RESULT


def agent(model=MODEL, url=V1, key=KEY or "none", tools=(), **settings):
    client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
    return Agent(
        name="A",
        instructions="Be brief.",
        model=API(model=model, openai_client=client),
        tools=list(tools),
        model_settings=ModelSettings(**settings),
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
