"""Environments on one Redis: every key and every channel that exists begins with the prefix of one of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient
from redis import Redis

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.core.clock import SystemClock
from knowalledge.core.context import Priority
from knowalledge.net.redis.scripts import CommandExecutor
from knowalledge.providers import registry
from knowalledge.quota.commands import LocalUsage
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.ports import ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from tests.support.decisions import granted, queued
from tests.support.fake_provider import FakeProvider

PREFIXES = ("blue:", "green.1:")
CONFIG = """
redis: {{prefix: '{prefix}'}}
clients: {{rate: 100000/minute}}
cache: {{keep_warm: true}}
models: {{m: {{targets: [{{name: t, provider: gemini, api_key: k, quota: {{rpm: 1000}}}}]}}}}
"""
Start = Callable[[str], FlaskClient]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, redis_client: Redis) -> Start:
    """Starts a gateway of one environment, each with a provider of its own."""

    def start(prefix: str) -> FlaskClient:
        monkeypatch.setattr(registry, "build", lambda *_: FakeProvider())
        config = tmp_path / "c.yaml"
        config.write_text(CONFIG.format(prefix=prefix))
        settings = Settings.load({"redis_url": redis_url}, environ={}, config=str(config))
        return wiring.create_app(settings).test_client()

    return start


def keys(redis: Redis) -> list[str]:
    return [it.decode() for it in redis.keys("*")]  # type: ignore[union-attr]


def use(client: FlaskClient) -> str:
    """Everything that writes to Redis; how the answer was found."""
    assert client.get("/api/health/detailed").json["status"] == "ok"  # type: ignore[index]
    response = client.get("/api/v1/topics/light")
    assert response.status_code == 200
    for task in client.application.extensions["knowalledge"]._features:
        for it in task.tasks:
            it.run()
    return str(response.headers["Cache-Status"])


def test_every_key_of_an_environment_begins_with_its_prefix_and_none_answers_another(
    start: Start, redis_client: Redis
) -> None:
    clients = [start(prefix) for prefix in PREFIXES]
    found = [use(client) for client in clients]
    assert all("hit" not in it for it in found)  # the second was not answered by the first
    written = keys(redis_client)
    by_prefix = [{it.removeprefix(own) for it in written if it.startswith(own)} for own in PREFIXES]
    assert sum(map(len, by_prefix)) == len(written)
    for kind in ("kn:{t}:quota", "kn:{probe}", "kn:{cache}:e:", "kn:{cache}:popular", "knowalledge:clients"):
        assert all(any(kind in key for key in own) for own in by_prefix), kind


def test_every_channel_of_an_environment_begins_with_its_prefix(redis_client: Redis) -> None:
    windows = {"t": (Window("rpm", Count.REQUESTS, 1, 60),)}
    heard: list[str] = []

    class Listening:
        """A client that notes what is subscribed to and what is published."""

        def __init__(self, redis: CommandExecutor) -> None:
            self.execute_command = redis.execute_command

        def pubsub(self, **options: Any) -> Any: ...

    stores = [
        RedisQuotaStore(
            Listening(redis_client),
            windows,
            QueueRules(),
            SystemClock(),
            "a",
            auto_dispatch=False,
            prefix=prefix,
        )
        for prefix in PREFIXES
    ]
    untyped: Any = redis_client
    pubsub = untyped.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("*")
    pubsub.get_message(timeout=1)
    for number, store in enumerate(stores):
        store.join("t", lambda _: LocalUsage(({},), (0,), (1,), (), ()), 0)
        first = granted(store.reserve("t", ReservationRequest("1", TokenCost(1, 0))))
        queued(store.reserve("t", ReservationRequest("2", TokenCost(1, 0), Priority.HIGH, "", 1000.0)))
        store.release(first)
        message = pubsub.get_message(timeout=5)
        heard.append(message["channel"].decode())
        assert heard[-1] == store._channel == f"{PREFIXES[number]}kn:replica:a"
        gevent.sleep(0)
    pubsub.close()
