"""The demo's visitors, so that dashboards move: two tenants who read, ask, stream, show pictures and run batches.

Standard library only; it runs in the gateway's image. `python visitors.py http://nginx:8080 --per-minute 400`
"""

import argparse
import http.client
import json
import random
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from urllib.parse import quote, urlsplit

TOPICS = ["photosynthesis", "black holes", "inflation", "jazz", "vaccines", "recursion", "the Silk Road"]
VIEWS = ["", "/subtopics", "/quiz", "/related"]
# Batches ask most, at the lowest level; the header's other values are used too.
LEVELS = ["critical", "high", "medium", "low", "low", "low"]
TENANTS = ["acme", "globex"]
MODELS = ["gemini-2.5-flash", "gpt-4o-mini"]
QUESTIONS = ["What is a glacier?", "Why is the sky blue?", "How does a sail work?"]

Visit = tuple[str, str, bytes | None, dict[str, str]]  # method, path, body, headers


def read_topic() -> Visit:
    """A page of knowledge: from the CDN, a cache, or made anew."""
    return "GET", f"/api/v1/topics/{quote(random.choice(TOPICS))}{random.choice(VIEWS)}", None, {}


def ask_again() -> Visit:
    """A question that others ask too, so that its answer is in the caches."""
    body = {"prompt": random.choice(QUESTIONS), "temperature": 0}
    return "POST", "/api/v1/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}


def ask_anew() -> Visit:
    """A question of its own, half of them streamed."""
    prompt = f"Visit {random.randrange(10**6)}: tell me about {random.choice(TOPICS)}."
    body = {"prompt": prompt, "stream": random.random() < 0.5, "model": random.choice(MODELS)}
    return "POST", "/api/v1/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}


def show_picture() -> Visit:
    """A picture of one colour; many are the same, so most answers come from the caches."""
    return "POST", "/api/v1/topics/from-image", png(random.randrange(8)), {"Content-Type": "image/png"}


def png(shade: int) -> bytes:
    """A picture of 8 x 8 pixels in one of eight shades."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes([32 * shade] * 8)) * 8
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


VISITS: dict[Callable[[], Visit], int] = {read_topic: 35, ask_again: 15, ask_anew: 45, show_picture: 5}


def next_visit() -> Visit:
    """One visit of a random kind, level and tenant."""
    method, path, body, headers = random.choices(list(VISITS), list(VISITS.values()))[0]()
    if method == "POST":  # a page of knowledge is the same for all
        headers |= {"X-Priority": random.choice(LEVELS), "X-Tenant": random.choice(TENANTS)}
    return method, path, body, headers


def visit(address: str) -> int:
    """One visit; the status of its answer."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=90)
    try:
        method, path, body, headers = next_visit()
        connection.request(method, path, body, {"Accept": "application/json", **headers})
        response = connection.getresponse()
        while response.read(4096):
            pass
        return response.status
    finally:
        connection.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--per-minute", type=float, default=400)
    parser.add_argument("--count", type=int, default=0, help="stop after so many; 0: never")
    asked = parser.parse_args()
    room = threading.Semaphore(200)
    counts: Counter[str] = Counter()
    told = time.monotonic()

    def one() -> None:
        try:
            kind = str(visit(asked.address))
        except (OSError, http.client.HTTPException) as error:
            kind = type(error).__name__
        finally:
            room.release()
        counts[kind] += 1

    started = 0
    while not asked.count or started < asked.count:
        time.sleep(random.expovariate(asked.per_minute / 60))
        if room.acquire(blocking=False):
            threading.Thread(target=one).start()
            started += 1
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(json.dumps(dict(sorted(counts.items()))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
