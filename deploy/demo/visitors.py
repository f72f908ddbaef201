"""The demo's visitors: people who read, ask and stream, and a batch job of low priority, so that dashboards move.

Standard library only; it runs in the gateway's image. `python visitors.py http://nginx:8080 --per-minute 400`
"""

import argparse
import http.client
import json
import random
import threading
import time
from urllib.parse import quote, urlsplit

TOPICS = [
    "photosynthesis",
    "black holes",
    "inflation",
    "jazz",
    "vaccines",
    "plate tectonics",
    "recursion",
    "the Silk Road",
]
LEVELS = ["critical", "high", "medium", "low", "low", "low"]


def visit(address: str) -> int:
    """One visit; the status of its answer."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=90)
    try:
        topic = random.choice(TOPICS)
        if random.random() < 0.4:
            connection.request(
                "GET", f"/api/v1/topics/{quote(topic)}", headers={"Accept": "application/json"}
            )
        else:
            body = {
                "prompt": f"Visit {random.randrange(10**6)}: tell me about {topic}.",
                "stream": random.random() < 0.5,
            }
            headers = {"Content-Type": "application/json", "X-Priority": random.choice(LEVELS)}
            connection.request("POST", "/api/v1/generate", json.dumps(body), headers)
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
    counts: dict[str, int] = {}
    told = time.monotonic()

    def one() -> None:
        try:
            kind = str(visit(asked.address))
        except OSError as error:
            kind = type(error).__name__
        finally:
            room.release()
        counts[kind] = counts.get(kind, 0) + 1

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
