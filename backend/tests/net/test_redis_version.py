"""Servers that are too old are refused when the gateway starts, and no others."""

from types import SimpleNamespace

import pytest

from knowalledge.net.redis import version
from knowalledge.net.redis.version import is_too_old, unsupported
from tests.support.redis_servers import VERSIONS, server, serving

OLD = ("2.8.24", "5.0.14", "6.0.16")
SUPPORTED = ("6.2.0", "7.0.15", "10.1", "", "of unknown version", "6")


@pytest.mark.parametrize("text", [*OLD, *SUPPORTED])
def test_redis_before_6_2_is_too_old(text: str) -> None:
    assert is_too_old(text) == (text in OLD)


def test_an_old_server_is_a_fault_of_the_configuration_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(info=lambda section: {"redis_version": "5.0.14"})
    monkeypatch.setattr(version, "any_node", lambda client: old)
    fault = unsupported("redis://127.0.0.1:1/0", 0.1)
    assert fault is not None
    assert (fault.key, "5.0.14" in fault.wrong, "6.2" in fault.cure) == ("redis_url", True, True)


@pytest.mark.parametrize("name", VERSIONS)
def test_a_supported_server_is_no_fault(name: str) -> None:
    with serving(server(name)) as redis:
        port = redis.connection_pool.connection_kwargs["port"]
        assert unsupported(f"redis://127.0.0.1:{port}/0", 1.0) is None


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1/0", "redis+cluster://127.0.0.1:1"])
def test_a_server_that_is_away_is_no_fault_of_the_configuration(url: str) -> None:
    assert unsupported(url, 0.2) is None
