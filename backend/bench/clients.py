"""Which HTTP client calls providers best under gevent: what a call costs, and what happens when things go wrong.

``make bench ONLY=clients``, or ``python -m bench.clients`` for the table alone. Each client runs in a process of its
own, patched and with 100 calls at once, against a server in another process that answers from memory; rounds are
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

CALLS, STREAMS, AT_ONCE = 1000, 250, 100
MODEL = "/v1beta/models/gemini-x"
ASK = b'{"contents":[{"role":"user","parts":[{"text":"What is a quota?"}]}]}'
USAGE = {"promptTokenCount": 5, "candidatesTokenCount": 20, "totalTokenCount": 25}


def _answer(text: str, **more: object) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    return json.dumps(
        {"candidates": [candidate], "usageMetadata": USAGE, "modelVersion": "gemini-x"}
    ).encode()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\nvary: Origin\r\n"
WHOLE = _answer("A quota is a limit. " * 10, finishReason="STOP")
UNARY = HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE
EVENTS = [b"data: " + _answer("A quota is ") + b"\r\n\r\n" for _ in range(19)]
EVENTS.append(b"data: " + _answer("a limit.", finishReason="STOP") + b"\r\n\r\n")
STREAM_HEAD = HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS]


# -- the server --------------------------------------------------------------------------------------------------------


async def _serve() -> None:
    """The path says how to behave; ``/seen`` tells what has happened."""
    seen = {"open": 0, "connections": 0, "dropped": 0}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen["open"] += 1
        seen["connections"] += 1
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
                if path.startswith(b"/seen"):
                    body = json.dumps(seen).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                elif path.startswith(b"/trickle"):
                    writer.write(STREAM_HEAD)
                    for _ in range(200):
                        writer.write(b"1\r\n \r\n")
                        await writer.drain()
                        await asyncio.sleep(0.01)
                elif path.startswith(b"/drop") and number:
                    seen["dropped"] += 1
                    return
                elif path.startswith(b"/endless"):
                    writer.write(STREAM_HEAD + CHUNKS[0])
                    await reader.read(1)  # until the client goes
                    return
                elif b":stream" in path:
                    writer.write(STREAM_HEAD)
                    for chunk in CHUNKS:
                        writer.write(chunk)
                        await asyncio.sleep(0)  # a packet of its own
                    writer.write(b"0\r\n\r\n")
                else:
                    writer.write(UNARY)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            seen["open"] -= 1
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with its parent


# -- the clients -------------------------------------------------------------------------------------------------------


class Client(ABC):
    """``call`` gives the body of an answer, ``stream`` the data of its events; both POST."""

    @abstractmethod
    def __init__(self, url: str, size: int) -> None: ...

    @abstractmethod
    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes: ...

    @abstractmethod
    def stream(self, path: str, timeout: float) -> Iterator[bytes]: ...


class Own(Client):
    def __init__(self, url: str, size: int) -> None:
        from knowalledge.core.clock import SystemClock
        from knowalledge.net.http import client as http
        from knowalledge.net.http.connection import header_lines

        http.MAX_CONNECTIONS = size
        self._http = http.HttpClient(url, SystemClock())
        self._headers = header_lines({"content-type": "application/json"})

    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes:
        return self._http.post(path, body, self._headers, timeout).body

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        for events in self._http.events(path, ASK, self._headers, timeout):
            yield from events


HEADERS = {"content-type": "application/json"}


class GeventHttpClient(Client):
    def __init__(self, url: str, size: int) -> None:
        from geventhttpclient import HTTPClient

        parts = urlsplit(url)
        self._client = HTTPClient(parts.hostname or "", parts.port, concurrency=size, block_size=16384)
        self._pool: Any = self._client._connection_pool

    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes:
        self._pool.network_timeout = timeout
        response = self._client.post(path, body, HEADERS)
        try:
            return bytes(response.read())
        finally:
            response.release()

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        self._pool.network_timeout = timeout
        response = self._client.post(path, ASK, HEADERS)
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

    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes:
        return self._pool.request("POST", self._url + path, body=body, headers=HEADERS, timeout=timeout).data

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        response = self._pool.request(
            "POST", self._url + path, body=ASK, headers=HEADERS, timeout=timeout, preload_content=False
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

    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes:
        return self._session.post(self._url + path, body, headers=HEADERS, timeout=timeout).content

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        with self._session.post(
            self._url + path, ASK, headers=HEADERS, timeout=timeout, stream=True
        ) as answer:
            for line in answer.iter_lines(16384):
                if line.startswith(b"data:"):
                    yield line[5:].strip()


class Httpx(Client):
    module = "httpx"

    def __init__(self, url: str, size: int) -> None:
        from importlib import import_module

        httpx = import_module(self.module)
        limits = httpx.Limits(max_connections=size, max_keepalive_connections=size)
        self._client = httpx.Client(base_url=url, limits=limits, trust_env=False)

    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes:
        found: bytes = self._client.post(path, content=body, headers=HEADERS, timeout=timeout).content
        return found

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        with self._client.stream("POST", path, content=ASK, headers=HEADERS, timeout=timeout) as answer:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield line[5:].encode()


class Httpx2(Httpx):
    module = "httpx2"


class GoogleGenai(Client):
    """Google's SDK, which reads the answer into objects besides."""

    def __init__(self, url: str, size: int) -> None:
        import httpx2
        from google import genai

        limits = httpx2.Limits(max_connections=size, max_keepalive_connections=size)
        options = genai.types.HttpOptions(base_url=url, client_args={"limits": limits, "trust_env": False})
        self._client = genai.Client(api_key="k", http_options=options)

    def call(self, path: str, timeout: float, body: bytes = ASK) -> bytes:
        answer = self._client.models.generate_content(model="gemini-x", contents="What is a quota?")
        return (answer.text or "").encode()

    def stream(self, path: str, timeout: float) -> Iterator[bytes]:
        for chunk in self._client.models.generate_content_stream(model="gemini-x", contents="What?"):
            yield (chunk.text or "").encode()


CLIENTS: dict[str, tuple[type[Client], str]] = {
    "this gateway's": (Own, "knowalledge"),
    "geventhttpclient": (GeventHttpClient, "geventhttpclient"),
    "urllib3": (Urllib3, "urllib3"),
    "requests": (Requests, "requests"),
    "httpx": (Httpx, "httpx"),
    "httpx2": (Httpx2, "httpx2"),
    "google-genai": (GoogleGenai, "google.genai"),
}
# google-genai answers by itself which path it asks for, so it cannot be led into the traps.
PROBED = [name for name in CLIENTS if name != "google-genai"]


# -- what a call costs -------------------------------------------------------------------------------------------------


def cost(name: str, url: str) -> dict[str, float]:
    """CPU milliseconds of this process, per call and per stream."""
    from gevent.pool import Pool

    kind, _ = CLIENTS[name]
    client, pool = kind(url, AT_ONCE), Pool(AT_ONCE)

    def unary(_: int) -> None:
        if len(client.call(f"{MODEL}:generateContent", 30.0)) < 100:
            raise AssertionError("a short answer")

    def streamed(_: int) -> None:
        if sum(1 for _ in client.stream(f"{MODEL}:streamGenerateContent?alt=sse", 30.0)) != len(EVENTS):
            raise AssertionError("a short stream")

    found = {}
    for label, work, times in (("unary", unary, CALLS), ("stream", streamed, STREAMS)):
        pool.map(work, range(AT_ONCE))  # connections, imports, caches
        began = time.process_time()
        pool.map(work, range(times))
        found[label] = (time.process_time() - began) / times * 1000
    return found


# -- what happens when things go wrong ---------------------------------------------------------------------------------


def probes(name: str, url: str) -> dict[str, str]:
    """Each ends in a word or two."""
    import gevent

    kind, _ = CLIENTS[name]
    watch = Own(url, 4)

    def seen() -> Any:
        return json.loads(watch.call("/seen", 5.0))

    def within(seconds: float, work: Callable[[], object]) -> tuple[str, float]:
        began = time.monotonic()
        guard = gevent.Timeout.start_new(seconds)
        try:
            work()
            what = "an answer"
        except gevent.Timeout:
            what = "nothing"
        except Exception as error:  # noqa: BLE001 - whatever a client raises is what is asked here
            what = type(error).__name__
        finally:
            guard.close()
        return what, time.monotonic() - began

    client = kind(url, 4)
    what, took = within(1.0, lambda: client.call("/trickle", 0.2))
    found = {"0.2 s for an answer that trickles": "held" if took < 0.4 else f"{what} after {took:.1f} s"}

    for when, path, body in (("sending", "/deaf", b" " * 2**24), ("waiting", "/endless", ASK)):
        client = kind(url, 1)
        for _ in range(2):
            within(0.05, partial(client.call, path, 5.0, body))
        what, _ = within(1.0, partial(client.call, "/x", 0.5))
        found[f"a pool of one, after two calls were killed while {when}"] = (
            "works" if what == "an answer" else f"stuck: {what}"
        )

    client = kind(url, 1)
    stream = client.stream("/endless", 5.0)
    next(iter(stream))
    before = seen()["open"]
    stream.close()  # type: ignore[attr-defined]
    gevent.sleep(0.05)
    left = seen()["open"] < before
    what, _ = within(1.0, lambda: client.call("/x", 0.5))
    found["a stream that is left"] = f"{'closed at once' if left else 'stays open'}, then {what}"

    client = kind(url, 1)
    client.call("/drop", 1.0)
    dropped = seen()["dropped"]
    what, _ = within(2.0, lambda: client.call("/drop", 1.0))
    times = seen()["dropped"] - dropped
    found["a POST that crosses the end of its kept connection"] = f"{what} (ended {times}x)"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    client = kind(url, 1)
    before = seen()["connections"]
    for _ in range(5):
        client.call("/x", 1.0)
    found["five calls while 1,100 files are open"] = f"{seen()['connections'] - before} connections"
    for file in held:
        os.close(file)
    return found


# -- all of it ---------------------------------------------------------------------------------------------------------


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.clients", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdin is None or child.stdout is None:
            raise AssertionError("pipes were asked for")
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        child.stdin.close()
        child.wait(10)


def measured(task: str, name: str, url: str) -> dict[str, Any]:
    """One task of one client, in a process of its own."""
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
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(rounds: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]]]:
    """By client: the best CPU milliseconds of each kind of call, and how each probe ended."""
    here = [name for name, (_, module) in CLIENTS.items() if _installed(module)]
    best: dict[str, dict[str, float]] = {}
    with server() as url:
        for _ in range(rounds):
            for name in here:
                for label, value in measured("cost", name, url).items():
                    best.setdefault(name, {})[label] = min(value, best.get(name, {}).get(label, value))
        return best, {name: measured("probes", name, url) for name in here if name in PROBED}


TITLE = "HTTP clients towards providers"
WHY = f"""\
Each client in a process of its own under gevent, {AT_ONCE} calls at once, against a server that answers from memory.
Rounds are interleaved and the best one counts.
[ADR 2](adr/0002-provider-http-client.md) has the reasons for the choice."""
# What this gateway's client must do in each probe.
EXPECTED = (
    "held",
    "works",
    "works",
    "closed at once, then an answer",
    "an answer (ended 1x)",
    "1 connections",
)


def run(quick: bool) -> list[Row]:
    best, found = measure(1 if quick else 3)
    own = best["this gateway's"]
    rows = []
    for name, row in best.items():
        ratios = " / ".join(f"{row[label] / own[label]:.1f}x" for label in row)
        cpu = f"{row['unary']:.3f} ms / {row['stream']:.3f} ms ({ratios})"
        rows.append(Row(f"{name}: CPU of a call / of a 20-chunk stream", cpu))
    for case, expected in zip(found["this gateway's"], EXPECTED, strict=True):
        ours = found["this gateway's"][case]
        others = "; ".join(f"{name}: {it[case]}" for name, it in found.items() if it[case] != ours)
        rows.append(Row(case, ours + (f" ({others})" if others else ""), expected))
    missing = sorted(CLIENTS.keys() - best.keys())
    return [*rows, *(Row(f"{name}: CPU of a call", "not installed") for name in missing)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.clients", description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=["cost", "probes"], help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="one round")
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(_serve())
    elif asked.task:
        task: Callable[[str, str], object] = cost if asked.task == "cost" else probes
        print(json.dumps(task(asked.name, asked.url)))
    else:
        print(table(run(asked.quick)))
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
