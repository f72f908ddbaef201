"""What every provider adapter must do, whatever its dialect, against real servers on loopback."""

import pytest

from knowalledge.core import errors as e
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import ToolCall
from knowalledge.gateway.ports import Provider
from tests.contract.conftest import PROMPT, S, fails
from tests.contract.provider_dialects import NO_USAGE, Dialect
from tests.support.chunks import each
from tests.support.loopback import Loopback, Talk, replies, sse, streams, until

# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_has_text_finish_usage_and_version(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.answer("héllo"))

    answer = provider.complete(PROMPT, S)

    assert answer.text == "héllo"  # and not what the model only thought
    assert answer.finish is Finish.STOP
    assert answer.usage == dialect.usage
    assert answer.model_version == "m-001"


def test_a_stream_says_the_same_as_an_answer(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = streams(*dialect.stream("hé", "llo", " world"))

    chunks = list(each(provider, PROMPT, S))

    assert "".join(chunk.text for chunk in chunks) == "héllo world"
    assert [chunk.finish for chunk in chunks if chunk.finish] == [Finish.STOP]
    assert chunks[-1].finish is Finish.STOP
    assert [chunk.usage for chunk in chunks if chunk.usage][-1] == dialect.usage
    assert chunks[-1].model_version == "m-001"


def test_chunks_come_as_they_are_sent(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    told: list[str] = []

    def behave(talk: Talk) -> None:
        talk.begin()
        for text in ("a", "b"):
            talk.piece(sse(dialect.event(text)))
            until(lambda text=text: text in told)  # the next one is sent when this one has arrived
        for event in dialect.stream("c"):
            talk.piece(event)
        talk.finish()

    server.behaviour = behave
    for chunk in each(provider, PROMPT, S):
        told.append(chunk.text)
    assert "".join(told) == "abc"


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_stream_may_be_cut_into_pieces_anywhere(
    size: int, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    whole = b": a comment\r\nid: 1\r\n" + b"".join(dialect.stream("hé", "llo")).replace(b"\r\n", b"\n")
    server.behaviour = streams(*(whole[at : at + size] for at in range(0, len(whole), size)))

    assert "".join(chunk.text for chunk in each(provider, PROMPT, S)) == "héllo"


def test_tool_calls_are_given_whole(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    calls = [("c1", "f", {"b": 1, "a": "é"}), ("c2", "g", {})]
    expected = (ToolCall("f", '{"b":1,"a":"é"}', "c1"), ToolCall("g", "{}", "c2"))

    server.behaviour = replies(dialect.answer("", calls=calls))
    answer = provider.complete(PROMPT, S)
    server.behaviour = streams(sse(dialect.event("", calls=calls)), *dialect.stream("", ""))
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
    ("said", "finish"), [("length", Finish.LENGTH), ("safety", Finish.SAFETY), ("odd", Finish.OTHER)]
)
def test_why_a_model_stopped_is_passed_on(
    said: str, finish: Finish, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    """Blocked or cut off before the first word included: that is an answer, and it was paid for."""
    for text in ("some", ""):
        server.behaviour = replies(dialect.answer(text, said))
        assert provider.complete(PROMPT, S).finish is finish
        server.behaviour = streams(sse(dialect.event(text, said)))
        assert list(each(provider, PROMPT, S))[-1].finish is finish


def test_an_answer_without_usage_says_so(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = replies(dialect.answer(usage=NO_USAGE))
    assert provider.complete(PROMPT, S).usage is None
    server.behaviour = streams(sse(dialect.event("hello", "", NO_USAGE)))
    assert all(chunk.usage is None for chunk in each(provider, PROMPT, S))


@pytest.mark.parametrize("count", [-1, 10**12, 1e12, 4.5, "9", True, [], {"a": 1}, None, 2**70])
@pytest.mark.parametrize("field", ["key_prompt", "key_output", "key_cached"])
def test_absurd_usage_is_no_usage(
    field: str, count: object, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    usage = dialect.counted(**{getattr(dialect, field): count})
    server.behaviour = replies(dialect.answer(usage=usage))

    found = provider.complete(PROMPT, S).usage

    if found is not None:  # null or empty stands for nothing counted, a missing detail for none
        assert count in (None, [], {"a": 1}) or getattr(dialect, field) == "prompt_tokens_details"
        assert all(
            0 <= it <= 10 for it in (found.input, found.output, found.thinking, found.cached, found.tool)
        )


def test_usage_never_counts_more_cached_than_it_was_given(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    more = {"cached_tokens": 99} if dialect.name == "openai" else 99
    server.behaviour = replies(dialect.answer(usage=dialect.counted(**{dialect.key_cached: more})))

    usage = provider.complete(PROMPT, S).usage

    assert usage is not None
    assert usage.cached <= usage.input


def test_embeddings_come_in_the_order_of_their_texts(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.vectors)

    found = provider.embed(("a", "b"), 2, S)

    assert found.vectors == ((0.5, 1.0), (2.0, 3.0))
    assert found.usage == dialect.vectors_usage


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"nonsense", b'{"data": [], "embeddings": [], "predictions": []}']
)
def test_embeddings_that_are_none_are_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.embed(("a",), None, S)


def test_tokens_are_counted_by_the_provider_or_estimated(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(b'{"totalTokens": 31}')
    found = provider.count_tokens(PROMPT, S)
    assert found == 31 if dialect.counts_tokens else 4 < found < 12


@pytest.mark.parametrize(
    "body", [b"{}", b'{"totalTokens": -1}', b'{"totalTokens": 1e12}', b'{"totalTokens": "7"}']
)
def test_a_count_that_is_none_is_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    if not dialect.counts_tokens:
        return
    server.behaviour = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.count_tokens(PROMPT, S)


def test_a_ping_reaches_the_provider_and_tells_what_a_call_would(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.ping_answer)
    provider.ping(S)
    server.behaviour = replies(dialect.error(401), 401)
    with pytest.raises(e.ProviderAuth):
        provider.ping(S)


# -- refusals ----------------------------------------------------------------------------------------------------------


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
        (429, e.ProviderRateLimited),
    ],
)
def test_each_status_has_its_error(
    status: int, kind: type[e.KnowalledgeError], dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for body in (dialect.error(status), b"", b"<html>", b"[]", b"[7]", b'{"error": [1]}', b"\xff"):
        server.behaviour = replies(b"" if status == 204 else body, status)
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
def test_a_refusal_says_when_to_come_back_if_it_was_told(
    headers: dict[str, str], seconds: float | None, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for status, kind in ((429, e.ProviderRateLimited), (503, e.ProviderUnavailable)):
        server.behaviour = replies(dialect.error(status), status, **headers)
        assert fails(provider, kind).retry_after == seconds


def test_an_error_inside_a_stream_is_raised_with_its_kind(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for status, kind in ((429, e.ProviderRateLimited), (500, e.ProviderUnavailable)):
        for before in ((), (sse(dialect.event("he")),)):
            server.behaviour = streams(*before, sse(dialect.error(status)))
            chunks = each(provider, PROMPT, S)
            if before:
                assert next(chunks).text == "he"
            with pytest.raises(kind):
                next(chunks)
