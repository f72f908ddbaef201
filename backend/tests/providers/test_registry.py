"""How a target's settings become a provider, and what a provider must declare for that."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from knowalledge.config.settings import Settings, SettingsError
from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.core.settings import Fault
from knowalledge.providers.descriptor import ProviderDescriptor, ProviderSpec
from knowalledge.providers.registry import PROVIDERS, build, semconv_name
from knowalledge.providers.settings import TargetSettings
from knowalledge.providers.targets import make_provider
from knowalledge.quota.domain.window import Count
from tests.contract.conftest import PROMPT
from tests.contract.provider_dialects import DIALECTS, Dialect, OpenAiDialect
from tests.support.fake_provider import FakeProvider
from tests.support.loopback import listening, replies, serving

S = 20.0
PROXY = "KNOWALLEDGE_PROVIDER__PROXY"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda it: it.name)
def test_a_provider_elsewhere_is_called_through_the_proxy(dialect: Dialect) -> None:
    heads: list[bytes] = []

    with listening(lambda wire: heads.append(wire.recv(65536))) as port:
        settings = Settings.load(environ={PROXY: f"http://127.0.0.1:{port}"})
        target = TargetSettings(
            "t", ProviderSpec(dialect.name, "m", "http://elsewhere.example", "p", "l", "k")
        )
        provider = make_provider(target, settings.provider.proxy, SystemClock())
        with pytest.raises(e.ProviderUnavailable):
            provider.complete(PROMPT, S)
        provider.close()

    assert heads[0].startswith(b"POST http://elsewhere.example/")


def test_a_provider_on_this_machine_is_called_directly() -> None:
    form = OpenAiDialect()
    with serving(replies(form.answer())) as server:
        provider = build(ProviderSpec("openai", "m", server.url, proxy="http://127.0.0.1:1"), SystemClock())
        assert provider.complete(PROMPT, S).text == "hello"
        provider.close()


def _needs_a_location(spec: ProviderSpec) -> Iterator[Fault]:
    if not spec.location:
        yield Fault("location", "is missing", "name the office")


@pytest.fixture
def pigeon(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """A provider that only this test knows, registered as any other."""
    provider = FakeProvider()
    descriptor = ProviderDescriptor(
        name="pigeon",
        create=lambda _spec, url, _clock: provider if url == "http://pigeon.example/loft" else FakeProvider(),
        default_url=lambda spec: f"http://pigeon.example/{spec.location}",
        faults=_needs_a_location,
        tokens=Count.OUTPUT,
        day_zone="Europe/Paris",
    )
    monkeypatch.setitem(PROVIDERS, "pigeon", descriptor)
    return provider


def settings_of(folder: Path, target: str) -> Settings:
    file = folder / "config.yaml"
    file.write_text(f"models: {{m: {{targets: [{{name: t, {target}}}]}}}}")
    return Settings.load(environ={}, config=str(file))


def test_a_registered_provider_is_configured_like_any_other(tmp_path: Path, pigeon: FakeProvider) -> None:
    settings = settings_of(tmp_path, "provider: pigeon, location: loft, quota: {rpm: 1, tpm: 2, tpd: 3}")
    target = settings.models[0].targets[0]
    windows = [(it.name, it.count, it.zone) for it in target.windows]
    assert windows == [
        ("rpm", Count.REQUESTS, ""),
        ("tpm", Count.OUTPUT, ""),
        ("tpd", Count.OUTPUT, "Europe/Paris"),
    ]
    assert make_provider(target, settings.provider.proxy, SystemClock()) is pigeon


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("provider: pigeon", ("models.m.targets[0].location", "is missing", "name the office")),
        (
            "provider: pigeon, location: l, client: aiplatform",
            ("models.m.targets[0].client", "aiplatform is for vertex only", "drop it, or write rest"),
        ),
        (
            "provider: gull",
            (
                "models.m.targets[0].provider",
                "'gull' is not valid",
                "choose one of vertex, gemini, openai, embedded, pigeon",
            ),
        ),
        (
            "location: l",
            (
                "models.m.targets[0].provider",
                "is missing",
                "choose vertex, gemini, openai, embedded or pigeon",
            ),
        ),
    ],
)
@pytest.mark.usefixtures("pigeon")
def test_a_registered_provider_has_its_place_in_every_fault(
    tmp_path: Path, target: str, fault: tuple[str, str, str]
) -> None:
    with pytest.raises(SettingsError) as raised:
        settings_of(tmp_path, target)
    assert [it[:3] for it in raised.value.faults] == [fault]


def test_spans_name_each_provider_as_opentelemetry_does() -> None:
    names = {name: semconv_name(name) for name in PROVIDERS}
    assert names == {
        "vertex": "gcp.vertex_ai",
        "gemini": "gcp.gemini",
        "openai": "openai",
        "embedded": "embedded",
    }
