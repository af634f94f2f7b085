// Plots of the live figures by uPlot: same colours, same time axis, drawn only while they can be seen.

import { make } from "./dom.js";

const all = new Set();
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.plot.visible = isIntersecting;
    if (isIntersecting) target.plot.draw();
  }
});
const sized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) target.plot.resize(Math.floor(contentRect.width));
});
// Colours belong to the scheme, and are in the canvas once drawn.
matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => all.forEach((plot) => plot.rebuild()));

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export class Plot {
  visible = true;
  #element; #options; #chart = null; #columns = null; #width = 0;

  /**
   * `series`: [{name, label, colour, dash}]; `show(value)` writes a value with its unit; `small`: without axes and
   * legend; `limit`: a value at which a line is drawn.
   */
  constructor(parent, { title, series, show, height = 150, small = false, limit = null, least = null }) {
    this.#options = { title, series, show, height, small, limit, least };
    this.#element = make("div", { class: "plot", role: "img", "aria-label": title });
    this.#element.plot = this;
    parent.append(this.#element);
    all.add(this);
    seen.observe(this.#element);
    sized.observe(this.#element);
  }

  get names() {
    return this.#options.series.map(({ name }) => name);
  }

  set limit(value) {
    this.#options.limit = value;
  }

  update(columns) {
    this.#columns = columns;
    if (this.visible) this.draw();
  }

  draw() {
    if (!this.#columns || this.#width < 20) return;
    if (!this.#chart) this.rebuild();
    else this.#chart.setData(this.#columns);
    if (this.#chart.cursor.left < 0 || this.#chart.cursor.left === undefined) this.#chart.setLegend({ idx: this.#columns[0].length - 1 });
    const { title, series, show } = this.#options;
    const last = series.map(({ label }, k) => `${label} ${show(this.#columns[k + 1].at(-1) ?? null)}`);
    this.#element.setAttribute("aria-label", `${title}: ${last.join(", ")}`);
  }

  resize(width) {
    if (width === this.#width || width < 20) return;
    this.#width = width;
    if (this.#chart) this.#chart.setSize({ width, height: this.#options.height });
    else this.draw();
  }

  remove() {
    all.delete(this);
    seen.unobserve(this.#element);
    sized.unobserve(this.#element);
    this.#chart?.destroy();
    this.#element.remove();
  }

  rebuild() {
    this.#chart?.destroy();
    if (!this.#columns || this.#width < 20) return;
    const { title, series, show, height, small, least } = this.#options;
    const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
    const line = ({ label, colour: name, dash }) => ({
      label, stroke: colour(name), width: 1.6, dash, spanGaps: false, points: { show: false },
      value: (_, value) => show(value),
    });
    this.#chart = new uPlot({
      width: this.#width,
      height,
      title: small ? undefined : title,
      cursor: small ? { show: false } : { sync: { key: "serin" }, drag: { x: false, y: false } },
      legend: { show: !small, live: true },
      scales: { y: { range: (_, low, high) => this.#range(low, high, least) } },
      axes: small ? [{ show: false }, { show: false }] : [axis, { ...axis, size: 62, values: (_, ticks) => ticks.map(show) }],
      series: [{ value: (_, at) => (at === null ? "-" : new Date(1000 * at).toLocaleTimeString()) }, ...series.map(line)],
      hooks: { draw: [(chart) => this.#mark(chart)] },
    }, this.#columns, this.#element);
  }

  /** From zero, and up to the limit, so that small noise does not fill the height. */
  #range(low, high, least) {
    const { limit } = this.#options;
    const top = Math.max(high ?? 0, limit ?? 0, least ?? 0);
    return [Math.min(0, low ?? 0), top > 0 ? top * 1.06 : 1];
  }

  #mark(chart) {
    const { limit } = this.#options;
    if (limit === null || limit === undefined) return;
    const { ctx, bbox } = chart;
    const y = chart.valToPos(limit, "y", true);
    ctx.save();
    ctx.strokeStyle = colour("fail");
    ctx.setLineDash([5, 4]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.restore();
  }
}
