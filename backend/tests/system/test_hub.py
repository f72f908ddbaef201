"""No call holds the hub: everybody who streams shares it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.system.processes import running, simulator

pytestmark = pytest.mark.system

CONFIG = """
models:
  m: {{targets: [{{name: t, provider: gemini, credentials: anonymous, base_url: "{google}"}}]}}
"""


async def stream(port: int) -> str:
    """One streamed answer, as it came."""
    body = json.dumps({"prompt": "hi", "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /api/v1/generate HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    found = await reader.read()
    writer.close()
    await writer.wait_closed()
    return found.decode()


async def streams(port: int, count: int) -> list[str]:
    return await asyncio.gather(*(stream(port) for _ in range(count)))


@pytest.fixture
def google(tmp_path: Path) -> Iterator[str]:
    with simulator(tmp_path, "--token-ms", "50", "--output-tokens", "20") as address:
        yield address


def run(google: str, folder: Path, count: int, *slow: str) -> str:
    """What the watch of a gateway says after so many concurrent streams."""
    config, log = folder / "c.yaml", folder / "watch.log"
    config.write_text(CONFIG.format(google=google))
    port = free_port()
    arguments = (str(config), f"127.0.0.1:{port}", str(log), *slow)
    with running("tests.system.watched", *arguments, log=folder / "gateway.log"):
        asyncio.run(streams(port, 2))  # what is done once is done
        log.write_text("")
        answers = asyncio.run(streams(port, count))
    assert all("event: done" in it for it in answers)
    return log.read_text()


def test_two_hundred_streams_at_once_never_hold_the_hub(google: str, tmp_path: Path) -> None:
    assert run(google, tmp_path, 200) == ""


def test_the_watch_sees_a_call_that_blocks(google: str, tmp_path: Path) -> None:
    assert "asleep" in run(google, tmp_path, 1, "0.08")
