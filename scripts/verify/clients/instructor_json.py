"""instructor, mode MD_JSON: an object from a fenced block, checked by its type, and partial objects from a stream."""

import instructor
import openai
from pydantic import BaseModel

from case import KEY, MODEL, V1, NotTried, Refused, keyed, raises, run, same, user


class Person(BaseModel):
    """What is asked for."""

    name: str
    age: int


def client(url=V1, key=KEY or "none", mode=instructor.Mode.MD_JSON):
    return instructor.from_openai(openai.OpenAI(base_url=url, api_key=key, max_retries=0), mode=mode)


def ask(of=None, model=MODEL, **more):
    return (of or client()).chat.completions.create(
        model=model, messages=user("Who is it? Answer as json."), response_model=Person, max_retries=1, **more
    )


def chat():
    same(ask().model_dump(), {"name": "Ada", "age": 36}, "the object")


def stream():
    parts = list(
        client().chat.completions.create_partial(
            model=MODEL, messages=user("Who is it? Answer as json."), response_model=Person
        )
    )
    same((parts[-1].name, parts[-1].age), ("Ada", 36), "the last partial object")


def tools():
    raises(Exception, lambda: ask(client(mode=instructor.Mode.TOOLS)), "tool_choice")
    raise Refused("mode TOOLS forces a tool (tool_choice), which is a 400 that names the field")


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
        model=MODEL, messages=user("Who is it? Answer as json."), response_model=Person
    )
    same(raw.usage.total_tokens, raw.usage.prompt_tokens + raw.usage.completion_tokens, "total_tokens")


if __name__ == "__main__":
    run(globals(), "instructor")
