// ai (Vercel's SDK) over one of its providers. Argument: openai (Responses API), openai-chat, compatible or anthropic.

import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { KEY, MODEL, RESULT, SCHEMA, V1, fails, gather, keyed, run, said, same, seesCancel } from "./case.mjs";

const PROVIDERS = {
  openai: [(baseURL, apiKey) => createOpenAI({ baseURL, apiKey }), "@ai-sdk/openai"],
  "openai-chat": [(baseURL, apiKey) => createOpenAI({ baseURL, apiKey }).chat, "@ai-sdk/openai"],
  compatible: [
    (baseURL, apiKey) => createOpenAICompatible({ name: "serin", baseURL, apiKey, includeUsage: true }),
    "@ai-sdk/openai-compatible",
  ],
  anthropic: [(baseURL, apiKey) => createAnthropic({ baseURL, apiKey }), "@ai-sdk/anthropic"],
};
const [make, name] = PROVIDERS[process.argv[2] ?? "compatible"];
const model = make(V1, KEY);
const quiet = { maxRetries: 0, onError: () => {} };
const ask = (more = {}) => generateText({ model: model(MODEL), prompt: "Good morning.", ...quiet, ...more });
const begin = (more = {}) => streamText({ model: model(MODEL), prompt: "Good morning.", ...quiet, ...more });
const tools = { get_weather: tool({ description: "w", inputSchema: jsonSchema(SCHEMA), execute: async () => RESULT }) };

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
