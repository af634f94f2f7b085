#!/usr/bin/env python3
"""Writes the Grafana dashboards in deploy/grafana/: rollout, serving, machine.

    scripts/make_dashboards.py [--check]     # --check: exits with 1 if a file is not what this script writes

Panels are listed here as data; `scripts/verify/dashboards.py` runs all their queries. Stable is blue and the canary
orange everywhere, in one panel. A query that needs a GPU is marked by its metric: `serin_device_*`.
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "deploy/grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = 'instance=~"$instance"'
WIDTH = 24
COLOURS = {"stable": "blue", "canary": "orange"}
ERRORS = 'class=~"model_error|timeout"'
COUNTED = 'class=~"ok|model_error|timeout"'
DECISIONS = f"increase(serin_rollout_decisions_total{{{HERE}}}[30s]) > 0"


def target(expr, legend="", instant=False, table=False):
    return {
        "datasource": SOURCE,
        "expr": expr,
        "legendFormat": legend or "__auto",
        "instant": instant,
        "range": not instant,
        "format": "table" if table else "time_series",
    }


def arm_colours():
    """Series whose name begins with an arm get its colour."""
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"^{arm}.*"},
            "properties": [{"id": "color", "value": {"mode": "shades", "fixedColor": colour}}],
        }
        for arm, colour in COLOURS.items()
    ]


def panel(kind, title, targets, unit="short", width=12, height=8, about="", defaults=None, options=None, **more):
    defaults = {"unit": unit, **(defaults or {})}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": arm_colours()},
        "options": options or {},
        "size": (width, height),
        **more,
    }


def series(title, targets, unit="short", least=0, log=False, limit=None, **more):
    """Lines over time. `limit`: a dashed line."""
    custom = {"drawStyle": "line", "lineWidth": 2, "fillOpacity": 5, "showPoints": "never", "spanNulls": False}
    if log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    defaults = {"custom": custom, **({} if least is None or log else {"min": least})}
    if limit is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        steps = [{"color": "transparent", "value": None}, {"color": "red", "value": limit}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, targets, unit, defaults=defaults, options=options, **more)


def stat(title, targets, unit="short", text="auto", steps=None, mappings=None, **more):
    defaults = {"mappings": mappings or []}
    if steps:
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": text,
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
    }
    return panel(
        "stat",
        title,
        targets,
        unit,
        width=more.pop("width", 6),
        height=more.pop("height", 4),
        defaults=defaults,
        options=options,
        **more,
    )


def by_arm(expr, legend="{{arm}}"):
    return [target(expr, legend)]


def rate(metric, by="arm", more=""):
    return f"sum by ({by}) (rate({metric}{{{HERE}{more}}}[$__rate_interval]))"


def quantiles(metric):
    """p50 and p99 of a histogram, of each arm."""
    buckets = rate(f"{metric}_bucket", by="arm, le")
    return [target(f"histogram_quantile({q / 100}, {buckets})", f"{{{{arm}}}} p{q}") for q in (50, 99)]


def error_ratio():
    """Errors by counted requests; 0 while there are none of either."""
    errors, counted = rate("serin_requests_total", more=f",{ERRORS}"), rate("serin_requests_total", more=f",{COUNTED}")
    return f"{errors} / clamp_min({counted}, 1e-9)"


GATES = [
    {
        "type": "value",
        "options": {
            "-1": {"text": "fail", "color": "red", "index": 0},
            "0": {"text": "waits", "color": "yellow", "index": 1},
            "1": {"text": "pass", "color": "green", "index": 2},
        },
    }
]


def gate_table():
    """One row per gate: state, value against limit, evidence against limit, when it can decide."""
    columns = {
        "A": ("state", "serin_rollout_gate"),
        "B": ("value", "serin_rollout_gate_value"),
        "C": ("limit", "serin_rollout_gate_limit"),
        "D": ("evidence", "serin_rollout_evidence"),
        "E": ("evidence limit", "serin_rollout_evidence_limit"),
        "F": ("decides in, s", "serin_rollout_gate_decides_in_seconds"),
    }
    targets = [
        target(f"max by (gate) ({metric}{{{HERE}}})", instant=True, table=True) for _, metric in columns.values()
    ]
    names = {f"Value #{letter}": name for letter, (name, _) in columns.items()}
    order = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
    ]
    table = panel(
        "table",
        "Gates: value against limit, evidence against limit",
        targets,
        "none",
        width=12,
        height=11,
        about="`bake` in seconds, `requests` a count, the others the canary's figure by stable's. A gate acts when its "
        "evidence reaches the limit: 1/alpha, more where gates share alpha.",
        transformations=order,
        options={"showHeader": True, "cellHeight": "sm"},
    )
    table["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": "state"},
            "properties": [
                {"id": "mappings", "value": GATES},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ],
        }
    ]
    return table


def gate_timeline():
    custom = {"lineWidth": 0, "fillOpacity": 70}
    return panel(
        "state-timeline",
        "Gates over time",
        [target(f"max by (gate) (serin_rollout_gate{{{HERE}}})", "{{gate}}")],
        "none",
        height=11,
        defaults={"custom": custom, "mappings": GATES},
        options={
            "mergeValues": True,
            "showValue": "never",
            "rowHeight": 0.8,
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        },
    )


def rollout_panels():
    weights = [
        target(f"serin_canary_{which}_ratio{{{HERE}}}", legend)
        for which, legend in (
            ("weight", "set"),
            ("routed", "routed"),
            ("share", "actual share of the latest 1,000 requests"),
        )
    ]
    return [
        stat(
            "Phase", [target(f"max by (phase) (serin_rollout_phase{{{HERE}}}) == 1", "{{phase}}")], text="name", width=5
        ),
        stat(
            "Versions",
            [
                target(
                    f"max by (arm, version) (serin_arena_reserved_bytes{{{HERE}}} + "
                    f"serin_card_pool_reserved_bytes{{{HERE}}}) > 0",
                    "{{arm}}: {{version}}",
                )
            ],
            text="name",
            width=9,
        ),
        stat("Weight set", [target(f"serin_canary_weight_ratio{{{HERE}}}", "canary")], "percentunit", width=5),
        stat(
            "Largest evidence by its limit",
            [target(f"max(serin_rollout_evidence{{{HERE}}} / serin_rollout_evidence_limit{{{HERE}}})", "evidence")],
            "percentunit",
            width=5,
            steps=[{"color": "green", "value": None}, {"color": "orange", "value": 0.3}, {"color": "red", "value": 1}],
        ),
        series("Weight of the canary: set, routed, actual", weights, "percentunit", max=1),
        series(
            "Requests in service",
            by_arm(f"sum by (arm, version) (vllm:num_requests_running{{{HERE}}})", "{{arm}} {{version}}"),
        ),
        gate_table(),
        gate_timeline(),
        series(
            "Evidence by its limit",
            [
                target(
                    f"max by (gate) (serin_rollout_evidence{{{HERE}}} / serin_rollout_evidence_limit{{{HERE}}})",
                    "{{gate}}",
                )
            ],
            log=True,
            limit=1,
            about="A gate acts at 1. Logarithmic.",
        ),
        series(
            "Value by its limit",
            [
                target(
                    f"max by (gate) (serin_rollout_gate_value{{{HERE}}} / serin_rollout_gate_limit{{{HERE}}})",
                    "{{gate}}",
                )
            ],
            limit=1,
            about="`bake`, `requests` and `throughput` have to exceed 1; the others must stay below it.",
        ),
        series(
            "Requests by class", by_arm(rate("serin_requests_total", by="arm, class"), "{{arm}} {{class}}"), "reqps"
        ),
        series("Errors of counted requests", by_arm(error_ratio()), "percentunit"),
        series("TTFT", quantiles("vllm:time_to_first_token_seconds"), "s"),
        series("Time per output token", quantiles("vllm:time_per_output_token_seconds"), "s"),
        series("Output tokens/s", by_arm(rate("vllm:generation_tokens_total")), "short"),
        series("Quality flags", by_arm(rate("serin_reply_flags_total", by="arm, flag"), "{{arm}} {{flag}}"), "reqps"),
        series(
            "Votes and regenerated replies",
            [
                target(rate("serin_feedback_total", by="arm, vote"), "{{arm}} {{vote}}"),
                target(rate("serin_retries_total"), "{{arm}} regenerated"),
            ],
            "reqps",
        ),
        series("Requests that the canary failed and stable answered", by_arm(rate("serin_rescued_total")), "reqps"),
        series(
            "Replies read by both models",
            [target(rate("serin_cross_read_replies_total", by="result"), "{{result}}")],
            "reqps",
        ),
        series(
            "Smallest effect that the data can show",
            [
                target(f"serin_rollout_detectable_error_ratio{{{HERE}}}", "ratio of error rates"),
                target(f"serin_rollout_detectable_exceedance{{{HERE}}}", "share of slow replies"),
            ],
            log=True,
        ),
        series(
            "Decisions",
            [
                target(
                    f"sum by (kind) (increase(serin_rollout_decisions_total{{{HERE}}}[$__rate_interval]))", "{{kind}}"
                )
            ],
            width=24,
            height=6,
        ),
    ]


def serving_panels():
    hits, lookups = rate("vllm:prefix_cache_hits_total"), rate("vllm:prefix_cache_queries_total")
    return [
        series(
            "Requests by class", by_arm(rate("serin_requests_total", by="arm, class"), "{{arm}} {{class}}"), "reqps"
        ),
        series("Errors of counted requests", by_arm(error_ratio()), "percentunit"),
        series(
            "Why replies ended",
            by_arm(rate("vllm:request_success_total", by="arm, finished_reason"), "{{arm}} {{finished_reason}}"),
            "reqps",
        ),
        series(
            "Tokens/s",
            by_arm(rate("vllm:generation_tokens_total"), "{{arm}} output")
            + by_arm(rate("vllm:prompt_tokens_total"), "{{arm}} prompt"),
        ),
        series("TTFT", quantiles("vllm:time_to_first_token_seconds"), "s"),
        series("Time per output token", quantiles("vllm:time_per_output_token_seconds"), "s"),
        series("Time between tokens", quantiles("vllm:inter_token_latency_seconds"), "s"),
        series("Whole request", quantiles("vllm:e2e_request_latency_seconds"), "s"),
        series("Time in the queue", quantiles("vllm:request_queue_time_seconds"), "s"),
        series(
            "Prefill and decode, mean",
            [
                target(
                    f"{rate(f'vllm:request_{phase}_time_seconds_sum')} / "
                    f"{rate(f'vllm:request_{phase}_time_seconds_count')}",
                    f"{{{{arm}}}} {phase}",
                )
                for phase in ("prefill", "decode")
            ],
            "s",
        ),
        series(
            "Running and waiting sequences",
            by_arm(f"sum by (arm) (vllm:num_requests_running{{{HERE}}})", "{{arm}} running")
            + by_arm(f"sum by (arm) (vllm:num_requests_waiting{{{HERE}}})", "{{arm}} waiting"),
        ),
        series(
            "KV blocks in use", by_arm(f"max by (arm) (vllm:kv_cache_usage_perc{{{HERE}}})"), "percentunit", limit=0.95
        ),
        series("Prefix cache: prompt tokens found", by_arm(f"{hits} / {lookups}"), "percentunit"),
        series("KV blocks that can be reused", by_arm(f"sum by (arm) (serin_kv_blocks_cached{{{HERE}}})")),
        series(
            "Preemptions and evicted KV blocks",
            by_arm(rate("vllm:num_preemptions_total"), "{{arm}} preemptions")
            + by_arm(rate("serin_kv_evictions_total"), "{{arm}} evicted blocks"),
        ),
        series("Share of time that steps take", by_arm(rate("serin_step_seconds_total")), "percentunit"),
        series("Steps/s", by_arm(rate("serin_steps_total"))),
        series(
            "Connections closed at the limit",
            [target(rate("serin_connections_closed_total", by="reason"), "{{reason}}")],
        ),
    ]


def machine_panels():
    def both(what, name):
        return [
            target(
                f"sum by (arm, version) ({name}_{part}_bytes{{{HERE}}})", f"{{{{arm}}}} {{{{version}}}} {what} {part}"
            )
            for part in ("used", "reserved")
        ]

    return [
        stat(
            "Build",
            [target(f"serin_build_info{{{HERE}}}", "{{version}} {{arch}}, CUDA: {{cuda}}")],
            text="name",
            width=8,
        ),
        stat("Up for", [target(f"serin_uptime_seconds{{{HERE}}}", "up")], "s", width=4),
        stat(
            "Ledger",
            [target(f"serin_ledger_failing{{{HERE}}}", "ledger")],
            "none",
            width=4,
            mappings=[
                {
                    "type": "value",
                    "options": {
                        "0": {"text": "written", "color": "green", "index": 0},
                        "1": {"text": "failing", "color": "red", "index": 1},
                    },
                }
            ],
        ),
        stat(
            "Not freed by unloads", [target(f"serin_unload_leaked_bytes_total{{{HERE}}}", "leaked")], "bytes", width=4
        ),
        stat("Log lines dropped", [target(f"serin_log_lines_dropped_total{{{HERE}}}", "dropped")], width=4),
        series("Arena of each model", both("arena", "serin_arena"), "bytes"),
        series("Pool of each model on the GPU", both("pool", "serin_card_pool"), "bytes", about="0 without a GPU."),
        series("Resident memory of the process", [target(f"serin_resident_bytes{{{HERE}}}", "resident")], "bytes"),
        series(
            "Unloads: time until the memory was freed, mean",
            [target(f"serin_unload_seconds_sum{{{HERE}}} / (serin_unload_seconds_count{{{HERE}}} > 0)", "mean")],
            "s",
        ),
        series(
            "Alerts by webhook and result",
            [
                target(
                    f"sum by (webhook, fate) (increase(serin_alerts_total{{{HERE}}}[$__rate_interval]))",
                    "{{webhook}} {{fate}}",
                ),
                target(f"sum by (webhook) (serin_alerts_waiting{{{HERE}}})", "{{webhook}} waiting"),
            ],
        ),
        series(
            "GPU memory",
            [target(f"serin_device_memory_{part}_bytes{{{HERE}}}", part) for part in ("used", "free")],
            "bytes",
        ),
        series("GPU utilisation", [target(f"serin_device_utilisation_ratio{{{HERE}}}", "busy")], "percentunit"),
        series("GPU power", [target(f"serin_device_power_watts{{{HERE}}}", "power")], "watt"),
        series("GPU temperature", [target(f"serin_device_temperature_celsius{{{HERE}}}", "temperature")], "celsius"),
        series("GPU clocks", [target(f"serin_device_clock_hertz{{{HERE}}}", "{{clock}}")], "hertz"),
        series("GPU slowed down by heat or power", [target(f"serin_device_throttled{{{HERE}}}", "throttled")], "none"),
    ]


def annotations():
    """A mark for every decision of the rollout."""
    return [
        {
            "name": "Decisions",
            "datasource": SOURCE,
            "enable": True,
            "hide": False,
            "iconColor": "purple",
            "expr": DECISIONS,
            "step": "30s",
            "titleFormat": "{{kind}}",
            "textFormat": "{{instance}}",
        }
    ]


def variables():
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "hide": 0,
            "multi": False,
            "includeAll": False,
            "refresh": 1,
            "regex": "",
            "options": [],
            "current": {"selected": True, "text": "Prometheus", "value": "prometheus"},
        },
        {
            "name": "instance",
            "label": "Server",
            "type": "query",
            "datasource": SOURCE,
            "hide": 0,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "refresh": 2,
            "sort": 1,
            "regex": "",
            "options": [],
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
            "query": {"query": "label_values(serin_build_info, instance)", "refId": "instances"},
        },
    ]


def placed(panels):
    """Panels in reading order, with ids, places and reference ids."""
    x = y = row = 0
    for number, one in enumerate(panels, 1):
        width, height = one.pop("size")
        if x + width > WIDTH:
            x, y, row = 0, y + row, 0
        one["id"], one["gridPos"] = number, {"x": x, "y": y, "w": width, "h": height}
        for letter, query in zip("ABCDEFGH", one["targets"]):
            query["refId"] = letter
        if (most := one.pop("max", None)) is not None:
            one["fieldConfig"]["defaults"]["max"] = most
        x, row = x + width, max(row, height)
    return panels


def dashboard(uid, title, about, panels):
    links = [
        {
            "type": "dashboards",
            "title": "serin",
            "tags": ["serin"],
            "asDropdown": False,
            "includeVars": True,
            "keepTime": True,
            "targetBlank": False,
            "icon": "external link",
            "tooltip": "",
            "url": "",
        }
    ]
    return {
        "uid": uid,
        "title": title,
        "description": about,
        "tags": ["serin"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "links": links,
        "annotations": {"list": annotations()},
        "templating": {"list": variables()},
        "panels": placed(panels),
    }


def dashboards():
    return {
        "rollout": dashboard(
            "serin-rollout",
            "serin: rollout",
            "The canary beside stable: gates, evidence, weight, decisions.",
            rollout_panels(),
        ),
        "serving": dashboard(
            "serin-serving", "serin: serving", "Requests, latency, tokens and KV cache of both arms.", serving_panels()
        ),
        "machine": dashboard(
            "serin-machine", "serin: memory and device", "Memory of both models, the GPU, alerts.", machine_panels()
        ),
    }


def main():
    stale = []
    for name, content in dashboards().items():
        path, text = FOLDER / f"{name}.json", json.dumps(content, indent=1) + "\n"
        if not path.is_file() or path.read_text() != text:
            stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and stale:
        raise SystemExit(f"not what scripts/make_dashboards.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
