"""A provider's stream, chunk by chunk."""

from collections.abc import Generator

from knowalledge.gateway.domain.answer import Chunk
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.ports import Provider


def each(provider: Provider, prompt: Prompt, timeout: float) -> Generator[Chunk, None, None]:
    """The chunks of a stream one by one, without its batches; closing it closes the stream."""
    batches = provider.stream(prompt, timeout)
    try:
        for batch in batches:
            assert batch, "an empty batch"
            yield from batch
    finally:
        batches.close()
