"""Compares HTTP clients for provider calls under gevent: the CPU time of a call, and how each handles failures.

``make bench ONLY=clients``, or ``python -m bench.clients`` for the table alone. Each client runs in a process of its
own, patched and with 100 concurrent calls, against a server in another process that answers from memory. Rounds are
interleaved and the best one counts. Only the client's CPU time is measured.
"""

# ruff: noqa: PLC0415, ARG002 - a process imports only the client that it measures; Google's SDK takes no path

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from bench.report import Row, table

CALLS, STREAMS, PARALLEL = 1000, 250, 100
MODEL = "/v1beta/models/gemini-x"
BODY = b'{"contents":[{"role":"user","parts":[{"text":"What is a quota?"}]}]}'
USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 20, "totalTokenCount": 25}


def _answer(text: str, **more: object) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    return json.dumps(
        {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "gemini-x"}
    ).encode()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\nvary: Origin\r\n"
ANSWER = _answer("A quota is a limit. " * 10, finishReason="STOP")
UNARY = HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER
EVENTS = [b"data: " + _answer("A quota is ") + b"\r\n\r\n" for _ in range(19)]
EVENTS.append(b"data: " + _answer("a limit.", finishReason="STOP") + b"\r\n\r\n")
STREAM_HEAD = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS]


# -- the server --------------------------------------------------------------------------------------------------------


async def _serve() -> None:
    """The path selects the behaviour; ``/stats`` returns the counters."""
    stats = {"open": 0, "connections": 0, "dropped": 0}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stats["open"] += 1
        stats["connections"] += 1
        try:
            for number in count():
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                path = head.split(b" ")[1]
                if path.startswith(b"/deaf"):
                    await asyncio.sleep(0.5)
                    return
                _, _, length = head.partition(b"content-length: ")
                if length:
                    await reader.readexactly(int(length.split(b"\r\n")[0]))
                if path.startswith(b"/stats"):
                    body = json.dumps(stats).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                elif path.startswith(b"/trickle"):
                    writer.write(STREAM_HEAD)
                    for _ in range(200):
                        writer.write(b"1\r\n \r\n")
                        await writer.drain()
                        await asyncio.sleep(0.01)
                elif path.startswith(b"/drop") and number:
                    stats["dropped"] += 1
                    return
                elif path.startswith(b"/endless"):
                    writer.write(STREAM_HEAD + CHUNKS[0])
                    await reader.read(1)  # until the client disconnects
                    return
                elif b":stream" in path:
                    writer.write(STREAM_HEAD)
                    for chunk in CHUNKS:
                        writer.write(chunk)
                        await asyncio.sleep(0)  # sends the chunk in a packet of its own
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(UNARY)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            stats["open"] -= 1
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent exits


# -- the clients -------------------------------------------------------------------------------------------------------


class Client(ABC):
    """A client to be measured. ``call`` returns the body of a response, ``stream`` the data of its events."""

    @abstractmethod
    def __init__(self, url: str, size: int) -> None: ...

    @abstractmethod
    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes: ...

    @abstractmethod
    def stream(self, path: str, timeout: float) -> Iterator[bytes]: ...


class GatewayClient(Client):
    def __init__(self, url: str, size: int) -> None:
        from knowalledge.core.clock import SystemClock
        from knowalledge.net.http import client as http
        from knowalledge.net.http.connection import header_lines

        http.MAX_CONNECTIONS = size
        self._http = http.HttpClient(url, SystemClock())
        self._headers = header_lines({"content-type": "application/json"})

    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes:
        return self._http.post(path, body, self._headers, timeout).body

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        for events in self._http.events(path, BODY, self._headers, timeout):
            yield from events


HEADERS = {"content-type": "application/json"}


class GeventHttpClient(Client):
    def __init__(self, url: str, size: int) -> None:
        from geventhttpclient import HTTPClient

        parts = urlsplit(url)
        self._client = HTTPClient(parts.hostname or "", parts.port, concurrency=size, block_size=16384)
        self._pool: Any = self._client._connection_pool

    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes:
        self._pool.network_timeout = timeout
        response = self._client.post(path, body, HEADERS)
        try:
            return bytes(response.read())
        finally:
            response.release()

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        self._pool.network_timeout = timeout
        response = self._client.post(path, BODY, HEADERS)
        try:
            while line := response.readline(b"\n"):
                if line.startswith(b"data:"):
                    yield line[5:].strip()
        finally:
            response.release()


class Urllib3(Client):
    def __init__(self, url: str, size: int) -> None:
        import urllib3

        self._url = url
        self._pool = urllib3.PoolManager(maxsize=size, block=True, retries=False)

    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes:
        return self._pool.request("POST", self._url + path, body=body, headers=HEADERS, timeout=timeout).data

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        response = self._pool.request(
            "POST", self._url + path, body=BODY, headers=HEADERS, timeout=timeout, preload_content=False
        )
        rest = b""
        try:
            for block in response.stream(16384):
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        yield line[5:].strip()
            response.release_conn()
        except BaseException:
            response.close()
            raise


class Requests(Client):
    def __init__(self, url: str, size: int) -> None:
        import requests

        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", requests.adapters.HTTPAdapter(1, size, pool_block=True))

    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes:
        return self._session.post(self._url + path, body, headers=HEADERS, timeout=timeout).content

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        with self._session.post(
            self._url + path, BODY, headers=HEADERS, timeout=timeout, stream=True
        ) as response:
            for line in response.iter_lines(16384):
                if line.startswith(b"data:"):
                    yield line[5:].strip()


class Httpx(Client):
    module = "httpx"

    def __init__(self, url: str, size: int) -> None:
        from importlib import import_module

        httpx = import_module(self.module)
        limits = httpx.Limits(max_connections=size, max_keepalive_connections=size)
        self._client = httpx.Client(base_url=url, limits=limits, trust_env=False)

    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes:
        content: bytes = self._client.post(path, content=body, headers=HEADERS, timeout=timeout).content
        return content

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        with self._client.stream("POST", path, content=BODY, headers=HEADERS, timeout=timeout) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield line[5:].encode()


class Httpx2(Httpx):
    module = "httpx2"


class GoogleGenai(Client):
    """Google's SDK, which also parses the response into objects."""

    def __init__(self, url: str, size: int) -> None:
        import httpx2
        from google import genai

        limits = httpx2.Limits(max_connections=size, max_keepalive_connections=size)
        options = genai.types.HttpOptions(base_url=url, client_args={"limits": limits, "trust_env": False})
        self._client = genai.Client(api_key="k", http_options=options)

    def call(self, path: str, timeout: float, body: bytes = BODY) -> bytes:
        response = self._client.models.generate_content(model="gemini-x", contents="What is a quota?")
        return (response.text or "").encode()

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        for chunk in self._client.models.generate_content_stream(model="gemini-x", contents="What?"):
            yield (chunk.text or "").encode()


CLIENTS: dict[str, tuple[type[Client], str]] = {
    "this gateway's": (GatewayClient, "knowalledge"),
    "geventhttpclient": (GeventHttpClient, "geventhttpclient"),
    "urllib3": (Urllib3, "urllib3"),
    "requests": (Requests, "requests"),
    "httpx": (Httpx, "httpx"),
    "httpx2": (Httpx2, "httpx2"),
    "google-genai": (GoogleGenai, "google.genai"),
}
# google-genai chooses its own paths, so the server cannot misbehave towards it.
PROBED = [name for name in CLIENTS if name != "google-genai"]


# -- CPU of a call -----------------------------------------------------------------------------------------------------


def cost(name: str, url: str) -> dict[str, float]:
    """CPU milliseconds of this process per call and per stream."""
    from gevent.pool import Pool

    kind, _ = CLIENTS[name]
    client, pool = kind(url, PARALLEL), Pool(PARALLEL)

    def unary(_: int) -> None:
        if len(client.call(f"{MODEL}:generateContent", 30.0)) < 100:
            raise AssertionError("a short answer")

    def streamed(_: int) -> None:
        if sum(1 for _ in client.stream(f"{MODEL}:streamGenerateContent?alt=sse", 30.0)) != len(EVENTS):
            raise AssertionError("a short stream")

    result = {}
    for label, work, times in (("unary", unary, CALLS), ("stream", streamed, STREAMS)):
        pool.map(work, range(PARALLEL))  # warm-up
        started = time.process_time()
        pool.map(work, range(times))
        result[label] = (time.process_time() - started) / times * 1000
    return result


# -- failures ----------------------------------------------------------------------------------------------------------


class Probe:
    """A client under test, and the server's own statistics."""

    def __init__(self, name: str, url: str) -> None:
        self._kind, _ = CLIENTS[name]
        self._url = url
        self._observer = GatewayClient(url, 4)

    def client(self, size: int) -> Client:
        """A new client with a pool of ``size`` connections."""
        return self._kind(self._url, size)

    def stats(self) -> Any:
        """The server's counters."""
        return json.loads(self._observer.call("/stats", 5.0))


def _within(seconds: float, work: Callable[[], object]) -> tuple[str, float]:
    """Run ``work`` for at most ``seconds``. How it ended, in a word or two, and the seconds that it took."""
    import gevent

    started = time.monotonic()
    guard = gevent.Timeout.start_new(seconds)
    try:
        work()
        ending = "an answer"
    except gevent.Timeout:
        ending = "nothing"
    except Exception as error:  # noqa: BLE001 - whatever a client raises is the result
        ending = type(error).__name__
    finally:
        guard.close()
    return ending, time.monotonic() - started


def _trickle(probe: Probe) -> str:
    ending, took = _within(1.0, partial(probe.client(4).call, "/trickle", 0.2))
    return "held" if took < 0.4 else f"{ending} after {took:.1f} s"


def _killed(path: str, body: bytes, probe: Probe) -> str:
    client = probe.client(1)
    for _ in range(2):
        _within(0.05, partial(client.call, path, 5.0, body))
    ending, _ = _within(1.0, partial(client.call, "/x", 0.5))
    return "works" if ending == "an answer" else f"stuck: {ending}"


def _abandoned_stream(probe: Probe) -> str:
    import gevent

    client = probe.client(1)
    stream = client.stream("/endless", 5.0)
    next(iter(stream))
    before = probe.stats()["open"]
    stream.close()  # type: ignore[attr-defined]
    gevent.sleep(0.05)
    closed = probe.stats()["open"] < before
    ending, _ = _within(1.0, lambda: client.call("/x", 0.5))
    return f"{'closed at once' if closed else 'stays open'}, then {ending}"


def _closed_while_idle(probe: Probe) -> str:
    client = probe.client(1)
    client.call("/drop", 1.0)
    dropped = probe.stats()["dropped"]
    ending, _ = _within(2.0, lambda: client.call("/drop", 1.0))
    return f"{ending} (ended {probe.stats()['dropped'] - dropped}x)"


def _many_files(probe: Probe) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    client = probe.client(1)
    before = probe.stats()["connections"]
    for _ in range(5):
        client.call("/x", 1.0)
    connections = probe.stats()["connections"] - before
    for file in files:
        os.close(file)
    return f"{connections} connections"


# Each case with the ending that this gateway's client must have.
PROBES: dict[str, tuple[Callable[[Probe], str], str]] = {
    "0.2 s for an answer that trickles": (_trickle, "held"),
    "a pool of one, after two calls were killed while sending": (
        partial(_killed, "/deaf", b" " * 2**24),
        "works",
    ),
    "a pool of one, after two calls were killed while waiting": (partial(_killed, "/endless", BODY), "works"),
    "a stream that is left": (_abandoned_stream, "closed at once, then an answer"),
    "a POST that crosses the end of its kept connection": (_closed_while_idle, "an answer (ended 1x)"),
    "five calls while 1,100 files are open": (_many_files, "1 connections"),
}


def probes(name: str, url: str) -> dict[str, str]:
    """How each probe of a client ends."""
    probe = Probe(name, url)
    return {case: run(probe) for case, (run, _) in PROBES.items()}


# -- the comparison ----------------------------------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.clients", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdin is None or child.stdout is None:
            raise AssertionError("the pipes are missing")
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        child.stdin.close()
        child.wait(10)


def run_task(task: str, name: str, url: str) -> dict[str, Any]:
    """The result of one task for one client, in a process of its own."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "bench.clients",
        "--task",
        task,
        "--name",
        name,
        "--url",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]]]:
    """By client: the best CPU milliseconds of each kind of call, and how each probe ended."""
    installed = [name for name, (_, module) in CLIENTS.items() if _installed(module)]
    best: dict[str, dict[str, float]] = {}
    with server() as url:
        for _ in range(rounds):
            for name in installed:
                for label, value in run_task("cost", name, url).items():
                    best.setdefault(name, {})[label] = min(value, best.get(name, {}).get(label, value))
        return best, {name: run_task("probes", name, url) for name in installed if name in PROBED}


TITLE = "HTTP clients towards providers"
WHY = f"""\
Each client in a process of its own under gevent, {PARALLEL} calls at once, against a server that answers from memory.
Rounds are interleaved and the best one counts.
[ADR 2](adr/0002-provider-http-client.md) has the reasons for the choice."""


def run(quick: bool) -> list[Row]:
    best, endings = measure(1 if quick else 3)
    own = best["this gateway's"]
    rows = []
    for name, row in best.items():
        ratios = " / ".join(f"{row[label] / own[label]:.1f}x" for label in row)
        cpu = f"{row['unary']:.3f} ms / {row['stream']:.3f} ms ({ratios})"
        rows.append(Row(f"{name}: CPU of a call / of a 20-chunk stream", cpu))
    for case, (_, expected) in PROBES.items():
        ending = endings["this gateway's"][case]
        others = "; ".join(f"{name}: {it[case]}" for name, it in endings.items() if it[case] != ending)
        rows.append(Row(case, ending + (f" ({others})" if others else ""), expected))
    missing = sorted(CLIENTS.keys() - best.keys())
    return [*rows, *(Row(f"{name}: CPU of a call", "not installed") for name in missing)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.clients", description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=["cost", "probes"], help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="one round")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve())
    elif options.task:
        task: Callable[[str, str], object] = cost if options.task == "cost" else probes
        print(json.dumps(task(options.name, options.url)))
    else:
        print(table(run(options.quick)))
    return 0


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    if "--task" in sys.argv:
        from gevent import monkey

        monkey.patch_all()
    sys.exit(main())
