"""A real application before a provider that knows everything."""

import zlib
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge import infrastructure
from knowalledge.config.settings import Settings
from knowalledge.providers import registry
from tests.support.doubles import ManualClock
from tests.support.fake_provider import FakeProvider

CONFIG = "models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}\n"


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def build(
    provider: FakeProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, path: Any, extra: str = ""
) -> Flask:
    config = path / "c.yaml"
    config.write_text(CONFIG + extra)
    monkeypatch.setattr(registry, "build", lambda spec, clock: provider)
    monkeypatch.setattr(infrastructure, "SystemClock", lambda: clock)
    return wiring.create_app(Settings.load(environ={}, config=str(config)))


@pytest.fixture
def client(
    provider: FakeProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, store: str
) -> FlaskClient:
    return build(provider, clock, monkeypatch, tmp_path, store).test_client()


@pytest.fixture
def alone(
    provider: FakeProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> FlaskClient:
    return build(provider, clock, monkeypatch, tmp_path).test_client()


def png(width: int = 2, height: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
        + chunk(b"IDAT", zlib.compress(bytes(64)))
        + chunk(b"IEND", b"")
    )
