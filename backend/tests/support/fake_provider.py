"""A provider in memory: it answers any JSON schema, counts its calls, and fails on demand."""

from collections.abc import Callable, Generator
from typing import Any

import gevent
import msgspec

from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings, Finish, Usage
from knowalledge.gateway.domain.prompt import Prompt, Text


def fill(schema: dict[str, Any], path: str = "x") -> Any:
    """A value that conforms to a schema; all its texts differ."""
    kind = schema["type"]
    if kind == "object":
        return {name: fill(part, f"{path} {name}") for name, part in schema["properties"].items()}
    if kind == "array":
        count = schema.get("minItems") or schema.get("maxItems", 3)
        return [fill(schema["items"], f"{path} {index}") for index in range(count)]
    return 0 if kind == "integer" else f"{path} text"


class FakeProvider:
    """Implements ``Provider``."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.error: Exception | None = None
        self.answers: list[str] = []  # answers of the next calls, instead of the default
        self.finish = Finish.STOP
        self.latency_s = 0.0
        self.wait: Callable[[float], None] = gevent.sleep

    @property
    def calls(self) -> int:
        return len(self.prompts)

    def _answer(self, prompt: Prompt) -> str:
        self.prompts.append(prompt)
        if self.latency_s:
            self.wait(self.latency_s)
        if self.error:
            raise self.error
        if self.answers:
            return self.answers.pop(0)
        if prompt.json_schema:
            return msgspec.json.encode(fill(msgspec.json.decode(prompt.json_schema))).decode()
        return f"answer {self.calls}"

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        text = self._answer(prompt)
        return Completion((Text(text),), self.finish, Usage(7, 90))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        text = self._answer(prompt)
        for index in range(0, len(text), 4):
            yield [Chunk(text[index : index + 4])]
            if self.latency_s:
                self.wait(self.latency_s)
        yield [Chunk(usage=Usage(7, 90), finish=self.finish)]

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        return Embeddings(((1.0,),) * len(inputs))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        return 7

    def ping(self, timeout: float) -> None: ...

    def close(self) -> None: ...
