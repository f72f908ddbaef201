"""Grafana's dashboards from monitoring/grafana/dashboards.yaml; `make manifests` writes them."""

import json
from pathlib import Path
from typing import Any

import yaml

BOARDS: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).resolve().parent.parent / "monitoring/grafana/dashboards.yaml").read_text()
)
SOURCE = {"type": "prometheus", "uid": "prometheus"}
# A variable of a dashboard, and the series whose label it lists.
VARIABLES = {"model": "knowalledge_requests_total", "target": "knowalledge_quota_limit"}


def render(name: str) -> str:
    """A dashboard as Grafana's JSON."""
    board = BOARDS[name]
    panels: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(board["panels"], 1):
        drawn = _panel(number, panel, x, y)
        panels.append(drawn)
        x += panel["width"]
        if x >= 24:
            x, y = 0, y + drawn["gridPos"]["h"]
    written = {
        "uid": f"knowalledge-{name}",
        "title": board["title"],
        "tags": ["knowalledge"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "editable": False,
        "links": [_link(other) for other in BOARDS if other != name],
        "templating": {"list": [_variable(it) for it in board["variables"]]},
        "panels": panels,
    }
    return json.dumps(written, indent=1) + "\n"


def _panel(number: int, panel: dict[str, Any], x: int, y: int) -> dict[str, Any]:
    stat = panel.get("kind") == "stat"
    queries = panel.get("queries") or {"__auto": panel["query"]}
    drawn: dict[str, Any] = {
        "id": number,
        "title": panel["title"],
        "description": panel["good"],
        "type": panel.get("kind", "timeseries"),
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel["width"], "h": 4 if stat else 8},
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for index, (legend, query) in enumerate(queries.items())
        ],
    }
    if "detail" in panel:
        url = f"/d/knowalledge-{panel['detail']}?${{__url_time_range}}&${{__all_variables}}"
        drawn["links"] = [{"title": BOARDS[panel["detail"]]["title"], "url": url}]
    if stat:
        drawn["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "graphMode": "area",
            "colorMode": "none",
        }
    else:
        drawn["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return drawn


def _link(name: str) -> dict[str, Any]:
    title = BOARDS[name]["title"].partition(": ")[2]
    return {
        "title": title,
        "type": "link",
        "url": f"/d/knowalledge-{name}",
        "keepTime": True,
        "includeVars": True,
    }


def _variable(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({VARIABLES[name]}, {name})", "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
