"""Spans on their way to a collector: in bounded messages, kept while it is away, and by our settings alone."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from knowalledge.core.errors import Unavailable
from knowalledge.core.trace_context import Attribute, Attributes
from knowalledge.observability import otlp
from knowalledge.observability.otlp import MAX_BATCH, MAX_TEXT, Collector, Exporter
from knowalledge.observability.spans import CLIENT, INTERNAL, SERVER, Span
from tests.support.otlp import Store, spans_of, store

RESOURCE: Attributes = {"service.name": "knowalledge"}
TRACE, ROOT = "1" * 32, "f" * 16


class Counts(dict[str, int]):
    """What became of the spans."""

    def __call__(self, result: str, number: int) -> None:
        self[result] = self.get(result, 0) + number


def span(number: int = 0, **attributes: Attribute) -> Span:
    return Span(TRACE, f"{number + 1:016x}", "", "x", INTERNAL, 1, 2, {"n": number, **attributes})


@contextmanager
def exporting(url: str, timeout_s: float = 5.0) -> Iterator[tuple[Exporter, Counts]]:
    """An exporter that has sent what it could when it is left."""
    counts = Counts()
    exporter = Exporter(url, timeout_s, RESOURCE, counts)
    exporter.start()
    try:
        yield exporter, counts
    finally:
        exporter.close()


@pytest.fixture
def at() -> Iterator[Store]:
    with store() as found:
        yield found


def test_what_waits_is_sent_in_order_and_in_messages_of_a_bounded_size(at: Store) -> None:
    number = MAX_BATCH * 2 + 1
    with exporting(at.url) as (exporter, counts):
        for index in range(number):
            exporter.put(span(index))
    sizes = [len(spans_of(body)) for body in at.taken]
    assert max(sizes) <= MAX_BATCH
    assert [seen.attributes["n"] for seen in at.spans] == list(range(number))
    assert counts == {"sent": number}


def test_a_span_arrives_as_it_was_told(at: Store) -> None:
    with exporting(at.url) as (exporter, _):
        exporter.put(
            Span(TRACE, "2" * 16, ROOT, "step", CLIENT, 5, 7, {"text": "a", "number": 3, "share": 0.5}, True)
        )
        exporter.put(Span(TRACE, ROOT, "e" * 16, "root", SERVER, 4, 8, {"flag": True, "list": ("a", "b")}))
    step, root = at.spans
    assert (step.trace, step.id, step.parent, step.name, step.kind) == (TRACE, "2" * 16, ROOT, "step", 3)
    assert (step.start, step.end, step.failed) == (5, 7, True)
    assert step.attributes == {"text": "a", "number": 3, "share": 0.5}
    assert (root.id, root.parent, root.kind, root.failed) == (ROOT, "e" * 16, 2, False)
    assert root.attributes == {"flag": True, "list": ["a", "b"]}


def readable(span: Span) -> ReadableSpan:
    """The same span as OpenTelemetry's SDK has it."""

    def context(span_id: str, remote: bool) -> SpanContext:
        return SpanContext(int(span.trace_id, 16), int(span_id, 16), remote, TraceFlags(1))

    return ReadableSpan(
        span.name,
        context(span.id, False),
        context(span.parent, span.kind == SERVER) if span.parent else None,
        Resource(RESOURCE),
        span.attributes,
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope("knowalledge", ""),
    )


def test_our_encoder_says_what_opentelemetrys_says() -> None:
    spans = [
        span(1, text="a", flag=False, share=0.25, list=("a", "b"), negative=-1),
        Span(TRACE, "2" * 16, ROOT, "step", CLIENT, 5, 7, {}, True),
        Span(TRACE, ROOT, "e" * 16, "root", SERVER, 4, 8, {"a": ""}),
    ]
    theirs = encode_spans([readable(it) for it in spans])
    for written in theirs.resource_spans[0].scope_spans[0].spans:
        if not written.status.code:
            written.ClearField("status")  # says as much as one that says "unset"
    assert otlp.encode(RESOURCE, spans) == theirs


def test_while_the_collector_is_away_the_oldest_are_dropped_and_the_rest_comes_later(
    at: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "MAX_QUEUE", 10)
    monkeypatch.setattr(otlp, "MAX_BATCH", 10)
    monkeypatch.setattr(otlp, "FLUSH_S", 0.05)
    at.status = 503
    with exporting(at.url + "/", timeout_s=0.5) as (exporter, counts):
        exporter.put(span(0))
        at.until(lambda: at.asked)  # this one is on its way, and stays so
        for number in range(1, 16):
            exporter.put(span(number))
        assert counts == {"dropped": 5}
        at.status = 200
        at.wait(lambda spans: len(spans) == 11)
    assert [seen.attributes["n"] for seen in at.spans] == [0, *range(6, 16)]
    assert counts == {"dropped": 5, "sent": 11}


@pytest.mark.parametrize("status", [400, 302, 500])
def test_what_the_collector_refuses_is_not_sent_again(at: Store, status: int) -> None:
    at.status = status
    with exporting(at.url) as (exporter, counts):
        exporter.put(span())
    assert (at.asked, counts) == (1, {"rejected": 1})


def test_a_collector_that_says_nothing_is_given_up_in_time_and_tried_again(
    at: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "FLUSH_S", 0.05)
    at.held.clear()
    with exporting(at.url, timeout_s=0.2) as (exporter, counts):
        exporter.put(span())
        at.until(lambda: at.asked > 1)
        assert counts == {}
        at.held.set()
        at.until(lambda: counts)
    assert counts == {"sent": 1}


def test_what_cannot_be_sent_at_the_end_is_counted(at: Store) -> None:
    at.status = 503
    with exporting(at.url, timeout_s=0.2) as (exporter, counts):
        exporter.put(span())
    assert counts == {"dropped": 1}


def test_what_cannot_be_written_keeps_nothing_else_from_being_sent(at: Store) -> None:
    with exporting(at.url) as (exporter, counts):
        exporter.put(span(1, half="a\ud800", huge=10**30, both=("\ud800",)))
        exporter.put(span(2))
    assert [it.attributes["n"] for it in at.spans] == [1, 2]
    assert at.spans[0].attributes["half"] == "a?"
    assert at.spans[0].attributes["huge"] == "1" + "0" * 30
    assert counts == {"sent": 2}


def test_texts_and_lists_are_cut(at: Store) -> None:
    with exporting(at.url) as (exporter, _):
        exporter.put(span(text="q" * 10**6, list=("q" * 10**6,) * 1000))
    (seen,) = at.spans
    assert len(seen.attributes["text"]) == len(seen.attributes["list"][0]) == MAX_TEXT
    assert len(seen.attributes["list"]) == otlp.MAX_ITEMS


def test_an_answer_of_any_size_is_not_read_to_its_end(at: Store) -> None:
    at.reply = b"x" * 2**20
    with exporting(at.url) as (exporter, counts):
        for number in range(MAX_BATCH + 1):
            exporter.put(span(number))
    assert counts == {"sent": MAX_BATCH + 1}
    assert len(at.connections) == 2  # each closed behind its answer


def test_the_connection_is_kept(at: Store) -> None:
    with exporting(at.url) as (exporter, counts):
        for number in range(MAX_BATCH + 1):
            exporter.put(span(number))
    assert counts == {"sent": MAX_BATCH + 1}
    assert len(at.connections) == 1


@pytest.mark.parametrize(
    ("path", "asked"), [("", "/v1/traces"), ("/otlp", "/otlp/v1/traces"), ("/v1/traces", "/v1/traces")]
)
def test_the_address_is_a_collectors_or_that_of_its_traces(at: Store, path: str, asked: str) -> None:
    with exporting(at.url + path) as (exporter, _):
        exporter.put(span())
    assert at.paths == {asked}


def test_certificates_are_checked_against_the_systems(
    at: Store, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    at.socket = context.wrap_socket(at.socket, server_side=True)
    url = at.url.replace("http:", "https:")
    with pytest.raises(Unavailable, match="SSLError"):
        Collector(url, 5.0).ping()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    Collector(url, 5.0).ping()


# In a process of its own: what counts is what it finds in its environment, and what it imports.
ALONE = """
import knowalledge.patched
import sys
from knowalledge.observability import logging
logging.configure("info")
from knowalledge.observability import otlp
from knowalledge.observability.spans import SERVER, Span
exporter = otlp.Exporter(sys.argv[1], 5.0, {"service.name": "knowalledge"}, lambda *_: None)
exporter.start()
exporter.put(Span("1" * 32, "2" * 16, "", "x", SERVER, 1, 2, {"text": "as it is"}))
exporter.close()
"""


def alone(script: str, *arguments: str, **environment: str) -> str:
    """What a process of its own says."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_no_variable_of_opentelemetrys_or_of_its_http_client_changes_what_is_sent(at: Store) -> None:
    modules = (
        "opentelemetry.environment_variables",
        "opentelemetry.sdk.environment_variables",
    )
    names = {
        str(value)
        for module in modules
        for name, value in vars(import_module(module)).items()
        if "OTEL_" in name
    }
    assert {"OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_BSP_MAX_QUEUE_SIZE"} <= names
    hostile = dict.fromkeys(names, "http://127.0.0.1:1/x=y") | {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=sesame",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=other",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "1",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "REQUESTS_CA_BUNDLE": "/nowhere",
    }
    assert alone(ALONE, at.url) == ""
    assert alone(ALONE, at.url, **hostile) == ""
    plain, with_variables = at.heads
    assert with_variables == plain
    assert at.taken[0] == at.taken[1]


def test_a_failing_collector_is_logged_once_and_nothing_else_is() -> None:
    said = alone(
        ALONE.replace("exporter.close()", "import time; time.sleep(2.5); exporter.close()"),
        "http://127.0.0.1:1",
    )
    assert said.count("\n") == 1
    assert '"the store of traces is away"' in said


UNTRACED = """
import knowalledge.patched
import sys
from knowalledge.app import create_app
from knowalledge.config.settings import Settings
create_app(Settings.load(environ={key: value for key, value in [it.split("=", 1) for it in sys.argv[1:]]}))
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf"))))
"""


def test_the_sdk_is_imported_only_where_spans_have_somewhere_to_go() -> None:
    assert alone(UNTRACED) == "[]\n"
    assert "opentelemetry.sdk.trace" in alone(UNTRACED, "KNOWALLEDGE_TRACING__ENDPOINT=http://127.0.0.1:1")
