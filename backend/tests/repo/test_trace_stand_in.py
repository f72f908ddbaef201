"""What stands in for Jaeger in the verification of compose reads what the gateway sends."""

from pathlib import Path
from runpy import run_path

from knowalledge.observability.otlp import encode
from knowalledge.observability.spans import INTERNAL, SERVER, Span

PROGRAM = Path(__file__).parents[3] / "deploy" / "verify" / "traces.py"
TRACE, ROOT = "1f" * 16, "a" * 16


def test_the_stand_in_for_jaeger_answers_with_the_spans_that_it_was_sent() -> None:
    program = run_path(str(PROGRAM))
    spans = (
        Span(TRACE, ROOT, "", "POST /x", SERVER, 1_000_000, 9_000_000, {"text": "é" * 150, "number": 2**40}),
        Span(TRACE, "b" * 16, ROOT, "queue", INTERNAL, 2_000_000, 3_000_000, {"list": ("a", "b")}, True),
    )
    program["keep"](encode({"service.name": "knowalledge"}, spans).SerializeToString())
    root, step = program["jaegers"](TRACE)["spans"]
    assert (root["operationName"], root["references"], root["duration"]) == ("POST /x", [], 8000)
    assert (step["operationName"], step["startTime"]) == ("queue", 2000)
    assert step["references"] == [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": ROOT}]
