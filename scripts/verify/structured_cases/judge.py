"""The validator of the replies: Python's `jsonschema`, with the patterns of ECMA-262 and nothing fetched.

A `format` is judged if the server says that it enforces it; others are annotations (docs/api-fields.md). A reply must
also be JSON that other parsers take: no lone surrogates, no NaN.
"""

import fractions
import json
import re

import jsonschema
import jsonschema._keywords
import jsonschema._legacy_keywords
import jsonschema._utils
import referencing
import referencing.jsonschema
import regex

ENFORCED = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
LINE_ENDS = r"\n\r\u2028\u2029"
CLASSES = {
    "d": "0-9",
    "w": "A-Za-z0-9_",
    "s": rf"{LINE_ENDS}\t\v\f \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\ufeff",
}


def ecma(pattern):
    """A pattern of ECMA-262 for `regex`: `\\d` and `\\w` are ASCII, `$` is the end alone, `.` no end of a line."""
    places = {"$": r"\Z", ".": f"[^{LINE_ENDS}]"}
    found, inside, at = [], False, 0
    while at < len(pattern):
        one, two = pattern[at], pattern[at : at + 2]
        if one == "\\":
            name, at = two[1:], at + 2
            if name.lower() not in CLASSES or (inside and name.isupper()):
                found.append(two)
            elif inside:
                found.append(CLASSES[name])
            else:
                found.append(f"[{'^' if name.isupper() else ''}{CLASSES[name.lower()]}]")
            continue
        inside = (inside or one == "[") and not (inside and one == "]")
        found.append(one if inside else places.get(one, one))
        at += 1
    return "".join(found)


class Patterns:
    """Stands in for `re` in jsonschema."""

    def __getattr__(self, name):
        return getattr(re, name)

    @staticmethod
    def search(pattern, text, flags=0):
        return regex.search(ecma(pattern), text, flags)


for module in (jsonschema._keywords, jsonschema._legacy_keywords, jsonschema._utils):
    module.re = Patterns()


def no_constant(name):
    raise ValueError(f"{name} is no JSON")


def parsed(text, pairs=dict):
    """The value of a reply; raises ValueError if it is not JSON for all. Of a key that is repeated, the last counts."""
    text.encode()
    value = json.loads(text, parse_constant=no_constant, parse_float=Written, object_pairs_hook=pairs)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def repeats(text):
    """Whether an object of a reply has a key twice: RFC 8259 only advises against it."""
    found = []
    parsed(text, lambda pairs: found.append(len(dict(pairs)) < len(pairs)) or dict(pairs))
    return any(found)


class Written(float):
    """A number and how it was written."""

    def __new__(cls, text):
        number = super().__new__(cls, text)
        number.text = text
        return number


def multiple_of(judge, divisor, value, _schema):
    """As written in decimal: 726.16 is a multiple of 0.0001, which it is not in binary."""
    of = lambda number: fractions.Fraction(getattr(number, "text", None) or str(number))
    if judge.is_type(value, "number") and (of(value) / of(divisor)).denominator != 1:
        yield jsonschema.ValidationError(f"{value} is not a multiple of {divisor}")


def validator(schema, remotes=()):
    """By the draft that the schema names, else 2020-12. `remotes`: pairs of address and schema."""
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    default = referencing.jsonschema.specification_with(kind.META_SCHEMA["$schema"])
    resources = [(at, referencing.Resource.from_contents(one, default_specification=default)) for at, one in remotes]
    registry = referencing.Registry().with_resources(resources)
    formats = jsonschema.FormatChecker(formats=())
    formats.checkers = {name: jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers[name] for name in ENFORCED}
    kind = jsonschema.validators.extend(kind, {"multipleOf": multiple_of})
    return kind(schema, format_checker=formats, registry=registry)


def wrong(text, judge):
    """Why a reply is not valid, or None. Raises what the validator raises if it cannot judge."""
    try:
        value = parsed(text)
    except ValueError as error:
        return f"no JSON: {error}"
    error = jsonschema.exceptions.best_match(judge.iter_errors(value))
    return error and f"{error.json_path}: {error.message}"[:300]
