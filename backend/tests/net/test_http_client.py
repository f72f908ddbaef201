"""The pooled HTTP client by itself: requests, responses, pool, addresses, TLS and proxies."""

import errno
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
from tests.support.loopback import Exchange, Loopback, listening, replies, serving, wait_until

S = 20.0
SHORT = 0.05


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving(replies(b"yes")) as server:
        yield server


def get(http: HttpClient, timeout: float = S) -> bytes:
    return http.get("/", b"", timeout).body


@pytest.fixture
def make_client() -> Iterator[Callable[..., HttpClient]]:
    """A factory of clients, which are closed after the test."""
    clients: list[HttpClient] = []

    def make(url: str, clock: Clock | None = None, **options: Any) -> HttpClient:
        clients.append(HttpClient(url, clock or SystemClock(), **options))
        return clients[-1]

    yield make
    for http in clients:
        http.close()


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_has_its_path_body_and_headers(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    http = make_client(server.url + "/v1/")
    http.post("/x?alt=sse", b"body", header_lines({"a": "b"}), S)
    request = server.requests[0]
    assert request.line == "POST /v1/x?alt=sse HTTP/1.1"
    assert request.body == b"body"
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "user-agent": "knowalledge",
        "a": "b",
        "content-length": "4",
    }


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\n", "\x00", "é", "a\x7f"])
def test_a_header_cannot_contain_line_breaks_or_other_control_characters(value: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        header_lines({"authorization": value})
    with pytest.raises(ValueError, match="cannot be sent"):
        header_lines({value: "x"})


def test_an_invalid_header_is_reported_without_its_value() -> None:
    with pytest.raises(ValueError, match="authorization") as caught:
        header_lines({"authorization": "secret\n"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOMEM])
def test_what_this_machine_lacks_is_not_the_providers_fault(
    make_client: Callable[..., HttpClient],
    server: Loopback,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, "no more")

    monkeypatch.setattr(wire, "_connect", fail)
    with pytest.raises(e.HostExhausted):
        get(make_client(server.url))


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "nothing", "//x", "http://x:99999"])
def test_a_malformed_base_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - urlsplit has texts of its own
        Endpoint(url)


def test_sending_a_large_request_respects_the_deadline(
    make_client: Callable[..., HttpClient],
) -> None:
    with listening(lambda _: gevent.sleep(S)) as port:
        http = make_client(f"http://127.0.0.1:{port}")
        with pytest.raises(e.ProviderTimeout):
            http.post("/", b"x" * 32 * 2**20, b"", SHORT)


# -- responses ---------------------------------------------------------------------------------------------------------


def test_header_names_are_lower_case_and_values_may_be_empty_or_not_ascii(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    server.handler = lambda exchange: exchange.send(
        b"HTTP/1.1 200 OK\r\nEmpty:\r\nX-One: 1\r\nX-Odd: \xff\r\nTwo: a\r\ntwo: b\r\ncontent-length: 0\r\n\r\n"
    )
    headers = make_client(server.url).get("/", b"", S).headers
    assert headers == {"empty": "", "x-one": "1", "x-odd": "ÿ", "two": "b", "content-length": "0"}


def test_interim_responses_are_skipped(make_client: Callable[..., HttpClient], server: Loopback) -> None:
    server.handler = lambda exchange: exchange.send(
        b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: z\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"
    )
    response = make_client(server.url).get("/", b"", S)
    assert (response.body, response.headers) == (b"yes", {"content-length": "3"})


def test_a_response_of_unknown_length_ends_with_its_connection(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n\r\nye")
        gevent.sleep(0)
        exchange.send(b"s")
        exchange.close_after()

    server.handler = handle
    http = make_client(server.url)
    assert [get(http), get(http)] == [b"yes", b"yes"]
    assert server.connections == 2


def test_trailers_are_not_headers(make_client: Callable[..., HttpClient], server: Loopback) -> None:
    server.handler = lambda exchange: exchange.send(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\nretry-after: 9\r\nx: y\r\n\r\n"
    )
    http = make_client(server.url)
    assert http.get("/", b"", S).headers == {"transfer-encoding": "chunked"}
    assert get(http) == b"yes"
    assert server.connections == 1


def test_a_second_response_to_one_request_is_never_taken_for_the_next_one(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    """Otherwise one caller would receive another's response."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    server.handler = lambda exchange: exchange.send(head + b"yes" + head + b"bad")
    http = make_client(server.url)
    with pytest.raises(e.ProviderGarbage):
        get(http)

    def late(exchange: Exchange) -> None:
        exchange.send(head + b"yes")
        received.wait()
        exchange.send(head + b"bad")
        sent.set()

    received, sent = Event(), Event()
    server.handler = late
    assert get(http) == b"yes"
    received.set()
    sent.wait()
    server.handler = replies(b"mine")
    assert get(http) == b"mine"


def test_a_connection_that_the_server_will_close_is_not_reused(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    server.handler = replies(b"yes", connection="close")
    http = make_client(server.url)
    assert [get(http), get(http)] == [b"yes", b"yes"]
    assert server.connections == 2


def test_a_response_before_the_end_of_the_request_is_read(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    """Servers respond early to a body that is too large."""

    def refuses(sock: socket) -> None:
        sock.recv(1024)
        sock.sendall(b"HTTP/1.1 413 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        while sock.recv(65536):
            pass

    with listening(refuses) as port:
        http = make_client(f"http://127.0.0.1:{port}")
        assert http.post("/", b"x" * 4 * 2**20, b"", S).status == 413


# -- the pool ----------------------------------------------------------------------------------------------------------


def test_the_pool_is_bounded_and_waiting_for_a_connection_respects_the_deadline(
    make_client: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_CONNECTIONS", 2)
    http = make_client(server.url)
    server.handler = Exchange.hang
    hanging = [gevent.spawn(get, http) for _ in range(2)]
    while server.open_connections < 2:
        gevent.sleep(0.001)
    with pytest.raises(e.ProviderTimeout, match="no connection"):
        get(http, SHORT)
    gevent.killall(hanging)
    server.handler = replies(b"yes")
    assert get(http) == b"yes"  # each killed call has released its slot


def test_no_failure_costs_the_pool_a_slot(
    make_client: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_CONNECTIONS", 1)
    http = make_client(server.url)
    refusing = lambda exchange: exchange.respond(b"no", 500)  # noqa: E731
    for handler in (
        Exchange.hang,
        Exchange.close_after,
        Exchange.reset,
        refusing,
        lambda exchange: exchange.send(b"\xff\r\n\r\n"),
    ):
        server.handler = handler
        for call in (get, lambda http, timeout: list(http.events("/", b"", b"", timeout))):
            try:
                call(http, SHORT)
            except e.ProviderError:
                pass
    stream = http.events("/", b"", b"", S)
    server.handler = lambda exchange: (
        exchange.start_stream(),
        exchange.send_chunk(b"data: 1\n\n"),
        exchange.hang(),
    )
    next(stream)
    stream.close()
    server.handler = replies(b"yes")
    assert get(http) == b"yes"


def test_connections_that_idle_too_long_are_closed(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    clock = ManualClock()
    http = make_client(server.url, clock)
    gevent.joinall([gevent.spawn(get, http) for _ in range(5)], raise_error=True)
    assert server.open_connections == 5
    clock.time += IDLE_S + 1
    get(http)  # reuses the newest; the others have been idle too long
    wait_until(lambda: server.open_connections == 1)


def test_a_deadline_ends_with_its_call(make_client: Callable[..., HttpClient], server: Loopback) -> None:
    http = make_client(server.url)
    get(http, SHORT)
    server.handler = lambda exchange: (gevent.sleep(2 * SHORT), exchange.respond(b"later"))
    assert get(http) == b"later"
    assert server.connections == 1


def test_closing_the_client_closes_idle_connections(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    http = make_client(server.url)
    gevent.joinall([gevent.spawn(get, http) for _ in range(3)], raise_error=True)
    http.close()
    assert server.idle.wait(S)


def test_a_late_close_of_a_reused_connection_is_a_failure_not_a_race(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    """The server may have processed the request, and charged it."""
    clock = ManualClock()
    http = make_client(server.url, clock)

    def closes_late(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.respond(b"yes")
        else:
            clock.time += 2 * RACE_S
            exchange.close_after()

    server.handler = closes_late
    get(http)
    with pytest.raises(e.ProviderUnavailable):
        get(http)
    assert len(server.requests) == 2


def test_threads_do_not_share_connections(make_client: Callable[..., HttpClient], server: Loopback) -> None:
    """A gevent socket works only in the thread of its hub. gevent's thread pool has real threads."""
    http = make_client(server.url)
    get(http)
    body = gevent.get_hub().threadpool.apply(lambda: (get(http), http.close())[0])
    assert (body, get(http)) == (b"yes", b"yes")
    assert server.connections == 2


# -- addresses ---------------------------------------------------------------------------------------------------------


def test_the_next_address_is_tried_when_one_refuses(
    make_client: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two(host: str, port: int, family: int, kind: int) -> list[object]:
        return [(2, 1, 6, "", ("127.0.0.2", 1)), (2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(wire, "getaddrinfo", two)
    assert get(make_client(f"http://somewhere:{server.port}")) == b"yes"


def test_an_ipv6_address_works(make_client: Callable[..., HttpClient]) -> None:
    try:
        with serving(replies(b"yes"), family="::1") as server:
            assert get(make_client(server.url)) == b"yes"
            assert server.requests[0].headers["host"] == f"[::1]:{server.port}"
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")


def test_a_silent_address_is_unavailable_while_time_is_left_for_another_target(
    make_client: Callable[..., HttpClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow(*_: object) -> list[object]:
        gevent.sleep(S)
        return []

    monkeypatch.setattr(wire, "getaddrinfo", slow)
    monkeypatch.setattr(wire, "CONNECT_TIMEOUT_S", SHORT)
    http = make_client("http://somewhere")
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
    with serving(replies(b"yes"), tls=context) as server:
        yield server


@pytest.fixture
def trust(certificate: Path) -> SSLContext:
    from ssl import PROTOCOL_TLS_CLIENT

    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    return context


def test_tls_connections_are_reused_replaced_and_timed_out_like_plain_ones(
    make_client: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    http = make_client(secure.url, tls=trust)
    assert [get(http) for _ in range(5)] == [b"yes"] * 5
    assert secure.connections == 1
    secure.drop()
    gevent.sleep(0.01)
    assert get(http) == b"yes"
    secure.handler = Exchange.hang
    with pytest.raises(e.ProviderTimeout):
        get(http, SHORT)
    secure.handler = lambda exchange: (
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nyes"),
        exchange.close_after(),
    )
    with pytest.raises(e.ProviderGarbage):
        get(http)
    assert secure.idle.wait(S)


def test_a_full_tls_record_is_read_completely(
    make_client: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    secure.handler = replies(bytes(16_000))
    assert len(get(make_client(secure.url, tls=trust), S)) == 16_000


def test_a_certificate_of_an_unknown_authority_is_rejected(
    make_client: Callable[..., HttpClient], secure: Loopback
) -> None:
    with pytest.raises(e.ProviderUnavailable, match="no secure connection"):
        get(make_client(secure.url))
    assert not secure.requests


def test_a_certificate_for_another_name_is_rejected(
    make_client: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    with pytest.raises(e.ProviderUnavailable, match="no secure connection"):
        get(make_client(f"https://localhost:{secure.port}", tls=trust))
    assert not secure.requests


def test_a_server_without_tls_is_unavailable_or_times_out(
    make_client: Callable[..., HttpClient], trust: SSLContext
) -> None:
    def silent(sock: socket) -> None:
        gevent.sleep(S)

    def plain(sock: socket) -> None:
        sock.sendall(b"HTTP/1.1 400 This is not TLS\r\n\r\n")

    for handle, kind, timeout in ((silent, e.ProviderTimeout, SHORT), (plain, e.ProviderUnavailable, S)):
        with listening(handle) as port, pytest.raises(kind):
            get(make_client(f"https://127.0.0.1:{port}", tls=trust), timeout)


# -- proxies -----------------------------------------------------------------------------------------------------------


class Proxy(NamedTuple):
    """A proxy that opens tunnels and forwards plain requests. ``heads``: of the requests it received."""

    url: str
    heads: list[bytes]


@contextmanager
def proxying(refusal: bytes = b"") -> Iterator[Proxy]:
    heads: list[bytes] = []

    def serve(client_side: socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client_side.recv(65536)
        heads.append(head)
        if refusal:
            client_side.sendall(refusal)
            return
        host, _, port = head.split(b" ")[1].removeprefix(b"http://").split(b"/")[0].rpartition(b":")
        with create_connection((host.decode(), int(port))) as server_side:
            if head.startswith(b"CONNECT"):
                client_side.sendall(b"HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n")
            else:
                server_side.sendall(head)
            back = gevent.spawn(_pump, server_side, client_side)
            try:
                _pump(client_side, server_side)
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
        pass  # one side disconnected


BASIC = b"proxy-authorization: Basic dXMgZXI6cEBzcw==\r\n"  # us er:p@ss


def test_a_plain_request_through_a_proxy_has_the_whole_url(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    with proxying() as proxy:
        http = make_client(server.url + "/v1", proxy=proxy.url)
        assert [get(http), get(http)] == [b"yes", b"yes"]
        host = f"127.0.0.1:{server.port}"
        assert proxy.heads[0].startswith(f"GET http://{host}/v1/ HTTP/1.1\r\nhost: {host}".encode())
        assert BASIC in proxy.heads[0]
        assert server.connections == 1


def test_a_tls_request_goes_through_a_tunnel_that_cannot_read_it(
    make_client: Callable[..., HttpClient], secure: Loopback, trust: SSLContext
) -> None:
    with proxying() as proxy:
        http = make_client(secure.url, proxy=proxy.url, tls=trust)
        assert [get(http), get(http)] == [b"yes", b"yes"]
        target = f"127.0.0.1:{secure.port}".encode()
        connect = b"CONNECT " + target + b" HTTP/1.1\r\nhost: " + target + b"\r\n" + BASIC + b"\r\n"
        assert proxy.heads == [connect]
        assert "proxy-authorization" not in secure.requests[0].headers


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\nbody",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"nonsense",
        b"x" * 100_000,
    ],
)
def test_a_proxy_that_opens_no_tunnel_is_unavailable(
    make_client: Callable[..., HttpClient], response: bytes, secure: Loopback, trust: SSLContext
) -> None:
    with proxying(response) as proxy, pytest.raises(e.ProviderUnavailable, match="the proxy") as caught:
        get(make_client(secure.url, proxy=proxy.url, tls=trust))
    assert "p@ss" not in str(caught.value)


def test_a_proxy_that_hangs_times_out(make_client: Callable[..., HttpClient], trust: SSLContext) -> None:
    with listening(lambda _: gevent.sleep(S)) as port:
        http = make_client("https://127.0.0.1:1", proxy=f"http://127.0.0.1:{port}", tls=trust)
        with pytest.raises(e.ProviderTimeout):
            get(http, SHORT)


@pytest.mark.parametrize("proxy", ["socks5://x:1", "x:1", "https://x:1", "http://"])
def test_a_malformed_proxy_url_is_rejected_at_once(
    make_client: Callable[..., HttpClient], proxy: str
) -> None:
    with pytest.raises(ValueError, match="proxy"):
        make_client("http://x", proxy=proxy)


# -- arbitrary bytes ---------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
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


@given(parts=st.lists(FRAGMENTS | st.binary(max_size=12), max_size=8), cut=st.integers(1, 40))
def test_any_bytes_of_a_server_are_a_response_or_a_typed_error(parts: list[bytes], cut: int) -> None:
    data = b"".join(parts)

    def handle(exchange: Exchange) -> None:
        for at in range(0, len(data), cut):
            exchange.send(data[at : at + cut])
        exchange.close_after()

    with serving(handle) as server:
        http = HttpClient(server.url, SystemClock())
        for call in (get, lambda http: list(http.events("/", b"", b"", S))):
            try:
                call(http)
            except e.ProviderError:
                pass
        http.close()
        assert server.idle.wait(S)
        assert len(server.requests) == 2
