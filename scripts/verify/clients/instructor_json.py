"""instructor: objects by each mode that its OpenAI client has, checked by their types, and partial ones from a stream.

The rows that need no constraint use MD_JSON, an object from a fenced block. FUNCTIONS, TOOLS_STRICT, JSON_O1 and
RESPONSES_TOOLS_WITH_INBUILT_TOOLS are older names, which this version maps to TOOLS, JSON_SCHEMA and RESPONSES_TOOLS.
"""

from collections.abc import Iterable
from typing import Union

import instructor
import openai

from case import KEY, MODEL, V1, NotTried, each, holds, keyed, raises, run, same, user
from shape import ENOUGH, OBJECT, TEXT, Clock, Closed, Named, Person, fits

Mode = instructor.Mode


def client(url=V1, key=KEY or "none", mode=Mode.MD_JSON):
    return instructor.from_openai(openai.OpenAI(base_url=url, api_key=key, max_retries=0), mode=mode)


def ask(of=None, model=MODEL, **more):
    return (of or client()).chat.completions.create(
        model=model, messages=user("Who is it? Answer as json."), response_model=Named, max_retries=1, **more
    )


def chat():
    same(ask().model_dump(), {"name": "Ada", "age": 36}, "the object")


def stream():
    parts = list(
        client().chat.completions.create_partial(
            model=MODEL, messages=user("Who is it? Answer as json."), response_model=Named
        )
    )
    same((parts[-1].name, parts[-1].age), ("Ada", 36), "the last partial object")


def objects(mode, kind=Person, text="Who is it?", **more):
    """An object and a stream of partial ones, by one mode. Without retries: the first reply must fit."""
    of = client(mode=mode).chat.completions
    asked = dict(model=MODEL, messages=user(f"{text} {mode.name}"), max_tokens=ENOUGH, max_retries=1, **more)
    fits(of.create(response_model=kind, **asked), kind)
    fits(list(of.create_partial(response_model=kind, **asked))[-1].model_dump(), kind)


class get_weather(Closed):  # noqa: N801 - a call has its type's name
    """The weather of a city, as the scripted model calls it."""

    city: str


def listed(mode):
    """A list of objects: the library makes a type around the asked one."""
    found = client(mode=mode).chat.completions.create(
        model=MODEL,
        messages=user(f"Who are they? {mode.name}"),
        response_model=list[Clock],
        max_tokens=ENOUGH,
        max_retries=1,
    )
    for clock in found:
        fits(clock, Clock)


def parallel():
    """Calls of several types. The library always says `auto` here, so the scripted model makes its own call."""
    calls = client(mode=Mode.PARALLEL_TOOLS).chat.completions.create(
        model=MODEL,
        messages=user("The weather? PARALLEL_TOOLS"),
        response_model=Iterable[Union[get_weather, Clock]],
        max_tokens=ENOUGH,
        max_retries=1,
    )
    found = list(calls)
    holds(found, "there was no call")
    for call in found:
        fits(call, type(call))


def schema():
    each(
        JSON=lambda: objects(Mode.JSON, Named, OBJECT),
        JSON_SCHEMA=lambda: objects(Mode.JSON_SCHEMA),
        JSON_O1=lambda: objects(Mode.JSON_O1),
        MD_JSON=lambda: objects(Mode.MD_JSON, Named, "as json"),
    )


def forced():
    each(
        TOOLS=lambda: objects(Mode.TOOLS, text=TEXT),
        TOOLS_list=lambda: listed(Mode.TOOLS),
        TOOLS_STRICT=lambda: objects(Mode.TOOLS_STRICT, text=TEXT),
        PARALLEL_TOOLS=parallel,
        FUNCTIONS=lambda: objects(Mode.FUNCTIONS, text=TEXT),
        RESPONSES_TOOLS=lambda: objects(Mode.RESPONSES_TOOLS, text=TEXT),
        RESPONSES_TOOLS_WITH_INBUILT_TOOLS=lambda: objects(Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS, text=TEXT),
    )


def errors():
    raises(Exception, lambda: ask(temperature=5), "temperature")
    raises(Exception, lambda: ask(model="no-such"), "no-such")


def key():
    url, right = keyed()
    same(ask(client(url, right)).name, "Ada", "the object")
    raises(Exception, lambda: ask(client(url, "sk-wrong")), "401")


def cancel():
    raise NotTried("it reads the whole stream before it returns the first partial object")


def usage():
    _, raw = client().chat.completions.create_with_completion(
        model=MODEL, messages=user("Who is it? Answer as json."), response_model=Named
    )
    same(raw.usage.total_tokens, raw.usage.prompt_tokens + raw.usage.completion_tokens, "total_tokens")


if __name__ == "__main__":
    run(globals(), "instructor")
