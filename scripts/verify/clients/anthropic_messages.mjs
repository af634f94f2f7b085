// @anthropic-ai/sdk (JavaScript), the Messages API: blocks, the streaming helper, tools and errors.

import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import {
  KEY,
  KEYED,
  MODEL,
  RESULT,
  SCHEMA,
  URL_,
  each,
  fails,
  keyed,
  leave,
  orRefused,
  run,
  said,
  same,
  seesCancel,
  user,
} from "./case.mjs";
import { BOTH, ENOUGH, Mood, TEXT, TOOLS, TWICE, called, fits, schemaOf } from "./shape.mjs";

const at = (baseURL, apiKey) => new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const client = at(URL_, KEY);
const body = (more) => ({ model: MODEL, max_tokens: 200, messages: user("Good morning."), ...more });
const ask = (more = {}) => client.messages.create(body(more));
const tools = [{ name: "get_weather", input_schema: SCHEMA }];

const ownTools = (more) =>
  Object.entries(TOOLS).map(([name, kind]) => ({ name, input_schema: schemaOf(kind), ...more }));
const calls = (message) => message.content.filter((b) => b.type === "tool_use").map((b) => [b.name, b.input]);

async function parsed() {
  const output_config = { format: zodOutputFormat(Mood) };
  const asked = body({ max_tokens: ENOUGH, messages: user("parse"), output_config });
  const reply = await orRefused(() => client.messages.parse(asked), "output_config");
  same(reply.parsed_output, fits(reply.content[0].text, Mood), "what was parsed");
}

// Calls of the allowed tools, whole and streamed; the model by itself would say something else.
async function forcedCall(tool_choice, allowed, words = TEXT, more = {}) {
  const asked = { max_tokens: ENOUGH, messages: user(words), tools: ownTools(more), tool_choice };
  const whole = await ask(asked);
  same(whole.stop_reason, "tool_use", "stop_reason");
  const streamed = await client.messages.stream(body(asked)).finalMessage();
  return [called(calls(whole), allowed), called(calls(streamed), allowed)];
}

await run(
  {
    async chat() {
      const reply = await ask({ system: "Be brief." });
      same([reply.content[0].text, reply.stop_reason], [said.HELLO, "end_turn"], "the message");
      same((await ask({ max_tokens: 2 })).stop_reason, "max_tokens", "stop_reason of a short message");
    },
    async stream() {
      const helper = client.messages.stream(body({ messages: user("say-unicode") }));
      same(await helper.finalText(), said.UNICODE, "the streamed message");
    },
    async tools() {
      const first = await ask({ tools });
      const call = first.content.find((block) => block.type === "tool_use");
      same([first.stop_reason, call.input], ["tool_use", { city: "Paris" }], "the call");
      const result = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: RESULT }] };
      const last = await ask({
        tools,
        messages: [...user("x"), { role: "assistant", content: first.content }, result],
      });
      same(last.content[0].text, said.ANSWER, "the answer");
      const streamed = await client.messages.stream(body({ tools, messages: user("say-twice") })).finalMessage();
      same(
        streamed.content.filter((b) => b.type === "tool_use").map((b) => b.input.city),
        ["Paris", "Rome"],
        "streamed calls",
      );
    },
    schema: () => each({ parse: parsed }),
    forced: () =>
      each({
        any: () => forcedCall({ type: "any" }, BOTH),
        tool: () => forcedCall({ type: "tool", name: "get_time" }, ["get_time"]),
        one: async () =>
          same(await forcedCall({ type: "any", disable_parallel_tool_use: true }, BOTH, TWICE), [1, 1], "calls"),
        strict: () => forcedCall({ type: "auto" }, ["get_weather"], "strict tools", { strict: true }),
      }),
    async errors() {
      await fails(() => ask({ top_p: 5 }), 400, "top_p");
      const lost = await fails(() => ask({ model: "no-such" }), 404);
      same([lost.error.type, lost.error.error.type], ["error", "not_found_error"], "the form of the error");
    },
    async key() {
      keyed();
      same((await at(KEYED, KEY).messages.create(body())).content[0].text, said.HELLO, "the reply");
      await fails(() => at(KEYED, "sk-wrong").messages.create(body()), 401);
    },
    async cancel() {
      await seesCancel(async () => leave(await ask({ stream: true, messages: user("say-long"), max_tokens: 4000 }), 7));
    },
    async usage() {
      const counted = await client.messages.countTokens({ model: MODEL, messages: user("Good morning.") });
      const used = (await ask()).usage;
      const read = (usage) => usage.input_tokens + (usage.cache_read_input_tokens ?? 0);
      same(read(used), counted.input_tokens, "input tokens");
      for await (const event of await ask({ stream: true })) {
        if (event.type === "message_start") same(read(event.message.usage), counted.input_tokens, "at the start");
        if (event.type === "message_delta") same(event.usage.output_tokens, used.output_tokens, "output tokens");
      }
    },
  },
  "@anthropic-ai/sdk",
);
