// The page: takes the token, follows the live stream, and hands each sample to the sections.

import { keptToken, setToken, takeToken } from "./api.js";
import * as arms from "./arms.js";
import * as ask from "./ask.js";
import { byId, make, say, show } from "./dom.js";
import * as gates from "./gates.js";
import * as memory from "./memory.js";
import * as orders from "./orders.js";
import { Series } from "./series.js";
import { follow } from "./stream.js";
import * as timeline from "./timeline.js";

const series = new Series();
let status = null;

function headline() {
  say(byId("headline"), status.headline);
  say(byId("model"), status.model);
  say(byId("phase"), status.phase.replaceAll("_", " "));
  document.title = `${status.weight} % ${status.phase.replaceAll("_", " ")} - ${status.model} - serin`;
  const bar = byId("split");
  if (!bar.children.length) bar.append(make("span", { class: "of-canary" }), make("span", { class: "of-stable" }));
  [bar.children[0].style.width, bar.children[1].style.width] = [`${status.weight}%`, `${100 - status.weight}%`];
  bar.setAttribute("aria-label", `The canary gets ${status.weight} % of the requests, stable ${100 - status.weight} %`);
  const notes = [
    status.reason && `reason: ${status.reason}`, ...status.remarks ?? [],
    ...(status.less ?? []).map((one) => `the canary can do less than stable: ${one}`),
    ...(status.differences ?? []).map((one) => `differs: ${one}`),
    status.ledger?.failing && `LEDGER NOT WRITTEN: ${status.ledger.failing}`,
  ].filter(Boolean);
  show(byId("remarks"), notes.map((one) => make("li", {}, one)));
  // For those who listen: only what changes rarely.
  say(byId("spoken"), `${status.phase.replaceAll("_", " ")}, canary weight ${status.weight} %`);
  say(byId("ledger"), status.ledger ? `ledger ${status.ledger.path}` : "no ledger: decisions are not kept");
}

function draw() {
  arms.plot(series);
  if (!status) return;
  headline();
  arms.table(status);
  gates.update(status, series, arms.range());
  memory.update(status, series, arms.range());
  arms.inFlight(status);
  ask.update(status);
  orders.update(status);
  timeline.update(status);
}

function connection(kind, text) {
  const element = byId("connection");
  element.className = `connection ${kind}`;
  say(element.querySelector(".text"), text);
}

const live = {
  history(data) {
    series.take(data);
    say(byId("version"), `serin ${data.version}`);
    draw();
  },
  sample({ point, status: now }) {
    series.add(point);
    status = now;
    draw();
  },
  live: () => connection("live", "live"),
  stale: (since) => connection("stale", `stale since ${since.toLocaleTimeString()}`),
  unseen() {
    connection("", "paused while this tab is hidden");
    document.title = `(paused) ${document.title.replace("(paused) ", "")}`;
  },
  denied() {
    connection("stale", "not allowed");
    byId("unlock").hidden = false;
    if (!byId("token").open) byId("token").showModal();
  },
};

function unlocked() {
  byId("unlock").hidden = true;
  byId("token").close();
  follow(live);
}

// The address of a server that was started again, in the tab of the one before.
addEventListener("hashchange", () => {
  if (takeToken()) location.reload();
});
byId("unlock").addEventListener("click", () => byId("token").showModal());
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("token-value");
  const good = setToken(field.value);
  say(byId("token-problem"), good ? "" : "This is neither a token nor an address with one.");
  field.value = "";
  if (good) unlocked();
});
for (const section of [ask, memory, orders, timeline]) section.begin();
arms.begin(draw);
// For tests: what is kept.
window.serin = { points: () => series.size };
if (takeToken() || keptToken()) follow(live);
else live.denied();
