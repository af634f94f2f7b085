// Stable beside the canary: a table of figures, and plots that show both on one scale.

import { byId, bytes, count, make, number, percent, say, show } from "./dom.js";
import { Plot } from "./plots.js";

const RANGES = [["5 min", 300], ["15 min", 900], ["1 h", 3600], ["8 h", 28800]];
const milliseconds = (value) => (value === null || value === undefined ? "-" : `${number(value, value < 10 ? 2 : 0)} ms`);
const pair = (p50, p99) => `${milliseconds(p50)} / ${milliseconds(p99)}`;
const counts = (of) => Object.entries(of ?? {}).map(([name, times]) => `${name.replaceAll("_", " ")} ${count(times)}`).join(", ") || "-";
const errors = ({ classes }) => ({ model_error: classes.model_error ?? 0, timeout: classes.timeout ?? 0 });
const others = ({ classes }) => Object.fromEntries(Object.entries(classes).filter(([name]) => !["ok", "model_error", "timeout"].includes(name)));

/** Figures of a rollout; after a promotion they are those of the versions before. */
const OF_A_ROLLOUT = ["requests in this step", "errors in this step", "tokens/s of a request, median", "feedback"];
const judged = ({ phase }) => ["running", "paused", "rolled_back"].includes(phase);

/** Each row: its title, and its text for an arm that has a version. */
const ROWS = [
  ["version", (arm) => arm.version],
  ["digest", (arm) => arm.digest?.slice(-12)],
  ["requests in this step", ({ figures }) => `${count(figures.requests)} (${count(figures.total_requests)} in the rollout)`],
  ["errors in this step", ({ figures }) => `${count(figures.errors)} (${percent(figures.error_rate, 2)})`],
  ["errors since the load", ({ traffic }) => traffic && counts(errors(traffic))],
  ["other ends", ({ traffic }) => traffic && counts(others(traffic))],
  ["requests/s, last minute", ({ traffic }) => traffic && number(traffic.requests_per_second, 2)],
  ["TTFT p50 / p99, from arrival", ({ traffic }) => traffic && pair(traffic.ttft_p50_ms, traffic.ttft_p99_ms)],
  ["time per token p50 / p99", ({ traffic }) => traffic && pair(traffic.tpot_p50_ms, traffic.tpot_p99_ms)],
  ["tokens/s of a request, median", ({ figures }) => number(figures.tokens_per_second)],
  ["tokens/s, all requests", ({ traffic }) => traffic && number(traffic.tokens_per_second)],
  ["finish reasons", ({ traffic }) => traffic && counts(traffic.finish_reasons)],
  ["feedback", ({ figures }) => `${count(figures.feedback_up)} up, ${count(figures.feedback_down)} down, ${count(figures.retries)} regenerated`],
  ["running / waiting", ({ lane }) => lane && `${count(lane.running)} / ${count(lane.waiting)}`],
  ["KV blocks used", ({ lane }) => lane && `${count(lane.blocks_used)} of ${count(lane.blocks_total)} (${bytes(lane.kv_bytes)})`],
  ["prompt tokens cached", ({ lane }) => lane && percent(lane.prefix_hit_rate)],
  ["memory", ({ lane }) => lane && bytes(lane.arena_reserved + lane.card_reserved)],
];

const both = (figure, label = "") => ["stable", "canary"].map((arm) => ({ name: `${arm}.${figure}`, label: `${arm}${label}`, colour: arm }));
const quantiles = (figure) => [...both(`${figure}_p99`, " p99"), ...both(`${figure}_p50`, " p50").map((one) => ({ ...one, dash: [4, 3] }))];
const PLOTS = [
  { title: "Weight, percent", series: [
    { name: "weight", label: "set", colour: "canary" }, { name: "routed", label: "routed", colour: "kv", dash: [4, 3] },
    { name: "share", label: "actual", colour: "soft" }], show: (value) => number(value, 0), least: 100 },
  { title: "Requests per second", series: both("requests_per_second"), show: (value) => number(value) },
  { title: "Errors per second", series: both("errors_per_second"), show: (value) => number(value, 2), least: 1 },
  { title: "TTFT", series: quantiles("ttft"), show: milliseconds },
  { title: "Time per token", series: quantiles("tpot"), show: milliseconds },
  { title: "Tokens per second", series: both("tokens_per_second"), show: (value) => number(value, 0) },
  { title: "Running and waiting", series: [...both("running", " running"), ...both("waiting", " waiting").map((one) => ({ ...one, dash: [4, 3] }))], show: (value) => number(value, 0), least: 4 },
  { title: "KV blocks used", series: both("kv_used"), show: (value) => number(value, 0), least: 4 },
];

let seconds = 300;
const plots = [];

export function range() {
  return seconds;
}

/** Draws the empty room; `changed` is called when another range is wanted. */
export function begin(changed) {
  byId("range").append(...RANGES.map(([label, value]) => {
    const input = make("input", { type: "radio", name: "range", value, checked: value === seconds });
    input.addEventListener("change", () => { seconds = value; changed(); });
    return make("label", { class: "tick" }, input, label);
  }));
  plots.push(...PLOTS.map((one) => new Plot(byId("plots"), one)));
}

export function plot(series) {
  for (const one of plots) one.update(series.columns(one.names, seconds));
}

export function table(status) {
  const { arms } = status;
  const element = byId("figures");
  if (!element.tHead) {
    const head = ["figure", "stable", "canary"].map((name) => make("th", { scope: "col", class: name }, name));
    const rows = ROWS.map(([title]) => make("tr", {}, make("th", { scope: "row" }, title), make("td"), make("td")));
    element.append(make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows));
  }
  ROWS.forEach(([title, text], row) => {
    const known = judged(status) || !OF_A_ROLLOUT.includes(title);
    arms.forEach((arm, column) => say(element.tBodies[0].rows[row].cells[column + 1], arm.loaded && known ? text(arm) ?? "-" : "-"));
  });
}

export function inFlight({ in_flight: all }) {
  const element = byId("in-flight");
  const head = ["model", "request", "for", "prompt tokens", "output tokens"].map((name) => make("th", { scope: "col" }, name));
  const rows = all.map(({ arm, id, seconds: age, prompt_tokens: prompt, output_tokens: output }) =>
    make("tr", {}, ...[arm, id, `${number(age)} s`, count(prompt), count(output)].map((text, at) => make("td", { class: at === 0 && arm }, text))));
  const none = make("tr", {}, make("td", { colspan: 5 }, "none"));
  show(element, [make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows.length ? rows : none)]);
}
