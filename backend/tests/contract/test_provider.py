"""What every provider adapter must do, whatever its dialect, against real servers on loopback."""

import gc
import gzip
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.socket import socket as gevent_socket

from knowalledge.domain import errors as e
from knowalledge.domain.model import Chunk, Finish, Message, Prompt, Text, ToolCall
from knowalledge.domain.ports import Provider
from tests.adapters.loopback import Behaviour, Hands, Loopback, Talk, replies, settle, sse, streams, until
from tests.contract.provider_dialects import DIALECTS, NO_USAGE, Dialect

PROMPT = Prompt((Message("user", (Text("the secret prompt"),)),))
S = 20.0  # a deadline that no test is meant to reach
SHORT = 0.05  # one that is meant to be reached

Serve = Callable[[Behaviour], Loopback]


@pytest.fixture(params=DIALECTS, ids=lambda it: it.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback(replies(b"{}"))
    yield server
    server.stop()


@pytest.fixture
def provider(dialect: Dialect, server: Loopback) -> Iterator[Provider]:
    provider = dialect.provider(server.url)
    yield provider
    provider.close()


def both(provider: Provider) -> tuple[Callable[[float], object], ...]:
    """A unary and a streamed call."""
    return (
        lambda timeout: provider.complete(PROMPT, timeout),
        lambda timeout: list(provider.stream(PROMPT, timeout)),
    )


def fails(provider: Provider, kind: type[e.KnowalledgeError], timeout: float = S) -> e.KnowalledgeError:
    """Both ways of asking end in this very error; the last one is returned. No secret is in its message."""
    for ask in both(provider):
        with pytest.raises(kind) as caught:
            ask(timeout)
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
    return caught.value


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

    chunks = list(provider.stream(PROMPT, S))

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
    for chunk in provider.stream(PROMPT, S):
        told.append(chunk.text)
    assert "".join(told) == "abc"


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_stream_may_be_cut_into_pieces_anywhere(
    size: int, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    whole = b": a comment\r\nid: 1\r\n" + b"".join(dialect.stream("hé", "llo")).replace(b"\r\n", b"\n")
    server.behaviour = streams(*(whole[at : at + size] for at in range(0, len(whole), size)))

    assert "".join(chunk.text for chunk in provider.stream(PROMPT, S)) == "héllo"


def test_tool_calls_are_given_whole(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    calls = [("c1", "f", {"b": 1, "a": "é"}), ("c2", "g", {})]
    expected = (ToolCall("f", '{"b":1,"a":"é"}', "c1"), ToolCall("g", "{}", "c2"))

    server.behaviour = replies(dialect.answer("", calls=calls))
    answer = provider.complete(PROMPT, S)
    server.behaviour = streams(sse(dialect.event("", calls=calls)), *dialect.stream("", ""))
    chunks = list(provider.stream(PROMPT, S))

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
        assert list(provider.stream(PROMPT, S))[-1].finish is finish


def test_an_answer_without_usage_says_so(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = replies(dialect.answer(usage=NO_USAGE))
    assert provider.complete(PROMPT, S).usage is None
    server.behaviour = streams(sse(dialect.event("hello", "", NO_USAGE)))
    assert all(chunk.usage is None for chunk in provider.stream(PROMPT, S))


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
            chunks = provider.stream(PROMPT, S)
            if before:
                assert next(chunks).text == "he"
            with pytest.raises(kind):
                next(chunks)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_refused_connection_is_unavailable(dialect: Dialect, server: Loopback) -> None:
    server.stop()
    fails(dialect.provider(server.url), e.ProviderUnavailable)


def test_a_name_that_is_nobody_is_unavailable(dialect: Dialect) -> None:
    fails(dialect.provider("http://nobody.invalid"), e.ProviderUnavailable)


def test_a_provider_that_hangs_meets_the_deadline(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = Talk.hang
    began = time.monotonic()
    fails(provider, e.ProviderTimeout, SHORT)
    assert time.monotonic() - began < S / 2
    assert server.empty.wait(S)  # and nothing stays open


def test_a_deadline_that_has_passed_asks_nothing(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    fails(provider, e.ProviderTimeout, 0.0)
    fails(provider, e.ProviderTimeout, -1.0)
    assert not server.asked


def test_bytes_that_trickle_do_not_extend_the_deadline(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def behave(talk: Talk) -> None:
        talk.begin()
        while True:
            talk.piece(b": still here\n\n")
            gevent.sleep(0.005)

    server.behaviour = behave
    fails(provider, e.ProviderTimeout, SHORT)


def test_a_stream_that_hangs_in_the_middle_meets_the_deadline(dialect: Dialect, server: Loopback) -> None:
    clock = Hands()
    provider = dialect.provider(server.url, clock)

    def behave(talk: Talk) -> None:
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        talk.hang()

    server.behaviour = behave
    chunks = provider.stream(PROMPT, S)
    assert next(chunks).text == "he"
    clock.time += S - SHORT
    with gevent.Timeout(S / 2), pytest.raises(e.ProviderTimeout):
        next(chunks)
    assert server.empty.wait(S)


def test_the_time_that_the_consumer_takes_counts(dialect: Dialect, server: Loopback) -> None:
    clock = Hands()
    provider = dialect.provider(server.url, clock)

    def behave(talk: Talk) -> None:
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        talk.hang()

    server.behaviour = behave
    chunks = provider.stream(PROMPT, S)
    assert next(chunks).text == "he"
    clock.time += S
    with gevent.Timeout(S / 2), pytest.raises(e.ProviderTimeout):
        next(chunks)
    provider.close()


def test_a_connection_that_ends_without_an_answer_is_unavailable(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for ending in (Talk.end, Talk.reset):
        server.behaviour = ending
        fails(provider, e.ProviderUnavailable)
    assert len(server.asked) == 4  # on a new connection nothing is sent twice


def test_an_answer_that_is_cut_is_garbage(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"
    for said in (b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nx: y\r\n", head, head + b'{"candidates"'):

        def behave(talk: Talk, said: bytes = said) -> None:
            talk.say(said)
            talk.end()

        server.behaviour = behave
        fails(provider, e.ProviderGarbage)


def test_a_stream_that_is_cut_after_some_text_is_garbage(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def cut(talk: Talk) -> None:
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        talk.end()

    for behaviour in (cut, streams(sse(dialect.event("he"))), streams(sse(dialect.event("he")), b"data: {")):
        server.behaviour = behaviour
        chunks = provider.stream(PROMPT, S)
        assert next(chunks).text == "he"
        with pytest.raises(e.ProviderGarbage):
            list(chunks)


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xfe\x00garbage\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xff\xff\xff: 1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
    ],
)
def test_what_is_not_http_is_garbage(
    said: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def behave(talk: Talk) -> None:
        talk.say(said)
        talk.hang()

    server.behaviour = behave
    fails(provider, e.ProviderGarbage)
    assert len(server.asked) == 2  # and it is not asked for again


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"{",
    b"{}",
    b"\xff\xfe{}",
    b"<html></html>",
    b'{"candidates": {}, "choices": {}}',
    b'{"candidates": [], "choices": []}',
    b'{"candidates": null, "choices": null}',
    b'{"candidates": [7], "choices": [7]}',
    b'{"candidates": [{"content": 7}], "choices": [{"message": 7, "delta": 7}]}',
    b'{"candidates": [{"content": {"parts": [7]}}], "choices": [{"message": {"content": 7}, "delta": {"content": 7}}]}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_not_an_answer_is_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.complete(PROMPT, S)
    server.behaviour = streams(sse(body))
    with pytest.raises(e.ProviderGarbage):
        list(provider.stream(PROMPT, S))


def test_an_answer_that_says_nothing_and_stops_is_garbage(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.answer(""))
    with pytest.raises(e.ProviderGarbage):
        provider.complete(PROMPT, S)
    server.behaviour = streams(*dialect.stream(""))
    with pytest.raises(e.ProviderGarbage):
        list(provider.stream(PROMPT, S))


def test_an_answer_without_end_is_given_up(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    mebibyte, sent = b" " * 2**20, 0

    def behave(talk: Talk) -> None:
        nonlocal sent
        sent = 0
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        while sent < 64:
            talk.piece(mebibyte)
            sent += 1

    server.behaviour = behave
    for ask in both(provider):
        with pytest.raises(e.ProviderGarbage):
            ask(S)
        assert server.empty.wait(S)
        assert 30 < sent < 60


def test_an_answer_may_be_compressed(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = replies(gzip.compress(dialect.answer()), content_encoding="gzip")
    assert provider.complete(PROMPT, S).text == "hello"
    server.behaviour = streams(*dialect.stream("hel", "lo"), zipped=True)
    assert "".join(chunk.text for chunk in provider.stream(PROMPT, S)) == "hello"
    server.behaviour = replies(gzip.compress(dialect.error(429)), 429, content_encoding="gzip")
    fails(provider, e.ProviderRateLimited)


def test_a_compressed_answer_without_its_checksum_is_cut(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(gzip.compress(dialect.answer())[:-6], content_encoding="gzip")
    with pytest.raises(e.ProviderGarbage, match="early"):
        provider.complete(PROMPT, S)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(b"{}", mtime=0)[:-6], "gzip"),
        (gzip.compress(b" " * 40 * 2**20), "gzip"),
        (b"{}", "br"),
        (b"{}", "zstd"),
    ],
)
def test_compression_that_is_none_or_a_bomb_is_garbage(
    body: bytes, encoding: str, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(body, content_encoding=encoding)
    fails(provider, e.ProviderGarbage)


# -- connections -------------------------------------------------------------------------------------------------------


def test_calls_share_few_connections(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    def behave(talk: Talk) -> None:
        if b"stream" in talk.asked.line.encode() + talk.asked.body:
            streams(*dialect.stream("a", "b"))(talk)
        else:
            talk.reply(dialect.answer())

    server.behaviour = behave
    for ask in both(provider) * 10:
        ask(S)
    assert server.connections == 1
    gevent.joinall([gevent.spawn(ask, S) for ask in both(provider) * 100], raise_error=True)
    assert len(server.asked) == 220
    assert server.connections <= 201
    before = server.connections
    for _ in range(10):
        gevent.joinall([gevent.spawn(ask, S) for ask in both(provider) * 10], raise_error=True)
    assert server.connections == before


def test_a_refusal_keeps_its_connection(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = replies(dialect.error(429), 429)
    fails(provider, e.ProviderRateLimited)
    assert server.connections == 1


def test_closing_a_stream_closes_its_connection_at_once(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def behave(talk: Talk) -> None:
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        talk.hang()

    server.behaviour = behave
    settle()
    sockets = _sockets()
    chunks = provider.stream(PROMPT, S)
    assert next(chunks).text == "he"
    assert server.open == 1
    chunks.close()
    assert server.empty.wait(S)
    assert _sockets() == sockets


def test_a_stream_that_was_never_begun_asks_nothing(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    provider.stream(PROMPT, S).close()
    settle()
    assert not server.asked


def test_killing_whoever_waits_closes_the_connection(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = Talk.hang
    for ask in both(provider):
        waiting = gevent.spawn(ask, S)
        while not server.open:
            gevent.sleep(0.001)
        waiting.kill()
        assert server.empty.wait(S)


def test_a_kept_connection_that_ended_is_replaced_unseen(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.answer())
    provider.complete(PROMPT, S)
    server.drop()
    settle()
    assert provider.complete(PROMPT, S).text == "hello"
    assert len(server.asked) == 2


def _second_time(behaviour: Behaviour, dialect: Dialect) -> Behaviour:
    """Answers the first request of a connection, and does as told with the second."""

    def behave(talk: Talk) -> None:
        if talk.number == 1:
            talk.reply(dialect.answer())
        else:
            behaviour(talk)

    return behave


def test_a_request_that_crosses_the_end_of_its_kept_connection_is_sent_once_more(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for ending in (Talk.end, Talk.reset):
        server.behaviour = _second_time(ending, dialect)
        server.asked.clear()
        provider.complete(PROMPT, S)
        assert provider.complete(PROMPT, S).text == "hello"
        assert len(server.asked) == 3
        server.drop()
        settle()


def test_a_request_that_was_answered_with_anything_is_not_sent_again(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def mumble(talk: Talk) -> None:
        talk.say(b"HT")
        talk.end()

    def babble(talk: Talk) -> None:
        talk.say(b"\x00\xff")
        talk.end()

    for behaviour in (mumble, babble):
        server.behaviour = _second_time(behaviour, dialect)
        server.asked.clear()
        provider.complete(PROMPT, S)
        with pytest.raises(e.ProviderGarbage):
            provider.complete(PROMPT, S)
        assert len(server.asked) == 2


def _sockets() -> int:
    gc.collect()
    return sum(isinstance(it, gevent_socket) and it.fileno() >= 0 for it in gc.get_objects())


def _texts(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)
