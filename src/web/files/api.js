// The operators' routes, called with this page's token.

const KEY = "serin-token";
let token = null;

/** Takes the token out of the address, where it stays in no history. Whether there was one. */
export function takeToken() {
  if (!location.hash.includes("token=") || !setToken(location.hash)) return false;
  history.replaceState(null, "", location.pathname);
  return true;
}

/** This tab's token from before a reload. Whether there is one. */
export function keptToken() {
  token = sessionStorage.getItem(KEY);
  return token !== null;
}

/** Takes a token, or an address with one. Whether it was one. */
export function setToken(text) {
  const found = /^(?:.*token=)?([\w-]+)$/.exec(text.trim());
  if (!found) return false;
  token = found[1];
  sessionStorage.setItem(KEY, token);
  return true;
}

/** A response of the server; throws only if there is none. */
export function request(path, { body, headers = {}, signal } = {}) {
  const all = { authorization: `Bearer ${token}`, ...headers };
  if (body === undefined) return fetch(path, { headers: all, signal, cache: "no-store" });
  all["content-type"] = "application/json";
  return fetch(path, { method: "POST", headers: all, body: JSON.stringify(body), signal, cache: "no-store" });
}

/** A response's JSON; throws an error with the server's own words if it refuses, or if it does not answer within `ms`. */
export async function json(path, { within = 10_000, ...options } = {}) {
  const signal = AbortSignal.timeout(within);
  const response = await request(path, { ...options, signal }).catch((error) => {
    throw new Error(error.name === "TimeoutError" ? `the server has not answered for ${within / 1000} s` : "the server cannot be reached");
  });
  const body = await response.json().catch(() => null);
  const error = body?.error?.message;
  if (!response.ok || error) throw new Error(error ?? `the server answered ${response.status}`);
  return body;
}

/** Calls `each(event, data, id)` for every server-sent event of a response, to its end. */
export async function events(response, each, chunk = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    chunk();
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const of = (field) => lines.filter((line) => line.startsWith(`${field}: `)).map((line) => line.slice(field.length + 2)).join("\n");
      const data = of("data");
      if (data) each(of("event") || "message", data, of("id"));
    }
  }
}
