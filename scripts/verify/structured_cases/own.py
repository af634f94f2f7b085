"""JSON schemas as users send them: what pydantic and zod write, and what people write by hand.

Each is bounded, so that a model that draws at random ends within 300 tokens (see `TOKENS` for those that need more).
"""

DRAFT7 = "http://json-schema.org/draft-07/schema#"
DRAFT2020 = "https://json-schema.org/draft/2020-12/schema"
BOOL, NULL = {"type": "boolean"}, {"type": "null"}


def obj(properties, required=None, **more):
    """An object; all properties are required unless they are named."""
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, **more}


def closed(properties, required=None, **more):
    return obj(properties, required, additionalProperties=False, **more)


def text(most=8, **more):
    return {"type": "string", "maxLength": most, **more}


def whole(low=0, high=99, **more):
    return {"type": "integer", "minimum": low, "maximum": high, **more}


def some(items, most=3, least=0, **more):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, **more}


def one_of(*values):
    return {"enum": list(values)}


def matches(pattern):
    return {"type": "string", "pattern": pattern}


def format_of(name):
    return {"type": "string", "format": name}


def maybe(schema):
    """What pydantic writes for Optional[..]."""
    return {"anyOf": [schema, NULL], "default": None}


def nested(depth):
    """Objects in objects, a name each."""
    found = whole()
    for level in range(depth):
        found = closed({f"d{level}": found})
    return found


def lists(depth):
    found = BOOL
    for _ in range(depth):
        found = some(found, 1, 1)
    return found


SMALL = matches("^[a-z]{1,6}$")
ADDRESS = closed({"street": text(10), "zip": matches("^[0-9]{5}$")}, title="Address")
CAT = closed({"kind": {"const": "cat"}, "lives": whole(1, 9)})
DOG = closed({"kind": {"const": "dog"}, "good": BOOL})
BIRD = closed({"kind": {"const": "bird"}, "wings": one_of(0, 1, 2)})

PLAIN = {
    "integer in an object": obj({"n": whole()}),
    "two fields": obj({"name": text(), "age": whole(0, 130)}),
    "closed": closed({"name": text(), "ok": BOOL}),
    "optional fields": obj({"a": whole(), "b": text(), "c": BOOL}, ["a"]),
    "no field required": closed({"a": whole(), "b": BOOL, "c": NULL}, []),
    "titles and descriptions": obj({"city": text(title="City", description="Where?")}, title="Answer",
                                   description="An answer."),
    "top-level boolean": BOOL,
    "top-level null": NULL,
    "top-level string": text(10),
    "top-level integer": whole(-50, 50),
    "top-level array": some(whole(), 4, 1),
    "top-level enum": one_of("yes", "no", "maybe"),
    "top-level const": {"const": {"a": [1, None, "x"]}},
    "two types": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    "types in a field": obj({"v": {"type": ["boolean", "null"]}}),
    "empty object": closed({}),
    "empty array": {"type": "array", "maxItems": 0},
    "names draft 7": closed({"a": whole(), "b": BOOL}, **{"$schema": DRAFT7}),
    "names draft 2020-12": closed({"a": whole(), "b": BOOL}, **{"$schema": DRAFT2020}),
    "examples and defaults": closed({"a": whole(default=3, examples=[1, 2])}),
    "read only and deprecated": closed({"a": whole(readOnly=True), "b": {**BOOL, "deprecated": True}}),
}

NESTED = {
    "person with address": closed({"name": text(), "home": {"$ref": "#/$defs/Address"}},
                                  **{"$defs": {"Address": ADDRESS}}),
    "definitions of draft 7": closed({"home": {"$ref": "#/definitions/A"}}, definitions={"A": ADDRESS},
                                     **{"$schema": DRAFT7}),
    "two references to one": closed({"a": {"$ref": "#/$defs/P"}, "b": {"$ref": "#/$defs/P"}},
                                    **{"$defs": {"P": closed({"x": whole(), "y": whole()})}}),
    "reference chain": {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": closed({"x": BOOL})}},
    "list of objects": closed({"items": some(closed({"id": whole(), "ok": BOOL}), 3, 1)}),
    "list of lists": some(some(whole(0, 9), 3, 1), 3, 1),
    "depth 6": nested(6),
    "depth 12": nested(12),
    "arrays to depth 12": lists(12),
    "tree": {"$ref": "#/$defs/T", "$defs": {"T": closed({"v": whole(0, 9), "kids": some({"$ref": "#/$defs/T"}, 1)})}},
    "tree at the root": closed({"v": BOOL, "next": {"anyOf": [{"$ref": "#"}, NULL]}}),
    "linked list, optional": closed({"v": whole(0, 9), "next": {"$ref": "#"}}, ["v"]),
    "mutual recursion": {"$ref": "#/$defs/A", "$defs": {
        "A": closed({"b": {"anyOf": [{"$ref": "#/$defs/B"}, NULL]}}),
        "B": closed({"a": {"anyOf": [{"$ref": "#/$defs/A"}, NULL]}}),
    }},
    "expression": {"$ref": "#/$defs/E", "$defs": {"E": {"anyOf": [
        whole(0, 9), closed({"op": one_of("+", "-"), "l": whole(0, 9), "r": {"$ref": "#/$defs/E"}})]}}},
    "escaped pointer": closed({"a": {"$ref": "#/$defs/x~1y"}}, **{"$defs": {"x/y": BOOL}}),
    "percent in a pointer": closed({"a": {"$ref": "#/$defs/x%20y"}}, **{"$defs": {"x y": BOOL}}),
    "anchor": closed({"a": {"$ref": "#here"}}, **{"$defs": {"h": {"$anchor": "here", "type": "boolean"}}}),
    "id and a reference to it": closed({"a": {"$ref": "https://example.com/h"}},
                                       **{"$defs": {"h": {"$id": "https://example.com/h", "type": "boolean"}}}),
}

CHOICES = {
    "optional of pydantic": obj({"name": maybe(text()), "age": maybe(whole())}, []),
    "optional model": closed({"home": maybe({"$ref": "#/$defs/A"})}, **{"$defs": {"A": ADDRESS}}),
    "nullable enum": closed({"e": {"anyOf": [one_of("a", "b"), NULL]}}),
    "anyOf of types": closed({"v": {"anyOf": [whole(), BOOL, SMALL]}}),
    "anyOf of objects": {"anyOf": [closed({"a": whole()}), closed({"b": BOOL})]},
    "oneOf by a const": {"oneOf": [CAT, DOG, BIRD]},
    "oneOf by a const, pydantic": closed({"pet": {
        "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/C", "dog": "#/$defs/D"}},
        "oneOf": [{"$ref": "#/$defs/C"}, {"$ref": "#/$defs/D"}]}}, **{"$defs": {"C": CAT, "D": DOG}}),
    "anyOf by a const, zod": some({"anyOf": [CAT, DOG, BIRD]}, 2, 1),
    "oneOf of types": {"oneOf": [whole(), {"type": "null"}, BOOL]},
    "oneOf of enums": {"oneOf": [one_of("a", "b"), one_of("c", "d")]},
    "oneOf of required": closed({"a": whole(0, 9), "b": whole(0, 9)}, [],
                                oneOf=[{"required": ["a"]}, {"required": ["b"]}]),
    "enum of mixed values": one_of(1, "1", True, None, 1.5, [1], {"a": 1}),
    "enum with a type": {"type": "string", "enum": ["red", "green", "blue"]},
    "enum of numbers": {"type": "integer", "enum": [1, 2, 3, 5, 8, 13]},
    "enum of 300": one_of(*(f"country-{i}" for i in range(300))),
    "enum with common prefixes": one_of("a", "aa", "aaa", "ab", "aab", "abc"),
    "enum of hard texts": one_of("", " ", '"', "\\", "\n", "\t", "é", "日本", "😀", "</s>", "\u2028"),
    "const of each kind": closed({"a": {"const": 1}, "b": {"const": "x"}, "c": {"const": None}, "d": {"const": []}}),
    "allOf of two objects": {"allOf": [obj({"a": whole(0, 9)}), obj({"b": BOOL})]},
    "allOf of two references": {"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {
        "A": obj({"a": whole(0, 9)}), "B": obj({"b": BOOL})}},
    "allOf that narrows": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 7}]},
    "allOf around one reference": closed({"a": {"allOf": [{"$ref": "#/$defs/A"}], "description": "pydantic 1"}},
                                         **{"$defs": {"A": ADDRESS}}),
    "anyOf in allOf": {"type": "object", "allOf": [obj({"a": BOOL}), {"anyOf": [obj({"b": BOOL}), obj({"c": BOOL})]}]},
    "if, then, else": obj({"a": BOOL}, **{"if": obj({"a": {"const": True}}), "then": {"required": ["b"]}}),
    "not": {"type": "integer", "minimum": 0, "maximum": 9, "not": {"const": 5}},
    "dependentRequired": obj({"a": BOOL, "b": BOOL}, [], dependentRequired={"a": ["b"]}),
}

ARRAYS = {
    "exactly three": some(whole(0, 9), 3, 3),
    "at least one": some(BOOL, 5, 1),
    "a tuple": {"type": "array", "prefixItems": [whole(), BOOL, SMALL], "items": False, "minItems": 3},
    "a tuple of pydantic": {"type": "array", "prefixItems": [whole(), BOOL], "minItems": 2, "maxItems": 2},
    "a tuple and more": {"type": "array", "prefixItems": [SMALL], "items": BOOL, "maxItems": 4},
    "a tuple of draft 7": {"$schema": DRAFT7, "type": "array", "items": [whole(), BOOL], "additionalItems": False},
    "a tuple of draft 7 and more": {"$schema": DRAFT7, "type": "array", "items": [BOOL], "additionalItems": whole(0, 9),
                                    "maxItems": 4},
    "unique items": some(one_of("a", "b", "c"), 3, 1, uniqueItems=True),
    "unique items: false": some(BOOL, 3, 1, uniqueItems=False),
    "contains": some(whole(0, 9), 4, 1, contains={"const": 7}),
    "matrix": closed({"m": some(some(whole(0, 1), 2, 2), 2, 2)}),
}

NUMBERS = {
    "bounds": closed({"p": {"type": "number", "minimum": 0, "maximum": 1}}),
    "exclusive bounds": closed({"n": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}}),
    "exclusive bounds of a number": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5},
    "negative bounds": {"type": "number", "minimum": -2.75, "maximum": -0.125},
    "bounds around zero": {"type": "number", "minimum": -0.5, "maximum": 0.5},
    "large bounds": whole(-9007199254740991, 9007199254740991),
    "beyond 64 bits": whole(0, 18446744073709551616),
    "small bounds": {"type": "number", "minimum": 1e-7, "maximum": 2e-7},
    "one bound": closed({"n": {"type": "integer", "minimum": 1000}}),
    "multiple of 5": whole(0, 500, multipleOf=5),
    "multiple of 0.25": {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.25},
    "multiple of 0.01": {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.01},
    "minimum is maximum": whole(7, 7),
    "bounds as floats": {"type": "integer", "minimum": 1.5, "maximum": 4.5},
}

TEXTS = {
    "lengths": text(6, minLength=2),
    "length exactly": matches("^.{4}$"),
    "lengths in code points": {"type": "string", "minLength": 3, "maxLength": 3},
    "pattern": matches("^[A-Z]{3}-[0-9]{4}$"),
    "pattern without anchors": {"type": "string", "pattern": "[0-9]{3}", "maxLength": 12},
    "pattern with an alternation": matches("^(foo|ba[rz])$"),
    "pattern with an open alternation": {"type": "string", "pattern": "^foo|bar$", "maxLength": 12},
    "pattern with digits": matches(r"^\d{3}$"),
    "pattern with words": matches(r"^\w{2,5}$"),
    "pattern with space": matches(r"^a\sb$"),
    "pattern of a version": matches(r"^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$"),
    "pattern of a colour": matches("^#[0-9a-fA-F]{6}$"),
    "pattern of a telephone": matches(r"^\+?[1-9][0-9]{6,13}$"),
    "pattern with quotes": matches('^"[a-z]{2}"\\\\$'),
    "pattern and lengths": {"type": "string", "pattern": "^[ab]*$", "minLength": 3, "maxLength": 5},
    "pattern with a dot": matches("^a.b$"),
    "pattern with unicode": matches("^[α-ω]{3}$"),
    "pattern with a negated class": matches("^[^a-z]{3}$"),
    "date": closed({"d": format_of("date")}),
    "time": closed({"t": format_of("time")}),
    "date-time": closed({"t": format_of("date-time")}),
    "uuid": closed({"id": format_of("uuid")}),
    "email": closed({"to": {**format_of("email"), "maxLength": 30}}),
    "ipv4": closed({"ip": format_of("ipv4")}),
    "ipv6": closed({"ip": format_of("ipv6")}),
    "uri": closed({"at": {**format_of("uri"), "maxLength": 30}}),
    "duration": closed({"for": {**format_of("duration"), "maxLength": 12}}),
    "hostname": closed({"host": {**format_of("hostname"), "maxLength": 20}}),
    "an unknown format": closed({"p": {**text(6), "format": "path"}}),
    "format and pattern": {"type": "string", "format": "date", "pattern": "^2024-02-"},
    "two dates": closed({"from": format_of("date"), "to": maybe(format_of("date"))}),
}

MAPS = {
    "map of integers": {"type": "object", "additionalProperties": whole(0, 9), "maxProperties": 3},
    "map with some keys": obj({"id": whole()}, additionalProperties=BOOL, maxProperties=3),
    "map in a field": closed({"m": {"type": "object", "additionalProperties": BOOL, "maxProperties": 2}}),
    "pattern properties": {"type": "object", "patternProperties": {"^x[0-9]$": whole(0, 9)},
                           "additionalProperties": False, "maxProperties": 3},
    "property names": {"type": "object", "propertyNames": {"pattern": "^[a-c]$"}, "additionalProperties": BOOL},
    "at least two properties": closed({"a": BOOL, "b": BOOL, "c": BOOL}, [], minProperties=2),
    "required, not listed": {"type": "object", "properties": {"a": BOOL}, "required": ["a", "b"], "maxProperties": 2,
                             "additionalProperties": whole(0, 9)},
    "unicode keys": closed({"größe": whole(), "名前": BOOL, "clé": NULL, "😀": BOOL}),
    "unicode values": closed({"v": one_of("größe", "名前", "😀", "Ω")}),
    "hard keys": closed({'a"b': BOOL, "c\\d": BOOL, "e\nf": BOOL, "": BOOL, " ": BOOL, "$ref": BOOL, "a/b~c": BOOL}),
    "keys like keywords": closed({"type": text(), "properties": BOOL, "items": BOOL, "enum": whole(0, 9)}),
    "key __proto__": closed({"__proto__": BOOL, "constructor": BOOL}),
    "60 properties": closed({f"k{i}": BOOL for i in range(60)}),
    "60 optional properties": closed({f"k{i}": BOOL for i in range(60)}, []),
    "20 properties of many kinds": closed({
        f"f{i}": [whole(0, 9), BOOL, NULL, one_of("x", "y")][i % 4] for i in range(20)}),
}

REAL = {
    "extraction": closed({"title": text(12), "year": whole(1900, 2100), "tags": some(one_of("a", "b", "c"), 3),
                          "score": {"type": "number", "minimum": 0, "maximum": 1}}),
    "classification": closed({"label": one_of("positive", "negative", "neutral"), "sure": whole(0, 100)}),
    "reasoning steps": closed({"steps": some(closed({"says": text(10), "gives": text(6)}), 2, 1), "answer": whole()}),
    "function arguments": closed({"location": text(10), "unit": one_of("celsius", "fahrenheit")}, ["location"]),
    "order": closed({"id": format_of("uuid"), "at": format_of("date"), "lines": some(closed({
        "sku": matches("^[A-Z]{2}[0-9]{3}$"), "count": whole(1, 20)}), 2, 1)}),
    "calendar event": closed({"title": text(10), "start": format_of("date-time"), "all_day": BOOL,
                              "who": some(SMALL, 2)}),
    "invoice": closed({"number": matches("^INV-[0-9]{4}$"), "total": {"type": "number", "minimum": 0, "maximum": 999},
                       "currency": one_of("EUR", "USD", "JPY"), "paid": BOOL}),
    "user interface": {"$ref": "#/$defs/N", "$defs": {"N": closed({
        "tag": one_of("div", "p", "button"), "label": text(6), "kids": some({"$ref": "#/$defs/N"}, 1)})}},
}

# What engines get wrong, not what users send.
TRAPS = {
    "exclusive bound 0 from above": {"type": "number", "exclusiveMinimum": -0.5, "exclusiveMaximum": 0},
    "at least three of a pattern": {"type": "object", "patternProperties": {"^x[0-2]$": whole(0, 9)},
                                    "additionalProperties": False, "minProperties": 3, "maxProperties": 4},
    "at least two of any": {"type": "object", "additionalProperties": BOOL, "minProperties": 2, "maxProperties": 3},
    "date and pattern": {"type": "string", "format": "date", "pattern": "^2023-02-2"},
    "date-time and pattern": {"type": "string", "format": "date-time", "pattern": "^2023-02-2"},
    "time and pattern": {"type": "string", "format": "time", "pattern": "^23:"},
    "date in allOf": {"allOf": [format_of("date"), {"pattern": "^2023-02-2"}]},
    "an id in a property": closed({"a": {"$id": "https://example.com/a", "$defs": {"k": BOOL}, "$ref": "#/$defs/k"}},
                                  **{"$defs": {"k": whole()}}),
    "const beyond 64 bits": {"const": 123456789012345678901234567890},
    "const beyond 53 bits": {"const": 9007199254740993},
    "class in a class": matches("^[[a]b]$"),
    "class with &&": matches("^[^a&&b]{3}$"),
    "class with ~~": matches("^[^x~~y]{3}$"),
    "class with --": matches("^[!--]{2}$"),
    "dot": matches("^.{4}$"),
    "white space": matches(r"^\s{4}$"),
    "no white space": matches(r"^\S{4}$"),
    "no word": matches(r"^\W{4}$"),
    "no digit": matches(r"^\D{4}$"),
    "anchor within": matches("a^b"),
    "word boundary": matches(r"\bfoo\b"),
    "lookahead": matches("^(?=.*a).{3}$"),
    "oneOf that overlaps": {"oneOf": [whole(0, 5), whole(3, 9)]},
    "oneOf of enums that overlap": {"oneOf": [one_of(1, 2), one_of(2, 3)]},
    "oneOf of objects that overlap": {"oneOf": [obj({"a": BOOL}, []), obj({"b": BOOL}, [])]},
    "oneOf with an optional discriminator": {"oneOf": [closed({"k": {"const": "a"}, "v": BOOL}, ["v"]),
                                                       closed({"k": {"const": "b"}, "v": BOOL}, ["v"])]},
    "beside a reference": {"$defs": {"a": whole()}, "$ref": "#/$defs/a", "maximum": 3},
    "beside a reference, draft 7": {"$schema": DRAFT7, "definitions": {"a": whole(5, 9)}, "$ref": "#/definitions/a",
                                    "maximum": 3},
    "exclusiveMinimum of draft 4": {"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer",
                                    "minimum": 0, "exclusiveMinimum": True, "maximum": 5},
    "pattern of a listed property": closed({"xa": {"type": "integer"}}, patternProperties={"^x": whole(3, 5)}),
    "allOf of tuples": {"allOf": [{"type": "array", "prefixItems": [BOOL], "items": whole(0, 9), "minItems": 3},
                                  {"prefixItems": [True, {"minimum": 7}], "maxItems": 3}]},
    "options of the engine": {"type": "integer", "x-guidance": {"coerce_one_of": True, "lenient": True},
                              "oneOf": [whole(0, 5), whole(3, 9)]},
    "lone surrogate": {"type": "string", "minLength": 1, "maxLength": 2, "pattern": r"^[^\u0000-\uD7FF]*$"},
}

ALL = {**PLAIN, **NESTED, **CHOICES, **ARRAYS, **NUMBERS, **TEXTS, **MAPS, **REAL, **TRAPS}
TOKENS = {"60 properties": 460, "60 optional properties": 460}
