// The same question to both models, side by side. Pinned, so outside of every verdict.

import { events, request } from "./api.js";
import { byId, make, number, say } from "./dom.js";

let stop = null;
let [model, loaded] = ["", []];

async function one(arm, body, element) {
  const [text, facts] = [element.querySelector(".text"), element.querySelector(".more")];
  if (!loaded.includes(arm)) return say(facts, `no ${arm} is loaded`);
  const begun = performance.now();
  let [first, tokens, finish, pieces] = [null, 0, null, 0];
  try {
    const headers = { "x-serin-variant": arm };
    const response = await request("/admin/ask", { body, headers, signal: stop.signal });
    if (!response.ok) throw new Error((await response.json().catch(() => null))?.error?.message ?? `the server answered ${response.status}`);
    say(element.querySelector(".version"), response.headers.get("x-serin-version") ?? "");
    await events(response, (_, data) => {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices?.[0];
      const piece = `${choice?.delta?.reasoning_content ?? ""}${choice?.delta?.content ?? ""}`;
      if (piece) {
        first ??= performance.now();
        pieces += 1;
      }
      text.append(piece);
      finish = choice?.finish_reason ?? finish;
      tokens = chunk.usage?.completion_tokens ?? tokens;
    });
    const seconds = (performance.now() - (first ?? begun)) / 1000;
    // What came in one piece has no rate.
    const rate = pieces > 2 && tokens > 1 && seconds > 0.02 ? `, ${number((tokens - 1) / seconds)} tokens/s` : "";
    say(facts, `first text after ${number((first ?? performance.now()) - begun, 0)} ms, ${tokens} tokens${rate}, ended by ${finish ?? "nothing"}`);
  } catch (error) {
    say(facts, error.name === "AbortError" ? "stopped" : `failed: ${error.message}`);
    facts.classList.toggle("bad", error.name !== "AbortError");
  }
}

async function ask(event) {
  event.preventDefault();
  stop?.abort();
  stop = new AbortController();
  const value = (id) => byId(id).value;
  const body = {
    model, messages: [{ role: "user", content: value("prompt") }], max_tokens: Number(value("most")) || 256,
    seed: Number(value("seed")) || 0, stream: true, stream_options: { include_usage: true },
  };
  if (value("temperature") !== "") body.temperature = Number(value("temperature"));
  const answers = ["stable", "canary"].map((arm) => make("article", { class: "answer", "data-arm": arm },
    make("h3", { class: arm }, arm, " ", make("span", { class: "version note" })), make("p", { class: "text" }), make("p", { class: "more note", role: "status" }, "asked")));
  byId("answers").replaceChildren(...answers);
  [byId("ask-now").disabled, byId("ask-stop").disabled] = [true, false];
  await Promise.all([one("stable", body, answers[0]), one("canary", body, answers[1])]);
  [byId("ask-now").disabled, byId("ask-stop").disabled] = [false, true];
}

export function update(status) {
  model = status.model;
  loaded = status.arms.filter((arm) => arm.loaded).map(({ arm }) => arm);
}

export function begin() {
  byId("question").addEventListener("submit", ask);
  byId("ask-stop").addEventListener("click", () => stop?.abort());
}
