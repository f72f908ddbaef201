"""What the provider admits, how long it takes, what it remembers; time and dice are given."""

import statistics
from typing import Any

import msgspec
import pytest

from knowalledge_simulator import google, openai, text
from knowalledge_simulator.call import Call, Failure
from knowalledge_simulator.knobs import Knobs, moved
from knowalledge_simulator.provider import Provider, Ticket

CALL = Call("generate", google.GEMINI, "m", "m", tokens=10)


class Bench:
    """A provider and its clock."""

    def __init__(self, seed: int = 1, **knobs: Any) -> None:
        self.now = 1000.0
        self.provider = Provider(moved(Knobs(), knobs), lambda: self.now, seed)

    def ask(self, call: Call = CALL) -> Ticket | Failure:
        return self.provider.admit(call)

    def ticket(self, call: Call = CALL) -> Ticket:
        found = self.ask(call)
        assert isinstance(found, Ticket)
        return found

    def refused(self, call: Call = CALL) -> Failure:
        found = self.ask(call)
        assert isinstance(found, Failure)
        return found


def test_limits_that_move_mid_run_hold_at_once_and_what_was_charged_stays() -> None:
    it = Bench(rpm=3)
    it.ticket()
    it.ticket()
    it.provider.control({"rpm": 2})
    assert it.refused().status == 429
    it.provider.control({"rpm": 4})
    it.ticket()
    it.ticket()
    assert it.refused().status == 429


def test_each_model_and_each_location_has_a_quota_of_its_own() -> None:
    it = Bench(rpm=1, models={"big": {"rpm": 2}, "eu/m": {"rpm": 3}})
    for key, model, limit in (("m", "m", 1), ("big", "big", 2), ("us/m", "m", 1), ("eu/m", "m", 3)):
        call = Call("generate", google.VERTEX, model, key, tokens=1)
        found = [isinstance(it.ask(call), Ticket) for _ in range(4)]
        assert sum(found) == limit, key


def test_the_length_comes_from_the_marker_else_from_the_dice_and_is_cut_by_the_caller() -> None:
    it = Bench(output_tokens=50)
    assert it.ticket().output == 50
    marked = msgspec.structs.replace(CALL, wanted=7)
    assert it.ticket(marked).output == 7
    cut = it.ticket(msgspec.structs.replace(marked, most=5))
    assert (cut.output, cut.finish) == (5, "length")
    it.provider.control({"marker": False})
    assert it.ticket(marked).output == 50


def test_lognormal_latency_has_its_median_and_a_heavy_tail() -> None:
    it = Bench(latency_ms=200, latency_sigma=0.5, tail_p=0.05, tail_x=20)
    found = sorted(it.ticket().first_s for _ in range(4000))
    assert statistics.median(found) == pytest.approx(0.2, rel=0.1)
    assert found[-40] > 2.0


def test_unpredictable_lengths_are_spread_as_asked() -> None:
    it = Bench(output_tokens=100, output_sigma=1.288)  # p99 / p50 = 20
    found = sorted(it.ticket().output for _ in range(8000))
    assert found[7920] / found[4000] == pytest.approx(20, rel=0.3)


def test_the_same_seed_gives_the_same_run_again_also_after_a_reset() -> None:
    it, other = Bench(seed=5, latency_ms=9, latency_sigma=1), Bench(seed=5, latency_ms=9, latency_sigma=1)
    first = [it.ticket().first_s for _ in range(5)]
    assert first == [other.ticket().first_s for _ in range(5)]
    it.provider.reset()
    assert first == [it.ticket().first_s for _ in range(5)]


def test_faults_come_as_often_as_asked_and_never_two_at_once() -> None:
    it = Bench(faults={"500": 0.2, "hang": 0.3})
    found = [it.ask() for _ in range(2000)]
    failed = sum(isinstance(one, Failure) and one.status == 500 for one in found)
    hanging = sum(isinstance(one, Ticket) and one.fault == "hang" for one in found)
    assert failed == pytest.approx(400, rel=0.2)
    assert hanging == pytest.approx(600, rel=0.2)
    assert it.provider.faults == {"500": failed, "hang": hanging}


@pytest.mark.parametrize(
    ("fault", "charged"), [("500", 1), ("503", 1), ("429", 0), ("400", 0), ("stream_429", 0)]
)
def test_a_failure_is_charged_and_a_refusal_is_not(fault: str, charged: int) -> None:
    it = Bench(rpm=5, faults={fault: 1})
    it.ask(msgspec.structs.replace(CALL, stream=True))
    assert it.provider.stats()["accepted"] == charged
    windows = it.provider.stats()["models"].get("m", {"windows": {}})["windows"]
    assert windows.get("rpm", {"used": 0})["used"] == charged


def test_the_statistics_tell_what_was_used_of_each_window() -> None:
    it = Bench(rpm=120, tpm=6000)
    for _ in range(60):
        it.now += 1
        it.provider.complete(it.ticket(), 20)
    stats = it.provider.stats()
    assert (stats["accepted"], stats["rejected"], stats["tokens"]) == (60, 0, 1800)
    rpm, tpm = (stats["models"]["m"]["windows"][name] for name in ("rpm", "tpm"))
    assert rpm["utilisation"] == pytest.approx(0.5, rel=0.02)
    assert tpm["utilisation"] == pytest.approx(0.3, rel=0.02)
    assert stats["peak_window_use"]["rpm"] == 0.5
    late = it.provider.stats(since=30)
    assert late["models"]["m"]["windows"]["rpm"]["utilisation"] == pytest.approx(0.5, rel=0.05)


def test_utilisation_is_of_the_limits_that_were_in_force() -> None:
    it = Bench(rpm=60)
    for second in range(120):
        if second == 60:
            it.provider.control({"rpm": 180})
        it.ask()
        it.now += 1
    assert it.provider.stats()["models"]["m"]["windows"]["rpm"]["utilisation"] == pytest.approx(0.5, rel=0.02)
    assert len(it.provider.stats(timeline=True)["models"]["m"]["timeline"]) == 120


def test_googles_refusal_names_the_quota_and_the_time() -> None:
    it = Bench(rpm=1)
    it.ticket()
    it.now += 20
    error = it.refused().body["error"]
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
    it = Bench(**limits)
    it.ticket()
    assert word in str(it.refused().body["error"]["details"])


def test_vertex_names_its_region_and_model() -> None:
    it = Bench(rpm=1)
    call = Call("generate", google.VERTEX, "m", "europe-west4/m", tokens=1)
    it.ticket(call)
    violation = it.refused(call).body["error"]["details"][0]["violations"][0]
    assert violation["quotaDimensions"] == {"base_model": "m", "region": "europe-west4"}
    assert violation["quotaMetric"].startswith(
        "aiplatform.googleapis.com/generate_content_requests_per_minute"
    )


def test_a_bare_refusal_names_nothing() -> None:
    it = Bench(rpm=1, bare_429=True)
    it.ticket()
    assert "details" not in it.refused().body["error"]


def test_openais_refusal_has_its_headers() -> None:
    it = Bench(rpm=1)
    call = Call("generate", openai.OPENAI, "m", "m", tokens=1)
    it.ticket(call)
    failure = it.refused(call)
    assert failure.body["error"]["code"] == "rate_limit_exceeded"
    assert failure.headers["retry-after"] == "61"
    assert failure.headers["x-ratelimit-limit-requests"] == "1"


@pytest.mark.parametrize("patch", [{"rpm": -1}, {"latency": 1}, {"faults": {"flood": 1}}, {"tail_p": 2}])
def test_a_knob_that_is_not_there_or_out_of_range_changes_nothing(patch: dict[str, Any]) -> None:
    it = Bench(rpm=5)
    with pytest.raises(msgspec.ValidationError):
        it.provider.control(patch)
    assert it.provider.knobs == Knobs(rpm=5)


@pytest.mark.parametrize("tokens", [0, 1, 7, 4096, 4097, 10_000])
def test_a_text_has_the_tokens_that_it_was_asked_for(tokens: int) -> None:
    assert text.count(text.say(tokens)) == tokens
    assert text.say(3) + text.say(tokens, 3) == text.say(tokens + 3)
