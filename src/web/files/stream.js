// The live stream: reconnects by itself with the last event's id, and says since when it is silent.
//
// A tab that nobody looks at gives its connection back after a while: browsers allow few for one server.

import { events, request } from "./api.js";

const SILENT_AFTER = 5000;
const UNSEEN_AFTER = 30_000;
const WAITS = [500, 1000, 2000, 4000, 8000];

const seen = () => !document.hidden;
const whenSeen = () => new Promise((done) => {
  if (seen()) return done();
  document.addEventListener("visibilitychange", function look() {
    if (!seen()) return;
    document.removeEventListener("visibilitychange", look);
    done();
  });
});

/** Follows `/admin/live` for ever. `on`: {history(data), sample(data), live(), stale(since), unseen(), denied()}. */
export async function follow(on) {
  let last = null;
  let since = new Date();
  for (let failed = 0; ; failed += 1) {
    if (!seen()) {
      on.unseen();
      await whenSeen();
    }
    // By a clock that nobody sets.
    let heard = performance.now();
    let looked = heard;
    const stop = new AbortController();
    const watch = setInterval(() => {
      const now = performance.now();
      if (seen()) looked = now;
      if (now - heard > SILENT_AFTER || now - looked > UNSEEN_AFTER) stop.abort();
    }, 1000);
    try {
      const headers = last ? { "last-event-id": last } : {};
      const response = await request("/admin/live", { headers, signal: stop.signal });
      if (response.status === 403) return on.denied();
      const chunk = () => { heard = performance.now(); };
      if (response.ok) {
        await events(response, (kind, data, id) => {
          [failed, last, since] = [0, id, new Date()];
          on.live();
          on[kind]?.(JSON.parse(data));
        }, chunk);
      }
    } catch {
      // Not reachable, silent for too long, or not seen for long: tried again below.
    } finally {
      clearInterval(watch);
    }
    if (!seen()) continue;
    on.stale(since);
    await new Promise((done) => setTimeout(done, WAITS[Math.min(failed, WAITS.length - 1)]));
  }
}
