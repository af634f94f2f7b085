// openai (JavaScript), chat completions: replies, the streaming helper, and its errors.

import OpenAI from "openai";
import {
  KEY,
  MODEL,
  RESULT,
  SCHEMA,
  V1,
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

const at = (baseURL, apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const client = at(V1, KEY);
const ask = (more = {}) => client.chat.completions.create({ model: MODEL, messages: user("Good morning."), ...more });
const tools = [{ type: "function", function: { name: "get_weather", parameters: SCHEMA } }];

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
