// openai (JavaScript), the Responses API: items, events, and tools with a history of items.

import OpenAI from "openai";
import { KEY, MODEL, RESULT, SCHEMA, V1, fails, keyed, leave, run, said, same, seesCancel } from "./case.mjs";

const at = (baseURL, apiKey) => new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const client = at(V1, KEY);
const ask = (more = {}) => client.responses.create({ model: MODEL, input: "Good morning.", ...more });
const tools = [{ type: "function", name: "get_weather", parameters: SCHEMA, strict: false }];

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
