"""The contract of provider adapters for Google's gRPC client, against a fake Vertex AI in another process.

Run by ``test_provider_aiplatform.py`` in a process that gevent has patched, as the gateway's are: gRPC's streams wait
in ``threading``.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import monkey, subprocess

from bench.ports import free_port
from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.gateway.domain.answer import Finish, Usage
from knowalledge.gateway.domain.prompt import Blob, Message, Prompt, Text, Tool, ToolCall, ToolResult
from knowalledge.gateway.ports import Provider
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.registry import build
from tests.support.chunks import each

# Google's libraries warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
S = 10.0
SHORT = 0.2
USAGE = Usage(input=10, output=4, thinking=3, cached=2)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.contract.vertex_grpc"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    child.stdin.close()
    child.stdout.close()
    child.wait(10)


def provider_at(url: str) -> Provider:
    spec = ProviderSpec("vertex", "m", url, "demo", "us-central1", api_key="k-1", client="aiplatform")
    return build(spec, SystemClock())


@pytest.fixture(scope="module")
def provider(url: str) -> Iterator[Provider]:
    provider = provider_at(url)
    yield provider
    provider.close()


def prompt_of(word: str, **more: Any) -> Prompt:
    return Prompt((Message("user", (Text(word),)),), **more)


def stats(provider: Provider) -> Any:
    """The fake's counters, and its last request."""
    return json.loads(provider.complete(prompt_of("stats"), S).text)


def both(provider: Provider) -> tuple[Callable[[str, float], Any], ...]:
    return (
        lambda word, timeout: provider.complete(prompt_of(word), timeout),
        lambda word, timeout: list(each(provider, prompt_of(word), timeout))[-1],
    )


def test_this_process_is_patched_like_the_gateway() -> None:
    assert monkey.is_module_patched("threading")


def test_an_answer_has_text_finish_usage_and_version(provider: Provider) -> None:
    answer = provider.complete(prompt_of("hello"), S)
    assert (answer.text, answer.finish) == ("héllo", Finish.STOP)
    assert (answer.usage, answer.model_version) == (USAGE, "m-001")


def test_a_stream_has_the_content_of_an_answer(provider: Provider) -> None:
    chunks = list(each(provider, prompt_of("hello"), S))
    assert [chunk.text for chunk in chunks] == ["hé", "llo", " world"]
    assert (chunks[-1].finish, chunks[-1].usage) == (Finish.STOP, USAGE)


def test_every_field_of_a_prompt_is_sent(provider: Provider) -> None:
    prompt = Prompt(
        messages=(
            Message("user", (Text("hello"), Blob("image/png", b"\x89PNG"))),
            Message("assistant", (ToolCall("f", '{"b":1}', "c1", "c2ln"),)),
            Message("tool", (ToolResult("f", '{"x":1}', "c1"),)),
        ),
        system="be brief",
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=42,
        stop=("END",),
        json_schema='{"type":"object"}',
        tools=(Tool("f", "does f", '{"type":"object"}'),),
        tool_choice="f",
        thinking_budget=0,
        safety='[{"category":"HARM_CATEGORY_HARASSMENT","threshold":"BLOCK_NONE"}]',
    )
    provider.complete(prompt, S)
    request = stats(provider)["request"]
    assert request["model"] == "projects/demo/locations/us-central1/publishers/google/models/m"
    assert request["contents"][0]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    assert request["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"
    assert request["contents"][2]["parts"][0]["functionResponse"] == {"name": "f", "response": {"x": 1.0}}
    config = request["generationConfig"]
    assert (config["maxOutputTokens"], config["seed"], config["stopSequences"]) == (7, 42, ["END"])
    assert config["responseJsonSchema"] == {"type": "object"}
    assert config["thinkingConfig"] == {"thinkingBudget": 0}
    assert request["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["f"]}
    assert request["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]


def test_a_request_that_protobuf_cannot_encode_is_rejected(provider: Provider) -> None:
    with pytest.raises(e.ProviderRejected):
        provider.complete(prompt_of("hello", safety='[{"category":"NO_SUCH"}]'), S)


def test_credentials_are_sent_as_metadata(provider: Provider) -> None:
    provider.complete(prompt_of("hello"), S)
    metadata = stats(provider)["metadata"]
    assert metadata["x-goog-api-key"] == "k-1"
    assert metadata["x-goog-request-params"].startswith("model=projects/demo")
    assert "content-type" not in metadata or metadata["content-type"] == "application/grpc"


def test_tool_calls_are_complete(provider: Provider) -> None:
    calls = (ToolCall("f", '{"b": 1.0}', "", "c2ln"),)
    answer = provider.complete(prompt_of("tools"), S)
    last = list(each(provider, prompt_of("tools"), S))[-1]
    assert (answer.tool_calls, answer.finish) == (calls, Finish.TOOL_CALLS)
    assert (last.tool_calls, last.finish) == (calls, Finish.TOOL_CALLS)


@pytest.mark.parametrize(("word", "finish"), [("long", Finish.LENGTH), ("safe", Finish.SAFETY)])
def test_the_finish_reason_is_passed_on(word: str, finish: Finish, provider: Provider) -> None:
    assert [call(word, S).finish for call in both(provider)] == [finish, finish]


def test_implausible_usage_is_ignored(provider: Provider) -> None:
    assert provider.complete(prompt_of("absurd"), S).usage is None


def test_an_answer_above_the_default_limit_of_grpc_arrives(provider: Provider) -> None:
    assert len(provider.complete(prompt_of("large"), S).text) == 6_000_000


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("internal", e.ProviderUnavailable),
        ("unavailable", e.ProviderUnavailable),
        ("denied", e.ProviderAuth),
        ("stranger", e.ProviderAuth),
        ("invalid", e.ProviderRejected),
        ("missing", e.ProviderRejected),
        ("late", e.ProviderTimeout),
        ("bare", e.ProviderRateLimited),
        ("nobody", e.ProviderGarbage),
        ("blocked", e.ContentBlocked),
    ],
)
def test_each_failure_has_its_error(word: str, kind: type[e.KnowalledgeError], provider: Provider) -> None:
    for call in both(provider):
        with pytest.raises(kind) as caught:
            call(word, S)
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value) or kind is e.ProviderRejected


@pytest.mark.parametrize("word", ["empty", "silent"])
def test_an_empty_answer_that_ends_normally_is_an_answer(word: str, provider: Provider) -> None:
    answer = provider.complete(prompt_of(word), S)
    assert (answer.parts, answer.finish) == ((), Finish.STOP)


def test_a_429_has_retry_after_and_quota_id(provider: Provider) -> None:
    def midway(_: str, timeout: float) -> object:
        return list(each(provider, prompt_of("midway"), timeout))

    for call in (*both(provider), midway):
        with pytest.raises(e.ProviderRateLimited) as caught:
            call("limited", S)
        assert (caught.value.retry_after, caught.value.quota_id) == (33.0, "TokensPerMinute")


def test_a_truncated_or_endless_stream_is_garbage(provider: Provider) -> None:
    for word in ("cut", "endless"):
        with pytest.raises(e.ProviderGarbage):
            list(each(provider, prompt_of(word), 3 * S))


def test_a_provider_that_hangs_times_out_and_the_call_is_cancelled(provider: Provider) -> None:
    before = stats(provider)["cancelled"]
    for call in both(provider):
        started = time.monotonic()
        with pytest.raises(e.ProviderTimeout):
            call("hang", SHORT)
        assert time.monotonic() - started < S / 2
    chunks = each(provider, prompt_of("hang after"), 2.0)
    assert next(chunks).text == "hé"
    with pytest.raises(e.ProviderTimeout):
        next(chunks)
    _wait_until(lambda: stats(provider)["cancelled"] == before + 3)


def test_closing_a_stream_cancels_it_at_once(provider: Provider) -> None:
    before = stats(provider)["cancelled"]
    chunks = each(provider, prompt_of("hang after"), 30.0)
    next(chunks)
    chunks.close()
    _wait_until(lambda: stats(provider)["cancelled"] == before + 1)


def test_killing_a_waiting_caller_cancels_its_call(provider: Provider) -> None:
    before = stats(provider)["cancelled"]
    for call in both(provider):
        waiting = gevent.spawn(call, "hang", 30.0)
        gevent.sleep(0.2)
        waiting.kill()
    _wait_until(lambda: stats(provider)["cancelled"] == before + 2)


def _wait_until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(S):
        while not condition():
            gevent.sleep(0.01)


def test_the_hub_runs_while_calls_wait(provider: Provider) -> None:
    gaps, last = [], time.monotonic()
    waiting = [gevent.spawn(call, "hang", 0.5) for call in both(provider) * 10]
    while not all(it.ready() for it in waiting):
        gevent.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    assert len(gaps) > 20  # without grpc.experimental.gevent the hub is blocked
    assert all(isinstance(it.exception, e.ProviderTimeout) for it in waiting)


def test_two_hundred_concurrent_calls_are_all_answered(provider: Provider) -> None:
    calls = [gevent.spawn(call, "hello", 3 * S) for call in both(provider) * 100]
    gevent.joinall(calls, raise_error=True)


def test_a_refused_connection_is_unavailable(url: str) -> None:
    gone = provider_at(f"http://127.0.0.1:{free_port()}")
    for call in both(gone):
        with pytest.raises(e.ProviderUnavailable):
            call("hello", S)
    gone.close()


def test_embeddings_and_counts(provider: Provider) -> None:
    embeddings = provider.embed(("a", "b"), 2, S)
    assert (embeddings.vectors, embeddings.usage) == (((0.5, 1.0), (2.0, 3.0)), Usage(7))
    assert stats(provider)["request"]["parameters"] == {"outputDimensionality": 2.0}
    with pytest.raises(e.ProviderGarbage):
        provider.embed(("a",), None, S)
    assert provider.count_tokens(prompt_of("hello", system="be brief"), S) == 31
    assert stats(provider)["request"]["systemInstruction"] == {"parts": [{"text": "be brief"}]}


def test_a_ping_reaches_the_provider(provider: Provider) -> None:
    before = stats(provider)["calls"]
    provider.ping(S)
    assert stats(provider)["calls"] == before + 1
