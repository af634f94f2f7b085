"""openai (Python), chat completions: typed replies, the streaming helper, and its errors."""

import json
import re

import openai

from case import (
    KEY,
    MODEL,
    RESULT,
    STRICT,
    TOOL,
    USER,
    V1,
    each,
    holds,
    keyed,
    raises,
    run,
    said,
    same,
    sees_stream_left,
    user,
)
from shape import ENOUGH, OBJECT, TEXT, TWICE, Clock, Named, Person, Weather, called, chat_tools, fits

client = openai.OpenAI(base_url=V1, api_key=KEY or "none", max_retries=0, **STRICT)
TOOLS = [{"type": "function", "function": TOOL}]


def ask(messages=USER, **more):
    return client.chat.completions.create(model=MODEL, messages=messages, **more)


def chat():
    reply = ask(temperature=0, seed=7)
    same(reply.choices[0].message.content, said.HELLO, "the reply")
    same(reply.choices[0].finish_reason, "stop", "finish_reason")
    same(ask(max_tokens=2).choices[0].finish_reason, "length", "finish_reason of a short reply")
    same(ask(stop=["friend"]).choices[0].message.content, "Hello there, my ", "a stopped reply")
    same(len(ask(n=3).choices), 3, "choices")
    same(ask(user("say-unicode")).choices[0].message.content, said.UNICODE, "a reply beyond ASCII")
    logprobs = ask(logprobs=True, top_logprobs=2).choices[0].logprobs.content
    same("".join(token.token for token in logprobs), said.HELLO, "the tokens of the log-probabilities")
    same(client.models.list().data[0].id, MODEL, "the listed model")
    same(client.models.retrieve(MODEL).id, MODEL, "the model by its id")
    prompt = client.completions.create(model=MODEL, prompt="Good morning.", max_tokens=30)
    same(prompt.choices[0].text, said.HELLO, "the completion")


def stream():
    for name, text in (("hello", said.HELLO), ("say-unicode", said.UNICODE), ("say-lines", said.LINES)):
        chunks = list(ask(user(name), stream=True))
        same("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), text, "the streamed reply")
        same([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop", "finish_reason")
        same(len({c.id for c in chunks}), 1, "ids in a stream")
    with client.chat.completions.stream(model=MODEL, messages=USER) as events:
        final = events.get_final_completion()
    same(final.choices[0].message.content, said.HELLO, "what the streaming helper gathers")


def calls_of(stream_):
    """The calls of a streamed reply, put together from their parts."""
    calls = {}
    for chunk in stream_:
        for part in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            call = calls.setdefault(part.index, {"arguments": ""})
            call["id"] = part.id or call.get("id")
            call["name"] = part.function.name or call.get("name")
            call["arguments"] += part.function.arguments or ""
    return [calls[index] for index in sorted(calls)]


def tools():
    first = ask(tools=TOOLS)
    same(first.choices[0].finish_reason, "tool_calls", "finish_reason")
    (call,) = first.choices[0].message.tool_calls
    same((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Paris"}), "the call")
    history = USER + [
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": RESULT},
    ]
    same(ask(history, tools=TOOLS).choices[0].message.content, said.ANSWER, "the answer")
    streamed = calls_of(ask(user("say-twice"), tools=TOOLS, stream=True))
    same(
        [(c["name"], json.loads(c["arguments"])["city"]) for c in streamed],
        [("get_weather", "Paris"), ("get_weather", "Rome")],
        "streamed calls",
    )
    holds(len({c["id"] for c in streamed}) == 2, "two calls need two ids")
    parts = ask(history, tools=TOOLS, stream=True)
    same("".join(c.choices[0].delta.content or "" for c in parts if c.choices), said.ANSWER, "the streamed answer")


def parsed(**more):
    """A typed reply by the library's own helper."""
    reply = client.chat.completions.parse(
        model=MODEL, messages=user("Who is it? parse"), response_format=Person, max_tokens=ENOUGH, **more
    )
    for choice in reply.choices:
        same(choice.finish_reason, "stop", "finish_reason")
        fits(choice.message.content)
        holds(isinstance(choice.message.parsed, Person), "nothing was parsed")
    return reply.choices


def parsed_stream():
    with client.chat.completions.stream(
        model=MODEL, messages=user("Who is it? stream"), response_format=Person, max_tokens=ENOUGH
    ) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion().choices[0].message
    same(final.content, text, "what the deltas add up to")
    fits(text)
    holds(isinstance(final.parsed, Person), "nothing was parsed")


def said_with(text="Who is it?", **more):
    """The text of a whole reply."""
    choice = ask(user(text), max_tokens=ENOUGH, **more).choices[0]
    same(choice.finish_reason, "stop", "finish_reason")
    return choice.message.content


def some_json():
    return fits(said_with(OBJECT, response_format={"type": "json_object"}), Named)


def loose_schema():
    wanted = {"name": "person", "schema": Person.model_json_schema()}
    return fits(said_with("not strict", response_format={"type": "json_schema", "json_schema": wanted}))


def extra(fields, check):
    """A case of a field that the library does not know."""
    return lambda: check(said_with(f"Who is it? {next(iter(fields))}", extra_body=fields))


def extras():
    """The constraints of vLLM and llama-server."""
    person, choice, regex = Person.model_json_schema(), ["north", "south"], "[a-c]{2,4}-[0-9]"
    grammar = 'root ::= "yes" | "no" [0-9]'

    def one_of(text):
        holds(text in choice, f"{text!r} is not one of {choice}")

    def by_pattern(text):
        holds(re.fullmatch(regex, text), f"{text!r} does not match {regex}")

    def by_grammar(text):
        holds(re.fullmatch("yes|no[0-9]", text), f"{text!r} does not fit the grammar")

    wanted = {"json": (person, fits), "choice": (choice, one_of), "regex": (regex, by_pattern)}
    wanted["grammar"] = (grammar, by_grammar)
    found = {name: extra({"structured_outputs": {name: value}}, check) for name, (value, check) in wanted.items()}
    found |= {f"guided_{name}": extra({f"guided_{name}": value}, check) for name, (value, check) in wanted.items()}
    found["json_schema_field"] = extra({"json_schema": person}, fits)
    found["grammar_field"] = extra({"grammar": grammar}, by_grammar)
    return found


def schema():
    each(
        parse=parsed,
        two=lambda: same(len(parsed(n=2)), 2, "choices"),
        stream=parsed_stream,
        loose=loose_schema,
        json_object=some_json,
        **extras(),
    )


STRICT_TOOLS = [
    openai.pydantic_function_tool(Weather, name="get_weather"),
    openai.pydantic_function_tool(Clock, name="get_time"),
]


def forced_call(choice, allowed, text=TEXT, **more):
    """One call of one of the allowed tools, whole and streamed; the model by itself would say something else."""
    more = dict(tools=chat_tools(), tool_choice=choice, max_tokens=ENOUGH) | more
    reply = ask(user(text), **more).choices[0]
    holds(reply.finish_reason in ("tool_calls", "stop"), f"finish_reason {reply.finish_reason}")
    streamed = calls_of(ask(user(text), stream=True, **more))
    calls = [(call.function.name, call.function.arguments) for call in reply.message.tool_calls]
    holds(calls and streamed, "there was no call")
    for name, arguments in calls + [(call["name"], call["arguments"]) for call in streamed]:
        called(name, arguments, allowed)
    return len(calls), len(streamed)


def parsed_call(**more):
    """A strict tool's arguments, parsed by the library; without a tool_choice the scripted model calls get_weather."""
    reply = client.chat.completions.parse(
        model=MODEL, messages=user("strict tools"), tools=STRICT_TOOLS, max_tokens=ENOUGH, **more
    )
    (call,) = reply.choices[0].message.tool_calls
    called(call.function.name, call.function.arguments)
    holds(isinstance(call.function.parsed_arguments, (Weather, Clock)), "the arguments were not parsed")


def streamed_call():
    with client.chat.completions.stream(
        model=MODEL, messages=user(TEXT), tools=STRICT_TOOLS, tool_choice="required", max_tokens=ENOUGH
    ) as events:
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    for event in done:
        called(event.name, event.arguments)
    holds(done, "there was no call")


def only(*names):
    """A tool_choice that allows some of the tools."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": tools}}


def forced():
    both, named = ("get_weather", "get_time"), {"type": "function", "function": {"name": "get_time"}}
    each(
        required=lambda: forced_call("required", both),
        named=lambda: same(forced_call(named, ("get_time",)), (1, 1), "calls"),
        allowed=lambda: forced_call(only("get_time"), ("get_time",)),
        one=lambda: same(forced_call("required", both, TWICE, parallel_tool_calls=False), (1, 1), "calls"),
        strict=parsed_call,
        strict_required=lambda: parsed_call(tool_choice="required", parallel_tool_calls=False),
        stream=streamed_call,
    )


def errors():
    bad = raises(openai.BadRequestError, lambda: ask(temperature=5), "temperature")
    same((bad.param, bad.type), ("temperature", "invalid_request_error"), "param and type of the error")
    lost = raises(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such", messages=USER))
    same(lost.code, "model_not_found", "code of the error")
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such"))
    raises(openai.BadRequestError, lambda: ask(user("word " * 20000)), "context")
    raises(openai.BadRequestError, lambda: ask(stream=True, temperature=5), "temperature")


def key():
    url, right = keyed()
    with_key = openai.OpenAI(base_url=url, api_key=right, max_retries=0)
    same(with_key.chat.completions.create(model=MODEL, messages=USER).choices[0].message.content, said.HELLO, "reply")
    wrong = openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: wrong.chat.completions.create(model=MODEL, messages=USER))


def cancel():
    sees_stream_left(lambda: ask(user("say-long"), stream=True, max_tokens=4000))


def usage():
    whole = ask().usage
    same(whole.total_tokens, whole.prompt_tokens + whole.completion_tokens, "total_tokens")
    holds(whole.prompt_tokens_details.cached_tokens >= 0, "cached_tokens")
    last = list(ask(stream=True, stream_options={"include_usage": True}))[-1]
    same(
        (last.usage.prompt_tokens, last.usage.completion_tokens),
        (whole.prompt_tokens, whole.completion_tokens),
        "the usage of a stream",
    )
    same(last.choices, [], "choices of the event with the usage")


if __name__ == "__main__":
    run(globals(), "openai")
