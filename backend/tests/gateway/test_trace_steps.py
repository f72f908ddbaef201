"""The steps that an execution adds to its request's trace, and that it makes none where the request is not traced."""

from typing import Any

import pytest

from knowalledge.core import errors
from knowalledge.core.context import Priority, RequestContext
from knowalledge.core.trace_context import Attributes
from knowalledge.gateway.domain.answer import Completion, Finish, Usage
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.gateway.domain.request import Request
from knowalledge.gateway.service import execution, settlement
from tests.gateway.test_execution import GatewayHarness, Model

PROMPT = Prompt((Message("user", (Text("hi"),)),))


class RecordingTrace:
    """Implements ``Trace``."""

    live = True
    id = "1" * 32

    def __init__(self) -> None:
        self.steps: list[tuple[str, Attributes, str]] = []

    def add_step(self, name: str, began: float, attributes: Attributes, error: str = "") -> None:
        self.steps.append((name, attributes, error))

    def add_call(self, name: str, began: float, target: str, attributes: Attributes, error: str = "") -> None:
        self.steps.append((name, attributes, error))

    def describe(self, attributes: Attributes, error: str, failed: bool) -> None: ...


class Counting(Model):
    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        super().complete(prompt, timeout)
        return Completion((Text("yes"),), Finish.LENGTH, Usage(10, 20, 5, 3), "m-001")


def test_a_failed_call_and_the_one_that_answers_leave_their_steps() -> None:
    broken = Counting(errors.ProviderRateLimited("x", retry_after=0.01, quota_id="PerMinute"))
    harness = GatewayHarness(a=("m", 1, broken, None))
    trace = RecordingTrace()
    harness.gateway.complete(RequestContext("r", priority=Priority.LOW, trace=trace), Request("", PROMPT))
    names = [name for name, _, _ in trace.steps]
    assert names == ["queue", "provider", "settle", "queue", "provider", "settle"]
    (_, failed, code), (_, answered, _) = (it for it in trace.steps if it[0] == "provider")
    assert (failed["knowalledge.quota.id"], failed["knowalledge.retry"], code) == (
        "PerMinute",
        0,
        "provider_rate_limited",
    )
    assert answered == {
        "knowalledge.target": "a",
        "knowalledge.target.tier": 1,
        "knowalledge.target.reason": "tier 1, headroom 100%",
        "knowalledge.retry": 1,
        "knowalledge.outcome": "ok",
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": "m-001",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 25,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
    }
    queue = trace.steps[0][1]
    assert (queue["knowalledge.priority"], queue["knowalledge.queue.position"]) == ("low", 0)
    settled = trace.steps[-1][1]
    assert (settled["knowalledge.settle.ending"], settled["knowalledge.charged.output_tokens"]) == (
        "settled",
        25,
    )


def test_no_step_is_made_for_a_request_that_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: Any) -> None:
        raise AssertionError("a step was made")

    monkeypatch.setattr(execution, "trace_wait", unexpected)
    monkeypatch.setattr(execution, "trace_attempt", unexpected)
    monkeypatch.setattr(settlement, "trace_settlement", unexpected)
    harness = GatewayHarness(
        a=("m", 0, Model(errors.ProviderUnavailable("x")), None), b=("m", 1, Model(), None)
    )
    assert harness.ask().target == "b"
