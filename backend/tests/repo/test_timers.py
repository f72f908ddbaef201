"""Every timer from client to provider stands in one table, with its value and in an order that holds."""

import re
from pathlib import Path

import pytest
import yaml

from knowalledge.gateway.settings import RequestSettings
from knowalledge.net import wsgi_body, wsgi_server
from knowalledge.net.http import client, connection
from knowalledge.quota.settings import QueueSettings
from knowalledge.web.settings import ServerSettings

ROOT = Path(__file__).parents[3]
GOOGLE_IDLE_S = 600.0  # cloud.google.com/load-balancing/docs/https/request-distribution


def seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+) ?s?", text)
    assert match is not None, text
    return float(match[1])


def nginx(file: str, directive: str) -> float:
    found = re.findall(rf"^\s*{directive}\s+(\w+);", (ROOT / "deploy/nginx" / file).read_text(), re.M)
    assert found, directive
    return max(map(seconds, found))


def varnish(name: str) -> float:
    return max(
        map(seconds, re.findall(rf"\.{name} = (\w+);", (ROOT / "deploy/varnish/default.vcl").read_text()))
    )


def in_force() -> dict[str, float]:
    """The timers as the files and the code have them."""
    ingress = next(yaml.safe_load_all((ROOT / "k8s/components/ingress-nginx/ingress.yaml").read_text()))[
        "metadata"
    ]["annotations"]
    request, server = RequestSettings(), ServerSettings()
    return {
        "Google balancer, idle": GOOGLE_IDLE_S,
        "nginx `client_header_timeout`": nginx("nginx.conf", "client_header_timeout"),
        "nginx `client_body_timeout`": nginx("nginx.conf", "client_body_timeout"),
        "nginx `send_timeout`": nginx("nginx.conf", "send_timeout"),
        "nginx `keepalive_timeout` to replicas": nginx("upstreams.conf", "keepalive_timeout"),
        "nginx `proxy_connect_timeout`": nginx("proxy.conf", "proxy_connect_timeout"),
        "nginx `proxy_read_timeout`": nginx("proxy.conf", "proxy_read_timeout"),
        "Ingress `proxy-read-timeout`": float(ingress["nginx.ingress.kubernetes.io/proxy-read-timeout"]),
        "Varnish `first_byte_timeout`": varnish("first_byte_timeout"),
        "Varnish `between_bytes_timeout`": varnish("between_bytes_timeout"),
        "gateway, head": wsgi_server.HEADERS_S,
        "gateway, body": wsgi_body.SILENCE_S,
        "gateway, write": wsgi_server.WRITE_S,
        "`server.keepalive`": server.keepalive,
        "`server.heartbeat`": server.heartbeat,
        "`request.max_timeout`": request.max_timeout,
        "`request.timeout`": request.timeout,
        "`queue.timeout`": QueueSettings().timeout,
        "provider, connect": connection.CONNECT_TIMEOUT_S,
        "provider, idle": client.IDLE_S,
    }


def rows() -> list[list[str]]:
    page = (ROOT / "docs/operations/timers.md").read_text()
    table = page.partition("<!-- timers -->")[2].partition("<!-- end of timers -->")[0]
    lines = [it for it in table.splitlines() if it.startswith("|")][2:]
    return [[cell.strip() for cell in it.strip("|").split("|")] for it in lines]


def test_the_table_has_every_timer_with_its_value() -> None:
    assert {row[0]: seconds(row[1]) for row in rows()} == in_force()


@pytest.mark.parametrize(("name", "above"), [(row[0], row[3]) for row in rows() if row[3]])
def test_who_waits_for_another_waits_longer(name: str, above: str) -> None:
    timers = in_force()
    name_of = {it.removesuffix(" to replicas"): it for it in timers}
    assert timers[name] < timers[name_of[above]]


def test_whoever_is_waited_for_is_named() -> None:
    """What the order hangs on: none of these may lose its row."""
    named = {(row[0], row[3]) for row in rows()}
    assert {
        ("Google balancer, idle", "`server.keepalive`"),
        ("`request.max_timeout`", "nginx `proxy_read_timeout`"),
        ("`request.max_timeout`", "Ingress `proxy-read-timeout`"),
        ("`queue.timeout`", "`request.timeout`"),
    } <= named
