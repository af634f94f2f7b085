//! A status for tests, with changes to its JSON.

use super::Status;
use serde_json::{Value, json};

fn arm(name: &str, version: &str) -> Value {
    json!({
        "arm": name, "loaded": true, "version": version, "digest": null, "path": null,
        "max_model_len": null, "lane": null,
        "figures": {
            "requests": 690, "errors": 3, "error_rate": 0.0043, "cancels": 0, "rejected": 0,
            "invalid": 0, "excluded": 0, "over_share": 0, "retries": 0,
            "ttft_p50_ms": 2.5, "ttft_p99_ms": 9.75, "tpot_p50_ms": 1.25, "tpot_p99_ms": 2.0,
            "tokens_per_second": 800.0, "mean_output_tokens": 8.0, "feedback_up": 7,
            "feedback_down": 1, "total_requests": 700, "total_errors": 3,
        },
    })
}

/// A rollout of `tiny-v2` at 25 %, with the given fields replaced.
pub fn status(change: Value) -> Status {
    let mut status = json!({
        "model": "tiny", "revision": 3, "self_test": false, "awaiting_confirm": false,
        "previous": null, "ledger": null, "shadow": null, "phase": "running", "reason": null,
        "paused": false, "rollout": "r", "weight": 25, "routed": 25, "share": 0.24,
        "share_of": 500, "steps": [5, 25, 50, 100], "step": 1, "stage": 2, "stage_age_s": 4.0,
        "bake_s": 15.0, "promotion_ordered": false, "uptime_s": 30.0, "resident_bytes": 0,
        "loading": null, "arms": [arm("stable", "tiny-v1"), arm("canary", "tiny-v2")],
        "reference": null, "overall": "inconclusive",
        "forecast": {
            "requests_per_second": [8.0, 2.0], "base_error_rate": 0.01,
            "detectable_error_ratio": null, "detectable_exceedance": null,
            "until_doubled_errors_s": null, "gates": [{"gate": "bake", "seconds": 11.0}],
        },
        "gates": [
            {"name": "bake", "title": "time at this weight", "state": "inconclusive",
             "value": 4.0, "threshold": 15.0, "evidence": null, "interval": null,
             "samples": [0, 0], "brief": "4s of 15s", "text": "baked 4.0 s of 15.0 s"},
            {"name": "errors", "title": "errors", "state": "pass", "value": 1.0,
             "threshold": 1.5, "evidence": 0.5, "interval": [0.5, 1.4], "samples": [690, 200],
             "brief": "1.00 x stable's, limit 1.50", "text": "ratio 1.00, limit 1.50"},
        ],
        "decisions": [{"at_s": 19.1, "kind": "raised", "weight": 25, "brief": "raised to 25 %", "text": "raised to 25 %: all gates pass"}],
        "unloads": [],
    });
    if let (Value::Object(status), Value::Object(change)) = (&mut status, change) {
        status.extend(change);
    }
    serde_json::from_value(status).expect("a status")
}
