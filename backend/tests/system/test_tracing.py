"""A real gateway's traces, as a store receives them."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bench.ports import free_port
from tests.support.otlp import Seen, Store, store
from tests.system.processes import gateway, simulator

pytestmark = pytest.mark.system

CONFIG = """
log: {{level: debug}}
tracing: {{endpoint: "{store}", sample: 1, timeout: 20s}}
models:
  m:
    targets:
      - {{name: first, provider: gemini, model: gemini-a, api_key: key-in-config, base_url: "{refusing}", tier: 0}}
      - {{name: second, provider: gemini, model: gemini-b, api_key: key-in-config, base_url: "{google}", tier: 1}}
  narrow:
    targets:
      - name: only
        provider: gemini
        api_key: key-in-config
        base_url: "{google}"
        quota: [{{count: requests, limit: 1, window: 1s}}]
"""
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Asked:
    """A gateway to ask, and where its traces go."""

    def __init__(self, url: str, at: Store, folder: Path) -> None:
        self.url, self.store, self.folder = url, at, folder
        self._ids = 0

    def ask(
        self, body: dict[str, Any], path: str = "/api/v1/generate", **headers: str
    ) -> tuple[int, str, bytes]:
        """Status, the trace's id and the answer; each request is the child of a span of its own trace."""
        self._ids += 1
        trace_id = f"{self._ids:032x}"
        headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", **headers}
        status, data = ask(self.url, body, path, **headers)
        return status, trace_id, data

    def spans(self, trace_id: str) -> dict[str, Seen]:
        return {it.name: it for it in self.store.trace(trace_id)}


def ask(url: str, body: dict[str, Any], path: str = "/api/v1/generate", **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    folder = tmp_path_factory.mktemp("traced")
    for name in ("refusing", "google"):
        (folder / name).mkdir()
    with (
        store() as at,
        simulator(folder / "refusing", "--fault", "429=1") as refusing,
        simulator(folder / "google", "--latency-ms", "50", "--token-ms", "5") as google,
        gateway(CONFIG.format(store=at.url, refusing=refusing, google=google), folder) as url,
    ):
        yield Asked(url, at, folder)


def test_a_trace_says_what_was_tried_why_and_what_it_took(asked: Asked) -> None:
    status, trace_id, data = asked.ask({"prompt": "hi", "model": "m"}, **{"X-Request-ID": "req-1"})
    answer = json.loads(data)
    assert status == 200
    spans = asked.store.trace(trace_id)
    root = next(it for it in spans if it.kind == 2)
    assert (root.name, root.parent, root.failed) == ("POST /api/v1/generate", "00f067aa0ba902b7", False)
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["http.route"] == "/api/v1/generate"
    assert root.attributes["knowalledge.request_id"] == "req-1"
    assert root.attributes["knowalledge.outcome"] == "ok"
    assert root.attributes["gen_ai.request.model"] == "m"
    steps = [it for it in spans if it is not root]
    assert {it.parent for it in steps} == {root.id}
    assert [it.name for it in steps] == ["queue", "provider", "settle", "queue", "provider", "settle"]
    assert all(root.start <= it.start and it.end <= root.end for it in steps)
    refused, chosen = (it for it in steps if it.name == "provider")
    assert refused.failed
    assert refused.attributes["knowalledge.target"] == "first"
    assert refused.attributes["error.type"] == "provider_rate_limited"
    assert "PerMinute" in refused.attributes["knowalledge.quota.id"]
    assert steps[2].attributes["knowalledge.settle.ending"] == "refused"
    assert not chosen.failed
    assert chosen.attributes["knowalledge.retry"] == 1
    assert chosen.attributes["knowalledge.target"] == answer["target"] == "second"
    assert chosen.attributes["knowalledge.target.reason"] == answer["reason"] != ""
    assert chosen.attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert chosen.attributes["gen_ai.request.model"] == "gemini-b"
    assert chosen.attributes["gen_ai.usage.input_tokens"] == answer["usage"]["input_tokens"]
    assert chosen.attributes["gen_ai.usage.output_tokens"] == answer["usage"]["output_tokens"]
    assert chosen.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert steps[5].attributes["knowalledge.charged.output_tokens"] == answer["usage"]["output_tokens"]
    assert asked.store.paths == {"/v1/traces"}


def test_the_span_of_a_stream_ends_when_the_stream_does(asked: Asked) -> None:
    began = time.monotonic()
    _, trace_id, data = asked.ask({"prompt": "hi", "model": "narrow", "stream": True})
    took = time.monotonic() - began
    assert b"event: done" in data
    spans = asked.spans(trace_id)
    root, provider = spans["POST /api/v1/generate"], spans["provider"]
    assert root.end >= provider.end
    assert (root.end - root.start) / 1e9 > took - 0.5
    assert (
        0.04
        < provider.attributes["gen_ai.response.time_to_first_chunk"]
        < (provider.end - provider.start) / 1e9
    )


def test_a_wait_for_quota_is_in_the_trace_with_its_place_and_its_level(asked: Asked) -> None:
    body = {"prompt": "hi", "model": "narrow", "priority": "high"}
    asked.ask(body)
    _, trace_id, data = asked.ask(body)
    attributes = asked.spans(trace_id)["queue"].attributes
    assert attributes["knowalledge.queue.position"] == 1
    assert attributes["knowalledge.priority"] == "high"
    assert attributes["knowalledge.target"] == "only"
    assert attributes["knowalledge.queue.waited_s"] * 1000 == pytest.approx(
        json.loads(data)["queue"]["waited_ms"], abs=1
    )
    assert attributes["knowalledge.queue.waited_s"] > 0.1


def test_a_cached_answer_has_a_look_and_no_provider(asked: Asked) -> None:
    body = {"prompt": "the same again", "model": "narrow", "temperature": 0}
    _, first, _ = asked.ask(body)
    _, second, _ = asked.ask(body)
    assert asked.spans(first)["cache"].attributes == {"knowalledge.cache.result": "miss"}
    spans = asked.spans(second)
    assert set(spans) == {"POST /api/v1/generate", "cache"}
    assert spans["cache"].attributes == {
        "knowalledge.cache.result": "hit",
        "knowalledge.cache.layer": "memory",
    }
    assert spans["POST /api/v1/generate"].attributes["knowalledge.outcome"] == "cached"


def test_a_failure_is_told_with_its_code_and_a_callers_mistake_is_none_of_ours(asked: Asked) -> None:
    _, trace_id, _ = asked.ask({"prompt": "hi", "model": "no-such-model"})
    spans = asked.spans(trace_id)
    root = spans["POST /api/v1/generate"]
    assert root.attributes["error.type"] == "unknown_model"
    assert root.attributes["gen_ai.request.model"] == "unknown"
    assert not root.failed
    assert spans["queue"].failed
    assert "provider" not in spans


def test_who_is_not_sampled_is_not_traced_and_a_context_that_makes_no_sense_is_not_continued(
    asked: Asked,
) -> None:
    off = "00-0000000000000000000000000000dead-00f067aa0ba902b7-00"
    broken = "00-0000000000000000000000000000BEEF-00f067aa0ba902b7-01"
    for name, value in (("off", off), ("broken", broken)):
        status, _ = ask(
            asked.url, {"prompt": "hi", "model": "narrow"}, traceparent=value, **{"X-Request-ID": name}
        )
        assert status == 200
    spans = asked.store.wait(
        lambda found: any(it.attributes.get("knowalledge.request_id") == "broken" for it in found)
    )
    mine = next(it for it in spans if it.attributes.get("knowalledge.request_id") == "broken")
    assert mine.parent == ""
    assert not any(it.trace.endswith("dead") for it in spans)
    assert not any(it.attributes.get("knowalledge.request_id") == "off" for it in spans)


def test_the_log_line_of_a_traced_request_names_its_trace(asked: Asked) -> None:
    body = {"prompt": "hi", "model": "narrow"}
    _, trace_id, _ = asked.ask(body, **{"X-Request-ID": "seen"})
    ask(asked.url, body, traceparent=CALLER[:-1] + "0", **{"X-Request-ID": "unseen"})
    lines = {it["request_id"]: it for it in log(asked.folder) if it["event"] == "request"}
    assert lines["seen"]["trace_id"] == trace_id
    assert "trace_id" not in lines["unseen"]


def test_probes_and_scrapes_are_not_traced(asked: Asked) -> None:
    for path in ("/api/health", "/api/ready", "/metrics"):
        connection = HTTPConnection(urlsplit(asked.url).netloc, timeout=30)
        connection.request("GET", path, headers={"traceparent": CALLER})
        assert connection.getresponse().status == 200
        connection.close()
    _, trace_id, _ = asked.ask({"prompt": "x", "model": "no-such-model"})
    asked.store.trace(trace_id)
    assert not any(it.trace in CALLER for it in asked.store.spans)


def test_no_prompt_answer_key_or_header_is_in_what_is_sent(asked: Asked) -> None:
    body = {
        "messages": [
            {"role": "system", "content": "sesame-system"},
            {"role": "user", "content": "sesame-prompt"},
        ],
        "model": "m",
        "user": "sesame-user",
    }
    headers = {"Authorization": "Bearer sesame-key", "User-Agent": "sesame-agent", "tracestate": "a=sesame"}
    status, trace_id, data = asked.ask(body, "/v1/chat/completions", **headers)
    said = json.loads(data)["choices"][0]["message"]["content"]
    assert (status, len(said) > 10) == (200, True)
    _, wrong, _ = asked.ask({"prompt": "sesame-bad", "model": "sesame-model", "priority": "sesame-level"})
    _, lost, _ = asked.ask({}, "/v1/sesame-path?sesame=query")
    for it in (trace_id, wrong, lost):
        assert asked.store.trace(it)
    sent = b"".join(asked.store.taken)
    assert b"sesame" not in sent
    assert b"key-in-config" not in sent
    assert said.encode() not in sent


def test_a_store_that_is_away_changes_no_answer_and_hears_of_it_later(tmp_path: Path) -> None:
    port = free_port()
    with simulator(tmp_path) as google:
        config = CONFIG.format(store=f"http://127.0.0.1:{port}", refusing=google, google=google)
        with gateway(config, tmp_path) as url:
            for _ in range(5):
                assert ask(url, {"prompt": "hi", "model": "m"})[0] == 200
            time.sleep(1.5)  # three flushes in vain
            with store(port) as late:
                late.wait(lambda found: sum(it.kind == 2 for it in found) == 5)
                late.held.clear()  # and now it takes them and says nothing
                began = time.monotonic()
                while time.monotonic() - began < 2:
                    assert ask(url, {"prompt": "hi", "model": "m"})[0] == 200
                assert late.asked > 1
                # Less than tracing.timeout: nobody has waited for the store, and the process does not at its end.
                assert time.monotonic() - began < 15
                began = time.monotonic()
            assert time.monotonic() - began < 15
    said = [it["event"] for it in log(tmp_path) if "store of traces" in it["event"]]
    assert said[:2] == ["the store of traces is away", "the store of traces is back"]
    assert len(said) <= 3


def log(folder: Path) -> list[dict[str, Any]]:
    """What the gateway has logged."""
    text = (folder / "gateway.log").read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_what_has_just_ended_is_sent_before_the_process_ends(tmp_path: Path) -> None:
    with store() as at, simulator(tmp_path) as google:
        with gateway(CONFIG.format(store=at.url, refusing=google, google=google), tmp_path) as url:
            ask(url, {"prompt": "hi", "model": "m"})
        assert sum(it.kind == 2 for it in at.spans) == 1
