"""Asks a Prometheus every query of every dashboard: `python dashboards.py http://127.0.0.1:9090`.

A panel whose query answers nothing is named, and the exit code is 1: a misspelt series looks just like that.
"""

import json
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

FOLDER = Path(__file__).resolve().parents[2] / "monitoring/grafana/dashboards"
VARIABLES = {"$__rate_interval": "1m", "$model": ".*", "$target": ".*"}


def main() -> int:
    empty, asked = [], 0
    for file in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                query = target["expr"]
                for name, value in VARIABLES.items():
                    query = query.replace(name, value)
                with urlopen(
                    f"{sys.argv[1]}/api/v1/query?{urlencode({'query': query})}", timeout=10
                ) as answer:
                    found = json.load(answer)["data"]["result"]
                asked += 1
                if not any(it["value"][1] != "NaN" for it in found):
                    empty.append(f"{file.name}: {panel['title']}: {query}")
    sys.stdout.write("".join(f"EMPTY {line}\n" for line in empty))
    sys.stdout.write(f"{asked} queries, {len(empty)} without an answer\n")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main())
