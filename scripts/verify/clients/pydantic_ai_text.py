"""pydantic-ai: an agent with text or typed output over chat completions; tools, streams and usage of a run."""

from openai import AsyncOpenAI
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from case import KEY, MODEL, RESULT, V1, each, holds, keyed, raises, run, said, same, sees_cancel
from shape import ENOUGH, OBJECT, TEXT, Clock, Mood, Named, Person, Weather, fits


def agent(model=MODEL, url=V1, key=KEY or "none", **more):
    provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url=url, api_key=key, max_retries=0))
    return Agent(OpenAIChatModel(model, provider=provider), **more)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return RESULT


def chat():
    same(agent(instructions="Be brief.").run_sync("Good morning.").output, said.HELLO, "the reply")


async def stream():
    async with agent().run_stream("Good morning.") as result:
        parts = [part async for part in result.stream_text(delta=True)]
    same("".join(parts), said.HELLO, "the streamed reply")


def tools():
    result = agent(tools=[get_weather]).run_sync("Good morning.")
    same(result.output, said.ANSWER, "the answer after the call")
    parts = [type(part).__name__ for message in result.all_messages() for part in message.parts]
    holds({"ToolCallPart", "ToolReturnPart"} <= set(parts), f"no call and result among {parts}")


def typed(output, *kinds, text="Who is it?", **more):
    """The output of a run, which is one of these types. Without retries: the first reply must fit."""
    run_ = agent(output_type=output, retries=0, model_settings={"max_tokens": ENOUGH}, **more).run_sync(text)
    holds(type(run_.output) in kinds, f"the output is {run_.output!r}")
    fits(run_.output, type(run_.output))


async def streamed():
    asked = agent(output_type=NativeOutput(Mood, strict=True), retries=0, model_settings={"max_tokens": ENOUGH})
    async with asked.run_stream("Who is it? stream") as result:
        fits(await result.get_output(), Mood)


def schema():
    each(
        native=lambda: typed(NativeOutput(Person), Person),
        # Strict schemas lose their bounds on the way, and a text without one need not end.
        native_strict=lambda: typed(NativeOutput(Mood, strict=True), Mood),
        native_of_two=lambda: typed(NativeOutput([Weather, Clock]), Weather, Clock),
        native_stream=streamed,
        prompted=lambda: typed(PromptedOutput(Named), Named, text=OBJECT),
    )


def forced():
    each(
        tool=lambda: typed(ToolOutput(Person), Person, text=TEXT),
        tool_strict=lambda: typed(ToolOutput(Mood, strict=True), Mood, text=TEXT),
        of_two=lambda: typed([ToolOutput(Weather), ToolOutput(Clock)], Weather, Clock, text=TEXT),
    )


def errors():
    raises(ModelHTTPError, lambda: agent(model_settings={"temperature": 5}).run_sync("x"), "temperature")
    raises(ModelHTTPError, lambda: agent("no-such").run_sync("x"), "404")


def key():
    url, right = keyed()
    same(agent(url=url, key=right).run_sync("x").output, said.HELLO, "the reply")
    raises(ModelHTTPError, lambda: agent(url=url, key="sk-wrong").run_sync("x"), "401")


def cancel():
    import asyncio

    async def leave():
        started = agent(model_settings={"max_tokens": 4000}).run_stream("say-long")
        result = await started.__aenter__()
        parts = result.stream_text(delta=True, debounce_by=None)
        for _ in range(3):
            await anext(parts)
        await result.cancel() if hasattr(result, "cancel") else await parts.aclose()
        raise KeyError("left early")

    def stop_early():
        try:
            asyncio.run(leave())
        except KeyError:
            pass

    sees_cancel(stop_early)


def usage():
    used = agent().run_sync("Good morning.").usage
    used = used() if callable(used) else used
    holds(used.input_tokens > 0 and used.output_tokens > 0, f"usage {used}")


if __name__ == "__main__":
    run(globals(), "pydantic-ai-slim")
