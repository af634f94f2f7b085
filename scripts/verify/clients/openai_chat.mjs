// openai (JavaScript), chat completions: replies, the streaming helper, and its errors.

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import {
  KEY,
  MODEL,
  RESULT,
  SCHEMA,
  V1,
  each,
  fails,
  gather,
  keyed,
  leave,
  run,
  said,
  same,
  seesCancel,
  user,
} from "./case.mjs";
import { BOTH, Clock, ENOUGH, Named, OBJECT, Person, TEXT, TWICE, Weather, called, fits, schemaOf } from "./shape.mjs";

const at = (baseURL, apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const client = at(V1, KEY);
const ask = (more = {}) => client.chat.completions.create({ model: MODEL, messages: user("Good morning."), ...more });
const tools = [{ type: "function", function: { name: "get_weather", parameters: SCHEMA } }];

const { completions } = client.chat;
const bounded = (words, more) => ({ model: MODEL, messages: user(words), max_tokens: ENOUGH, ...more });
const format = zodResponseFormat(Person, "person");
const strictTools = [
  zodFunction({ name: "get_weather", parameters: Weather }),
  zodFunction({ name: "get_time", parameters: Clock }),
];
const looseTools = [
  { type: "function", function: { name: "get_weather", parameters: schemaOf(Weather) } },
  { type: "function", function: { name: "get_time", parameters: schemaOf(Clock) } },
];
const pairs = (calls) => calls?.map((call) => [call.function.name, call.function.arguments]);

async function parsed() {
  const { message, finish_reason } = (await completions.parse(bounded("parse", { response_format: format })))
    .choices[0];
  same(finish_reason, "stop", "finish_reason");
  same(message.parsed, fits(message.content), "what was parsed");
}

async function parsedStream() {
  const helper = completions.stream(bounded("stream", { response_format: format }));
  let text = "";
  helper.on("content.delta", ({ delta }) => (text += delta));
  const { message } = (await helper.finalChatCompletion()).choices[0];
  same(message.content, text, "what the deltas add up to");
  same(message.parsed, fits(text), "what was parsed");
}

async function formatted(words, response_format, kind) {
  fits((await ask(bounded(words, { response_format }))).choices[0].message.content, kind);
}

// Calls of the allowed tools, whole and streamed; the model by itself would say something else.
async function forcedCall(tool_choice, allowed, words = TEXT, more = {}) {
  const body = bounded(words, { tools: looseTools, tool_choice, ...more });
  const whole = (await ask(body)).choices[0].message.tool_calls;
  const streamed = (await completions.stream(body).finalChatCompletion()).choices[0].message.tool_calls;
  return [called(pairs(whole), allowed), called(pairs(streamed), allowed)];
}

// A strict tool's arguments, parsed by the library; without a tool_choice the scripted model calls get_weather.
async function parsedCall(more) {
  const reply = await completions.parse(bounded("strict tools", { tools: strictTools, ...more }));
  const calls = reply.choices[0].message.tool_calls;
  called(pairs(calls));
  for (const call of calls)
    same(call.function.parsed_arguments, JSON.parse(call.function.arguments), "what was parsed");
}

const named = { type: "function", function: { name: "get_time" } };
const some = { type: "allowed_tools", allowed_tools: { mode: "required", tools: [named] } };

await run(
  {
    async chat() {
      const reply = await ask({ temperature: 0 });
      same([reply.choices[0].message.content, reply.choices[0].finish_reason], [said.HELLO, "stop"], "the reply");
      same((await client.models.list()).data[0].id, MODEL, "the listed model");
    },
    async stream() {
      const text = await gather(
        await ask({ stream: true, messages: user("say-unicode") }),
        (c) => c.choices[0]?.delta.content,
      );
      same(text, said.UNICODE, "the streamed reply");
      const helper = client.chat.completions.stream({ model: MODEL, messages: user("x") });
      same(await helper.finalContent(), said.HELLO, "what the helper gathers");
    },
    async tools() {
      const first = (await ask({ tools })).choices[0];
      same(first.finish_reason, "tool_calls", "finish_reason");
      const call = first.message.tool_calls[0];
      same(JSON.parse(call.function.arguments), { city: "Paris" }, "arguments");
      const result = { role: "tool", tool_call_id: call.id, content: RESULT };
      const last = await ask({ tools, messages: [...user("x"), first.message, result] });
      same(last.choices[0].message.content, said.ANSWER, "the answer");
      const runner = client.chat.completions.runTools({
        model: MODEL,
        messages: user("x"),
        stream: true,
        tools: [
          {
            type: "function",
            function: { name: "get_weather", parameters: SCHEMA, parse: JSON.parse, function: () => RESULT },
          },
        ],
      });
      same(await runner.finalContent(), said.ANSWER, "the answer of a streamed run");
    },
    schema: () =>
      each({
        parse: parsed,
        stream: parsedStream,
        loose: () =>
          formatted(
            "not strict",
            { type: "json_schema", json_schema: { name: "p", schema: schemaOf(Person) } },
            Person,
          ),
        json_object: () => formatted(OBJECT, { type: "json_object" }, Named),
      }),
    forced: () =>
      each({
        required: () => forcedCall("required", BOTH),
        named: () => forcedCall(named, ["get_time"]),
        allowed: () => forcedCall(some, ["get_time"]),
        one: async () =>
          same(await forcedCall("required", BOTH, TWICE, { parallel_tool_calls: false }), [1, 1], "calls"),
        strict: () => parsedCall({}),
        strict_required: () => parsedCall({ tool_choice: "required", parallel_tool_calls: false }),
      }),
    async errors() {
      await fails(() => ask({ temperature: 5 }), 400, "temperature");
      await fails(() => ask({ model: "no-such" }), 404);
    },
    async key() {
      const url = keyed();
      same(
        (await at(url, KEY).chat.completions.create({ model: MODEL, messages: user("x") })).choices[0].message.content,
        said.HELLO,
        "the reply",
      );
      await fails(() => at(url, "sk-wrong").chat.completions.create({ model: MODEL, messages: user("x") }), 401);
    },
    async cancel() {
      await seesCancel(async () => leave(await ask({ stream: true, messages: user("say-long"), max_tokens: 4000 })));
    },
    async usage() {
      const whole = (await ask()).usage;
      let last;
      for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) last = chunk;
      same(last.usage.completion_tokens, whole.completion_tokens, "the usage of a stream");
    },
  },
  "openai",
);
