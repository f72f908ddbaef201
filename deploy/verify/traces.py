"""Stands in for Jaeger where its image cannot be had: takes OTLP over HTTP on 4318, answers Jaeger's query on 16686.

`/api/traces/ID` answers in Jaeger's shape, as much of it as names the spans and their parents; `/` is a plain page.
Keeps the last 500 traces. What it cannot prove: Jaeger's own parsing, its storage, its pictures.
"""

import html
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEPT = 500
traces: dict[str, dict[str, dict[str, Any]]] = {}
lock = threading.Lock()


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message. IndexError, ValueError or struct.error if it is none."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
        elif kind in (1, 5):
            size, form = (8, "<Q") if kind == 1 else (4, "<I")
            yield number, struct.unpack(form, data[at : at + size])[0]
            at += size
        elif kind == 2:
            size = varint()
            if at + size > len(data):
                raise ValueError("a field ends behind its message")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")


def inside(data: bytes, number: int) -> Iterator[bytes]:
    """The messages in a field."""
    return (value for found, value in fields(data) if found == number)


def keep(batch: bytes) -> None:
    """Every span of an ExportTraceServiceRequest, by its trace; an error as of ``fields`` or KeyError if it is none."""
    with lock:
        for resource in inside(batch, 1):
            for scope in inside(resource, 2):
                for message in inside(scope, 2):
                    known = dict(fields(message))
                    span = {"spanId": known[2].hex(), "parentSpanId": known.get(4, b"").hex()}
                    span |= {"name": known[5].decode(), "began": known[7], "ended": known[8]}
                    traces.setdefault(known[1].hex(), {})[span["spanId"]] = span
        while len(traces) > KEPT:
            del traces[next(iter(traces))]


def jaegers(trace: str) -> dict[str, Any]:
    """A trace as Jaeger's query API tells it; times in microseconds."""
    spans = []
    for span in traces[trace].values():
        began, ended = span["began"] // 1000, span["ended"] // 1000
        parent = span["parentSpanId"]
        spans.append(
            {
                "traceID": trace,
                "spanID": span["spanId"],
                "operationName": span["name"],
                "references": [{"refType": "CHILD_OF", "traceID": trace, "spanID": parent}] if parent else [],
                "startTime": began,
                "duration": ended - began,
            }
        )
    return {"traceID": trace, "spans": sorted(spans, key=lambda it: it["startTime"])}


def page() -> str:
    parts = ["<!doctype html><meta charset=utf-8><title>Traces</title><p>Not Jaeger: a stand-in.</p>"]
    for trace in list(traces)[-20:][::-1]:
        parts.append(f"<h2>{html.escape(trace)}</h2><pre>")
        spans = jaegers(trace)["spans"]
        parts += [
            f"{(it['startTime'] - spans[0]['startTime']) / 1000:9.1f} ms +{it['duration'] / 1000:8.1f} ms"
            f"  {html.escape(it['operationName'])}\n"
            for it in spans
        ]
        parts.append("</pre>")
    return "".join(parts)


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def say(self, status: int, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Receiver(Quiet):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/traces" or self.headers.get("Content-Type") != "application/x-protobuf":
            self.say(415, "application/json", "{}")
            return
        try:
            keep(body)
        except (ValueError, KeyError, IndexError, AttributeError, struct.error) as error:
            self.say(400, "application/json", json.dumps({"message": repr(error)}))
            return
        self.say(200, "application/x-protobuf", "")


class Query(Quiet):
    def do_GET(self) -> None:
        with lock:
            if self.path == "/":
                self.say(200, "text/html", page())
                return
            trace = self.path.removeprefix("/api/traces/")
            found = [jaegers(trace)] if trace in traces else []
        self.say(200 if found else 404, "application/json", json.dumps({"data": found}))


if __name__ == "__main__":
    threading.Thread(
        target=ThreadingHTTPServer(("0.0.0.0", 4318), Receiver).serve_forever, daemon=True
    ).start()
    ThreadingHTTPServer(("0.0.0.0", 16686), Query).serve_forever()
