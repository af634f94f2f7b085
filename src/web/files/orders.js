// Orders: each is shown as a preview first, names the state that it is based on, and goes to the ledger with its
// author and reason.

import { json } from "./api.js";
import { byId, bytes, make, say } from "./dom.js";

/** What can be ordered: its route, its body, and in which states. */
const ORDERS = {
  pause: ["Pause", "/admin/pause", {}, ({ phase, paused }) => phase === "running" && !paused],
  resume: ["Resume", "/admin/resume", {}, ({ paused }) => paused],
  confirm: ["Approve the next step", "/admin/confirm", {}, ({ awaiting_confirm: waits }) => waits],
  promote: ["Promote when the gates pass", "/admin/promote", {}, ({ phase }) => phase === "running" || phase === "paused"],
  now: ["Promote now", "/admin/promote", { now: true }, ({ phase }) => phase === "running" || phase === "paused"],
  rollback: ["Roll back", "/admin/rollback", {}, ({ arms }) => arms[1]?.loaded],
  undo: ["Undo the promotion", "/admin/undo", {}, ({ previous }) => previous !== null],
  weight: ["Set the weight", "/admin/weight", {}, ({ phase }) => phase === "running" || phase === "paused"],
};
let pending = null;
/** Counts what was asked for, so that a late answer is dropped. */
let asked = 0;

function body(name) {
  const [by, reason] = [byId("by").value.trim(), byId("reason").value.trim()];
  const percent = byId("percent");
  if (name === "weight" && (percent.value === "" || !percent.checkValidity())) throw new Error("it must be a whole number from 0 to 100");
  const more = name === "weight" ? { percent: Number(percent.value) } : {};
  return { ...ORDERS[name][2], ...more, by: by || null, reason: reason || null };
}

function result(text, bad = false) {
  const element = byId("outcome");
  element.classList.toggle("bad", bad);
  say(element, text);
}

/** Shows the dialog; until it is answered, nothing else is shown. */
function propose(title, path, order, lines, within) {
  pending = { title, path, order, within };
  result("");
  say(byId("preview-title"), title);
  byId("preview-text").replaceChildren(...lines);
  byId("preview").showModal();
}

async function preview(name) {
  const [title, path] = ORDERS[name];
  const mine = (asked += 1);
  try {
    const given = body(name);
    result(`${title}: asking the server what it would do`);
    const seen = await json(path, { body: { ...given, dry_run: true } });
    if (mine !== asked || byId("preview").open) return;
    propose(title, path, { ...given, expect: seen.revision }, told(seen), 90_000);
  } catch (error) {
    if (mine === asked) result(`${title}: ${error.message}`, true);
  }
}

const BECOMES = { stays: "stays", becomes_stable: "becomes stable", kept: "is kept, and can be put back", unloaded: "is unloaded" };

function told({ text, weight, weight_after: after, stable_after: stable, arms, differences, memory_back: back }) {
  const arm = ({ arm: name, version, becomes, running, waiting }) =>
    make("li", {}, `${name}, ${version}: ${BECOMES[becomes] ?? becomes}; ${running} running, ${waiting} waiting`);
  return [
    make("p", {}, text),
    make("p", {}, `Canary weight ${weight} % -> ${after} %; then stable is ${stable ?? "nothing"}.`),
    make("ul", {}, arms.map(arm), differences.map((one) => make("li", {}, `differs: ${one}`))),
    back > 0 ? make("p", {}, `${bytes(back)} come back.`) : null,
  ].filter(Boolean);
}

async function give() {
  if (!pending) return;
  const { title, path, order, within } = pending;
  pending = null;
  byId("preview").close();
  byId("outcome").focus();
  try {
    result(`${title}: under way`);
    await json(path, { body: order, within });
    result(`${title}: done`);
    byId("reason").value = "";
  } catch (error) {
    result(`${title}: ${error.message}`, true);
  }
}

function load(event) {
  event.preventDefault();
  if (byId("preview").open) return;
  asked += 1;
  const { by, reason } = body("pause");
  const order = { path: byId("path").value.trim(), retry: byId("retry").checked, allow: byId("allow").checked, by, reason };
  if (byId("expect").value) order.expect = byId("expect").value;
  const line = `${order.path} is loaded as the canary, and its rollout begins with its first share of the requests.`;
  propose("Load", "/admin/canary/load", order, [make("p", {}, line)], 1_800_000);
}

export function begin() {
  const buttons = Object.entries(ORDERS).filter(([name]) => name !== "weight");
  byId("buttons").append(...buttons.map(([name, [title]]) => make("button", { type: "button", "data-order": name }, title)));
  for (const button of document.querySelectorAll("[data-order]")) {
    button.addEventListener("click", () => preview(button.dataset.order));
  }
  byId("order").addEventListener("submit", (event) => event.preventDefault());
  byId("load").addEventListener("submit", load);
  byId("give").addEventListener("click", give);
  byId("keep").addEventListener("click", () => byId("preview").close());
  byId("preview").addEventListener("close", () => { pending = null; });
}

export function update(status) {
  for (const button of document.querySelectorAll("[data-order]")) {
    button.disabled = !ORDERS[button.dataset.order][3](status);
  }
}
