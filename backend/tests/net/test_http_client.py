"""The pooled client by itself: TLS, proxies, the pool, and a clock that a test can move."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
from gevent.event import Event
from gevent.socket import SHUT_WR, create_connection, socket
from gevent.ssl import SSLContext
from hypothesis import given
from hypothesis import strategies as st

from knowalledge.core import errors as e
from knowalledge.core.clock import Clock, SystemClock
from knowalledge.net.http import client
from knowalledge.net.http import connection as wire
from knowalledge.net.http.client import IDLE_S, RACE_S, HttpClient
from knowalledge.net.http.connection import Endpoint, header_lines
from tests.support.doubles import ManualClock
from tests.support.loopback import Loopback, Talk, listening, replies, serving, until

S = 20.0
SHORT = 0.05


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving(replies(b"yes")) as found:
        yield found


def get(http: HttpClient, timeout: float = S) -> bytes:
    return http.get("/", b"", timeout).body


@pytest.fixture
def client_of() -> Iterator[Callable[..., HttpClient]]:
    """Makes clients, and closes them."""
    made: list[HttpClient] = []

    def make(url: str, clock: Clock | None = None, **options: Any) -> HttpClient:
        made.append(HttpClient(url, clock or SystemClock(), **options))
        return made[-1]

    yield make
    for http in made:
        http.close()


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_a_request_is_sent_as_it_must_be(client_of: Callable[..., HttpClient], server: Loopback) -> None:
    http = client_of(server.url + "/v1/")
    http.post("/x?alt=sse", b"body", header_lines({"a": "b"}), S)
    asked = server.asked[0]
    assert asked.line == "POST /v1/x?alt=sse HTTP/1.1"
    assert asked.body == b"body"
    assert asked.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "knowalledge",
        "a": "b",
        "content-length": "4",
    }


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\n", "\x00", "é", "a\x7f"])
def test_a_header_cannot_break_out_of_its_line(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        header_lines({"authorization": value})
    with pytest.raises(ValueError, match="cannot be sent"):
        header_lines({value: "x"})


def test_what_a_header_holds_is_not_told_when_it_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="authorization") as caught:
        header_lines({"authorization": "secret\n"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "nothing", "//x", "http://x:99999"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - urlsplit has texts of its own
        Endpoint(url)


def test_a_large_request_meets_the_deadline_though_nobody_reads_it(
    client_of: Callable[..., HttpClient],
) -> None:
    with listening(lambda _: gevent.sleep(S)) as port:
        http = client_of(f"http://127.0.0.1:{port}")
        with pytest.raises(e.ProviderTimeout):
            http.post("/", b"x" * 32 * 2**20, b"", SHORT)


# -- what is read ------------------------------------------------------------------------------------------------------


def test_headers_have_lower_case_names_and_may_be_empty_or_odd(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    server.behaviour = lambda talk: talk.say(
        b"HTTP/1.1 200 OK\r\nEmpty:\r\nX-One: 1\r\nX-Odd: \xff\r\nTwo: a\r\ntwo: b\r\ncontent-length: 0\r\n\r\n"
    )
    found = client_of(server.url).get("/", b"", S).headers
    assert found == {"empty": "", "x-one": "1", "x-odd": "ÿ", "two": "b", "content-length": "0"}


def test_interim_answers_are_passed_over(client_of: Callable[..., HttpClient], server: Loopback) -> None:
    server.behaviour = lambda talk: talk.say(
        b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: z\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"
    )
    reply = client_of(server.url).get("/", b"", S)
    assert (reply.body, reply.headers) == (b"yes", {"content-length": "3"})


def test_an_answer_of_unknown_length_ends_with_its_connection(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    def behave(talk: Talk) -> None:
        talk.say(b"HTTP/1.1 200 OK\r\n\r\nye")
        gevent.sleep(0)
        talk.say(b"s")
        talk.end()

    server.behaviour = behave
    http = client_of(server.url)
    assert [get(http), get(http)] == [b"yes", b"yes"]
    assert server.connections == 2


def test_trailers_are_not_headers(client_of: Callable[..., HttpClient], server: Loopback) -> None:
    server.behaviour = lambda talk: talk.say(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nretry-after: 9\r\nx: y\r\n\r\n"
    )
    http = client_of(server.url)
    assert http.get("/", b"", S).headers == {"transfer-encoding": "chunked"}
    assert get(http) == b"yes"
    assert server.connections == 1


def test_a_second_answer_to_one_request_is_never_read_as_the_next_one(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    """Else one caller would be given the answer of another."""
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    server.behaviour = lambda talk: talk.say(one + b"yes" + one + b"bad")
    http = client_of(server.url)
    with pytest.raises(e.ProviderGarbage):
        get(http)

    def late(talk: Talk) -> None:
        talk.say(one + b"yes")
        heard.wait()
        talk.say(one + b"bad")
        said.set()

    heard, said = Event(), Event()
    server.behaviour = late
    assert get(http) == b"yes"
    heard.set()
    said.wait()
    server.behaviour = replies(b"mine")
    assert get(http) == b"mine"


def test_a_connection_that_the_server_will_close_is_not_kept(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    server.behaviour = replies(b"yes", connection="close")
    http = client_of(server.url)
    assert [get(http), get(http)] == [b"yes", b"yes"]
    assert server.connections == 2


def test_an_early_answer_is_read_though_the_request_was_not(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    """As servers do with a body that is too large."""

    def refuses(sock: socket) -> None:
        sock.recv(1024)
        sock.sendall(b"HTTP/1.1 413 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        while sock.recv(65536):
            pass

    with listening(refuses) as port:
        http = client_of(f"http://127.0.0.1:{port}")
        assert http.post("/", b"x" * 4 * 2**20, b"", S).status == 413


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_the_pool_has_a_size_and_waiting_for_it_a_deadline(
    client_of: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_CONNECTIONS", 2)
    http = client_of(server.url)
    server.behaviour = Talk.hang
    busy = [gevent.spawn(get, http) for _ in range(2)]
    while server.open < 2:
        gevent.sleep(0.001)
    with pytest.raises(e.ProviderTimeout, match="no connection"):
        get(http, SHORT)
    gevent.killall(busy)
    server.behaviour = replies(b"yes")
    assert get(http) == b"yes"  # a slot came back for each that was killed


def test_no_way_of_failing_costs_the_pool_a_slot(
    client_of: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_CONNECTIONS", 1)
    http = client_of(server.url)
    refusing = lambda talk: talk.reply(b"no", 500)  # noqa: E731
    for behaviour in (Talk.hang, Talk.end, Talk.reset, refusing, lambda talk: talk.say(b"\xff\r\n\r\n")):
        server.behaviour = behaviour
        for ask in (get, lambda http, timeout: list(http.events("/", b"", b"", timeout))):
            try:
                ask(http, SHORT)
            except e.ProviderError:
                pass
    stream = http.events("/", b"", b"", S)
    server.behaviour = lambda talk: (talk.begin(), talk.piece(b"data: 1\n\n"), talk.hang())
    next(stream)
    stream.close()
    server.behaviour = replies(b"yes")
    assert get(http) == b"yes"


def test_connections_that_idle_too_long_are_given_up(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    clock = ManualClock()
    http = client_of(server.url, clock)
    gevent.joinall([gevent.spawn(get, http) for _ in range(5)], raise_error=True)
    assert server.open == 5
    clock.time += IDLE_S + 1
    get(http)  # the newest is as good as any while it is open; the others have had their time
    until(lambda: server.open == 1)


def test_a_deadline_ends_with_its_call(client_of: Callable[..., HttpClient], server: Loopback) -> None:
    http = client_of(server.url)
    get(http, SHORT)
    server.behaviour = lambda talk: (gevent.sleep(2 * SHORT), talk.reply(b"later"))
    assert get(http) == b"later"
    assert server.connections == 1


def test_closing_the_client_closes_what_is_idle(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    http = client_of(server.url)
    gevent.joinall([gevent.spawn(get, http) for _ in range(3)], raise_error=True)
    http.close()
    assert server.empty.wait(S)


def test_an_end_that_comes_late_on_a_kept_connection_is_a_failure_not_a_race(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    """The server may have been at work on the request, and have charged it."""
    clock = ManualClock()
    http = client_of(server.url, clock)

    def dies_at_work(talk: Talk) -> None:
        if talk.number == 1:
            talk.reply(b"yes")
        else:
            clock.time += 2 * RACE_S
            talk.end()

    server.behaviour = dies_at_work
    get(http)
    with pytest.raises(e.ProviderUnavailable):
        get(http)
    assert len(server.asked) == 2


def test_threads_do_not_share_connections(client_of: Callable[..., HttpClient], server: Loopback) -> None:
    """A gevent socket belongs to the hub of its thread. gevent's own pool of threads makes real ones."""
    http = client_of(server.url)
    get(http)
    found = gevent.get_hub().threadpool.apply(lambda: (get(http), http.close())[0])
    assert (found, get(http)) == (b"yes", b"yes")
    assert server.connections == 2


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_the_next_address_is_tried_when_one_refuses(
    client_of: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(host: str, port: int, family: int, kind: int) -> list[object]:
        return [(2, 1, 6, "", ("127.0.0.2", 1)), (2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(wire, "getaddrinfo", two)
    assert get(client_of(f"http://somewhere:{server.port}")) == b"yes"


def test_an_address_in_the_new_form_works(client_of: Callable[..., HttpClient]) -> None:
    try:
        with serving(replies(b"yes"), family="::1") as server:
            assert get(client_of(server.url)) == b"yes"
            assert server.asked[0].headers["host"] == f"[::1]:{server.port}"
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")


def test_a_silent_address_ends_as_unavailable_while_there_is_patience_for_another(
    client_of: Callable[..., HttpClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: object) -> list[object]:
        gevent.sleep(S)
        return []

    monkeypatch.setattr(wire, "getaddrinfo", slow)
    monkeypatch.setattr(wire, "CONNECT_TIMEOUT_S", SHORT)
    http = client_of("http://somewhere")
    with pytest.raises(e.ProviderUnavailable, match="accepts no connection"):
        get(http, S)
    with pytest.raises(e.ProviderTimeout):
        get(http, SHORT / 2)


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(certificate: Path) -> Iterator[Loopback]:
    from ssl import PROTOCOL_TLS_SERVER

    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(replies(b"yes"), tls=context) as found:
        yield found


@pytest.fixture
def trust(certificate: Path) -> SSLContext:
    from ssl import PROTOCOL_TLS_CLIENT

    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    return context


def test_tls_connections_are_checked_kept_and_cut_like_plain_ones(
    client_of: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    http = client_of(secure.url, tls=trust)
    assert [get(http) for _ in range(5)] == [b"yes"] * 5
    assert secure.connections == 1
    secure.drop()
    gevent.sleep(0.01)
    assert get(http) == b"yes"
    secure.behaviour = Talk.hang
    with pytest.raises(e.ProviderTimeout):
        get(http, SHORT)
    secure.behaviour = lambda talk: (talk.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nyes"), talk.end())
    with pytest.raises(e.ProviderGarbage):
        get(http)
    assert secure.empty.wait(S)


def test_of_a_full_record_of_tls_nothing_is_left_inside_where_no_event_tells_of_it(
    client_of: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    secure.behaviour = replies(bytes(16_000))
    assert len(get(client_of(secure.url, tls=trust), S)) == 16_000


def test_a_certificate_that_nobody_vouches_for_is_refused(
    client_of: Callable[..., HttpClient], secure: Loopback
) -> None:
    with pytest.raises(e.ProviderUnavailable, match="no secure connection"):
        get(client_of(secure.url))
    assert not secure.asked


def test_a_certificate_for_another_name_is_refused(
    client_of: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    with pytest.raises(e.ProviderUnavailable, match="no secure connection"):
        get(client_of(f"https://localhost:{secure.port}", tls=trust))
    assert not secure.asked


def test_a_server_that_does_not_speak_tls_is_unavailable_or_late(
    client_of: Callable[..., HttpClient], trust: SSLContext
) -> None:
    def deaf(sock: socket) -> None:
        gevent.sleep(S)

    def plain(sock: socket) -> None:
        sock.sendall(b"HTTP/1.1 400 This is not TLS\r\n\r\n")

    for handle, kind, patience in ((deaf, e.ProviderTimeout, SHORT), (plain, e.ProviderUnavailable, S)):
        with listening(handle) as port, pytest.raises(kind):
            get(client_of(f"https://127.0.0.1:{port}", tls=trust), patience)


# -- proxies -----------------------------------------------------------------------------------------------------------


class Proxy(NamedTuple):
    """Opens tunnels, or passes plain requests on; remembers what it was asked."""

    url: str
    heads: list[bytes]


@contextmanager
def proxying(refusal: bytes = b"") -> Iterator[Proxy]:
    heads: list[bytes] = []

    def serve(near: socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += near.recv(65536)
        heads.append(head)
        if refusal:
            near.sendall(refusal)
            return
        host, _, port = head.split(b" ")[1].removeprefix(b"http://").split(b"/")[0].rpartition(b":")
        with create_connection((host.decode(), int(port))) as far:
            if head.startswith(b"CONNECT"):
                near.sendall(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n")
            else:
                far.sendall(head)
            back = gevent.spawn(_pump, far, near)
            try:
                _pump(near, far)
                back.join()
            finally:
                back.kill()

    with listening(serve) as port:
        yield Proxy(f"http://us%20er:p%40ss@127.0.0.1:{port}", heads)


def _pump(source: socket, sink: socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(SHUT_WR)
    except OSError:
        pass  # one of the two went


BASIC = b"proxy-authorization: Basic dXMgZXI6cEBzcw==\r\n"  # us er:p@ss


def test_a_plain_request_goes_through_a_proxy_with_its_whole_address(
    client_of: Callable[..., HttpClient], server: Loopback
) -> None:
    with proxying() as proxy:
        http = client_of(server.url + "/v1", proxy=proxy.url)
        assert [get(http), get(http)] == [b"yes", b"yes"]
        host = f"127.0.0.1:{server.port}"
        assert proxy.heads[0].startswith(f"GET http://{host}/v1/ HTTP/1.1\r\nhost: {host}".encode())
        assert BASIC in proxy.heads[0]
        assert server.connections == 1


def test_a_tls_request_goes_through_a_tunnel_that_does_not_see_it(
    client_of: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    with proxying() as proxy:
        http = client_of(secure.url, proxy=proxy.url, tls=trust)
        assert [get(http), get(http)] == [b"yes", b"yes"]
        target = f"127.0.0.1:{secure.port}".encode()
        asked = b"CONNECT " + target + b" HTTP/1.1\r\nhost: " + target + b"\r\n" + BASIC + b"\r\n"
        assert proxy.heads == [asked]
        assert "proxy-authorization" not in secure.asked[0].headers


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\nbody",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"nonsense",
        b"x" * 100_000,
    ],
)
def test_a_proxy_that_opens_no_way_is_unavailable(
    client_of: Callable[..., HttpClient], answer: bytes, secure: Loopback, trust: SSLContext
) -> None:
    with proxying(answer) as proxy, pytest.raises(e.ProviderUnavailable, match="the proxy") as caught:
        get(client_of(secure.url, proxy=proxy.url, tls=trust))
    assert "p@ss" not in str(caught.value)


def test_a_proxy_that_hangs_meets_the_deadline(
    client_of: Callable[..., HttpClient], trust: SSLContext
) -> None:
    with listening(lambda _: gevent.sleep(S)) as port:
        http = client_of("https://127.0.0.1:1", proxy=f"http://127.0.0.1:{port}", tls=trust)
        with pytest.raises(e.ProviderTimeout):
            get(http, SHORT)


@pytest.mark.parametrize("proxy", ["socks5://x:1", "x:1", "https://x:1", "http://"])
def test_a_proxy_that_is_none_is_refused_at_once(client_of: Callable[..., HttpClient], proxy: str) -> None:
    with pytest.raises(ValueError, match="proxy"):
        client_of("http://x", proxy=proxy)


# -- anything at all ---------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"content-length: 5\r\n",
        b"content-length: 99999999999999999999\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip, chunked\r\n",
        b"content-encoding: gzip\r\n",
        b"connection: close\r\n",
        b": no name\r\n",
        b"folded: a\r\n b\r\n",
        b"\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"data: {}\n\n",
        b"\x1f\x8b\x08\x00",
        b"hello",
    ]
)


@given(said=st.lists(PIECES | st.binary(max_size=12), max_size=8), cut=st.integers(1, 40))
def test_whatever_a_server_says_is_an_answer_or_a_typed_error(said: list[bytes], cut: int) -> None:
    data = b"".join(said)

    def behave(talk: Talk) -> None:
        for at in range(0, len(data), cut):
            talk.say(data[at : at + cut])
        talk.end()

    with serving(behave) as server:
        http = HttpClient(server.url, SystemClock())
        for ask in (get, lambda http: list(http.events("/", b"", b"", S))):
            try:
                ask(http)
            except e.ProviderError:
                pass
        http.close()
        assert server.empty.wait(S)
        assert len(server.asked) == 2
