"""Google's own client held to what the other adapters are held to, against a Vertex AI over gRPC in another process.

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
    yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    child.stdin.close()
    child.stdout.close()
    child.wait(10)


def at(url: str) -> Provider:
    spec = ProviderSpec("vertex", "m", url, "demo", "us-central1", api_key="k-1", client="aiplatform")
    return build(spec, SystemClock())


@pytest.fixture(scope="module")
def provider(url: str) -> Iterator[Provider]:
    found = at(url)
    yield found
    found.close()


def say(word: str, **more: Any) -> Prompt:
    return Prompt((Message("user", (Text(word),)),), **more)


def seen(provider: Provider) -> Any:
    return json.loads(provider.complete(say("seen"), S).text)


def both(provider: Provider) -> tuple[Callable[[str, float], Any], ...]:
    return (
        lambda word, timeout: provider.complete(say(word), timeout),
        lambda word, timeout: list(each(provider, say(word), timeout))[-1],
    )


def test_this_process_is_patched_as_the_gateways_are() -> None:
    assert monkey.is_module_patched("threading")


def test_an_answer_has_text_finish_usage_and_version(provider: Provider) -> None:
    answer = provider.complete(say("hello"), S)
    assert (answer.text, answer.finish) == ("héllo", Finish.STOP)
    assert (answer.usage, answer.model_version) == (USAGE, "m-001")


def test_a_stream_says_the_same_as_it_comes(provider: Provider) -> None:
    chunks = list(each(provider, say("hello"), S))
    assert [chunk.text for chunk in chunks] == ["hé", "llo", " world"]
    assert (chunks[-1].finish, chunks[-1].usage) == (Finish.STOP, USAGE)


def test_everything_that_a_prompt_says_is_asked(provider: Provider) -> None:
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
    asked = seen(provider)["request"]
    assert asked["model"] == "projects/demo/locations/us-central1/publishers/google/models/m"
    assert asked["contents"][0]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}
    assert asked["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"
    assert asked["contents"][2]["parts"][0]["functionResponse"] == {"name": "f", "response": {"x": 1.0}}
    config = asked["generationConfig"]
    assert (config["maxOutputTokens"], config["seed"], config["stopSequences"]) == (7, 42, ["END"])
    assert config["responseJsonSchema"] == {"type": "object"}
    assert config["thinkingConfig"] == {"thinkingBudget": 0}
    assert asked["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["f"]}
    assert asked["safetySettings"] == [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]


def test_a_request_that_google_has_no_message_for_is_rejected_here(provider: Provider) -> None:
    with pytest.raises(e.ProviderRejected):
        provider.complete(say("hello", safety='[{"category":"NO_SUCH"}]'), S)


def test_who_we_are_goes_along(provider: Provider) -> None:
    provider.complete(say("hello"), S)
    metadata = seen(provider)["metadata"]
    assert metadata["x-goog-api-key"] == "k-1"
    assert metadata["x-goog-request-params"].startswith("model=projects/demo")
    assert "content-type" not in metadata or metadata["content-type"] == "application/grpc"


def test_tool_calls_are_given_whole(provider: Provider) -> None:
    calls = (ToolCall("f", '{"b": 1.0}', "", "c2ln"),)
    answer = provider.complete(say("tools"), S)
    last = list(each(provider, say("tools"), S))[-1]
    assert (answer.tool_calls, answer.finish) == (calls, Finish.TOOL_CALLS)
    assert (last.tool_calls, last.finish) == (calls, Finish.TOOL_CALLS)


@pytest.mark.parametrize(("word", "finish"), [("long", Finish.LENGTH), ("safe", Finish.SAFETY)])
def test_why_a_model_stopped_is_passed_on(word: str, finish: Finish, provider: Provider) -> None:
    assert [ask(word, S).finish for ask in both(provider)] == [finish, finish]


def test_usage_that_is_absurd_or_missing_is_none(provider: Provider) -> None:
    assert provider.complete(say("absurd"), S).usage is None


def test_an_answer_larger_than_grpcs_own_limit_arrives(provider: Provider) -> None:
    assert len(provider.complete(say("large"), S).text) == 6_000_000


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
        ("empty", e.ProviderGarbage),
        ("silent", e.ProviderGarbage),
        ("nobody", e.ProviderGarbage),
        ("blocked", e.ContentBlocked),
    ],
)
def test_each_failure_has_its_error(word: str, kind: type[e.KnowalledgeError], provider: Provider) -> None:
    for ask in both(provider):
        with pytest.raises(kind) as caught:
            ask(word, S)
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)


def test_a_429_teaches_what_it_says(provider: Provider) -> None:
    for ask in (*both(provider), lambda word, timeout: list(each(provider, say("midway"), timeout))):
        with pytest.raises(e.ProviderRateLimited) as caught:
            ask("limited", S)
        assert (caught.value.retry_after, caught.value.quota_id) == (33.0, "TokensPerMinute")


def test_a_stream_that_is_cut_or_endless_is_garbage(provider: Provider) -> None:
    for word in ("cut", "endless"):
        with pytest.raises(e.ProviderGarbage):
            list(each(provider, say(word), 3 * S))


def test_a_provider_that_hangs_meets_the_deadline_and_is_told(provider: Provider) -> None:
    before = seen(provider)["cancelled"]
    for ask in both(provider):
        began = time.monotonic()
        with pytest.raises(e.ProviderTimeout):
            ask("hang", SHORT)
        assert time.monotonic() - began < S / 2
    chunks = each(provider, say("hang after"), 2.0)
    assert next(chunks).text == "hé"
    with pytest.raises(e.ProviderTimeout):
        next(chunks)
    _until(lambda: seen(provider)["cancelled"] == before + 3)


def test_leaving_a_stream_cancels_it_at_once(provider: Provider) -> None:
    before = seen(provider)["cancelled"]
    chunks = each(provider, say("hang after"), 30.0)
    next(chunks)
    chunks.close()
    _until(lambda: seen(provider)["cancelled"] == before + 1)


def test_killing_whoever_waits_cancels_the_call(provider: Provider) -> None:
    before = seen(provider)["cancelled"]
    for ask in both(provider):
        waiting = gevent.spawn(ask, "hang", 30.0)
        gevent.sleep(0.2)
        waiting.kill()
    _until(lambda: seen(provider)["cancelled"] == before + 2)


def _until(true: Callable[[], bool]) -> None:
    with gevent.Timeout(S):
        while not true():
            gevent.sleep(0.01)


def test_the_hub_runs_while_calls_wait(provider: Provider) -> None:
    gaps, last = [], time.monotonic()
    waiting = [gevent.spawn(ask, "hang", 0.5) for ask in both(provider) * 10]
    while not all(it.ready() for it in waiting):
        gevent.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    assert len(gaps) > 20  # without the set-up for gevent it stands still
    assert all(isinstance(it.exception, e.ProviderTimeout) for it in waiting)


def test_two_hundred_calls_at_once_are_all_answered(provider: Provider) -> None:
    calls = [gevent.spawn(ask, "hello", 3 * S) for ask in both(provider) * 100]
    gevent.joinall(calls, raise_error=True)


def test_a_refused_connection_is_unavailable_and_found_again_soon(url: str) -> None:
    gone = at(f"http://127.0.0.1:{free_port()}")
    for ask in both(gone):
        with pytest.raises(e.ProviderUnavailable):
            ask("hello", S)
    gone.close()


def test_embeddings_and_counts(provider: Provider) -> None:
    found = provider.embed(("a", "b"), 2, S)
    assert (found.vectors, found.usage) == (((0.5, 1.0), (2.0, 3.0)), Usage(7))
    assert seen(provider)["request"]["parameters"] == {"outputDimensionality": 2.0}
    with pytest.raises(e.ProviderGarbage):
        provider.embed(("a",), None, S)
    assert provider.count_tokens(say("hello", system="be brief"), S) == 31
    assert seen(provider)["request"]["systemInstruction"] == {"parts": [{"text": "be brief"}]}


def test_a_ping_reaches_the_provider(provider: Provider) -> None:
    before = seen(provider)["calls"]
    provider.ping(S)
    assert seen(provider)["calls"] == before + 1
