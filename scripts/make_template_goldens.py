"""Writes tests/fixtures/text/template_goldens.json: the output of Python's transformers for the chat
templates in tests/fixtures/text/templates. The Rust renderer must produce these strings byte for byte.

    pip install 'transformers==5.23.0' 'jinja2==3.1.6'
    python scripts/make_template_goldens.py

The templates are written for this project in the style of well-known models; `corners.jinja`
collects features on which template engines disagree. Only the time is replaced: `strftime_now` returns NOW.
"""

import datetime
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text"
NOW = datetime.datetime(2026, 3, 9, 7, 5, 2)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def calls(*functions, content=None):
    made = [{"id": f"call_{i}", "type": "function", "function": {"name": n, "arguments": a}}
            for i, (n, a) in enumerate(functions)]
    return {"role": "assistant", "content": content, "tool_calls": made}


HELLO = [say("user", "Hello!")]
SYSTEM = [say("system", "You are terse."), say("user", "  Was ist 2+2? \n"), say("assistant", "4"),
          say("user", "Grüße, 世界 👩‍👩‍👧 <b>&amp;</b> \"q\" 'q'")]
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather <now> & later: it's \"fine\", 晴れ ☀️",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Where\tto\nlook"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 1},
            "unit": {"enum": ["C", "F", None]}, "precise": {"type": "boolean", "default": False},
            "threshold": {"type": "number", "default": 0.1}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
TOOL_CHAT = [
    say("system", "Use tools."), say("user", "Weather in Köln?"),
    calls(("get_weather", {"city": "Köln", "days": 2, "nested": {"a": [1, 2.5, None, True], "e": {}, "l": []}})),
    say("tool", "{\"temp\": 21.5}", tool_call_id="call_0"), say("tool", "sunny", tool_call_id="call_1"),
    say("assistant", "It is fine."), say("user", "Thanks"),
]
TWO_CALLS = [say("user", "Both?"),
             calls(("now", {}), ("get_weather", {"city": "東京"}), content="One moment."),
             say("tool", "12:00"), say("tool", "rain")]
THINKING = [say("user", "Think."), say("assistant", "<think>\nhm, 1 < 2\n</think>\n\nDone.\n"),
            say("user", "Again."), say("assistant", "Sure.", reasoning_content="\nlonger\n")]
REASONING = [say("user", "Think."), say("assistant", "Sure.", reasoning="because")]
DATA = {"b": 1, "a": [1, 2.0, -0.0, 1e16, 1e-5, 1.5e-7, 123456789012345.6, 1e22, 5e-324, 0.1, 100.0],
        "text": "tab\there \"quoted\" \\ / \b\f\n\r\x01\x1f\x7f é 世 👍 \u2028 </script>",
        "empty": {}, "none": [], "deep": {"z": None, "y": True, "x": [False, {"k": "v"}]}, "": 0,
        "big": 9007199254740993, "neg": -42, "wide": 18446744073709551615}
CORNERS = [say("system", "s"), say("skip", "never"), say("user", "<hi> & 'bye'"), say("user", "again"),
           say("assistant", "ok"), say("user", "more"), say("user", "not shown")]

NAMED = [m | ({"tool_calls": [c | {"id": f"call{i:05}"} for i, c in enumerate(m["tool_calls"])]} if "tool_calls" in m else {})
         for m in TOOL_CHAT]
PLAIN_TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds \"numbers\"", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "description": " first "}, "b": {"type": ["number", "string"]},
                                     "c": {"type": "object"}, "d": {"type": "object", "additionalProperties": {"type": "boolean"}}}}}}]
OLD_TOOLS = [say("system", "s", tools="[{\"name\": \"x\"}]"), say("user", "u")]

# Families by name, each with a plain chat, a system prompt, tools if supported, and a wrong order.
FAMILIES = [(name, messages, options)
            for name, knows_tools in {"llama2": False, "mistral_tools": True, "zephyr": False, "phi3": False, "phi4_mini": False,
                                      "hermes": True, "command_r": True, "deepseek_r1": False, "gemma3": False, "qwen25": True}.items()
            for messages, options in [
                (HELLO, {"tools": PLAIN_TOOLS} if name == "hermes" else {}), (SYSTEM, {"tools": TOOLS[1:]} if name == "hermes" else {}),
                (SYSTEM[1:3], {"add_generation_prompt": False} | ({"tools": PLAIN_TOOLS} if name == "hermes" else {})),
                *([(NAMED, {"tools": PLAIN_TOOLS if name == "hermes" else TOOLS}), (HELLO, {"tools": PLAIN_TOOLS})] if knows_tools else []),
                *([([say("user", "a"), say("user", "b")], {})] if name in ("llama2", "gemma3", "mistral_tools") else []),
                *([(TOOL_CHAT, {}), (THINKING[:3], {})] if name == "deepseek_r1" else []),
                *([(OLD_TOOLS, {})] if name == "phi4_mini" else []),
            ]]

CASES = FAMILIES + [
    ("chatml", HELLO, {}), ("chatml", SYSTEM, {}), ("chatml", SYSTEM, {"add_generation_prompt": False}),
    ("llama3", HELLO, {}), ("llama3", SYSTEM, {}), ("llama3", SYSTEM, {"extra": {"date_string": "1 Jan 2030"}}),
    ("llama3", TOOL_CHAT, {"tools": TOOLS}), ("llama3", TWO_CALLS, {}),
    ("llama3", [say("system", "alone")], {"tools": TOOLS}),
    ("mistral", HELLO, {}), ("mistral", SYSTEM, {}),
    ("mistral", [say("user", "a"), say("user", "b")], {}),
    ("mistral", [say("user", "a"), say("tool", "b")], {}),
    ("qwen", HELLO, {}), ("qwen", SYSTEM, {}), ("qwen", TOOL_CHAT, {"tools": TOOLS}),
    ("qwen", TWO_CALLS, {"tools": TOOLS[1:]}), ("qwen", THINKING, {}), ("qwen", THINKING[:3], {}),
    ("qwen", REASONING, {"add_generation_prompt": False}),
    ("qwen", HELLO, {"extra": {"enable_thinking": False}}), ("qwen", HELLO, {"extra": {"enable_thinking": True}}),
    ("gemma", HELLO, {}), ("gemma", SYSTEM, {}), ("gemma", SYSTEM[1:], {}),
    ("corners", CORNERS, {"extra": {"data": DATA}}),
    ("corners", CORNERS[:3], {"extra": {"data": {}}, "add_generation_prompt": False}),
]


def canonical(message):
    """The form that serin passes to a template: content is always text."""
    return message | ({"content": ""} if message.get("content") is None else {})


def render(template, messages, options):
    messages = [canonical(message) for message in messages]
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [messages], tools=options.get("tools"), chat_template=template,
            add_generation_prompt=options.get("add_generation_prompt", True),
            **SPECIAL, **options.get("extra", {}))
        return {"text": rendered[0]}
    except jinja2.exceptions.TemplateError as refusal:
        return {"refused": str(refusal)}


def main():
    chat_template_utils.datetime = FixedTime
    cases = []
    for name, messages, options in CASES:
        template = (ROOT / "templates" / f"{name}.jinja").read_text()
        cases.append({"template": name, "messages": messages, **options, "expect": render(template, messages, options)})
    formats = ["%d %b %Y", "%Y-%m-%d %H:%M:%S", "%A, %B %-d, %Y", "%a %j %y %I:%M %p", "%e|%%|%F|%T|%D|%R|%h", "%-H%-m"]
    dates = [datetime.datetime(1970, 1, 1), NOW, datetime.datetime(2024, 2, 29, 23, 59, 59),
             datetime.datetime(2000, 12, 31, 12), datetime.datetime(2100, 3, 1, 0, 30), datetime.datetime(1999, 12, 31)]
    goldens = {
        "made_with": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "special": SPECIAL,
        "now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "cases": cases,
        "dates": [{"at": int(d.replace(tzinfo=datetime.timezone.utc).timestamp()), "format": f, "text": d.strftime(f)}
                  for d in dates for f in formats],
    }
    text = json.dumps(goldens, ensure_ascii=False, indent=1)
    (ROOT / "template_goldens.json").write_text(text + "\n")
    print(f"{len(cases)} cases, {len(text)} bytes")


if __name__ == "__main__":
    main()
