"""A real application whose one target is a scripted provider."""

from collections.abc import Generator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings, Finish, Usage
from knowalledge.gateway.domain.prompt import Prompt, Text, ToolCall
from knowalledge.providers import registry

USAGE = Usage(5, 3)


class ScriptedProvider:
    """Implements ``Provider``: answers or fails as scripted, and records its calls."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.after = 0  # chunks before the error
        self.closed = False
        self.parts: tuple[Text | ToolCall, ...] = (Text("hello"), Text(" "), Text("world"))
        self.finish = Finish.STOP
        self.usage: Usage | None = USAGE
        self.prompts: list[Prompt] = []
        self.embedded: list[tuple[tuple[str, ...], int | None]] = []
        self.timeouts: list[float] = []

    @property
    def prompt(self) -> Prompt:
        return self.prompts[-1]

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        self._record(prompt, timeout)
        if self.error:
            raise self.error
        return Completion(self.parts, self.finish, self.usage)

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        self._record(prompt, timeout)
        try:
            for index, part in enumerate(self.parts):
                if self.error and index == self.after:
                    raise self.error
                yield [Chunk(part.text) if isinstance(part, Text) else Chunk(tool_calls=(part,))]
            yield [Chunk(usage=self.usage, finish=self.finish)]
        finally:
            self.closed = True

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        self.embedded.append((inputs, dimensions))
        return Embeddings(((0.5, -1.25),) * len(inputs), Usage(4))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        self._record(prompt, timeout)
        return max(5, sum(map(len, prompt.texts())) // 4)

    def ping(self, timeout: float) -> None: ...

    def close(self) -> None: ...

    def _record(self, prompt: Prompt, timeout: float) -> None:
        self.prompts.append(prompt)
        self.timeouts.append(timeout)


def application(
    provider: ScriptedProvider, folder: Path, monkeypatch: pytest.MonkeyPatch, quota: str
) -> Flask:
    # OpenAI's windows count output as well, so the reserved output shows in the statistics.
    config = folder / "c.yaml"
    target = f"{{name: t, provider: openai, api_key: k, quota: {quota}}}"
    config.write_text(f"models: {{m: {{targets: [{target}]}}}}\n")
    monkeypatch.setattr(registry, "build", lambda spec, clock: provider)
    return wiring.create_app(Settings.load(environ={}, config=str(config)))


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    """The configuration's line for the store of answers: empty, or the URL of an empty Redis."""
    if request.param == "memory":
        return ""
    request.getfixturevalue("redis_client")
    return f"redis_url: {request.getfixturevalue('redis_url')}\n"


@pytest.fixture
def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest.fixture
def client(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FlaskClient:
    """A gateway with a small quota: three requests a minute."""
    return application(provider, tmp_path, monkeypatch, "{rpm: 3, tpm: 1000}").test_client()


@pytest.fixture
def open_client(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FlaskClient:
    """A gateway whose quota is practically unlimited."""
    return application(provider, tmp_path, monkeypatch, "{rpm: 1000000, tpm: 1000000000}").test_client()


def held(client: FlaskClient) -> int:
    """The quota that running requests have reserved."""
    windows = client.get("/api/quota/stats").get_json()["targets"]["t"]["windows"]
    return sum(window["reserved"] for window in windows)


def outcomes(client: FlaskClient) -> dict[str, float]:
    """The number of requests by outcome."""
    counts: dict[str, float] = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("knowalledge_requests_total{"):
            outcome = line.split('outcome="')[1].split('"')[0]
            counts[outcome] = counts.get(outcome, 0) + float(line.rsplit(" ", 1)[1])
    return counts
