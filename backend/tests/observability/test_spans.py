"""Spans as they are made."""

import pytest

from knowalledge.core.context import Priority
from knowalledge.gateway.domain.answer import Usage
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record
from knowalledge.gateway.telemetry import GatewayTelemetry
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.observability.spans import ASKED_A_SECOND, Span, SpanTracer, TargetInfo

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class Kit:
    """A tracer whose spans stay here."""

    def __init__(self, share: float = 1.0) -> None:
        self.clock = Clock()
        self.spans: list[Span] = []
        self.tracer = SpanTracer(
            self.clock, share, {"t": TargetInfo("gcp.vertex_ai", "gemini-x")}, self.spans.append
        )


def test_times_are_those_of_the_clock() -> None:
    kit = Kit()
    trace = kit.tracer.begin("GET", None)
    assert trace is not None
    kit.clock.sleep(2)
    began = kit.clock.monotonic()
    kit.clock.sleep(3)
    trace.add_step("cache", began, {})
    kit.clock.sleep(1)
    trace.answered("/x", 200, "r")
    trace.ended()
    look, root = kit.spans
    assert (root.start, root.end) == (1_700_000_100 * 10**9, 1_700_000_106 * 10**9)
    assert (look.start, look.end) == (1_700_000_102 * 10**9, 1_700_000_105 * 10**9)
    assert (look.parent, look.trace_id) == (root.id, root.trace_id)


def test_a_share_is_traced_unless_the_caller_has_chosen() -> None:
    kit = Kit(0.0)
    assert kit.tracer.begin("GET", None) is None
    assert kit.tracer.begin("GET", "nonsense") is None
    assert kit.tracer.begin("GET", CALLER) is not None
    assert Kit(1.0).tracer.begin("GET", CALLER[:-1] + "0") is None


def test_callers_cannot_have_more_traced_than_a_bound() -> None:
    kit = Kit(0.0)
    assert sum(kit.tracer.begin("GET", CALLER) is not None for _ in range(500)) == ASKED_A_SECOND
    kit.clock.sleep(1)
    assert sum(kit.tracer.begin("GET", CALLER) is not None for _ in range(500)) == ASKED_A_SECOND


def test_an_id_that_a_caller_has_chosen_does_not_help_it_past_the_bound() -> None:
    kit = Kit(0.01)
    lucky = f"00-{'1' * 18}{'0' * 14}-00f067aa0ba902b7-01"
    assert sum(kit.tracer.begin("GET", lucky) is not None for _ in range(500)) < ASKED_A_SECOND + 50


@pytest.mark.parametrize(
    ("status", "outcome", "error", "failed"),
    [
        (200, Outcome.OK, "", False),
        (200, Outcome.PROVIDER_GARBAGE, "provider_garbage", True),  # a stream that broke off
        (429, Outcome.REFUSED, "queue_full", False),
        (499, Outcome.CLIENT_GONE, "client_gone", False),
        (502, Outcome.PROVIDER_FAILED, "provider_unavailable", True),
        (500, None, "500", True),
    ],
)
def test_only_what_is_our_fault_or_the_providers_counts_as_failed(
    status: int, outcome: Outcome | None, error: str, failed: bool
) -> None:
    kit = Kit()
    trace = kit.tracer.begin("POST", None)
    assert trace is not None
    if outcome:
        ended = Record("r", "m", "t", outcome, Priority.HIGH, 1.0, Usage(), error=error, trace=trace)
        GatewayTelemetry(PrometheusMetrics()).record_request(ended)
    trace.answered("/x", status, "r")
    trace.ended()
    trace.ended()
    (root,) = kit.spans
    assert (root.failed, root.attributes.get("error.type", "")) == (failed, error)


def test_an_unknown_method_is_not_repeated() -> None:
    kit = Kit()
    trace = kit.tracer.begin("SESAME", None)
    assert trace is not None
    trace.answered("", 405, "r")
    trace.ended()
    (root,) = kit.spans
    assert root.name == root.attributes["http.request.method"] == "_OTHER"
    assert "SESAME" not in repr(root)


def test_a_call_says_what_its_target_is_and_a_failed_step_says_why() -> None:
    kit = Kit()
    trace = kit.tracer.begin("POST", CALLER)
    assert trace is not None
    trace.add_call("provider", 100.0, "t", {"x": 1}, "provider_timeout")
    trace.add_call("provider", 100.0, "unknown", {})
    known, unknown = kit.spans
    assert known.attributes == {
        "x": 1,
        "gen_ai.provider.name": "gcp.vertex_ai",
        "gen_ai.request.model": "gemini-x",
        "error.type": "provider_timeout",
    }
    assert (known.failed, unknown.failed, unknown.attributes) == (True, False, {})
    assert known.trace_id == CALLER[3:35]


def test_a_traced_request_says_how_it_ended() -> None:
    kit = Kit()
    trace = kit.tracer.begin("POST", None)
    assert trace is not None
    ended = Record("r", "m", "t", Outcome.OK, Priority.HIGH, 1.0, Usage(), trace=trace)
    GatewayTelemetry(PrometheusMetrics()).record_request(ended)
    trace.answered("/x", 200, "r")
    trace.ended()
    (root,) = kit.spans
    assert root.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/x",
        "knowalledge.request_id": "r",
        "gen_ai.request.model": "m",
        "knowalledge.outcome": "ok",
        "knowalledge.priority": "high",
        "knowalledge.cache.status": "miss",
        "knowalledge.target": "t",
    }
