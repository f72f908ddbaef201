"""A provider's stream, chunk by chunk."""

from collections.abc import Generator

from knowalledge.gateway.domain.answer import Chunk
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.ports import Provider


def each(provider: Provider, prompt: Prompt, timeout: float) -> Generator[Chunk, None, None]:
    """The chunks of a stream without regard to which came together; closing it closes the stream."""
    batches = provider.stream(prompt, timeout)
    try:
        for batch in batches:
            assert batch, "nothing came, and it was given all the same"
            yield from batch
    finally:
        batches.close()
