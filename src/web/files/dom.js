// Elements and words. All text goes in as text, never as HTML.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element with attributes and children; texts become text nodes. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null));
  return element;
}

/** Sets a text only if it has changed, so that selections and screen readers are left alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replaces the children only if what they show has changed. */
export function show(element, children, state = JSON.stringify(children.map((child) => child.outerHTML ?? String(child)))) {
  if (element.dataset.state === state) return;
  element.dataset.state = state;
  element.replaceChildren(...children);
}

export const number = (value, digits = 1) =>
  value === null || value === undefined ? "-" : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
export const count = (value) => (value === null || value === undefined ? "-" : value.toLocaleString("en"));
export const percent = (part, digits = 1) => (part === null || part === undefined ? "-" : `${number(100 * part, digits)} %`);

export function bytes(value) {
  if (value === null || value === undefined) return "-";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 ? value : number(value)} ${units[unit]}`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
