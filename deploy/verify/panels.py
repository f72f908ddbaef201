"""Stands in for Grafana where its image cannot be had: the same files, the same queries, plain pictures.

It finds the data source and the dashboards where Grafana would, by the provisioning files, asks Prometheus every
query of every panel over the last 15 minutes, and draws one line a series. What it proves: the files are mounted where
they are looked for, the data source answers, and each panel has something to show. What it cannot: how Grafana draws.
`python panels.py` serves port 3000; /api/health as Grafana's.
"""

import html
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

PROVISIONING = Path("/etc/grafana/provisioning")
SPAN_S, STEP_S = 900, 15
VARIABLES = {"$__rate_interval": "1m", "$model": ".*", "$target": ".*"}
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")
STYLE = """body{font:13px sans-serif;margin:1em;background:#fafafa}p{color:#555}
main{display:grid;grid-template-columns:repeat(24,1fr);gap:8px}
section{background:#fff;border:1px solid #ddd;padding:6px}
h2{font-size:13px;margin:0 0 4px}svg{width:100%;height:70px;display:block}small{display:block}b{color:#b00}"""


def provisioned(kind: str, key: str) -> str:
    """The value of `key` in the only provisioning file of this kind; there is no YAML in the standard library."""
    (file,) = (PROVISIONING / kind).glob("*.y*ml")
    found = re.search(rf"\b{key}: ([^\s,}}]+)", file.read_text())
    if found is None:
        raise ValueError(f"{file} says no {key}")
    return found[1]


def asked(query: str) -> list[dict[str, Any]]:
    """The series that answer over the last 15 minutes."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    now = time.time()
    parts = urlencode({"query": query, "start": now - SPAN_S, "end": now, "step": STEP_S})
    with urlopen(f"{provisioned('datasources', 'url')}/api/v1/query_range?{parts}", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def drawn(panel: dict[str, Any]) -> str:
    """A panel: one line a series, the last value of each, or the word that there is nothing."""
    lines: list[str] = []
    last: list[str] = []
    series = [it for target in panel["targets"] for it in asked(target["expr"])]
    points = [[(float(t), float(v)) for t, v in it["values"] if v != "NaN"] for it in series]
    top = max((v for line in points for _, v in line), default=0.0) or 1.0
    began = time.time() - SPAN_S
    for number, (it, line) in enumerate(zip(series, points, strict=True)):
        if not line:
            continue
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{(t - began) / SPAN_S * 300:.1f},{68 - v / top * 64:.1f}" for t, v in line)
        lines.append(f'<polyline fill="none" stroke="{colour}" points="{path}"/>')
        name = ", ".join(f"{k}={v}" for k, v in sorted(it["metric"].items()) if k != "__name__")
        if len(last) < 6:
            last.append(f'<small style="color:{colour}">{html.escape(name)} {line[-1][1]:.4g}</small>')
    place = panel["gridPos"]
    picture = f'<svg viewBox="0 0 300 70" preserveAspectRatio="none">{"".join(lines)}</svg>{"".join(last)}'
    return (
        f'<section style="grid-column:{place["x"] + 1}/span {place["w"]}"><h2>{html.escape(panel["title"])}</h2>'
        f"{picture if lines else '<b>nothing</b>'}</section>"
    )


def page() -> str:
    boards = sorted(Path(provisioned("dashboards", "path")).glob("*.json"))
    drawings = []
    for file in boards:
        board = json.loads(file.read_text())
        panels = "".join(drawn(it) for it in board["panels"] if "targets" in it)
        drawings.append(f"<h1>{html.escape(board['title'])}</h1><main>{panels}</main>")
    return (
        '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5">'
        f"<title>Dashboards</title><style>{STYLE}</style>"
        "<p>Not Grafana: a stand-in that draws its dashboards, where its image cannot be had.</p>"
        + "".join(drawings)
    )


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        healthy = self.path == "/api/health"
        kind, body = ("application/json", '{"database": "ok"}') if healthy else ("text/html", page())
        data = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_HEAD = do_GET


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
