"""Gateways whose callers authenticate, over an SQLite file of each test's own."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.core.clock import SystemClock
from knowalledge.identity.domain.principals import Grant, RoleName
from knowalledge.identity.feature import open_administration, open_database, prepare
from knowalledge.identity.service.administration import Administration
from knowalledge.providers import registry
from tests.support.web_app import ScriptedProvider

CONFIG = """
models:
  m: {targets: [{name: t, provider: openai, api_key: k}]}
  other: {targets: [{name: u, provider: openai, api_key: k}]}
"""


class House:
    """One database, and gateways in front of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients: list[FlaskClient] = []
        self.url = f"sqlite:///{folder}/k.db"
        self._database = open_database(self.url)
        prepare(self._database)
        settings = Settings.load({"auth.mode": "required"}, environ={}).auth
        self.admin: Administration = open_administration(settings, self._database, SystemClock())

    def gateway(self, extra: str = "", values: Mapping[str, object] = MappingProxyType({})) -> FlaskClient:
        config = self._folder / "c.yaml"
        config.write_text(CONFIG + extra)
        unlimited = dict.fromkeys(("limits.generate", "limits.read", "limits.admin", "limits.anonymous"), "")
        values = {"auth.mode": "required", "database_url": self.url, **unlimited, **values}
        client = wiring.create_app(Settings.load(values, environ={}, config=str(config))).test_client()
        self._clients.append(client)
        return client

    def key(self, role: RoleName = "user", tenant: str = "acme", user: str = "", **grant: object) -> str:
        name = user or f"{role}-person"
        self.admin.ensure_user("test", tenant, name, role)
        return self.admin.create_key("test", tenant, name, grant=Grant(**grant)).text  # type: ignore[arg-type]

    def close(self) -> None:
        for client in self._clients:
            client.application.extensions["knowalledge"].stop()
        self._database.close()


@pytest.fixture
def house(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[House]:
    monkeypatch.setattr(registry, "build", lambda *_: provider)
    house = House(tmp_path)
    yield house
    house.close()


def run_task(client: FlaskClient, name: str) -> None:
    """Run once what a replica runs again and again."""
    features = client.application.extensions["knowalledge"]._features
    (task,) = (task for feature in features for task in feature.tasks if task.name == name)
    task.run()


def poll(client: FlaskClient) -> None:
    """Learn of changes, as each replica does every 0.4 s."""
    run_task(client, "identity.poll")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
