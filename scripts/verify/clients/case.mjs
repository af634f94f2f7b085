// Shared by the JavaScript clients: where the server is, and how rows are run and reported; the twin of case.py.

import { readFileSync } from "node:fs";

export const env = process.env;
export const [URL_, KEYED, KEY] = [env.SERIN_URL, env.SERIN_KEYED_URL, env.SERIN_KEY ?? "none"];
export const MODEL = env.SERIN_MODEL ?? "scripted";
export const V1 = URL_ + "/v1";
export const said = JSON.parse(env.SERIN_SAID);
export const RESULT = "sunny, 21 degrees";
export const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
export const user = (content) => [{ role: "user", content }];

const ROWS = ["chat", "stream", "tools", "schema", "forced", "errors", "key", "cancel", "usage"];

export class Refused extends Error {}
export class NotTried extends Error {}

export function same(got, expected, what) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(expected)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

export async function fails(call, status, word) {
  try {
    await call();
  } catch (error) {
    const code = error.status ?? error.statusCode ?? error.lastError?.statusCode;
    same(code, status, "status of the error");
    if (word && !String(error.message).includes(word)) throw new Error(`no ${word} in: ${error.message}`);
    return error;
  }
  throw new Error("no error was thrown");
}

export function keyed() {
  if (!KEYED) throw new NotTried("this server has no keys");
  return KEYED + "/v1";
}

async function cancelled() {
  const text = await (await fetch(env.SERIN_METRICS)).text();
  const lines = text.split("\n").filter((l) => l.startsWith("serin_requests_total") && l.includes("client_cancel"));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

export async function seesCancel(startAndStop) {
  const before = await cancelled();
  await startAndStop();
  const end = Date.now() + 5000;
  while (Date.now() < end) {
    if ((await cancelled()) === before + 1) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`the server counts ${(await cancelled()) - before} cancelled requests, not 1`);
}

const short = (text, length) => text.replace(/\s+/g, " ").slice(0, length);

// Runs the cases of one row, all of them; says which failed and which were refused.
export async function each(cases) {
  const [failed, refused] = [{}, {}];
  for (const [name, run_] of Object.entries(cases)) {
    try {
      await run_();
    } catch (error) {
      const mild = error instanceof Refused || error instanceof NotTried;
      (mild ? refused : failed)[name] = `${name}: ${short(error.message, 160)}`;
    }
  }
  const [names, reasons] = [Object.keys(failed), Object.values(failed).join("; ")];
  if (names.length) throw new Error(`${names.length} of ${Object.keys(cases).length}: ${names.join(", ")}: ${reasons}`);
  if (Object.keys(refused).length) throw new Refused(Object.values(refused).join("; "));
}

// Calls what the server may refuse by name: it works, or the row is `refused`.
export async function orRefused(call, word) {
  try {
    return await call();
  } catch (error) {
    if (String(error.message).includes(word)) throw new Refused(error.message);
    throw error;
  }
}

export const gather = async (stream, part) => {
  let text = "";
  for await (const piece of stream) text += part(piece) ?? "";
  return text;
};

// Leaves a stream after a few parts.
export const leave = async (stream, count = 4) => {
  for await (const _ of stream) if (--count === 0) break;
};

const version = (name) => JSON.parse(readFileSync(`${env.SERIN_NODE_MODULES}/${name}/package.json`)).version;

export async function run(rows, ...packages) {
  const cells = {};
  for (const row of ROWS) {
    if (!rows[row]) continue;
    try {
      await rows[row]();
      cells[row] = { state: "green", why: "" };
    } catch (error) {
      const state = error instanceof Refused ? "refused" : error instanceof NotTried ? "not tried" : "red";
      const why = state === "red" ? `${error.name}: ${error.message}` : error.message;
      cells[row] = { state, why: short(why, 600) };
    }
  }
  console.log("\n" + JSON.stringify({ versions: Object.fromEntries(packages.map((p) => [p, version(p)])), cells }));
}
