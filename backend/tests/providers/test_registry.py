"""How a target's settings become a provider."""

import pytest

from knowalledge.app import provider_spec
from knowalledge.config.settings import Settings
from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.providers.registry import ProviderSpec, build
from tests.contract.conftest import PROMPT
from tests.contract.provider_dialects import DIALECTS, Dialect, OpenAiDialect
from tests.support.loopback import listening, replies, serving

S = 20.0
PROXY = "KNOWALLEDGE_PROVIDER__PROXY"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
def test_a_provider_elsewhere_is_asked_through_the_proxy(dialect: Dialect) -> None:
    heads: list[bytes] = []

    with listening(lambda wire: heads.append(wire.recv(65536))) as port:
        target = Settings.load(environ={}).models[0].targets[0]
        settings = Settings.load(environ={PROXY: f"http://127.0.0.1:{port}"})
        spec = provider_spec(target, settings)
        assert spec.proxy == f"http://127.0.0.1:{port}"
        elsewhere = ProviderSpec(
            dialect.name, "m", "http://elsewhere.example", "p", "l", "k", proxy=spec.proxy
        )
        provider = build(elsewhere, SystemClock())
        with pytest.raises(e.ProviderUnavailable):
            provider.complete(PROMPT, S)
        provider.close()

    assert heads[0].startswith(b"POST http://elsewhere.example/")


def test_a_provider_on_this_machine_is_asked_directly() -> None:
    form = OpenAiDialect()
    with serving(replies(form.answer())) as server:
        provider = build(ProviderSpec("openai", "m", server.url, proxy="http://127.0.0.1:1"), SystemClock())
        assert provider.complete(PROMPT, S).text == "hello"
        provider.close()
