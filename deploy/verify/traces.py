"""Stands in for Jaeger where its image cannot be had: takes OTLP/HTTP in JSON on 4318, answers Jaeger's query on 16686.

`/api/traces/ID` answers in Jaeger's shape, as much of it as names the spans and their parents; `/` is a plain page.
Keeps the last 500 traces. What it cannot prove: Jaeger's own parsing, its storage, its pictures.
"""

import html
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEPT = 500
traces: dict[str, dict[str, dict[str, Any]]] = {}
lock = threading.Lock()


def keep(batch: Any) -> None:
    """Every span of an ExportTraceServiceRequest, by its trace; KeyError or TypeError if it is not one."""
    with lock:
        for resource in batch["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    traces.setdefault(span["traceId"], {})[span["spanId"]] = span
        while len(traces) > KEPT:
            del traces[next(iter(traces))]


def jaegers(trace: str) -> dict[str, Any]:
    """A trace as Jaeger's query API tells it; times in microseconds."""
    spans = []
    for span in traces[trace].values():
        began, ended = (int(span[key]) // 1000 for key in ("startTimeUnixNano", "endTimeUnixNano"))
        parent = span.get("parentSpanId")
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
        if self.path != "/v1/traces" or self.headers.get("Content-Type") != "application/json":
            self.say(415, "application/json", "{}")
            return
        try:
            keep(json.loads(body))
        except (ValueError, KeyError, TypeError) as error:
            self.say(400, "application/json", json.dumps({"message": repr(error)}))
            return
        self.say(200, "application/json", "{}")


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
