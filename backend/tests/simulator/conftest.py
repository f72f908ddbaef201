"""A simulator on a free port, in a thread with an event loop of its own."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from knowalledge_simulator.knobs import Knobs, patched
from knowalledge_simulator.provider import Provider
from knowalledge_simulator.server import serve


class SimulatorClient:
    """Requests to the running simulator."""

    def __init__(self, port: int, provider: Provider) -> None:
        self.port, self.provider = port, provider

    @contextmanager
    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Iterator[HTTPResponse]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            yield connection.getresponse()

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        with self.open(method, path, body, **headers) as response:
            return response.status, json.loads(response.read())

    def text(self, path: str, body: Any) -> str:
        with self.open("POST", path, body) as response:
            return response.read().decode()

    def set_knobs(self, **patch: Any) -> None:
        status, body = self.request("POST", "/_control", patch)
        assert status == 200, body

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.request("GET", "/_stats")[1]
        return stats


@pytest.fixture(scope="session")
def _running() -> Iterator[SimulatorClient]:
    loop = asyncio.new_event_loop()
    provider = Provider(Knobs(), time.monotonic)
    server = loop.run_until_complete(serve(provider, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield SimulatorClient(server.sockets[0].getsockname()[1], provider)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    server.close()
    loop.run_until_complete(asyncio.sleep(0.01))  # connections see that they are closed
    loop.close()


@pytest.fixture
def sim(_running: SimulatorClient) -> SimulatorClient:
    _running.provider.knobs = patched(Knobs(), {})
    _running.provider.reset()
    return _running
