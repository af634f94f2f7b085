// The operators' routes, called with this page's token.

const KEY = "serin-token";
let token = null;

/** Takes the token out of the address, where it stays in no history, or from this tab's memory. */
export function takeToken() {
  const given = /[#&]token=([\w-]+)/.exec(location.hash);
  if (given) {
    sessionStorage.setItem(KEY, given[1]);
    history.replaceState(null, "", location.pathname);
  }
  token = sessionStorage.getItem(KEY);
  return token !== null;
}

export function setToken(value) {
  sessionStorage.setItem(KEY, value);
  token = value;
}

/** A response of the server; throws only if there is none. */
export function request(path, { body, headers = {}, signal } = {}) {
  const all = { authorization: `Bearer ${token}`, ...headers };
  if (body === undefined) return fetch(path, { headers: all, signal, cache: "no-store" });
  all["content-type"] = "application/json";
  return fetch(path, { method: "POST", headers: all, body: JSON.stringify(body), signal, cache: "no-store" });
}

/** A response's JSON; throws an error with the server's own words if it refuses. */
export async function json(path, options) {
  const response = await request(path, options);
  const body = await response.json().catch(() => null);
  const error = body?.error?.message;
  if (!response.ok || error) throw new Error(error ?? `the server answered ${response.status}`);
  return body;
}

/** Calls `each(event, data, id)` for every server-sent event of a response, to its end. */
export async function events(response, each) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
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
