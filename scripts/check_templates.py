"""Renders widely used chat templates on conversations of every shape: does serin render them, and in the
same way as Python's transformers?

    pip install 'transformers==5.23.0' 'jinja2==3.1.6'
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python   # has llama.cpp's models/templates
    cargo build --example render_chats
    python scripts/check_templates.py FOLDER_OF_TEMPLATES [--examples 3]

The templates belong to others and are not stored here; the results are in benches/runs/templates.md. serin
converts each conversation to its canonical form, and transformers gets the same form, so only the rendering
is compared. Run by hand: it takes a minute.
"""

import argparse
import collections
import copy
import datetime
import json
import pathlib
import subprocess
import sys

from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOW = datetime.datetime(2026, 3, 9, 7, 5, 2)
TODAY = int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp())
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
END = "CONTINUE_FINAL_MESSAGE_TAG "


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments='{"city": "Köln", "days": 2}', name="get_weather", **more):
    return {"id": "call_x1Y2z3A4b5C6d7E8f9G0h1", "type": "function",
            "function": {"name": name, "arguments": arguments}, **more}


def without(message, *keys):
    return {k: v for k, v in message.items() if k not in keys}


def tool(**function):
    return {"type": "function", "function": {"name": "get_weather", **function}}


USER, AGAIN = say("user", "Weather in Köln?"), say("user", "And tomorrow?")
ANSWER, SYSTEM = say("assistant", "It is \"fine\" <b>& warm</b>."), say("system", "You are terse.")
CALLS = say("assistant", "", tool_calls=[call()])
RESULT = say("tool", "{\"temp\": 21.5}", tool_call_id="call_x1Y2z3A4b5C6d7E8f9G0h1", name="get_weather")
AFTER = [RESULT, ANSWER, AGAIN]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"},
          "days": {"type": "integer", "default": 1}, "unit": {"type": "string", "enum": ["C", "F"]}},
          "required": ["city"]}
LISTED = {"type": "object", "properties": {"city": {"type": ["string", "null"]}, "days": {"type": "integer"}}}
NESTED = {"type": "object", "properties": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}},
          "tags": {"type": "array", "items": {"type": "string"}}, "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
          "ref": {"$ref": "#/$defs/x"}, "free": {}}}
TOOLS = [tool(description="The weather & more", parameters=SCHEMA)]
PARTS = [{"type": "text", "text": "5?"}, {"type": "text", "text": "Be brief."}]

# name: (messages, tools, ending, extra)
SHAPES = {
    "user": ([USER], None, "reply", {}),
    "user, no generation prompt": ([USER], None, "closed", {}),
    "parts": ([say("user", PARTS)], None, "reply", {}),
    "empty content": ([say("user", "")], None, "reply", {}),
    "space around content": ([say("user", "  hi \n"), say("assistant", "\n ok  "), AGAIN], None, "reply", {}),
    "system": ([SYSTEM, USER], None, "reply", {}),
    "system in parts": ([say("system", PARTS), USER], None, "reply", {}),
    "system later": ([USER, ANSWER, SYSTEM, AGAIN], None, "reply", {}),
    "two systems": ([SYSTEM, say("system", "Be kind."), USER], None, "reply", {}),
    "system only": ([SYSTEM], None, "reply", {}),
    "developer": ([say("developer", "You are terse."), USER], None, "reply", {}),
    "users in a row": ([USER, AGAIN], None, "reply", {}),
    "assistant first": ([ANSWER, USER], None, "reply", {}),
    "assistants in a row": ([USER, ANSWER, ANSWER, AGAIN], None, "reply", {}),
    "turns": ([SYSTEM, USER, ANSWER, AGAIN], None, "reply", {}),
    "assistant last": ([USER, ANSWER], None, "reply", {}),
    "assistant last, closed": ([USER, ANSWER], None, "closed", {}),
    "continued": ([USER, say("assistant", "It is ")], None, "continue", {}),
    "assistant null content": ([USER, say("assistant", None), AGAIN], None, "reply", {}),
    "assistant no content": ([USER, {"role": "assistant"}, AGAIN], None, "reply", {}),
    "tool_calls null": ([USER, say("assistant", "ok", tool_calls=None), AGAIN], None, "reply", {}),
    "tool_calls empty": ([USER, say("assistant", "ok", tool_calls=[]), AGAIN], None, "reply", {}),
    "null keys": ([USER, say("assistant", "ok", name=None, refusal=None, function_call=None), AGAIN], None, "reply", {}),
    "named user": ([say("user", "hi", name="Ann")], None, "reply", {}),
    "reasoning": ([USER, say("assistant", "ok", reasoning_content="hm, 1 < 2"), AGAIN], None, "reply", {}),
    "thinking in content": ([USER, say("assistant", "<think>\nhm\n</think>\n\nok"), AGAIN], None, "reply", {}),
    "enable_thinking false": ([USER], None, "reply", {"enable_thinking": False}),
    "enable_thinking true": ([USER], None, "reply", {"enable_thinking": True}),
    "tools": ([USER], TOOLS, "reply", {}),
    "tools beside system": ([SYSTEM, USER], TOOLS, "reply", {}),
    "tool without parameters": ([USER], [tool(description="d")], "reply", {}),
    "tool without description": ([USER], [tool(parameters=SCHEMA)], "reply", {}),
    "tool with name only": ([USER], [tool()], "reply", {}),
    "tool with null keys": ([USER], [tool(description=None, parameters=None, strict=None)], "reply", {}),
    "type list": ([USER], [tool(description="d", parameters=LISTED)], "reply", {}),
    "nested schema": ([USER], [tool(description="d", parameters=NESTED)], "reply", {}),
    "two tools": ([USER], TOOLS + [tool(description="d", parameters=LISTED)], "reply", {}),
    "call, text arguments": ([USER, CALLS, *AFTER], TOOLS, "reply", {}),
    "call, object arguments": ([USER, say("assistant", "", tool_calls=[call({"city": "Köln", "n": [1, 2.5, None, True]})]), *AFTER], TOOLS, "reply", {}),
    "call, no arguments": ([USER, say("assistant", "", tool_calls=[call("")]), *AFTER], TOOLS, "reply", {}),
    "call, broken arguments": ([USER, say("assistant", "", tool_calls=[call("{broken")]), *AFTER], TOOLS, "reply", {}),
    "call, null content": ([USER, say("assistant", None, tool_calls=[call()]), *AFTER], TOOLS, "reply", {}),
    "call, no content key": ([USER, without(CALLS, "content"), *AFTER], TOOLS, "reply", {}),
    "call with content": ([USER, say("assistant", "Wait.", tool_calls=[call()]), *AFTER], TOOLS, "reply", {}),
    "call with reasoning": ([USER, say("assistant", "", reasoning="hm", tool_calls=[call()]), *AFTER], TOOLS, "reply", {}),
    "call, tools not offered": ([USER, CALLS, *AFTER], None, "reply", {}),
    "call last": ([USER, CALLS], TOOLS, "closed", {}),
    "two calls": ([USER, say("assistant", None, tool_calls=[call(), call("{}", "now", id="call_2")]), RESULT,
                   say("tool", "12:00", tool_call_id="call_2"), ANSWER, AGAIN], TOOLS, "reply", {}),
    "result last": ([SYSTEM, USER, CALLS, RESULT], TOOLS, "reply", {}),
    "result in parts": ([USER, CALLS, say("tool", PARTS, tool_call_id=call()["id"])], TOOLS, "reply", {}),
    "result without content": ([USER, CALLS, without(RESULT, "content")], TOOLS, "reply", {}),
    "result null content": ([USER, CALLS, RESULT | {"content": None}], TOOLS, "reply", {}),
    "result without id and name": ([USER, CALLS, say("tool", "21")], TOOLS, "reply", {}),
    "call without id": ([USER, say("assistant", None, tool_calls=[without(call(), "id")]), say("tool", "21")], TOOLS, "reply", {}),
    "result without call": ([USER, RESULT], None, "reply", {}),
}


def of_serin(template, program):
    """serin's results for all shapes of one template."""
    chats = [{"messages": m, "ending": e, "extra": x, **({"tools": t} if t else {})} for m, t, e, x in SHAPES.values()]
    asked = json.dumps({"template": template, "special": SPECIAL, "today": TODAY, "chats": chats})
    done = subprocess.run([program], input=asked + "\n", capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def of_transformers(template, canonical, goes_on):
    messages = copy.deepcopy(canonical["messages"])
    if goes_on:
        last = messages[-1]
        if isinstance(last["content"], list):
            last["content"][-1]["text"] = last["content"][-1]["text"].removesuffix(END)
        else:
            last["content"] = last["content"].removesuffix(END)
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            [messages], tools=canonical["tools"], chat_template=template, continue_final_message=goes_on,
            add_generation_prompt=canonical["add_generation_prompt"], **SPECIAL, **canonical["extra"])
        return texts[0], None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--program", default=ROOT / "target/debug/examples/render_chats")
    options.add_argument("--examples", type=int, default=0, help="differences to print for each kind")
    asked = options.parse_args()
    chat_template_utils.datetime = FixedTime
    count, by_shape, shown = collections.Counter(), collections.defaultdict(collections.Counter), collections.Counter()
    paths = sorted(asked.folder.glob("*.jinja"))
    for path in paths:
        template = path.read_text()
        ours = of_serin(template, asked.program)
        if "unusable" in ours:
            count["refused at load"] += 1
            print(f"{path.name}: {ours['unusable']}")
            continue
        for (name, (_, _, ending, _)), got in zip(SHAPES.items(), ours["results"]):
            text, error = of_transformers(template, got["canonical"], ending == "continue") if got["canonical"] else (None, "not canonical")
            if text is not None and got.get("text") == text:
                kind = "the same text"
            elif text is not None and "text" in got:
                kind = "another text"
            elif text is not None:
                kind = f"{got['status']} where transformers renders"
            elif "text" in got:
                kind = "text where transformers fails"
            else:
                kind = f"{got['status']}, transformers fails too"
            count[kind] += 1
            by_shape[kind][name] += 1
            if kind not in ("the same text", "400, transformers fails too") and shown[kind] < asked.examples:
                shown[kind] += 1
                print(f"--- {path.name}, {name}: {kind}\n  serin        {got.get('text', got.get('error'))!r}\n  transformers {text!r} {error}", file=sys.stderr)
    print(f"{len(paths)} templates x {len(SHAPES)} shapes")
    for kind, number in count.most_common():
        shapes = ", ".join(f"{name} {n}" for name, n in by_shape[kind].most_common(8)) if kind != "the same text" else ""
        print(f"| {kind} | {number} | {shapes} |")


if __name__ == "__main__":
    main()
