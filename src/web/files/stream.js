// The live stream: reconnects by itself with the last event's id, and says since when it is silent.

import { events, request } from "./api.js";

const SILENT_AFTER = 5000;
const WAITS = [500, 1000, 2000, 4000, 8000];

/** Follows `/admin/live` for ever. `on`: {history(data), sample(data), live(), stale(since), denied()}. */
export async function follow(on) {
  let last = null;
  let heard = Date.now();
  for (let failed = 0; ; failed += 1) {
    const stop = new AbortController();
    const watch = setInterval(() => {
      if (Date.now() - heard > SILENT_AFTER) stop.abort();
    }, 1000);
    try {
      const headers = last ? { "last-event-id": last } : {};
      const response = await request("/admin/live", { headers, signal: stop.signal });
      if (response.status === 403) return on.denied();
      if (response.ok) {
        await events(response, (kind, data, id) => {
          [heard, failed, last] = [Date.now(), 0, id];
          on.live();
          on[kind]?.(JSON.parse(data));
        });
      }
    } catch {
      // Not reachable, or silent for too long: tried again below.
    } finally {
      clearInterval(watch);
    }
    on.stale(heard);
    await new Promise((done) => setTimeout(done, WAITS[Math.min(failed, WAITS.length - 1)]));
  }
}
