"""openai (Python), the Responses API: typed items, the event sequence, and tools with a history of items."""

import json

import openai

from case import KEY, MODEL, RESULT, STRICT, TOOL, V1, each, holds, keyed, raises, run, said, same, sees_stream_left
from shape import ENOUGH, OBJECT, TEXT, TWICE, Clock, Named, Person, Weather, called, fits, response_tools

client = openai.OpenAI(base_url=V1, api_key=KEY or "none", max_retries=0, **STRICT)
TOOLS = [{"type": "function", "strict": False, **TOOL}]
BEGINNING = ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
END = ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]


def ask(words="Good morning.", **more):
    return client.responses.create(model=MODEL, input=words, **more)


def chat():
    reply = ask(instructions="Be brief.", temperature=0)
    same((reply.output_text, reply.status, reply.object), (said.HELLO, "completed", "response"), "the response")
    holds(reply.id.startswith("resp_") and reply.output[0].id.startswith("msg_"), "prefixes of the ids")
    short = ask(max_output_tokens=2)
    same((short.status, short.incomplete_details.reason), ("incomplete", "max_output_tokens"), "a short response")
    items = [{"role": "user", "content": [{"type": "input_text", "text": "say-unicode"}]}]
    same(ask(items).output_text, said.UNICODE, "the response to items")
    same(ask(metadata={"a": "b"}).metadata, {"a": "b"}, "metadata")


def stream():
    events = list(ask(stream=True))
    kinds = [event.type for event in events]
    same(kinds[:4], BEGINNING, "the first events")
    same(kinds[-4:], END, "the last events")
    same([event.sequence_number for event in events], list(range(len(events))), "sequence numbers")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    same((text, events[-1].response.output_text), (said.HELLO, said.HELLO), "the text")
    same(list(ask(stream=True, max_output_tokens=2))[-1].type, "response.incomplete", "the end of a short stream")
    with client.responses.stream(model=MODEL, input="Good morning.") as helper:
        for _ in helper:
            pass
        same(helper.get_final_response().output_text, said.HELLO, "what the streaming helper gathers")


def tools():
    first = ask(tools=TOOLS)
    call = next(item for item in first.output if item.type == "function_call")
    same((call.name, json.loads(call.arguments)), ("get_weather", {"city": "Paris"}), "the call")
    history = [
        {"role": "user", "content": "Good morning."},
        *(i.model_dump(exclude_none=True) for i in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": RESULT},
    ]
    same(ask(history, tools=TOOLS).output_text, said.ANSWER, "the answer")
    events = list(ask("say-twice", tools=TOOLS, stream=True))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    same([json.loads(event.arguments)["city"] for event in done], ["Paris", "Rome"], "streamed calls")
    deltas = "".join(
        e.delta for e in events if e.type == "response.function_call_arguments.delta" and e.item_id == done[0].item_id
    )
    same(deltas, done[0].arguments, "deltas of the arguments")


def parsed():
    reply = client.responses.parse(model=MODEL, input="Who is it? parse", text_format=Person, max_output_tokens=ENOUGH)
    same((reply.status, reply.text.format.type), ("completed", "json_schema"), "status and format")
    fits(reply.output_text)
    holds(isinstance(reply.output_parsed, Person), "nothing was parsed")


def parsed_stream():
    with client.responses.stream(
        model=MODEL, input="Who is it? stream", text_format=Person, max_output_tokens=ENOUGH
    ) as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    same(final.output_text, text, "what the deltas add up to")
    fits(text)
    holds(isinstance(final.output_parsed, Person), "nothing was parsed")


def with_format(text, kind, **wanted):
    fits(ask(text, text={"format": wanted}, max_output_tokens=ENOUGH).output_text, kind)


def schema():
    loose = {"type": "json_schema", "name": "person", "schema": Person.model_json_schema()}
    each(
        parse=parsed,
        stream=parsed_stream,
        loose=lambda: with_format("not strict", Person, **loose),
        json_object=lambda: with_format(OBJECT, Named, type="json_object"),
    )


def calls_in(items, allowed):
    """The calls among these items, checked."""
    calls = [item for item in items if item.type == "function_call"]
    for call in calls:
        called(call.name, call.arguments, allowed)
    holds(calls, "there was no call")
    return len(calls)


def forced_call(choice, *allowed, text=TEXT, **more):
    """Calls of the allowed tools, whole and streamed; the model by itself would say something else."""
    more = dict(tools=response_tools(), tool_choice=choice, max_output_tokens=ENOUGH) | more
    whole = calls_in(ask(text, **more).output, allowed)
    last = list(ask(text, stream=True, **more))[-1]
    same(last.type, "response.completed", "the last event")
    return whole, calls_in(last.response.output, allowed)


def parsed_call(**more):
    """A strict tool's arguments, parsed by the library; without a tool_choice the scripted model calls get_weather."""
    tools = [
        openai.pydantic_function_tool(kind, name=name) for name, kind in (("get_weather", Weather), ("get_time", Clock))
    ]
    reply = client.responses.parse(model=MODEL, input="strict tools", tools=tools, max_output_tokens=ENOUGH, **more)
    calls_in(reply.output, ("get_weather", "get_time"))
    (call,) = (item for item in reply.output if item.type == "function_call")
    holds(isinstance(call.parsed_arguments, (Weather, Clock)), "the arguments were not parsed")


def forced():
    both, named = ("get_weather", "get_time"), {"type": "function", "name": "get_time"}
    some = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    each(
        required=lambda: forced_call("required", *both),
        named=lambda: same(forced_call(named, "get_time"), (1, 1), "calls"),
        allowed=lambda: forced_call(some, "get_time"),
        one=lambda: same(forced_call("required", *both, text=TWICE, parallel_tool_calls=False), (1, 1), "calls"),
        strict=parsed_call,
        strict_required=lambda: parsed_call(tool_choice="required", parallel_tool_calls=False),
    )


def errors():
    raises(openai.BadRequestError, lambda: ask(temperature=5), "temperature")
    raises(openai.NotFoundError, lambda: client.responses.create(model="no-such", input="x"))
    raises(openai.NotFoundError, lambda: client.responses.retrieve("resp_1"))
    raises(openai.BadRequestError, lambda: ask(previous_response_id="resp_1"), "previous_response_id")
    raises(openai.BadRequestError, lambda: ask("word " * 20000), "context")


def key():
    url, right = keyed()
    with_key = openai.OpenAI(base_url=url, api_key=right, max_retries=0)
    same(with_key.responses.create(model=MODEL, input="x").output_text, said.HELLO, "the reply")
    wrong = openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: wrong.responses.create(model=MODEL, input="x"))


def cancel():
    sees_stream_left(lambda: ask("say-long", stream=True, max_output_tokens=4000))


def usage():
    whole = ask().usage
    same(whole.total_tokens, whole.input_tokens + whole.output_tokens, "total_tokens")
    holds(
        whole.input_tokens_details.cached_tokens >= 0 and whole.output_tokens_details.reasoning_tokens == 0,
        "the details",
    )
    last = list(ask(stream=True))[-1].response.usage
    same((last.input_tokens, last.output_tokens), (whole.input_tokens, whole.output_tokens), "the usage of a stream")


if __name__ == "__main__":
    run(globals(), "openai")
