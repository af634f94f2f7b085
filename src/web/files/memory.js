// Memory of the device in parts, and what the device says of itself.

import { byId, bytes, make, number, percent, say, show } from "./dom.js";
import { Plot } from "./plots.js";

const plots = [];

/** The parts of the memory that the models live in: the GPU's if it tells of itself, else the machine's. */
function parts({ arms, device, resident_bytes: resident, available_bytes: available }) {
  const lanes = arms.map((arm) => arm.lane);
  const onCard = Boolean(device?.memory_total);
  const held = (lane) => (lane ? (onCard ? lane.card_reserved : lane.arena_reserved) : 0);
  const kv = lanes.map((lane) => Math.min(lane?.kv_bytes ?? 0, held(lane)));
  const weights = lanes.map((lane, at) => held(lane) - kv[at]);
  const ours = weights[0] + weights[1] + kv[0] + kv[1];
  // In main memory, a cache takes its pages only as they are used.
  const rest = onCard ? device.memory_used - ours : resident - weights[0] - weights[1];
  const free = onCard ? device.memory_total - device.memory_used : available;
  return [
    ["stable", weights[0], "of-stable"], ["canary", weights[1], "of-canary"], [onCard ? "KV cache" : "KV cache, reserved", kv[0] + kv[1], "of-kv"],
    [onCard ? "other" : "rest of the process", Math.max(0, rest), "of-rest"], ["free", free, "of-free"],
  ];
}

export function begin() {
  const clock = { title: "Clock and power", series: [{ name: "watts", label: "watts", colour: "canary" }], show: (value) => number(value, 0) };
  plots.push(new Plot(byId("device-plots"), {
    title: "Memory of the models", series: ["stable", "canary"].map((arm) => ({ name: `${arm}.memory`, label: arm, colour: arm })), show: bytes,
  }), new Plot(byId("device-plots"), { title: "Memory of the process", series: [{ name: "resident", label: "resident", colour: "kv" }], show: bytes }));
  plots.lazy = clock;
}

export function update(status, series, seconds) {
  const all = parts(status);
  const whole = all.reduce((sum, [, size]) => sum + size, 0) || 1;
  const bar = byId("memory-bar");
  if (bar.children.length !== all.length) bar.replaceChildren(...all.map(([, , kind]) => make("span", { class: kind })));
  all.forEach(([, size], at) => { bar.children[at].style.width = `${(100 * size) / whole}%`; });
  const words = all.map(([name, size]) => `${name} ${bytes(size)}`);
  bar.setAttribute("aria-label", `Memory: ${words.join(", ")}`);
  show(byId("memory-key"), all.map(([, , kind], at) => make("li", {}, make("span", { class: `mark ${kind}`, "aria-hidden": "true" }), words[at])));
  facts(status.device);
  if (status.device?.power_watts && plots.lazy) {
    plots.push(new Plot(byId("device-plots"), plots.lazy));
    plots.lazy = null;
  }
  for (const plot of plots) plot.update(series.columns(plot.names, seconds));
}

function facts(device) {
  if (!device) return show(byId("device"), [make("div", {}, make("dt", {}, "device"), make("dd", {}, "CPU; it tells of no power and no clocks"))]);
  const known = [
    ["power", device.power_watts, (value) => `${number(value, 0)} W`],
    ["clock", device.sm_clock_mhz, (value) => `${number(value, 0)} MHz`],
    ["memory clock", device.memory_clock_mhz, (value) => `${number(value, 0)} MHz`],
    ["temperature", device.temperature_celsius, (value) => `${number(value, 0)} °C`],
    ["busy", device.utilisation, (value) => percent(value, 0)],
    ["throttled", device.throttled ?? "no", (value) => value],
    ["throttled in this step", device.throttled_s, (value) => `${number(value, 0)} s`],
  ];
  const told = known.filter(([, value]) => value !== null && value !== undefined);
  show(byId("device"), told.map(([name, value, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text(value)))));
}
