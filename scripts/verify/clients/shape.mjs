// What the rows `schema` and `forced` ask for: small bounded types, and checks of what came back; the twin of shape.py.

import { z } from "zod";

export const ENOUGH = 1000;
// These words lead the scripted model to a text, to its own object, or to two calls.
export const [TEXT, OBJECT, TWICE] = ["say-lines", "say-object", "say-twice"];

// zod counts UTF-16 units and JSON Schema counts characters, so the bound is told and checked apart from zod's own.
const text = z
  .string()
  .refine((value) => [...value].length <= 12)
  .meta({ maxLength: 12 });

// Of each kind of type one: a constant, an enum, bounds, a list, an object and null.
export const Person = z.strictObject({
  kind: z.literal("person"),
  name: text,
  age: z.int().min(0).max(150),
  mood: z.enum(["calm", "glad"]),
  adult: z.boolean(),
  tags: z.array(z.enum(["red", "green"])).max(3),
  home: z.strictObject({ city: text, zip: z.int().min(0).max(99999) }),
  nick: text.nullable(),
});

// What the scripted model says to `say-object`, for modes that only ask for some JSON.
export const Named = z.strictObject({ name: z.string(), age: z.int() });

// What needs no bounds: Anthropic's library leaves them out of the schemas that it sends.
export const Mood = z.strictObject({
  kind: z.literal("mood"),
  mood: z.enum(["calm", "glad"]),
  adult: z.boolean(),
  tags: z.array(z.enum(["red", "green"])),
  nick: z.enum(["a", "b"]).nullable(),
});

// `unit` is not in the call that the scripted model makes by itself.
export const Weather = z.strictObject({ city: text, unit: z.enum(["celsius", "fahrenheit"]) });
export const Clock = z.strictObject({ zone: z.enum(["utc", "cet"]) });
export const TOOLS = { get_weather: Weather, get_time: Clock };
export const BOTH = Object.keys(TOOLS);
export const schemaOf = (kind) => z.toJSONSchema(kind);

// Checks a value, or its JSON: whether it fits the type, and has its keys.
export function fits(value, kind = Person) {
  const read = typeof value === "string" ? JSON.parse(value) : value;
  const found = kind.safeParse(read);
  if (!found.success) throw new Error(`${JSON.stringify(read)} does not fit: ${found.error.message}`);
  return read;
}

// Checks calls, pairs of name and arguments: at least one, each of an allowed tool, with arguments that fit it.
export function called(calls, allowed = BOTH) {
  if (!calls?.length) throw new Error("there was no call");
  for (const [name, args] of calls) {
    if (!allowed.includes(name)) throw new Error(`${name} was called, not ${allowed.join(" or ")}`);
    fits(args, TOOLS[name]);
  }
  return calls.length;
}
