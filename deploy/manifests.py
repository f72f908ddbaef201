"""Writes what would otherwise be said twice (`make manifests`); a test fails while any of it lags behind.

- k8s/components/monitoring/prometheusrule.yaml from monitoring/prometheus/rules
- monitoring/grafana/dashboards/overview.json from the panels below
- the list of settings at the end of k8s/base/gateway.yaml from the settings table
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from knowalledge.config.settings import SETTINGS

ROOT = Path(__file__).resolve().parent.parent
MARK = "# -- every other setting, its default and its reason; written by `make manifests` --\n"

# A row: (title, unit, kind, width, ((legend, query), ...)). Widths of a line add up to 24.
Panel = tuple[str, str, str, int, tuple[tuple[str, str], ...]]
RATE = "[$__rate_interval]"
OF_MODEL = 'model=~"$model"'


def quantiles(metric: str, by: str, where: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"p{int(q * 100)} {{{{{by}}}}}",
            f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}{RATE})))",
        )
        for q in (0.5, 0.95)
    )


PANELS: tuple[Panel, ...] = (
    ("Requests", "reqps", "stat", 4, (("", f"sum(rate(knowalledge_requests_total{{{OF_MODEL}}}{RATE}))"),)),
    (
        "Answered",
        "percentunit",
        "stat",
        4,
        (
            (
                "",
                f'sum(rate(knowalledge_requests_total{{{OF_MODEL}, outcome=~"ok|cached|shared|stale"}}{RATE}))'
                f" / sum(rate(knowalledge_requests_total{{{OF_MODEL}}}{RATE}))",
            ),
        ),
    ),
    (
        "Provider's 429",
        "percentunit",
        "stat",
        4,
        (
            (
                "",
                f'(sum(rate(knowalledge_upstream_calls_total{{outcome="provider_limited"}}{RATE})) or vector(0))'
                f" / sum(rate(knowalledge_upstream_calls_total{RATE}))",
            ),
        ),
    ),
    (
        "Waiting for quota",
        "short",
        "stat",
        4,
        (("", "sum(max by (target, priority) (knowalledge_queue_depth))"),),
    ),
    ("Replicas", "short", "stat", 4, (("", 'sum(up{job="knowalledge"})'),)),
    ("Replicas without Redis", "short", "stat", 4, (("", "sum(knowalledge_quota_degraded)"),)),
    (
        "Spent of each window",
        "percentunit",
        "timeseries",
        12,
        (
            (
                "{{target}} {{window}}",
                "max by (target, window) (knowalledge_quota_used / knowalledge_quota_limit)",
            ),
        ),
    ),
    (
        "Waiting, by level",
        "short",
        "timeseries",
        6,
        (("{{priority}}", "sum by (priority) (max by (target, priority) (knowalledge_queue_depth))"),),
    ),
    (
        "Wait of those who waited, p95",
        "s",
        "timeseries",
        6,
        (quantiles("knowalledge_queue_wait_seconds", "priority")[1],),
    ),
    (
        "Requests by how they ended",
        "reqps",
        "timeseries",
        12,
        (("{{outcome}}", f"sum by (outcome) (rate(knowalledge_requests_total{{{OF_MODEL}}}{RATE}))"),),
    ),
    ("Time to the end", "s", "timeseries", 6, quantiles("knowalledge_request_seconds", "model", OF_MODEL)),
    (
        "Time to the first token of streams",
        "s",
        "timeseries",
        6,
        quantiles("knowalledge_first_token_seconds", "model", OF_MODEL),
    ),
    (
        "Calls to providers by how they ended",
        "reqps",
        "timeseries",
        12,
        (
            (
                "{{target}} {{outcome}}",
                f"sum by (target, outcome) (rate(knowalledge_upstream_calls_total{RATE}))",
            ),
        ),
    ),
    ("Time of provider calls", "s", "timeseries", 6, quantiles("knowalledge_upstream_seconds", "target")),
    (
        "Tokens",
        "short",
        "timeseries",
        6,
        (
            ("{{kind}} a second", f"sum by (kind) (rate(knowalledge_tokens_total{{{OF_MODEL}}}{RATE}))"),
            (
                "saved by {{layer}}",
                f"sum by (layer) (rate(knowalledge_cache_saved_tokens_total{{{OF_MODEL}}}{RATE}))",
            ),
        ),
    ),
    (
        "Cache lookups",
        "reqps",
        "timeseries",
        12,
        (("{{layer}} {{result}}", f"sum by (layer, result) (rate(knowalledge_cache_lookups_total{RATE}))"),),
    ),
    (
        "HTTP answers",
        "reqps",
        "timeseries",
        6,
        (("{{route}} {{status}}", f"sum by (route, status) (rate(knowalledge_http_responses_total{RATE}))"),),
    ),
    (
        "Redis",
        "short",
        "timeseries",
        6,
        (
            ("commands a second", f"sum(rate(redis_commands_processed_total{RATE}))"),
            ("memory, share of its bound", "max(redis_memory_used_bytes / redis_memory_max_bytes)"),
        ),
    ),
)


def dashboard() -> str:
    """The overview: what a person on duty looks at first."""
    source = {"type": "prometheus", "uid": "prometheus"}
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, (title, unit, kind, width, queries) in enumerate(PANELS, 1):
        height = 4 if kind == "stat" else 8
        panel = {
            "id": number,
            "title": title,
            "type": kind,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": width, "h": height},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [
                {
                    "refId": chr(ord("A") + index),
                    "expr": query,
                    "legendFormat": legend or "__auto",
                    "datasource": source,
                }
                for index, (legend, query) in enumerate(queries)
            ],
        }
        if kind == "stat":
            panel["options"] = {
                "reduceOptions": {"calcs": ["lastNotNull"]},
                "graphMode": "area",
                "colorMode": "none",
            }
        else:
            panel["options"] = {
                "legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        panels.append(panel)
        x += width
        if x >= 24:
            x, y = 0, y + height
    model = {
        "name": "model",
        "type": "query",
        "datasource": source,
        "query": {"query": "label_values(knowalledge_requests_total, model)", "refId": "model"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    board = {
        "uid": "knowalledge-overview",
        "title": "Knowalledge: overview",
        "tags": ["knowalledge"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "editable": False,
        "templating": {"list": [model]},
        "panels": panels,
    }
    return json.dumps(board, indent=1) + "\n"


def prometheus_rule() -> str:
    groups = []
    for file in sorted((ROOT / "monitoring/prometheus/rules").glob("*.yml")):
        groups += yaml.safe_load(file.read_text())["groups"]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "knowalledge", "labels": {"app.kubernetes.io/name": "knowalledge"}},
        "spec": {"groups": groups},
    }
    return "# Written from monitoring/prometheus/rules by `make manifests`.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=120
    )


def shown(default: Any) -> Any:
    """A default as one would write it in YAML."""
    if isinstance(default, dict):
        return "{" + ", ".join(f"{shown(key)}: {shown(value)}" for key, value in default.items()) + "}"
    return getattr(default, "label", default) if default != "" else '""'


def settings_block() -> str:
    lines = []
    for row in SETTINGS:
        if row.secret:
            continue
        lines.append(f"# {row.key}: {shown(row.default)}    # {row.description}\n")
    return MARK + "".join(lines)


def gateway() -> str:
    written = (ROOT / "k8s/base/gateway.yaml").read_text()
    return written.partition(MARK)[0] + settings_block()


OUTPUTS = {
    "k8s/components/monitoring/prometheusrule.yaml": prometheus_rule,
    "monitoring/grafana/dashboards/overview.json": dashboard,
    "k8s/base/gateway.yaml": gateway,
}


def main() -> None:
    for name, write in OUTPUTS.items():
        (ROOT / name).write_text(write())
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
