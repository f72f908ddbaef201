"""Writes what would otherwise be said twice (`make manifests`); a test fails while any of it lags behind.

- k8s/components/monitoring/prometheusrule.yaml from monitoring/prometheus/rules
- monitoring/grafana/dashboards from monitoring/grafana/dashboards.yaml
- the list of settings at the end of k8s/base/gateway.yaml from the settings table
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grafana
import yaml

from knowalledge.config.settings import SETTINGS
from knowalledge.config.strict_yaml import parse_yaml
from knowalledge.core.parsers import written

ROOT = Path(__file__).resolve().parent.parent
MARK = "# -- every other setting, its default and its reason; written by `make manifests` --\n"


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


def settings_block(head: str) -> str:
    """The settings that the file does not set above, each ready to be uncommented."""
    given = parse_yaml(head.encode()).lines
    rows = [row for row in SETTINGS if not row.secret and row.key not in given]
    return MARK + "".join(
        f"# {it.key}: {written(it.parse, it.default)}    # {it.description}\n" for it in rows
    )


def gateway() -> str:
    head = (ROOT / "k8s/base/gateway.yaml").read_text().partition(MARK)[0]
    return head + settings_block(head)


OUTPUTS: dict[str, Callable[[], str]] = {
    "k8s/components/monitoring/prometheusrule.yaml": prometheus_rule,
    "k8s/base/gateway.yaml": gateway,
    **{
        f"monitoring/grafana/dashboards/{name}.json": partial(grafana.render, name) for name in grafana.BOARDS
    },
}


def main() -> None:
    for name, write in OUTPUTS.items():
        (ROOT / name).write_text(write())
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
