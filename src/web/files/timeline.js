// What happened, from the ledger: newest first, with who wanted it and why.

import { json } from "./api.js";
import { byId, make } from "./dom.js";

const FEW = 100;
/** Milliseconds until a ledger that cannot be read is tried again. */
const RETRY = 10_000;
let entries = [];
let revision = null;
let busy = false;
let wait = 0;

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

/** Elements by row, so that what is open stays open. */
let elements = new Map();

function draw() {
  const kept = new Map(entries.map((entry) => [entry.seq, elements.get(entry.seq) ?? line(entry)]));
  elements = kept;
  byId("timeline").replaceChildren(...[...kept.values()].reverse());
}

function fail(error) {
  byId("timeline-problem").textContent = `The ledger cannot be read: ${error.message}`;
  wait = performance.now() + RETRY;
}

/** Reads what is new, when the server's state has changed. Without a ledger, this process's decisions are shown. */
export async function update(status) {
  if (busy || status.revision === revision || performance.now() < wait) return;
  busy = true;
  try {
    const latest = await json(`/admin/ledger?limit=${FEW}`);
    const kept = latest ?? decisions(status);
    const older = latest === null ? [] : entries.filter(({ seq }) => seq < (kept[0]?.seq ?? 0));
    entries = [...older, ...kept];
    revision = status.revision;
    byId("older").hidden = latest === null || (entries[0]?.seq ?? 1) <= 1;
    byId("timeline-problem").textContent = "";
    draw();
  } catch (error) {
    fail(error);
  } finally {
    busy = false;
  }
}

function decisions({ decisions: all, uptime_s: uptime }) {
  const start = Date.now() - 1000 * uptime;
  return all.map(({ at_s: at, kind, brief, text }, seq) =>
    ({ seq: `${at}-${seq}`, at_unix_ms: start + 1000 * at, kind, text: brief, details: text === brief ? null : text }));
}

async function older() {
  byId("older").disabled = true;
  try {
    const more = await json(`/admin/ledger?limit=${FEW}&before=${entries[0]?.seq}`);
    entries = [...more, ...entries];
    byId("older").hidden = more.length < FEW;
    draw();
  } catch (error) {
    fail(error);
  } finally {
    byId("older").disabled = false;
  }
}

export function begin() {
  byId("older").addEventListener("click", older);
}
