"""Admission, latencies, faults and statistics of the simulated provider, under a given clock and seed."""

import statistics
from typing import Any

import msgspec
import pytest

from knowalledge_simulator import google, openai, text
from knowalledge_simulator.call import Call, ErrorResponse
from knowalledge_simulator.knobs import Knobs, patched
from knowalledge_simulator.provider import Provider, ResponsePlan

CALL = Call("generate", google.GEMINI, "m", "m", tokens=10)


class ProviderHarness:
    """A provider and its clock."""

    def __init__(self, seed: int = 1, **knobs: Any) -> None:
        self.now = 1000.0
        self.provider = Provider(patched(Knobs(), knobs), lambda: self.now, seed)

    def admit(self, call: Call = CALL) -> ResponsePlan | ErrorResponse:
        return self.provider.admit(call)

    def plan(self, call: Call = CALL) -> ResponsePlan:
        plan = self.admit(call)
        assert isinstance(plan, ResponsePlan)
        return plan

    def error(self, call: Call = CALL) -> ErrorResponse:
        error = self.admit(call)
        assert isinstance(error, ErrorResponse)
        return error


def test_new_limits_apply_at_once_and_earlier_charges_stay() -> None:
    harness = ProviderHarness(rpm=3)
    harness.plan()
    harness.plan()
    harness.provider.control({"rpm": 2})
    assert harness.error().status == 429
    harness.provider.control({"rpm": 4})
    harness.plan()
    harness.plan()
    assert harness.error().status == 429


def test_each_model_and_each_location_has_its_own_quota() -> None:
    harness = ProviderHarness(rpm=1, models={"big": {"rpm": 2}, "eu/m": {"rpm": 3}})
    for key, model, limit in (("m", "m", 1), ("big", "big", 2), ("us/m", "m", 1), ("eu/m", "m", 3)):
        call = Call("generate", google.VERTEX, model, key, tokens=1)
        admitted = [isinstance(harness.admit(call), ResponsePlan) for _ in range(4)]
        assert sum(admitted) == limit, key


def test_the_length_is_marked_or_random_and_limited_by_the_caller() -> None:
    harness = ProviderHarness(output_tokens=50)
    assert harness.plan().output == 50
    marked = msgspec.structs.replace(CALL, marked_tokens=7)
    assert harness.plan(marked).output == 7
    cut = harness.plan(msgspec.structs.replace(marked, max_tokens=5))
    assert (cut.output, cut.finish) == (5, "length")
    harness.provider.control({"marker": False})
    assert harness.plan(marked).output == 50


def test_latency_is_log_normal_with_a_heavy_tail() -> None:
    harness = ProviderHarness(latency_ms=200, latency_sigma=0.5, tail_p=0.05, tail_x=20)
    latencies = sorted(harness.plan().first_s for _ in range(4000))
    assert statistics.median(latencies) == pytest.approx(0.2, rel=0.1)
    assert latencies[-40] > 2.0


def test_random_lengths_have_the_configured_spread() -> None:
    harness = ProviderHarness(output_tokens=100, output_sigma=1.288)  # p99 / p50 = 20
    lengths = sorted(harness.plan().output for _ in range(8000))
    assert lengths[7920] / lengths[4000] == pytest.approx(20, rel=0.3)


def test_a_seed_reproduces_a_run_also_after_a_reset() -> None:
    harness, other = (
        ProviderHarness(seed=5, latency_ms=9, latency_sigma=1),
        ProviderHarness(seed=5, latency_ms=9, latency_sigma=1),
    )
    first = [harness.plan().first_s for _ in range(5)]
    assert first == [other.plan().first_s for _ in range(5)]
    harness.provider.reset()
    assert first == [harness.plan().first_s for _ in range(5)]


def test_faults_occur_at_their_shares_and_one_per_request() -> None:
    harness = ProviderHarness(faults={"500": 0.2, "hang": 0.3})
    results = [harness.admit() for _ in range(2000)]
    failed = sum(isinstance(result, ErrorResponse) and result.status == 500 for result in results)
    hanging = sum(isinstance(result, ResponsePlan) and result.fault == "hang" for result in results)
    assert failed == pytest.approx(400, rel=0.2)
    assert hanging == pytest.approx(600, rel=0.2)
    assert harness.provider.faults == {"500": failed, "hang": hanging}


@pytest.mark.parametrize(
    ("fault", "charged"), [("500", 1), ("503", 1), ("429", 0), ("400", 0), ("stream_429", 0)]
)
def test_a_server_error_is_charged_and_a_rejection_is_not(fault: str, charged: int) -> None:
    harness = ProviderHarness(rpm=5, faults={fault: 1})
    harness.admit(msgspec.structs.replace(CALL, stream=True))
    assert harness.provider.stats()["accepted"] == charged
    windows = harness.provider.stats()["models"].get("m", {"windows": {}})["windows"]
    assert windows.get("rpm", {"used": 0})["used"] == charged


def test_statistics_report_the_use_of_each_window() -> None:
    harness = ProviderHarness(rpm=120, tpm=6000)
    for _ in range(60):
        harness.now += 1
        harness.provider.complete(harness.plan(), 20)
    stats = harness.provider.stats()
    assert (stats["accepted"], stats["rejected"], stats["tokens"]) == (60, 0, 1800)
    rpm, tpm = (stats["models"]["m"]["windows"][name] for name in ("rpm", "tpm"))
    assert rpm["utilisation"] == pytest.approx(0.5, rel=0.02)
    assert tpm["utilisation"] == pytest.approx(0.3, rel=0.02)
    assert stats["peak_window_use"]["rpm"] == 0.5
    late = harness.provider.stats(since=30)
    assert late["models"]["m"]["windows"]["rpm"]["utilisation"] == pytest.approx(0.5, rel=0.05)


def test_utilisation_is_relative_to_the_limits_in_force_at_the_time() -> None:
    harness = ProviderHarness(rpm=60)
    for second in range(120):
        if second == 60:
            harness.provider.control({"rpm": 180})
        harness.admit()
        harness.now += 1
    assert harness.provider.stats()["models"]["m"]["windows"]["rpm"]["utilisation"] == pytest.approx(
        0.5, rel=0.02
    )
    assert len(harness.provider.stats(timeline=True)["models"]["m"]["timeline"]) == 120


def test_a_429_of_google_names_the_quota_and_the_time() -> None:
    harness = ProviderHarness(rpm=1)
    harness.plan()
    harness.now += 20
    error = harness.error().body["error"]
    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")
    by_type = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
    violation = by_type["QuotaFailure"]["violations"][0]
    assert violation["quotaId"] == "GenerateRequestsPerMinutePerProjectPerModel"
    assert violation["quotaMetric"] == "generativelanguage.googleapis.com/generate_requests_per_model"
    assert violation["quotaDimensions"] == {"location": "global", "model": "m"}
    assert by_type["RetryInfo"]["retryDelay"] == "40.000s"


@pytest.mark.parametrize(
    ("limits", "word"),
    [({"rpd": 1}, "PerDay"), ({"tpm": 15}, "TokensPerModelPerMinute"), ({"tpd": 15}, "PerDay")],
)
def test_each_window_has_its_quota_id(limits: dict[str, int], word: str) -> None:
    harness = ProviderHarness(**limits)
    harness.plan()
    assert word in str(harness.error().body["error"]["details"])


def test_a_429_of_vertex_names_region_and_model() -> None:
    harness = ProviderHarness(rpm=1)
    call = Call("generate", google.VERTEX, "m", "europe-west4/m", tokens=1)
    harness.plan(call)
    violation = harness.error(call).body["error"]["details"][0]["violations"][0]
    assert violation["quotaDimensions"] == {"base_model": "m", "region": "europe-west4"}
    assert violation["quotaMetric"].startswith(
        "aiplatform.googleapis.com/generate_content_requests_per_minute"
    )


def test_a_bare_429_has_no_details() -> None:
    harness = ProviderHarness(rpm=1, bare_429=True)
    harness.plan()
    assert "details" not in harness.error().body["error"]


def test_a_429_of_openai_has_rate_limit_headers() -> None:
    harness = ProviderHarness(rpm=1)
    call = Call("generate", openai.OPENAI, "m", "m", tokens=1)
    harness.plan(call)
    error = harness.error(call)
    assert error.body["error"]["code"] == "rate_limit_exceeded"
    assert error.headers["retry-after"] == "61"
    assert error.headers["x-ratelimit-limit-requests"] == "1"


@pytest.mark.parametrize("patch", [{"rpm": -1}, {"latency": 1}, {"faults": {"flood": 1}}, {"tail_p": 2}])
def test_an_unknown_or_out_of_range_knob_changes_nothing(patch: dict[str, Any]) -> None:
    harness = ProviderHarness(rpm=5)
    with pytest.raises(msgspec.ValidationError):
        harness.provider.control(patch)
    assert harness.provider.knobs == Knobs(rpm=5)


@pytest.mark.parametrize("tokens", [0, 1, 7, 4096, 4097, 10_000])
def test_a_generated_text_has_the_given_number_of_tokens(tokens: int) -> None:
    assert text.count_tokens(text.generate(tokens)) == tokens
    assert text.generate(3) + text.generate(tokens, 3) == text.generate(tokens + 3)
