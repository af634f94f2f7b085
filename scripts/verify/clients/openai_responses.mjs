// openai (JavaScript), the Responses API: items, events, and tools with a history of items.

import OpenAI from "openai";
import { zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
import { KEY, MODEL, RESULT, SCHEMA, V1, each, fails, keyed, leave, run, said, same, seesCancel } from "./case.mjs";
import { BOTH, Clock, ENOUGH, Named, OBJECT, Person, TEXT, TWICE, Weather, called, fits, schemaOf } from "./shape.mjs";

const at = (baseURL, apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const client = at(V1, KEY);
const ask = (more = {}) => client.responses.create({ model: MODEL, input: "Good morning.", ...more });
const tools = [{ type: "function", name: "get_weather", parameters: SCHEMA, strict: false }];

const bounded = (input, more) => ({ model: MODEL, input, max_output_tokens: ENOUGH, ...more });
const text = { format: zodTextFormat(Person, "person") };
const strictTools = [
  zodResponsesFunction({ name: "get_weather", parameters: Weather }),
  zodResponsesFunction({ name: "get_time", parameters: Clock }),
];
const looseTools = [
  { type: "function", name: "get_weather", parameters: schemaOf(Weather), strict: false },
  { type: "function", name: "get_time", parameters: schemaOf(Clock), strict: false },
];
const callsOf = (reply) => reply.output.filter((item) => item.type === "function_call");
const pairs = (reply) => callsOf(reply).map((call) => [call.name, call.arguments]);

async function parsed() {
  const reply = await client.responses.parse(bounded("parse", { text }));
  same(reply.output_parsed, fits(reply.output_text), "what was parsed");
}

async function parsedStream() {
  const helper = client.responses.stream(bounded("stream", { text }));
  let words = "";
  for await (const event of helper) if (event.type === "response.output_text.delta") words += event.delta;
  same((await helper.finalResponse()).output_parsed, fits(words), "what was parsed");
}

// Calls of the allowed tools, whole and streamed; the model by itself would say something else.
async function forcedCall(tool_choice, allowed, words = TEXT, more = {}) {
  const body = bounded(words, { tools: looseTools, tool_choice, ...more });
  const whole = await ask(body);
  const streamed = await client.responses.stream(body).finalResponse();
  return [called(pairs(whole), allowed), called(pairs(streamed), allowed)];
}

// A strict tool's arguments, parsed by the library; without a tool_choice the scripted model calls get_weather.
async function parsedCall(more) {
  const reply = await client.responses.parse(bounded("strict tools", { tools: strictTools, ...more }));
  called(pairs(reply));
  for (const call of callsOf(reply)) same(call.parsed_arguments, JSON.parse(call.arguments), "what was parsed");
}

const named = { type: "function", name: "get_time" };
const some = { type: "allowed_tools", mode: "required", tools: [named] };

await run(
  {
    async chat() {
      const reply = await ask({ instructions: "Be brief." });
      same([reply.output_text, reply.status], [said.HELLO, "completed"], "the response");
    },
    async stream() {
      const helper = client.responses.stream({ model: MODEL, input: "say-unicode" });
      let text = "";
      for await (const event of helper) if (event.type === "response.output_text.delta") text += event.delta;
      same([text, (await helper.finalResponse()).output_text], [said.UNICODE, said.UNICODE], "the streamed response");
    },
    async tools() {
      const first = await ask({ tools });
      const call = first.output.find((item) => item.type === "function_call");
      same(JSON.parse(call.arguments), { city: "Paris" }, "arguments");
      const result = { type: "function_call_output", call_id: call.call_id, output: RESULT };
      const last = await ask({ tools, input: [{ role: "user", content: "x" }, ...first.output, result] });
      same(last.output_text, said.ANSWER, "the answer");
    },
    schema: () =>
      each({
        parse: parsed,
        stream: parsedStream,
        json_object: async () =>
          fits((await ask(bounded(OBJECT, { text: { format: { type: "json_object" } } }))).output_text, Named),
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
      await fails(() => ask({ model: "no-such" }), 404, "no-such");
    },
    async key() {
      const url = keyed();
      same((await at(url, KEY).responses.create({ model: MODEL, input: "x" })).output_text, said.HELLO, "the reply");
      await fails(() => at(url, "sk-wrong").responses.create({ model: MODEL, input: "x" }), 401);
    },
    async cancel() {
      await seesCancel(async () => leave(await ask({ stream: true, input: "say-long", max_output_tokens: 4000 }), 7));
    },
    async usage() {
      const used = (await ask()).usage;
      same(used.total_tokens, used.input_tokens + used.output_tokens, "total_tokens");
    },
  },
  "openai",
);
