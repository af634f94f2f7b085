"""What the rows `schema` and `forced` ask for: small types, and checks of what came back that no client has done.

All texts and lists are bounded, so that a model without sense comes to an end within the tokens that it is given.
"""

import json
from typing import Annotated, Literal

import jsonschema
from pydantic import BaseModel, ConfigDict, Field

from case import holds, same

ENOUGH = 1000
Text = Annotated[str, Field(max_length=12)]


class Closed(BaseModel):
    """A type without other keys than its own."""

    model_config = ConfigDict(extra="forbid")


class Home(Closed):
    """Where somebody lives."""

    city: Text
    zip: Annotated[int, Field(ge=0, le=99999)]


class Person(Closed):
    """A person; of each kind of type one: a constant, an enum, bounds, a list, a definition and null."""

    kind: Literal["person"]
    name: Text
    age: Annotated[int, Field(ge=0, le=150)]
    mood: Literal["calm", "glad"]
    adult: bool
    tags: Annotated[list[Literal["red", "green"]], Field(max_length=3)]
    home: Home
    nick: Text | None


# For modes that only ask for some JSON: the scripted model makes it by itself, asked with OBJECT. That must not be
# in the description, which such modes put into the prompt.
class Named(Closed):
    """A person's name and age."""

    name: str
    age: int


class Mood(Closed):
    """What needs no bounds: Anthropic's libraries leave them out of the schemas that they send."""

    kind: Literal["mood"]
    mood: Literal["calm", "glad"]
    adult: bool
    tags: list[Literal["red", "green"]]
    nick: Literal["a", "b"] | None


# `unit` is not in the call that the scripted model makes by itself.
class Weather(Closed):
    """The weather of a city."""

    city: Text
    unit: Literal["celsius", "fahrenheit"]


class Clock(Closed):
    """The time in a zone."""

    zone: Literal["utc", "cet"]


TOOLS = {"get_weather": Weather, "get_time": Clock}
# A conversation with these words leads the scripted model to a text, to its own object, or to two calls.
TEXT, OBJECT, TWICE = "say-lines", "say-object", "say-twice"


def function(name, **more):
    """One of the tools, as a function of OpenAI's API."""
    kind = TOOLS[name]
    return {"name": name, "description": kind.__doc__, "parameters": kind.model_json_schema(), **more}


def chat_tools(**more):
    """All tools as the Chat Completions API has them."""
    return [{"type": "function", "function": function(name, **more)} for name in TOOLS]


def response_tools(strict=False):
    """All tools as the Responses API has them."""
    return [{"type": "function", **function(name, strict=strict)} for name in TOOLS]


def fits(value, kind=Person):
    """Checks a value, or its JSON, against the schema of a type, with a validator that no client uses."""
    value = json.loads(value) if isinstance(value, str) else value
    value = value.model_dump() if isinstance(value, BaseModel) else value
    jsonschema.Draft202012Validator(kind.model_json_schema()).validate(value)
    same(sorted(value), sorted(kind.model_fields), "the keys")
    return value


def called(name, arguments, allowed=tuple(TOOLS)):
    """Checks a call: one of these tools, with arguments that fit it."""
    holds(name in allowed, f"{name} was called, not {' or '.join(allowed)}")
    return fits(arguments, TOOLS[name])
