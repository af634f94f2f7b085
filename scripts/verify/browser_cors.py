"""A page of another origin calls the API in a real browser: preflights, streams and errors.

Headless Chromium, driven by Playwright, opens a page of an origin that `server.cors_origins` names, and one of an
origin that it does not name. Both send the same requests to a server that asks for keys: a POST with an
`authorization` header (which the browser precedes with a preflight), a stream read piece by piece, and requests that
end in a 401, a 404, a 405 and a 413. The allowed page must be able to read every status and body, and the headers that
clients need; the other one must get nothing.

Needs `pip install playwright`, Chromium (`apt-get install chromium`, or --chromium).
"""

import http.server
import pathlib
import subprocess
import sys
import tempfile
import threading

from common import SMOLLM2_135M, Report, Server, arguments, random_model

CASES = """
async ({base, key}) => {
  const json = {"content-type": "application/json"};
  const keyed = {...json, authorization: `Bearer ${key}`};
  const chat = (more) => JSON.stringify({messages: [{role: "user", content: "What is 7 plus 5?"}], ...more});
  const seen = {};
  const ask = async (name, path, options) => {
    try {
      const reply = await fetch(base + path, options);
      const body = await reply.text();
      seen[name] = {status: reply.status, id: reply.headers.get("x-request-id"), arm: reply.headers.get("x-serin-arm"),
                    left: reply.headers.get("x-ratelimit-remaining-requests"),
                    after: reply.headers.get("retry-after"), body: body.slice(0, 300)};
    } catch (error) {
      seen[name] = {error: String(error)};
    }
  };
  await ask("chat", "/v1/chat/completions", {method: "POST", headers: keyed, body: chat({max_tokens: 4})});
  await ask("models", "/v1/models", {headers: {authorization: `Bearer ${key}`}});
  await ask("probe", "/readyz", {});
  await ask("401", "/v1/chat/completions", {method: "POST", headers: {...json, authorization: "Bearer wrong"}, body: chat({})});
  await ask("404", "/v1/nowhere", {method: "POST", headers: keyed, body: "{}"});
  await ask("405", "/v1/chat/completions", {headers: {authorization: `Bearer ${key}`}});
  await ask("413", "/v1/chat/completions", {method: "POST", headers: keyed, body: chat({pad: "x".repeat(6 << 20)})});
  try {
    const reply = await fetch(base + "/v1/chat/completions", {
      method: "POST", headers: keyed, body: chat({stream: true, max_tokens: 200, ignore_eos: true})});
    const reader = reply.body.getReader(), decoder = new TextDecoder();
    let pieces = 0, text = "";
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      pieces += 1;
      text += decoder.decode(value, {stream: true});
    }
    seen.stream = {status: reply.status, kind: reply.headers.get("content-type"), pieces,
                   ended: text.trimEnd().endsWith("data: [DONE]")};
  } catch (error) {
    seen.stream = {error: String(error)};
  }
  return seen;
}
"""


class Page(http.server.BaseHTTPRequestHandler):
    """An empty page, whatever is asked for."""

    def do_GET(self):
        body = b"<!doctype html><title>page</title>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def page_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def make_key(program, file, *more):
    command = [str(program), "key", "new", "--keys", str(file), "--name", "page", "--scope", "inference", *more]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def judge(seen, report):
    for name, status in [("chat", 200), ("models", 200), ("probe", 200), ("401", 401), ("404", 404), ("405", 405),
                         ("413", 413)]:
        got = seen[name]
        readable = got.get("status") == status and got.get("id") and got.get("body")
        report.bar(f"allowed page: {name}: status and body", got.get("status") or got.get("error"), str(status), readable)
    chat = seen["chat"]
    report.bar("allowed page: headers of a reply: arm, requests left", f"{chat.get('arm')}, {chat.get('left')}",
               "readable", chat.get("arm") == "stable" and chat.get("left"))
    stream = seen["stream"]
    report.bar("allowed page: stream: pieces, end", f"{stream.get('pieces') or stream.get('error')}, {stream.get('ended')}",
               "20 or more, [DONE]", stream.get("pieces", 0) >= 20 and stream.get("ended"))
    report.bar("allowed page: stream: content type", stream.get("kind"), "text/event-stream; charset=utf-8",
               stream.get("kind") == "text/event-stream; charset=utf-8")


def main():
    args = arguments(__doc__, chromium=("/usr/bin/chromium", "the browser"))
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit("this case needs playwright: pip install playwright")

    report = Report("browser_cors", args)
    allowed, foreign = page_server(), page_server()
    with tempfile.TemporaryDirectory() as folder:
        keys = pathlib.Path(folder) / "keys.toml"
        key = make_key(args.serin, keys, "--requests-per-minute", "1000")
        config = {
            # Slow enough for the browser to see a stream's pieces apart.
            "model": {"name": "m", "stable": random_model(folder, SMOLLM2_135M), "load_format": "dummy:q8_0"},
            "server": {"cors_origins": [allowed]},
            "access": {"keys": str(keys)},
        }
        with Server(args.serin, config) as server, sync_playwright() as play:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = play.chromium.launch(executable_path=args.chromium, args=flags)
            report.figure("browser", browser.version)
            pages = {}
            for name, origin in (("allowed", allowed), ("foreign", foreign)):
                page = browser.new_page()
                page.goto(origin)
                pages[name] = page.evaluate(CASES, {"base": f"http://{server.addr}", "key": key})
                page.close()
            browser.close()
    judge(pages["allowed"], report)
    read = [name for name, got in pages["foreign"].items() if "error" not in got]
    report.bar("foreign page: requests of which it can read something", ", ".join(read) or 0, "0", not read)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
