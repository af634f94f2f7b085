// ai (Vercel's SDK) over one of its providers. Argument: openai (Responses API), openai-chat, compatible or anthropic.

import { Output, generateObject, generateText, jsonSchema, stepCountIs, streamObject, streamText, tool } from "ai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { KEY, MODEL, RESULT, SCHEMA, V1, each, fails, gather, keyed, orRefused, run } from "./case.mjs";
import { said, same, seesCancel } from "./case.mjs";
import { BOTH, ENOUGH, Mood, Named, OBJECT, Person, TEXT, TOOLS, TWICE, called, fits } from "./shape.mjs";

const PROVIDERS = {
  openai: [(baseURL, apiKey) => createOpenAI({ baseURL, apiKey }), "@ai-sdk/openai"],
  "openai-chat": [(baseURL, apiKey) => createOpenAI({ baseURL, apiKey }).chat, "@ai-sdk/openai"],
  compatible: [
    (baseURL, apiKey, more) => createOpenAICompatible({ name: "serin", baseURL, apiKey, includeUsage: true, ...more }),
    "@ai-sdk/openai-compatible",
  ],
  anthropic: [(baseURL, apiKey) => createAnthropic({ baseURL, apiKey }), "@ai-sdk/anthropic"],
};
const provider = process.argv[2] ?? "compatible";
const [make, name] = PROVIDERS[provider];
const model = make(V1, KEY);
const quiet = { maxRetries: 0, onError: () => {} };
const ask = (more = {}) => generateText({ model: model(MODEL), prompt: "Good morning.", ...quiet, ...more });
const begin = (more = {}) => streamText({ model: model(MODEL), prompt: "Good morning.", ...quiet, ...more });
const tools = { get_weather: tool({ description: "w", inputSchema: jsonSchema(SCHEMA), execute: async () => RESULT }) };

// The compatible provider sends a schema only to servers of which it is told that they know schemas.
const knowing = make(V1, KEY, { supportsStructuredOutputs: true });
const bounded = (words, more) => ({ model: knowing(MODEL), prompt: words, maxOutputTokens: ENOUGH, ...quiet, ...more });
const plainTools = Object.fromEntries(Object.entries(TOOLS).map(([n, kind]) => [n, tool({ inputSchema: kind })]));
const strictTools = Object.fromEntries(
  Object.entries(TOOLS).map(([n, kind]) => [n, tool({ inputSchema: kind, strict: true })]),
);
const withOption = (name, value) => ({ providerOptions: { openai: { [name]: value }, anthropic: { [name]: value } } });

async function objectOf(words, more, kind = Person) {
  const { object } = await generateObject(bounded(words, { schema: kind, ...more }));
  fits(object, kind);
}

async function outputOf(words, more) {
  const { output } = await generateText(bounded(words, { output: Output.object({ schema: Person }), ...more }));
  fits(output);
}

async function streamedObject() {
  const stream = streamObject(bounded("streamObject", { schema: Person }));
  let last;
  for await (const part of stream.partialObjectStream) last = part;
  same(fits(await stream.object), last, "the last partial object");
}

async function streamedOutput() {
  const stream = streamText(bounded("streamText", { output: Output.object({ schema: Person }) }));
  await stream.consumeStream();
  fits(await stream.output);
}

// Calls of the allowed tools, whole and streamed; the model by itself would say something else.
async function forcedCall(toolChoice, allowed, words = TEXT, tools = plainTools, more = {}) {
  const pairs = (calls) => calls.map((call) => [call.toolName, call.input]);
  const whole = await generateText(bounded(words, { tools, toolChoice, ...more }));
  const stream = streamText(bounded(words, { tools, toolChoice, ...more }));
  await stream.consumeStream();
  return [called(pairs(whole.toolCalls), allowed), called(pairs(await stream.toolCalls), allowed)];
}

// What only some of the providers can ask for.
const SCHEMA_OF = {
  openai: { not_strict: () => objectOf("not strict", withOption("strictJsonSchema", false)) },
  "openai-chat": { not_strict: () => objectOf("not strict", withOption("strictJsonSchema", false)) },
  compatible: {
    json_object: () => objectOf(OBJECT, { model: model(MODEL) }, Named),
  },
  anthropic: {
    format: () =>
      orRefused(() => objectOf("format", withOption("structuredOutputMode", "outputFormat"), Mood), "output_config"),
    json_tool: () => objectOf("json tool", withOption("structuredOutputMode", "jsonTool")),
  },
};
const strict = {
  strict: () => forcedCall("required", BOTH, TEXT, strictTools),
  strict_auto: () => forcedCall("auto", ["get_weather"], "strict tools", strictTools),
};
const one = async (option) =>
  same(await forcedCall("required", BOTH, TWICE, plainTools, { providerOptions: option }), [1, 1], "calls");
const FORCED = {
  openai: { ...strict, one: () => one({ openai: { parallelToolCalls: false } }) },
  "openai-chat": { ...strict, one: () => one({ openai: { parallelToolCalls: false } }) },
  compatible: { ...strict, one: () => one({ serin: { parallel_tool_calls: false } }) },
  anthropic: { one: () => one({ anthropic: { disableParallelToolUse: true } }) },
};

await run(
  {
    async chat() {
      const reply = await ask();
      same([reply.text, reply.finishReason], [said.HELLO, "stop"], "the reply");
      same((await ask({ maxOutputTokens: 2 })).finishReason, "length", "finishReason of a short reply");
    },
    async stream() {
      const stream = begin({ prompt: "say-unicode" });
      same(await gather(stream.textStream, (part) => part), said.UNICODE, "the streamed reply");
      same(await stream.finishReason, "stop", "finishReason");
    },
    async tools() {
      const whole = await ask({ tools, stopWhen: stepCountIs(3) });
      same([whole.text, whole.steps.length], [said.ANSWER, 2], "the answer after the call");
      same(
        whole.steps[0].toolCalls.map((call) => call.input),
        [{ city: "Paris" }],
        "the call",
      );
      const stream = begin({ tools, stopWhen: stepCountIs(3) });
      await stream.consumeStream();
      same((await stream.steps).at(-1).text, said.ANSWER, "the streamed answer");
    },
    schema: () =>
      each({
        generateObject: () => objectOf("generateObject"),
        output: () => outputOf("output"),
        streamObject: streamedObject,
        streamText: streamedOutput,
        ...SCHEMA_OF[provider],
      }),
    forced: () =>
      each({
        required: () => forcedCall("required", BOTH),
        named: () => forcedCall({ type: "tool", toolName: "get_time" }, ["get_time"]),
        ...FORCED[provider],
      }),
    async errors() {
      await fails(() => ask({ topP: 5 }), 400, "top_p");
      await fails(() => ask({ model: model("no-such") }), 404);
    },
    async key() {
      const url = keyed();
      same((await ask({ model: make(url, KEY)(MODEL) })).text, said.HELLO, "the reply");
      await fails(() => ask({ model: make(url, "sk-wrong")(MODEL) }), 401);
    },
    async cancel() {
      await seesCancel(async () => {
        const control = new AbortController();
        let left = 4;
        const stream = begin({ prompt: "say-long", maxOutputTokens: 4000, abortSignal: control.signal });
        for await (const _ of stream.textStream) if (--left === 0) control.abort();
      });
    },
    async usage() {
      const whole = (await ask()).usage;
      const stream = begin();
      await stream.consumeStream();
      const used = await stream.usage;
      same([used.inputTokens, used.outputTokens], [whole.inputTokens, whole.outputTokens], "the usage of a stream");
      same(whole.totalTokens, whole.inputTokens + whole.outputTokens, "totalTokens");
    },
  },
  "ai",
  name,
);
