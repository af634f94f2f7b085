// What happened, from the ledger: newest first, with who wanted it and why.

import { json } from "./api.js";
import { byId, make } from "./dom.js";

const FEW = 100;
let entries = [];
let revision = null;
let busy = false;

const date = (at) => new Date(at).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
const alarming = (kind, text) => /fault|rejected|abandoned|ended|rolled_back|fail/.test(kind) || /REFUSED|NOT /.test(text);

function line({ at_unix_ms: at, kind, text, details, by, reason }) {
  const who = [by && `by ${by}`, reason && `because: ${reason}`].filter(Boolean).join(", ");
  const name = kind.replace("decision.", "").replaceAll("_", " ");
  return make("li", {},
    make("time", { datetime: new Date(at).toISOString() }, date(at)),
    make("span", { class: alarming(kind, text) && "alarm" }, name),
    make("div", {}, text, who ? make("span", { class: "who" }, ` - ${who}`) : null, details ? make("details", {}, make("summary", {}, "all figures"), details) : null));
}

function draw() {
  byId("timeline").replaceChildren(...[...entries].reverse().map(line));
}

/** Reads what is new, when the server's state has changed. Without a ledger, this process's decisions are shown. */
export async function update(status) {
  if (busy || status.revision === revision) return;
  busy = true;
  try {
    const latest = await json(`/admin/ledger?limit=${FEW}`);
    const kept = latest ?? decisions(status);
    const older = latest === null ? [] : entries.filter(({ seq }) => seq < (kept[0]?.seq ?? 0));
    entries = [...older, ...kept];
    revision = status.revision;
    byId("older").hidden = latest === null || (entries[0]?.seq ?? 1) <= 1;
    draw();
  } catch {
    // Tried again with the next sample.
  } finally {
    busy = false;
  }
}

function decisions({ decisions: all, uptime_s: uptime }) {
  const start = Date.now() - 1000 * uptime;
  return all.map(({ at_s: at, kind, brief, text }, seq) => ({ seq, at_unix_ms: start + 1000 * at, kind, text: brief, details: text === brief ? null : text }));
}

export function begin() {
  byId("older").addEventListener("click", async () => {
    const before = entries[0]?.seq;
    const more = await json(`/admin/ledger?limit=${FEW}&before=${before}`).catch(() => null);
    if (!more) return;
    entries = [...more, ...entries];
    byId("older").hidden = more.length < FEW;
    draw();
  });
}
