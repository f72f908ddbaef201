"""The contract of every provider adapter: answers, usage, errors; against servers on loopback."""

from functools import partial

import pytest

from knowalledge.core import errors as e
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import ToolCall
from knowalledge.gateway.ports import Provider
from knowalledge.providers.rejections import reason_of
from tests.contract.conftest import PROMPT, S, fails
from tests.contract.provider_dialects import NO_USAGE, Dialect, dump
from tests.support.chunks import each
from tests.support.loopback import Exchange, Loopback, replies, sse, streams, wait_until

# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_has_text_finish_usage_and_version(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.answer("héllo"))

    answer = provider.complete(PROMPT, S)

    assert answer.text == "héllo"  # without the model's thoughts
    assert answer.finish is Finish.STOP
    assert answer.usage == dialect.usage
    assert answer.model_version == "m-001"


def test_a_stream_has_the_content_of_an_answer(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = streams(*dialect.stream("hé", "llo", " world"))

    chunks = list(each(provider, PROMPT, S))

    assert "".join(chunk.text for chunk in chunks) == "héllo world"
    assert [chunk.finish for chunk in chunks if chunk.finish] == [Finish.STOP]
    assert chunks[-1].finish is Finish.STOP
    assert [chunk.usage for chunk in chunks if chunk.usage][-1] == dialect.usage
    assert chunks[-1].model_version == "m-001"


def test_chunks_arrive_as_they_are_sent(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    received: list[str] = []

    def handle(exchange: Exchange) -> None:
        exchange.start_stream()
        for text in ("a", "b"):
            exchange.send_chunk(sse(dialect.event(text)))
            wait_until(partial(received.__contains__, text))  # sends the next event when this one has arrived
        for event in dialect.stream("c"):
            exchange.send_chunk(event)
        exchange.end_stream()

    server.handler = handle
    for chunk in each(provider, PROMPT, S):
        received.append(chunk.text)
    assert "".join(received) == "abc"


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_stream_may_be_split_anywhere(
    size: int, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    whole = b": a comment\r\nid: 1\r\n" + b"".join(dialect.stream("hé", "llo")).replace(b"\r\n", b"\n")
    server.handler = streams(*(whole[at : at + size] for at in range(0, len(whole), size)))

    assert "".join(chunk.text for chunk in each(provider, PROMPT, S)) == "héllo"


def test_tool_calls_are_complete(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    calls = [("c1", "f", {"b": 1, "a": "é"}), ("c2", "g", {})]
    expected = (ToolCall("f", '{"b":1,"a":"é"}', "c1"), ToolCall("g", "{}", "c2"))

    server.handler = replies(dialect.answer("", calls=calls))
    answer = provider.complete(PROMPT, S)
    server.handler = streams(sse(dialect.event("", calls=calls)), *dialect.stream("", ""))
    chunks = list(each(provider, PROMPT, S))

    def spaceless(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(it.name, it.arguments.replace(" ", "").replace("\\u00e9", "é"), it.id) for it in calls
        )

    assert spaceless(answer.tool_calls) == expected
    assert answer.finish is Finish.TOOL_CALLS
    assert spaceless(tuple(call for chunk in chunks for call in chunk.tool_calls)) == expected
    assert chunks[-1].finish is Finish.TOOL_CALLS


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", Finish.LENGTH), ("safety", Finish.SAFETY), ("odd", Finish.OTHER)]
)
def test_the_finish_reason_is_passed_on(
    reason: str, finish: Finish, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    """Also if the answer is blocked or truncated before its first word: it is an answer, and it is charged."""
    for text in ("some", ""):
        server.handler = replies(dialect.answer(text, reason))
        assert provider.complete(PROMPT, S).finish is finish
        server.handler = streams(sse(dialect.event(text, reason)))
        assert list(each(provider, PROMPT, S))[-1].finish is finish


def test_an_answer_without_usage_has_usage_none(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.answer(usage=NO_USAGE))
    assert provider.complete(PROMPT, S).usage is None
    server.handler = streams(sse(dialect.event("hello", "", NO_USAGE)))
    assert all(chunk.usage is None for chunk in each(provider, PROMPT, S))


@pytest.mark.parametrize("count", [-1, 10**12, 1e12, 4.5, "9", True, [], {"a": 1}, None, 2**70])
@pytest.mark.parametrize("field", ["key_prompt", "key_output", "key_cached"])
def test_implausible_usage_is_ignored(
    field: str, count: object, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    usage = dialect.usage_document(**{getattr(dialect, field): count})
    server.handler = replies(dialect.answer(usage=usage))

    reported = provider.complete(PROMPT, S).usage

    if reported is not None:  # null or empty counts as 0, and so does a missing detail
        assert count in (None, [], {"a": 1}) or getattr(dialect, field) == "prompt_tokens_details"
        assert all(
            0 <= it <= 10
            for it in (reported.input, reported.output, reported.thinking, reported.cached, reported.tool)
        )


def test_usage_never_has_more_cached_tokens_than_input(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    more = {"cached_tokens": 99} if dialect.name == "openai" else 99
    server.handler = replies(dialect.answer(usage=dialect.usage_document(**{dialect.key_cached: more})))

    usage = provider.complete(PROMPT, S).usage

    assert usage is not None
    assert usage.cached <= usage.input


def test_embeddings_are_in_the_order_of_their_texts(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.vectors)

    embeddings = provider.embed(("a", "b"), 2, S)

    assert embeddings.vectors == ((0.5, 1.0), (2.0, 3.0))
    assert embeddings.usage == dialect.vectors_usage


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"nonsense", b'{"data": [], "embeddings": [], "predictions": []}']
)
def test_invalid_embeddings_are_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.embed(("a",), None, S)


def test_tokens_are_counted_by_the_provider_or_estimated(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(b'{"totalTokens": 31}')
    tokens = provider.count_tokens(PROMPT, S)
    assert tokens == 31 if dialect.counts_tokens else 4 < tokens < 12


@pytest.mark.parametrize(
    "body", [b"{}", b'{"totalTokens": -1}', b'{"totalTokens": 1e12}', b'{"totalTokens": "7"}']
)
def test_an_invalid_token_count_is_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    if not dialect.counts_tokens:
        return
    server.handler = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.count_tokens(PROMPT, S)


def test_a_ping_reaches_the_provider_and_raises_what_a_call_would(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.ping_answer)
    provider.ping(S)
    server.handler = replies(dialect.error(401), 401)
    with pytest.raises(e.ProviderAuth):
        provider.ping(S)


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, e.ProviderUnavailable),
        (503, e.ProviderUnavailable),
        (529, e.ProviderUnavailable),
        (499, e.ProviderUnavailable),
        (302, e.ProviderUnavailable),
        (204, e.ProviderUnavailable),
        (408, e.ProviderTimeout),
        (504, e.ProviderTimeout),
        (401, e.ProviderAuth),
        (403, e.ProviderAuth),
        (400, e.ProviderRejected),
        (404, e.ProviderRejected),
        (413, e.ProviderRejected),
        (422, e.ProviderRejected),
        (405, e.ProviderUnavailable),  # the address of the target is wrong, not the request
        (429, e.ProviderRateLimited),
    ],
)
def test_each_status_has_its_error(
    status: int, kind: type[e.KnowalledgeError], dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for body in (dialect.error(status), b"", b"<html>", b"[]", b"[7]", b'{"error": [1]}', b"\xff"):
        server.handler = replies(b"" if status == 204 else body, status)
        fails(provider, kind)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0"}, 0.0),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after": "Sat, 21 Nov 2026 10:00:30 GMT", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry_after": "Sat, 21 Nov 2026 10:00:30 GMT"}, None),
        ({"retry_after": "Sat, 21 Nov 2026 10:00:30", "date": "Sat, 21 Nov 2026 10:00:00 GMT"}, None),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "9" * 400}, 7 * 86_400.0),
    ],
)
def test_an_error_has_the_retry_after_of_its_response(
    headers: dict[str, str], seconds: float | None, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for status, kind in ((429, e.ProviderRateLimited), (503, e.ProviderUnavailable)):
        server.handler = replies(dialect.error(status), status, **headers)
        assert fails(provider, kind).retry_after == seconds


def test_an_error_inside_a_stream_is_raised_with_its_kind(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for status, kind in ((429, e.ProviderRateLimited), (500, e.ProviderUnavailable)):
        for before in ((), (sse(dialect.event("he")),)):
            server.handler = streams(*before, sse(dialect.error(status)))
            chunks = each(provider, PROMPT, S)
            if before:
                assert next(chunks).text == "he"
            with pytest.raises(kind):
                next(chunks)


def test_an_error_inside_a_200_is_that_error(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    for status, kind in (
        (429, e.ProviderRateLimited),
        (400, e.ProviderRejected),
        (401, e.ProviderAuth),
        (503, e.ProviderUnavailable),
    ):
        document = {"error": {"code": status, "message": "so it is"}}
        server.handler = replies(dump(document), content_type="application/json")
        fails(provider, kind)
        server.handler = streams(sse(dump(document)))
        with pytest.raises(kind):
            list(each(provider, PROMPT, S))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("This model's maximum context length is 8192 tokens", "context_length_exceeded"),
        (
            "The input token count (99) exceeds the maximum number of tokens allowed (8)",
            "context_length_exceeded",
        ),
        ("Unknown name \"foo\" at 'contents'", ""),
    ],
)
def test_a_context_that_is_too_long_has_one_code_whatever_the_words(
    message: str, code: str, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dump({"error": {"code": 400, "message": message}}), 400)
    error = fails(provider, e.ProviderRejected)
    assert isinstance(error, e.ProviderRejected)
    assert (error.status, error.provider_code) == (400, code)
    assert message in error.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("x" * 10_000, "x" * 297 + "..."),
        ("bad\r\nX-Injected: 1\x00\ud800", "bad X-Injected: 1"),
        ("key sk-abcdef123456 and AIzaSyD-1234567890", "key ... and ..."),
        ("see https://internal.example/admin?x=1 now", "see ... now"),
        ("`projects/my-project/locations/eu` was not found", "`.../locations/eu` was not found"),
        (["no", "text"], ""),
    ],
)
def test_a_reason_is_bounded_printable_and_without_keys_addresses_and_projects(
    message: object, reason: str
) -> None:
    assert reason_of(message) == reason


def test_a_whole_answer_in_place_of_a_stream_is_that_answer(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.answer("hello"), content_type="application/json; charset=utf-8")
    (chunk,) = each(provider, PROMPT, S)
    assert (chunk.text, chunk.finish, chunk.usage) == ("hello", Finish.STOP, dialect.usage)
