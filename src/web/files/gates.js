// One tile for each gate: its verdict in words and colour, its figure over time, interval, samples, evidence.

import { byId, count, make, number, say, show } from "./dom.js";
import { Plot } from "./plots.js";

const STATES = { pass: "passes", fail: "FAILS", inconclusive: "not decided", noted: "noted", not_judged: "nothing to judge" };
const tiles = new Map();
/** Gates whose figure is a ratio, or a distance, and worth a plot. */
const plotted = ({ name, value }) => !["bake", "requests"].includes(name) && value !== null;

class Tile {
  constructor(gate) {
    this.state = make("span", { class: "state" });
    this.brief = make("p", { class: "brief" });
    this.more = make("p", { class: "more" });
    this.text = make("p");
    this.room = make("div");
    const details = make("details", {}, make("summary", {}, "all figures"), this.text);
    this.element = make("article", { class: "tile" }, make("div", { class: "head" }, make("h3", {}, gate.title), this.state), this.brief, this.room, this.more, details);
    this.plot = null;
  }

  update(gate, series, seconds) {
    this.element.className = `tile ${gate.state}`;
    say(this.state, STATES[gate.state] ?? gate.state);
    say(this.brief, gate.brief);
    say(this.text, gate.text || "no figures yet");
    say(this.more, figures(gate));
    if (!plotted(gate)) return;
    this.plot ??= new Plot(this.room, {
      title: `${gate.title}: canary against stable`, small: true, height: 64, limit: gate.threshold,
      series: [{ name: `gate.${gate.name}`, label: "canary against stable", colour: "canary" }],
      show: (value) => number(value, 2), least: 1,
    });
    this.plot.limit = gate.threshold;
    this.plot.update(series.columns(this.plot.names, seconds));
  }

  remove() {
    this.plot?.remove();
    this.element.remove();
  }
}

function figures({ interval, samples, evidence }) {
  const parts = [];
  if (interval) parts.push(`interval ${number(interval[0], 2)} to ${number(interval[1], 2)}`);
  if (samples[0] + samples[1] > 0) parts.push(`${count(samples[0])} stable and ${count(samples[1])} canary samples`);
  if (evidence !== null) parts.push(`evidence ${number(evidence, evidence < 10 ? 2 : 0)}`);
  return parts.join("; ");
}

const order = ["fail", "inconclusive", "noted", "pass"];

export function update({ gates }, series, seconds) {
  const judged = gates.filter(({ state }) => state !== "not_judged");
  const silent = gates.filter(({ state }) => state === "not_judged");
  for (const [name, tile] of tiles) {
    if (!judged.some((gate) => gate.name === name)) { tile.remove(); tiles.delete(name); }
  }
  const sorted = [...judged].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  for (const gate of sorted) {
    if (!tiles.has(gate.name)) tiles.set(gate.name, new Tile(gate));
    tiles.get(gate.name).update(gate, series, seconds);
  }
  const elements = sorted.length ? sorted.map((gate) => tiles.get(gate.name).element) : [make("p", {}, "No rollout is judged at the moment.")];
  show(byId("tiles"), elements, sorted.map(({ name }) => name).join());
  const box = byId("silent");
  box.hidden = silent.length === 0;
  say(box.firstElementChild, `${silent.length} gates with nothing to judge`);
  show(box.lastElementChild, silent.map(({ title, brief }) => make("li", {}, `${title}: ${brief}`)));
}
