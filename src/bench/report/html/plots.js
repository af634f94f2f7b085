// Draws the plots of a report. DATA is written by html.rs.
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#ccc" : "#333";
const COLOURS = dark ? ["#8ab4f8", "#ffb74d"] : ["#1a5fb4", "#c64600"];
const axis = (label) => ({ label, stroke: ink, grid: { stroke: dark ? "#333" : "#e5e5e5" } });
const scales = { x: { time: false } };
const size = { width: Math.min(900, document.body.clientWidth), height: 260 };
const series = (name, at, more) => ({ label: name, stroke: COLOURS[at], width: 2, ...more });
const names = DATA.versions.map((_, at) => ["A", "B"][at]);

function plot(id, title, x, y, data, all) {
  const place = document.getElementById(id);
  if (!place || data[0].length === 0) return;
  const options = { ...size, title, scales, axes: [axis(x), { ...axis(y), size: 70 }], series: [{ label: x }, ...all] };
  new uPlot(options, data, place);
}

// Cumulative distributions of both versions over one x axis: the values of both, sorted.
function distribution(id, title, byVersion) {
  const used = byVersion.filter((values) => values.length > 0);
  const x = [...new Set(used.flat())].sort((a, b) => a - b);
  const share = (values) => x.map((at) => {
    let below = 0;
    while (below < values.length && values[below] <= at) below++;
    return below / values.length;
  });
  plot(id, title, "ms", "share of requests", [x, ...used.map(share)], used.map((_, at) => series(names[at], at)));
}

DATA.points.forEach((point, at) => {
  distribution(`ttft-${at}`, "Time to first token", point.ttft);
  distribution(`tpot-${at}`, "Time per output token", point.tpot);
  const lines = names.map((_, version) => point.time.map(([, own, rate]) => (own === version ? rate : null)));
  const dots = names.map((name, version) => series(name, version, { width: 0, points: { show: true, size: 6, fill: COLOURS[version] } }));
  plot(`time-${at}`, "Output tokens per second, by block", "seconds", "t/s", [point.time.map(([begun]) => begun), ...lines], dots);
});

if (DATA.sweep) {
  const all = names.map((name, at) => series(name, at));
  for (const [key, title, unit] of [["output", "Output tokens per second", "t/s"], ["ttft", "TTFT p50", "ms"]]) {
    const place = document.createElement("div");
    place.id = `sweep-${key}`;
    place.className = "plot";
    document.getElementById("sweep").append(place);
    plot(place.id, title, "concurrency or rate", unit, [DATA.sweep.load, ...DATA.sweep[key]], all);
  }
}
